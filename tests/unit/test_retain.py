"""Which old chunks go."""

from __future__ import annotations

import datetime as dt

import pytest

from ops.retain import Chunk, OpenGap, part_chunks

DAY = dt.timedelta(days=1)
D0 = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def chunks(count: int) -> list[Chunk]:
    return [Chunk(D0 + i * DAY, D0 + (i + 1) * DAY, 10) for i in range(count)]


@pytest.mark.parametrize(
    ("from_h", "to_h", "kept"),
    [
        (25, 26, [1]),
        (23, 25, [0, 1]),
        (24, 24, [1]),  # it begins in the chunk, and its end is not known
        (20, 24, [0, 1]),  # its last trade is the first moment of the next day
        (-50, -1, []),
        (72, 80, []),
    ],
)
def test_only_chunks_that_an_open_gap_touches_are_kept(from_h: int, to_h: int, kept: list[int]) -> None:
    gap = OpenGap("XUSDT", D0 + dt.timedelta(hours=from_h), D0 + dt.timedelta(hours=to_h))
    drop, left = part_chunks(chunks(3), [gap])
    assert [c for c, _ in left] == [chunks(3)[i] for i in kept]
    assert sorted([*drop, *(c for c, _ in left)], key=lambda c: c.from_time) == chunks(3)
    assert all(g is gap for _, g in left)


def test_without_gaps_all_go() -> None:
    assert part_chunks(chunks(3), []) == (chunks(3), [])
