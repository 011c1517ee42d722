"""Whether a provider may be called: pure, the time is given (epoch seconds).

Closed, calls are made. A 429, a row of 5xx or an unreadable answer opens it until a time; after that one call is let
through, and its end closes the circuit or opens it for twice as long.
"""

from __future__ import annotations

import math

import msgspec

FIRST_S = 60
MAX_S = 4 * 3600
HINT_MAX_S = 86_400
"""A vendor that names a longer pause is asked once a day all the same."""
AHEAD_S = HINT_MAX_S + 3600
"""A later end was written while our clock was ahead; the hour is for clocks that differ and for a long pass."""
ASKED_WITHIN_S = 1_800
"""Two quarters: whoever is needed is asked again by then once its pause is over."""


class Circuit(msgspec.Struct, frozen=True):
    """State of one provider; `failures` in a row, `open_until` epoch seconds."""

    failures: int = 0
    open_until: int = 0
    error: str = ""

    def is_open(self, now_s: int) -> bool:
        """Is the provider to be left alone? A later end than any pause's was written while our clock was ahead."""
        return now_s < self.open_until <= now_s + AHEAD_S

    def is_failing(self, now_s: int) -> bool:
        """Did the last call fail? An old failure of one that nobody needed since says nothing any more."""
        return self.failures > 0 and now_s - ASKED_WITHIN_S < self.open_until <= now_s + AHEAD_S

    def is_on_trial(self) -> bool:
        """Did the last call fail, so that the next one is a single try?"""
        return self.failures > 0

    def fail(self, now_s: int, hint_s: float | None, error: str) -> Circuit:
        """After a failure; `hint_s` is the pause that the vendor asked for (Retry-After)."""
        own_s = min(MAX_S, FIRST_S * 2 ** min(self.failures, 20))
        # Up, and a second more, which our time in whole ones has lost: never earlier than the vendor asked for.
        pause_s = own_s if hint_s is None else min(HINT_MAX_S, math.ceil(max(0.0, min(HINT_MAX_S, hint_s))) + 1)
        return Circuit(self.failures + 1, now_s + pause_s, error)

    def succeed(self) -> Circuit:
        """After an answer."""
        return Circuit()
