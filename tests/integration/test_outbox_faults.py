"""The broker and the database are killed and frozen under a burst; afterwards every row's message is in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from common.amqp import open_link
from common.batch import Batch
from common.bus import Bus, read_log
from common.consuming import BusLimits
from common.errors import TryLater
from common.outbox import Outbox, OutboxLimits
from common.publisher import AmqpPublisher, PublisherLimits
from common.store import Store
from common.topology import TopologyLimits
from migrations.runner import migrate
from ops.servers_private import PrivateServers
from tests.rows import T0, make_second

pytestmark = pytest.mark.timeout(180)

SMALL = TopologyLimits(log_bytes_max=50_000_000, log_segment_bytes=5_000_000, dead_bytes_max=10_000_000)
SYMBOLS = [f"S{i}USDT" for i in range(20)]


@dataclass
class Burst:
    """A writer that commits 20 seconds a turn as fast as it can, and its outbox."""

    store: Store
    outbox: Outbox
    stop: asyncio.Event
    turn: int = 0

    async def write(self) -> None:
        while not self.stop.is_set():
            batch = Batch()
            for symbol in SYMBOLS:
                # Two turns a second of data: every other write is a revision.
                batch.put_footprint(make_second(T0 + self.turn // 2, symbol, close=f"{self.turn}.5"))
            while not self.stop.is_set():
                try:
                    await self.store.commit(batch)
                    break
                except TryLater:
                    await asyncio.sleep(0.1)
            else:
                return
            self.turn += 1
            self.outbox.wake()
            await asyncio.sleep(0.005)

    async def until_turn(self, wanted: int) -> None:
        async with asyncio.timeout(60):
            while self.turn < wanted:
                await asyncio.sleep(0.02)

    async def until_confirmed(self, wanted: int) -> None:
        async with asyncio.timeout(60):
            while self.outbox.confirmed_total < wanted:
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def schema(own_servers: PrivateServers) -> PrivateServers:
    asyncio.run(migrate(own_servers.ts_dsn))
    return own_servers


@asynccontextmanager
async def burst(servers: PrivateServers, owner: str) -> AsyncIterator[Burst]:
    store = Store(servers.ts_dsn, owner)
    await store.query("TRUNCATE footprint_1s")
    assert await store.acquire()
    bus = Bus(servers.rmq_url, "test/bus", topology=SMALL, limits=BusLimits(call_timeout_s=2, connect_timeout_s=2))
    await bus.declare()
    # A quorum queue younger than this does not survive the kill of its only node.
    await asyncio.sleep(3.5)
    limits = PublisherLimits(confirm_timeout_s=3, connect_timeout_s=2, heartbeat_s=2)
    publisher = AmqpPublisher(servers.rmq_url, "test", prepare=bus.declare, limits=limits)
    outbox = Outbox(store.query, owner, publisher, OutboxLimits(retry_max_s=1))
    running = Burst(store, outbox, asyncio.Event())
    tasks = [asyncio.create_task(outbox.run()), asyncio.create_task(running.write())]
    try:
        yield running
    finally:
        running.stop.set()
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await publisher.close()
        await bus.close()
        await store.close()


async def settle(running: Burst) -> None:
    """Stop writing and wait until the outbox is empty."""
    running.stop.set()
    async with asyncio.timeout(40):
        while True:
            with suppress(TryLater):
                if not await running.store.query(
                    "SELECT FROM bus_outbox WHERE owner = $1 LIMIT 1", running.store.owner
                ):
                    return
            await asyncio.sleep(0.1)


async def check(servers: PrivateServers, running: Burst) -> int:
    """Nothing confirmed is lost: every revision of every row is in the log; returns how many repeats came with it."""
    log = [m.message_id async for m in read_log(servers.rmq_url, idle_s=2)]
    stored = await running.store.query("SELECT symbol, sum(rev)::int AS revs FROM footprint_1s GROUP BY symbol")
    assert {row["symbol"] for row in stored} == set(SYMBOLS)
    seen = set(log)
    for row in stored:
        mine = [ident for ident in dict.fromkeys(log) if f".{row['symbol']}." in ident]
        assert len(mine) == row["revs"]
        # Per key the first occurrences are in order.
        assert mine == sorted(mine)
    return len(log) - len(seen)


async def clear_log(servers: PrivateServers) -> None:
    link = await open_link(servers.rmq_url, "test/clear", heartbeat_s=10, timeout_s=10)
    await link.channel.queue_delete("trading.bus.log")
    await link.close(2)


async def in_thread(action: Callable[[], None]) -> None:
    await asyncio.to_thread(action)


async def test_broker_killed_under_a_burst_loses_nothing(schema: PrivateServers) -> None:
    async with burst(schema, "kill/0/1") as running:
        await running.until_confirmed(400)
        await in_thread(schema.kill_rabbitmq)
        turn = running.turn
        await running.until_turn(turn + 50)
        await in_thread(schema.restart_rabbitmq)
        await running.until_confirmed(running.turn * len(SYMBOLS) + 200)
        await settle(running)
        assert running.outbox.failures_total
        await check(schema, running)
    await clear_log(schema)


async def test_publisher_recovers_from_a_frozen_broker(schema: PrivateServers) -> None:
    async with burst(schema, "freeze/0/1") as running:
        await running.until_confirmed(400)
        await in_thread(schema.freeze_rabbitmq)
        try:
            async with asyncio.timeout(30):
                # Noticed, and noticed again by the attempts to connect, which the kernel still accepts.
                while running.outbox.failures_total < 2:
                    await asyncio.sleep(0.1)
        finally:
            await in_thread(schema.thaw_rabbitmq)
        await running.until_confirmed(running.turn * len(SYMBOLS))
        await settle(running)
        await check(schema, running)
    await clear_log(schema)


async def test_database_killed_under_a_burst_loses_nothing(schema: PrivateServers) -> None:
    async with burst(schema, "database/0/1") as running:
        await running.until_confirmed(400)
        await in_thread(schema.kill_postgres)
        await in_thread(schema.restart_postgres)
        await running.until_turn(running.turn + 50)
        await settle(running)
        await check(schema, running)
        # Every acknowledged turn is there, the one in doubt at most once more.
        (row,) = await running.store.query("SELECT sum(rev)::int AS n FROM footprint_1s")
        assert row["n"] in (running.turn * len(SYMBOLS), (running.turn + 1) * len(SYMBOLS))
    await clear_log(schema)
