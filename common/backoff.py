"""How long to wait before the next try, and how many tries a while may hold."""

from __future__ import annotations

import random
from collections import deque
from email.utils import parsedate_to_datetime

_DOUBLINGS_MAX = 60
_DELAY_DIGITS_MAX = 9


def full_jitter(attempt: int, first_s: float, max_s: float, rng: random.Random) -> float:
    """Seconds to wait before try number `attempt` + 1 (attempt 0 is the first that failed).

    Uniform between 0 and a ceiling that doubles from `first_s` up to `max_s`: clients that were cut together do not
    come back together.
    """
    ceiling = min(max_s, first_s * 2 ** min(max(attempt, 0), _DOUBLINGS_MAX))
    return rng.uniform(0, ceiling)


def parse_retry_after(value: str | None, wall_ms: int) -> float | None:
    """Read a Retry-After header, seconds or an HTTP date, as seconds from now (at least 1); None when there is none.

    A value nobody can read is as good as none.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return max(1.0, float(value[:_DELAY_DIGITS_MAX]))
    try:
        at_s = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(1.0, at_s - wall_ms / 1000)


class AttemptBudget:
    """At most `attempts_max` tries in any `window_s` seconds; pure, the time is given (monotonic seconds).

    Binance bans an address that opens more than 300 connections in 5 minutes, so one budget serves all
    connections of a process to one host.
    """

    def __init__(self, attempts_max: int = 300, window_s: float = 300.0) -> None:
        self._max = attempts_max
        self._window_s = window_s
        self._taken: deque[float] = deque(maxlen=attempts_max)

    def reserve(self, now_s: float) -> float:
        """Take the next place; returns the seconds to wait until it comes, 0 when it is there."""
        at_s = now_s
        if len(self._taken) == self._max:
            at_s = max(now_s, self._taken[0] + self._window_s)
        self._taken.append(at_s)
        return at_s - now_s
