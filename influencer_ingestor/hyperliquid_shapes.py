"""The JSON of Hyperliquid: what its frames and answers look like, with the bounds that make them safe to use.

Numbers are text, times whole milliseconds. Every field may be followed by others that we do not read; lists are kept
as raw text first, so that one unreadable element does not cost its neighbours.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

# Text is bounded because int() refuses more than 4,300 digits with an error of its own.
_Decimal = Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Text = Annotated[str, msgspec.Meta(max_length=128)]
_Millis = Annotated[int, msgspec.Meta(ge=0, lt=10**14)]
_Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Address = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-fA-F]{40}$")]


class AnyFrame(msgspec.Struct, gc=False):
    """{"channel":"userFills","data":..}; a pong has no data."""

    channel: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Subscription(msgspec.Struct, gc=False):
    """{"type":"userFills","user":"0x..","aggregateByTime":false}, as the venue repeats it."""

    type: str
    user: str | None = None


class Answer(msgspec.Struct, gc=False):
    """{"method":"subscribe","subscription":{..}}."""

    method: str
    subscription: Subscription


class FillsData(msgspec.Struct, gc=False):
    """{"isSnapshot":true,"user":"0x..","fills":[..]}; later frames have no `isSnapshot`."""

    user: _Address
    fills: list[msgspec.Raw]
    isSnapshot: bool = False


class UserEvent(msgspec.Struct, gc=False):
    """{"fills":[..]} or another kind of event; the user is not named."""

    fills: list[msgspec.Raw] | None = None


class LiquidationShape(msgspec.Struct, gc=False):
    """{"liquidatedUser":"0x..","markPx":"66607.0","method":"market"}."""

    markPx: _Decimal
    method: _Text
    liquidatedUser: _Text | None = None


class FillShape(msgspec.Struct, gc=False):
    """{"coin":"BTC","px":"80067.0","sz":"0.02261","side":"B","time":1778269290537,"startPosition":"0.16255",..}.

    `tid` is missing in the old form (2023).
    """

    coin: _Name
    px: _Decimal
    sz: _Decimal
    side: Literal["A", "B"]
    time: _Millis
    startPosition: _Decimal
    dir: _Text
    closedPnl: _Decimal
    hash: _Text
    oid: _Id
    tid: _Id | None = None
    liquidation: LiquidationShape | None = None


class OrderShape(msgspec.Struct, gc=False):
    """{"coin":"BTC","oid":57118842019,..}."""

    coin: _Name
    oid: _Id


class OrderUpdateShape(msgspec.Struct, gc=False):
    """{"order":{..},"status":"open","statusTimestamp":1785261289146}."""

    order: OrderShape
    status: _Text
    statusTimestamp: _Millis


class Leverage(msgspec.Struct, gc=False):
    """{"type":"cross","value":20}."""

    type: _Text
    value: int


class PositionShape(msgspec.Struct, gc=False):
    """{"coin":"ETH","szi":"10.0","entryPx":"3100.1","leverage":{..}}; `szi` is signed."""

    coin: _Name
    szi: _Decimal
    entryPx: _Decimal | None = None
    leverage: Leverage | None = None


class AssetPosition(msgspec.Struct, gc=False):
    """{"type":"oneWay","position":{..}}."""

    position: PositionShape


class StateShape(msgspec.Struct, gc=False):
    """{"assetPositions":[..],"time":1790000000123}; the old form (2023) has no time."""

    assetPositions: list[AssetPosition]
    time: _Millis | None = None


class StateData(msgspec.Struct, gc=False):
    """{"dex":"","user":"0x..","clearinghouseState":{..}}."""

    user: _Address
    clearinghouseState: msgspec.Raw
    dex: str = ""
