"""The registry as processes: killed between commit and publish, driving an ingestor, on its own schedule, by hand."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from common.contracts import topic_word
from common.errors import ConfigError, Refused
from common.outbox import Outbox
from common.publisher import AmqpPublisher
from common.store import Store
from registry import run as nightly
from registry.command import registry
from registry.settings import RegistrySettings
from sandbox.config import Config
from tests.integration.registry_world import SMALL_BROKER, World, open_world, vendor_settings
from tests.servers import service_address
from tests.stage import Process, Stage, open_stage

NOW = Config(symbols=("BTCUSDT", "ETHUSDT"), listing=6, history_minutes=1)


@pytest.fixture
async def world(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[World]:
    async with open_world(tmp_path, ts_dsn, rmq_url, NOW) as world:
        yield world


def environment(world: World, **changes: object) -> dict[str, str]:
    values = {**vendor_settings(world.venue.rest_url), "ts_dsn": world.dsn, "rmq_url": world.rmq_url}
    values |= {"bus_log_max_bytes": SMALL_BROKER, **changes}
    return {name.upper(): str(value) for name, value in values.items()}


async def call(world: World, *words: str, **changes: object) -> tuple[int, str, str]:
    """`python -m registry ...`: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "registry", *words, env={**os.environ, **environment(world, **changes)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, out.decode(), err.decode()


async def ask(world: World, *words: str) -> str:
    """A command in this process; raises what it raises."""
    result = await asyncio.to_thread(CliRunner().invoke, registry, words, env=environment(world))
    if result.exception is not None:
        raise result.exception
    return result.stdout


async def count_everything(world: World) -> dict[str, int]:
    """What was ever written into each table of this database."""
    rows = await world.con.fetch(
        "SELECT pg_stat_force_next_flush(), relname, n_tup_ins + n_tup_upd + n_tup_del AS n FROM pg_stat_user_tables"
    )
    return {row["relname"]: row["n"] for row in rows}


async def test_a_crash_between_commit_and_publish_loses_no_event(world: World) -> None:
    with socket.socket() as mute:
        # Takes connections and says nothing: a frozen broker.
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        frozen = f"amqp://nobody:nothing@127.0.0.1:{mute.getsockname()[1]}/"
        process = Process(
            world.folder, "run", ["-m", "registry", "run"], environment(world, rmq_url=frozen, drain_timeout_s=100)
        )
        await process.start()
        async with asyncio.timeout(20):
            while not await world.con.fetchval("SELECT count(*) FROM bus_outbox"):
                await asyncio.sleep(0.05)
        await process.kill()
    run_at = await world.con.fetchval("SELECT max(run_at) FROM coin_registry_history")
    expected = {f"symbol_events.updated:{topic_word(s)}@{run_at:%Y-%m-%dT%H:%M:%SZ}" for s in await world.rows()}
    assert world.heard == []

    # Any service that runs takes the events over.
    store = Store(world.dsn, "ohlcv/0/1")
    publisher = AmqpPublisher(world.rmq_url, "ohlcv_ingestor")
    outbox = Outbox(store.query, "ohlcv/0/1", publisher)
    async with asyncio.timeout(10):
        while not await outbox.take_over():
            await asyncio.sleep(0.05)
    await publisher.close()
    await store.close()
    told = await world.hear(len(expected))
    assert {ident for ident, _ in told.values()} == expected
    again = await nightly.run(world.settings())
    assert again.waiting == 0 and await world.con.fetchval("SELECT count(*) FROM bus_outbox") == 0


async def test_events_wait_for_a_broker_and_the_next_run_publishes_them(world: World) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        frozen = f"amqp://nobody:nothing@127.0.0.1:{mute.getsockname()[1]}/"
        first = await nightly.run(world.settings(rmq_url=frozen, drain_timeout_s=0.3))
    assert first.events == first.waiting == len(await world.rows()) and world.heard == []
    second = await nightly.run(world.settings())
    assert second.waiting == 0
    idents = [ident for ident, _ in world.heard]
    stamp = f"@{first.night.run_at:%Y-%m-%dT%H:%M:%SZ}"
    assert len([i for i in idents if i.endswith(stamp)]) == first.events
    assert len(idents) == len(set(idents)) == first.events + second.events


async def test_the_command_line(world: World) -> None:
    """What a person types, and what cron sees of it."""
    before = await count_everything(world)
    code, out, _ = await call(world, "run", "--dry-run", rmq_url="")
    assert code == 0 and "symbols judged" in out and "new > ACTIVE" in out
    assert await count_everything(world) == before
    told = await ask(world, "run")
    assert " events" in told and "did not answer: okx instruments" in told
    assert (await world.hear(len(await world.rows())))["SOL"]
    assert "pairs sampled" in await ask(world, "sample")
    assert await world.con.fetchval("SELECT count(*) FROM book_samples WHERE symbol = 'SOLUSDT'") == 1
    told = await ask(world, "explain", "sol")
    assert told.startswith("SOL: ") and "liquidity" in told
    with pytest.raises(Refused, match="NOSUCH was never judged"):
        await ask(world, "explain", "NOSUCH")
    with pytest.raises(ConfigError, match="training needs"):
        await ask(world, "train", "--output", str(world.folder / "c.json"))
    (world.folder / "bad.yml").write_text("SOL:\n")
    code, _, err = await call(world, "run", banlist_path=world.folder / "bad.yml")
    assert code == 2 and "bad.yml" in err.splitlines()[-1] and "SOL" in err.splitlines()[-1]
    ill = {"answer": "status", "status": 418, "retry_after_s": 99}
    world.venue.fault("rest_answer", venue="binance", path="exchangeInfo", **ill)
    code, out, err = await call(world, "run")
    assert code == 1 and "exchangeInfo: 418" in err.splitlines()[-1]


async def test_the_schedule_makes_up_for_a_missed_night(world: World) -> None:
    port_file = world.folder / "port"
    process = Process(
        world.folder, "schedule", ["-m", "registry", "schedule"],
        environment(world, http_port_file=port_file, registry_retry_every_s=1, registry_sample_every_s=1),
    )  # fmt: skip
    world.venue.fault("rest_answer", venue="binance", path="exchangeInfo", answer="garbage", next=1)
    await process.start()
    try:
        async with httpx.AsyncClient(timeout=5) as http, asyncio.timeout(25):
            while not port_file.exists():
                await asyncio.sleep(0.05)
            url = f"http://127.0.0.1:{port_file.read_text().strip()}"
            while (await http.get(f"{url}/healthz")).status_code != 200:
                assert process.alive(), process.tail()
                await asyncio.sleep(0.1)
            while not await world.con.fetchval("SELECT count(DISTINCT time) > 1 FROM book_samples"):
                await asyncio.sleep(0.1)
            metrics = (await http.get(f"{url}/metrics")).text
            health = (await http.get(f"{url}/healthz")).json()
            assert (await http.get(f"{url}/readyz")).status_code == 200
        assert health["healthy"] and {check["name"] for check in health["checks"]} == {"run", "samples"}
        assert "trading_bus_registry_runs_total 1.0" in metrics
        assert 'trading_bus_registry_symbols{status="ACTIVE"}' in metrics
        assert "trading_bus_registry_run_age_seconds" in metrics
        await asyncio.sleep(1.2)  # more than a retry: nothing is due
        assert await world.con.fetchval("SELECT count(DISTINCT run_at) FROM coin_registry_history") == 1
    finally:
        if process.alive():
            assert await process.stop() == 0, process.tail()


async def test_a_stop_in_the_middle_of_a_run_is_orderly(world: World) -> None:
    port_file = world.folder / "port"
    world.venue.fault("rest_latency", by_ms=1_000)
    process = Process(
        world.folder, "schedule", ["-m", "registry", "schedule"], environment(world, http_port_file=port_file)
    )
    await process.start()
    async with asyncio.timeout(20):
        while not world.venue.door.asked["binance", "/api/v3/ticker/24hr", 200]:
            assert process.alive(), process.tail()
            await asyncio.sleep(0.02)
    assert await process.stop() == 0, process.tail()
    told = process.tail(1_000)
    assert "stopped" in told and "Traceback" not in told and '"ERROR"' not in told, told
    assert not await world.con.fetchval("SELECT count(*) FROM coin_registry_history")


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        yield stage


async def test_a_run_makes_an_ingestor_subscribe_and_unsubscribe(stage: Stage) -> None:
    """Within 2 s of the run's commit; a newcomer gets its history."""
    symbols = "BTCUSDT,ETHUSDT,SOLUSDT"
    market = {"--symbols": symbols, "--rate": 20, "--history": 110, "--history-rate": 1, "--quiet-every": 0}
    await stage.start_venue(*(str(word) for pair in market.items() for word in pair))
    for pair in symbols.split(","):
        await stage.fault("list", symbol=pair, volume="50000000")
    await stage.fault("delist", symbol="SOLUSDT")
    ban = stage.folder / "ban.yml"
    ban.write_text("")
    values: dict[str, Any] = {
        **vendor_settings(f"http://127.0.0.1:{stage.port}"), "ts_dsn": service_address(stage.dsn),
        "rmq_url": service_address(stage.rmq_url), "bus_log_max_bytes": SMALL_BROKER, "banlist_path": ban,
    }  # fmt: skip
    settings = RegistrySettings(**values)
    first = await nightly.run(settings)
    assert {v.row.symbol for v in first.night.verdicts} == {"BTC", "ETH"}
    ingestor = await stage.start_ingestor()

    await stage.until(lambda: _all_sent(stage, "BTCUSDT", "ETHUSDT"), 20, "the first two are followed")
    assert not await _sent(stage, "SOLUSDT")

    await stage.fault("relist", symbol="SOLUSDT")
    await stage.fault("list", symbol="SOLUSDT", volume="50000000")
    ban.write_text("ETH: a test\n")
    second = await nightly.run(settings, force=True)
    committed_s = time.monotonic()
    assert {v.row.symbol: str(v.row.status) for v in second.night.verdicts}["ETH"] == "EXCLUDED"
    await stage.until(lambda: _sent(stage, "SOLUSDT"), 2.0, "SOL is subscribed", every_s=0.02)
    await asyncio.sleep(max(0.0, committed_s + 2.0 - time.monotonic()))
    sent = await _sent(stage, "ETHUSDT")
    begun_s = await stage.venue_s()
    await stage.until(lambda: stage.stored_to(["SOLUSDT"], begun_s), 20, "SOL is stored")
    assert await stage.count("raw_bars WHERE symbol = 'SOLUSDT'") >= 100
    await stage.until(lambda: stage.stored_to(["BTCUSDT"], begun_s + 1), 10, "time went on")
    assert await _sent(stage, "ETHUSDT") == sent, "ETH was not unsubscribed within 2 s"
    assert await ingestor.stop() == 0


async def _all_sent(stage: Stage, *symbols: str) -> bool:
    return all([await _sent(stage, symbol) for symbol in symbols])


async def _sent(stage: Stage, symbol: str) -> int:
    return int((await stage.oracle("status"))["sent"][symbol])
