"""The demo as a user starts it: its own database and vhost, real processes, a verdict."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest

from ops.demo_ground import NAME
from ops.services import Servers
from sandbox.config import Config
from sandbox.venue import Sandbox

SCRIPT = "from ops.cli import main; main()"
END_TIMEOUT_S = 60


@contextmanager
def start_demo(servers: Servers, folder: Path, *words: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """The demo on these servers, ended at the latest when the test is."""
    assert servers.management_url
    given = {
        "TS_DSN": servers.ts_dsn,
        "RMQ_URL": servers.rmq_url,
        "MANAGEMENT_URL": servers.management_url,
        "TMPDIR": str(folder),
    }
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "demo", *words],
        env={**os.environ, **given, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.fixture(autouse=True)
async def no_older_demo(servers: Servers, management_url: str) -> None:
    con = await asyncpg.connect(servers.ts_dsn, timeout=10, command_timeout=10)
    await con.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
    await con.close()


def read_count(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return int(found[1].replace(",", ""))


async def test_a_short_demo_ends_well(servers: Servers, tmp_path: Path) -> None:
    with start_demo(servers, tmp_path, DEMO_SECONDS="16", SYMBOLS="NOPE", CLOCK_RATE="7") as process:
        text, _ = await asyncio.to_thread(process.communicate, timeout=END_TIMEOUT_S)
    assert process.returncode == 0, text
    assert text.count("binance: every connection cut") == 1
    assert text.count("gap opened") >= 5 and text.count(": gap ") >= 10
    assert re.search(r"BTCUSDT: bar of \S+ revised \(rev \d, complete\)", text)
    sent = read_count(r"trades +([\d,]+) sent by the venue", text)
    assert sent == read_count(r"([\d,]+) accounted for", text) > 100
    # The quiet symbol may have had nothing to lose.
    assert read_count(r"opened (\d+)", text) == read_count(r"opened \d+, repaired (\d+)", text) >= 5
    bars = read_count(r"([\d,]+) of [\d,]+ closed bars equal", text)
    assert bars == read_count(r"of ([\d,]+) closed bars equal", text)
    assert (read_count(r"\((\d+) streamed", text), read_count(r"(\d+) backfilled\)", text)) == (6, bars - 6)
    assert "0 repeated" in text and "0 bars and 0 seconds of it remain" in text
    assert read_count(r"([\d,]+) of [\d,]+ stored rows announced", text) > bars
    assert read_count(r"feature engine ended with ([\d,]+) bars and [\d,]+ seconds, equal to the tables", text) == bars
    signals = read_count(r"signals +([\d,]+) of [\d,]+ position changes", text)
    assert signals == read_count(r"signals +[\d,]+ of ([\d,]+) position changes", text) > 100
    values = read_count(r"macro +([\d,]+) of [\d,]+ values equal", text)
    assert values == read_count(r"macro +[\d,]+ of ([\d,]+) values equal", text) > 30
    assert not list(tmp_path.iterdir())


async def test_an_altered_row_is_named_and_nothing_stays_behind(servers: Servers, tmp_path: Path) -> None:
    with start_demo(servers, tmp_path) as process:
        con = await join_database(servers.ts_dsn, process)
        async with asyncio.timeout(30):
            while await con.fetchval("SELECT count(*) FROM ingest_cursors") < 6:
                await asyncio.sleep(0.1)
        altered = await con.fetchrow(
            "UPDATE raw_bars SET v = v + 1 WHERE (symbol, time) = (SELECT symbol, min(time) FROM raw_bars"
            " WHERE symbol = 'SOLUSDT' GROUP BY symbol) RETURNING to_char(time AT TIME ZONE 'UTC', 'HH24:MI') AS at"
        )
        await con.close()
        with start_demo(servers, tmp_path) as second:
            told, _ = await asyncio.to_thread(second.communicate, timeout=END_TIMEOUT_S)
        assert second.returncode == 1 and "another demo runs on these servers" in told
        children = psutil.Process(process.pid).children(recursive=True)
        # Every service that the demo starts, whatever their number: the venue and the ingestor are among them.
        assert {"sandbox", "ohlcv_ingestor"} <= {word for child in children for word in child.cmdline()}
        process.send_signal(signal.SIGINT)
        text, _ = await asyncio.to_thread(process.communicate, timeout=END_TIMEOUT_S)
    assert process.returncode == 1, text
    assert re.search(rf"SOLUSDT \S+T{altered['at']}:00Z v: ours \S+, theirs \S+", text), text
    total = read_count(r"of ([\d,]+) closed bars equal", text)
    assert read_count(r"([\d,]+) of [\d,]+ closed bars equal", text) == total - 1
    log = re.search(r"end of (\S+ingestor\.log):", text)
    assert log and Path(log[1]).is_file() and Path(log[1]).is_relative_to(tmp_path)
    assert not [child for child in children if child.is_running()]


async def test_a_signal_too_early_for_a_summary_ends_it(servers: Servers, tmp_path: Path) -> None:
    with start_demo(servers, tmp_path) as process:
        await (await join_database(servers.ts_dsn, process)).close(timeout=5)
        process.send_signal(signal.SIGTERM)
        text, _ = await asyncio.to_thread(process.communicate, timeout=END_TIMEOUT_S)
    assert process.returncode in (0, 130) and "Traceback" not in text, text
    assert not list(tmp_path.iterdir())


async def test_run_shows_and_stores_what_a_venue_sends(
    ts_dsn: str, rmq_url: str, management_url: str, tmp_path: Path
) -> None:
    async with Sandbox(Config(symbols=("BTCUSDT", "ABCUSDT"), rate=20.0, history_minutes=10)) as venue:
        given = {"TS_DSN": ts_dsn, "RMQ_URL": rmq_url, "MANAGEMENT_URL": management_url, "TMPDIR": str(tmp_path)}
        endpoints = {"AGG_WS_URL": venue.ws_url, "BINANCE_REST_URL": venue.rest_url, "FALLBACK": "none"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SCRIPT, "run", "--symbols", "btcusdt,ABCUSDT", "--seconds", "6"),
            env={**os.environ, **given, **endpoints},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        text = (await asyncio.wait_for(process.communicate(), END_TIMEOUT_S))[0].decode()
    assert process.returncode == 0, text
    con = await asyncpg.connect(ts_dsn, timeout=10, command_timeout=10)
    stored = {row["symbol"]: row["n"] for row in await con.fetch("SELECT symbol, count(*) n FROM raw_bars GROUP BY 1")}
    await con.close(timeout=5)
    assert set(stored) == {"BTCUSDT", "ABCUSDT"}
    assert read_count(r"messages  1m (\d+)", text) == sum(stored.values()) >= 18
    assert "ingestor: ready" in text and not list(tmp_path.iterdir())


async def test_servers_without_a_management_api_are_refused(servers: Servers, tmp_path: Path) -> None:
    with start_demo(servers, tmp_path, MANAGEMENT_URL="") as process:
        text, _ = await asyncio.to_thread(process.communicate, timeout=END_TIMEOUT_S)
    assert process.returncode == 2
    assert "trading-bus: the demo makes a vhost of its own: give MANAGEMENT_URL beside RMQ_URL" in text


async def join_database(server_dsn: str, process: subprocess.Popen[str]) -> asyncpg.Connection:
    """A connection to the demo's database, once its registry is written."""
    dsn = urlsplit(server_dsn)._replace(path=f"/{NAME}").geturl()
    async with asyncio.timeout(30):
        while process.poll() is None:
            with suppress(asyncpg.InvalidCatalogNameError):
                con = await asyncpg.connect(dsn, timeout=5, command_timeout=5)
                with suppress(asyncpg.UndefinedTableError):
                    if await con.fetchval("SELECT count(*) FROM coin_registry"):
                        return con
                await con.close(timeout=5)
            await asyncio.sleep(0.1)
    raise AssertionError(process.communicate()[0])
