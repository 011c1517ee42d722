"""OKX's push frames and control frames: key order and number formats as the venue sends them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from sandbox.recount import write_number
from sandbox.symbols import split_symbol
from sandbox.trades import UNIT, Trade

ARGS_BYTES_MAX = 65_536
_ID_MAX = 32


def inst_id_of(symbol: str) -> str:
    """The venue's name of a pair."""
    return "-".join(split_symbol(symbol))


def dump(body: object) -> str:
    """JSON without blanks."""
    return json.dumps(body, separators=(",", ":"))


def trades_frame(inst_id: str, trades: Sequence[Trade]) -> str:
    """`trades`, one record each; `tradeId` is the last of `count` ids."""
    rows = ",".join(
        f'{{"instId":"{inst_id}","tradeId":"{t.last}","px":"{write_number(t.price, 8)}",'
        f'"sz":"{write_number(t.qty, 8)}","side":"{"sell" if t.maker else "buy"}","ts":"{t.time_ms}",'
        f'"count":"{t.last - t.first + 1}","source":"0","seqId":{t.last}}}'
        for t in trades
    )
    return f'{{"arg":{{"channel":"trades","instId":"{inst_id}"}},"data":[{rows}]}}'


class Ticker:
    """What `tickers` tells: the last trade exactly, a spread around it, the day's figures since the sandbox began."""

    def __init__(self, inst_id: str) -> None:
        self._inst_id = inst_id
        self._last = self._open = self._high = self._low = UNIT
        self._size = self._volume = self._quote = 0

    def add(self, trade: Trade) -> None:
        """Count a trade in."""
        price = self._last = trade.price
        self._size = trade.qty
        if not self._volume:
            self._open = self._high = self._low = price
        self._high, self._low = max(self._high, price), min(self._low, price)
        self._volume += trade.qty
        self._quote += price * trade.qty

    def frame(self, event_ms: int) -> str:
        """The whole frame."""
        step = 10**6
        prices = {"last": self._last, "lastSz": self._size, "askPx": self._last + step, "askSz": UNIT}
        prices |= {"bidPx": max(0, self._last - step), "bidSz": UNIT, "open24h": self._open, "high24h": self._high}
        prices |= {"low24h": self._low, "sodUtc0": self._open, "sodUtc8": self._open}
        row = {"instType": "SPOT", "instId": self._inst_id}
        row |= {name: write_number(units, 8) for name, units in prices.items()}
        row |= {"volCcy24h": write_number(self._quote, 16), "vol24h": write_number(self._volume, 8)}
        row["ts"] = str(event_ms)
        return dump({"arg": {"channel": "tickers", "instId": self._inst_id}, "data": [row]})


class Order(NamedTuple):
    """A control frame that can be carried out; streams are named "channel:instId"."""

    op: str
    streams: list[str]
    id: str | None


class Complaint(NamedTuple):
    """What the venue says about a control frame, or one argument of it."""

    code: str
    msg: str
    id: str | None = None

    def as_text(self, conn_id: str) -> str:
        """The error event."""
        head = {} if self.id is None else {"id": self.id}
        return dump({**head, "event": "error", "code": self.code, "msg": self.msg, "connId": conn_id})


def no_such_stream(stream: str, frame_id: str | None) -> Complaint:
    """The answer to a channel or an instrument that is not there."""
    channel, _, inst_id = stream.partition(":")
    msg = f"Wrong URL or channel:{channel},instId:{inst_id} doesn't exist. Please use the correct URL, channel and "
    return Complaint("60018", msg + "parameters referring to API document.", frame_id)


def ack_text(op: str, stream: str, frame_id: str | None, conn_id: str) -> str:
    """The answer to one argument."""
    channel, _, inst_id = stream.partition(":")
    head = {} if frame_id is None else {"id": frame_id}
    return dump({**head, "event": op, "arg": {"channel": channel, "instId": inst_id}, "connId": conn_id})


def notice_text(conn_id: str) -> str:
    """The notice of a service upgrade."""
    msg = "The connection will soon be closed for a service upgrade. Please reconnect."
    return dump({"event": "notice", "code": "64008", "msg": msg, "connId": conn_id})


def read_order(text: str) -> Order | Complaint:
    """Understand a control frame, or say what is wrong with it."""
    wrong = Complaint("60012", f"Invalid request: {text[:200]}")
    try:
        parsed = json.loads(text)
    except ValueError:
        return wrong
    if not isinstance(parsed, dict) or len(text.encode()) > ARGS_BYTES_MAX:
        return wrong
    frame = cast("dict[str, Any]", parsed)
    op, frame_id = frame.get("op"), frame.get("id")
    if frame_id is not None and not (isinstance(frame_id, str) and frame_id.isalnum() and len(frame_id) <= _ID_MAX):
        return wrong
    streams = _read_streams(frame.get("args"))
    if op not in ("subscribe", "unsubscribe") or not streams:
        return wrong._replace(id=frame_id)
    return Order(str(op), streams, frame_id)


def _read_streams(args: object) -> list[str]:
    """Names of the streams asked for; empty when any argument is not one."""
    found: list[str] = []
    for arg in cast("list[object]", args) if isinstance(args, list) else []:
        named = cast("dict[str, object]", arg) if isinstance(arg, dict) else {}
        channel, inst_id = named.get("channel"), named.get("instId")
        if not (isinstance(channel, str) and isinstance(inst_id, str)):
            return []
        found.append(f"{channel}:{inst_id}")
    return found
