"""Symbols dealt to instances by shard: together they hold what one would, and nobody is missed when one dies."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from common.shards import shard_of
from tests.stage import Stage, open_stage

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT", "LTCUSDT"]
MARKET = ("--symbols", ",".join(SYMBOLS), "--rate", "30", "--history", "120", "--speed", "10", "--quiet-every", "0")


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        await stage.start_venue(*MARKET)
        yield stage


async def start_shard(stage: Stage, shard: str, name: str) -> None:
    await stage.start_ingestor(name, symbols=",".join(SYMBOLS), clock_rate=10, shard=shard)


async def ready_status(stage: Stage, name: str) -> int:
    port_file = stage.folder / f"{name}.port"
    if not port_file.exists():
        return 0
    try:
        return (await stage.http.get(f"http://127.0.0.1:{int(port_file.read_text())}/readyz")).status_code
    except httpx.TransportError:
        return 0


async def test_two_shards_hold_what_one_would_and_three_take_over_from_two(stage: Stage) -> None:
    assert {shard_of(symbol, 2) for symbol in SYMBOLS} == {0, 1}
    assert any(shard_of(symbol, 3) == 2 for symbol in SYMBOLS)
    await start_shard(stage, "0/2", "a")
    await start_shard(stage, "1/2", "b")
    await stage.settle(SYMBOLS, await stage.venue_s() + 40)
    for process in stage.ingestors:
        assert await process.stop() == 0
    for index in range(3):
        await start_shard(stage, f"{index}/3", f"of-three-{index}")
    end_s = await stage.venue_s() + 60
    await stage.settle(SYMBOLS, end_s)
    assert (await stage.judge(SYMBOLS, end_s))["incomplete"] == 0
    await stage.judge_log(end_s)


async def test_a_second_instance_stands_by_and_takes_over(stage: Stage) -> None:
    await start_shard(stage, "0/2", "first")
    first = stage.ingestors[0]
    mine = [symbol for symbol in SYMBOLS if shard_of(symbol, 2) == 0]
    await stage.settle(mine, await stage.venue_s() + 30)
    await start_shard(stage, "0/2", "second")
    await stage.until(lambda: _is(stage, "second", 503), 10, "the second answers")
    stored_s = max((await stage.cursors()).values())
    await first.kill()
    killed = time.monotonic()
    await stage.until(lambda: _is(stage, "second", 200), 10, "the second took over")
    await stage.until(lambda: stage.stored_to(mine, stored_s + 1), 10, "it stores")
    assert time.monotonic() - killed < 5
    end_s = await stage.venue_s() + 60
    await stage.settle(mine, end_s)
    assert (await stage.judge(mine, end_s))["incomplete"] == 0
    await stage.judge_log(end_s)


async def _is(stage: Stage, name: str, status: int) -> bool:
    return await ready_status(stage, name) == status
