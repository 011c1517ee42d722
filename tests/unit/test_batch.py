from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.batch import Batch, outranks
from common.contracts import LANE_LIVE, LANE_REPAIR, GapStatus, Retraction
from tests.rows import T0, make_bar, make_cursor, make_gap, make_second

BINANCE_PART, BINANCE_WHOLE = 2, 4


@pytest.mark.parametrize(
    ("newer", "older", "wins"),
    [
        ((4, 1), (4, 9), True),
        ((3, 9), (4, 1), False),
        ((2, 9), (4, 1), False),
        ((1, 9), (4, 1), False),
        ((4, 1), (3, 9), True),
        ((3, 1), (3, 9), True),
        ((2, 9), (3, 1), False),
        ((1, 9), (3, 1), False),
        ((4, 1), (2, 9), True),
        ((3, 1), (2, 9), True),
        ((2, 9), (2, 9), True),
        ((2, 8), (2, 9), False),
        ((1, 9), (2, 1), False),
        ((4, 1), (1, 9), True),
        ((3, 1), (1, 9), True),
        ((2, 1), (1, 9), True),
        ((1, 9), (1, 9), True),
        ((1, 8), (1, 9), False),
    ],
)
def test_winner_table(newer: tuple[int, int], older: tuple[int, int], wins: bool) -> None:
    row = make_bar(grade=newer[0], n=newer[1])
    assert outranks(row, make_bar(grade=older[0], n=older[1])) is wins


def test_later_write_to_a_key_replaces_the_waiting_one() -> None:
    batch = Batch()
    batch.put_bar(make_bar(c="1"))
    batch.put_bar(make_bar(c="2"))
    batch.put_footprint(make_second(close="1"))
    batch.put_footprint(make_second(close="2"))
    assert len(batch) == 2
    assert batch.bars["SOLUSDT", T0].c == "2"
    assert batch.footprints["SOLUSDT", T0].close == "2"


def test_part_does_not_replace_a_waiting_whole_row() -> None:
    batch = Batch()
    batch.put_bar(make_bar(c="1"))
    batch.put_bar(make_bar(c="2", grade=2, n=99))
    assert batch.bars["SOLUSDT", T0].c == "1"


def test_second_without_ids_replaces_only_when_it_says_something_else() -> None:
    batch = Batch()
    batch.put_footprint(make_second())
    batch.put_footprint(make_second(ids=None))
    assert batch.footprints["SOLUSDT", T0].first_id == 7
    batch.put_footprint(make_second(ids=None, close="100.25"))
    assert batch.footprints["SOLUSDT", T0].first_id is None


def test_retraction_lowers_waiting_rows_of_its_range_and_nothing_else() -> None:
    batch = Batch()
    for time in (T0 - 60, T0, T0 + 60, T0 + 120):
        batch.put_bar(make_bar(time))
        batch.put_bar(make_bar(time, "BTCUSDT"))
    for time in range(T0 + 57, T0 + 64):
        batch.put_footprint(make_second(time))
    batch.put_footprint(make_second(T0 + 60, "BTCUSDT"))
    batch.put_footprint(make_second(T0 + 65, grade=3, source="okx"))
    batch.retract(Retraction("SOLUSDT", "binance", T0 + 58, T0 + 62))

    lowered_bars = sorted(key for key, row in batch.bars.items() if not row.complete)
    assert lowered_bars == [("SOLUSDT", T0), ("SOLUSDT", T0 + 60)]
    lowered = {key: row for key, row in batch.footprints.items() if row.grade == 2}
    assert sorted(lowered) == [("SOLUSDT", t) for t in range(T0 + 58, T0 + 63)]
    assert not any(row.complete for row in lowered.values())
    assert batch.footprints["SOLUSDT", T0 + 65].grade == 3


def test_row_written_after_a_retraction_stays_complete() -> None:
    batch = Batch()
    batch.put_bar(make_bar())
    batch.retract(Retraction("SOLUSDT", "binance", T0, T0 + 5))
    batch.put_bar(make_bar(c="3"))
    assert batch.bars["SOLUSDT", T0].complete


def test_newer_retraction_lowers_older_waiting_rows_but_not_the_repair_that_follows_it() -> None:
    older, newer = Batch(), Batch()
    older.put_footprint(make_second(T0))
    older.put_footprint(make_second(T0 + 1))
    newer.retract(Retraction("SOLUSDT", "binance", T0, T0 + 1))
    newer.put_footprint(make_second(T0 + 1, close="100.75"))
    older.absorb(newer)
    assert not older.footprints["SOLUSDT", T0].complete
    assert older.footprints["SOLUSDT", T0 + 1].complete
    assert len(older.retractions) == 1


def test_cursors_only_rise_and_gaps_take_their_newest_state() -> None:
    batch = Batch()
    batch.put_cursor(make_cursor(10, T0 + 5))
    batch.put_cursor(make_cursor(9, T0 + 9))
    assert batch.cursors["ohlcv", "binance", "SOLUSDT"] == make_cursor(10, T0 + 5)
    batch.put_cursor(make_cursor(10, T0 + 6))
    assert batch.cursors["ohlcv", "binance", "SOLUSDT"] == make_cursor(10, T0 + 6)
    batch.put_cursor(make_cursor(12, T0 + 4))
    assert batch.cursors["ohlcv", "binance", "SOLUSDT"] == make_cursor(12, T0 + 6)
    batch.put_gap(make_gap())
    batch.put_gap(make_gap(status=GapStatus.REPAIRED, missing=()))
    assert [gap.status for gap in batch.gaps.values()] == [GapStatus.REPAIRED]


def test_lane_is_live_as_soon_as_one_write_was() -> None:
    batch = Batch()
    batch.put_bar(make_bar(), LANE_REPAIR)
    assert batch.bar_lanes["SOLUSDT", T0] == LANE_REPAIR
    newer = Batch()
    newer.put_bar(make_bar(), LANE_LIVE)
    batch.absorb(newer)
    batch.put_bar(make_bar(), LANE_REPAIR)
    assert batch.bar_lanes["SOLUSDT", T0] == LANE_LIVE


def test_emptiness() -> None:
    batch = Batch()
    assert not batch
    batch.retract(Retraction("SOLUSDT", "binance", T0, T0))
    assert batch
    assert len(batch) == 0
    batch.put_bar(make_bar())
    batch.put_cursor(make_cursor(1, T0))
    batch.clear()
    assert not batch
    assert not batch.bar_lanes


@given(st.integers(0, 2**32), st.integers(0, 30), st.integers(0, 30))
def test_absorbing_equals_writing_everything_in_order(seed: int, first: int, second: int) -> None:
    rng = random.Random(seed)
    whole, left, right = Batch(), Batch(), Batch()
    # Whole rows of a key always hold the same trades, as they do in life; parts hold fewer.
    for index in range(first + second):
        side = left if index < first else right
        time, kind = T0 + rng.randrange(3), rng.randrange(4)
        lane = rng.choice((LANE_LIVE, LANE_REPAIR))
        grade = rng.choice((1, 2, 4))
        n = 10 if grade == 4 else rng.randrange(1, 10)
        for batch in (whole, side):
            if kind == 0:
                batch.put_footprint(make_second(time, grade=grade, n=n), lane)
            elif kind == 1:
                batch.put_bar(make_bar(time - time % 60, grade=grade, n=n), lane)
            elif kind == 2:
                batch.put_cursor(make_cursor(n, T0 + n // 2))
            else:
                batch.retract(Retraction("SOLUSDT", "binance", time, time))
    left.absorb(right)
    assert vars(left) == vars(whole)
