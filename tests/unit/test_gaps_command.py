"""What a repair by hand decides: which gaps, what the ledger says after a step, which rows are complete."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from msgspec.structs import replace

from common.batch import Batch
from common.contracts import GapRow, GapStatus
from common.errors import BadInput, ConfigError, Refused
from common.venues.market import Kline, Trade
from ohlcv_ingestor.bars import bar_row, flat_bar
from ohlcv_ingestor.repair import Answer, AskKlines, AskTrades, RepairLimits, repair_gap
from ohlcv_ingestor.rows import Stream
from ohlcv_ingestor.series import Series, SeriesLimits
from ohlcv_ingestor.starts import begin_at, inherit, restart
from ohlcv_ingestor.stored import Stored, gap_of_row
from ops.gaps import select_entries
from ops.gaps_ledger import Entry
from ops.gaps_options import read_moment
from ops.gaps_plan import Ages, choose_gaps, divide_gap, find_ends, follow_close, is_done, span_batch
from ops.gaps_refetch import Edge, Hole, Span, fetch_span
from ops.gaps_repair import repair_gap as hand_repair
from tests.rows import T0, make_gap

SYMBOL = "XUSDT"
UNIT = 10**8


def trade(id_: int, at_s: float, price: int = 100, n: int = 1, first: int | None = None) -> Trade:
    first = 10 * id_ if first is None else first
    ms = round(1000 * (T0 + at_s))
    return Trade(SYMBOL, id_, price * UNIT, UNIT, first, first + n - 1, ms, ms, id_ % 2 == 0)


def every_second(count: int, from_id: int = 1, step_s: float = 1.0) -> list[Trade]:
    """Trades whose single-trade ids follow each other without a hole, two in each."""
    return [trade(from_id + i, i * step_s, 100 + i % 7, 2, 2 * i) for i in range(count)]


class Venue:
    """Answers from a list of trades; `lost` ids are nowhere, `lies` changes candles of seconds."""

    def __init__(self, trades: list[Trade], lost: set[int] | None = None, lies: dict[int, int] | None = None) -> None:
        self.trades = [t for t in trades if t.id not in (lost or set())]
        self.lies = lies or {}
        self.asked: list[AskTrades | AskKlines] = []

    def answer(self, ask: AskTrades | AskKlines) -> Answer:
        self.asked.append(ask)
        if isinstance(ask, AskKlines):
            width = 60 if ask.interval == "1m" else 1
            return Answer(klines=[self.kline(at, width) for at in range(ask.from_s, ask.to_s, width)])
        found = self.trades
        if ask.from_id is not None:
            found = [t for t in found if t.id >= ask.from_id]
        elif ask.start_ms is not None:
            found = [t for t in found if t.time_ms >= ask.start_ms]
        else:
            found = found[-ask.limit :]
        return Answer(trades=found[: ask.limit])

    def kline(self, at: int, width: int) -> Kline:
        mine = [t for t in self.trades if at <= t.time_ms // 1000 < at + width]
        before = [t.price for t in self.trades if t.time_ms < 1000 * at]
        close = before[-1] if before else 0
        prices = [t.price for t in mine] or [close]
        n = sum(t.n for t in mine) + (self.lies.get(at, 0) if width == 1 else 0)
        buys = [t for t in mine if t.buy]
        return Kline(
            at, prices[0], max(prices), min(prices), prices[-1], sum(t.qty for t in mine),
            sum(t.price * t.qty for t in mine), n, sum(t.qty for t in buys), sum(t.price * t.qty for t in buys),
        )  # fmt: skip

    def drive(self, asking: Generator[Any, Answer, Any]) -> Any:
        try:
            ask = next(asking)
            while True:
                ask = asking.send(self.answer(ask))
        except StopIteration as done:
            return done.value


def gap_of(from_id: int, to_id: int, from_s: float, to_s: float, **changes: object) -> GapRow:
    values: dict[str, object] = {
        "symbol": SYMBOL, "to_id": to_id, "from_ms": round(1000 * (T0 + from_s)), "to_ms": round(1000 * (T0 + to_s)),
        "missing": ((from_id, to_id),), "restored_n": 0,
    }  # fmt: skip
    return make_gap(from_id, **(values | changes))


# ---- fetching


def test_candles_that_add_up_are_taken() -> None:
    venue = Venue(every_second(200))
    span: Span = venue.drive(fetch_span(T0, T0 + 120))
    assert (span.before, span.after.id, span.holes) == (Edge(1, 0, 1000 * T0), 121, ())
    assert all(b.settled for b in span.bricks.values())
    assert (len(span.bricks), sorted(span.bars)) == (120, [T0, T0 + 60])
    assert len(venue.asked) == 4


@pytest.mark.parametrize("lies", [{T0 + 5: 1}, {T0 + 5: 1, T0 + 70: -1}], ids=["sum", "minute"])
def test_candles_that_do_not_add_up_give_way_to_trades(lies: dict[int, int]) -> None:
    span: Span = Venue(every_second(200), lies=lies).drive(fetch_span(T0, T0 + 120))
    assert span.holes == ()
    assert {b.n for b in span.bricks.values()} == {2}
    assert not any(b.settled for b in span.bricks.values())


def test_what_the_venue_lost_is_named() -> None:
    span: Span = Venue(every_second(200), lost={31, 32, 121}).drive(fetch_span(T0, T0 + 120))
    at = 1000 * T0
    assert span.holes == (Hole(31, 32, at + 29_000, at + 32_000), Hole(121, 121, at + 119_000, at + 121_000))


def test_past_the_last_trade_the_next_ids_bound_the_span() -> None:
    span: Span = Venue(every_second(30)).drive(fetch_span(T0, T0 + 120))
    assert span.after == Edge(31, 60, None)
    assert span.bars[T0 + 60].n == 0
    with pytest.raises(BadInput, match="no trade"):
        Venue([]).drive(fetch_span(T0, T0 + 60))


# ---- the ledger


def test_a_gap_that_is_filled_ends_repaired_with_its_count() -> None:
    venue = Venue(every_second(200))
    gap = gap_of(51, 150, 49, 150)
    ends = venue.drive(find_ends(gap))
    assert ends.from_s == T0
    span = venue.drive(fetch_span(T0, T0 + 180))
    (part,), rest = divide_gap(gap, [span], ends)
    assert rest is None
    assert (part.status, part.missing, part.restored_n) == (GapStatus.REPAIRED, (), 200)
    assert (part.from_ms, part.to_ms, part.to_id) == (gap.from_ms, gap.to_ms, gap.to_id)
    batch = span_batch(SYMBOL, [span], [])
    assert all(row.complete and row.grade == 4 for row in [*batch.bars.values(), *batch.footprints.values()])
    assert [(c.from_s, c.to_s) for c in batch.clearances] == [(T0 + 60 * i, T0 + 60 * i + 59) for i in range(3)]


def test_a_step_divides_a_gap_at_a_trade_inside_it() -> None:
    venue = Venue(every_second(400))
    gap = gap_of(11, 350, 9, 350)
    ends = venue.drive(find_ends(gap))
    span = venue.drive(fetch_span(T0, T0 + 120))
    assert not is_done(gap, span)
    (part,), rest = divide_gap(gap, [span], ends)
    assert rest is not None
    assert (part.from_id, part.to_id, part.status, part.restored_n) == (11, 120, GapStatus.REPAIRED, 220)
    assert (rest.from_id, rest.to_id, rest.status, rest.missing) == (121, 350, GapStatus.OPEN, ((121, 350),))
    assert (part.to_ms, rest.from_ms) == (1000 * (T0 + 120), 1000 * (T0 + 120))
    batch = span_batch(SYMBOL, [span], [rest])
    assert {row.complete for row in batch.bars.values()} == {True}


def test_ids_that_the_venue_lost_leave_a_small_gap_for_three_tries() -> None:
    venue = Venue(every_second(200), lost={100, 103})
    gap = gap_of(51, 150, 49, 150)
    rows, rest = divide_gap(gap, [venue.drive(fetch_span(T0, T0 + 180))], venue.drive(find_ends(gap)))
    assert rest is None
    before, lost, after = rows
    assert [(r.from_id, r.to_id, r.status, r.restored_n) for r in (before, after)] == [
        (51, 99, GapStatus.REPAIRED, 196), (104, 150, GapStatus.REPAIRED, 0),
    ]  # fmt: skip
    assert (before.from_ms, before.to_ms) == (gap.from_ms, lost.from_ms)
    assert (after.from_ms, after.to_ms) == (lost.to_ms, gap.to_ms)
    for tries, status in enumerate(
        (GapStatus.OPEN, GapStatus.OPEN, GapStatus.SOURCE_MISSING, GapStatus.SOURCE_MISSING)
    ):
        assert (lost.status, lost.tries, lost.missing) == (status, tries + 1, ((100, 100), (103, 103)))
        assert (lost.from_id, lost.to_id, lost.from_ms, lost.to_ms) == (100, 103, 1000 * (T0 + 98), 1000 * (T0 + 103))
        ends = venue.drive(find_ends(lost))
        assert ends.from_s == T0 + 60
        spans = [venue.drive(fetch_span(T0 + 60, T0 + 120))]
        (again,), rest = divide_gap(lost, spans, ends)
        assert rest is None
        batch = span_batch(SYMBOL, spans, [again])
        assert [s - T0 for (_, s), row in sorted(batch.footprints.items()) if not row.complete] == [98, 100, 101, 103]
        assert {s for (_, s), row in batch.bars.items() if not row.complete} == {T0 + 60}
        assert not batch.clearances
        lost = again
    venue = Venue(every_second(200))
    (found,), _ = divide_gap(lost, [venue.drive(fetch_span(T0 + 60, T0 + 120))], ends)
    assert (found.status, found.missing) == (GapStatus.REPAIRED, ())


def test_single_trades_missing_between_records_that_follow_each_other() -> None:
    trades = [t if t.id < 30 else replace(t, first=t.first + 1, last=t.last + 1) for t in every_second(100)]
    venue = Venue(trades)
    gap = gap_of(20, 40, 18, 40)
    rows, _ = divide_gap(gap, [venue.drive(fetch_span(T0, T0 + 60))], venue.drive(find_ends(gap)))
    assert [(r.from_id, r.to_id, r.status, r.missing) for r in rows] == [
        (20, 29, GapStatus.REPAIRED, ()), (30, 30, GapStatus.OPEN, ()), (31, 40, GapStatus.REPAIRED, ()),
    ]  # fmt: skip
    assert (rows[1].from_ms, rows[1].to_ms) == (1000 * (T0 + 28), 1000 * (T0 + 29))


def test_lost_ids_of_another_gap_are_not_this_one_s() -> None:
    venue = Venue(every_second(200), lost={20})
    gap = gap_of(51, 110, 49, 110)
    parts, _ = divide_gap(gap, [venue.drive(fetch_span(T0, T0 + 120))], venue.drive(find_ends(gap)))
    assert [(p.status, p.missing) for p in parts] == [(GapStatus.REPAIRED, ())]


def test_lost_ids_at_the_very_beginning_are_not_forgotten() -> None:
    """The trade before the gap lies a minute earlier, and the first of its ids are lost."""
    trades = [trade(1, -90, 100, 2, 0), *(trade(i, i - 1.0, 100, 2, 2 * i - 2) for i in range(2, 100))]
    venue = Venue(trades, lost={2, 3})
    gap = gap_of(2, 50, 0, 50)
    ends = venue.drive(find_ends(gap))
    assert ends.from_s == T0 - 120
    spans = [venue.drive(fetch_span(ends.from_s, T0 + 60))]
    part = divide_gap(gap, spans, ends)[0][0]
    assert (part.missing, part.from_ms, part.to_ms) == (((2, 3),), 1000 * (T0 - 90), 1000 * (T0 + 3))
    venue = Venue(trades[1:], lost={2, 3})  # and nobody knows the trade before
    ends = venue.drive(find_ends(gap))
    part = divide_gap(gap, [venue.drive(fetch_span(ends.from_s, T0 + 60))], ends)[0][0]
    assert (part.status, part.missing) == (GapStatus.OPEN, ((2, 3),))


# ---- the choice

NOW_S = T0 + 100_000


def test_only_old_bounded_gaps_are_taken() -> None:
    old = gap_of(1, 10, 0, 30)
    lost = gap_of(20, 30, 40, 50, status=GapStatus.SOURCE_MISSING)
    young = gap_of(40, 50, 99_000, 99_100)
    endless = replace(gap_of(60, 70, 10, 20, symbol="YUSDT"), to_id=None, to_ms=None)
    foreign = gap_of(80, 90, 10, 20, service="influencer", venue="hyperliquid", symbol="ZUSDT")
    gaps = [young, endless, foreign, lost, old]
    taken = [c.gap for c in choose_gaps(gaps, NOW_S, Ages(), again=False) if not c.why_left]
    assert taken == [old]
    assert {c.gap.from_id for c in choose_gaps(gaps, NOW_S, Ages(), again=False)} == {1, 40, 60, 80}
    assert [c.gap for c in choose_gaps(gaps, NOW_S, Ages(), again=True) if not c.why_left] == [old, lost]
    repaired = replace(old, status=GapStatus.REPAIRED)
    assert choose_gaps([repaired], NOW_S, Ages(), again=True) == []


def test_a_gap_beside_one_that_the_ingestor_repairs_waits() -> None:
    edge = T0 + 60 * ((100_000 - 6_000) // 60) - 60
    old = gap_of(1, 10, 0, edge - T0)
    beside = gap_of(11, 900, edge - T0, 99_000)
    (first, second) = choose_gaps([beside, old], NOW_S, Ages(), again=False)
    assert "shares a minute" in first.why_left
    assert "younger" in second.why_left
    (alone,) = choose_gaps([old], NOW_S, Ages(), again=False)
    assert alone.why_left == ""


# ---- flat bars, listing, moments


class Asking:
    """An `Asker` on a `Venue` that gives up on somebody who never ends."""

    def __init__(self, venue: Venue) -> None:
        self.venue = venue

    async def drive(self, symbol: str, asking: Generator[Any, Answer, Any]) -> Any:
        assert len(self.venue.asked) < 1_000, "it asks for ever"
        return self.venue.drive(asking)


@pytest.mark.parametrize("anew", [1, 50_010], ids=["lower", "inside"])
async def test_ids_that_began_anew_are_refused_and_never_waited_for(anew: int) -> None:
    """The venue counts lower ids after the gap, or ones that will reach its end in some future."""
    # Neither store is touched: nothing may be committed.
    store: Any = None
    asker: Any = Asking(Venue(every_second(200, anew) if anew == 1 else every_second(20, anew, 10)))
    with pytest.raises(Refused, match="ids began anew"):
        await hand_repair(store, asker, gap_of(50_000, 50_040, 20, 60), print)


def test_a_tail_whose_ids_began_anew_is_not_said_to_be_repaired() -> None:
    tail = replace(gap_of(50, 60, 0, 0), to_id=None, to_ms=None)
    (choice,) = choose_gaps([tail], T0 + 86_400, Ages(), again=False)
    assert "the ingestor repairs it" in choice.why_left
    (choice,) = choose_gaps([replace(tail, reason="ids began anew")], T0 + 86_400, Ages(), again=False)
    assert "nothing repairs it" in choice.why_left


def test_flat_bars_follow_a_changed_close_up_to_the_next_trade() -> None:
    def flat(i: int, close: int, n: int = 0, complete: bool = True) -> Any:
        row = bar_row(flat_bar(T0 + 60 * i, close * UNIT), SYMBOL, "binance", 8, complete, 4 if complete else 2)
        return replace(row, n=n)

    stored = [flat(0, 7), flat(1, 7, complete=False), flat(2, 7, n=3), flat(3, 7)]
    batch = follow_close(SYMBOL, 9 * UNIT, stored)
    assert [(s, row.c, row.complete) for (_, s), row in batch.bars.items()] == [(T0, "9", True), (T0 + 60, "9", False)]
    assert not follow_close(SYMBOL, 7 * UNIT, stored)
    assert len(follow_close(SYMBOL, 9 * UNIT, [flat(0, 7), flat(2, 7)]).bars) == 1
    assert not follow_close(SYMBOL, 9 * UNIT, [])


def test_by_default_what_asks_for_attention_is_listed() -> None:
    lost = make_gap(1, GapStatus.SOURCE_MISSING)
    rows = [Entry(g, 5) for g in (make_gap(2), lost, make_gap(3, GapStatus.REPAIRED))]
    at_s = T0 + 100
    assert [e.gap.from_id for e in select_entries(rows, [], None, at_s)] == [2, 1]
    assert [e.gap.from_id for e in select_entries(rows, [], None, at_s + 90_000)] == [2]
    assert [e.gap.from_id for e in select_entries(rows, [GapStatus.REPAIRED], None, at_s)] == [3]
    assert select_entries(rows, [GapStatus.REPAIRED], at_s, at_s) == []


def test_moments_are_spans_or_times() -> None:
    assert read_moment("2h", 10_000, "--since") == 2_800
    assert read_moment("2023-11-14T22:14", 0, "--since") == read_moment("2023-11-14T23:14+01:00", 0, "x") == T0
    with pytest.raises(ConfigError, match="--since: 'soon'"):
        read_moment("soon", 0, "--since")
    for text in ("999998d", "0001-01-01", "9999-12-31T23:59:59-14:00"):
        with pytest.raises(ConfigError, match=r"--until: .* before 1970 or after 2999"):
            read_moment(text, T0, "--until")


# ---- an ingestor that read the ledger before the repair


def test_what_an_ingestor_loaded_is_not_written_back() -> None:
    """It starts, or takes a symbol up again, with a gap that an operator repairs before its first commit."""
    old = gap_of_row(gap_of(1, 50, -90_000, -80_000))
    stored = Stored(last_id=100, event_s=T0, open_gaps=[old])
    stream = Stream("ohlcv", "binance", SYMBOL, "binance", 8)

    again = Series(stream, SeriesLimits(), 0.0)
    restart(again, stored)
    assert hand_on(again) == {101}
    (parked,) = [g for g in again.ids.gaps if g.from_id == 1]
    assert drive_nothing(repair_gap(again, parked, RepairLimits()))
    assert parked.parked
    assert hand_on(again) == set()

    anew = Series(stream, SeriesLimits(), 0.0)
    inherit(anew, stored, [])
    begin_at(anew, 500, T0 + 60, 10**10)
    assert 1 not in hand_on(anew)
    assert [g.from_id for g in anew.ids.gaps if g.reason != "first"] == [1]


def hand_on(series: Series) -> set[int]:
    """First ids of the ledger rows that a series writes when its watermark moves on."""
    batch = Batch()
    series.resume(1000 * (T0 + 100))
    series.advance(max(series.watermark_ms, 1000 * (T0 + 100)) + 1_000)
    series.drain(batch)
    return {from_id for *_, from_id in batch.gaps}


def drive_nothing(asking: Generator[Any, Answer, bool]) -> bool:
    """A repair that has nothing to ask."""
    with pytest.raises(StopIteration) as end:
        next(asking)
    return end.value.value
