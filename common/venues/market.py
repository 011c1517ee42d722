"""What a venue module is: a value that says how to subscribe, and a pure function that reads frames."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import msgspec

RECORD_TRADES_MAX = 1_000_000
"""A record that claims to hold more single trades can not be read: sums of them would not fit their column."""


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One venue trade record; numbers are integers in the venue's scales.

    `id` is the venue's gap-tellable id (Binance: aggTrade id), `first`..`last` the single trades inside it.
    `buy` is true when the taker bought. `time_ms` is trade time, `event_ms` when the venue pushed it
    (REST records: equal to `time_ms`).
    """

    symbol: str
    id: int
    price: int
    qty: int
    first: int
    last: int
    time_ms: int
    event_ms: int
    buy: bool

    @property
    def n(self) -> int:
        """How many single trades of the venue this record holds."""
        return self.last - self.first + 1


class Cadence(msgspec.Struct, frozen=True, gc=False):
    """A frame of the steady 1 s stream: venue time moves even while the market is quiet."""

    event_ms: int


class Several(msgspec.Struct, frozen=True, gc=False):
    """One frame that holds several trades, in the venue's order."""

    trades: tuple[Trade, ...]


class Ack(msgspec.Struct, frozen=True, gc=False):
    """The venue accepted control frame `id`: all of it, or only `stream` where it answers stream by stream."""

    id: int
    stream: str | None = None


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """The venue refused a control frame; `id` is None where the venue does not say which.

    With a `stream` only that one is refused, and the others of the frame are answered on their own.
    """

    id: int | None
    reason: str
    stream: str | None = None


class Closing(msgspec.Struct, frozen=True, gc=False):
    """The venue will close this connection soon: open another one now."""


class Other(msgspec.Struct, frozen=True, gc=False):
    """A well-formed frame that carries nothing for us."""

    what: str


Message = Trade | Several | Cadence | Ack | Rejected | Closing | Other


class Kline(msgspec.Struct, frozen=True, gc=False):
    """One closed candle of the venue; prices and volumes are integers in the venue's scales.

    `open_s` is its opening in epoch seconds; quote volumes carry price_scale + qty_scale decimals.
    """

    open_s: int
    open: int
    high: int
    low: int
    close: int
    vol: int
    quote_vol: int
    n: int
    buy_vol: int
    buy_quote_vol: int


class Candle(msgspec.Struct, frozen=True, gc=False):
    """One closed candle of a venue that tells neither trade counts nor taker volumes; units as in Kline."""

    open_s: int
    open: int
    high: int
    low: int
    close: int
    vol: int
    quote_vol: int


class Instrument(msgspec.Struct, frozen=True, gc=False):
    """What a venue lists under one name; None where it does not say.

    `tick` is the price step in the venue's scale, `listed_ms` the listing's epoch milliseconds; `state` is the
    venue's own word, and an open set of words.
    """

    inst_id: str
    base: str | None
    quote: str | None
    tick: int | None
    state: str
    listed_ms: int | None


class RunningRate(msgspec.Struct, frozen=True, gc=False):
    """A perpetual's funding rate as it stands now: the venue's forecast for `next_ms`, not what was settled.

    `symbol` is the venue's name of the contract, `time_ms` the venue's time of the forecast; `hours` between
    settlements, None where this answer does not tell.
    """

    symbol: str
    rate: Decimal
    time_ms: int
    next_ms: int
    hours: int | None = None


class Request(msgspec.Struct, frozen=True):
    """One REST call, as data: `weight` is what it takes from the venue's budget, whose window the venue sets.

    With `json_body` it is a POST of that text.
    """

    path: str
    params: tuple[tuple[str, str], ...]
    weight: int
    json_body: bytes | None = None


class Market(msgspec.Struct, frozen=True):
    """One venue product, as data and pure functions.

    `scale` is the number of decimals of prices and of quantities; quote volumes have twice as many.
    `frame_names_max` names go into one control frame, at most `control_per_s` such frames a second; `control_per_hour`
    is how many of them a connection may send in any hour (None: no limit). `keepalive_text` is sent every
    `FeedLimits.keepalive_every_s`.
    """

    source: str
    scale: int
    cadence_stream: str
    stream_of: Callable[[str], str]
    subscribe_frame: Callable[[list[str], int], str]
    unsubscribe_frame: Callable[[list[str], int], str]
    parse: Callable[[bytes | str], Message]
    frame_names_max: int = 200
    control_per_s: float = 3.0
    control_per_hour: int | None = None
    streams_per_connection: int = 200
    connection_life_s: float = 24 * 3600.0
    keepalive_text: str | None = None
