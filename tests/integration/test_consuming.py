"""Consumers that share no code with us: the worked examples follow a bus that is cut, revised and replayed."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
import urllib.parse
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from threading import Event
from uuid import uuid4

import asyncpg
import pytest

from common.publisher import message_type
from examples import feature_engine, replay_pika
from examples.replay_pika import Newest, connect, listen, read_offset, replay
from ops.demo_features import compare_known, read_known
from ops.rabbitmq_probe import call_management
from tests.message_check import MessageCheck
from tests.stage import Process, Stage, open_stage

EXAMPLES = Path(feature_engine.__file__).parent
SYMBOLS = ["BTCUSDT", "ABCUSDT"]
SPEED = 10
QUIET_S = 2.0
Rows = dict[tuple[str, str], tuple[int, bool, Decimal]]
"""(routing key, time) -> rev, complete, close."""


@dataclass(frozen=True)
class Login:
    """A consumer's own addresses: it may read, and have queues under its name, and nothing else."""

    name: str
    rmq_url: str
    dsn: str


@pytest.fixture
async def login(
    stage: Stage, management_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Login]:
    name = f"features_{uuid4().hex[:8]}"
    env = {"TS_DSN": stage.dsn, "RMQ_URL": stage.rmq_url, "MANAGEMENT_URL": management_url}
    files = {"broker": tmp_path / "rmq_url", "database": tmp_path / "dsn"}
    for server, role in (("broker", "consumer"), ("database", "reader")):
        await operate(tmp_path, env, "access", server, name, "--role", role, "--file", str(files[server]))
    monkeypatch.setattr(replay_pika, "CONSUMER", name)
    try:
        yield Login(name, files["broker"].read_text().strip(), files["database"].read_text().strip())
    finally:
        await operate(tmp_path, env, "access", "remove", name)


async def operate(folder: Path, env: dict[str, str], *words: str) -> None:
    command = Process(folder, "access", ["-c", "from ops.cli import main; main()", *words], env)
    await command.start()
    assert command.process is not None
    assert await asyncio.wait_for(command.process.wait(), 30) == 0, command.tail()


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        await stage.start_venue(
            "--symbols", ",".join(SYMBOLS), "--rate", "20", "--speed", str(SPEED), "--quiet-every", "2"
        )
        yield stage


async def test_foreign_consumers_end_with_what_the_tables_hold(stage: Stage, login: Login, management_url: str) -> None:
    ingestor = await stage.start_ingestor(symbols=",".join(SYMBOLS), clock_rate=SPEED)
    await stage.settle(SYMBOLS, await stage.venue_s())
    engine = await start_engine(stage, login)
    with ThreadPoolExecutor() as pool:
        since = dt.datetime.now(dt.UTC)
        begun = Event()
        live = asyncio.get_running_loop().run_in_executor(pool, hear, login.rmq_url, begun)
        await stage.until(begun.is_set, 15, "the listener hears")
        hears_s = await stage.venue_s()
        # Revisions on the bus, and in the middle of them the engine loses its connection.
        await stage.fault("cut", for_s=2)
        await stage.until(lambda: cut_off(management_url, login), 15, "the engine is cut off")
        await stage.until(lambda: engine.log.read_text().count("loaded") >= 2, 15, "the engine has joined again")
        await stage.settle(SYMBOLS, await stage.venue_s() + 65)
        assert await ingestor.stop() == 0, ingestor.tail()
        assert await stage.count("bus_outbox") == 0
        stored = await read_tables(stage.con)
        reads = [
            asyncio.get_running_loop().run_in_executor(pool, read, login.rmq_url, offset)
            for offset in ("first", since, "1h")
        ]
        (newest, beats), enveloped, *replayed = await asyncio.gather(live, pool_check(pool, login.rmq_url), *reads)
    await engine_knows_the_tables(stage, engine)
    assert sum(rev > 1 for rev, _, _ in stored.values()) > 0, "nothing was revised"
    # Live: whatever was heard is what is stored, and nothing since the beginning is missing.
    assert beats > 0
    heard = as_rows(newest)
    assert heard.items() <= stored.items()
    late = {key for key in stored if dt.datetime.fromisoformat(key[1]).timestamp() > hears_s}
    assert late <= heard.keys() and len(late) > 30
    # Replayed: from the first on it is everything; from a time on at least what came since.
    first, since_then, hour = replayed
    assert first == hour == stored and heard.items() <= since_then.items()
    offsets, check = enveloped
    assert (check.wrong, check.shown) == (0, []) and check.checked >= len(stored)
    middle = offsets[len(offsets) // 2]
    assert next(replay(login.rmq_url, read_offset(str(middle)), idle_s=5))[1]["x-stream-offset"] == middle


async def start_engine(stage: Stage, login: Login) -> Process:
    env = {"TS_DSN": login.dsn, "RMQ_URL": login.rmq_url, "CONSUMER": login.name}
    env["FEATURES_FILE"] = str(stage.folder / "features.json")
    engine = Process(stage.folder, "engine", [str(EXAMPLES / "feature_engine.py")], env)
    await engine.start()
    stage.ingestors.append(engine)
    await stage.until(lambda: "loaded" in engine.log.read_text(), 15, "the engine follows")
    return engine


async def engine_knows_the_tables(stage: Stage, engine: Process) -> None:
    assert await engine.stop() == 0, engine.tail()
    known = read_known((stage.folder / "features.json").read_bytes())
    found = await compare_known(stage.con, SYMBOLS, known)
    assert found.faults == [] and found.bars > 200 and found.seconds > 30
    assert "equal to the tables" in found.line()
    features = [json.loads(line) for line in engine.log.read_text().splitlines() if line.startswith("{")]
    assert {row["symbol"] for row in features} == set(SYMBOLS)
    assert any(row["return_1m"] is not None and row["imbalance"] is not None for row in features)
    # The engine would be found out.
    known["BTCUSDT"].bars.pop()
    assert len((await compare_known(stage.con, SYMBOLS, known)).faults) == 1


def cut_off(management_url: str, login: Login) -> bool:
    """Close the engine's connection, as an operator or a network would."""
    vhost = urllib.parse.quote(urllib.parse.urlsplit(login.rmq_url).path.removeprefix("/"), safe="")
    for connection in call_management(management_url, "GET", f"vhosts/{vhost}/connections"):
        if connection.get("client_properties", {}).get("connection_name") == f"consumer.{login.name}":
            call_management(management_url, "DELETE", f"connections/{urllib.parse.quote(connection['name'])}")
            return True
    return False


def hear(url: str, begun: Event) -> tuple[Newest, int]:
    """Listen until it has been quiet for longer than the cut; what was news, and how many beats there were."""
    newest, beats = Newest(), 0
    for key, _, body in listen(url, idle_s=9):
        begun.set()
        newest.is_news(key, body)
        beats += key.endswith(".beat")
    return newest, beats


def read(url: str, offset: str | dt.datetime) -> Rows:
    newest = Newest()
    for key, _, body in replay(url, offset, idle_s=QUIET_S):
        newest.is_news(key, body)
    return as_rows(newest)


def as_rows(newest: Newest) -> Rows:
    """What the messages say of rows that are there; n = 0 of a second says that it is not."""
    return {
        (key, time): (body["rev"], body["complete"], Decimal(body["c" if key.endswith("1m") else "close"]))
        for (key, time), body in newest.rows.items()
        if key.endswith("1m") or body["n"]
    }


async def pool_check(pool: ThreadPoolExecutor, url: str) -> tuple[list[int], MessageCheck]:
    return await asyncio.get_running_loop().run_in_executor(pool, check_envelopes, url)


def check_envelopes(url: str) -> tuple[list[int], MessageCheck]:
    """Every message of the log with its AMQP properties, as the documents describe them; offsets in order."""
    check, offsets, connection = MessageCheck(), list[int](), connect(url)
    try:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=200)
        for method, properties, body in channel.consume(
            "trading.bus.log", arguments={"x-stream-offset": "first"}, inactivity_timeout=QUIET_S
        ):
            if method is None:
                return offsets, check
            key, value = method.routing_key, json.loads(body)
            check.see(key, body)
            assert (properties.content_type, properties.app_id) == ("application/json", "ohlcv_ingestor")
            assert (properties.type, properties.delivery_mode) == (message_type(key), 2)
            assert properties.message_id == f"{key}@{value['time']}#{value['rev']}"
            assert abs(properties.timestamp - time.time()) < 3600
            offsets.append(properties.headers["x-stream-offset"])
            channel.basic_ack(method.delivery_tag)
        raise AssertionError("unreachable")
    finally:
        connection.close()


async def read_tables(con: asyncpg.Connection) -> Rows:
    query = """
    SELECT symbol, time, rev, complete, c AS close, '1m' AS kind FROM raw_bars
    UNION ALL SELECT symbol, time, rev, complete, close, '1s' FROM footprint_1s
    """
    return {
        (f"price_updates.{r['symbol']}.{r['kind']}", r["time"].strftime("%Y-%m-%dT%H:%M:%SZ")): (
            r["rev"], r["complete"], r["close"]
        )
        for r in await con.fetch(query)
    }  # fmt: skip
