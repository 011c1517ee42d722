"""The order of fills: by time, and within one millisecond by what each of them started from. Pure.

The venue gives all fills of a block one time, and two listeners bring them in any order. Each fill leads from its
`start` to its `end`, so the fills of one (account, coin, time) are the steps of one walk through position sizes.

An account that traded with itself (the venue allowed it in 2023) has both sides of the trade, both starting from the
same size: mirrors. Together they move nothing. A fill with a `tid` is never taken for one: the venue prevents them now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import groupby, pairwise

import msgspec

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
        steps = _chain(list(same_time), position)
        ordered += [fill for each in steps for fill in each.fills]
        position = steps[-1].end
    return ordered


def is_mirror(one: Fill, other: Fill) -> bool:
    """Say whether two fills are the two sides of one trade of an account with itself."""
    return (
        one.tid is None
        and other.tid is None
        and one.buy is not other.buy
        and one.start == other.start
        and (one.time_ms, one.px, one.sz, one.hash) == (other.time_ms, other.px, other.sz, other.hash)
    )


def step(before: Fill | None, position: int | None, fill: Fill) -> int | None:
    """Where the position stands after `fill`, which follows `before`; None where it does not continue `position`.

    An unknown position is continued by every fill.
    """
    if before is not None and position == before.end and is_mirror(before, fill):
        return fill.start
    return fill.end if position is None or fill.start == position else None


def follow(fills: Iterable[Fill], position: int) -> int | None:
    """Where fills in this order lead from `position`; None if one does not start where the one before it ended."""
    before: Fill | None = None
    for fill in fills:
        after = step(before, position, fill)
        if after is None:
            return None
        # Once paired, a fill is no longer open to a third side.
        before = fill if after == fill.end else None
        position = after
    return position


def comes_by(fills: Iterable[Fill], position: int, size: int) -> bool:
    """Say whether fills in this order lead from `position` to `size` without a break; what follows does not matter."""
    for fill in fills:
        if fill.start != position:
            return False
        position = fill.end
        if position == size:
            return True
    return False


def _chain(fills: list[Fill], position: int | None) -> list[_Step]:
    walks = _walks(fills, position)
    if position is None or _is_unbroken(walks):
        return walks
    # Our position may be an old one that the walk only comes by: what chains whole has one order.
    whole = _walks(fills, None)
    return whole if _is_unbroken(whole) else walks


def _is_unbroken(walks: list[_Step]) -> bool:
    return all(one.end == other.start for one, other in pairwise(walks))


def _walks(fills: list[Fill], position: int | None) -> list[_Step]:
    steps: dict[int, deque[_Step]] = {}
    for each in _pair(fills):
        steps.setdefault(each.start, deque()).append(each)
    walks: list[_Step] = []
    while steps:
        walks += _walk_whole(steps, _first_start(steps, position))
        position = walks[-1].end
    return walks


class _Step(msgspec.Struct, frozen=True):
    """One fill, or the two sides of a trade with oneself, which end where they start."""

    start: int
    end: int
    fills: tuple[Fill, ...]


def _pair(fills: list[Fill]) -> list[_Step]:
    steps: list[_Step] = []
    rest = deque(fills)
    while rest:
        fill = rest.popleft()
        mirror = next((other for other in rest if is_mirror(fill, other)), None) if fill.tid is None else None
        if mirror is None:
            steps.append(_Step(fill.start, fill.end, (fill,)))
        else:
            rest.remove(mirror)
            steps.append(_Step(fill.start, fill.start, (fill, mirror)))
    return steps


def _first_start(steps: dict[int, deque[_Step]], position: int | None) -> int:
    """Where the next walk begins: here, else where more steps start than end, else at the first one."""
    if position is not None and position in steps:
        return position
    surplus = {start: len(several) for start, several in steps.items()}
    for several in steps.values():
        for each in several:
            surplus[each.end] = surplus.get(each.end, 0) - 1
    # A dict keeps the order in which sizes were first started from, which is the feed's.
    return next((start for start in steps if surplus[start] > 0), next(iter(steps)))


def _walk_whole(steps: dict[int, deque[_Step]], start: int) -> list[_Step]:
    """Walk from `start`, with every detour that returns to where it left; those that do not return come after."""
    walk, aside = _walk(steps, start), list[_Step]()
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
    return walk + aside


def _walk(steps: dict[int, deque[_Step]], size: int) -> list[_Step]:
    """Take steps until none leads on, removing them."""
    walk: list[_Step] = []
    while size in steps:
        each = steps[size].popleft()
        if not steps[size]:
            del steps[size]
        walk.append(each)
        size = each.end
    return walk
