"""A bar: one minute of one symbol, the fold of its bricks, or flat at the previous close."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from common.contracts import BarRow
from common.numbers import format_scaled
from common.venues.market import Kline
from ohlcv_ingestor.bricks import Brick


class Bar(msgspec.Struct, frozen=True, gc=False):
    """One minute; prices and volumes in the venue's scale, quote volumes in twice that scale."""

    minute: int
    o: int
    h: int
    l: int  # noqa: E741 - the seed's column
    c: int
    v: int
    n: int
    quote_vol: int
    buy_vol: int
    buy_quote_vol: int


def fold_bricks(minute: int, bricks: Mapping[int, Brick]) -> Bar:
    """Fold the bricks of one minute (at least one, keyed by second) into its bar."""
    ordered = [bricks[s] for s in sorted(bricks)]
    high, low, buy, sell, buy_quote, sell_quote, n = ordered[0].high, ordered[0].low, 0, 0, 0, 0, 0
    for b in ordered:
        if b.high > high:
            high = b.high
        if b.low < low:
            low = b.low
        buy += b.buy_vol
        sell += b.sell_vol
        buy_quote += b.buy_quote
        sell_quote += b.sell_quote
        n += b.n
    o, c = ordered[0].open, ordered[-1].close
    return Bar(minute, o, high, low, c, buy + sell, n, buy_quote + sell_quote, buy, buy_quote)


def flat_bar(minute: int, close: int) -> Bar:
    """Bar of a minute without a trade: the previous close of the same venue, no volume."""
    return Bar(minute, close, close, close, close, 0, 0, 0, 0, 0)


def kline_bar(k: Kline) -> Bar:
    """Bar of a closed 1 m kline."""
    return Bar(k.open_s, k.open, k.high, k.low, k.close, k.vol, k.n, k.quote_vol, k.buy_vol, k.buy_quote_vol)


def bar_row(b: Bar, symbol: str, source: str, scale: int, complete: bool, grade: int) -> BarRow:
    """Row of a closed minute."""
    return BarRow(
        time=b.minute, symbol=symbol,
        o=format_scaled(b.o, scale), h=format_scaled(b.h, scale),
        l=format_scaled(b.l, scale), c=format_scaled(b.c, scale),
        v=format_scaled(b.v, scale), n=b.n, quote_vol=format_scaled(b.quote_vol, 2 * scale),
        buy_vol=format_scaled(b.buy_vol, scale), buy_quote_vol=format_scaled(b.buy_quote_vol, 2 * scale),
        source=source, complete=complete, grade=grade,
    )  # fmt: skip
