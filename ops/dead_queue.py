"""The dead queue itself: letters held while somebody looks, given back in order, or sent on their way again.

AMQP has no way of looking into a queue: one takes messages and gives them back. They are taken one by one
(`basic.get`), so that what is not asked for stays, and given back in one `basic.nack` of all at the end: one by one, or
by closing the connection, a quorum queue would mix them up. It serves what was given back before anything else, and
puts what is given back behind it; so all that somebody looked at before is taken along, or the order would turn. The
broker counts each return, and the queue is declared so that the count never matters (`DEAD_RETURNS_MAX`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, cast

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, PublishError

from common.amqp import login_of, named_failures
from common.consuming import BusLimits, close_bus, connect_bus
from common.errors import Refused, TryLater
from common.publisher import message_type
from common.topology import EXCHANGE_DEAD
from ops.dead_letters import RETURNS_HEADER, Letter, living_headers, number_twins, read_letter

NAME = "trading-bus/dead"
PUBLISH_TIMEOUT_S = 10.0


class Held(NamedTuple):
    """A letter with its message, unacked: nobody else sees it meanwhile."""

    letter: Letter
    message: AbstractIncomingMessage


@asynccontextmanager
async def hold_letters(url: str, letters_max: int, limits: BusLimits | None = None) -> AsyncGenerator[list[Held]]:
    """Hold the oldest letters, at most `letters_max`; at the end those not acked go back where they were.

    Raises TryLater, also when there is no dead queue.
    """
    limits = limits or BusLimits()
    connection = await connect_bus(url, NAME, limits)
    channel: AbstractChannel | None = None
    try:
        with named_failures():
            async with asyncio.timeout(limits.call_timeout_s):
                channel = connection.channel(publisher_confirms=False)
                await channel.initialize()
                queue = await channel.get_queue(EXCHANGE_DEAD, ensure=False)
        messages = await _take(queue, letters_max, limits)
        letters = number_twins([_letter_of(message) for message in messages])
        yield [Held(letter, message) for letter, message in zip(letters, messages, strict=True)]
    finally:
        if channel is not None:
            await _give_back(channel, limits)
        await close_bus(connection, limits)


async def _take(queue: AbstractQueue, letters_max: int, limits: BusLimits) -> list[AbstractIncomingMessage]:
    taken: list[AbstractIncomingMessage] = []
    while True:
        with named_failures():
            async with asyncio.timeout(limits.call_timeout_s):
                message = await queue.get(fail=False)
        if message is None:
            return taken
        if len(taken) < letters_max:
            taken.append(message)
        if len(taken) == letters_max and RETURNS_HEADER not in message.headers:
            return taken


async def _give_back(channel: AbstractChannel, limits: BusLimits) -> None:
    # When this fails the connection is gone, and the broker takes them back by itself.
    with suppress(TryLater), named_failures():
        async with asyncio.timeout(limits.close_timeout_s):
            underlay = await channel.get_underlay_channel()
            # Tag 0 with `multiple`: all that is unacked.
            await underlay.basic_nack(0, multiple=True, requeue=True)


def _letter_of(message: AbstractIncomingMessage) -> Letter:
    headers = cast("dict[str, object]", dict(message.headers))
    names = (message.routing_key or "", message.message_id or "")
    return read_letter(*names, headers, message.body, message.timestamp, message.user_id)


async def drop_letter(held: Held, limits: BusLimits | None = None) -> None:
    """Remove a letter for good; raises TryLater."""
    limits = limits or BusLimits()
    with named_failures():
        async with asyncio.timeout(limits.call_timeout_s):
            await held.message.ack()


class Sender:
    """Sends letters on their way again, over a connection that does nothing else: an alarm blocks who publishes."""

    def __init__(self, url: str, limits: BusLimits | None = None) -> None:
        self._url = url
        self._limits = limits or BusLimits()
        self._connection: AbstractConnection | None = None

    async def send(self, held: Held) -> None:
        """Publish the message as it was and return once the broker confirmed it; the letter itself stays.

        Raises Refused when it can not be sent again or no queue takes it, TryLater when the broker is in doubt.
        """
        letter = held.letter
        if letter.obstacle is not None:
            raise Refused(letter.obstacle)
        if self._connection is None:
            self._connection = await connect_bus(self._url, f"{NAME}-replay", self._limits)
        try:
            with named_failures():
                async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                    await self._publish(self._connection, held)
        except TryLater as error:
            refusal = _refusal_of(error.__cause__, letter)
            if refusal is None:
                raise
            raise refusal from error

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        await close_bus(connection, self._limits)

    async def _publish(self, connection: AbstractConnection, held: Held) -> None:
        # A channel for each: an exchange that is gone closes it.
        channel = connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.initialize()
        try:
            if held.letter.exchange:
                exchange = await channel.get_exchange(held.letter.exchange, ensure=False)
            else:
                exchange = channel.default_exchange
            await exchange.publish(_living(held, login_of(self._url)), held.letter.key, mandatory=True)
        finally:
            await close_bus(channel, self._limits)


def _refusal_of(cause: BaseException | None, letter: Letter) -> Refused | None:
    """What no patience heals: no exchange, no queue; a queue that is full may take it later."""
    if isinstance(cause, PublishError):
        return Refused(f"no queue takes {letter.key!r} of exchange {letter.exchange!r}")
    if isinstance(cause, (ChannelNotFoundEntity, ChannelAccessRefused)):
        return Refused(f"{cause}")
    return None


def _living(held: Held, login: str) -> aio_pika.Message:
    """The message as it was before it died, but for whose it is: now the operator's, who answers for it."""
    letter, message = held
    ours = "reason" in message.headers
    headers = living_headers(cast("dict[str, object]", dict(message.headers)), ours)
    return aio_pika.Message(
        message.body,
        headers=cast("dict[str, aio_pika.abc.FieldValue]", headers),
        # What we put into the dead queue stands there as bytes, whatever it was.
        content_type="application/json" if ours else message.content_type,
        content_encoding=message.content_encoding,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        priority=message.priority,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        message_id=message.message_id,
        timestamp=message.timestamp,
        type=message_type(letter.key) if ours else message.type,
        user_id=login,
        app_id=message.app_id,
    )
