"""The JSON of Binance spot: what its frames and answers look like, with the bounds that make them safe to use.

Times are epoch milliseconds; one in microseconds is out of bounds, so that a changed `timeUnit` can never be taken
for one.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

_Id = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
# Fits the column that counts trades.
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
_Ms = Annotated[int, msgspec.Meta(ge=0, lt=10**14)]
# Text is bounded because int() refuses more than 4,300 digits with an error of its own.
_Decimal = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
_Symbol = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class RestTrade(msgspec.Struct, gc=False):
    """{"a":35,"p":"91234.56","q":"0.015","f":52,"l":54,"T":1790000000121,"m":true,"M":true}."""

    a: _Id
    p: _Decimal
    q: _Decimal
    f: _Id
    l: _Id  # noqa: E741 - the venue's name
    T: _Ms
    m: bool


class AggTrade(RestTrade, gc=False, tag_field="e", tag="aggTrade"):
    """{"e":"aggTrade","E":1790000000123,"s":"BTCUSDT", and the fields of a REST record}."""

    E: _Ms
    s: _Symbol


class MiniTicker(msgspec.Struct, gc=False, tag_field="e", tag="24hrMiniTicker"):
    """{"e":"24hrMiniTicker","E":1790000000000,"s":"BTCUSDT","c":..}: pushed every second."""

    E: _Ms


Data = AggTrade | MiniTicker


class Frame(msgspec.Struct, gc=False):
    """{"stream":"btcusdt@aggTrade","data":{..}}: what the combined endpoint pushes."""

    data: Data


class AnyFrame(msgspec.Struct, gc=False):
    """Every field that tells the remaining shapes apart."""

    stream: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    e: str | None = None
    id: int | str | msgspec.UnsetType | None = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    code: int | None = None
    msg: str | None = None


class RestKline(msgspec.Struct, gc=False, array_like=True):
    """[open ms, o, h, l, c, base vol, close ms, quote vol, trades, taker-buy base, taker-buy quote, ignored]."""

    open_ms: _Ms
    o: _Decimal
    h: _Decimal
    l: _Decimal  # noqa: E741 - the venue's name
    c: _Decimal
    vol: _Decimal
    close_ms: _Ms
    quote_vol: _Decimal
    n: _Count
    buy_vol: _Decimal
    buy_quote_vol: _Decimal


class ServerTime(msgspec.Struct, gc=False):
    """{"serverTime":1790000000000}."""

    serverTime: _Ms
