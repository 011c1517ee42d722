"""The operator at the bus: tail, and what can be done with dead letters, on a real broker."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import aio_pika
import pytest
from click.testing import CliRunner, Result

from common.amqp import login_of
from common.bus import Bus
from common.consuming import BusLimits, BusMessage
from common.contracts import OutgoingMessage, beat_message
from common.errors import TryLater
from common.publisher import AmqpPublisher, dead_letter
from common.topology import EXCHANGE_DEAD, TopologyLimits
from ops import access_broker
from ops.access_rules import address_for, consumer_rights
from ops.dead import dead
from ops.rabbitmq_probe import call_management
from ops.tail import Watch, follow

SMALL = TopologyLimits(log_bytes_max=20_000_000, log_segment_bytes=1_000_000, dead_bytes_max=10_000_000)
SCRIPT = "from ops.cli import main; main()"
WORK = "work"


@pytest.fixture
async def bus(rmq_url: str) -> AsyncIterator[Bus]:
    bus = Bus(rmq_url, "test/bus", topology=SMALL)
    await bus.declare()
    yield bus
    await bus.close()


@pytest.fixture
async def publisher(rmq_url: str, bus: Bus) -> AsyncIterator[AmqpPublisher]:
    publisher = AmqpPublisher(rmq_url, "test", wall_ms=lambda: 1_700_000_000_000)
    yield publisher
    await publisher.close()


async def until(ready: Callable[[], bool | Awaitable[bool]], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while True:
            answer = ready()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.05)


def second(number: int, symbol: str = "SOLUSDT") -> OutgoingMessage:
    key = f"price_updates.{symbol}.1s"
    return OutgoingMessage(key, f"{key}@{number}", b'{"c":1.50,"i":%d}' % number, committed_s=1_700_000_000 + number)


# ---- tail


async def run_tail(rmq_url: str, *words: str) -> list[str]:
    """A whole run of the command; its lines on stdout."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, "tail", *words,
        env={**os.environ, "RMQ_URL": rmq_url}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err
    return out.decode().splitlines()


async def test_tail_reads_the_log_from_where_it_is_told(rmq_url: str, publisher: AmqpPublisher) -> None:
    await publisher.publish([m for i in range(5) for m in (second(i), second(i, "ETHUSDT"))])
    at = dt.datetime.fromtimestamp(1_700_000_003, dt.UTC).isoformat()
    whole, by_time, counted = await asyncio.gather(
        run_tail(rmq_url, "#.SOLUSDT.*", "--from", "first", "--idle", "1"),
        run_tail(rmq_url, "#", "--from", at, "--idle", "1", "--json"),
        run_tail(rmq_url, "#", "--from", "2", "--count", "3", "--json"),
    )
    assert whole == [f'2023-11-14T22:13:2{i}Z price_updates.SOLUSDT.1s {{"c":1.50,"i":{i}}}' for i in range(5)]
    assert [json.loads(line)["body"]["i"] for line in by_time] == [3, 3, 4, 4]
    assert '"body":{"c":1.50,"i":3}' in by_time[0]
    assert [json.loads(line)["offset"] for line in counted] == [2, 3, 4]
    assert [json.loads(line)["message_id"][-3:] for line in counted] == ["s@1", "s@1", "s@2"]


@asynccontextmanager
async def cuttable(rmq_url: str) -> AsyncIterator[tuple[str, Callable[[], int]]]:
    """A way to the broker that can be cut; cutting answers how many connections it met."""
    broker, ways = urlsplit(rmq_url), set[asyncio.StreamWriter]()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ways.add(writer)
        to_reader, to_writer = await asyncio.open_connection(broker.hostname, broker.port)
        await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))
        ways.discard(writer)

    def cut() -> int:
        for writer in ways:
            writer.transport.abort()
        return len(ways)

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield broker._replace(netloc=f"{broker.username}:{broker.password}@127.0.0.1:{port}").geturl(), cut
        cut()


async def test_tail_joins_again_and_leaves_nothing(
    rmq_url: str, management_url: str, bus: Bus, publisher: AmqpPublisher
) -> None:
    """One tail listens, one reads the log, a consumer does its work; both tails are cut off."""
    async with cuttable(rmq_url) as (url, cut):
        await cut_two_tails(url, cut, management_url, bus, publisher)


async def cut_two_tails(
    url: str, cut: Callable[[], int], management_url: str, bus: Bus, publisher: AmqpPublisher
) -> None:
    vhost = url.rpartition("/")[2]
    heard, read, work = list[BusMessage](), list[BusMessage](), list[BusMessage]()
    heard_told, read_told = list[str](), list[str]()

    def take_into(seen: list[BusMessage]) -> Callable[[BusMessage], bool]:
        return lambda message: seen.append(message) or message.message_id.endswith("@99")

    async def do_work(message: BusMessage) -> None:
        work.append(message)

    async def nothing() -> None: ...

    def queues() -> list[bool]:
        listed = call_management(management_url, "GET", f"queues/{vhost}")
        own = [q for q in listed if q["exclusive"] and q["arguments"]["x-max-length"] == 10_000]
        return [q["auto_delete"] for q in own]

    worker = asyncio.create_task(bus.consume_state(["price_updates.#"], nothing, do_work))
    limits = BusLimits(retry_first_s=0.05, retry_max_s=0.1)
    live, log = Watch(url, "price_updates.SOLUSDT.#", limits=limits), Watch(url, "#", "first", limits=limits)
    listening = asyncio.create_task(follow(live, take_into(heard), heard_told.append))
    reading = asyncio.create_task(follow(log, take_into(read), read_told.append))
    await until(lambda: sorted(queues()) == [False, True] and bus.loads_total == 1)
    await publisher.publish([second(1), second(2, "ETHUSDT"), beat_message("SOLUSDT", 1_700_000_003, "1.5", True)])
    await until(lambda: len(heard) == 2 and len(read) == 2)
    assert [message.key for message in heard] == ["price_updates.SOLUSDT.1s", "price_updates.SOLUSDT.beat"]

    assert cut() == 2
    await until(lambda: "joined again" in " ".join(heard_told) and "joined again" in " ".join(read_told))
    assert heard_told[0].startswith("lost: broker: ")
    assert heard_told[-1] == "joined again; what came meanwhile was not seen"
    assert read_told[-1] == "joined again"
    await publisher.publish([second(5), second(99)])
    await asyncio.wait_for(asyncio.gather(listening, reading), 10)
    assert [message.message_id[-3:] for message in heard[2:]] == ["s@5", "@99"]
    assert [message.message_id[-3:] for message in read] == ["s@1", "s@2", "s@5", "@99"]
    await until(lambda: len(work) == 5 and queues() == [False])
    worker.cancel()
    await asyncio.wait({worker})


async def test_tail_says_what_is_missing_and_ends_when_told(rmq_url: str, bus: Bus, tmp_path: Path) -> None:
    with pytest.raises(TryLater, match="broker"):
        await follow(Watch("amqp://guest:guest@127.0.0.1:1/", "#"), lambda _: True, lambda _: None)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, "tail", "#", env={**os.environ, "RMQ_URL": rmq_url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    publisher = AmqpPublisher(rmq_url, "test")
    line = asyncio.create_task(process.stdout.readline())
    while not line.done():  # until it listens
        await publisher.publish([second(1)])
        await asyncio.wait({line}, timeout=0.1)
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, err) == (0, b"")
    await publisher.close()


# ---- dead letters


async def run_dead(rmq_url: str, *words: str) -> Result:
    env = {"RMQ_URL": rmq_url}
    return await asyncio.to_thread(lambda: CliRunner().invoke(dead, words, env=env))


async def list_dead(rmq_url: str, *words: str) -> list[str]:
    done = await run_dead(rmq_url, "list", *words)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


async def let_broker_bury(rmq_url: str, count: int) -> None:
    """Messages of a work queue, refused by their consumer: the broker itself makes dead letters of them."""
    connection = await aio_pika.connect(rmq_url)
    async with connection:
        channel = await connection.channel()
        arguments = {"x-queue-type": "quorum", "x-dead-letter-exchange": EXCHANGE_DEAD}
        queue = await channel.declare_queue(WORK, durable=True, arguments=arguments)  # type: ignore[arg-type]
        await queue.bind("trading.bus", "symbol_events.updated")
        exchange = await channel.get_exchange("trading.bus", ensure=False)
        for number in range(count):
            message = aio_pika.Message(
                b'{"symbol":"S%d"}' % number, headers={"status": "ACTIVE", "n": number}, message_id=f"event#{number}",
                content_type="application/json", type="symbol_events.updated", app_id="registry",
                timestamp=1_700_000_000, delivery_mode=2, user_id=login_of(rmq_url),
            )  # fmt: skip
            await exchange.publish(message, "symbol_events.updated")
        for _ in range(count):
            got = await queue.get(timeout=5)
            assert got is not None
            await got.reject(requeue=False)


async def bury_ours(publisher: AmqpPublisher, count: int) -> None:
    letters = [dead_letter(b'{"e":"aggTra%d' % i, f"not a frame: {i}", "ohlcv.frames") for i in range(count)]
    await publisher.publish(letters, exchange=EXCHANGE_DEAD)


async def has_depth(bus: Bus, queue: str, depth: int) -> bool:
    return await bus.depth(queue) == depth


async def test_looking_changes_nothing_however_often(rmq_url: str, bus: Bus, publisher: AmqpPublisher) -> None:
    """RabbitMQ drops what was given back 20 times, and turns the order of what is given back in parts."""
    assert await list_dead(rmq_url) == []
    await bury_ours(publisher, 8)
    await until(lambda: has_depth(bus, EXCHANGE_DEAD, 8))
    first = await list_dead(rmq_url)
    assert [line.split("  ")[-2] for line in first] == [f"not a frame: {i}" for i in range(8)]
    assert all("ohlcv.frames" in line and "[no replay]" in line for line in first)
    for looked_at in (3, 8, 1, 5, 2):
        for _ in range(5):
            assert await list_dead(rmq_url, "--max", str(looked_at)) == first[:looked_at]
    await bury_ours(publisher, 10)
    await until(lambda: has_depth(bus, EXCHANGE_DEAD, 18))
    assert await list_dead(rmq_url, "--max", "4") == first[:4]
    assert [line.split("  ")[-2][-1] for line in await list_dead(rmq_url)] == list("012345670123456789")
    name = first[5].split()[0]
    shown = (await run_dead(rmq_url, "show", name)).output
    for part in (name, "not a frame: 5", "header        bytes: 13", '{"e":"aggTra5', "is no key of trading.bus"):
        assert part in shown
    raw = await run_dead(rmq_url, "show", name, "--raw")
    assert raw.stdout_bytes == b'{"e":"aggTra5'
    dropped = await run_dead(rmq_url, "drop", name)
    assert dropped.exit_code == 0
    assert await list_dead(rmq_url, "--max", "7") == [*first[:5], *first[6:]]
    assert (await run_dead(rmq_url, "drop")).exit_code == 2
    await run_dead(rmq_url, "drop", "--all")
    assert await bus.depth(EXCHANGE_DEAD) == 0


async def test_letters_of_the_broker_go_where_they_were_going(rmq_url: str, bus: Bus, publisher: AmqpPublisher) -> None:
    await let_broker_bury(rmq_url, 3)
    await until(lambda: has_depth(bus, EXCHANGE_DEAD, 3))
    await bury_ours(publisher, 1)
    await publisher.publish(
        [dead_letter(b'{"c":1}', "headers", "outbox.price_updates.SOLUSDT.1s")], exchange=EXCHANGE_DEAD
    )
    await until(lambda: has_depth(bus, EXCHANGE_DEAD, 5))
    lines = await list_dead(rmq_url)
    names = [line.split()[0] for line in lines]
    assert lines[0].endswith("symbol_events.updated  rejected in work")

    one = await run_dead(rmq_url, "replay", names[1], names[3])
    assert one.exit_code == 1  # a frame was named, which goes nowhere
    assert f"{names[1]} sent to symbol_events.updated" in one.output
    assert f"{names[3]} kept" in one.output
    assert await list_dead(rmq_url) == [lines[0], *lines[2:]]
    every = await run_dead(rmq_url, "replay", "--all")
    assert every.exit_code == 0
    assert "3 sent again, 1 kept" in every.output
    assert await list_dead(rmq_url) == [lines[3]]

    log = [json.loads(line) for line in await run_tail(rmq_url, "#", "--from", "first", "--idle", "1", "--json")]
    assert [m["message_id"] for m in log[:6]] == [f"event#{n}" for n in (0, 1, 2, 1, 0, 2)]
    assert [(m["key"], m["body"]) for m in log[6:]] == [("price_updates.SOLUSDT.1s", {"c": 1})]
    connection = await aio_pika.connect(rmq_url)
    async with connection:
        channel = await connection.channel()
        again = await (await channel.get_queue(WORK, ensure=False)).get(timeout=5)
        assert again is not None
        assert (again.body, again.headers) == (b'{"symbol":"S1"}', {"status": "ACTIVE", "n": 1})
        assert (again.content_type, again.type, again.app_id) == (
            "application/json",
            "symbol_events.updated",
            "registry",
        )
        assert again.delivery_mode == 2
        assert again.timestamp is not None
        assert again.timestamp.timestamp() == 1_700_000_000


async def test_a_forged_letter_goes_nowhere_by_itself(
    rmq_url: str, management_url: str, bus: Bus, publisher: AmqpPublisher
) -> None:
    """A consumer that may write dead letters writes them as a service or the broker would."""
    name, password = f"forger_{uuid4().hex[:8]}", "a-long-password"
    rights = consumer_rights(name, ("symbol_events",), dead_letters=True)
    access_broker.create_user(management_url, access_broker.vhost_of(rmq_url), name, rights, password)
    try:
        connection = await aio_pika.connect(address_for(rmq_url, name, password))
        async with connection:
            channel = await connection.channel()
            dead_exchange = await channel.get_exchange(EXCHANGE_DEAD, ensure=False)
            ours = {"reason": "rejected", "source": "price_updates.BTCUSDT.1m"}
            brokers = {"x-death": [{"exchange": "trading.bus", "routing-keys": ["price_updates.BTCUSDT.1m"]}]}
            for headers, user_id in ((ours, None), (ours, name), (brokers, None), (brokers, name)):
                message = aio_pika.Message(b'{"rev":99999}', headers=headers, user_id=user_id)  # type: ignore[arg-type]
                await dead_exchange.publish(message, "x")
            with pytest.raises(aio_pika.exceptions.AMQPError, match="user_id"):
                await dead_exchange.publish(aio_pika.Message(b"{}", headers=ours, user_id="ohlcv"), "x")  # type: ignore[arg-type]
        await publisher.publish([dead_letter(b'{"c":1}', "r", "outbox.price_updates.X.1s")], exchange=EXCHANGE_DEAD)
        await until(lambda: has_depth(bus, EXCHANGE_DEAD, 5))
        lines = await list_dead(rmq_url)
        assert [f" {name} " in line for line in lines] == [False, True, False, True, False]
        done = await run_dead(rmq_url, "replay", "--all")
        assert "1 sent again, 4 kept" in done.output, done.output
        assert f"kept: it is of {name}, no service's" in done.output
        assert "kept: it is of nobody the broker knows" in done.output
        shown = await run_dead(rmq_url, "show", lines[1].split()[0])
        assert f"sender        {name}" in shown.output
        # Whoever looked at one may send it, and whoever trusts a sender all of its.
        done = await run_dead(rmq_url, "replay", lines[0].split()[0])
        assert (done.exit_code, "1 sent again" in done.output) == (0, True), done.output
        assert "2 sent again" in (await run_dead(rmq_url, "replay", "--all", "--sender", name)).output
    finally:
        access_broker.drop_user(management_url, name)


async def test_a_letter_stays_while_nobody_takes_it(rmq_url: str, bus: Bus) -> None:
    connection = await aio_pika.connect(rmq_url)
    async with connection:
        channel = await connection.channel()
        own = await channel.declare_exchange("own", "topic")
        for name, exchange, key in (("a", "own", "k"), ("b", "", "b"), ("c", "own", "k2")):
            arguments = {"x-dead-letter-exchange": EXCHANGE_DEAD, "x-max-length": 0}
            queue = await channel.declare_queue(name, durable=True, arguments=arguments)  # type: ignore[arg-type]
            if exchange:
                await queue.bind("own", key)
            target = own if exchange else channel.default_exchange
            await target.publish(aio_pika.Message(name.encode(), message_id=name, user_id=login_of(rmq_url)), key)
            await until(lambda: has_depth(bus, EXCHANGE_DEAD, "abc".index(name) + 1))  # noqa: B023
            await queue.delete(if_empty=False)
        lines = await list_dead(rmq_url)
        assert [line.split("  ")[-1] for line in lines] == ["maxlen in a", "maxlen in b", "maxlen in c"]
        done = await run_dead(rmq_url, "replay", "--all")
        assert "0 sent again, 3 kept" in done.output
        assert "no queue takes 'k' of exchange 'own'" in done.output
        assert "no queue takes 'b' of exchange ''" in done.output
        await channel.declare_queue("b", durable=True)
        await own.delete(if_unused=False)
        done = await run_dead(rmq_url, "replay", "--all")
        assert "1 sent again, 2 kept" in done.output
        assert "no exchange 'own'" in done.output
        assert await list_dead(rmq_url) == [lines[0], lines[2]]
        assert await bus.depth("b") == 1
