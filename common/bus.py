"""`trading.bus` from the consumer's side: declare it, follow it for state, read its log.

aio-pika's declare, bind and consume wait without limit while the broker is away, whatever timeout they are given, so
every call here stands under a bound of its own. This connection never publishes (see `common.publisher`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aio_pika.exceptions import ChannelPreconditionFailed

from common.amqp import named_failures
from common.backoff import full_jitter
from common.consuming import BusLimits, BusMessage, Consumer, close_bus, connect_bus
from common.errors import BadInput, TryLater
from common.topology import EXCHANGE, QUEUE_LOG, BindingSpec, ExchangeSpec, QueueSpec, TopologyLimits, describe_topology

log = logging.getLogger(__name__)

Load = Callable[[], Awaitable[None]]
OnMessage = Callable[[BusMessage], Awaitable[None]]
OnBad = Callable[[BusMessage, str], None]


class Bus:
    """A process's consuming connection. `name` is what the broker's management shows."""

    def __init__(
        self, url: str, name: str, *, topology: TopologyLimits | None = None, limits: BusLimits | None = None
    ) -> None:
        self._url = url
        self._name = name
        self._topology = describe_topology(topology or TopologyLimits())
        self._limits = limits or BusLimits()
        self._connection: AbstractConnection | None = None
        self._connecting = asyncio.Lock()
        self._kept: set[str] = set()
        self.bad_total = 0
        self.loads_total = 0

    async def declare(self) -> None:
        """Make sure that every exchange, queue and binding is there; raises TryLater.

        What exists with other arguments is kept and logged once.
        """
        with named_failures():
            for exchange in self._topology.exchanges:
                await self._declare_one(exchange)
            for queue in self._topology.queues:
                await self._declare_one(queue)
            async with self._channel() as channel:
                for binding in self._topology.bindings:
                    async with asyncio.timeout(self._limits.call_timeout_s):
                        await _bind(channel, binding)

    async def depth(self, queue: str) -> int:
        """How many messages wait in a queue (unrouted, dead); raises TryLater, also when there is no such queue."""
        with named_failures():
            async with self._channel() as channel, asyncio.timeout(self._limits.call_timeout_s):
                declared = await channel.declare_queue(queue, passive=True)
                return declared.declaration_result.message_count or 0

    async def consume_state(
        self, bindings: Sequence[str], load: Load, on_message: OnMessage, on_bad: OnBad | None = None
    ) -> None:
        """Follow a table for ever: bind first, load the table, then follow; the same again after every reconnect.

        A message only says what to read again: the queue is bounded, lives as long as its connection, and loses what
        is published while we are away, so the table decides and is loaded again every `reload_every_s`. `on_message`
        may raise BadInput (counted, given to `on_bad`, acked) or TryLater (begin anew); so may `load`.
        """
        attempt, rng = 0, random.Random()
        while True:
            loads = self.loads_total
            try:
                await self._follow(bindings, load, on_message, on_bad)
            except TryLater as error:
                attempt = 0 if self.loads_total > loads else attempt
                wait_s = full_jitter(attempt, self._limits.retry_first_s, self._limits.retry_max_s, rng)
                attempt += 1
                log.warning("bus lost", extra={"bindings": list(bindings), "error": str(error), "wait_s": wait_s})
                await asyncio.sleep(max(wait_s, error.wait_s or 0.0))

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        await close_bus(connection, self._limits)

    async def _follow(self, bindings: Sequence[str], load: Load, on_message: OnMessage, on_bad: OnBad | None) -> None:
        await self.declare()  # a consumer may be the first to come
        channel = await self._open_channel()
        try:
            queue = await self._state_queue(channel, bindings)
            await self._load(load)
            consumer = Consumer(channel, self._limits)
            await consumer.start(queue)
            loop = asyncio.get_running_loop()
            reload_at = loop.time() + self._limits.reload_every_s
            while True:
                message = await consumer.next(reload_at - loop.time())
                if message is not None:
                    await self._handle(message, on_message, on_bad)
                if loop.time() >= reload_at:
                    await self._load(load)
                    reload_at = loop.time() + self._limits.reload_every_s
        finally:
            await close_bus(channel, self._limits)

    async def _load(self, load: Load) -> None:
        await load()
        self.loads_total += 1

    async def _handle(self, message: BusMessage, on_message: OnMessage, on_bad: OnBad | None) -> None:
        try:
            await on_message(message)
        except BadInput as error:
            self.bad_total += 1
            if on_bad is not None:
                on_bad(message, str(error))

    async def _state_queue(self, channel: AbstractChannel, bindings: Sequence[str]) -> AbstractQueue:
        limits = self._limits
        with named_failures():
            async with asyncio.timeout(limits.call_timeout_s):
                await channel.set_qos(prefetch_count=limits.prefetch)
                queue = await channel.declare_queue(
                    exclusive=True, arguments={"x-max-length": limits.state_messages_max, "x-overflow": "drop-head"}
                )
                for key in bindings:
                    await queue.bind(EXCHANGE, key)
                return queue

    async def _open_channel(self) -> AbstractChannel:
        """Open a channel, on a new connection where the old one is gone or does not answer."""
        async with self._connecting:
            if self._connection is None or self._connection.is_closed:
                self._connection = await connect_bus(self._url, self._name, self._limits)
            connection = self._connection
        try:
            with named_failures():
                async with asyncio.timeout(self._limits.call_timeout_s):
                    channel = connection.channel(publisher_confirms=False)
                    await channel.initialize()
                    return channel
        except BaseException:
            # It may hang for minutes before the library notices.
            if self._connection is connection:
                await self.close()
            raise

    @asynccontextmanager
    async def _channel(self) -> AsyncGenerator[AbstractChannel]:
        channel = await self._open_channel()
        try:
            yield channel
        finally:
            await close_bus(channel, self._limits)

    async def _declare_one(self, spec: ExchangeSpec | QueueSpec) -> None:
        # On a channel of its own: a refusal closes it.
        try:
            async with self._channel() as channel, asyncio.timeout(self._limits.call_timeout_s):
                if isinstance(spec, QueueSpec):
                    await channel.declare_queue(spec.name, durable=True, arguments=dict(spec.arguments))
                else:
                    await channel.declare_exchange(spec.name, spec.type, durable=True, arguments=dict(spec.arguments))
        except ChannelPreconditionFailed as error:
            if spec.name not in self._kept:
                self._kept.add(spec.name)
                log.warning("kept with other arguments", extra={"kept": spec.name, "reason": str(error)})


async def _bind(channel: AbstractChannel, binding: BindingSpec) -> None:
    if binding.to_exchange:
        exchange = await channel.get_exchange(binding.to, ensure=False)
        await exchange.bind(binding.exchange, binding.key)
    else:
        queue = await channel.get_queue(binding.to, ensure=False)
        await queue.bind(binding.exchange, binding.key)


async def read_log(
    url: str,
    *,
    idle_s: float = 2.0,
    offset: str | int | dt.datetime = "first",
    name: str = "trading-bus/read-log",
    limits: BusLimits | None = None,
) -> AsyncGenerator[BusMessage]:
    """Read `trading.bus.log` until nothing has come for `idle_s`; repeats (same message_id) are given as they come.

    `offset` is "first", "last", "next", a number, or a time from which to begin. Raises TryLater.
    """
    limits = limits or BusLimits()
    connection = await connect_bus(url, name, limits)
    try:
        with named_failures():
            async with asyncio.timeout(limits.call_timeout_s):
                channel = connection.channel(publisher_confirms=False)
                await channel.initialize()
                await channel.set_qos(prefetch_count=limits.prefetch)
                queue = await channel.get_queue(QUEUE_LOG, ensure=False)
        consumer = Consumer(channel, limits)
        await consumer.start(queue, offset)
        while (message := await consumer.next(idle_s)) is not None:
            yield message
    finally:
        await close_bus(connection, limits)
