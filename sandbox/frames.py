"""The venue's push frames, byte for byte: key order and number formats as Binance spot sends them."""

from __future__ import annotations

import struct

from sandbox.trades import UNIT, Trade

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


def eight(units: int) -> str:
    """A price or quantity with eight decimals."""
    return f"{units // UNIT}.{units % UNIT:08d}"


def _flag(value: bool) -> str:
    return "true" if value else "false"


def agg_trade_data(symbol: str, trade: Trade, event_ms: int) -> str:
    """`<s>@aggTrade`."""
    return (
        f'{{"e":"aggTrade","E":{event_ms},"s":"{symbol}","a":{trade.id},"p":"{eight(trade.price)}","q":"{eight(trade.qty)}",'
        f'"f":{trade.first},"l":{trade.last},"T":{trade.time_ms},"m":{_flag(trade.maker)},"M":true}}'
    )


def single_trades_data(symbol: str, trade: Trade, event_ms: int) -> list[str]:
    """`<s>@trade`: the single trades inside an aggTrade; they share its quantity out, the last one takes the rest."""
    count = trade.last - trade.first + 1
    share = trade.qty // count
    parts = [share] * (count - 1) + [trade.qty - share * (count - 1)]
    price = eight(trade.price)
    return [
        f'{{"e":"trade","E":{event_ms},"s":"{symbol}","t":{trade.first + i},"p":"{price}","q":"{eight(part)}",'
        f'"T":{trade.time_ms},"m":{_flag(trade.maker)},"M":true}}'
        for i, part in enumerate(parts)
    ]


def rest_record(trade: Trade) -> str:
    """One record of REST aggTrades."""
    return (
        f'{{"a":{trade.id},"p":"{eight(trade.price)}","q":"{eight(trade.qty)}","f":{trade.first},"l":{trade.last},'
        f'"T":{trade.time_ms},"m":{_flag(trade.maker)},"M":true}}'
    )


class DayTicker:
    """What `<s>@miniTicker` tells: the last price exactly, the day's figures since the sandbox began."""

    def __init__(self) -> None:
        self._open = self._high = self._low = self._close = UNIT
        self._volume = self._quote = 0

    def add(self, trade: Trade) -> None:
        """Count a trade in."""
        price = trade.price
        if not self._volume:
            self._open = self._high = self._low = price
        self._high, self._low, self._close = max(self._high, price), min(self._low, price), price
        self._volume += trade.qty
        self._quote += price * trade.qty

    def data(self, symbol: str, event_ms: int) -> str:
        """The frame's data."""
        return (
            f'{{"e":"24hrMiniTicker","E":{event_ms},"s":"{symbol}","c":"{eight(self._close)}","o":"{eight(self._open)}",'
            f'"h":"{eight(self._high)}","l":"{eight(self._low)}","v":"{eight(self._volume)}",'
            f'"q":"{eight(self._quote // UNIT)}"}}'
        )


def combined(stream: str, data: str) -> str:
    """The wrapper of combined streams."""
    return f'{{"stream":"{stream}","data":{data}}}'


def pack(payload: bytes, opcode: int = TEXT) -> bytes:
    """One whole WebSocket frame as a server sends it: final, not masked, not compressed."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload
