"""REST that is behind the stream: nothing is stored as whole, or given up, by what it does not show yet."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from common.batch import Batch
from common.contracts import GapStatus
from common.venues.market import Trade
from ohlcv_ingestor.beginning import NoStart, Start, begin_symbol
from ohlcv_ingestor.gaps import Gap
from ohlcv_ingestor.repair import QUIET_AFTER_S, Answer, Ask, AskKlines, AskTrades, RepairLimits, repair_gap
from ohlcv_ingestor.restoring import choose_gaps
from ohlcv_ingestor.series import Series, SeriesLimits
from ohlcv_ingestor.starts import begin_at
from tests.unit.ohlcv_model import T0, Venue, recount
from tests.unit.test_series_paths import BY_SECONDS, Path, settled, trade

BARS_FIRST = RepairLimits(repair_ids_max=1, bars_first_s=60)


def market(seconds: int, per_s: int = 2) -> list[Trade]:
    """So many trades in every second since T0, each at another price than the last one."""
    times = [s + (k + 0.5) / per_s for s in range(seconds) for k in range(per_s)]
    return [trade(i + 1, at_s, 100 + 7 * i % 13) for i, at_s in enumerate(times)]


def drive(asking: Generator[Ask, Answer, Any], trades: Venue, candles: Venue, now_ms: int) -> Any:
    """Answer to the end; trades and candles may come from sides that lag differently."""
    ask = next(asking)
    while True:
        try:
            ask = asking.send((trades if isinstance(ask, AskTrades) else candles).answer(ask, now_ms))
        except StopIteration as done:
            return done.value


def begin(venue: Venue, now_s: float, **known: Any) -> Start | NoStart:
    return drive(begin_symbol(T0, 6_000, **known), venue, venue, round(1000 * (T0 + now_s)))


# ---- a first subscription


def test_a_start_waits_until_rest_shows_a_trade_since_then() -> None:
    trades = [trade(1, -50), trade(2, -10), trade(3, -4), trade(4, 1)]
    assert begin(Venue(trades, behind_ms=20_000), 8) is NoStart.BEHIND
    start = begin(Venue(trades, behind_ms=5_000), 8)
    assert isinstance(start, Start)
    assert (start.first_id, start.history[-1].n) == (4, 3)


def test_a_start_in_silence_waits_for_a_candle_that_rest_shows_since_then() -> None:
    trades = [trade(1, -50), trade(2, -10)]
    assert begin(Venue(trades, behind_ms=20_000), 8) is NoStart.BEHIND
    start = begin(Venue(trades, behind_ms=0), 8)
    assert isinstance(start, Start)
    assert (start.first_id, start.history[-1].n) == (3, 2)


def test_a_streamed_trade_says_that_rest_has_one_to_show() -> None:
    trades = [trade(1, -50), trade(2, 3)]
    assert begin(Venue(trades, behind_ms=4_000), 5, seen=True) is NoStart.BEHIND
    assert isinstance(begin(Venue(trades, behind_ms=1_000), 5, seen=True), Start)
    assert begin(Venue([trade(1, 3)], behind_ms=4_000), 5, seen=True) is NoStart.BEHIND
    assert begin(Venue([]), 5) is NoStart.UNTRADED


def test_trades_behind_their_own_candles_are_no_start() -> None:
    """Each endpoint may lag by itself."""
    venue, late = Venue([trade(1, -50, 100), trade(2, -10, 101)]), Venue([trade(1, -50, 100)])
    assert drive(begin_symbol(T0, 6_000), late, venue, 1000 * (T0 + 8)) is NoStart.BEHIND


def test_a_halted_pair_has_no_candle_and_begins_all_the_same() -> None:
    venue = Venue([trade(1, -5_000)], behind_ms=20_000)  # as if no candle came any more
    assert begin(venue, 8, behind_s=QUIET_AFTER_S) is NoStart.BEHIND
    start = begin(venue, 8, behind_s=QUIET_AFTER_S + 1)
    assert isinstance(start, Start)
    assert start.first_id == 2


@pytest.mark.parametrize(
    ("lag_s", "from_s", "first_id"), [(890, -660, 2), (905, -720, 2), (280, -60, 5), (601, -360, 4)]
)
def test_silence_that_is_believed_proves_nothing_before_it(lag_s: float, from_s: int, first_id: int) -> None:
    """Begun where REST's candles end: what it did not show yet is the start's own gap."""
    trades = [trade(1, -1800), trade(2, -660), trade(3, -630), trade(4, -300), trade(5, 400)]
    venue = Venue(trades, behind_ms=round(1000 * lag_s))
    assert begin(venue, 241, behind_s=QUIET_AFTER_S) is NoStart.BEHIND
    start = begin(venue, 241, behind_s=QUIET_AFTER_S + 1)
    assert isinstance(start, Start)
    assert (start.from_s - T0, start.first_id) == (from_s, first_id)
    truth = recount(trades, 60)
    assert all(k.n == truth.get(k.open_s, {"n": 0})["n"] for k in start.history)


def test_how_far_rest_was_behind_says_nothing_of_a_second_cut() -> None:
    path = settled([trade(1, 1), trade(2, 7), trade(3, 312), trade(4, 2_000)])
    path.see(2)
    path.to(10)
    for back_s in (15, 315):
        path.cut()
        path.resume(back_s)
        path.to(back_s + 4)
        path.commit()
        path.venue.behind_ms = 8_000
        (gap,) = choose_gaps(path.series)
        path.asks(repair_gap(path.series, gap, path.repair_limits))
        path.commit()
        assert path.ledger(3).status is GapStatus.OPEN
    path.venue.behind_ms = 0
    path.repair()
    assert path.ledger(3).status is GapStatus.REPAIRED
    assert path.second(312).n == 1


def test_only_the_candles_of_a_long_repair_leave_half_of_the_budget() -> None:
    """A quiet pair's probe must not wait for others: it holds one of few places."""

    def candles(path: Path) -> list[AskKlines]:
        (gap,) = choose_gaps(path.series)
        asking, asked = repair_gap(path.series, gap, path.repair_limits), list[AskKlines]()
        ask: Ask | None = next(asking)
        while ask is not None:
            if isinstance(ask, AskKlines):
                asked.append(ask)
            try:
                ask = asking.send(path.venue.answer(ask, path.series.watermark_ms))
            except StopIteration:
                ask = None
        return asked

    quiet = settled([trade(1, 1), trade(2, 2_000)])
    quiet.cut()
    quiet.resume(15)
    quiet.to(19)
    quiet.commit()
    (probe,) = candles(quiet)
    assert (probe.limit, probe.background) == (1, False)
    busy = in_a_cut(200, BY_SECONDS)
    assert {ask.background for ask in candles(busy) if ask.interval == "1s"} == {True}


def test_the_fallbacks_seconds_before_a_first_start_stay() -> None:
    path = Path([trade(1, -50), trade(2, 7_270)])
    series = path.series = Series(path.series.stream, path.limits)
    for second in range(5, 7_200):
        series.note_fallback(T0 + second)
    series.resume(1000 * (T0 + 7_200))
    path.to(7_204)
    begin_at(series, 2, T0 + 7_140, 10**10)
    path.to(7_230)
    batch = Batch()
    series.drain(batch)
    assert all(c.from_s >= T0 + 7_140 for c in batch.clearances)


def test_what_lies_before_the_start_is_the_historys() -> None:
    """Ids that belong before the start, whatever made it begin too low, make no rows there."""
    path = Path([trade(1, -70), trade(2, -5), trade(3, -4), trade(4, 20)])
    path.venue.trades = [path.by_id[i] for i in (1, 4)]
    path.begin()
    path.series.ids.gaps.clear()
    path.series.ids.tail = None
    path.venue.trades = list(path.by_id.values())
    path.series.handover.start = (1, T0)
    path.series.ids.next_id = 2
    path.to(19)
    path.see(4)
    path.to(30)
    path.commit()
    path.repair()
    assert not path.series.ids.gaps
    assert [s - T0 for s in path.tables.footprints] == [20]


# ---- gaps


def in_a_cut(seconds: int, repair: RepairLimits) -> Path:
    """A busy symbol whose line was cut at 10 s and came back at `seconds` + 10 s."""
    path = Path(market(seconds + 60), repair=repair)
    path.see(*range(1, 21))
    path.to(10)
    path.repair()
    path.cut()
    end_s = seconds + 10
    path.resume(end_s)
    path.see(*range(2 * end_s + 1, 2 * end_s + 9))
    path.to(end_s + 4)
    path.commit()
    return path


def judge(path: Path, to_s: int) -> None:
    for width, table in ((1, path.tables.footprints), (60, path.tables.bars)):
        truth = recount(path.venue.trades, width)
        for at, (row, _) in table.items():
            assert not row.complete or row.n == truth[at]["n"], f"{width} s at {at - T0}: n {row.n}"
        assert {s for s in truth if s + width <= T0 + to_s} <= table.keys()


def attempt(path: Path) -> bool | None:
    """One try of every repair that is due; what the last of them said."""
    over: bool | None = None
    for gap in choose_gaps(path.series):
        asking = repair_gap(path.series, gap, path.repair_limits)
        over = drive(asking, path.venue, path.venue, path.series.watermark_ms)
    path.commit()
    return over


@pytest.mark.parametrize("repair", [RepairLimits(), BY_SECONDS, BARS_FIRST])
@pytest.mark.parametrize("behind_ms", [4_500, 7_500, 30_000, 130_000])
def test_a_gap_that_rest_has_not_passed_stays_open_and_untried(repair: RepairLimits, behind_ms: int) -> None:
    path = in_a_cut(300, repair)
    path.venue.behind_ms = behind_ms
    for _ in range(5):
        assert attempt(path) is False
    (gap,) = path.tables.gaps.values()
    assert (gap.status, gap.tries) == (GapStatus.OPEN, 0)
    judge(path, 10)
    path.venue.behind_ms = 0
    attempt(path)
    (gap,) = path.tables.gaps.values()
    assert (gap.status, gap.tries, gap.missing) == (GapStatus.REPAIRED, 0, ())
    judge(path, 310)


@pytest.mark.parametrize("repair", [BY_SECONDS, BARS_FIRST])
def test_candles_behind_the_trades_are_left_aside(repair: RepairLimits) -> None:
    """Each endpoint may lag by itself: the sum does not fit, and the trades are taken in their stead."""
    path = in_a_cut(300, repair)
    (gap,) = choose_gaps(path.series)
    late = Venue(path.venue.trades, behind_ms=40_500)
    assert drive(repair_gap(path.series, gap, repair), path.venue, late, path.series.watermark_ms) is False
    path.commit()
    judge(path, 10)
    attempt(path)
    (row,) = path.tables.gaps.values()
    assert (row.status, row.tries) == (GapStatus.REPAIRED, 1)
    judge(path, 310)


def test_a_long_gap_that_a_restart_finds_is_repaired_by_candles_at_once() -> None:
    path = in_a_cut(300, BY_SECONDS)
    path.restart()
    path.resume(320)
    path.see(*range(641, 651))
    path.to(330)
    path.commit()
    attempt(path)
    assert {(g.status, g.tries) for g in path.tables.gaps.values()} == {(GapStatus.REPAIRED, 0)}
    judge(path, 310)


def test_what_rest_never_reaches_is_left_for_an_operator() -> None:
    path = in_a_cut(20, RepairLimits())
    path.limits = path.series.limits = SeriesLimits(backfill_s=600)
    path.venue.behind_ms = 10_000_000
    assert attempt(path) is False
    path.to(300)
    assert attempt(path) is False
    path.to(634.5)
    assert attempt(path) is True
    (gap,) = path.series.ids.gaps
    assert gap.parked
    assert path.ledger(gap.from_id).status is GapStatus.OPEN


def quiet_cut() -> tuple[Path, Gap]:
    """Nothing was traded after a cut at 10 s, except what the cut hid."""
    path = settled([trade(1, 1), trade(2, 7), trade(3, 12), trade(4, 2_000)])
    path.see(2)
    path.to(10)
    path.cut()
    path.resume(15)
    path.to(19)
    path.commit()
    (gap,) = choose_gaps(path.series)
    return path, gap


def test_silence_after_a_cut_is_believed_once_rest_has_passed_it() -> None:
    path, gap = quiet_cut()
    path.venue.behind_ms = 8_000
    assert attempt(path) is False
    assert gap.status is GapStatus.OPEN
    path.venue.behind_ms = 2_000
    attempt(path)
    assert gap.status is GapStatus.REPAIRED
    path.to(25)
    path.commit()
    assert (path.second(12).n, path.second(12).complete) == (1, True)


def test_silence_of_a_halted_pair_is_believed_in_the_end() -> None:
    path, gap = quiet_cut()
    path.venue.behind_ms = 10**7  # as if no candle came any more
    assert attempt(path) is False
    path.to(19 + QUIET_AFTER_S)
    assert attempt(path) is False
    path.to(20 + QUIET_AFTER_S)
    attempt(path)
    assert gap.status is GapStatus.REPAIRED
    path.see(4)  # it was REST, after all: the next trade shows what is missing
    path.venue.behind_ms = 0
    path.to(2_010)
    path.commit()
    path.repair()
    assert (path.second(12).n, path.second(12).complete) == (1, True)


def test_a_late_trade_waits_until_rest_has_its_whole_minute() -> None:
    path = settled([trade(1, 1), trade(2, 20), trade(3, 70), trade(4, 71), trade(5, 1_000)])
    path.see(2)
    path.to(500)
    path.commit()
    path.see(3)
    path.to(510)
    path.commit()
    path.venue.behind_ms = 439_500  # in the minute of the late trade
    assert attempt(path) is False
    path.venue.behind_ms = 0
    attempt(path)
    path.repair()
    assert (path.bar(60).n, path.bar(60).complete) == (2, True)
