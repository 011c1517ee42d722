"""One AMQP connection with one channel that can be cut off at once, whatever the broker does."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, cast

from aiormq.channel import Channel
from aiormq.connection import Connection, TCPTransportFactory, TLSTransportFactory, TransportFactory
from aiormq.exceptions import AMQPError, ProbableAuthenticationError
from pamqp.exceptions import PAMQPException
from yarl import URL

from common.errors import TryLater
from common.settings import RABBITMQ

FAILURES = (AMQPError, PAMQPException, OSError, RuntimeError, TimeoutError)
"""What the library raises while a broker is away, slow, frozen or unwilling."""

UNWILLING_WAIT_S = 5.0
"""A wrong password or a missing vhost does not heal by asking often."""

CLOSED_AT_ONCE = "closes the connection at once: is the vhost there, and may this login use it?"


def login_of(url: str) -> str:
    """The user as which an address logs in; the broker lets nobody name another one in a message (`user_id`)."""
    return URL(url).user or "guest"


def try_later(error: BaseException) -> TryLater:
    """The project's name for a failure of the broker."""
    turned_away = "Connection.Close" in str(error)  # all that the library lets out of the broker's refusal
    words = CLOSED_AT_ONCE if turned_away else f"{type(error).__name__}: {error}"
    unwilling = turned_away or isinstance(error, ProbableAuthenticationError)
    return TryLater(f"broker: {words}", wait_s=UNWILLING_WAIT_S if unwilling else None)


@contextmanager
def named_failures() -> Generator[None]:
    """Raise TryLater in place of the library's errors.

    A publish to a frozen broker ends in CancelledError although nobody cancelled: that too is a failure of the broker.
    """
    try:
        yield
    except FAILURES as error:
        raise try_later(error) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise try_later(error) from error


class _Connection(Connection):
    """The library's connection, with room for all that is published at once: with ten places, its default, a batch
    takes a turn of the loop for each message.
    """

    FRAME_BUFFER_SIZE = 512


class _GatheringWriter:
    """A stream writer that sends what one turn of the loop wrote in one piece, where the loop would send each write."""

    def __init__(self, writer: StreamWriter) -> None:
        self._writer = writer
        self._parts: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        """Send before the loop waits again."""
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)

    async def drain(self) -> None:
        """Send now, and wait until the socket has taken most of it."""
        self._send()
        await self._writer.drain()

    def close(self) -> None:
        """Send what is left, and close."""
        self._send()
        self._writer.close()

    def _send(self) -> None:
        parts = self._parts
        if parts and not self._writer.is_closing():
            self._writer.write(b"".join(parts))
        parts.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


class _Wire(TransportFactory):
    """Opens the socket as the library would and keeps a hand on it: close() waits for a peer that may be frozen."""

    def __init__(self, url: URL) -> None:
        self._inner = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        self.writer: StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[StreamReader, StreamWriter]:
        reader, self.writer = await self._inner.create(url, **kwargs)
        return reader, cast(StreamWriter, _GatheringWriter(self.writer))


class Link:
    """An open connection and its only channel, confirms on."""

    def __init__(self, connection: Connection, wire: _Wire, channel: Channel) -> None:
        self._connection = connection
        self._wire = wire
        self.channel = channel

    @property
    def is_open(self) -> bool:
        """Whether both ends still believe in it."""
        return self._connection.is_opened and not self.channel.is_closed

    def abort(self) -> None:
        """Cut the socket now; the library's tasks end by themselves."""
        if self._wire.writer is not None:
            self._wire.writer.transport.abort()

    async def close(self, timeout_s: float) -> None:
        """Say goodbye, but not for longer than this."""
        try:
            with suppress(TryLater), named_failures():
                async with asyncio.timeout(timeout_s):
                    await self._connection.close()
        finally:
            self.abort()


async def open_link(url: str, name: str, *, heartbeat_s: int, timeout_s: float) -> Link:
    """Connect and open a channel; raises TryLater, ConfigError when `url` is no address.

    `name` is what the broker's management shows.
    """
    RABBITMQ.require(url, "broker (RMQ_URL)")
    target = URL(url).update_query(heartbeat=heartbeat_s, name=name)
    wire = _Wire(target)
    connection = _Connection(target, transport_factory=wire)
    try:
        with named_failures():
            async with asyncio.timeout(timeout_s):
                await connection.connect()  # pyright: ignore[reportUnknownMemberType]
                # The abstract channel, which the signature names, does not know publishing without a drain.
                return Link(connection, wire, cast(Channel, await connection.channel()))
    except BaseException:
        if wire.writer is not None:
            wire.writer.transport.abort()
        raise
