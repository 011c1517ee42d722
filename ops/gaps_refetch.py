"""Whole minutes fetched anew, and the proof that nothing is missing in them. No I/O: a generator that asks.

The venue counts its single trades without a hole, so the minutes between two of its trades hold exactly as many as the
two counts lie apart. Where its candles, of seconds and of minutes, add up to that and to each other, they are taken;
else the trades are listed one by one, and what is missing among them is named.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple

import msgspec

from common.errors import BadInput
from common.venues.binance_spot import SCALE
from common.venues.market import Kline, Trade
from ohlcv_ingestor.bars import Bar, fold_bricks, kline_bar
from ohlcv_ingestor.bricks import Brick, add_trade, settle_brick, start_brick
from ohlcv_ingestor.gaps import Run
from ohlcv_ingestor.repair import PAGE, Answer, Ask, AskKlines, AskTrades
from ohlcv_ingestor.ring import minute_of

SPAN_MAX_S = 960
"""Whole minutes whose seconds fit into one page of candles."""

_PRINTED_STEP = 10 ** (2 * SCALE - 8)
"""One unit of the venue's printed quote volumes (8 decimals), in units of twice the scale."""


class Edge(NamedTuple):
    """The first trade at or after a moment: its id, its first single trade, its time; None while there is none yet."""

    id: int
    first: int
    ms: int | None


class Hole(NamedTuple):
    """Ids from `from_id` to `to_id` that the venue has not; `from_ms` and `to_ms` are the trades around them.

    Without an id (`to_id` = `from_id` - 1) single trades are missing between two records that follow each other.
    """

    from_id: int
    to_id: int
    from_ms: int
    to_ms: int


class Span(msgspec.Struct, frozen=True):
    """All that the venue has of the whole minutes [from_s, to_s): seconds with trades, every minute, what it has not.

    `before` is the first trade of the span (or after it, if there is none), `after` the first one past it.
    """

    from_s: int
    to_s: int
    before: Edge
    after: Edge
    bricks: dict[int, Brick]
    bars: dict[int, Bar]
    holes: tuple[Hole, ...] = ()


def fetch_span(from_s: int, to_s: int, before: Edge | None = None) -> Generator[Ask, Answer, Span]:
    """Fetch whole minutes, at most SPAN_MAX_S; `before` spares a call where the last span's edge is known."""
    before = before or (yield from find_edge(from_s))
    after = yield from find_edge(to_s)
    minutes = (yield AskKlines("1m", from_s, to_s)).klines
    seconds = (yield AskKlines("1s", from_s, to_s)).klines
    bricks = {k.open_s: settle_brick(k) for k in seconds if k.n}
    bars = {k.open_s: kline_bar(k) for k in minutes}
    if after.first - before.first == sum(k.n for k in minutes) and _agree(minutes, bricks):
        return Span(from_s, to_s, before, after, bricks, bars)
    trades = yield from _list_trades(before, after)
    return judge_trades(from_s, to_s, before, after, trades, bars)


def find_edge(at_s: int) -> Generator[Ask, Answer, Edge]:
    """The first trade at or after a second; past the newest one, the ids that come next."""
    page = (yield AskTrades(start_ms=1000 * at_s, limit=1)).trades
    if page:
        return Edge(page[0].id, page[0].first, page[0].time_ms)
    newest = (yield AskTrades(limit=1)).trades
    if not newest:
        raise BadInput("the venue has no trade of this symbol")
    return Edge(newest[-1].id + 1, newest[-1].last + 1, None)


def judge_trades(
    from_s: int, to_s: int, before: Edge, after: Edge, trades: Sequence[Trade], candles: dict[int, Bar]
) -> Span:
    """Build the span from its trades; a minute without one is the venue's candle, which says where it stood."""
    bricks: dict[int, Brick] = {}
    for trade in trades:
        second = trade.time_ms // 1000
        if second in bricks:
            add_trade(bricks[second], trade)
        else:
            bricks[second] = start_brick(trade)
    by_minute = _by_minute(bricks)
    bars = candles | {minute: fold_bricks(minute, held) for minute, held in by_minute.items()}
    bars = {minute: bar for minute, bar in bars.items() if from_s <= minute < to_s}
    return Span(from_s, to_s, before, after, bricks, bars, tuple(find_holes(trades, before, after, from_s, to_s)))


def find_holes(trades: Sequence[Trade], before: Edge, after: Edge, from_s: int, to_s: int) -> Iterable[Hole]:
    """Where ids, or the single trades inside them, do not follow each other from one edge to the other."""
    ident, first, ms = before.id, before.first, 1000 * from_s
    for trade in trades:
        if (trade.id, trade.first) != (ident, first):
            yield Hole(ident, trade.id - 1, ms, trade.time_ms)
        ident, first, ms = trade.id + 1, trade.last + 1, trade.time_ms
    if (after.id, after.first) != (ident, first):
        yield Hole(ident, after.id - 1, ms, 1000 * to_s if after.ms is None else after.ms)


def holes_in(span: Span, from_id: int, to_id: int) -> list[Hole]:
    """The holes of a span that lie among the ids of a gap."""
    own: list[Hole] = []
    for hole in span.holes:
        if hole.to_id < hole.from_id:
            if from_id <= hole.from_id <= to_id + 1:
                own.append(hole)
        elif hole.from_id <= to_id and hole.to_id >= from_id:
            own.append(hole._replace(from_id=max(hole.from_id, from_id), to_id=min(hole.to_id, to_id)))
    return own


def runs_of(holes: Iterable[Hole]) -> tuple[Run, ...]:
    """Ids of holes, as the ledger writes them."""
    return tuple((hole.from_id, hole.to_id) for hole in holes if hole.from_id <= hole.to_id)


def _agree(minutes: Sequence[Kline], bricks: dict[int, Brick]) -> bool:
    """Do the candles of seconds fold into those of minutes? Quote volumes as near as the venue prints them."""
    held = _by_minute(bricks)
    for k in minutes:
        seconds = held.pop(k.open_s, None)
        if seconds is None:
            if k.n:
                return False
            continue
        told, folded = kline_bar(k), fold_bricks(k.open_s, seconds)
        slack = k.n * _PRINTED_STEP
        if abs(told.quote_vol - folded.quote_vol) > slack or abs(told.buy_quote_vol - folded.buy_quote_vol) > slack:
            return False
        if msgspec.structs.replace(folded, quote_vol=told.quote_vol, buy_quote_vol=told.buy_quote_vol) != told:
            return False
    return not held


def _by_minute(bricks: dict[int, Brick]) -> dict[int, dict[int, Brick]]:
    minutes: dict[int, dict[int, Brick]] = {}
    for second, brick in bricks.items():
        minutes.setdefault(minute_of(second), {})[second] = brick
    return minutes


def _list_trades(before: Edge, after: Edge) -> Generator[Ask, Answer, list[Trade]]:
    trades: list[Trade] = []
    at = before.id
    while at < after.id:
        page = (yield AskTrades(from_id=at)).trades
        trades += [t for t in page if t.id < after.id]
        if len(page) < PAGE:
            break
        at = page[-1].id + 1
    return trades
