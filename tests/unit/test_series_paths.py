"""Paths through `Series` and `Line` that random play seldom takes, each with what the tables must hold afterwards."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from common.batch import Batch
from common.contracts import BarRow, FootprintRow, GapRow, GapStatus
from common.feed_events import Lost, Subscribed
from common.venues.market import Cadence, Kline, Trade
from ohlcv_ingestor.beginning import begin_symbol
from ohlcv_ingestor.line import Line, LineLimits, Outlet
from ohlcv_ingestor.repair import Answer, AskTrades, RepairLimits, repair_gap
from ohlcv_ingestor.restoring import choose_gaps
from ohlcv_ingestor.ring import minute_of
from ohlcv_ingestor.series import Series, SeriesLimits
from ohlcv_ingestor.starts import begin_at, choose_start, inherit, restart
from tests.unit.line_world import LedgerTables
from tests.unit.ohlcv_model import STREAM, T0, Venue

LIMITS = SeriesLimits()
BY_ID = RepairLimits()
BY_SECONDS = RepairLimits(repair_ids_max=1)
STREAMS = frozenset({"xusdt@aggTrade", "cadence"})


def trade(id_: int, at_s: float, price: int = 100) -> Trade:
    """One single trade of id `id_`, `at_s` seconds after T0; the single-trade id is the same."""
    ms = round(1000 * (T0 + at_s))
    return Trade("XUSDT", id_, price * 10**8, 10**8, id_, id_, ms, ms, True)


class Path:
    """A series, its tables, and a venue that knows every trade."""

    def __init__(self, trades: list[Trade], limits: SeriesLimits = LIMITS, repair: RepairLimits = BY_ID) -> None:
        self.tables, self.limits, self.repair_limits = LedgerTables(), limits, repair
        self.venue = Venue(trades)
        self.by_id = {t.id: t for t in trades}
        self.begin()

    def begin(self) -> None:
        """A symbol that has been followed since T0, with the trades up to T0 stored."""
        self.series = Series(STREAM, self.limits)
        self.series.resume(1000 * T0)
        self.series.advance(1000 * (T0 + 4))
        first = next(t.id for t in self.venue.trades if t.time_ms >= 1000 * T0)
        begin_at(self.series, first, T0, 10**10)

    def restart(self) -> None:
        stored = self.tables.load(self.limits.ring_s)
        assert stored is not None
        self.series = Series(STREAM, self.limits)
        restart(self.series, stored)

    def see(self, *ids: int) -> None:
        for id_ in ids:
            self.series.add(self.by_id[id_])

    def to(self, at_s: float) -> None:
        """The watermark moves to T0 + at_s."""
        self.series.advance(round(1000 * (T0 + at_s)))

    def commit(self) -> None:
        batch = Batch()
        self.series.drain(batch)
        self.tables.commit(batch)

    def cut(self) -> None:
        self.series.lose(self.series.watermark_ms, "cut")

    def resume(self, at_s: float) -> None:
        self.series.resume(round(1000 * (T0 + at_s)))

    def asks(self, generator: Generator[Any, Answer, Any], until: int | None = None) -> None:
        """Answer a repair to its end, or only so many of its questions."""
        try:
            ask = next(generator)
            while until is None or until > 0:
                until = None if until is None else until - 1
                ask = generator.send(self.venue.answer(ask, self.series.watermark_ms))
        except StopIteration:
            return

    def repair(self, rounds: int = 4) -> None:
        for _ in range(rounds):
            for gap in choose_gaps(self.series):
                self.asks(repair_gap(self.series, gap, self.repair_limits))
        self.commit()

    def second(self, at_s: int) -> FootprintRow:
        row: Any = self.tables.footprints[T0 + at_s][0]
        return row

    def bar(self, at_s: int) -> BarRow:
        row: Any = self.tables.bars[T0 + at_s][0]
        return row

    def ledger(self, from_id: int) -> GapRow:
        return self.tables.gaps[from_id]


def settled(trades: list[Trade], **how: Any) -> Path:
    """A path whose first subscription is repaired and stored."""
    path = Path(trades, **how)
    path.see(*(t.id for t in trades[:1] if 1000 * T0 <= t.time_ms < 1000 * (T0 + 5)))
    path.to(5)
    path.repair()
    path.to(6)
    path.commit()
    assert not path.series.ids.gaps
    return path


# ---- what the fallback told


def clearances(path: Path) -> list[tuple[int, int]]:
    batch = Batch()
    path.series.drain(batch)
    cleared = [(c.from_s - T0, c.to_s - T0) for c in batch.clearances]
    path.tables.commit(batch)
    return cleared


def fill(path: Path) -> None:
    for _ in range(4):
        for gap in choose_gaps(path.series):
            path.asks(repair_gap(path.series, gap, path.repair_limits))
    assert not path.series.ids.gaps


def test_quiet_seconds_that_the_fallback_told_after_the_repair_are_cleared_too() -> None:
    path = settled([trade(1, 1), trade(2, 9), trade(3, 12.1), trade(4, 40)])
    path.cut()
    for second in range(8, 22):
        path.series.note_fallback(T0 + second)
    path.resume(14)
    path.to(20.5)
    assert clearances(path) == []
    fill(path)
    assert clearances(path) == [(6, 19)]  # by the repair, up to what was closed then
    path.series.note_fallback(T0 + 22)
    path.to(22.9)
    assert clearances(path) == []
    path.to(23.1)
    assert clearances(path) == [(8, 22)]
    path.to(30)
    assert clearances(path) == []


def test_what_the_fallback_told_in_an_open_gap_stays_until_its_repair() -> None:
    path = settled([trade(1, 1), trade(2, 9), trade(3, 12.1), trade(4, 40), trade(5, 44)])
    path.cut()
    path.resume(14)
    path.series.note_fallback(T0 + 10)
    path.to(20)
    assert clearances(path) == []
    path.see(4)
    path.series.note_fallback(T0 + 42)
    path.to(48)
    assert clearances(path) == [(42, 42)]
    fill(path)
    assert clearances(path) == [(1, 47)]


# ---- what was stored ahead of the cursor


def test_two_crashes_do_not_count_a_trade_twice() -> None:
    path = settled([trade(1, 1), trade(2, 2), trade(3, 10), trade(4, 11), trade(5, 11.5), trade(6, 12.7)])
    path.see(3, 5)  # 4 is missing, and not yet written down
    path.to(12)
    path.commit()
    path.restart()
    path.resume(12.5)
    path.see(6)
    path.to(14)
    path.commit()
    path.restart()
    path.resume(20)
    path.to(24)
    path.repair()
    assert (path.second(11).n, path.second(11).complete) == (2, True)


def test_a_late_fill_a_cut_and_a_crash_do_not_count_a_trade_twice() -> None:
    path = settled([trade(1, 1), trade(2, 9), trade(3, 9.2), trade(4, 9.4), trade(5, 9.6), trade(6, 10.2)])
    path.see(2, 6)
    path.see(4)  # 3 and 5 are still missing, and end in the second that is not closed
    path.to(10)
    path.cut()
    path.commit()
    path.restart()
    path.resume(20)
    path.to(24)
    path.repair()
    assert (path.second(9).n, path.second(9).complete) == (4, True)


def test_a_late_fill_and_a_symbol_taken_off_do_not_count_a_trade_twice() -> None:
    path = settled([trade(1, 1), trade(2, 9), trade(3, 9.2), trade(4, 9.4), trade(5, 9.6), trade(6, 10.2)])
    path.see(2, 6)
    path.see(3)  # 4 and 5 are still missing, and end in the second that is not closed
    path.to(10)
    batch = Batch()
    path.series.retire(batch)
    path.tables.commit(batch)
    path.restart()
    path.resume(20)
    path.to(24)
    path.repair()
    path.to(25)
    path.commit()
    assert (path.second(9).n, path.second(9).complete) == (4, True)
    assert {g.status for g in path.tables.gaps.values()} == {GapStatus.REPAIRED}


def test_rows_before_the_cursor_become_complete_with_the_gap_that_goes_on() -> None:
    path = settled([trade(1, 1), trade(2, 8.5), trade(3, 9.5), trade(4, 10.2)])
    path.see(2, 4)
    path.to(10)
    path.cut()
    path.commit()
    path.restart()
    path.resume(20)
    path.to(24)
    path.repair()
    assert not path.series.ids.gaps
    assert path.second(8).complete


def test_a_jump_after_a_restart_without_any_trade_begins_at_the_cursor() -> None:
    path = settled([trade(0, -100), trade(1, 40), trade(2, 41)])
    path.restart()
    path.resume(10)
    path.to(20)
    path.repair()
    path.to(40)
    path.see(2)
    assert [g.from_ms // 1000 >= T0 for g in path.series.ids.gaps] == [True]


# ---- gaps older than the backfill

SHORT = SeriesLimits(backfill_s=600)


def test_narrowing_a_half_probed_gap_does_not_count_trades_twice() -> None:
    trades = [trade(1, 1), *(trade(i, 10 + 0.4 * i) for i in range(2, 1_402))]
    path = settled(trades, limits=SHORT)
    path.cut()
    path.resume(620)
    path.to(625)
    path.commit()
    (gap,) = choose_gaps(path.series)
    path.asks(repair_gap(path.series, gap, BY_ID), until=1)  # one page, then the venue is away
    path.to(720)
    path.repair(6)
    for at_s in range(130, 400):
        if T0 + at_s in path.tables.footprints:
            row = path.second(at_s)
            assert row.n <= 3, f"{row.n} trades in second {at_s}"


def test_a_parked_gap_stays_as_it_is_over_restarts() -> None:
    trades = [trade(1, 1), trade(2, 100), *(trade(i, 10.0 * i) for i in range(300, 500))]
    trades = [t if t.id < 300 else Trade("XUSDT", t.id - 297, *list_of(t)) for t in trades]
    path = settled(trades, limits=SHORT)
    path.restart()
    path.resume(4_000)
    path.to(4_010)
    path.repair(6)
    path.to(4_020)
    path.commit()
    (parked,) = [g for g in path.tables.gaps.values() if g.status is GapStatus.OPEN]
    for number in range(1, 3):
        path.restart()
        path.resume(4_020 + 300 * number)
        path.to(4_030 + 300 * number)
        path.repair(6)
        path.commit()
        (again,) = [g for g in path.tables.gaps.values() if g.status is GapStatus.OPEN]
        assert (again.to_id, again.to_ms) == (parked.to_id, parked.to_ms)


def list_of(t: Trade) -> tuple[int, int, int, int, int, int, bool]:
    return (t.price, t.qty, t.first, t.last, t.time_ms, t.event_ms, t.buy)


def test_a_first_span_that_grew_too_old_does_not_hold_the_cursor() -> None:
    path = Path([trade(1, 1), trade(2, 2), trade(3, 900)], limits=SHORT)
    path.to(800)  # the venue's REST side was away all the time
    path.commit()
    path.repair(6)
    path.to(820)
    path.commit()
    assert path.tables.cursor is not None
    assert path.tables.cursor.event_s == T0 + 820


# ---- what the venue does not have


def test_ids_the_venue_lost_are_found_after_a_restart_too() -> None:
    trades = [trade(1, 1), *(trade(i, 10 + i) for i in range(2, 30))]
    path = settled(trades, repair=BY_SECONDS)
    path.see(2)
    path.see(25)
    path.to(40)
    path.commit()
    assert path.ledger(3).status is GapStatus.OPEN
    path.venue.lost = {10}
    path.restart()
    path.resume(50)
    path.to(60)
    path.repair(8)
    assert (path.ledger(3).status, path.ledger(3).missing) == (GapStatus.SOURCE_MISSING, ((10, 10),))


def test_an_id_missing_at_the_edge_of_a_cut_lowers_the_rows_before_it() -> None:
    path = settled([trade(1, 1), trade(2, 10.1), trade(3, 10.5), trade(4, 20), trade(5, 40)])
    path.see(2)  # 3 is lost, unnoticed
    path.to(12)
    path.commit()
    assert path.second(10).complete
    path.cut()
    path.commit()
    path.venue.lost = {3}
    path.resume(30)
    path.to(35)
    path.repair(4)
    assert path.ledger(3).status is GapStatus.SOURCE_MISSING
    assert not path.second(10).complete


# ---- symbols that come and go


def test_taking_a_symbol_off_writes_down_what_was_just_noticed() -> None:
    path = settled([trade(1, 1), trade(2, 10.1), trade(3, 10.4), trade(4, 10.8)])
    path.see(2, 4)
    path.to(11)
    batch = Batch()
    path.series.retire(batch)
    path.tables.commit(batch)
    held = [g for g in path.tables.gaps.values() if g.status is GapStatus.OPEN]
    assert [(g.from_id, g.to_id) for g in held] == [(3, 3)]


def test_a_hole_into_the_open_second_is_not_called_unwanted() -> None:
    path = settled([trade(1, 1), trade(2, 10.1), trade(3, 10.4), trade(4, 12.8)])
    path.see(2, 4)
    path.to(11)
    for gap in path.series.ids.gaps:
        gap.due_ms = None  # as when a connection was lost
    path.commit()
    batch = Batch()
    path.series.retire(batch)
    path.tables.commit(batch)
    assert path.ledger(3).status is GapStatus.OPEN


def resubscribe(path: Path, at_s: float) -> None:
    """Follow a symbol again that was taken off."""
    idle, stored = path.tables.idle(), path.tables.load(path.limits.ring_s)
    assert stored is not None
    path.series = Series(STREAM, path.limits)
    if idle:
        inherit(path.series, stored, idle)
    else:
        restart(path.series, stored)
    path.resume(at_s)
    path.to(at_s + 4)
    start = choose_start(path.series)
    if start is not None:
        asking = begin_symbol(start, path.limits.backfill_s)
        try:
            ask = next(asking)
            while True:
                ask = asking.send(path.venue.answer(ask, path.series.watermark_ms))
        except StopIteration as done:
            begin_at(path.series, done.value.first_id, done.value.from_s, done.value.close)
    path.commit()
    path.to(at_s + 10)
    path.repair(6)


def test_a_gap_that_was_open_when_a_symbol_left_is_repaired_when_it_is_back() -> None:
    path = settled([trade(1, 1), trade(2, 10.1), trade(3, 10.4), trade(4, 10.8), trade(5, 200)])
    path.see(2, 4)
    path.to(14)
    path.commit()
    batch = Batch()
    path.series.retire(batch)
    path.tables.commit(batch)
    resubscribe(path, 150)
    assert path.ledger(3).status is GapStatus.REPAIRED
    assert (path.second(10).n, path.second(10).complete) == (3, True)


def test_back_in_the_same_minute_no_trade_counts_twice() -> None:
    path = settled([trade(1, 1), trade(2, 10.1), trade(3, 10.4), trade(4, 10.8), trade(5, 200)])
    path.see(2, 4)
    path.to(14)
    path.commit()
    batch = Batch()
    path.series.retire(batch)
    path.tables.commit(batch)
    resubscribe(path, 30)
    assert path.second(10).n == 3


def test_the_minute_in_which_a_symbol_left_is_not_called_whole() -> None:
    path = settled([trade(1, 1), trade(2, 10.1), trade(3, 10.4), trade(4, 10.8), trade(5, 40), trade(6, 200)])
    path.see(2, 4)
    path.to(14)
    path.commit()
    batch = Batch()
    path.series.retire(batch)
    path.tables.commit(batch)
    resubscribe(path, 150)  # the history's candle of that minute is left out here: it may have been refused
    row: Any = path.tables.bars.get(T0, (None, 0))[0]
    assert row is None or not row.complete or row.n == 5


# ---- ids that begin anew


def test_a_venue_that_counts_anew_is_not_taken_for_silence() -> None:
    path = settled([trade(5_001, 1), trade(5_002, 10)])
    path.see(5_002)
    for i in range(1, 50):
        path.series.add(trade(i, 20 + i))
    path.to(130)
    path.commit()
    assert not path.bar(60).complete


# ---- lines


def line_of(series: Series) -> tuple[Line[Series], Outlet]:
    outlet = Outlet()
    line: Line[Series] = Line(outlet, {"xusdt@aggTrade": "XUSDT"}.get, LineLimits())
    line.adopt(series)
    return line, outlet


def running(path: Path) -> tuple[Line[Series], Outlet]:
    """The path's symbol on a line, covered by connection 1, up to T0 + 10 s."""
    line, outlet = line_of(path.series)
    line.take([(1, Subscribed(STREAMS)), (1, Cadence(1000 * (T0 + 6))), (1, Cadence(1000 * (T0 + 10)))], 10.0)
    assert line.covers("XUSDT")
    return line, outlet


def test_blind_time_after_a_connection_that_only_brought_a_trade_is_not_whole() -> None:
    path = settled([trade(1, 1), trade(2, 13), trade(3, 20)])
    line, outlet = running(path)
    line.take([(1, Lost("cut", planned=False))], 11.0)
    line.take([(2, Subscribed(STREAMS)), (2, trade(2, 13)), (2, Lost("cut", planned=False))], 13.0)
    for now_s in range(14, 140):
        line.stall(float(now_s), 1.0)
    path.tables.commit(outlet.batch)
    assert not path.bar(60).complete


def test_a_symbol_that_comes_back_at_once_is_covered() -> None:
    path = settled([trade(1, 1), trade(2, 20)])
    line, _ = running(path)
    line.drop("XUSDT")
    line.adopt(path.series)  # the feed wants the same streams as before: it sends nothing, the venue says nothing
    line.take([(1, Cadence(1000 * (T0 + 12))), (1, Cadence(1000 * (T0 + 13)))], 13.0)
    assert line.covers("XUSDT")


def test_klines_of_the_model_hold_what_they_should() -> None:
    """A judge whose venue invents candles would judge nothing."""
    venue = Venue([trade(1, 1), trade(2, 1.5), trade(3, 70)])
    answer = venue.answer(AskTrades(start_ms=1000 * T0, limit=1), 1000 * (T0 + 90))
    assert [t.id for t in answer.trades] == [1]
    assert all(isinstance(k, Kline) for k in answer.klines)


def test_a_symbol_that_waited_for_a_blind_primary_begins_where_it_became_wanted() -> None:
    path = Path([trade(1, 10), trade(2, 300)])
    path.series = Series(STREAM, path.limits, wanted_s=50.0)
    path.to(320)
    assert choose_start(path.series) == T0 + 300
    assert choose_start(path.series, 200.0) == T0 + 60
    path.to(20_000)
    assert choose_start(path.series, 50_000.0) == minute_of(T0 + 20_000 - path.limits.backfill_s) + 60
