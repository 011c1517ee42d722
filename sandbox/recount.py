"""The judge: seconds, bars and candles counted again from every trade of the venue.

Nothing here is shared with the services. Sums are whole numbers of 1e-8 (quantities) and 1e-16 (quote volumes);
Decimal only writes them down.
"""

from __future__ import annotations

import asyncio
import decimal
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from decimal import Decimal
from itertools import groupby
from typing import NamedTuple

from sandbox.market import Market
from sandbox.trades import Trade

MINUTES_KEPT = 6_000
BREATH_S = 0.005  # a long recount lets the stream run on every so often
_EXACT = decimal.Context(prec=100)
_CENT8 = Decimal("1e-8")


class Span(NamedTuple):
    """Everything traded in one second, minute or day that begins at `time` (epoch seconds)."""

    time: int
    open: int
    high: int
    low: int
    close: int
    buy_vol: int
    sell_vol: int
    buy_quote: int
    sell_quote: int
    n: int
    first_id: int
    last_id: int


def fold_trades(time_s: int, trades: Sequence[Trade]) -> Span:
    """One span out of its trades (at least one), by id."""
    prices = [trade.price for trade in trades]
    bought = [trade for trade in trades if not trade.maker]
    sold = [trade for trade in trades if trade.maker]
    return Span(
        time_s,
        prices[0],
        max(prices),
        min(prices),
        prices[-1],
        sum(trade.qty for trade in bought),
        sum(trade.qty for trade in sold),
        sum(trade.price * trade.qty for trade in bought),
        sum(trade.price * trade.qty for trade in sold),
        sum(trade.last - trade.first + 1 for trade in trades),
        trades[0].id,
        trades[-1].id,
    )


def join_spans(time_s: int, spans: Sequence[Span]) -> Span:
    """One longer span out of shorter ones (at least one), by time."""
    return Span(
        time_s,
        spans[0].open,
        max(span.high for span in spans),
        min(span.low for span in spans),
        spans[-1].close,
        sum(span.buy_vol for span in spans),
        sum(span.sell_vol for span in spans),
        sum(span.buy_quote for span in spans),
        sum(span.sell_quote for span in spans),
        sum(span.n for span in spans),
        spans[0].first_id,
        spans[-1].last_id,
    )


def flat_span(time_s: int, close: int) -> Span:
    """A span without a trade: it stands at the close before it."""
    return Span(time_s, close, close, close, close, 0, 0, 0, 0, 0, -1, -1)


def write_number(units: int, places: int) -> str:
    """Shortest decimal text of `units` x 10**-places."""
    text = format(_EXACT.scaleb(Decimal(units), -places), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def write_eight(units: int, places: int) -> str:
    """Decimal text with exactly eight decimals, the half rounded to even, as a venue prints it."""
    return format(_EXACT.scaleb(Decimal(units), -places).quantize(_CENT8, decimal.ROUND_HALF_EVEN, _EXACT), "f")


def footprint_row(span: Span) -> dict[str, object]:
    """A second as the oracle tells it."""
    return {
        "time": span.time,
        "open": write_number(span.open, 8),
        "high": write_number(span.high, 8),
        "low": write_number(span.low, 8),
        "close": write_number(span.close, 8),
        "buy_vol": write_number(span.buy_vol, 8),
        "sell_vol": write_number(span.sell_vol, 8),
        "buy_quote": write_number(span.buy_quote, 16),
        "sell_quote": write_number(span.sell_quote, 16),
        "n": span.n,
        "first_id": span.first_id,
        "last_id": span.last_id,
    }


def bar_row(span: Span) -> dict[str, object]:
    """A minute as the oracle tells it."""
    return {
        "time": span.time,
        "o": write_number(span.open, 8),
        "h": write_number(span.high, 8),
        "l": write_number(span.low, 8),
        "c": write_number(span.close, 8),
        "v": write_number(span.buy_vol + span.sell_vol, 8),
        "n": span.n,
        "quote_vol": write_number(span.buy_quote + span.sell_quote, 16),
        "buy_vol": write_number(span.buy_vol, 8),
        "buy_quote_vol": write_number(span.buy_quote, 16),
    }


def kline_row(span: Span, length_s: int) -> list[object]:
    """A span as REST klines print it, twelve columns."""
    return [
        span.time * 1000,
        *(write_eight(price, 8) for price in (span.open, span.high, span.low, span.close)),
        write_eight(span.buy_vol + span.sell_vol, 8),
        (span.time + length_s) * 1000 - 1,
        write_eight(span.buy_quote + span.sell_quote, 16),
        span.n,
        write_eight(span.buy_vol, 8),
        write_eight(span.buy_quote, 16),
        "0",
    ]


class Recount:
    """Spans of a market up to a moment, remembered by minute.

    All times are epoch seconds, ranges half-open; `now_ms` is the last visible moment, so the span in which it lies
    holds what has been traded so far.
    """

    def __init__(self, market: Market) -> None:
        self._market = market
        self._version = market.version
        self._minutes: OrderedDict[tuple[str, int], tuple[Span, ...]] = OrderedDict()

    def _minute(self, symbol: str, minute_s: int, now_ms: int) -> tuple[Span, ...]:
        if self._version != self._market.version:
            self._minutes.clear()
            self._version = self._market.version
        key, end_ms = (symbol, minute_s), (minute_s + 60) * 1000
        if end_ms <= now_ms and key in self._minutes:
            return self._minutes[key]
        trades = self._market.between(symbol, minute_s * 1000, min(end_ms, now_ms + 1))
        spans = tuple(
            fold_trades(second, list(group))
            for second, group in groupby(trades, key=lambda trade: trade.time_ms // 1000)
        )
        if end_ms <= now_ms:
            self._minutes[key] = spans
            if len(self._minutes) > MINUTES_KEPT:
                self._minutes.popitem(last=False)
        return spans

    async def seconds(self, symbol: str, from_s: int, to_s: int, now_ms: int) -> AsyncIterator[Span]:
        """Every second with a trade."""
        first = self._market.source.first_ms(symbol)
        if first is None:
            return
        breath = time.monotonic()
        for minute in range(max(from_s, first // 1000) // 60 * 60, min(to_s, now_ms // 1000 + 1), 60):
            for span in self._minute(symbol, minute, now_ms):
                if from_s <= span.time < to_s:
                    yield span
            if time.monotonic() - breath > BREATH_S:
                await asyncio.sleep(0)
                breath = time.monotonic()

    async def spans(
        self, symbol: str, length_s: int, from_s: int, to_s: int, now_ms: int, limit: int | None = None
    ) -> list[Span]:
        """Every span of `length_s` that opens in the range, empty ones flat; none before the first trade ever.

        With a limit, the first so many: a long range then costs no more than its answer.
        """
        opening = self._opening(symbol, length_s, from_s, now_ms)
        if opening is None:
            return []
        at, close = opening
        end = min(to_s, now_ms // 1000 + 1)
        if limit is not None:
            end = min(end, at + limit * length_s)
        found: list[Span] = []
        pending: list[Span] = []
        async for second in self.seconds(symbol, at, -(-end // length_s) * length_s, now_ms):
            while second.time >= at + length_s:
                at, close = self._close_span(found, at, length_s, pending, close)
            pending.append(second)
        while at < end:
            at, close = self._close_span(found, at, length_s, pending, close)
        return found

    def _opening(self, symbol: str, length_s: int, from_s: int, now_ms: int) -> tuple[int, int] | None:
        """Where the first span of a range opens and the close before it; None when there is nothing yet."""
        at = -(-from_s // length_s) * length_s
        earlier = self._market.before(symbol, min(at * 1000, now_ms + 1), 1)
        if earlier:
            return at, earlier[-1].price
        first = self._market.from_id(symbol, 0, 1, now_ms)
        if not first:
            return None
        return max(at, first[0].time_ms // 1000 // length_s * length_s), first[0].price

    @staticmethod
    def _close_span(found: list[Span], at: int, length_s: int, pending: list[Span], close: int) -> tuple[int, int]:
        span = join_spans(at, pending) if pending else flat_span(at, close)
        found.append(span)
        pending.clear()
        return at + length_s, span.close


async def collect(spans: AsyncIterator[Span]) -> list[Span]:
    """A list of what an iteration yields."""
    return [span async for span in spans]


def total_of(spans: Iterable[Span]) -> int:
    """How many single trades some spans hold."""
    return sum(span.n for span in spans)
