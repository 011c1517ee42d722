"""A `websockets` connection that hands messages on as they are read, without its queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import Event

from common.backoff import parse_retry_after
from common.clock import Clock
from common.errors import Reconnect
from common.feed_events import FeedLimits

_REST_BYTES_MAX = 16_384
"""After a larger read there is more to be read at once."""
_TEXT, _BINARY, _CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT


class Wire(ClientConnection):
    """A connection whose messages go to `deliver` at once; `recv` only tells when it is lost.

    The library's own way, a queue and three coroutines per message, costs half of what reading a frame costs. Holding
    the venue back is then the receiver's business: `hold` and `release`. Until `listen` messages wait; `deliver` must
    not raise. After a small read the socket is left alone for `rest_s`, so that frames come several at a time: waking
    up costs more than reading one.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._early: list[bytes] = []
        self._parts: list[bytes] = []
        self._deliver: Callable[[bytes], None] = self._early.append
        self._rest_s = 0.0
        self._resting = self._held = False

    def listen(self, deliver: Callable[[bytes], None], rest_s: float) -> None:
        """Hand on what came already, and from now on every message as it is read."""
        self._deliver, self._rest_s = deliver, rest_s
        for message in self._early:
            deliver(message)
        self._early.clear()

    def hold(self) -> None:
        """Read no more; the venue's TCP window fills."""
        self._held = True
        self.transport.pause_reading()

    def release(self) -> None:
        """Read on."""
        self._held = False
        self._read_on()

    def data_received(self, data: bytes) -> None:
        """Take what was read: the loop calls this."""
        super().data_received(data)
        if self._rest_s and len(data) < _REST_BYTES_MAX and not self._resting:
            self._resting = True
            self.transport.pause_reading()
            self.loop.call_later(self._rest_s, self._end_rest)

    def _end_rest(self) -> None:
        self._resting = False
        self._read_on()

    def _read_on(self) -> None:
        if not (self._resting or self._held or self.transport.is_closing()):
            self.transport.resume_reading()

    def process_event(self, event: Event) -> None:
        """Take one event of the protocol: the library calls this for all that it read, in order."""
        if type(event) is Frame:
            opcode = event.opcode
            if opcode is _TEXT and event.fin:
                self._deliver(bytes(event.data))
                return
            if opcode is _TEXT or opcode is _BINARY or opcode is _CONT:
                self._join(event)
                return
        super().process_event(event)

    def _join(self, frame: Frame) -> None:
        """A message in pieces; the protocol has checked their order and their size together."""
        self._parts.append(bytes(frame.data))
        if frame.fin:
            message = b"".join(self._parts)
            self._parts.clear()
            self._deliver(message)


async def open_wire(url: str, limits: FeedLimits, clock: Clock) -> Wire:
    """Connect and shake hands; raises Reconnect, with the wait the venue asks for, when it did not come to that."""
    try:
        # The venue pings us and the library answers; silence is judged by data, not by pongs.
        socket = await connect(
            url,
            create_connection=Wire,
            compression=None,
            open_timeout=limits.open_timeout_s,
            close_timeout=limits.close_timeout_s,
            ping_interval=None,
            max_size=limits.frame_bytes_max,
        )
    except InvalidStatus as error:
        wait_s = parse_retry_after(error.response.headers.get("Retry-After"), clock.wall_ms())
        raise Reconnect(f"handshake answered {error.response.status_code}", wait_s) from error
    except (OSError, TimeoutError, WebSocketException) as error:
        raise Reconnect(f"{type(error).__name__}: {error}") from error
    return cast(Wire, socket)


def describe_close(error: ConnectionClosed) -> str:
    """Why a connection closed, with what lies behind it."""
    return f"{error}" if error.__cause__ is None else f"{error} ({error.__cause__})"
