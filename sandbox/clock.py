"""Venue time: one clock that everything the sandbox says and shows follows."""

from __future__ import annotations

import time


class VenueClock:
    """`start_ms` plus monotonic time, `speed` times faster; a held clock stands until it is released.

    `skew_ms` shifts only what the venue *tells* as now (`E`, serverTime), not its trades: a wrong clock at the venue.
    A clock that follows another shows its time and is held and released with it; only its skew is its own.
    """

    def __init__(self, start_ms: int, speed: float, held: bool = False, follow: VenueClock | None = None) -> None:
        self.start_ms = start_ms
        self.speed = speed
        self.skew_ms = 0
        self._t0 = None if held else time.monotonic()
        self._leader = follow

    def release(self) -> None:
        """Let a held clock run from now on."""
        if self._leader is not None:
            self._leader.release()
        elif self._t0 is None:
            self._t0 = time.monotonic()

    def now_ms(self) -> int:
        """Venue time in epoch milliseconds, whole milliseconds."""
        if self._leader is not None:
            return self._leader.now_ms()
        if self._t0 is None:
            return self.start_ms
        return self.start_ms + int((time.monotonic() - self._t0) * 1000 * self.speed)

    def told_ms(self) -> int:
        """Venue time as the venue tells it."""
        return self.now_ms() + self.skew_ms
