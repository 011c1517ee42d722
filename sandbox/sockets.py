"""Open connections, who hears what on them, and what every venue does with them alike."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple

from sandbox import frames
from sandbox.config import Config
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
        self.written_at = self.opened_at
        self.warned = False
        self.closing = False
        self._transport = transport
        self._incoming: deque[float] = deque(maxlen=incoming_per_s + 1)

    def flush(self) -> None:
        """Hand gathered frames to the socket."""
        if self.out and not self._transport.is_closing():
            self.written_at = time.monotonic()
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


class Breach(NamedTuple):
    """A rule that a client broke, and how the venue closes for it."""

    why: str
    code: int
    reason: str


class Sockets(ABC):
    """The connections of one venue; how it names streams and words frames is the venue's own."""

    cadence_ms = 1000
    """How often `push_cadence` comes; a divisor of 1000."""

    def __init__(self, config: Config, troubles: Troubles) -> None:
        self.connections: set[Connection] = set()
        self.accepted = 0
        self.cut = Counter[str]()
        self.sent_frames = Counter[str]()
        self.sent_trades = Counter[str]()
        self.streamed = IdRanges()
        self._config = config
        self._troubles = troubles
        self._listeners: dict[str, set[Connection]] = {}

    # What a venue does in its own words

    @abstractmethod
    def is_heard(self, symbol: str) -> bool:
        """Whether anyone subscribed to a symbol's trades."""

    @abstractmethod
    def push_trade(self, symbol: str, trade: Trade, event_ms: int) -> bool:
        """Gather a trade's frames for all who hear it; False when nobody does."""

    @abstractmethod
    def push_broken(self, symbol: str, trade: Trade, event_ms: int) -> None:
        """Gather a frame that stops in the middle."""

    @abstractmethod
    def push_cadence(self, event_ms: int) -> None:
        """Gather the frames that tell the time."""

    @abstractmethod
    def announce_end(self, connection: Connection, left_s: float) -> None:
        """Tell a connection that it will be closed; the end comes after `left_s`."""

    @abstractmethod
    def obey(self, connection: Connection, text: str) -> None:
        """Carry out what a client says and answer it."""

    @abstractmethod
    def _breach(self, connection: Connection, now: float) -> Breach | None:
        """The rule that a connection has broken by now."""

    @abstractmethod
    def _attend(self, connection: Connection, now: float) -> None:
        """Whatever the venue sends by itself from time to time."""

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

    def _unsubscribe(self, connection: Connection, names: Iterable[str]) -> None:
        for name in names:
            connection.names.pop(name, None)
            listeners = self._listeners.get(name, set())
            listeners.discard(connection)
            if not listeners:
                self._listeners.pop(name, None)

    # Pushing

    def push_filler(self, size: int) -> None:
        """Gather one frame of `size` bytes for everyone."""
        for connection in self.connections:
            connection.out.append(frames.pack(b'{"stream":"x","data":"' + b"x" * size + b'"}'))

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
        """Close who broke a rule, announce and end lives; call it a few times a second with monotonic time."""
        for connection in list(self.connections):
            left_s = connection.ends_at - now
            breach = self._breach(connection, now)
            if breach is not None:
                self.end(connection, *breach)
            elif left_s <= 0:
                self.end(connection, "end of life", 1001, "Going away")
            elif left_s <= self._config.shutdown_notice_s and not connection.warned:
                self.announce_end(connection, left_s)
            else:
                self._attend(connection, now)

    def refuse_speed(self, connection: Connection) -> None:
        """End a connection that talks too fast."""
        self.end(connection, "too many messages", 1008, "Too many requests")

    def end(self, connection: Connection, why: str, code: int, reason: str) -> None:
        """Close a connection, and count why."""
        self.cut[why] += 1
        _log.info("connection closed", extra={"why": why})
        connection.close(code, reason)
