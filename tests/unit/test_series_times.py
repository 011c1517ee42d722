"""Times that can not be right: a frame that tells one moves nothing, and its trade comes back as a gap."""

from __future__ import annotations

from common.contracts import GapStatus
from common.feed_events import Event, Subscribed
from common.venues.market import Cadence, Trade
from ohlcv_ingestor.line import Line, LineLimits, Outlet
from ohlcv_ingestor.repair import RepairLimits, repair_gap
from ohlcv_ingestor.restoring import choose_gaps
from ohlcv_ingestor.rows import Stream
from ohlcv_ingestor.series import Series, SeriesLimits
from ohlcv_ingestor.starts import restart
from ohlcv_ingestor.stored import Stored
from tests.unit.ohlcv_model import Venue

M = 1_790_000_040
YEAR_S = 365 * 86_400


def trade(trade_id: int, at_s: float, event_s: float | None = None) -> Trade:
    time_ms, event_ms = (int(1000 * (M + s)) for s in (at_s, at_s if event_s is None else event_s))
    return Trade("XUSDT", trade_id, 10**10, 10**8, trade_id, trade_id, time_ms, event_ms, True)


def cadence(at_s: float) -> Cadence:
    return Cadence(int(1000 * (M + at_s)))


def running() -> tuple[Line[Series], Series]:
    """A series that goes on from trade 10 at M, covered from M + 1 on."""
    line: Line[Series] = Line(Outlet(), {"x": "XUSDT"}.get, LineLimits())
    series = Series(Stream("ohlcv", "binance", "XUSDT", "binance", 8), SeriesLimits())
    restart(series, Stored(10, M))
    line.adopt(series)
    take(line, Subscribed(frozenset({"x"})), cadence(1))
    assert line.covers("XUSDT")
    return line, series


def take(line: Line[Series], *events: Event, number: int = 1) -> None:
    line.take([(number, event) for event in events], 0.0)


def repair(series: Series, venue: Venue, rounds: int = 1) -> None:
    for _ in range(rounds):
        for gap in choose_gaps(series):
            asking = repair_gap(series, gap, RepairLimits())
            try:
                ask = next(asking)
                while True:
                    ask = asking.send(venue.answer(ask, 10**15))
            except StopIteration:
                continue


def test_a_trade_from_the_future_is_refused_told_and_repaired() -> None:
    line, series = running()
    take(line, trade(11, 1.6), trade(12, 2 + YEAR_S, 2), trade(13, 2.5), *(cadence(s) for s in range(2, 9)))
    assert line.refused_total == 1
    (bad,) = line.outlet.bad
    assert "trade 12 of XUSDT is +" in bad.reason
    assert b'"id":12' in bad.raw
    assert max(series.ring.minutes) == M
    repair(series, Venue([trade(11, 1.6), trade(12, 2), trade(13, 2.5)]))
    take(line, cadence(10))
    assert not series.ids.gaps
    row = line.outlet.batch.footprints["XUSDT", M + 2]
    assert (row.n, row.complete) == (2, True)
    assert line.outlet.batch.cursors["ohlcv", "binance", "XUSDT"].last_id == 13


def test_what_is_refused_and_what_is_not() -> None:
    line, series = running()
    limits = line.limits
    ahead_s, late_s = limits.ahead_max_ms / 1000, limits.late_max_ms / 1000
    for at_s, event_s, taken in (
        (1 + ahead_s, 1, True), (1.1 + ahead_s, 1, False), (1, 1.1 + ahead_s, False), (YEAR_S, YEAR_S, False),
        (1 - late_s, 1, True), (0.9 - late_s, 1, False), (-M, 1, False), (61, 1, True), (-59, 1, True),
    ):  # fmt: skip
        before = line.refused_total
        take(line, trade(11, at_s, event_s))
        assert (line.refused_total == before) is taken, (at_s, event_s)
    assert series.watermark_ms < 1000 * (M + 1)


def test_a_venue_clock_that_is_a_minute_off_refuses_nothing() -> None:
    line, series = running()
    take(line, cadence(62), trade(11, 2, 62), trade(12, 3, 63), cadence(63), cadence(4), trade(13, 4), cadence(65))
    assert line.refused_total == 0 and not line.outlet.bad
    assert series.ids.next_id == 14
    assert series.watermark_ms == 1000 * (M + 65) - line.limits.lateness_ms


def test_a_cadence_frame_nobody_confirms_moves_nothing_and_a_real_jump_is_believed() -> None:
    line, series = running()
    take(line, cadence(YEAR_S), cadence(2))
    assert series.watermark_ms < 1000 * (M + 2)
    assert ["no other one tells" in bad.reason for bad in line.outlet.bad] == [True]
    take(line, cadence(7200), trade(11, 7200.5), cadence(7201))
    assert series.watermark_ms == 1000 * (M + 7201) - line.limits.lateness_ms
    assert line.refused_total == 1
    assert len(line.outlet.bad) == 2


def test_before_a_connection_told_its_time_nothing_is_taken() -> None:
    line, series = running()
    take(line, trade(11, 1.6), Subscribed(frozenset({"x"})), trade(12, YEAR_S), cadence(2), trade(12, 2.1), number=2)
    assert (line.refused_total, line.early_total, line.outlet.bad) == (0, 2, [])
    assert [(g.from_id, g.to_id) for g in series.ids.gaps] == [(11, 11)]
    assert series.ids.next_id == 13


def test_an_id_that_the_venue_serves_with_an_absurd_time_is_source_missing() -> None:
    for wrong in (trade(12, YEAR_S), trade(12, -M)):
        line, series = running()
        take(line, trade(11, 1.6), trade(13, 2.5), *(cadence(s) for s in range(2, 9)))
        repair(series, Venue([trade(11, 1.6), wrong, trade(13, 2.5)]), rounds=4)
        take(line, cadence(10))
        gap = line.outlet.batch.gaps["ohlcv", "binance", "XUSDT", 12]
        assert (gap.status, gap.missing) == (GapStatus.SOURCE_MISSING, ((12, 12),))
        assert list(series.ring.minutes) == [M]
        assert line.outlet.batch.cursors["ohlcv", "binance", "XUSDT"].last_id == 13
