from __future__ import annotations

import asyncio

import pytest
from click.testing import CliRunner

from common.batch import Batch
from common.bus import Bus, read_log
from common.contracts import LANE_REPAIR
from common.errors import Refused
from common.store import Store
from common.topology import TopologyLimits
from ops.outbox import outbox
from tests.rows import T0, make_second


def run(*words: str) -> str:
    result = CliRunner().invoke(outbox, words, env={"COLUMNS": "120"})
    if result.exception is not None:
        raise result.exception
    return result.output


async def leave_messages(dsn: str, owner: str, count: int, stay: bool = False) -> Store:
    store = Store(dsn, owner)
    assert await store.acquire()
    for number in range(count):
        batch = Batch()
        batch.put_footprint(make_second(T0 + number, f"{owner[-1]}USDT"), LANE_REPAIR)
        await store.commit(batch)
    if not stay:
        await store.close()
    return store


async def test_status_and_drain_tell_the_living_from_the_dead(ts_dsn: str, rmq_url: str) -> None:
    small = Bus(rmq_url, "test", topology=TopologyLimits(log_bytes_max=20_000_000, log_segment_bytes=1_000_000))
    await small.declare()
    await small.close()
    assert "nothing waits" in await asyncio.to_thread(run, "status", "--dsn", ts_dsn)
    living = await leave_messages(ts_dsn, "ohlcv/0/2", 3, stay=True)
    await leave_messages(ts_dsn, "ohlcv/1/2/b", 40)
    async with asyncio.timeout(10):
        while "dead" not in (listed := await asyncio.to_thread(run, "status", "--dsn", ts_dsn)):
            await asyncio.sleep(0.05)
    lines = [line.replace("│", " ").split() for line in listed.splitlines() if "ohlcv" in line]
    assert [(w[0], w[1], w[2], w[3], w[-1]) for w in lines] == [
        ("ohlcv/0/2", "repair", "3", "3", "alive"),
        ("ohlcv/1/2/b", "repair", "40", "40", "dead"),
    ]

    drain = ("drain", "--dsn", ts_dsn, "--rmq-url", rmq_url)
    with pytest.raises(Refused, match="alive"):
        await asyncio.to_thread(run, *drain, "--owner", "ohlcv/0/2")
    assert "nothing to do" in await asyncio.to_thread(run, *drain, "--owner", "nobody")
    assert "ohlcv/1/2/b: 40 messages published" in await asyncio.to_thread(run, *drain)
    assert len([m async for m in read_log(rmq_url, idle_s=1)]) == 40
    assert "nothing to do" in await asyncio.to_thread(run, *drain)
    await living.close()


def test_help_has_examples() -> None:
    for words in (["--help"], ["status", "--help"], ["drain", "--help"]):
        assert "trading-bus outbox" in CliRunner().invoke(outbox, words).output
