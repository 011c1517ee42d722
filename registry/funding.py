"""Settlements that a venue should show and does not. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

HOUR_MS = 3_600_000
USUAL_HOURS = (1, 2, 4, 8)
SAME_MIN = 3
"""So many equal steps one after the other are an interval that was in force, not the same hole again and again."""


def count_funding_gaps(settled_ms: Iterable[int], every_h: int, from_ms: int, to_ms: int) -> int:
    """Count settlements missing in [from_ms, to_ms]; times are those the venue shows, a few ms past their hours.

    `every_h` is the interval in force now. A venue may change it: back in time another usual interval is believed
    where at least three steps in a row have its length.
    """
    first_h, last_h = -(-from_ms // HOUR_MS), to_ms // HOUR_MS
    hours = sorted(h for h in {round(ms / HOUR_MS) for ms in settled_ms} if first_h <= h <= last_h)
    if not hours:
        return _grid(first_h, last_h, every_h)
    steps = [later - earlier for earlier, later in itertools.pairwise(hours)]
    missing = _grid(hours[-1] + 1, last_h, every_h)
    in_force = every_h
    for i in range(len(steps) - 1, -1, -1):
        step = steps[i]
        if step < in_force or (step > in_force and _was_in_force(steps[: i + 1], step)):
            in_force = step
        missing += max(0, -(-step // in_force) - 1)
    return missing + _grid(first_h, hours[0] - 1, in_force)


def _grid(first_h: int, last_h: int, every_h: int) -> int:
    """How many hours of [first_h, last_h] divide by the interval: settlements fall on these."""
    return max(0, last_h // every_h - (first_h - 1) // every_h)


def _was_in_force(steps: list[int], step: int) -> bool:
    return step in USUAL_HOURS and len(steps) >= SAME_MIN and all(one == step for one in steps[-SAME_MIN:])
