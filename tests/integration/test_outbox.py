from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import asyncpg
import pytest

from common import statements as sql
from common.batch import Batch
from common.bus import Bus, read_log
from common.contracts import LANE_LIVE, LANE_REPAIR, OutgoingMessage
from common.errors import TryLater
from common.outbox import Outbox, OutboxLimits
from common.publisher import AmqpPublisher
from common.store import Store
from common.topology import EXCHANGE, EXCHANGE_DEAD, TopologyLimits
from tests.rows import T0, make_second

OWNER = "ohlcv/0/1"
SMALL = TopologyLimits(log_bytes_max=20_000_000, log_segment_bytes=1_000_000, dead_bytes_max=10_000_000)


@dataclass
class House:
    """A store, its outbox and what they publish through."""

    dsn: str
    rmq_url: str
    store: Store
    bus: Bus
    publisher: AmqpPublisher
    outbox: Outbox

    async def log(self) -> list[str]:
        return [m.message_id async for m in read_log(self.rmq_url, idle_s=1.0)]

    async def left(self) -> int:
        (row,) = await self.store.query("SELECT coalesce(sum(cardinality(keys)), 0)::int AS n FROM bus_outbox")
        return row["n"]

    async def until_empty(self, limit_s: float = 15) -> None:
        async with asyncio.timeout(limit_s):
            while await self.left():
                await asyncio.sleep(0.02)


@pytest.fixture
async def house(ts_dsn: str, rmq_url: str) -> AsyncIterator[House]:
    store = Store(ts_dsn, OWNER)
    assert await store.acquire()
    bus = Bus(rmq_url, "test/bus", topology=SMALL)
    publisher = AmqpPublisher(rmq_url, "test", prepare=bus.declare)
    outbox = Outbox(store.query, OWNER, publisher)
    yield House(ts_dsn, rmq_url, store, bus, publisher, outbox)
    await publisher.close()
    await bus.close()
    await store.close()


class Running:
    """`async with Running(outbox)`: it publishes meanwhile; an error of its own fails the test."""

    def __init__(self, *outboxes: Outbox) -> None:
        self._outboxes = outboxes

    async def __aenter__(self) -> None:
        self._tasks = [asyncio.create_task(outbox.run()) for outbox in self._outboxes]

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def seconds(symbol: str, times: Sequence[int], lane: int = LANE_LIVE, close: str = "1") -> Batch:
    batch = Batch()
    for time in times:
        batch.put_footprint(make_second(time, symbol, close=close), lane)
    return batch


async def put_raw(store: Store, owner: str, messages: Sequence[OutgoingMessage]) -> None:
    keys, ids, headers = [m.key for m in messages], [m.message_id for m in messages], [m.headers for m in messages]
    await store.query(sql.INSERT_OUTBOX, owner, LANE_LIVE, keys, ids, headers, [m.body for m in messages])


async def test_every_committed_change_reaches_the_log_in_order_and_leaves_the_outbox(house: House) -> None:
    async with Running(house.outbox):
        for turn in range(30):
            batch = seconds("SOLUSDT", [T0 + turn])
            batch.absorb(seconds("ETHUSDT", range(T0, T0 + 40), close=f"{turn}.5"))
            await house.store.commit(batch)
            house.outbox.wake()
        await house.until_empty()
    log = await house.log()
    assert len(log) == len(set(log)) == 30 + 30 * 40
    sol = [ident for ident in log if ".SOLUSDT." in ident]
    assert sol == sorted(sol)
    for second in range(40):
        revs = [int(i.rpartition("#")[2]) for i in log if f"ETHUSDT.1s@2023-11-14T22:14:{second:02d}Z" in i]
        assert revs == list(range(1, 31))
    assert house.outbox.confirmed_total == len(log)


async def test_live_lane_goes_before_the_repair_lane(house: House) -> None:
    await house.store.commit(seconds("REPAIR", range(T0, T0 + 20), LANE_REPAIR))
    await house.store.commit(seconds("LIVE", range(T0, T0 + 20)))
    async with Running(house.outbox):
        await house.until_empty()
    symbols = [ident.split(".")[1] for ident in await house.log()]
    assert symbols == ["LIVE"] * 20 + ["REPAIR"] * 20


async def test_commit_wakes_the_publisher(house: House) -> None:
    outbox = Outbox(house.store.query, OWNER, house.publisher, OutboxLimits(idle_poll_s=600))
    async with Running(outbox):
        await house.store.commit(seconds("SOLUSDT", [T0]))
        outbox.wake()
        await house.until_empty()
        await house.store.commit(seconds("SOLUSDT", [T0 + 1]))
        outbox.wake()
        await house.until_empty(5)


async def test_poison_becomes_a_dead_letter_and_blocks_nobody(house: House, caplog: pytest.LogCaptureFixture) -> None:
    key = "price_updates.SOLUSDT.1s"
    poison = [
        OutgoingMessage(key, "too large", b"x" * 200_000),
        OutgoingMessage(key, "bad headers", b"{}", headers="[]"),
    ]
    await put_raw(
        house.store, OWNER, [OutgoingMessage(key, "before", b"{}"), *poison, OutgoingMessage(key, "after", b"{}")]
    )
    await put_raw(house.store, OWNER, poison[:1])
    await house.store.commit(seconds("SOLUSDT", [T0]))
    async with Running(house.outbox):
        await house.until_empty()
    assert await house.log() == ["before", "after", f"{key}@2023-11-14T22:14:00Z#1"]
    assert house.outbox.refused_total == 3
    assert await house.bus.depth(EXCHANGE_DEAD) == 3
    assert [r.__dict__["message_id"] for r in caplog.records if r.message == "message refused"] == [
        "too large",
        "bad headers",
        "too large",
    ]


async def test_rows_of_a_dead_owner_are_taken_over_and_those_of_a_living_one_are_not(house: House) -> None:
    living, dead = Store(house.dsn, "ohlcv/1/3"), Store(house.dsn, "ohlcv/2/3")
    for store, symbol in ((living, "LIVING"), (dead, "DEAD")):
        assert await store.acquire()
        for start in range(20):
            await store.commit(seconds(symbol, [T0 + start]))
    assert await house.outbox.take_over() == {}
    await dead.close()
    taken: dict[str, int] = {}
    async with asyncio.timeout(10):
        # The server takes a moment to notice that the owner is gone.
        while sum(taken.values()) < 20:
            for owner, count in (await house.outbox.take_over()).items():
                taken[owner] = taken.get(owner, 0) + count
    assert taken == {"ohlcv/2/3": 20}
    assert house.outbox.taken_over_total == 20
    assert {ident.split(".")[1] for ident in await house.log()} == {"DEAD"}
    assert await house.left() == 20
    await living.close()


@asynccontextmanager
async def silent_broker() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """An address that takes connections and never answers, as a frozen broker does; the event: somebody called."""
    called, writers = asyncio.Event(), list[asyncio.StreamWriter]()

    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        called.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"amqp://guest:guest@127.0.0.1:{server.sockets[0].getsockname()[1]}/", called
    finally:
        for writer in writers:
            writer.close()
        server.close()


async def test_a_take_over_that_the_broker_does_not_answer_keeps_no_owner_from_writing(house: House) -> None:
    await house.store.commit(seconds("SOLUSDT", [T0]))
    others = [Store(house.dsn, "macro/0/1"), Store(house.dsn, "metric/0/1")]
    async with silent_broker() as (url, called):
        await house.store.close()  # restarting, or its connections were lost
        bus = Bus(url, "macro")
        stuck = Outbox(others[0].query, "macro/0/1", AmqpPublisher(url, "macro", prepare=bus.declare))
        takeover = asyncio.create_task(stuck.take_over())
        async with asyncio.timeout(5):
            await called.wait()
        # Whose turn it is keeps others who would take over away, and the owner neither from writing nor publishing.
        assert await Outbox(others[1].query, "metric/0/1", house.publisher).take_over() == {}
        assert await house.store.acquire()
        await house.store.commit(seconds("SOLUSDT", [T0 + 1]))
        async with Running(house.outbox):
            await house.until_empty()
        assert not takeover.done()
        takeover.cancel()
        with suppress(asyncio.CancelledError):
            await takeover
        await bus.close()
    for store in others:
        await store.close()
    assert [ident[-4:] for ident in await house.log()] == ["0Z#1", "1Z#1"]


class Held:
    """A publisher that waits before it sends."""

    def __init__(self, inner: AmqpPublisher) -> None:
        self.inner = inner
        self.asked, self.may_go = asyncio.Event(), asyncio.Event()
        self.refusal: Callable[[OutgoingMessage], str | None] = inner.refusal

    async def publish(self, messages: Sequence[OutgoingMessage], *, exchange: str = EXCHANGE) -> None:
        self.asked.set()
        await self.may_go.wait()
        await self.inner.publish(messages, exchange=exchange)


async def test_an_owner_back_in_the_middle_of_a_take_over_makes_repeats_and_keeps_the_order(house: House) -> None:
    for turn in range(20):
        await house.store.commit(seconds("SOLUSDT", [T0 + turn]))
    await house.store.close()
    other, held = Store(house.dsn, "macro/0/1"), Held(house.publisher)
    takeover = asyncio.create_task(Outbox(other.query, "macro/0/1", held).take_over())
    async with asyncio.timeout(5):
        await held.asked.wait()
    assert await house.store.acquire()
    async with Running(house.outbox):
        await house.store.commit(seconds("SOLUSDT", [T0 + 20]))
        await house.until_empty()
        held.may_go.set()
        assert await takeover == {OWNER: 16}
        await house.store.commit(seconds("SOLUSDT", [T0 + 21]))
        await house.until_empty()
    await other.close()
    log = await house.log()
    assert list(dict.fromkeys(log)) == sorted(set(log)) and len(set(log)) == 22
    assert len(log) == 22 + 16


async def test_run_takes_over_by_itself(house: House) -> None:
    await put_raw(house.store, "registry", [OutgoingMessage("symbol_events.updated", f"r{i}", b"{}") for i in range(5)])
    outbox = Outbox(house.store.query, OWNER, house.publisher, OutboxLimits(takeover_every_s=0.05))
    async with Running(outbox):
        await house.until_empty()
    assert await house.log() == [f"r{i}" for i in range(5)]


async def test_own_lock_is_not_seen_as_a_dead_owner_by_another_outbox(house: House) -> None:
    await house.store.commit(seconds("SOLUSDT", [T0]))
    other = Store(house.dsn, "metric/0/1")
    assert await Outbox(other.query, "metric/0/1", house.publisher).take_over() == {}
    await other.close()
    assert await house.left() == 1


async def test_depth_and_age_are_measured_and_age_goes_on_between_measurements(house: House) -> None:
    now = 1000.0
    await house.store.commit(seconds("SOLUSDT", range(T0, T0 + 7)))
    await house.store.query("UPDATE bus_outbox SET created_at = now() - interval '90 seconds'")
    broken = AmqpPublisher("amqp://guest:guest@127.0.0.1:1/", "test")
    outbox = Outbox(house.store.query, OWNER, broken, monotonic_s=lambda: now)
    assert (outbox.depth(), outbox.oldest_age_s()) == (0, 0.0)
    async with Running(outbox):
        async with asyncio.timeout(5):
            while not outbox.failures_total:
                await asyncio.sleep(0.01)
    assert outbox.depth() == 7
    assert 90 <= outbox.oldest_age_s() < 100
    now += 60
    assert 150 <= outbox.oldest_age_s() < 160


async def test_a_message_is_never_younger_than_its_commit(house: House) -> None:
    await house.store.commit(seconds("SOLUSDT", range(T0, T0 + 3)))
    await house.store.query("UPDATE bus_outbox SET created_at = date_trunc('second', now()) - interval '1 millisecond'")
    (row,) = await house.store.query("SELECT floor(extract(epoch FROM min(created_at)))::bigint AS s FROM bus_outbox")
    async with Running(Outbox(house.store.query, OWNER, house.publisher)):
        await house.until_empty()
    assert [m.published.timestamp() async for m in read_log(house.rmq_url) if m.published] == [row["s"]] * 3


async def test_depth_is_none_as_soon_as_everything_is_confirmed(house: House) -> None:
    await house.store.commit(seconds("SOLUSDT", range(T0, T0 + 7)))
    # Nothing is measured again while this runs.
    outbox = Outbox(house.store.query, OWNER, house.publisher, OutboxLimits(measure_every_s=1_000))
    async with Running(outbox):
        await house.until_empty()
        await outbox.drained()
        assert (outbox.depth(), outbox.oldest_age_s()) == (0, 0.0)


class Breaking:
    """A publisher that loses its connection after some messages were confirmed."""

    def __init__(self, inner: AmqpPublisher, good: int) -> None:
        self.inner = inner
        self.good = good
        self.refusal: Callable[[OutgoingMessage], str | None] = inner.refusal
        self.publish_transient = inner.publish_transient

    async def publish(self, messages: Sequence[OutgoingMessage], *, exchange: str = EXCHANGE) -> None:
        await self.inner.publish(messages[: self.good], exchange=exchange)
        if len(messages) > self.good:
            self.good = 1_000_000
            raise TryLater("connection lost")
        self.good -= len(messages)


async def test_after_a_loss_the_window_is_read_again_and_confirmed_rows_stay_deleted(house: House) -> None:
    for turn in range(10):
        await house.store.commit(seconds("SOLUSDT", [T0 + turn * 3 + i for i in range(3)]))
    limits = OutboxLimits(group_messages=3, retry_first_s=0.01)
    async with Running(Outbox(house.store.query, OWNER, Breaking(house.publisher, 10), limits)):
        await house.until_empty()
    log = [ident.rpartition("@")[2] for ident in await house.log()]
    wanted = [f"2023-11-14T22:14:{s:02d}Z#1" for s in range(30)]
    # Nine were confirmed as whole rows, the tenth message is repeated with its row.
    assert log == [*wanted[:10], *wanted[9:]]


async def test_stopping_keeps_what_was_not_confirmed(house: House) -> None:
    for turn in range(40):
        await house.store.commit(seconds("SOLUSDT", range(T0 + turn * 50, T0 + turn * 50 + 50)))
    async with Running(house.outbox):
        async with asyncio.timeout(10):
            while not house.outbox.confirmed_total:
                await asyncio.sleep(0)
    async with Running(Outbox(house.store.query, OWNER, house.publisher)):
        await house.until_empty()
    assert len(set(await house.log())) == 2000


async def test_database_lost_and_back(house: House) -> None:
    async with Running(house.outbox):
        for turn in range(5):
            await house.store.commit(seconds("SOLUSDT", range(T0 + turn * 50, T0 + turn * 50 + 50)))
            con = await asyncpg.connect(house.dsn)
            await con.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", f"{OWNER}/reader"
            )
            await con.close()
        async with asyncio.timeout(15):
            while True:
                with suppress(TryLater):
                    if not await house.left():
                        break
                await asyncio.sleep(0.05)
    assert len(set(await house.log())) == 250


class Failing:
    """A publisher that fails with these causes, one after the other, the last one for ever."""

    def __init__(self, *causes: Exception) -> None:
        self.causes = list(causes)
        self.calls = 0

    def refusal(self, message: OutgoingMessage) -> str | None:
        return None

    async def publish(self, messages: Sequence[OutgoingMessage], *, exchange: str = EXCHANGE) -> None:
        self.calls += 1
        cause = self.causes.pop(0) if len(self.causes) > 1 else self.causes[0]
        raise TryLater(str(cause)) from cause


async def test_the_log_says_why_it_stalls_once_for_each_reason(house: House, caplog: pytest.LogCaptureFixture) -> None:
    await house.store.commit(seconds("SOLUSDT", [T0]))
    failing = Failing(RuntimeError("closed"), ConnectionError("login refused"), ConnectionError("login refused"))
    outbox = Outbox(house.store.query, OWNER, failing, OutboxLimits(retry_first_s=0.001, retry_max_s=0.001))
    async with Running(outbox), asyncio.timeout(5):
        while failing.calls < 6:
            await asyncio.sleep(0.01)
    told = [vars(record)["error"] for record in caplog.records if record.message == "publishing stalled"]
    assert told == ["closed", "login refused"]
