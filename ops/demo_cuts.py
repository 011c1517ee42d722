"""When the venue of a demo is cut, and how its clock is set so that minutes end within the cuts. Pure."""

from __future__ import annotations

import msgspec

MINUTE_MS = 60_000


class Cut(msgspec.Struct, frozen=True):
    """One cut of the primary, in real seconds after the demo began.

    `minute_s` after its start a minute of venue time ends; for that it is moved by at most `reach_s`.
    """

    after_s: float
    for_s: float
    minute_s: float
    reach_s: float


SHORT = Cut(after_s=15.0, for_s=6.0, minute_s=2.0, reach_s=8.0)
"""A bar is closed without its last trades, and revised once they are back."""
LONG = Cut(after_s=64.0, for_s=20.0, minute_s=13.0, reach_s=30.0)
"""The fallback speaks after 5 s; 7 s after the end of the minute its candle (settled after 3 s) has been told."""


def choose_cuts(seconds: float | None) -> tuple[Cut, ...]:
    """The cuts of a demo that lasts so long (None: until it is stopped); a short one has the short cut, earlier."""
    if seconds is None or seconds >= LONG.after_s + LONG.for_s:
        return SHORT, LONG
    return (msgspec.structs.replace(SHORT, after_s=min(SHORT.after_s, seconds / 3)),)


def plan_start(now_ms: int, cut: Cut, prepare_ms: int = 0) -> int:
    """Venue time (ms) to start at, at most a minute ago: a minute then ends within the cut.

    `prepare_ms` is what passes between the venue's start and the demo's beginning, from which cuts are counted.
    """
    return now_ms - (now_ms + prepare_ms + round(1000 * (cut.after_s + cut.minute_s))) % MINUTE_MS


def plan_cut(began_ms: int, cut: Cut) -> int:
    """Venue time (ms) of the cut: around the end of a minute if one is within reach, else as planned."""
    planned_ms, minute_ms = began_ms + round(1000 * cut.after_s), round(1000 * cut.minute_s)
    aligned_ms = round((planned_ms + minute_ms) / MINUTE_MS) * MINUTE_MS - minute_ms
    return aligned_ms if abs(aligned_ms - planned_ms) <= 1000 * cut.reach_s else planned_ms
