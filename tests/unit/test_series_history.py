"""A minute of the history that a gap of an earlier subscription touches is lifted when that gap ends."""

from __future__ import annotations

from common.batch import Batch
from common.contracts import GapStatus
from common.venues.market import Kline, Trade
from ohlcv_ingestor.gaps import Gap
from ohlcv_ingestor.restoring import restore_trades, settle_gap
from ohlcv_ingestor.rows import Stream
from ohlcv_ingestor.series import Series, SeriesLimits
from ohlcv_ingestor.starts import begin_at, inherit, keep_history, restart
from ohlcv_ingestor.stored import Stored

M = 1_790_000_040


def trade(trade_id: int, at_s: float) -> Trade:
    ms = int(1000 * (M + at_s))
    return Trade("XUSDT", trade_id, 10**10, 10**8, trade_id, trade_id, ms, ms, True)


def test_a_history_bar_is_whole_once_the_inherited_gap_is_repaired() -> None:
    series = Series(Stream("ohlcv", "binance", "XUSDT", "binance", 8), SeriesLimits())
    old = Gap(11, 12, 1000 * (M - 40), 1000 * (M - 30), "jump", missing=[(11, 12)], recorded=True)
    idle = Gap(14, None, 1000 * (M - 20), None, "unsubscribed", status=GapStatus.NOT_SUBSCRIBED)
    inherit(series, Stored(13, M - 20, open_gaps=[old]), [idle])
    series.resume(1000 * M)
    series.advance(1000 * (M + 10))
    begin_at(series, 20, M, 10**10)
    keep_history(
        series, [Kline(M - 60, 10**10, 10**10, 10**10, 10**10, 5 * 10**8, 5 * 10**18, 5, 5 * 10**8, 5 * 10**18)]
    )
    batch = Batch()
    series.advance(1000 * (M + 20))
    series.drain(batch)
    restore_trades(series, old, [trade(11, -39), trade(12, -35)])
    assert settle_gap(series, old)
    settle_gap(series, series.ids.gaps[0])
    series.advance(1000 * (M + 30))
    series.drain(batch)
    row = batch.bars["XUSDT", M - 60]
    assert (row.complete, row.grade, row.n) == (True, 4, 5)


def test_a_trade_with_an_absurd_time_moves_nothing_and_comes_back_as_a_gap() -> None:
    series = Series(Stream("ohlcv", "binance", "XUSDT", "binance", 8), SeriesLimits())
    restart(series, Stored(10, M))
    series.resume(1000 * M)
    series.add(trade(11, 1))
    series.add(Trade("XUSDT", 12, 10**10, 10**8, 12, 12, 0, 1000 * (M + 2), True))
    series.add(trade(13, 3))
    assert series.ignored == 1
    assert [(g.from_id, g.to_id) for g in series.ids.gaps] == [(12, 12)]
    assert min(series.ring.minutes) >= M


def test_a_series_that_waits_for_its_start_packs_minutes_too() -> None:
    series = Series(Stream("ohlcv", "binance", "XUSDT", "binance", 8), SeriesLimits())
    series.resume(1000 * M)
    for at_s in range(0, 130, 10):
        series.add(trade(at_s // 10 + 1, at_s))
    held = {m: record.bricks for m, record in series.ring.minutes.items()}
    series.advance(1000 * (M + 125))
    packed = {m for m, record in series.ring.minutes.items() if record.bricks is not held[m]}
    assert packed == {M, M + 60}
    assert sum(len(record.bricks) for record in series.ring.minutes.values()) == 13
    begin_at(series, 1, M, 10**10)
    batch = Batch()
    series.advance(1000 * (M + 130))
    series.drain(batch)
    assert len(batch.footprints) == 13 and {m for _, m in batch.bars} == {M, M + 60}
