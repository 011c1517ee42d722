"""OKX's way with connections: one answer per argument, text pings, tickers as the clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from sandbox import frames
from sandbox.config import Config
from sandbox.market import Market
from sandbox.okx_frames import (
    Complaint,
    Order,
    Ticker,
    ack_text,
    inst_id_of,
    no_such_stream,
    notice_text,
    read_order,
    trades_frame,
)
from sandbox.sockets import Breach, Connection, Sockets
from sandbox.trades import Trade
from sandbox.troubles import Troubles

HOUR_S = 3600.0


class OkxHub(Sockets):
    """Streams are named "channel:instId"; trades of one symbol that are due together may share a frame."""

    cadence_ms = 500

    def __init__(self, config: Config, market: Market, troubles: Troubles) -> None:
        super().__init__(config, troubles)
        self._market = market
        self._inst_ids = {symbol: inst_id_of(symbol) for symbol in market.symbols}
        self._symbols = {f"trades:{inst_id}": symbol for symbol, inst_id in self._inst_ids.items()}
        self._tickers = {inst_id: Ticker(inst_id) for inst_id in (*self._inst_ids.values(), "BTC-USDT")}
        self._last: dict[str, Trade] = {}
        self._gathered: list[Trade] = []
        self._gathered_symbol = ""
        self._orders: dict[Connection, deque[float]] = {}

    def add(self, connection: Connection, names: Iterable[str]) -> None:
        """Take a connection in."""
        super().add(connection, names)
        self._orders[connection] = deque(maxlen=self._config.okx_control_per_hour + 1)

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        super().remove(connection)
        self._orders.pop(connection, None)

    # Control frames

    def obey(self, connection: Connection, text: str) -> None:
        """Answer a ping, or carry out a control frame; pings are answered even while the venue is silent."""
        if text == "ping":
            connection.out.append(frames.pack(b"pong"))
            return
        if not self._may_order(connection):
            self.end(connection, "too many orders", 4009, "Subscription frequency exceeded")
            return
        order = read_order(text)
        if isinstance(order, Complaint):
            self._say(connection, order.as_text(_conn_id(connection)))
            return
        for stream in order.streams:
            self._carry_out(connection, order, stream)

    def _may_order(self, connection: Connection) -> bool:
        times = self._orders[connection]
        times.append(time.monotonic())
        return len(times) < (times.maxlen or 0) or times[-1] - times[0] > HOUR_S

    def _carry_out(self, connection: Connection, order: Order, stream: str) -> None:
        channel, _, inst_id = stream.partition(":")
        symbol = self._symbols.get(stream)
        if symbol is None and not (channel == "tickers" and inst_id in self._tickers):
            self._say(connection, no_such_stream(stream, order.id).as_text(_conn_id(connection)))
            return
        is_new = stream not in connection.names
        (self._subscribe if order.op == "subscribe" else self._unsubscribe)(connection, [stream])
        self._say(connection, ack_text(order.op, stream, order.id, _conn_id(connection)))
        if symbol is not None and order.op == "subscribe":
            if is_new and self._config.okx_old_first and stream not in self._troubles.dead_streams:
                self._say_last(connection, symbol)
            self._market.clock.release()

    def _say(self, connection: Connection, text: str) -> None:
        if not self._troubles.on("silent"):
            connection.out.append(frames.pack(text.encode()))

    def _say_last(self, connection: Connection, symbol: str) -> None:
        """Push the trade before the subscription."""
        market = self._market
        earlier = market.before(symbol, market.clock.start_ms, 1) if symbol not in self._last else [self._last[symbol]]
        if earlier:
            self._say(connection, trades_frame(self._inst_ids[symbol], earlier))

    # Pushing

    def is_heard(self, symbol: str) -> bool:
        """Whether anyone subscribed to a symbol's trades."""
        return f"trades:{self._inst_ids[symbol]}" in self._listeners

    def push_trade(self, symbol: str, trade: Trade, event_ms: int) -> bool:
        """Gather a trade for all who hear it; False when nobody does. The frame tells trade time only."""
        inst_id = self._inst_ids[symbol]
        self._tickers[inst_id].add(trade)
        self._last[symbol] = trade
        if not self._reaches(f"trades:{inst_id}"):
            return False
        if symbol != self._gathered_symbol or len(self._gathered) >= self._config.okx_trades_per_frame:
            self._push_gathered()
            self._gathered_symbol = symbol
        self._gathered.append(trade)
        self.sent_trades[symbol] += 1
        self.streamed.add(symbol, trade.first, trade.last)
        return True

    def push_broken(self, symbol: str, trade: Trade, event_ms: int) -> None:
        """Gather a frame that stops in the middle."""
        self._push_gathered()
        text = trades_frame(self._inst_ids[symbol], [trade])
        self._push(f"trades:{self._inst_ids[symbol]}", text[: len(text) // 2])

    def push_cadence(self, event_ms: int) -> None:
        """Gather the tickers; BTC-USDT ticks even where the market does not list it."""
        self._push_gathered()
        for inst_id, ticker in self._tickers.items():
            stream = f"tickers:{inst_id}"
            if stream in self._listeners:
                self._push(stream, ticker.frame(event_ms))

    def flush(self) -> None:
        """Let gathered frames leave, unless the sockets are stalled."""
        self._push_gathered()
        super().flush()

    def _reaches(self, stream: str) -> bool:
        troubles = self._troubles
        return stream in self._listeners and stream not in troubles.dead_streams and not troubles.on("silent")

    def _push_gathered(self) -> None:
        if self._gathered:
            inst_id = self._inst_ids[self._gathered_symbol]
            self.sent_frames[self._gathered_symbol] += self._push(
                f"trades:{inst_id}", trades_frame(inst_id, self._gathered)
            )
            self._gathered.clear()

    def _push(self, stream: str, text: str) -> int:
        if not self._reaches(stream):
            return 0
        packed = frames.pack(text.encode())
        for connection in self._listeners[stream]:
            connection.out.append(packed)
        return len(self._listeners[stream])

    # Keeping the rules

    def _breach(self, connection: Connection, now: float) -> Breach | None:
        if now - connection.written_at > self._config.okx_idle_s:
            return Breach("no data", 4004, f"No data received in {self._config.okx_idle_s:g}s.")
        return None

    def _attend(self, connection: Connection, now: float) -> None:
        """The venue sends no pings."""

    def announce_end(self, connection: Connection, left_s: float) -> None:
        """Push the notice of a service upgrade; the end comes after `left_s`."""
        connection.warned = True
        connection.ends_at = time.monotonic() + left_s
        connection.out.append(frames.pack(notice_text(_conn_id(connection)).encode()))


def _conn_id(connection: Connection) -> str:
    return f"{id(connection) & 0xFFFFFFFF:08x}"
