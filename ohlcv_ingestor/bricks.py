"""A brick: one second of one symbol, built from trades in any order or taken whole from a 1 s kline."""

from __future__ import annotations

import msgspec

from common.contracts import FootprintRow
from common.numbers import format_scaled
from common.venues.market import Kline, Trade


class Brick(msgspec.Struct, gc=False):
    """One second of trades; prices and volumes in the venue's scale, quote volumes in twice that scale.

    `first_id` and `last_id` are aggTrade ids; `settled` bricks came whole from a kline and have none.
    """

    second: int
    open: int
    high: int
    low: int
    close: int
    buy_vol: int
    sell_vol: int
    buy_quote: int
    sell_quote: int
    n: int
    first_id: int | None
    last_id: int | None
    settled: bool = False


def start_brick(t: Trade) -> Brick:
    """Brick holding one trade."""
    price, qty, quote = t.price, t.qty, t.price * t.qty
    second, n = t.time_ms // 1000, t.last - t.first + 1
    if t.buy:
        return Brick(second, price, price, price, price, qty, 0, quote, 0, n, t.id, t.id)
    return Brick(second, price, price, price, price, 0, qty, 0, quote, n, t.id, t.id)


def add_trade(b: Brick, t: Trade) -> bool:
    """Add a trade the brick does not hold yet; order does not matter, because open belongs to the lowest id.

    Returns false, changing nothing, where a kline already settled the second.
    """
    last_id, first_id = b.last_id, b.first_id
    if last_id is None or first_id is None or b.settled:
        return False
    price, qty, ident = t.price, t.qty, t.id
    if ident > last_id:
        b.last_id, b.close = ident, price
    elif ident < first_id:
        b.first_id, b.open = ident, price
    if price > b.high:
        b.high = price
    elif price < b.low:
        b.low = price
    if t.buy:
        b.buy_vol += qty
        b.buy_quote += price * qty
    else:
        b.sell_vol += qty
        b.sell_quote += price * qty
    b.n += t.last - t.first + 1
    return True


def settle_brick(k: Kline) -> Brick:
    """Brick of a closed 1 s kline with trades: what takers did not buy, they sold."""
    return Brick(
        k.open_s, k.open, k.high, k.low, k.close,
        k.buy_vol, k.vol - k.buy_vol, k.buy_quote_vol, k.quote_vol - k.buy_quote_vol,
        k.n, None, None, True,
    )  # fmt: skip


def footprint_row(b: Brick, symbol: str, source: str, scale: int, complete: bool, grade: int) -> FootprintRow:
    """Row of a closed second."""
    return FootprintRow(
        time=b.second, symbol=symbol,
        open=format_scaled(b.open, scale), high=format_scaled(b.high, scale),
        low=format_scaled(b.low, scale), close=format_scaled(b.close, scale),
        buy_vol=format_scaled(b.buy_vol, scale), sell_vol=format_scaled(b.sell_vol, scale),
        buy_quote=format_scaled(b.buy_quote, 2 * scale), sell_quote=format_scaled(b.sell_quote, 2 * scale),
        n=b.n, first_id=b.first_id, last_id=b.last_id, source=source, complete=complete, grade=grade,
    )  # fmt: skip
