"""OKX spot: trades, the cadence that proves them live, and the REST calls of a fallback venue.

Rules come from okx.com/docs-v5/en. Instruments are named as the venue writes them ("SOL-USDT"), streams
"channel:instrument" ("trades:SOL-USDT"). `tradeId` is the last of the `count` ids that a record holds, so continuity
is `first == previous last + 1`. The first record after subscribing may be older than the subscription.

    AttemptBudget(CONNECTS_MAX, CONNECTS_WINDOW_S)           for feeds
    WeightBudget(REST_LIMIT, share, window_s=REST_WINDOW_S)  for REST; limits there are per endpoint, one budget for
                                                             all of them is the stricter of the two
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from common.errors import BadInput, Refused, TryLater
from common.numbers import parse_scaled
from common.venues.market import (
    RECORD_TRADES_MAX,
    Ack,
    Cadence,
    Candle,
    Closing,
    Instrument,
    Market,
    Message,
    Other,
    Rejected,
    Request,
    Several,
    Trade,
)
from common.venues.okx_spot_shapes import (
    AnyFrame,
    CandleRow,
    Envelope,
    InstrumentRow,
    TickerRow,
    TimeRow,
    TradeRow,
)

SCALE = 12
"""Prices go down to 1e-12 (2022: 0.000000000001), quantities to 1e-8."""
MAX_CANDLES = 300
CONNECTS_MAX, CONNECTS_WINDOW_S = 3, 1.0
REST_LIMIT, REST_WINDOW_S = 40, 2.5
"""40 calls in 2 s at the venue; the rest is for calls that travel slower than the ones after them."""
REST_PAUSE_S = 2.0
"""How long to wait after a rate-limit answer: the venue gives no hint, and its window is 2 s."""

_UPGRADE = "64008"
_NO_SUCH_STREAM = "60018"
_LATER = frozenset({"50001", "50004", "50011", "50013", "50026"})
_NAMED = re.compile(r"\bchannel:([A-Za-z0-9-]+),instId:([A-Za-z0-9-]+)")

# Where one ending is part of another ("AEUR", "EUR"), the longer one counts.
_QUOTES = ("USDT", "USDC", "USD", "EUR", "BTC", "ETH", "DAI", "OKB", "AUD", "BRL", "TRY", "AED", "SGD")
_QUOTES_ELSEWHERE = ("FDUSD", "TUSD", "BUSD", "RLUSD", "USDP", "AEUR")
_ENDINGS = sorted((*_QUOTES, *_QUOTES_ELSEWHERE), key=len, reverse=True)

_T = TypeVar("_T")

_decode_frame = msgspec.json.Decoder(AnyFrame).decode
_decode_trades = msgspec.json.Decoder(list[TradeRow]).decode
_decode_tickers = msgspec.json.Decoder(list[TickerRow]).decode
_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_candles = msgspec.json.Decoder(list[CandleRow]).decode
_decode_instruments = msgspec.json.Decoder(list[InstrumentRow]).decode
_decode_time = msgspec.json.Decoder(list[TimeRow]).decode

# Besides DecodeError msgspec lets out text that is not UTF-8, and JSON nested too deep.
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


def _scaled(text: str, scale: int = SCALE) -> int:
    value = parse_scaled(text, scale)
    if value < 0:
        raise BadInput(f"{text!r} is negative")
    return value


def _whole(text: str, below: int) -> int:
    if not (text.isascii() and text.isdecimal()) or (value := int(text)) >= below:
        raise BadInput(f"{text!r} is not a whole number below {below}")
    return value


def _stamp(text: str) -> int:
    """Epoch milliseconds; one in microseconds is out of bounds, so that it can never be taken for one."""
    return _whole(text, 10**14)


def parse(frame: bytes | str) -> Message:
    """Read one frame of the public endpoint.

    Raises BadInput, and nothing else, for whatever is not a frame of this venue.
    """
    try:
        if frame in (b"pong", "pong"):
            return Other("pong")
        if isinstance(frame, bytes):
            frame = frame.decode()  # msgspec does not look into text it skips
        head = _decode_frame(frame)
        if head.event is not None:
            return _parse_event(head, head.event)
        if head.arg is None or head.data is msgspec.UNSET:
            return Other("object")
        if head.arg.channel == "trades":
            return _parse_trades(_decode_trades(head.data))
        if head.arg.channel == "tickers":
            stamps = [_stamp(row.ts) for row in _decode_tickers(head.data)]
            return Cadence(max(stamps)) if stamps else Other("tickers")
        return Other(head.arg.channel)
    except _UNREADABLE as error:
        raise BadInput(f"not a frame: {error}") from error


def _parse_trades(rows: list[TradeRow]) -> Message:
    if len(rows) == 1:
        return _trade_of(rows[0])
    return Several(tuple(map(_trade_of, rows))) if rows else Other("trades")


def _trade_of(r: TradeRow) -> Trade:
    last, count, time_ms = _whole(r.tradeId, 2**63), _whole(r.count, 2**63), _stamp(r.ts)
    if not 0 < count <= min(last + 1, RECORD_TRADES_MAX):
        raise BadInput(f"trade {last} holds {count} ids")
    return Trade(
        r.instId, last, _scaled(r.px), _scaled(r.sz), last - count + 1, last, time_ms, time_ms, r.side == "buy"
    )


def _parse_event(head: AnyFrame, event: str) -> Message:
    id_ = _own_id(head.id)
    if event in ("subscribe", "unsubscribe"):
        # One acknowledgement comes per stream, whatever one frame asked for.
        if id_ is None or head.arg is None or head.arg.instId is None:
            return Other(event)
        return Ack(id_, f"{head.arg.channel}:{head.arg.instId}")
    if event == "error":
        named = _NAMED.search(head.msg) if str(head.code) == _NO_SUCH_STREAM else None
        stream = None if named is None else f"{named[1]}:{named[2]}"
        return Rejected(id_, f"{head.code}: {head.msg}"[:500], stream)
    if event == "notice" and str(head.code) == _UPGRADE:
        return Closing()
    return Other(event)


def _own_id(id_: str | int | None) -> int | None:
    """Our frames are numbered; an id that is no such number is not an answer to one."""
    text = str(id_)[:32]
    return int(text) if text.isascii() and text.isdecimal() else None


def _control_frame(op: str, streams: list[str], id_: int) -> str:
    args = [{"channel": channel, "instId": inst_id} for channel, _, inst_id in (s.partition(":") for s in streams)]
    return msgspec.json.encode({"id": str(id_), "op": op, "args": args}).decode()


def stream_of(inst_id: str) -> str:
    """Name of an instrument's trade stream."""
    return f"trades:{inst_id}"


def subscribe_frame(streams: list[str], id_: int) -> str:
    """Control frame that adds streams to a connection; each stream is acknowledged on its own, with `id_`."""
    return _control_frame("subscribe", streams, id_)


def unsubscribe_frame(streams: list[str], id_: int) -> str:
    """Control frame that takes streams off a connection; each stream is acknowledged on its own, with `id_`."""
    return _control_frame("unsubscribe", streams, id_)


def inst_id_of(pair: str) -> str | None:
    """Guess the instrument of a pair ("SOLUSDT" -> "SOL-USDT"); None when its quote is not one of this venue.

    Only for pairs the registry has no `okx_inst_id` for: that the venue lists the result is not certain.
    """
    quote = next((ending for ending in _ENDINGS if pair.endswith(ending)), None)
    if quote not in _QUOTES or pair == quote:
        return None
    return f"{pair[: -len(quote)]}-{quote}"


def candles_request(
    inst_id: str, after_ms: int | None = None, before_ms: int | None = None, limit: int = MAX_CANDLES
) -> Request:
    """One-minute candles that open before `after_ms` and after `before_ms` (both exclusive), the newest `limit`.

    The names are the venue's: `after` pages to older records. It keeps the last 1,440 minutes here.
    """
    if not 0 < limit <= MAX_CANDLES:
        raise ValueError(f"{limit} candles in one answer, {MAX_CANDLES} at most")
    named = (("after", after_ms), ("before", before_ms), ("limit", limit))
    params = tuple((name, str(value)) for name, value in named if value is not None)
    return Request("/api/v5/market/candles", (("instId", inst_id), ("bar", "1m"), *params), 1)


def instruments_request(inst_type: str = "SPOT") -> Request:
    """Every instrument of a type."""
    return Request("/api/v5/public/instruments", (("instType", inst_type),), 2)


def time_request() -> Request:
    """The venue's clock."""
    return Request("/api/v5/public/time", (), 4)


def read_data(decode: Callable[[msgspec.Raw], _T], raw: bytes) -> _T:
    """The data of an answer. Raises TryLater or Refused for the venue's errors, which come with HTTP 200 too."""
    try:
        answer = _decode_envelope(raw.decode())
        if answer.code == "0" and answer.data is not msgspec.UNSET:
            return decode(answer.data)
    except _UNREADABLE as error:
        raise BadInput(f"not the answer we asked for: {error}") from error
    what = f"code {answer.code}: {answer.msg}"[:500]
    if answer.code in _LATER:
        raise TryLater(what, REST_PAUSE_S)
    if answer.code == "0":
        raise BadInput("an answer without data")
    raise Refused(what)


def parse_candles(raw: bytes) -> list[Candle]:
    """Read a candles answer, oldest first, without the candle that is still open.

    Raises BadInput when any row can not be read, TryLater or Refused for an error the venue tells.
    """
    return sorted(
        (_candle_of(r) for r in read_data(_decode_candles, raw) if r.confirm == "1"), key=lambda candle: candle.open_s
    )


def _candle_of(r: CandleRow) -> Candle:
    open_s, rest_ms = divmod(_stamp(r.ts), 1000)
    if rest_ms:
        raise BadInput(f"a candle opens at {r.ts} ms, inside a second")
    prices = (_scaled(r.o), _scaled(r.h), _scaled(r.l), _scaled(r.c))
    return Candle(open_s, *prices, _scaled(r.vol), _scaled(r.vol_ccy_quote, 2 * SCALE))


def parse_instruments(raw: bytes) -> list[Instrument]:
    """Read an instruments answer; what the venue leaves empty is None. Raises as `parse_candles` does."""
    return [_instrument_of(r) for r in read_data(_decode_instruments, raw)]


def _instrument_of(r: InstrumentRow) -> Instrument:
    tick = _scaled(r.tickSz) if r.tickSz else None
    listed_ms = _stamp(r.listTime) if r.listTime else None
    return Instrument(r.instId, r.baseCcy or None, r.quoteCcy or None, tick, r.state, listed_ms)


def parse_time(raw: bytes) -> int:
    """Read the venue's clock: epoch milliseconds. Raises as `parse_candles` does."""
    rows = read_data(_decode_time, raw)
    if not rows:
        raise BadInput("an answer without a time")
    return _stamp(rows[0].ts)


MARKET = Market(
    source="okx",
    scale=SCALE,
    cadence_stream="tickers:BTC-USDT",
    stream_of=stream_of,
    subscribe_frame=subscribe_frame,
    unsubscribe_frame=unsubscribe_frame,
    parse=parse,
    # The venue announces the end of a connection; that it lives a day at most is our own limit.
    control_per_hour=480,
    keepalive_text="ping",
)
