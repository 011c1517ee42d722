"""Binance's way with connections: its streams, its control frames, its pings."""

from __future__ import annotations

import time
from collections.abc import Iterable

from sandbox import frames
from sandbox.clock import VenueClock
from sandbox.config import Config
from sandbox.control import Complaint, Order, read_control, reply_text
from sandbox.sockets import Breach, Connection, Sockets
from sandbox.trades import Trade
from sandbox.troubles import Troubles


class Hub(Sockets):
    """Subscriptions and pushing: each frame is built once, however many connections hear it."""

    def __init__(self, config: Config, clock: VenueClock, troubles: Troubles, symbols: Iterable[str]) -> None:
        super().__init__(config, troubles)
        self._clock = clock
        self._names = {symbol: symbol.lower() for symbol in symbols}
        self._traded = {f"{name}@aggTrade" for name in self._names.values()}
        self._tickers = {symbol: frames.DayTicker() for symbol in (*self._names, "BTCUSDT")}

    def _subscribe(self, connection: Connection, names: Iterable[str]) -> None:
        for name in names:
            super()._subscribe(connection, [name])
            if name in self._traded:
                self._clock.release()

    # Control frames

    def obey(self, connection: Connection, text: str) -> None:
        """Carry out a control frame and answer it."""
        order = read_control(text)
        answer = order.as_text() if isinstance(order, Complaint) else self._carry_out(connection, order)
        if not self._troubles.on("silent"):
            connection.out.append(frames.pack(answer.encode()))

    def _carry_out(self, connection: Connection, order: Order) -> str:
        result: object = None
        if order.method == "SUBSCRIBE":
            if len({*connection.names, *order.params}) > self._config.streams_max:
                return Complaint(2, "Invalid request: too many parameters", order.id).as_text()
            self._subscribe(connection, order.params)
        elif order.method == "UNSUBSCRIBE":
            self._unsubscribe(connection, order.params)
        elif order.method == "LIST_SUBSCRIPTIONS":
            result = list(connection.names)
        elif order.method == "SET_PROPERTY":
            connection.combined = order.params[1]
        else:
            result = connection.combined
        return reply_text(result, order.id)

    # Pushing

    def is_heard(self, symbol: str) -> bool:
        """Whether anyone subscribed to a symbol's aggTrades."""
        return self._names[symbol] + "@aggTrade" in self._listeners

    def push_trade(self, symbol: str, trade: Trade, event_ms: int) -> bool:
        """Gather a trade's frames for all who hear it; False when nobody does."""
        self._tickers[symbol].add(trade)
        stream = self._names[symbol] + "@aggTrade"
        heard = self._push(
            stream, [frames.agg_trade_data(symbol, trade, event_ms)] if stream in self._listeners else []
        )
        if heard:
            self.sent_frames[symbol] += heard
            self.sent_trades[symbol] += 1
            self.streamed.add(symbol, trade.id, trade.id)
        stream = self._names[symbol] + "@trade"
        if stream in self._listeners:
            self._push(stream, frames.single_trades_data(symbol, trade, event_ms))
        return bool(heard)

    def push_broken(self, symbol: str, trade: Trade, event_ms: int) -> None:
        """Gather a frame that stops in the middle."""
        data = frames.agg_trade_data(symbol, trade, event_ms)
        self._push(self._names[symbol] + "@aggTrade", [data[: len(data) // 2]])

    def push_cadence(self, event_ms: int) -> None:
        """Gather the once-a-second tickers; btcusdt ticks even where the market does not list it."""
        for symbol, ticker in self._tickers.items():
            stream = symbol.lower() + "@miniTicker"
            if stream in self._listeners:
                self._push(stream, [ticker.data(symbol, event_ms)])

    def _push(self, stream: str, data: list[str]) -> int:
        if not data or stream in self._troubles.dead_streams or self._troubles.on("silent"):
            return 0
        listeners = self._listeners.get(stream, set())
        wrapped = bare = b""
        for connection in listeners:
            if connection.combined:
                wrapped = wrapped or b"".join(frames.pack(frames.combined(stream, item).encode()) for item in data)
                connection.out.append(wrapped)
            else:
                bare = bare or b"".join(frames.pack(item.encode()) for item in data)
                connection.out.append(bare)
        return len(listeners)

    # Keeping the rules

    def _breach(self, connection: Connection, now: float) -> Breach | None:
        if connection.pings and now - next(iter(connection.pings.values())) > self._config.pong_timeout_s:
            return Breach("no pong", 1008, "Pong timeout")
        return None

    def _attend(self, connection: Connection, now: float) -> None:
        if now - connection.ping_at >= self._config.ping_every_s:
            connection.ping_at = now
            payload = str(self._clock.told_ms()).encode()
            connection.pings.setdefault(payload, now)
            connection.out.append(frames.pack(payload, frames.PING))

    def announce_end(self, connection: Connection, left_s: float) -> None:
        """Push serverShutdown; the end comes after `left_s`."""
        connection.warned = True
        connection.ends_at = time.monotonic() + left_s
        data = f'{{"e":"serverShutdown","E":{self._clock.told_ms()}}}'
        text = frames.combined("!serverShutdown", data) if connection.combined else data
        connection.out.append(frames.pack(text.encode()))
