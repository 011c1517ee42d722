"""The ingestor process against the sandbox process, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ops.servers_private import PrivateServers
from tests.servers import fresh_database, fresh_vhost
from tests.stage import Process, Stage, open_stage, publish_symbol_events, write_registry

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"]
MARKET = ("--symbols", ",".join(SYMBOLS), "--rate", "20", "--history", "120", "--speed", "10")


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        yield stage


async def test_first_subscription_stores_what_the_venue_had(stage: Stage) -> None:
    await stage.start_venue(*MARKET)
    ingestor = await stage.start_ingestor(symbols=",".join(SYMBOLS), clock_rate=10)
    begun_s = await stage.venue_s()
    await stage.settle(SYMBOLS, begun_s + 130)
    counts = await stage.judge(SYMBOLS, begun_s + 130)
    assert counts["bars"] >= 4 * 100
    assert counts["incomplete"] == 0
    assert await ingestor.stop() == 0


async def test_a_first_subscription_waits_for_a_venue_whose_rest_side_is_behind(stage: Stage) -> None:
    await stage.start_venue(*MARKET)
    await stage.fault("rest_behind", by_ms=130_000)  # the last minute before any start is not whole there
    ingestor = await stage.start_ingestor(symbols=",".join(SYMBOLS), clock_rate=10)
    await stage.until(lambda: _told_behind(ingestor), 20, "every symbol waits")
    assert await stage.count("raw_bars") == 0
    await stage.fault("rest_behind", by_ms=0)
    end_s = await stage.venue_s() + 80
    await stage.settle(SYMBOLS, end_s)
    assert (await stage.judge(SYMBOLS, end_s))["incomplete"] == 0


async def _told_behind(ingestor: Process) -> bool:
    return ingestor.log.read_text().count("REST side is behind") == len(SYMBOLS)


async def test_a_cut_and_lost_frames_heal(stage: Stage) -> None:
    await stage.start_venue(*MARKET)
    await stage.start_ingestor(symbols=",".join(SYMBOLS), clock_rate=10)
    await stage.settle(SYMBOLS, await stage.venue_s() + 30)
    await stage.fault("drop", symbol="BTCUSDT", next=7)
    await stage.fault("drop", symbol="ETHUSDT", next=3)
    await stage.fault("duplicate", symbol="BTCUSDT", next=5)
    await stage.fault("reorder", symbol="ETHUSDT", next=5)
    await stage.fault("malformed", next=3)
    await stage.until(lambda: stage.count("feed_gaps WHERE reason = 'jump'"), 20, "the lost frames were noticed")
    await stage.fault("cut", for_s=6)
    await stage.until(lambda: stage.count("feed_gaps WHERE reason <> 'jump'"), 20, "the cut is in the ledger")
    end_s = await stage.venue_s() + 150
    await stage.settle(SYMBOLS, end_s)
    counts = await stage.judge(SYMBOLS, end_s)
    assert counts["incomplete"] == 0
    assert await stage.count("feed_gaps WHERE status = 'repaired'") >= 2 + len(SYMBOLS)
    assert await stage.judge_log(end_s) > 0


async def test_kill_in_mid_minute_leaves_no_hole(stage: Stage) -> None:
    await stage.start_venue(*MARKET)
    ingestor = await stage.start_ingestor(symbols=",".join(SYMBOLS), clock_rate=10)
    await stage.settle(SYMBOLS, await stage.venue_s() + 30)
    await stage.until(lambda: _mid_minute(stage), 10, "the middle of a minute", every_s=0.02)
    await ingestor.kill()
    await stage.start_ingestor("again", symbols=",".join(SYMBOLS), clock_rate=10)
    end_s = await stage.venue_s() + 100
    await stage.settle(SYMBOLS, end_s)
    assert (await stage.judge(SYMBOLS, end_s))["incomplete"] == 0
    await stage.judge_log(end_s)


async def _mid_minute(stage: Stage) -> bool:
    return 20 < await stage.venue_s() % 60 < 40


async def test_rows_committed_but_not_published_survive_a_kill(own_servers: PrivateServers, tmp_path: Path) -> None:
    assert own_servers.management_url is not None
    async with fresh_database(own_servers.ts_dsn) as dsn:
        with fresh_vhost(own_servers.rmq_url, own_servers.management_url) as url:
            async with open_stage(tmp_path, dsn, url) as stage:
                await stage.start_venue(*MARKET)
                ingestor = await stage.start_ingestor(symbols=",".join(SYMBOLS), clock_rate=10)
                await stage.settle(SYMBOLS, await stage.venue_s() + 30)
                await asyncio.to_thread(own_servers.freeze_rabbitmq)
                try:
                    await stage.until(lambda: stage.count("bus_outbox"), 20, "rows wait in the outbox")
                    await ingestor.kill()
                    assert await stage.count("bus_outbox") > 0
                finally:
                    await asyncio.to_thread(own_servers.thaw_rabbitmq)
                await stage.start_ingestor("again", symbols=",".join(SYMBOLS), clock_rate=10)
                end_s = await stage.venue_s() + 60
                await stage.settle(SYMBOLS, end_s)
                assert (await stage.judge(SYMBOLS, end_s))["incomplete"] == 0
                await stage.judge_log(end_s)


async def test_the_registry_says_what_is_followed(stage: Stage) -> None:
    await stage.start_venue(*MARKET)
    await write_registry(stage, {"BTCUSDT": "ACTIVE", "ETHUSDT": "PROBATION", "SOLUSDT": "EXCLUDED"})
    await stage.start_ingestor(clock_rate=10)
    begun_s = await stage.venue_s()
    await stage.settle(["BTCUSDT", "ETHUSDT"], begun_s + 30)
    assert await stage.count("raw_bars WHERE symbol = 'SOLUSDT'") == 0
    await write_registry(stage, {"BTCUSDT": "EXCLUDED", "SOLUSDT": "ACTIVE_OVERRIDE"})
    await publish_symbol_events(stage, ["BTCUSDT", "SOLUSDT"])
    await stage.settle(["ETHUSDT", "SOLUSDT"], begun_s + 100)
    assert await stage.count("feed_gaps WHERE symbol = 'BTCUSDT' AND status = 'not_subscribed'") == 1
    left_s = (await stage.cursors())["BTCUSDT"]
    await write_registry(stage, {"BTCUSDT": "ACTIVE"})
    await publish_symbol_events(stage, ["BTCUSDT"])
    end_s = await stage.venue_s() + 120
    await stage.settle(["BTCUSDT", "ETHUSDT", "SOLUSDT"], end_s)
    await stage.judge(["ETHUSDT", "SOLUSDT"], end_s)
    idle = await stage.con.fetchrow("SELECT * FROM feed_gaps WHERE status = 'not_subscribed'")
    assert idle["to_id"] is not None
    assert idle["from_time"].timestamp() == left_s
    await stage.judge_log(end_s)
