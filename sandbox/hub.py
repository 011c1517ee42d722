"""Open connections and who hears what on them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable

from sandbox import frames
from sandbox.clock import VenueClock
from sandbox.config import Config
from sandbox.control import Complaint, Order, read_control, reply_text
from sandbox.trades import IdRanges, Trade
from sandbox.troubles import Troubles

_log = logging.getLogger(__name__)
HELD_FRAMES_MAX = 500_000
"""Frames that a stalled connection may hold back before it is cut."""


class Connection:
    """One client socket; frames gather in `out` and leave joined, in order."""

    def __init__(self, transport: asyncio.Transport, combined: bool, incoming_per_s: int, life_s: float) -> None:
        self.combined = combined
        self.names: OrderedDict[str, None] = OrderedDict()
        self.out: list[bytes] = []
        self.opened_at = time.monotonic()
        self.ends_at = self.opened_at + life_s
        self.ping_at = self.opened_at
        self.pings: OrderedDict[bytes, float] = OrderedDict()
        self.warned = False
        self.closing = False
        self._transport = transport
        self._incoming: deque[float] = deque(maxlen=incoming_per_s + 1)

    def flush(self) -> None:
        """Hand gathered frames to the socket."""
        if self.out and not self._transport.is_closing():
            self._transport.write(b"".join(self.out))
        self.out.clear()

    def unread_bytes(self) -> int:
        """What the client has not taken yet."""
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    def hear(self, now: float) -> bool:
        """Count an incoming message; False when they come too fast."""
        times = self._incoming
        times.append(now)
        return len(times) < (times.maxlen or 0) or now - times[0] > 1.0

    def answer_ping(self, payload: bytes) -> None:
        """Forget the ping that this pong answers, and those before it."""
        if payload in self.pings:
            while self.pings and self.pings.popitem(last=False)[0] != payload:
                pass

    def close(self, code: int, reason: str) -> None:
        """Say why, then close; what was gathered still leaves."""
        if not self.closing:
            self.closing = True
            self.out.append(frames.pack(code.to_bytes(2, "big") + reason.encode(), frames.CLOSE))
            self.flush()
            self._transport.close()

    def abort(self) -> None:
        """Cut without a word."""
        self.closing = True
        self.out.clear()
        self._transport.abort()


class Hub:
    """Subscriptions and pushing: each frame is built once, however many connections hear it."""

    def __init__(self, config: Config, clock: VenueClock, troubles: Troubles, symbols: Iterable[str]) -> None:
        self.connections: set[Connection] = set()
        self.accepted = 0
        self.cut = Counter[str]()
        self.sent_frames = Counter[str]()
        self.sent_trades = Counter[str]()
        self.streamed = IdRanges()
        self._config = config
        self._clock = clock
        self._troubles = troubles
        self._names = {symbol: symbol.lower() for symbol in symbols}
        self._traded = {f"{name}@aggTrade" for name in self._names.values()}
        self._tickers = {symbol: frames.DayTicker() for symbol in (*self._names, "BTCUSDT")}
        self._listeners: dict[str, set[Connection]] = {}

    # Connections

    def add(self, connection: Connection, names: Iterable[str]) -> None:
        """Take a connection in, with the streams its URL names."""
        self.accepted += 1
        self.connections.add(connection)
        self._subscribe(connection, names)

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        connection.closing = True
        self.connections.discard(connection)
        self._unsubscribe(connection, list(connection.names))

    def cut_all(self, why: str, only_oldest: bool = False) -> None:
        """Abort every socket, or the one that was opened first."""
        chosen = sorted(self.connections, key=lambda connection: connection.opened_at)
        for connection in chosen[:1] if only_oldest else chosen:
            self.cut[why] += 1
            connection.abort()

    def _subscribe(self, connection: Connection, names: Iterable[str]) -> None:
        for name in names:
            connection.names[name] = None
            self._listeners.setdefault(name, set()).add(connection)
            if name in self._traded:
                self._clock.release()

    def _unsubscribe(self, connection: Connection, names: Iterable[str]) -> None:
        for name in names:
            connection.names.pop(name, None)
            listeners = self._listeners.get(name, set())
            listeners.discard(connection)
            if not listeners:
                self._listeners.pop(name, None)

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

    def push_filler(self, size: int) -> None:
        """Gather one frame of `size` bytes for everyone."""
        for connection in self.connections:
            connection.out.append(frames.pack(b'{"stream":"x","data":"' + b"x" * size + b'"}'))

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

    def flush(self) -> None:
        """Let gathered frames leave, unless the sockets are stalled."""
        stalled = self._troubles.on("stall")
        for connection in list(self.connections):
            if not stalled:
                connection.flush()
            elif len(connection.out) > HELD_FRAMES_MAX:
                self.cut["held too much"] += 1
                connection.abort()

    async def wait_for_readers(self) -> None:
        """Return when every connection has taken most of its frames; cut those that take none for too long."""
        limit = self._config.buffer_bytes
        slow = {connection: connection.unread_bytes() for connection in self.connections}
        slow = {connection: size for connection, size in slow.items() if size > limit}
        since = time.monotonic()
        while slow:
            await asyncio.sleep(0.002)
            sizes = {connection: connection.unread_bytes() for connection in slow}
            if any(sizes[connection] < size for connection, size in slow.items()):
                since = time.monotonic()
            elif time.monotonic() - since > self._config.stuck_s:
                for connection in slow:
                    self.cut["slow reader"] += 1
                    connection.abort()
                return
            slow = {connection: size for connection, size in sizes.items() if size > limit}

    # Keeping the rules

    def tend(self, now: float) -> None:
        """Ping, miss pongs, announce and end lives; call it a few times a second with monotonic time."""
        config = self._config
        for connection in list(self.connections):
            left_s = connection.ends_at - now
            if connection.pings and now - next(iter(connection.pings.values())) > config.pong_timeout_s:
                self._close(connection, "no pong", 1008, "Pong timeout")
            elif left_s <= 0:
                self._close(connection, "end of life", 1001, "Going away")
            elif left_s <= config.shutdown_notice_s and not connection.warned:
                self.announce_end(connection, left_s)
            elif now - connection.ping_at >= config.ping_every_s:
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

    def refuse_speed(self, connection: Connection) -> None:
        """End a connection that talks too fast."""
        self._close(connection, "too many messages", 1008, "Too many requests")

    def _close(self, connection: Connection, why: str, code: int, reason: str) -> None:
        self.cut[why] += 1
        _log.info("connection closed", extra={"why": why})
        connection.close(code, reason)
