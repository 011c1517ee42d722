"""How long to wait before the next try, and how many tries a while may hold."""

from __future__ import annotations

import random
from collections import deque

_DOUBLINGS_MAX = 60


def full_jitter(attempt: int, first_s: float, max_s: float, rng: random.Random) -> float:
    """Seconds to wait before try number `attempt` + 1 (attempt 0 is the first that failed).

    Uniform between 0 and a ceiling that doubles from `first_s` up to `max_s`: clients that were cut together do not
    come back together.
    """
    ceiling = min(max_s, first_s * 2 ** min(max(attempt, 0), _DOUBLINGS_MAX))
    return rng.uniform(0, ceiling)


class AttemptBudget:
    """At most `attempts_max` tries in any `window_s` seconds; pure, the time is given (monotonic seconds).

    Binance bans an address that opens more than 300 connections in 5 minutes, so one budget serves all
    connections of a process to one host.
    """

    def __init__(self, attempts_max: int = 300, window_s: float = 300.0) -> None:
        self._max = attempts_max
        self._window_s = window_s
        self._taken: deque[float] = deque(maxlen=attempts_max)

    def wait_s(self, now_s: float) -> float:
        """Seconds until one more try fits; 0 when it fits now."""
        if len(self._taken) < self._max:
            return 0.0
        return max(0.0, self._taken[0] + self._window_s - now_s)

    def take(self, now_s: float) -> None:
        """Note one try."""
        self._taken.append(now_s)
