from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import aio_pika
import pytest

from common.bus import Bus, read_log
from common.consuming import BusLimits, BusMessage, Consumer, connect_bus
from common.contracts import OutgoingMessage, beat_message
from common.errors import BadInput, Refused, TryLater
from common.publisher import AmqpPublisher, PublisherLimits, publish_dead
from common.topology import EXCHANGE_DEAD, EXCHANGE_UNROUTED, QUEUE_LOG, TopologyLimits
from ops.rabbitmq_probe import call_management

SMALL = TopologyLimits(log_bytes_max=20_000_000, log_segment_bytes=1_000_000, dead_bytes_max=10_000_000)


def message(number: int, key: str = "price_updates.SOLUSDT.1s", **changes: object) -> OutgoingMessage:
    body = json.dumps({"number": number}).encode()
    return OutgoingMessage(key, f"{key}@{number}", body, **changes)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool], limit_s: float = 15.0) -> None:
    """The broker tells us nothing about its queues: ask until it is so."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.02)


async def until_depth(bus: Bus, queue: str, wanted: int) -> None:
    async with asyncio.timeout(15):
        while await bus.depth(queue) != wanted:
            await asyncio.sleep(0.05)


@pytest.fixture
async def bus(rmq_url: str) -> AsyncIterator[Bus]:
    bus = Bus(rmq_url, "test/bus", topology=SMALL)
    yield bus
    await bus.close()


@pytest.fixture
async def publisher(rmq_url: str, bus: Bus) -> AsyncIterator[AmqpPublisher]:
    publisher = AmqpPublisher(rmq_url, "test", prepare=bus.declare)
    sender = asyncio.create_task(publisher.run())
    yield publisher
    sender.cancel()
    with suppress(asyncio.CancelledError):
        await sender
    await publisher.close()


async def test_published_messages_are_in_the_log_with_every_property(rmq_url: str, publisher: AmqpPublisher) -> None:
    headers = '{"status":"ACTIVE","n":3}'
    await publisher.publish([message(i, headers=headers, committed_s=1_700_000_000) for i in range(600)])
    assert publisher.confirmed_total == 600
    read = [m async for m in read_log(rmq_url, idle_s=1.0)]
    assert [json.loads(m.body)["number"] for m in read] == list(range(600))
    assert read[0].key == "price_updates.SOLUSDT.1s"
    assert read[0].message_id == "price_updates.SOLUSDT.1s@0"
    assert {k: read[0].headers[k] for k in ("status", "n")} == {"status": "ACTIVE", "n": 3}

    connection = await aio_pika.connect(rmq_url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        queue = await channel.get_queue(QUEUE_LOG, ensure=False)
        first = await anext(aiter(queue.iterator(arguments={"x-stream-offset": "first"}, timeout=5)))
        assert (first.content_type, first.type, first.app_id) == ("application/json", "price_updates.1s", "test")
        assert first.delivery_mode == 2
        assert first.timestamp is not None
        assert first.timestamp.timestamp() == 1_700_000_000


async def test_declaring_again_is_harmless_and_other_arguments_are_kept(
    rmq_url: str, bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    await bus.declare()
    await bus.declare()
    assert not caplog.records
    larger = Bus(rmq_url, "test/other", topology=TopologyLimits(log_bytes_max=30_000_000, unrouted_messages_max=5))
    await larger.declare()
    await larger.declare()
    kept = [record.__dict__["kept"] for record in caplog.records if "kept" in record.__dict__]
    assert kept == [EXCHANGE_UNROUTED, EXCHANGE_DEAD, QUEUE_LOG]
    await larger.close()


async def test_topology_has_the_agreed_arguments(rmq_url: str, management_url: str, bus: Bus) -> None:
    await bus.declare()
    vhost = rmq_url.rpartition("/")[2]
    queues = {q["name"]: q["arguments"] for q in call_management(management_url, "GET", f"queues/{vhost}")}
    assert queues == {
        "trading.bus.unrouted": {"x-max-length": 10_000, "x-overflow": "drop-head", "x-queue-type": "classic"},
        "trading.bus.dead": {
            "x-queue-type": "quorum",
            "x-max-length-bytes": 10_000_000,
            "x-delivery-limit": 1_000_000_000,
        },
        "trading.bus.log": {
            "x-queue-type": "stream",
            "x-max-length-bytes": 20_000_000,
            "x-max-age": "7D",
            "x-stream-max-segment-size-bytes": 1_000_000,
        },
    }
    exchanges = {e["name"]: e for e in call_management(management_url, "GET", f"exchanges/{vhost}")}
    assert exchanges["trading.bus"]["type"] == "topic"
    assert exchanges["trading.bus"]["arguments"] == {"alternate-exchange": "trading.bus.unrouted"}
    assert all(e["durable"] for e in exchanges.values())


async def test_mistyped_key_is_seen_as_unrouted_and_a_beat_is_not(bus: Bus, publisher: AmqpPublisher) -> None:
    publisher.publish_transient(beat_message("SOLUSDT", 1_700_000_000, "1.5", True))
    await until(lambda: publisher.confirmed_total == 1)
    await publisher.publish([message(1, "price_update.SOLUSDT.1s"), message(2)])
    await until_depth(bus, EXCHANGE_UNROUTED, 1)


async def test_beats_reach_who_binds_them(rmq_url: str, bus: Bus, publisher: AmqpPublisher) -> None:
    got: list[BusMessage] = []
    loaded = asyncio.Event()

    async def load() -> None:
        loaded.set()

    async def keep(incoming: BusMessage) -> None:
        got.append(incoming)

    await bus.declare()
    follower = asyncio.create_task(bus.consume_state(["price_updates.*.beat"], load, keep))
    async with asyncio.timeout(15):
        await loaded.wait()
    publisher.publish_transient(beat_message("SOLUSDT", 1_700_000_000, "1.5", True))
    await until(lambda: len(got) == 1)
    assert json.loads(got[0].body)["live"] is True
    follower.cancel()
    with suppress(asyncio.CancelledError):
        await follower


async def test_dead_letters_are_kept_with_their_reason(rmq_url: str, bus: Bus, publisher: AmqpPublisher) -> None:
    publish_dead(publisher, b'{"broken', "not JSON", "ohlcv.feed")
    publish_dead(publisher, b"x" * 300_000, "too long", "ohlcv.feed")
    await until(lambda: publisher.confirmed_total == 2)
    await until_depth(bus, EXCHANGE_DEAD, 2)
    connection = await aio_pika.connect(rmq_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue(EXCHANGE_DEAD, ensure=False)
        first, second = await queue.get(), await queue.get()
        assert first is not None
        assert second is not None
        assert (first.body, first.routing_key, first.headers["reason"]) == (b'{"broken', "ohlcv.feed", "not JSON")
        assert (len(second.body), second.headers["bytes"]) == (65_536, 300_000)


async def test_refused_message_says_why_and_does_not_reach_the_broker(publisher: AmqpPublisher) -> None:
    for poison in (
        OutgoingMessage("k", "id", b"x" * 131_065),
        OutgoingMessage("k" * 256, "id", b""),
        OutgoingMessage("", "id", b""),
        OutgoingMessage("k", "i" * 256, b""),
        OutgoingMessage("k", "id", b"", headers="[1]"),
        OutgoingMessage("k", "id", b"", headers="{"),
    ):
        assert publisher.refusal(poison)
        with pytest.raises(Refused):
            await publisher.publish([poison])
    await publisher.publish([OutgoingMessage("symbol_events.updated", "id", b"x" * 131_064)])
    assert publisher.connects_total == 1


async def test_transients_are_bounded_and_the_oldest_go_first(rmq_url: str, bus: Bus) -> None:
    publisher = AmqpPublisher(rmq_url, "test", prepare=bus.declare, limits=PublisherLimits(transient_messages_max=5))
    for number in range(8):
        publisher.publish_transient(message(number))
    assert publisher.transient_dropped_total == 3
    sender = asyncio.create_task(publisher.run())
    await until(lambda: publisher.confirmed_total == 5)
    assert [json.loads(m.body)["number"] async for m in read_log(rmq_url, idle_s=1.0)] == [3, 4, 5, 6, 7]
    sender.cancel()
    with suppress(asyncio.CancelledError):
        await sender
    await publisher.close()


async def test_no_broker_and_no_vhost_are_try_later(rmq_url: str) -> None:
    for url in ("amqp://guest:guest@127.0.0.1:1/", f"{rmq_url}_not_there"):
        publisher, bus = AmqpPublisher(url, "test"), Bus(url, "test")
        with pytest.raises(TryLater):
            await publisher.publish([message(1)])
        with pytest.raises(TryLater):
            await bus.declare()
        with pytest.raises(TryLater):
            await anext(read_log(url))


async def test_state_is_bound_then_loaded_then_followed_and_again_after_a_cut(
    rmq_url: str, management_url: str, bus: Bus, publisher: AmqpPublisher
) -> None:
    steps: list[object] = []

    async def load() -> None:
        # Bound already: what is published while the table is read is not lost.
        await publisher.publish([message(len(steps), "symbol_events.updated")])
        steps.append("load")

    async def follow(incoming: BusMessage) -> None:
        steps.append(json.loads(incoming.body)["number"])

    await bus.declare()
    state = Bus(rmq_url, "test/state", limits=BusLimits(retry_first_s=0.01))
    follower = asyncio.create_task(state.consume_state(["symbol_events.#"], load, follow))
    await until(lambda: len(steps) == 2)
    assert steps == ["load", 0]

    def mine() -> list[str]:
        listed = call_management(management_url, "GET", "connections")
        return [c["name"] for c in listed if c.get("client_properties", {}).get("connection_name") == "test/state"]

    await until(lambda: bool(mine()))
    for name in mine():
        call_management(management_url, "DELETE", f"connections/{name.replace(' ', '%20').replace('>', '%3E')}")
    await until(lambda: len(steps) == 4)
    assert steps == ["load", 0, "load", 2]
    follower.cancel()
    with suppress(asyncio.CancelledError):
        await follower
    await state.close()


async def test_bad_message_is_counted_and_does_not_stop_the_follower(
    rmq_url: str, bus: Bus, publisher: AmqpPublisher
) -> None:
    got: list[int] = []
    bad: list[str] = []
    loads: list[int] = []

    async def load() -> None:
        loads.append(len(got))

    async def follow(incoming: BusMessage) -> None:
        number = json.loads(incoming.body)["number"]
        if number == 1:
            raise BadInput("one is not a number we know")
        got.append(number)

    await bus.declare()
    limits = BusLimits(reload_every_s=0.3, prefetch=8)
    state = Bus(rmq_url, "test/state", limits=limits)
    follower = asyncio.create_task(
        state.consume_state(["price_updates.#"], load, follow, lambda m, reason: bad.append(f"{m.key}: {reason}"))
    )
    await until(lambda: len(loads) == 1)
    await publisher.publish([message(i) for i in range(50)])
    await until(lambda: len(got) == 49)
    assert got == [0, *range(2, 50)]
    assert bad == ["price_updates.SOLUSDT.1s: one is not a number we know"]
    assert state.bad_total == 1
    await until(lambda: len(loads) >= 3)
    follower.cancel()
    with suppress(asyncio.CancelledError):
        await follower
    await state.close()


async def test_consumer_of_a_deleted_queue_ends(rmq_url: str) -> None:
    limits = BusLimits()
    connection = await connect_bus(rmq_url, "test/consumer", limits)
    channel = await connection.channel(publisher_confirms=False)
    consumer = Consumer(channel, limits)
    queue = await channel.declare_queue("short-lived")
    await consumer.start(queue)
    other = await aio_pika.connect(rmq_url)
    await (await other.channel()).queue_delete("short-lived")
    with pytest.raises(TryLater):
        await consumer.next(10)
    await other.close()
    await connection.close()
