"""Binance spot: aggregated trades, the 1 s cadence stream, and the REST calls that repair them.

Rules come from github.com/binance/binance-spot-api-docs, `web-socket-streams.md` and `rest-api.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from common.errors import BadInput
from common.numbers import parse_scaled
from common.venues.binance_spot_shapes import (
    AggTrade,
    AnyFrame,
    Data,
    Frame,
    RestKline,
    RestTrade,
    ServerTime,
)
from common.venues.market import (
    RECORD_TRADES_MAX,
    Ack,
    Cadence,
    Closing,
    Kline,
    Market,
    Message,
    Other,
    Rejected,
    Request,
    Trade,
)

SCALE = 8
MAX_AGG_TRADES = 1000
MAX_KLINES = 1000

_T = TypeVar("_T")

_decode_frame = msgspec.json.Decoder(Frame).decode
_decode_data = msgspec.json.Decoder(Data).decode
_decode_any = msgspec.json.Decoder(AnyFrame).decode
_decode_trades = msgspec.json.Decoder(list[RestTrade]).decode
_decode_klines = msgspec.json.Decoder(list[RestKline]).decode
_decode_time = msgspec.json.Decoder(ServerTime).decode

# Besides DecodeError msgspec lets out text that is not UTF-8, and JSON nested too deep.
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


def _amount(text: str) -> int:
    """Scale a price or quantity; exactly eight decimals, the venue's usual spelling, take the short way."""
    if text[-9:-8] == ".":
        digits = text.replace(".", "", 1)
        if digits.isdecimal() and digits.isascii():
            return int(digits)
    return _scaled(text, SCALE)


def _scaled(text: str, scale: int) -> int:
    value = parse_scaled(text, scale)
    if value < 0:
        raise BadInput(f"{text!r} is negative")
    return value


def _trade_of(r: RestTrade, symbol: str, event_ms: int) -> Trade:
    if not 0 <= r.l - r.f < RECORD_TRADES_MAX:
        raise BadInput(f"aggTrade {r.a} runs from trade {r.f} to {r.l}")
    return Trade(symbol, r.a, _amount(r.p), _amount(r.q), r.f, r.l, r.T, event_ms, not r.m)


def _message_of(data: Data) -> Message:
    return _trade_of(data, data.s, data.E) if type(data) is AggTrade else Cadence(data.E)


def _read(decode: Callable[[bytes], _T], raw: bytes) -> _T:
    try:
        return decode(raw)
    except _UNREADABLE as error:
        raise BadInput(f"not the answer we asked for: {error}") from error


def parse(frame: bytes | str) -> Message:
    """Read one frame of the combined or the raw endpoint.

    Raises BadInput, and nothing else, for whatever is not a frame of this venue.
    """
    try:
        data = _decode_frame(frame).data
    except _UNREADABLE:
        return _parse_rare(frame)
    # Once per frame: the call that `_message_of` would cost is spared.
    return _trade_of(data, data.s, data.E) if type(data) is AggTrade else Cadence(data.E)


def _parse_rare(frame: bytes | str) -> Message:
    """Everything but trades and cadence on the combined endpoint: replies, notices, raw frames, the unknown."""
    try:
        if isinstance(frame, bytes):
            frame = frame.decode()  # msgspec does not look into text it skips
        if frame[:1] == "[":
            msgspec.json.decode(frame, type=list[msgspec.Raw])
            return Other("array")
        head = _decode_any(frame)
        if head.data is not msgspec.UNSET and head.stream is not None:
            data = bytes(head.data)
            # Arrays (`!miniTicker@arr`) and objects without `e` (bookTicker) are frames too.
            name = None if data[:1] == b"[" else _decode_any(data).e
            return _parse_event(data, name, head.stream)
        if head.e is not None:
            return _parse_event(frame, head.e, head.e)
        return _parse_reply(head)
    except _UNREADABLE as error:
        raise BadInput(f"not a frame: {error}") from error


def _parse_event(data: bytes | str, name: str | None, stream: str) -> Message:
    if name == "serverShutdown" or stream == "!serverShutdown":
        return Closing()
    if name in ("aggTrade", "24hrMiniTicker"):
        return _message_of(_decode_data(data))
    return Other(name or stream)


def _parse_reply(head: AnyFrame) -> Message:
    id_ = head.id if isinstance(head.id, int) else None
    if head.error is not msgspec.UNSET or (head.code is not None and head.msg is not None):
        detail = bytes(head.error).decode() if head.error is not msgspec.UNSET else f"{head.code}: {head.msg}"
        return Rejected(id_, detail[:500])
    if head.result is msgspec.UNSET:
        return Other("object")
    if id_ is not None and bytes(head.result) == b"null":
        return Ack(id_)
    return Other("result")


def _control_frame(method: str, streams: list[str], id_: int) -> str:
    return msgspec.json.encode({"method": method, "params": streams, "id": id_}).decode()


def stream_of(symbol: str) -> str:
    """Name of a symbol's aggregated trade stream."""
    return f"{symbol.lower()}@aggTrade"


def subscribe_frame(streams: list[str], id_: int) -> str:
    """Control frame that adds streams to a connection; the reply carries `id_`."""
    return _control_frame("SUBSCRIBE", streams, id_)


def unsubscribe_frame(streams: list[str], id_: int) -> str:
    """Control frame that takes streams off a connection; the reply carries `id_`."""
    return _control_frame("UNSUBSCRIBE", streams, id_)


def agg_trades_request(
    symbol: str,
    *,
    from_id: int | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
    limit: int = MAX_AGG_TRADES,
) -> Request:
    """Aggregated trades from `from_id` on, or of [start_ms, end_ms] (both inclusive), or the latest; oldest first.

    Raises ValueError when an id and a time are mixed: the venue would ignore one of them.
    """
    if from_id is not None and (start_ms is not None or end_ms is not None):
        raise ValueError("aggTrades takes an id or times, not both")
    named = (("fromId", from_id), ("startTime", start_ms), ("endTime", end_ms), ("limit", limit))
    params = tuple((name, str(value)) for name, value in named if value is not None)
    return Request("/api/v3/aggTrades", (("symbol", symbol), *params), 4)


def klines_request(symbol: str, interval: str, start_ms: int, end_ms: int, limit: int = MAX_KLINES) -> Request:
    """Candles whose opening lies in [start_ms, end_ms], oldest first; interval as the venue writes it ("1s", "1m")."""
    span = (("startTime", str(start_ms)), ("endTime", str(end_ms)), ("limit", str(limit)))
    return Request("/api/v3/klines", (("symbol", symbol), ("interval", interval), *span), 2)


def time_request() -> Request:
    """The venue's clock."""
    return Request("/api/v3/time", (), 1)


def exchange_info_request() -> Request:
    """Every symbol with its filters, without the long permission sets."""
    return Request("/api/v3/exchangeInfo", (("showPermissionSets", "false"),), 20)


def parse_agg_trades(raw: bytes, symbol: str) -> list[Trade]:
    """Read an aggTrades answer; raises BadInput when any record can not be read."""
    return [_trade_of(r, symbol, r.T) for r in _read(_decode_trades, raw)]


def parse_klines(raw: bytes, closed_before_ms: int | None = None) -> list[Kline]:
    """Read a klines answer; raises BadInput when any row can not be read.

    The last row is the candle still open: rows that close at or after `closed_before_ms` (venue time) are left out,
    and only a caller who asked for a closed span may leave it None.
    """
    rows = _read(_decode_klines, raw)
    return [_kline_of(r) for r in rows if closed_before_ms is None or r.close_ms < closed_before_ms]


def _kline_of(r: RestKline) -> Kline:
    open_s, rest_ms = divmod(r.open_ms, 1000)
    if rest_ms:
        raise BadInput(f"a candle opens at {r.open_ms} ms, inside a second")
    prices = (_amount(r.o), _amount(r.h), _amount(r.l), _amount(r.c))
    buys = (_amount(r.buy_vol), _scaled(r.buy_quote_vol, 2 * SCALE))
    return Kline(open_s, *prices, _amount(r.vol), _scaled(r.quote_vol, 2 * SCALE), r.n, *buys)


def parse_time(raw: bytes) -> int:
    """Read the venue's clock: epoch milliseconds."""
    return _read(_decode_time, raw).serverTime


MARKET = Market(
    source="binance",
    scale=SCALE,
    cadence_stream="btcusdt@miniTicker",
    stream_of=stream_of,
    subscribe_frame=subscribe_frame,
    unsubscribe_frame=unsubscribe_frame,
    parse=parse,
)
