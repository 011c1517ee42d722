"""Each role of the broker can do its work and nothing else, on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import quote, urlsplit
from uuid import uuid4

import aio_pika
import aiormq
import pytest

from common.bus import Bus, read_log
from common.contracts import OutgoingMessage
from common.errors import ConfigError, Refused
from common.publisher import AmqpPublisher
from ops import access_broker
from ops.access_rules import address_for, consumer_rights, operator_rights, service_rights
from ops.rabbitmq_probe import call_management

PASSWORD = "p@ss:w0rd/with %41 and more"
CALL_TIMEOUT_S = 10


Act = Callable[[aio_pika.abc.AbstractChannel], Awaitable[object]]
REFUSED = (aiormq.exceptions.ChannelAccessRefused, aiormq.exceptions.ChannelLockedResource)


@pytest.fixture
async def users(rmq_url: str, management_url: str) -> AsyncIterator[dict[str, str]]:
    """Role -> address of a user that has it, in a fresh vhost with the topology declared by its service."""
    vhost = access_broker.vhost_of(rmq_url)
    tail = uuid4().hex[:8]
    rights = {
        "service": service_rights(),
        "features": consumer_rights(f"features_{tail}"),
        "narrow": consumer_rights(f"narrow_{tail}", ("symbol_events",), dead_letters=True),
        "operator": operator_rights(),
    }
    for role, right in rights.items():
        assert access_broker.create_user(management_url, vhost, f"{role}_{tail}", right, PASSWORD)
    yield {role: address_for(rmq_url, f"{role}_{tail}", PASSWORD) for role in rights}
    for role in rights:
        assert access_broker.drop_user(management_url, f"{role}_{tail}")


async def permits(connection: aio_pika.abc.AbstractConnection, act: Act) -> bool:
    """Does the broker let this user do it? On a channel of its own: a refusal closes it."""
    async with asyncio.timeout(CALL_TIMEOUT_S):
        channel = await connection.channel(publisher_confirms=True)
        try:
            await act(channel)
        except REFUSED:
            return False
        await channel.close()
        return True


def as_login(management_url: str, user_url: str) -> str:
    """The management API's address with the login of a broker address."""
    parts = urlsplit(management_url)
    userinfo = urlsplit(user_url).netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{userinfo}@{parts.netloc.rpartition('@')[2]}").geturl()


def publish(exchange: str, key: str) -> Act:
    async def act(channel: aio_pika.abc.AbstractChannel) -> None:
        target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
        await target.publish(aio_pika.Message(b"{}"), key, mandatory=False)

    return act


def declare(name: str, **given: object) -> Act:
    return lambda channel: channel.declare_queue(name, **given)  # type: ignore[arg-type]


def declare_exchange(name: str) -> Act:
    return lambda channel: channel.declare_exchange(name, "topic")


def delete(name: str) -> Act:
    return lambda channel: channel.queue_delete(name)


def delete_exchange(name: str) -> Act:
    return lambda channel: channel.exchange_delete(name)


def purge(name: str) -> Act:
    async def act(channel: aio_pika.abc.AbstractChannel) -> None:
        await (await channel.get_queue(name, ensure=False)).purge()

    return act


def get(name: str) -> Act:
    async def act(channel: aio_pika.abc.AbstractChannel) -> None:
        await (await channel.get_queue(name, ensure=False)).get(no_ack=False, fail=False)

    return act


async def ignore(message: aio_pika.abc.AbstractIncomingMessage) -> None:
    await message.ack()


def follow(key: str, name: str | None = None) -> Act:
    async def act(channel: aio_pika.abc.AbstractChannel) -> None:
        queue = await channel.declare_queue(name, exclusive=name is None, durable=name is not None)
        await queue.bind("trading.bus", key)
        await queue.consume(ignore)

    return act


async def test_service_does_what_services_do_and_configures_nothing_foreign(users: dict[str, str]) -> None:
    url = users["service"]
    bus, publisher = Bus(url, "test"), AmqpPublisher(url, "test")
    try:
        await bus.declare()
        await bus.declare()
        await publisher.publish([OutgoingMessage(k, k, b"{}") for k in ("price_updates.A.1m", "symbol_events.updated")])
        await publisher.publish([OutgoingMessage("ohlcv.feed", "", b"?")], exchange="trading.bus.dead")
        assert await bus.depth("trading.bus.dead") == 1
        async with await aio_pika.connect(url) as connection:
            assert await permits(connection, follow("symbol_events.updated"))
            # As `doctor` does.
            assert await permits(connection, declare("trading.bus.doctor.0a1b2c3d", exclusive=True))
            assert await permits(connection, publish("trading.bus", "doctor"))
            for act in (
                declare("orders"), declare("trading.bus.mine"), declare("consumer.features.x"),
                declare_exchange("mine"), declare_exchange("trading.bus.more"), delete("consumer.features"),
                publish("trading.bus", "orders.new"), publish("trading.bus", ""), publish("", "trading.bus.log"),
                publish("amq.topic", "price_updates.A.1m"), follow("#"), get("trading.bus.log"),
            ):  # fmt: skip
                assert not await permits(connection, act), act
    finally:
        await publisher.close()
        await bus.close()


async def test_consumer_reads_and_touches_nothing_that_is_not_its_own(
    users: dict[str, str], rmq_url: str, management_url: str
) -> None:
    name = urlsplit(users["features"]).username
    assert name is not None
    bus, publisher = Bus(users["service"], "test"), AmqpPublisher(users["service"], "test")
    try:
        await bus.declare()
        await publisher.publish([OutgoingMessage("price_updates.A.1m", "1", b"{}")])
        async with await aio_pika.connect(rmq_url) as admin, await aio_pika.connect(users["features"]) as connection:
            channel = await admin.channel()
            foreign = await channel.declare_queue("consumer.other", durable=True)
            exclusive = await channel.declare_queue("consumer.other.exclusive", exclusive=True)
            for act in (
                follow("price_updates.#"), follow("#", f"consumer.{name}"), follow("#", f"consumer.{name}.second"),
                declare(f"consumer.{name}.quorum", durable=True, arguments={
                    "x-queue-type": "quorum", "x-dead-letter-exchange": f"consumer.{name}.dead"}),
                declare_exchange(f"consumer.{name}.dead"), delete(f"consumer.{name}.second"),
            ):  # fmt: skip
                assert await permits(connection, act)
            for act in (
                publish("trading.bus", "price_updates.A.1m"), publish("trading.bus.dead", "x"),
                publish("", foreign.name), publish("", "trading.bus.log"), delete(foreign.name),
                delete(exclusive.name), delete("trading.bus.log"), delete("trading.bus.dead"),
                delete_exchange("trading.bus"), purge(foreign.name), get(foreign.name),
                get("trading.bus.dead"), get("trading.bus.unrouted"), declare("orders"), declare("trading.bus.log"),
                declare(f"consumer.{name}x"), declare_exchange("trading.bus.more"), purge("trading.bus.unrouted"),
                declare(f"consumer.{name}.d", arguments={"x-dead-letter-exchange": "trading.bus.dead"}),
            ):  # fmt: skip
                assert not await permits(connection, act), act
        assert [m.key async for m in read_log(users["features"], idle_s=0.5)] == ["price_updates.A.1m"]
        with pytest.raises(ConfigError, match="refuses the login"):
            access_broker.list_users(as_login(management_url, users["features"]))
    finally:
        await publisher.close()
        await bus.close()


async def test_a_consumer_may_be_kept_to_some_topics(users: dict[str, str]) -> None:
    bus = Bus(users["service"], "test")
    try:
        await bus.declare()
    finally:
        await bus.close()
    name = urlsplit(users["narrow"]).username
    async with await aio_pika.connect(users["narrow"]) as connection:
        assert await permits(connection, follow("symbol_events.#"))
        assert await permits(
            connection, declare(f"consumer.{name}", arguments={"x-dead-letter-exchange": "trading.bus.dead"})
        )
        for act in (follow("#"), follow("price_updates.#"), follow("*.updated"), get("trading.bus.log")):
            assert not await permits(connection, act)


async def test_operator_may_mend_and_watch(users: dict[str, str], rmq_url: str, management_url: str) -> None:
    bus = Bus(users["operator"], "test")
    try:
        await bus.declare()
    finally:
        await bus.close()
    async with await aio_pika.connect(users["operator"]) as connection:
        for act in (
            publish("trading.bus", "price_updates.A.1m"), get("trading.bus.dead"),
            declare("consumer.gone", durable=True), delete("consumer.gone"), purge("trading.bus.unrouted"),
            follow("#"), declare("trading-bus.tail.1"),
        ):  # fmt: skip
            assert await permits(connection, act)
        for act in (declare("orders"), publish("", "trading.bus.log")):
            assert not await permits(connection, act)
    watching = as_login(management_url, users["operator"])
    assert call_management(watching, "GET", f"queues/{quote(access_broker.vhost_of(rmq_url), safe='')}")
    with pytest.raises(OSError, match=r"401|403"):
        call_management(watching, "PUT", "users/access_evil", {"password": "x", "tags": "administrator"})


def test_a_user_of_somebody_else_is_left_alone(management_url: str) -> None:
    name = f"somebody_{uuid4().hex[:8]}"
    call_management(management_url, "PUT", f"users/{name}", {"password": "x" * 12, "tags": "management"})
    try:
        with pytest.raises(Refused, match=name):
            access_broker.create_user(management_url, "/", name, service_rights(), PASSWORD)
        with pytest.raises(Refused, match=name):
            access_broker.drop_user(management_url, name)
        assert name in access_broker.list_users(management_url).others
    finally:
        call_management(management_url, "DELETE", f"users/{name}")
