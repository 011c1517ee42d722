"""The order of fills: by time, and within one millisecond by what each of them started from. Pure.

The venue gives all fills of a block one time, and two listeners bring them in any order. Each fill leads from its
`start` to its `end`, so the fills of one (account, coin, time) are the steps of one walk through position sizes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import groupby

from influencer_ingestor.events import Fill


def order_fills(fills: Iterable[Fill], position: int | None = None) -> list[Fill]:
    """Order the fills of one (account, coin) that follow `position` (None: not known).

    Within one time every fill begins where the one before it ended, if there is any order in which they do. Where a
    size was reached more than once the feed's order (the order given) decides. If they do not chain, the walk that
    begins at `position` comes first, then walks that begin where no other fill ended, in the feed's order: each break
    between two walks is a gap for `gaps.Chain` to see.
    """
    ordered: list[Fill] = []
    for _, same_time in groupby(sorted(fills, key=lambda fill: fill.time_ms), key=lambda fill: fill.time_ms):
        for fill in _chain(list(same_time), position):
            ordered.append(fill)
            position = fill.end
    return ordered


def count_breaks(fills: Iterable[Fill], position: int | None = None) -> int:
    """How many of the fills, in this order, do not start where the one before them ended."""
    breaks = 0
    for fill in fills:
        breaks += position is not None and fill.start != position
        position = fill.end
    return breaks


def _chain(fills: list[Fill], position: int | None) -> list[Fill]:
    if len(fills) == 1:
        return fills
    steps: dict[int, deque[Fill]] = {}
    for fill in fills:
        steps.setdefault(fill.start, deque()).append(fill)
    walks: list[Fill] = []
    while steps:
        walk, aside = _walk_whole(steps, _first_start(steps, position))
        walks += walk + aside
        position = walks[-1].end
    return walks


def _first_start(steps: dict[int, deque[Fill]], position: int | None) -> int:
    """Where the next walk begins: here, else where more fills start than end, else at the first one."""
    if position is not None and position in steps:
        return position
    surplus = {start: len(fills) for start, fills in steps.items()}
    for fills in steps.values():
        for fill in fills:
            surplus[fill.end] = surplus.get(fill.end, 0) - 1
    # A dict keeps the order in which sizes were first started from, which is the feed's.
    return next((start for start in steps if surplus[start] > 0), next(iter(steps)))


def _walk_whole(steps: dict[int, deque[Fill]], start: int) -> tuple[list[Fill], list[Fill]]:
    """Walk from `start`, with every detour that returns to where it left; detours that do not return come aside."""
    walk, aside = _walk(steps, start), list[Fill]()
    at = 0
    while at <= len(walk):
        size = walk[at].start if at < len(walk) else walk[-1].end
        if size not in steps:
            at += 1
            continue
        detour = _walk(steps, size)
        if detour[-1].end == size:
            walk[at:at] = detour
        else:
            aside += detour
    return walk, aside


def _walk(steps: dict[int, deque[Fill]], size: int) -> list[Fill]:
    """Take steps until none leads on, removing them."""
    walk: list[Fill] = []
    while size in steps:
        fill = steps[size].popleft()
        if not steps[size]:
            del steps[size]
        walk.append(fill)
        size = fill.end
    return walk
