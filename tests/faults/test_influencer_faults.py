"""Database and broker killed under the influencer ingestor while accounts trade."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ops.servers_private import PrivateServers
from tests.influencer_stage import ANN, BEN, InfluencerStage, open_influencer_stage, trades
from tests.servers import fresh_database, fresh_vhost

ROUND = ("open", "increase", "flip", "decrease", "close")


async def play_on(stage: InfluencerStage, done: asyncio.Event) -> None:
    """Trade, a block every 20 ms, until told to stop."""
    while not done.is_set():
        for action in ROUND:
            await stage.play(*trades(ANN, (action,)), *trades(BEN, (action,), coin="BTC", parts=11))
            await asyncio.sleep(0.02)


async def test_database_and_broker_killed(tmp_path: Path, own_servers: PrivateServers) -> None:
    async with fresh_database(own_servers.ts_dsn) as dsn:
        with fresh_vhost(own_servers.rmq_url, own_servers.management_url) as rmq_url:
            async with open_influencer_stage(tmp_path, dsn, rmq_url) as stage:
                await _play_through(stage, own_servers)


async def _play_through(stage: InfluencerStage, servers: PrivateServers) -> None:
    await stage.open_venue()
    await stage.watch(ANN, BEN)
    process = await stage.start()
    await stage.live(2)
    await stage.listen()
    done = asyncio.Event()
    playing = asyncio.create_task(play_on(stage, done))
    # A quorum queue younger than 3 s may not survive the kill of its only node.
    await asyncio.sleep(3.0)
    await stage.stage.until(lambda: len(stage.messages) > 50, 10, "signals flow")

    # The database: what streams meanwhile waits, and nothing of it is lost.
    await asyncio.to_thread(servers.kill_postgres)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(servers.restart_postgres)
    await stage.reconnect()
    have = await stage.stage.count("influencer_signals")
    await stage.stage.until(lambda: _more(stage, have), 15, "signals are stored again")

    # The broker: the outbox keeps them; a process killed meanwhile begins where the tables end.
    await asyncio.to_thread(servers.kill_rabbitmq)
    await process.kill()
    process = await stage.start("second")
    have = await stage.stage.count("influencer_signals")
    await stage.stage.until(lambda: _more(stage, have), 15, "signals are stored without a broker")
    await asyncio.to_thread(servers.restart_rabbitmq)
    done.set()
    await playing
    assert await stage.judge(30, by_log=True) > 100
    assert "open" not in await stage.gaps()
    assert await process.stop() == 0, process.tail()


async def _more(stage: InfluencerStage, have: int) -> bool:
    return await stage.stage.count("influencer_signals") > have + 20
