"""The fallback venue's series and the state machine that calls it: values in, values out."""

from __future__ import annotations

from common.batch import Batch
from common.contracts import GRADE_FALLBACK, GRADE_FALLBACK_PART
from common.venues.market import Trade
from ohlcv_ingestor.failover import Failover, Speaker
from ohlcv_ingestor.fallback import FallbackSeries
from ohlcv_ingestor.rows import Stream

M = 1_790_000_040  # a minute's opening
STREAM = Stream("ohlcv", "okx", "SOLUSDT", "okx", 12)
ONE = 10**12


class Heard:
    """A primary that has closed nothing yet, or so much."""

    def __init__(self, closed_s: int = 0) -> None:
        self.closed_s = closed_s
        self.fallback: list[int] = []

    def note_fallback(self, second: int) -> None:
        self.fallback.append(second)


def trade(trade_id: int, at_ms: int, price: int = 100 * ONE, count: int = 1) -> Trade:
    return Trade("SOL-USDT", trade_id, price, ONE, trade_id - count + 1, trade_id, at_ms, at_ms, True)


def drained(series: FallbackSeries) -> Batch:
    batch = Batch()
    series.drain(batch)
    return batch


def test_whole_minutes_only_and_never_complete() -> None:
    series = FallbackSeries(STREAM, M + 20, Heard)
    series.resume(1000 * (M + 28))
    series.add(trade(10, 1000 * (M + 30)))
    series.add(trade(12, 1000 * (M + 65), 101 * ONE, count=2))
    series.advance(1000 * (M + 125))
    batch = drained(series)
    assert [row.time for row in batch.footprints.values()] == [M + 30, M + 65]
    assert [(row.time, row.n, row.grade, row.complete, row.source) for row in batch.bars.values()] == [
        (M + 60, 2, GRADE_FALLBACK, False, "okx")
    ]
    assert series.wanted_minutes(3) == [M]


def test_a_missed_trade_makes_its_minutes_a_part() -> None:
    series = FallbackSeries(STREAM, None, Heard)
    series.resume(1000 * M - 1)
    series.add(trade(10, 1000 * (M + 1)))
    series.add(trade(13, 1000 * (M + 61), count=2))
    series.advance(1000 * (M + 180))
    grades = {row.time: row.grade for row in drained(series).bars.values()}
    assert grades == {M: GRADE_FALLBACK_PART, M + 60: GRADE_FALLBACK_PART, M + 120: GRADE_FALLBACK}


def test_a_quiet_minute_copies_the_close_of_its_own_venue() -> None:
    series = FallbackSeries(STREAM, None, Heard)
    series.resume(1000 * M - 1)
    series.advance(1000 * (M + 61))
    assert not drained(series).bars
    assert series.wanted_minutes(0) == [M]
    series.add(trade(10, 1000 * (M + 70), 101 * ONE))
    series.advance(1000 * (M + 180))
    bars = drained(series).bars
    assert bars["SOLUSDT", M + 120].o == "101"
    assert bars["SOLUSDT", M + 120].v == "0"


def test_an_old_first_frame_and_repeats_are_ignored() -> None:
    series = FallbackSeries(STREAM, None, Heard)
    series.resume(1000 * M - 1)
    series.add(trade(5, 1000 * (M - 30)))
    series.add(trade(6, 1000 * (M + 2)))
    series.add(trade(6, 1000 * (M + 2)))
    series.advance(1000 * (M + 61))
    bar = drained(series).bars["SOLUSDT", M]
    assert (bar.n, bar.v) == (1, "1")


def test_the_primary_hears_of_what_it_has_still_to_close() -> None:
    primary = Heard(M + 10)
    series = FallbackSeries(STREAM, None, lambda: primary)
    series.resume(1000 * M - 1)
    for second in (8, 9, 10, 12):
        series.add(trade(second, 1000 * (M + second)))
    series.advance(1000 * (M + 12))
    assert [row.time for row in drained(series).footprints.values()] == [M + 10]
    assert primary.fallback == [M + 10]
    nobody = FallbackSeries(STREAM, None, lambda: None)
    nobody.resume(1000 * M - 1)
    nobody.add(trade(1, 1000 * (M + 8)))
    nobody.advance(1000 * (M + 70))
    assert not drained(nobody)


def test_losing_the_fallback_too_breaks_its_minute() -> None:
    series = FallbackSeries(STREAM, None, Heard)
    series.resume(1000 * M - 1)
    series.add(trade(6, 1000 * (M + 2)))
    series.advance(1000 * (M + 10))
    series.lose(1000 * (M + 10), "cut")
    assert not series.advance(1000 * (M + 200))
    series.resume(1000 * (M + 130))
    assert series.wanted_minutes(0) == [M, M + 60, M + 120]


def test_the_speaker_changes_once_each_way() -> None:
    failover = Failover(after_s=5)
    assert [failover.judge(silent) for silent in (0.2, 4.9, 5.1, 60, 0.1, 0.3)] == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]
    assert failover.speaker is Speaker.PRIMARY
    assert failover.changes == 2
