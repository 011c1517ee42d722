"""Binance spot, the REST answers about all pairs at once: what is listed, 24 hours of it, its best bid and ask.

Rules come from github.com/binance/binance-spot-api-docs, `rest-api.md`. A pair whose row can not be read in part has
None there: one odd row among two thousand must not hide the others.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Annotated, TypeVar

import msgspec

from common.errors import BadInput
from common.venues.market import Request

LEVERAGED = "LEVERAGED"
"""The permission that marks leveraged tokens."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Word = Annotated[str, msgspec.Meta(max_length=64)]
_Ms = Annotated[int, msgspec.Meta(ge=0, lt=10**14)]
# The venue sends "" and null where it does not know.
_Number = Annotated[str, msgspec.Meta(max_length=60)] | None

_T = TypeVar("_T")

# Besides DecodeError msgspec lets out text that is not UTF-8, and JSON nested too deep.
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class SpotPair(msgspec.Struct, frozen=True):
    """One pair of exchangeInfo; `status` is the venue's own word, an open set of which only TRADING is live.

    `leveraged` is what its permissions say; `spot` whether it is traded on the spot market at all.
    """

    symbol: str
    base: str
    quote: str
    status: str
    tick_size: Decimal | None
    spot: bool
    leveraged: bool


class SpotListing(msgspec.Struct, frozen=True):
    """Every pair, and the venue's time in epoch milliseconds."""

    server_ms: int
    pairs: list[SpotPair]


class DayTicker(msgspec.Struct, frozen=True):
    """24 hours of one pair; volume in the quote coin, None where the venue does not say."""

    symbol: str
    last: Decimal | None
    move_pct: Decimal | None
    quote_volume: Decimal | None


class BookTop(msgspec.Struct, frozen=True):
    """Best bid and ask of one pair, None where nothing is offered; the venue gives no time with it."""

    symbol: str
    bid: Decimal | None
    ask: Decimal | None


class _Filter(msgspec.Struct, gc=False):
    filterType: str = ""
    tickSize: _Number = None


class _PairRow(msgspec.Struct, gc=False):
    """{"symbol":"BTCUSDT","status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT","filters":[..],..}."""

    symbol: _Name
    status: _Word
    baseAsset: _Name
    quoteAsset: _Name
    filters: list[_Filter] = []
    isSpotTradingAllowed: bool = True
    permissions: list[str] = []
    permissionSets: list[list[str]] = []


class _Info(msgspec.Struct, gc=False):
    serverTime: _Ms
    symbols: list[_PairRow]


class _DayRow(msgspec.Struct, gc=False):
    """{"symbol":"BTCUSDT","priceChangePercent":"0.013","lastPrice":"91234.56","quoteVolume":"1123456789.1",..}."""

    symbol: _Name
    lastPrice: _Number = None
    priceChangePercent: _Number = None
    quoteVolume: _Number = None


class _BookRow(msgspec.Struct, gc=False):
    """{"symbol":"BTCUSDT","bidPrice":"91234.55","askPrice":"91234.56",..}."""

    symbol: _Name
    bidPrice: _Number = None
    askPrice: _Number = None


_decode_info = msgspec.json.Decoder(_Info).decode
_decode_days = msgspec.json.Decoder(list[_DayRow]).decode
_decode_books = msgspec.json.Decoder(list[_BookRow]).decode


def listing_request() -> Request:
    """Every pair with its filters and permissions."""
    return Request("/api/v3/exchangeInfo", (), 20)


def day_tickers_request() -> Request:
    """24 hours of every pair."""
    return Request("/api/v3/ticker/24hr", (), 80)


def book_tops_request() -> Request:
    """Best bid and ask of every pair, now."""
    return Request("/api/v3/ticker/bookTicker", (), 4)


def parse_listing(raw: bytes) -> SpotListing:
    """Read an exchangeInfo answer; raises BadInput when it can not be read, or lists nothing."""
    info = _read(_decode_info, raw)
    if not info.symbols:
        raise BadInput("exchangeInfo lists no pair")
    return SpotListing(info.serverTime, [_pair_of(row) for row in info.symbols])


def parse_day_tickers(raw: bytes) -> dict[str, DayTicker]:
    """Read a ticker/24hr answer about all pairs, by pair; raises BadInput when it can not be read, or is empty."""
    rows = _filled(_read(_decode_days, raw), "ticker/24hr")
    return {
        r.symbol: DayTicker(r.symbol, _positive(r.lastPrice), _number(r.priceChangePercent), _amount(r.quoteVolume))
        for r in rows
    }


def parse_book_tops(raw: bytes) -> dict[str, BookTop]:
    """Read a bookTicker answer about all pairs, by pair; raises BadInput when it can not be read, or is empty."""
    rows = _filled(_read(_decode_books, raw), "bookTicker")
    return {r.symbol: BookTop(r.symbol, _positive(r.bidPrice), _positive(r.askPrice)) for r in rows}


def _pair_of(row: _PairRow) -> SpotPair:
    step = next((one.tickSize for one in row.filters if one.filterType == "PRICE_FILTER"), None)
    words = {*row.permissions, *(word for group in row.permissionSets for word in group)}
    return SpotPair(
        row.symbol, row.baseAsset, row.quoteAsset, row.status, _positive(step), row.isSpotTradingAllowed,
        LEVERAGED in words,
    )  # fmt: skip


def _filled(rows: list[_T], what: str) -> list[_T]:
    if not rows:
        raise BadInput(f"{what} tells of no pair")
    return rows


def _number(text: str | None) -> Decimal | None:
    """Exact value of a decimal; None for what is none."""
    try:
        value = Decimal(text or "")
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _amount(text: str | None) -> Decimal | None:
    value = _number(text)
    return None if value is None or value < 0 else value


def _positive(text: str | None) -> Decimal | None:
    """The venue writes 0 for a price that there is not."""
    return _amount(text) or None


def _read(decode: Callable[[bytes], _T], raw: bytes) -> _T:
    try:
        return decode(raw)
    except _UNREADABLE as error:
        raise BadInput(f"not the answer we asked for: {error}") from error
