"""Time: the only place that reads the wall clock, and the one rule by which venue time may run faster than ours."""

from __future__ import annotations

import time


class Clock:
    """Our clocks, and how fast venue time runs against them.

    `rate` (CLOCK_RATE; tests and tapes only) is venue seconds per second of ours. It scales limits that are counted in
    venue time (lateness, blindness, settling) and nothing else: network timeouts stay in real seconds.
    `offset_s` is added to the wall clock, for a machine whose clock is known to be wrong and for tapes of the past.
    """

    def __init__(self, rate: float = 1.0, offset_s: float = 0.0) -> None:
        if rate <= 0:
            raise ValueError(f"clock rate must be positive, not {rate}")
        self.rate = rate
        # For what has to keep this clock's time without asking it: a scheduler.
        self.offset_ms = round(offset_s * 1000)

    def wall_ms(self) -> int:
        """Epoch milliseconds by this machine, corrected by the offset; never a base for deciding about venue data."""
        return time.time_ns() // 1_000_000 + self.offset_ms

    def monotonic_s(self) -> float:
        """Seconds that never jump; only differences mean something."""
        return time.monotonic()

    def venue_s(self, real_s: float) -> float:
        """How many seconds venue time moves on while `real_s` seconds of ours pass."""
        return real_s * self.rate

    def real_s(self, venue_s: float) -> float:
        """How many seconds of ours a venue-time limit lasts."""
        return venue_s / self.rate

    def venue_elapsed_ms(self, mono_from_s: float, mono_to_s: float) -> float:
        """Milliseconds of venue time between two readings of `monotonic_s`."""
        return (mono_to_s - mono_from_s) * self.rate * 1000
