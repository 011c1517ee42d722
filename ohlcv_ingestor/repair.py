"""How gaps are repaired: what to ask the venue, and what its answers mean. No I/O: generators that ask.

Each generator yields an `Ask` and is sent an `Answer`; whoever drives it does the REST calls. Rules: by id up to
`repair_ids_max` missing ids, above that by 1 s klines for the seconds strictly inside and by trades for the two
boundary seconds; spans over `bars_first_s` get their 1 m klines first. Nothing is asked that is not settled.

REST may lag behind the stream by more than that. So an answer counts only once REST has proven to have reached the end
of what was asked: it shows an id, or a candle, from there on. A candle is whole if a later one is shown with it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from common.venues.market import Kline, Trade
from ohlcv_ingestor.gaps import Gap
from ohlcv_ingestor.restoring import (
    leave_behind,
    narrow_gap,
    restore_bars,
    restore_seconds,
    restore_trades,
    settle_gap,
)
from ohlcv_ingestor.ring import minute_of
from ohlcv_ingestor.series import Series

PAGE = 1_000
"""Records the venue returns at most (Binance aggTrades and klines)."""

QUIET_AFTER_S = 240
"""Venue time after which a REST side that shows nothing newer of a pair is not behind: the pair is halted.

A pair that is traded has a candle for every second, a quiet one flat ones; for one that is halted none may come.
"""


@dataclass(frozen=True)
class AskTrades:
    """Trades from an id on, or of a span of time, oldest first; with neither, the newest one."""

    from_id: int | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    limit: int = PAGE


@dataclass(frozen=True)
class AskKlines:
    """Klines that open in [from_s, to_s), at most `limit`; the last one may still be open.

    `background`: a long repair, which leaves half of the budget to what is waited for.
    """

    interval: str
    from_s: int
    to_s: int
    limit: int = PAGE
    background: bool = False


@dataclass(frozen=True)
class Answer:
    """What the venue said; one of the two is empty."""

    trades: list[Trade] = field(default_factory=lambda: list[Trade]())
    klines: list[Kline] = field(default_factory=lambda: list[Kline]())


Ask = AskTrades | AskKlines
Asking = Generator[Ask, Answer, None]


@dataclass(frozen=True)
class RepairLimits:
    """When a gap is too long for its repair by ids, and when its bars go first."""

    repair_ids_max: int = 5_000
    bars_first_s: int = 1_000


def repair_gap(series: Series, gap: Gap, limits: RepairLimits) -> Generator[Ask, Answer, bool]:
    """Repair one gap; true when it ended or was handed on, false when it must be tried again later."""
    gap.worked = True
    if gap.reason == "late":
        reached = yield from _refetch_minutes(series, gap)
        return settle_gap(series, gap) if reached else leave_behind(series, gap)
    if not (gap.narrowed or gap.tries) and gap.from_ms < series.watermark_ms - 1000 * (series.limits.backfill_s + 60):
        reached = yield from _narrow(series, gap)
        return reached or leave_behind(series, gap)
    reached = True
    if gap.missing:
        if gap.missing_ids() > limits.repair_ids_max and _by_seconds(gap):
            reached = yield from _by_klines(series, gap, limits)
        else:
            reached = yield from _by_ids(series, gap)
    if reached and gap.to_id is None:
        probe_ms = gap.probe_ms
        reached = yield from _probe(series, gap)
        if gap is not series.ids.tail or gap.probe_ms is None or gap.probe_ms != probe_ms:
            return True  # bounded or lost again meanwhile: it comes up anew
    return settle_gap(series, gap) if reached else leave_behind(series, gap)


def check_silence(series: Series) -> Generator[Ask, Answer, bool]:
    """Ask whether a silent symbol is quiet; true when the venue has settled trades that its stream did not deliver.

    A stream can be acknowledged and never pushed, or stop on a healthy connection: only the venue's ids tell.
    """
    settled_ms = series.watermark_ms - 1000 * series.limits.settle_s
    if series.ids.next_id is None:
        return False
    page = (yield AskTrades(from_id=series.ids.next_id)).trades
    missed = any(t.time_ms <= settled_ms and t.id >= series.ids.next_id for t in page)
    series.checked_ms = settled_ms
    if missed:
        series.doubt("stalled")
    return missed


def _by_seconds(gap: Gap) -> bool:
    """Klines help where whole seconds lie inside; after a sum that did not fit, ids tell what the venue lacks."""
    return gap.tries == 0 and gap.to_ms is not None and gap.to_ms // 1000 - gap.from_ms // 1000 > 1


def _note_previous(gap: Gap, page: list[Trade]) -> None:
    """After a restart the trade before the gap is known only by what the venue says of it."""
    if gap.prev_last is None and page and page[0].id == gap.from_id - 1:
        gap.prev_last = page[0].last


def _by_ids(series: Series, gap: Gap) -> Generator[Ask, Answer, bool]:
    """Trades of the missing ids; false while REST has not reached the last of them."""
    for first, last in list(gap.missing):
        at = first - 1 if gap.prev_last is None and first == gap.from_id and first > 0 else first
        while at <= last:
            page = (yield AskTrades(from_id=at)).trades
            _note_previous(gap, page)
            restore_trades(series, gap, [t for t in page if first <= t.id <= last])
            if not page or (len(page) < PAGE and page[-1].id < last):
                return False  # the trade after a gap is known, so REST will show an id from there on
            at = page[-1].id + 1
    return True


def _probe(series: Series, gap: Gap) -> Generator[Ask, Answer, bool]:
    """Ask what followed the last id, up to where live coverage began again; false while REST has not reached that."""
    ids = series.ids
    while gap is ids.tail and gap.probe_ms is not None and ids.next_id is not None:
        # Asked for before the trades: what these lack was then not traded.
        since_s = -(-gap.probe_ms // 1000)
        shown = bool((yield AskKlines("1s", since_s, since_s + PAGE, limit=1)).klines)
        back = gap.prev_last is None and ids.next_id == gap.from_id and gap.from_id > 0
        page = (yield AskTrades(from_id=ids.next_id - 1 if back else ids.next_id)).trades
        _note_previous(gap, page)
        restore_trades(series, gap, page)
        if page and page[-1].time_ms >= (gap.probe_ms or 0):
            return True
        if len(page) < PAGE:
            return shown or _is_halted(series, gap)
    return True


def _is_halted(series: Series, gap: Gap) -> bool:
    return gap.behind_ms is not None and series.watermark_ms - gap.behind_ms > 1000 * QUIET_AFTER_S


def _by_klines(series: Series, gap: Gap, limits: RepairLimits) -> Generator[Ask, Answer, bool]:
    """Seconds strictly inside by 1 s klines, the two boundary seconds by their trades, and the sum must fit.

    Candles are put in only then: after a sum that does not fit the trades are fetched, and a candle would bar them.
    False while REST has not reached the gap's last id.
    """
    if gap.to_ms is None or gap.to_id is None:
        return True
    ahead = (yield AskTrades(from_id=gap.to_id, limit=2)).trades
    if not ahead:
        return False
    from_s, to_s = gap.from_ms // 1000, gap.to_ms // 1000
    if to_s - from_s > limits.bars_first_s:
        yield from _bars_first(series, minute_of(from_s) + 60, minute_of(to_s))
    total = yield from _first_second(series, gap, from_s)
    klines: list[Kline] = []
    at = from_s + 1
    while at < to_s:
        end = min(to_s, minute_of(at) + 960)
        klines += (yield AskKlines("1s", at, end, background=True)).klines
        at = end
    total += sum(k.n for k in klines)
    total += yield from _last_second(series, gap, to_s)
    # After a restart the trade behind the gap, as the one before it, is known only by what the venue says of it.
    told = next((t.first for t in ahead if t.id == gap.to_id + 1), None)
    next_first = told if gap.next_first is None else gap.next_first
    if gap.prev_last is not None and next_first is not None and total == next_first - gap.prev_last - 1:
        restore_seconds(series, klines, from_s + 1, to_s)
        gap.missing, gap.restored_n = [], total
    return True


def _bars_first(series: Series, from_s: int, to_s: int) -> Asking:
    """Whole minutes of a long gap ahead of their seconds, as far as a later candle proves each of them closed."""
    at = from_s
    while at < to_s:
        klines = (yield AskKlines("1m", at, at + 60 * PAGE)).klines
        restore_bars(series, [k for k in klines[:-1] if k.open_s < to_s])
        if len(klines) < PAGE:
            return
        at = klines[-1].open_s


def _first_second(series: Series, gap: Gap, second: int) -> Generator[Ask, Answer, int]:
    total, at, to_id = 0, gap.from_id - 1 if gap.prev_last is None and gap.from_id > 0 else gap.from_id, gap.to_id or 0
    while True:
        page = (yield AskTrades(from_id=at)).trades
        _note_previous(gap, page)
        mine = [t for t in page if gap.from_id <= t.id <= to_id and t.time_ms < 1000 * (second + 1)]
        total += sum(t.n for t in mine)
        restore_trades(series, gap, mine)
        if len(page) < PAGE or page[-1].id >= to_id or page[-1].time_ms >= 1000 * (second + 1):
            return total
        at = page[-1].id + 1


def _last_second(series: Series, gap: Gap, second: int) -> Generator[Ask, Answer, int]:
    total, to_id = 0, gap.to_id or 0
    page = (yield AskTrades(start_ms=1000 * second, end_ms=1000 * second + 999)).trades
    while True:
        mine = [t for t in page if gap.from_id <= t.id <= to_id and t.time_ms >= 1000 * second]
        total += sum(t.n for t in mine)
        restore_trades(series, gap, mine)
        if len(page) < PAGE or page[-1].id >= to_id:
            return total
        page = (yield AskTrades(from_id=page[-1].id + 1)).trades


def _refetch_minutes(series: Series, gap: Gap) -> Generator[Ask, Answer, bool]:
    """A trade older than the ring: its whole minute is taken anew, second by second, and the bars since then.

    False while REST has not reached the minute's end.
    """
    minute = minute_of(gap.from_ms // 1000)
    klines = (yield AskKlines("1s", minute, minute + PAGE)).klines
    if not klines or klines[-1].open_s < minute + 60:
        return False
    klines = [k for k in klines if k.open_s < minute + 60]
    settled_s = minute_of(series.watermark_ms // 1000 - series.limits.settle_s)
    since = (yield AskKlines("1m", minute + 60, min(settled_s, minute + 60 * PAGE) + 60)).klines[:-1]
    restore_seconds(series, klines, minute, minute + 60)
    restore_bars(series, [k for k in since if k.open_s < settled_s and k.open_s not in series.ring.minutes])
    if any(k.n and 1000 * k.open_s <= gap.from_ms < 1000 * (k.open_s + 1) for k in klines):
        gap.missing = []
    return True


def _narrow(series: Series, gap: Gap) -> Generator[Ask, Answer, bool]:
    """Leave what is older than the backfill span in the ledger and go on with the rest; false while REST is behind."""
    from_s = minute_of(series.watermark_ms // 1000 - series.limits.backfill_s)
    gap.recorded = True
    if gap.to_ms is not None and gap.to_ms < 1000 * from_s:
        gap.parked = True  # all of it is older
        return True
    page = (yield AskTrades(start_ms=1000 * from_s, limit=1)).trades
    if page:
        first_id = page[0].id
    elif gap.to_id is not None and (series.ids.next_id or 0) > gap.to_id + 1:
        return False  # the trade after it is younger than that
    else:
        newest = (yield AskTrades(limit=1)).trades
        first_id = newest[-1].id + 1 if newest and newest[-1].time_ms < 1000 * from_s else gap.from_id
    if first_id <= gap.from_id or (gap is series.ids.tail and (series.ids.next_id or 0) > gap.from_id):
        gap.narrowed = True  # nothing was traded before, as its ids prove, or its older part was restored already
        return True
    klines = (yield AskKlines("1m", from_s - 60, from_s)).klines
    narrow_gap(series, gap, first_id, from_s, klines[-1].close if klines else None)
    return True
