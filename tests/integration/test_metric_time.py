"""Windows and venue time on a real database: a start after an outage, a server that tells nothing, a wrong time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from common.batch import Batch
from common.clock import Clock
from common.contracts import MetricRow
from common.listings import Listing
from metric_ingestor.ingestor import SET_BACK_WINDOWS
from metric_ingestor.samples import Fate, Field, Sample
from metric_ingestor.service import write_last_rows
from metric_ingestor.venue_time import WITNESSES, VenueTime
from tests.metric_desk import END, SOL, Desk, Ground, clear_desk, ingestor_of, open_ground
from tests.rows import T0, make_cursor

pytestmark = pytest.mark.asyncio(loop_scope="module")
RATE = 100.0
WEEK_S, HOUR_S = 7 * 86_400, 3_600


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground() -> AsyncIterator[Ground]:
    async with open_ground() as ground:
        yield ground


@pytest_asyncio.fixture(loop_scope="module")
async def desk(ground: Ground) -> Desk:
    return await clear_desk(ground)


async def store_to(desk: Desk, second: float) -> None:
    """Let the trades be stored up to a second."""
    batch = Batch()
    batch.put_cursor(make_cursor(100, int(second)))
    await desk.store.commit(batch)


async def reach(ready: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not ready():
            await asyncio.sleep(0.02)


async def test_after_a_week_no_more_is_filled_than_is_said(desk: Desk) -> None:
    """The stored cursor is a week old, then the trades go on from there; only then the server tells the time."""
    clock, time = Clock(rate=RATE), VenueTime(RATE)
    await store_to(desk, T0 + 13)
    await desk.write(MetricRow(T0, SOL))
    desk.dirty.forget({SOL})
    desk.recorder.written = 0
    ingestor = ingestor_of(desk, clock, time)
    await ingestor.follow({SOL: Listing()})
    served = asyncio.Event()
    task = asyncio.create_task(ingestor.keep_time(served.set))
    await reach(lambda: ingestor.cursors)
    assert not time.known, "a cursor that does not move tells no time"
    await store_to(desk, T0 + 15)
    async with asyncio.timeout(5):
        await served.wait()
        served.clear()
        await ingestor.mark_unheard()
        now_s = clock.monotonic_s()
        time.observe(1000 * (T0 + WEEK_S), now_s, now_s)
        await reach(lambda: desk.recorder.written > T0 + WEEK_S - HOUR_S)
    task.cancel()
    first = T0 + WEEK_S - 24 * HOUR_S - 60
    assert desk.recorder.fill_from[SOL] >= first
    while windows := desk.dirty.take(10_000):
        assert all(end >= first or end < T0 + HOUR_S for _, end in windows)


async def test_trades_tell_the_time_as_long_as_the_server_does_not(desk: Desk) -> None:
    """The first cursor that moves is twenty minutes old; the next ones are of now."""
    clock, time = Clock(rate=RATE), VenueTime(RATE)
    ingestor = ingestor_of(desk, clock, time)
    now_s = T0 + 20 * 60
    began_s = clock.monotonic_s()
    await store_to(desk, T0)
    await ingestor.follow({SOL: Listing()})
    task = asyncio.create_task(ingestor.keep_time(lambda: None))
    await reach(lambda: ingestor.cursors)
    await store_to(desk, T0 + 1)
    await reach(lambda: time.known)

    def right_s() -> float:
        return now_s + RATE * (clock.monotonic_s() - began_s)

    async def near() -> bool:
        await store_to(desk, right_s())
        return desk.recorder.written > right_s() - 60

    async with asyncio.timeout(5):
        while not await near():
            await asyncio.sleep(0.05)
    task.cancel()
    rate = Sample(1e-4, int(1000 * right_s()), "okx", 8)
    vendors = ingestor._vendors
    assert vendors.samples.offer(SOL, Field.FUNDING, rate, desk.recorder.written, vendors.now_ms()) is Fate.KEPT


async def test_a_time_that_was_wrong_costs_a_minute(desk: Desk) -> None:
    """The server is an hour ahead at first; windows go on as soon as it is corrected."""
    clock, time = Clock(rate=100.0), VenueTime(100.0)
    ingestor = ingestor_of(desk, clock, time)
    began_s = clock.monotonic_s()

    def right_ms() -> float:
        return 1000.0 * T0 + 100_000 * (clock.monotonic_s() - began_s)

    def tell(ahead_ms: float) -> None:
        now_s = clock.monotonic_s()
        time.observe(right_ms() + ahead_ms, now_s, now_s)

    tell(3_600_000)
    served = asyncio.Event()
    await ingestor.follow({SOL: Listing()})
    task = asyncio.create_task(ingestor.keep_time(served.set))
    async with asyncio.timeout(5):
        await served.wait()
        served.clear()
        for _ in range(WITNESSES):
            tell(0)
        while desk.recorder.written > right_ms() / 1000:
            await served.wait()
            served.clear()
    task.cancel()
    assert len(desk.dirty) >= SET_BACK_WINDOWS


async def test_a_stop_writes_the_window_that_has_ended(desk: Desk) -> None:
    """It waits for its trades as ever; the window that still runs is nobody's yet."""
    clock, time = Clock(), VenueTime()
    ingestor = ingestor_of(desk, clock, time)
    await ingestor.follow({SOL: Listing()})
    now_s = clock.monotonic_s()
    time.observe(1000 * END - 1000, now_s, now_s)
    rate = Sample(1e-4, 1000 * END - 1000, "binance", 8)
    ingestor._vendors.samples.offer(SOL, Field.FUNDING, rate, END, 1000.0 * END)
    # Within a second before the window's end, and well before its row is due.
    for end_s, rows in ((0.0, 0), (1.3, 1), (0.0, 1)):
        task = asyncio.create_task(ingestor.keep_time(lambda: None))
        await asyncio.sleep(end_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if end_s:
            assert desk.recorder.waiting() == 0, "it has ended, and is not due"
            await store_to(desk, END)
        await write_last_rows(ingestor, desk.recorder)
        assert await desk.con.fetchval("SELECT count(*) FROM metric_15s") == rows
    row = await desk.row(END)
    assert (row["funding"], row["cvd_delta"], row["rev"]) == (1e-4, 0.0, 1)
