"""The macro ingestor as a process beside real servers and made-up vendors; and what an operator asks of it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from common.contracts import format_time
from sandbox.config import Config
from sandbox.macro_world import DAY_S, MacroWorld
from sandbox.venue import Sandbox
from tests.integration.test_macro_week import START, Life, WorldClock, make_settings
from tests.servers import service_address
from tests.stage import Process, Stage, open_stage

URLS = ("glassnode", "coinmetrics", "bgeometrics", "etherscan", "dune", "goldrush", "bitquery")


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        yield stage


def environment(stage: Stage, port: int, **more: str) -> dict[str, str]:
    base = f"http://127.0.0.1:{port}/macro"
    return {
        "TS_DSN": service_address(stage.dsn), "RMQ_URL": service_address(stage.rmq_url),
        "BUS_LOG_MAX_BYTES": "100000000", "GLASSNODE_API_KEY": "g-secret", "ETHERSCAN_API_KEY": "e-secret",
        "ETH_RPC_URL": f"{base}/jsonrpc", "RETRY_FIRST_S": "0.01", "RETRY_MAX_S": "0.02",
        **{f"{name.upper()}_URL": f"{base}/{name}" for name in URLS}, **more,
    }  # fmt: skip


async def start(stage: Stage, name: str, env: dict[str, str]) -> Process:
    process = Process(
        stage.folder, name, ["-m", "macro_ingestor"], {**env, "HTTP_PORT_FILE": f"{stage.folder}/{name}.port"}
    )
    await process.start()
    stage.ingestors.append(process)
    return process


async def health(stage: Stage, name: str) -> dict[str, Any]:
    port = (stage.folder / f"{name}.port").read_text().strip()
    return (await stage.http.get(f"http://127.0.0.1:{port}/healthz")).json()


async def ended(stage: Stage, *words: str, **env: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_a_missing_primary_a_restart_and_a_stand_by(stage: Stage) -> None:
    async with Sandbox(Config(symbols=("BTCUSDT",))) as venue:
        world = venue.macro.world
        venue.fault("macro", vendor="glassnode", how="status", status=429, retry_after_s=3600)
        env = environment(stage, venue.port)
        first = await start(stage, "first", env)
        await stage.until(lambda: stage.count("macro_onchain_15m"), 15, "a row")
        await stage.until(lambda: stage.count("macro_btc_daily"), 15, "days")
        row = await stage.con.fetchrow("SELECT * FROM macro_onchain_15m")
        source, as_of = json.loads(row["source"]), json.loads(row["as_of"])
        assert source == {
            "btc_ex_netflow": "coinmetrics", "btc_ex_reserve_pct": "coinmetrics", "eth_ex_netflow": "coinmetrics",
            "eth_gas_price": "etherscan",
        }  # fmt: skip
        assert row["sol_ex_netflow"] is None and row["stbl_cex_netflow"] is None
        day = int(datetime.fromisoformat(as_of["btc_ex_netflow"]).timestamp())
        flows = [world.value("coinmetrics", what, day) for what in ("btc_in", "btc_out")]
        assert row["btc_ex_netflow"] == flows[0] - flows[1]
        assert row["eth_gas_price"] in {Decimal(v) for said in world.told["etherscan"].values() for v in said}
        last = await stage.con.fetchrow(
            "SELECT * FROM macro_btc_daily WHERE mvrv IS NOT NULL ORDER BY day DESC LIMIT 1"
        )
        assert last["nupl"] == (1 - 1 / last["mvrv"]).quantize(Decimal("1e-10"))
        assert json.loads(last["source"])["nupl"] == "coinmetrics:1-1/mvrv"
        assert world.calls["glassnode"] == 1  # the circuit opened at once

        second = await start(stage, "second", env)
        await stage.until(lambda: (stage.folder / "second.port").exists(), 10, "the second listens")
        await stage.until(lambda: "stand" in second.tail() or '"standby"' in second.tail(), 10, "it stands by")
        told = await health(stage, "first")
        assert told["healthy"] is False  # nobody tells two of the columns
        columns = next(check for check in told["checks"] if check["name"] == "columns")
        assert columns["detail"]["unknown"] == ["sol_ex_netflow", "stbl_cex_netflow"]

        await stage.until(lambda: _is_sent(stage), 10, "all is published")
        revs = await stage.con.fetch("SELECT time, rev FROM macro_onchain_15m ORDER BY time")
        calls = dict(world.calls)
        assert await first.stop() == 0
        await stage.until(lambda: '"pull stored"' in second.tail(60), 15, "the second takes over")
        assert {name: world.calls[name] for name in calls} == calls or row["time"] < await _slot(stage)
        if await _slot(stage) == row["time"]:
            assert await stage.con.fetch("SELECT time, rev FROM macro_onchain_15m ORDER BY time") == revs
        assert await second.stop() == 0
        log = first.log.read_text() + second.log.read_text()
        assert "e-secret" not in log and "g-secret" not in log
        assert log.count("CC BY-NC 4.0") == 2  # once in each process
        assert '"provider":"dune","reason":"DUNE_API_KEY is not set"' in log


async def _is_sent(stage: Stage) -> bool:
    return await stage.count("bus_outbox") == 0


async def _slot(stage: Stage) -> datetime:
    return await stage.con.fetchval("SELECT max(time) FROM macro_onchain_15m")


async def test_check_asks_everybody_once_and_wrong_settings_end_it(stage: Stage) -> None:
    async with Sandbox(Config(symbols=("BTCUSDT",))) as venue:
        env = environment(stage, venue.port)
        venue.fault("macro", vendor="jsonrpc", how="limit")
        venue.fault("macro", vendor="coinmetrics", forbid="SplyExNtv")
        cli = ("-c", "from ops.cli import main; main()", "macro", "check")
        code, text = await ended(stage, *cli, **env)
        assert code == 1 and "jsonrpc: -32005: limit exceeded" in text and "Traceback" not in text, text
        lines = {tuple(line.split()[:2]): line for line in text.splitlines()}
        assert lines["glassnode", "mvrv"].split()[-2:] == ["ms", "41"], text
        assert lines["bgeometrics", "asopr"].endswith(" 7") and lines["coinmetrics", "mvrv"].endswith("no limit")
        # One forbidden metric fails the call for all columns, and only its own column where each is asked alone.
        assert [line for pair, line in lines.items() if "forbidden" in line or "403" in line] == [
            lines["coinmetrics", "btc_ex_reserve_pct"]
        ], text
        assert "off: DUNE_API_KEY is not set" in text and "secret" not in text
        code, text = await ended(stage, *cli, "--provider", "etherscan", "--json", **env)
        (line,) = json.loads(text)
        assert code == 0 and line["column"] == "eth_gas_price" and line["calls_left"] == 99_998, text
        code, text = await ended(stage, *cli, "--provider", "nobody", **env)
        assert code == 2 and "nobody is not configured" in text
        for wrong, named in (
            ({"ONCHAIN_SOURCES": "coinmetrix"}, "ONCHAIN_SOURCES: no provider 'coinmetrix'"),
            ({"SHARD": "0/2"}, "SHARD: there is nothing to share out"),
            ({"ETH_RPC_URL": "mysecretnode"}, "ETH_RPC_URL: is not an http"),
        ):
            code, text = await ended(stage, "-m", "macro_ingestor", **{**env, **wrong})
            assert code == 2 and named in text and "Traceback" not in text and "mysecretnode" not in text, text


async def test_a_day_without_anybody(ts_dsn: str, tmp_path: Path) -> None:
    """Old rows stay, none is invented past what is too old, and everything is asked again when it is back."""
    clock = WorldClock()
    world = MacroWorld(7, lambda: clock.at_s)
    life = Life(make_settings(ts_dsn, tmp_path, glassnode=True), world, clock)
    con = await asyncpg.connect(ts_dsn)
    try:
        await life.start()
        clock.at_s = START + 12 * 3600 + 1
        await life.passes.play(True, True)
        before = await con.fetch("SELECT * FROM macro_onchain_15m")
        days = await con.fetch("SELECT * FROM macro_btc_daily ORDER BY day")
        world.disturb({"vendor": "*", "how": "status", "status": 503})
        for quarter in range(1, 6 * 96 + 1):
            clock.at_s = START + 12 * 3600 + 900 * quarter + 1
            if quarter < 8 or quarter % 24 == 0:
                await life.passes.play(True, True)
            if quarter == 2:  # the last row with gas, which is too old before its quarter ends
                clock.at_s += 800
                await life.end()
                await life.start()
                await life.passes.play(True, True)
        rows = await con.fetch("SELECT * FROM macro_onchain_15m ORDER BY time")
        assert rows[0] == before[0] and await con.fetch("SELECT * FROM macro_btc_daily ORDER BY day") == days
        assert [row["eth_gas_price"] is None for row in rows[:5]] == [False, False, False, True, True]
        for row in rows:
            age_s = {name: row["time"].timestamp() - _epoch(text) for name, text in json.loads(row["as_of"]).items()}
            assert all(age <= (2400 if name == "eth_gas_price" else 5 * DAY_S) for name, age in age_s.items())
        # Daily values of Glassnode are too old four days after their day began, then nothing is known.
        newest = max(_epoch(text) for text in json.loads(before[0]["as_of"]).values() if text < format_time(START))
        assert rows[-1]["time"].timestamp() <= newest + 5 * DAY_S < clock.at_s - DAY_S
        calls = sum(world.calls.values())
        world.disturb({"vendor": "*", "how": "clear"})
        clock.at_s += 5 * 3600
        await life.passes.play(True, False)
        assert sum(world.calls.values()) > calls
        fresh = await con.fetchrow("SELECT * FROM macro_onchain_15m ORDER BY time DESC LIMIT 1")
        assert fresh["time"].timestamp() > rows[-1]["time"].timestamp() and fresh["eth_gas_price"] is not None
        shut = {row["provider"] for row in await con.fetch("SELECT * FROM macro_circuits WHERE failures > 0")}
        assert shut and not shut & {"glassnode", "etherscan"}  # who is not needed is not tried
    finally:
        await life.end()
        await con.close()


async def test_a_429_opens_the_circuit_and_one_try_closes_it(ts_dsn: str, tmp_path: Path) -> None:
    clock = WorldClock()
    world = MacroWorld(8, lambda: clock.at_s)
    life = Life(make_settings(ts_dsn, tmp_path, glassnode=True), world, clock)
    con = await asyncpg.connect(ts_dsn)
    gas = "SELECT source->>'eth_gas_price' FROM macro_onchain_15m ORDER BY time DESC LIMIT 1"
    try:
        await life.start()
        world.disturb({"vendor": "etherscan", "how": "status", "status": 429, "retry_after_s": 2000})
        found: list[tuple[str, int]] = []
        for quarter in range(1, 6):
            clock.at_s = START + 900 * quarter + 1
            if quarter == 2:
                await life.end()  # the pause outlives a restart
                await life.start()
            if quarter == 3:
                world.disturb({"vendor": "etherscan", "how": "clear"})
            await life.passes.play(True, False)
            found.append((await con.fetchval(gas), world.calls["etherscan"]))
        assert found == [("jsonrpc", 1), ("jsonrpc", 1), ("jsonrpc", 1), ("etherscan", 2), ("etherscan", 3)]
    finally:
        await life.end()
        await con.close()


async def test_a_clock_that_was_ahead_is_forgotten_by_a_restart(ts_dsn: str, tmp_path: Path) -> None:
    """Calls, a circuit and more readings than are kept were stored for days that have not come."""
    clock = WorldClock()
    world = MacroWorld(10, lambda: clock.at_s)
    life = Life(make_settings(ts_dsn, tmp_path, glassnode=True, etherscan_calls_per_day=50), world, clock)
    con = await asyncpg.connect(ts_dsn)
    try:
        await life.start()
        clock.at_s = before = START + 6 * 3600 - 900
        await life.passes.play(True, False)
        clock.at_s = START + 30 * DAY_S
        world.disturb({"vendor": "glassnode", "how": "status", "status": 429, "retry_after_s": 40_000, "for_s": 86_400})
        for _ in range(50):  # the whole quota, and more readings than are kept
            clock.at_s += 900
            await life.passes.play(True, False)
        clock.at_s = START + 6 * 3600
        await life.end()
        await life.start()
        for vendor in ("etherscan", "jsonrpc", "goldrush"):
            world.disturb({"vendor": vendor, "how": "status", "status": 503, "for_s": 60})
        calls = world.calls["etherscan"], world.calls["glassnode"]
        told: list[str] = []
        for _ in range(2):
            await life.passes.play(True, True)
            row = await con.fetchrow("SELECT * FROM macro_onchain_15m WHERE time = to_timestamp($1)", clock.at_s)
            assert json.loads(row["source"])["eth_gas_price"] == "etherscan"
            told.append(json.loads(row["as_of"])["eth_gas_price"])
            clock.at_s += 900
        assert told == [format_time(before), format_time(before + 2 * 900)]
        clock.at_s = START + DAY_S + 7200  # its next values are due
        await life.passes.play(True, True)
        assert world.calls["etherscan"] > calls[0] and world.calls["glassnode"] > calls[1]
    finally:
        await life.end()
        await con.close()


async def test_a_crash_amid_a_pull_costs_one_call(ts_dsn: str, tmp_path: Path) -> None:
    """What vendors had told before it is stored, and they are not asked for it again."""
    clock = WorldClock()
    clock.at_s = START + 12 * 3600
    world = MacroWorld(9, lambda: clock.at_s)
    life = Life(make_settings(ts_dsn, tmp_path, glassnode=True), world, clock)
    count = world.count

    def crash(vendor: str) -> float | None:
        if world.calls["glassnode"] == 3 and vendor == "glassnode":
            world.calls[vendor] += 1
            raise ZeroDivisionError
        return count(vendor)

    con = await asyncpg.connect(ts_dsn)
    try:
        await life.start()
        world.count = crash
        with pytest.raises(ZeroDivisionError):
            await life.passes.play(True, True)
        assert await con.fetchval("SELECT sum(calls) FROM macro_quota WHERE provider = 'glassnode'") == 4
        assert await con.fetchval("SELECT count(*) FROM macro_onchain_15m") == 0
        await life.end()
        await life.start()
        await life.passes.play(True, True)
        assert world.calls["glassnode"] == 9 + 1  # nine a day, and the one that was lost
        assert await con.fetchval("SELECT sum(calls) FROM macro_quota WHERE provider = 'glassnode'") == 10
        row = await con.fetchrow("SELECT * FROM macro_onchain_15m")
        assert None not in row.values()
    finally:
        await life.end()
        await con.close()


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
