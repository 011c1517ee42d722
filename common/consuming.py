"""Messages of one queue, waited for with a bound and acked in groups."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import suppress
from typing import cast

import aio_pika
import msgspec
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue

from common.amqp import named_failures
from common.errors import TryLater
from common.settings import RABBITMQ


class BusLimits(msgspec.Struct, frozen=True):
    """Bounds of declaring and consuming."""

    connect_timeout_s: float = 10.0
    call_timeout_s: float = 5.0
    close_timeout_s: float = 2.0
    heartbeat_s: int = 10
    prefetch: int = 256
    """Also the bound of what waits in memory."""
    state_messages_max: int = 10_000
    """A state queue longer than this drops its head: the table is read again anyway."""
    reload_every_s: float = 60.0
    retry_first_s: float = 0.25
    retry_max_s: float = 5.0


class BusMessage(msgspec.Struct, frozen=True):
    """A message as it came from the bus; `published` is what its sender says, to the second."""

    key: str
    message_id: str
    headers: dict[str, object]
    body: bytes
    published: dt.datetime | None = None


async def connect_bus(url: str, name: str, limits: BusLimits) -> AbstractConnection:
    """Open a connection that notices a dead peer; raises TryLater, ConfigError when `url` is no address."""
    RABBITMQ.require(url, "broker (RMQ_URL)")
    with named_failures():
        async with asyncio.timeout(limits.connect_timeout_s):
            properties: dict[str, aio_pika.abc.FieldValue] = {"connection_name": name}
            return await aio_pika.connect(url, heartbeat=limits.heartbeat_s, client_properties=properties)


class Consumer:
    """The messages of a queue in order of arrival; at most `prefetch` of them wait here unacked."""

    def __init__(self, channel: AbstractChannel, limits: BusLimits) -> None:
        self._channel = channel
        self._limits = limits
        # Bounded by the prefetch count, so that putting never waits.
        self._waiting: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
        self._given: AbstractIncomingMessage | None = None
        self._unacked = 0

    async def start(self, queue: AbstractQueue, offset: str | int | dt.datetime | None = None) -> None:
        """Begin; `offset` is for streams. Raises TryLater."""
        with named_failures():
            async with asyncio.timeout(self._limits.call_timeout_s):
                underlay = await self._channel.get_underlay_channel()
                # The broker cancels a consumer whose queue was deleted, and closes nothing.
                underlay.on_consumer_cancel_callbacks.add(self._end)
                self._channel.close_callbacks.add(self._end)
                await queue.consume(self._put, arguments=None if offset is None else {"x-stream-offset": offset})

    async def next(self, timeout_s: float) -> BusMessage | None:
        """Wait for the next message; None when none came in time. Raises TryLater when the channel is gone.

        Asking for the next one says that the last one is done with.
        """
        await self._settle()
        try:
            async with asyncio.timeout(max(timeout_s, 0.0)):
                message = await self._waiting.get()
        except TimeoutError:
            return None
        if message is None:
            raise TryLater("broker: the consumer was cut off")
        self._given = message
        headers = cast(dict[str, object], dict(message.headers))
        key, message_id = message.routing_key or "", message.message_id or ""
        return BusMessage(key, message_id, headers, message.body, message.timestamp)

    async def _settle(self) -> None:
        """Ack what was given: in one go when there is nothing else to do, at the latest at half the prefetch count."""
        if self._given is None:
            return
        self._unacked += 1
        if not self._waiting.empty() and self._unacked < self._limits.prefetch // 2:
            return
        given, self._given, self._unacked = self._given, None, 0
        with named_failures():
            async with asyncio.timeout(self._limits.call_timeout_s):
                await given.ack(multiple=True)

    async def _put(self, message: AbstractIncomingMessage) -> None:
        self._waiting.put_nowait(message)

    def _end(self, *_: object) -> None:
        self._waiting.put_nowait(None)


async def close_bus(closing: AbstractConnection | AbstractChannel | None, limits: BusLimits) -> None:
    """Close a connection or channel, but do not wait for a broker that does not answer."""
    if closing is not None:
        # The names first: the library's CancelledError, which nobody asked for, would end our task without a word.
        with suppress(TryLater), named_failures():
            async with asyncio.timeout(limits.close_timeout_s):
                await closing.close()
