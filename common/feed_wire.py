"""A `websockets` connection that hands messages on as they are read, without its queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event

_TEXT, _BINARY, _CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT


class Wire(ClientConnection):
    """A connection whose messages go to `deliver` at once; `recv` only tells when it is lost.

    The library's own way, a queue and three coroutines per message, costs as much again as reading the frame. What
    holds the venue back is then the receiver's business: `transport.pause_reading`. Until `listen` messages wait;
    `deliver` must not raise.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._early: list[bytes] = []
        self._parts: list[bytes] = []
        self._deliver: Callable[[bytes], None] = self._early.append

    def listen(self, deliver: Callable[[bytes], None]) -> None:
        """Hand on what came already, and from now on every message as it is read."""
        self._deliver = deliver
        for message in self._early:
            deliver(message)
        self._early.clear()

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
