"""The JSON of OKX spot: what its frames and answers look like, with the bounds that make them safe to use.

OKX writes every number as text, whole ones too ("1790000000123"). An empty text means that the venue does not say.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

# Text is bounded because int() refuses more than 4,300 digits with an error of its own.
_Whole = Annotated[str, msgspec.Meta(min_length=1, max_length=19)]
_Decimal = Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Text = Annotated[str, msgspec.Meta(max_length=64)]


class Arg(msgspec.Struct, gc=False):
    """{"channel":"trades","instId":"BTC-USDT"}."""

    channel: str
    instId: str | None = None


class AnyFrame(msgspec.Struct, gc=False):
    """Data, acknowledgements, errors and notices; which fields are there tells them apart."""

    arg: Arg | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    event: str | None = None
    id: str | int | None = None
    code: str | int | None = None
    msg: str = ""


class TradeRow(msgspec.Struct, gc=False):
    """{"instId":"BTC-USDT","tradeId":"123000003","px":"91230.1","sz":"0.5","side":"buy","ts":"1790000000123",
    "count":"3"}.

    `tradeId` is the last of `count` ids; older frames (2022) have no count.
    """

    instId: _Name
    tradeId: _Whole
    px: _Decimal
    sz: _Decimal
    side: Literal["buy", "sell"]
    ts: _Whole
    count: _Whole = "1"


class TickerRow(msgspec.Struct, gc=False):
    """{"instId":"BTC-USDT","last":"91230.1","ts":"1790000000123"}, and what we do not read."""

    ts: _Whole


class Envelope(msgspec.Struct, gc=False):
    """{"code":"0","msg":"","data":[..]}: every REST answer, errors among them whatever the HTTP status."""

    code: str
    msg: str = ""
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class CandleRow(msgspec.Struct, gc=False, array_like=True):
    """["ts","o","h","l","c","vol","volCcy","volCcyQuote","confirm"]; on spot `vol` counts the base coin."""

    ts: _Whole
    o: _Decimal
    h: _Decimal
    l: _Decimal  # noqa: E741 - the venue's name
    c: _Decimal
    vol: _Decimal
    vol_ccy: _Decimal
    vol_ccy_quote: _Decimal
    confirm: Literal["0", "1"]


class InstrumentRow(msgspec.Struct, gc=False):
    """{"instId":"BTC-USDT","baseCcy":"BTC","quoteCcy":"USDT","tickSz":"0.1","state":"live","listTime":"15481.."}."""

    instId: _Name
    baseCcy: _Text = ""
    quoteCcy: _Text = ""
    tickSz: _Text = ""
    state: _Text = ""
    listTime: _Text = ""


class TimeRow(msgspec.Struct, gc=False):
    """{"ts":"1790000000000"}."""

    ts: _Whole
