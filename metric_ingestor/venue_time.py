"""The futures venue's time, carried on by our monotonic clock between its answers. Pure.

Windows and skew are judged against it, never against this machine's wall clock.
"""

from __future__ import annotations

JUMP_MS_MAX = 5_000
"""An answer farther than this from what the last ones led to expect is doubted."""
WITNESSES = 3
"""So many doubted answers in a row that agree with each other are believed."""


class VenueTime:
    """Server time from answers: `rate` is venue seconds per second of ours."""

    def __init__(self, rate: float = 1.0) -> None:
        self._rate = rate
        self._known: tuple[float, float] | None = None
        self._rough = True
        self._doubted: list[tuple[float, float]] = []
        self.doubted_total = 0

    @property
    def known(self) -> bool:
        """Has anybody told the time?"""
        return self._known is not None

    def now_ms(self, mono_s: float) -> float:
        """Venue time at a reading of the monotonic clock; raises LookupError before anybody told it."""
        if self._known is None:
            raise LookupError("nobody has told the venue's time")
        return self._carry(self._known, mono_s)

    def observe(self, server_ms: float, asked_s: float, answered_s: float, heard_ms: float = 0.0) -> bool:
        """Take the server's answer; false when it is doubted.

        The answer is taken to be of the middle of the call. `heard_ms` is a time that the market has certainly
        reached (the newest watermark): a server far behind it is wrong.
        """
        reading = (float(server_ms), (asked_s + answered_s) / 2)
        if server_ms < heard_ms - JUMP_MS_MAX:
            self.doubted_total += 1
            return False
        if self._known is not None and not self._rough and self._distance(self._known, reading) > JUMP_MS_MAX:
            return self._doubt(reading)
        self._known, self._rough, self._doubted = reading, False, []
        return True

    def assume(self, heard_ms: float, mono_s: float) -> None:
        """Go by a watermark that just moved until the server tells the time itself; it can only be ahead of that."""
        if self._known is None or (self._rough and heard_ms > self.now_ms(mono_s)):
            self._known = (heard_ms, mono_s)

    def _doubt(self, reading: tuple[float, float]) -> bool:
        self.doubted_total += 1
        self._doubted = [one for one in self._doubted if self._distance(one, reading) <= JUMP_MS_MAX] + [reading]
        if len(self._doubted) < WITNESSES:
            return False
        self._known, self._doubted = reading, []
        return True

    def _carry(self, reading: tuple[float, float], mono_s: float) -> float:
        return reading[0] + 1000 * self._rate * (mono_s - reading[1])

    def _distance(self, earlier: tuple[float, float], later: tuple[float, float]) -> float:
        return abs(self._carry(earlier, later[1]) - later[0])
