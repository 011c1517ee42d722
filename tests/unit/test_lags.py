"""A symbol that stands still on a healthy line is seen."""

from __future__ import annotations

from common.feed_events import Subscribed
from common.venues.market import Cadence, Trade
from ohlcv_ingestor.lags import measure_lags
from ohlcv_ingestor.line import Line, LineLimits, Outlet
from ohlcv_ingestor.rows import Stream
from ohlcv_ingestor.series import Series, SeriesLimits
from ohlcv_ingestor.starts import restart
from ohlcv_ingestor.stored import Stored

T0 = 1_790_000_040


def test_behind_and_gaps_are_told() -> None:
    line = Line[Series](Outlet(), {"a": "A", "b": "B"}.get, LineLimits())
    for symbol in ("A", "B", "C"):
        series = Series(Stream("ohlcv", "binance", symbol, "binance", 8), SeriesLimits())
        if symbol != "C":
            restart(series, Stored(10, T0))
        line.adopt(series)
    line.series["C"].add(Trade("C", 1, 1, 1, 1, 1, 1000 * T0, 1000 * T0, True))
    line.take([(1, Subscribed(frozenset({"a"}))), (1, Cadence(1000 * (T0 + 100)))], 1.0)
    lags = measure_lags(line)
    assert lags.behind_s["A"] < 1
    assert 99 < lags.behind_s["B"] < 100
    assert 99 < lags.behind_s["C"] < 100
    assert lags.gaps == 2
    assert 99 < lags.oldest_gap_s < 100
