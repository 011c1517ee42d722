"""How gaps are repaired: what to ask the venue, and what its answers mean. No I/O: generators that ask.

Each generator yields an `Ask` and is sent an `Answer`; whoever drives it does the REST calls. Rules: by id up to
`repair_ids_max` missing ids, above that by 1 s klines for the seconds strictly inside and by trades for the two
boundary seconds; spans over `bars_first_s` get their 1 m klines first. Nothing is asked that is not settled.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from common.venues.market import Kline, Trade
from ohlcv_ingestor.gaps import Gap
from ohlcv_ingestor.restoring import narrow_gap, restore_bars, restore_seconds, restore_trades, settle_gap
from ohlcv_ingestor.ring import minute_of
from ohlcv_ingestor.series import Series

PAGE = 1_000
"""Records the venue returns at most (Binance aggTrades and klines)."""


@dataclass(frozen=True)
class AskTrades:
    """Trades from an id on, or of a span of time, oldest first; with neither, the newest one."""

    from_id: int | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    limit: int = PAGE


@dataclass(frozen=True)
class AskKlines:
    """Closed klines that open in [from_s, to_s); at most a page."""

    interval: str
    from_s: int
    to_s: int


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


@dataclass(frozen=True)
class Start:
    """Where a first subscription begins: the first trade since a minute, the close before it, the bars before it."""

    first_id: int
    from_s: int
    close: int | None
    history: list[Kline]


def repair_gap(series: Series, gap: Gap, limits: RepairLimits) -> Generator[Ask, Answer, bool]:
    """Repair one gap; true when it ended or was handed on, false when it must be tried again later."""
    gap.worked = True
    if gap.reason == "late":
        yield from _refetch_minutes(series, gap)
        return settle_gap(series, gap)
    if not (gap.narrowed or gap.tries) and gap.from_ms < series.watermark_ms - 1000 * (series.limits.backfill_s + 60):
        yield from _narrow(series, gap)
        return True
    if gap.missing:
        if gap.missing_ids() > limits.repair_ids_max and _by_seconds(gap):
            yield from _by_klines(series, gap, limits)
        else:
            yield from _by_ids(series, gap)
    if gap.to_id is None:
        probe_ms = gap.probe_ms
        yield from _probe(series, gap)
        if gap is not series.ids.tail or gap.probe_ms is None or gap.probe_ms != probe_ms:
            return True  # bounded or lost again meanwhile: it comes up anew
    return settle_gap(series, gap)


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


def begin_symbol(from_s: int, history_s: int) -> Generator[Ask, Answer, Start | None]:
    """Find the start of a first subscription at a settled minute; None while the venue has no trade at all."""
    first_id: int | None = None
    while first_id is None:
        since = (yield AskTrades(start_ms=1000 * from_s, limit=1)).trades
        if since:
            first_id = since[0].id
            break
        newest = (yield AskTrades(limit=1)).trades
        if not newest:
            return None
        if newest[-1].time_ms < 1000 * from_s:
            first_id = newest[-1].id + 1
    history = (yield AskKlines("1m", from_s - history_s, from_s)).klines
    history = [k for k in history if k.open_s + 60 <= from_s]
    return Start(first_id, from_s, history[-1].close if history else None, history)


def _by_seconds(gap: Gap) -> bool:
    """Klines help where whole seconds lie inside; after a sum that did not fit, ids tell what the venue lacks."""
    return gap.tries == 0 and gap.to_ms is not None and gap.to_ms // 1000 - gap.from_ms // 1000 > 1


def _note_previous(gap: Gap, page: list[Trade]) -> None:
    """After a restart the trade before the gap is known only by what the venue says of it."""
    if gap.prev_last is None and page and page[0].id == gap.from_id - 1:
        gap.prev_last = page[0].last


def _by_ids(series: Series, gap: Gap) -> Asking:
    for first, last in list(gap.missing):
        at = first - 1 if gap.prev_last is None and first == gap.from_id and first > 0 else first
        while at <= last:
            page = (yield AskTrades(from_id=at)).trades
            _note_previous(gap, page)
            restore_trades(series, gap, [t for t in page if first <= t.id <= last])
            if len(page) < PAGE:
                break
            at = page[-1].id + 1


def _probe(series: Series, gap: Gap) -> Asking:
    """Ask what followed the last id, up to where live coverage began again."""
    ids = series.ids
    while gap is ids.tail and gap.probe_ms is not None and ids.next_id is not None:
        back = gap.prev_last is None and ids.next_id == gap.from_id and gap.from_id > 0
        page = (yield AskTrades(from_id=ids.next_id - 1 if back else ids.next_id)).trades
        _note_previous(gap, page)
        restore_trades(series, gap, page)
        if len(page) < PAGE or page[-1].time_ms >= (gap.probe_ms or 0):
            return


def _by_klines(series: Series, gap: Gap, limits: RepairLimits) -> Asking:
    """Seconds strictly inside by 1 s klines, the two boundary seconds by their trades, and the sum must fit."""
    if gap.to_ms is None or gap.to_id is None:
        return
    from_s, to_s = gap.from_ms // 1000, gap.to_ms // 1000
    if to_s - from_s > limits.bars_first_s:
        first, last = minute_of(from_s) + 60, minute_of(to_s)
        for at in range(first, last, 60 * PAGE):
            restore_bars(series, (yield AskKlines("1m", at, min(last, at + 60 * PAGE))).klines)
    total = yield from _first_second(series, gap, from_s)
    at = from_s + 1
    while at < to_s:
        end = min(to_s, minute_of(at) + 960)
        klines = (yield AskKlines("1s", at, end)).klines
        restore_seconds(series, klines, at, end)
        total += sum(k.n for k in klines)
        at = end
    total += yield from _last_second(series, gap, to_s)
    expected = None if gap.prev_last is None or gap.next_first is None else gap.next_first - gap.prev_last - 1
    if total == expected:
        gap.missing, gap.restored_n = [], total


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


def _refetch_minutes(series: Series, gap: Gap) -> Asking:
    """A trade older than the ring: its whole minute is taken anew, second by second, and the bars since then."""
    minute = minute_of(gap.from_ms // 1000)
    klines = (yield AskKlines("1s", minute, minute + 60)).klines
    settled_s = minute_of(series.watermark_ms // 1000 - series.limits.settle_s)
    since = (yield AskKlines("1m", minute + 60, min(settled_s, minute + 60 * PAGE))).klines
    restore_seconds(series, klines, minute, minute + 60)
    restore_bars(series, [k for k in since if k.open_s not in series.ring.minutes])
    if any(k.n and 1000 * k.open_s <= gap.from_ms < 1000 * (k.open_s + 1) for k in klines):
        gap.missing = []


def _narrow(series: Series, gap: Gap) -> Asking:
    """Leave what is older than the backfill span in the ledger and go on with the rest."""
    from_s = minute_of(series.watermark_ms // 1000 - series.limits.backfill_s)
    gap.recorded = True
    if gap.to_ms is not None and gap.to_ms < 1000 * from_s:
        gap.parked = True  # all of it is older
        return
    page = (yield AskTrades(start_ms=1000 * from_s, limit=1)).trades
    if page:
        first_id = page[0].id
    else:
        newest = (yield AskTrades(limit=1)).trades
        first_id = newest[-1].id + 1 if newest and newest[-1].time_ms < 1000 * from_s else gap.from_id
    if first_id <= gap.from_id or (gap is series.ids.tail and (series.ids.next_id or 0) > gap.from_id):
        gap.narrowed = True  # nothing was traded before, as its ids prove, or its older part was restored already
        return
    klines = (yield AskKlines("1m", from_s - 60, from_s)).klines
    narrow_gap(series, gap, first_id, from_s, klines[-1].close if klines else None)
