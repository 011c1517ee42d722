"""How many calls a provider still allows: pure; times in epoch seconds.

Vendors do not say when their day begins. Calls are counted by the hour in which they were made, and every hour that
may touch the last `window_s` counts in full: then no window of that length, wherever it begins, holds more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

HOUR_S = 3600


class Quota(msgspec.Struct, frozen=True):
    """At most `calls_max` calls in any `window_s` seconds, a whole number of hours."""

    window_s: int
    calls_max: int


def hour_of(time_s: int) -> int:
    """Start of the hour."""
    return time_s - time_s % HOUR_S


def calls_left(quotas: Iterable[Quota], calls: Mapping[int, int], now_s: int) -> int | None:
    """How many calls may be made now, by the tightest quota; None when there is none.

    `calls`: calls made, by the start of their hour. Those of the future were counted while our clock was ahead: nobody
    waits for them, but for the next hour, into which two processes' clocks may differ.
    """
    left: int | None = None
    last = hour_of(now_s) + HOUR_S
    for quota in quotas:
        first = hour_of(now_s) - quota.window_s
        room = max(0, quota.calls_max - sum(n for hour, n in calls.items() if first <= hour <= last))
        left = room if left is None else min(left, room)
    return left


def longest_window_s(quotas: Iterable[Quota]) -> int:
    """How far back calls have to be known."""
    return max((quota.window_s for quota in quotas), default=0)
