"""Whose open interest is asked in which window, inside the venue's weight budget. Pure."""

from __future__ import annotations

from collections.abc import Sequence

ROTATING_SHARE = 5
"""When not all fit, one call in so many goes round among the least liquid."""


def window_capacity(weight_per_min: int, used_otherwise_per_min: int, windows_per_min: int = 4) -> int:
    """How many calls of weight 1 fit into one window, after what is spent otherwise."""
    return max(0, (weight_per_min - used_otherwise_per_min) // windows_per_min)


def choose_asked(ranked: Sequence[str], capacity: int, turn: int) -> list[str]:
    """Symbols to ask in window number `turn`; `ranked` begins with the most liquid one.

    All when they fit. Else the most liquid are asked every time and the rest take turns, so that each is asked once in
    every so many windows; who is not asked has no value.
    """
    if len(ranked) <= capacity:
        return list(ranked)
    if capacity == 0:
        return []
    rotating = max(1, capacity // ROTATING_SHARE)
    always, rest = ranked[: capacity - rotating], ranked[capacity - rotating :]
    start = turn * rotating % len(rest)
    return [*always, *(rest[(start + step) % len(rest)] for step in range(rotating))]
