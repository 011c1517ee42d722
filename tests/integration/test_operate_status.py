"""`status` and `doctor` as processes, against real servers, a real ingestor and the sandbox: well, then faults."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.stage import Stage, open_stage

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
MARKET = ("--symbols", ",".join(SYMBOLS), "--rate", "20", "--history", "110", "--quiet-every", "0", "--okx")
CLOSED = "127.0.0.1:1"


@dataclass
class Answer:
    code: int
    out: str
    err: str
    took_s: float

    def json(self) -> Any:
        return json.loads(self.out)

    def problems(self) -> str:
        return " | ".join(f"{it['where']}: {it['what']}" for it in self.json()["problems"])


async def call(*words: str, **env: str | None) -> Answer:
    """The command line in a process of its own, with only these variables of ours."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    given = {name: value for name, value in env.items() if value is not None}
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", "from ops.cli import main; main()", *words,
        env={**kept, **given}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return Answer(process.returncode, out.decode(), err.decode(), time.monotonic() - began)


@contextmanager
def frozen() -> Iterator[str]:
    """host:port of a server that takes connections and never says a word, as one that was stopped does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        await stage.start_venue(*MARKET)
        yield stage


async def until_status(stage: Stage, env: dict[str, str | None], code: int, word: str, within_s: float) -> Answer:
    answer = await call("status", "--json", **env)
    deadline = time.monotonic() + within_s
    while answer.code != code or word not in answer.out:
        assert time.monotonic() < deadline, f"{answer.out}{answer.err}\n{stage.ingestors[0].tail()}"
        answer = await call("status", "--json", **env)
    return answer


async def test_status_of_a_system_that_is_well_and_then_is_not(stage: Stage, management_url: str) -> None:
    ingestor = await stage.start_ingestor(symbols=",".join(SYMBOLS), stale_after_s=2, blind_after_s=2, settle_s=1)
    await stage.until((stage.folder / "ingestor.port").exists, 20, "the ingestor serves HTTP")
    port = int((stage.folder / "ingestor.port").read_text())
    env: dict[str, str | None] = {
        "TS_DSN": stage.dsn,
        "RMQ_URL": stage.rmq_url,
        "MANAGEMENT_URL": management_url,
        "STATUS_URLS": f"http://127.0.0.1:{port}",
    }

    # well
    await stage.settle(SYMBOLS, await stage.venue_s())
    body = (await until_status(stage, env, 0, "all well", 30)).json()
    assert {row["symbol"]: row["state"] for row in body["streams"]} == dict.fromkeys(SYMBOLS, "well")
    assert all(row["lag_s"] < 15 and row["trades_per_s"] > 0 for row in body["streams"]), body["streams"]
    (service,) = body["services"]
    assert service["feeds"][0]["trades"].keys() == set(SYMBOLS)
    assert all(value is not None for value in service["meters"].values()), service["meters"]
    assert [broker["source"] for broker in body["brokers"]] == ["amqp", "management"]
    queues = {queue["name"]: queue["messages"] for queue in body["brokers"][1]["queues"]}
    assert queues.keys() == {"trading.bus.dead", "trading.bus.log", "trading.bus.unrouted"}
    shown = await call("status", **env)
    assert shown.code == 0 and shown.err == ""
    assert shown.out.startswith("all well: 2 streams, 1 service\n")

    # nobody answers, or they are stopped: lines, in time, and no password
    closed = {
        "TS_DSN": f"postgresql://w:s3cr3t-pw@{CLOSED}/x", "RMQ_URL": f"amqp://w:s3cr3t-pw@{CLOSED}/",
        "MANAGEMENT_URL": f"http://w:s3cr3t-pw@{CLOSED}", "STATUS_URLS": f"http://{CLOSED}",
    }  # fmt: skip
    with frozen() as one:
        stopped = {name: value.replace(CLOSED, one) for name, value in closed.items()}
        for given in (closed, stopped):
            answer = await call("status", "--timeout", "1", **given)
            assert answer.code == 1 and answer.err == "", answer
            assert answer.out.startswith("4 problems: database, broker, service")
            assert "s3cr3t" not in answer.out
            assert answer.took_s < 5
        assert answer.out.count("no answer within 1 s") == 4

    # a gap that was left to an operator
    await stage.con.execute(
        "INSERT INTO feed_gaps (service, venue, symbol, from_id, to_id, from_time, to_time, missing, status, reason)"
        " VALUES ('ohlcv', 'binance', 'ETHUSDT', 1, 2, now() - interval '5 h', now() - interval '4 h', '{[1,3)}',"
        " 'open', 'restart')"
    )
    answer = await call("status", "--json", **env)
    assert answer.code == 1
    assert "gaps: 1 too old to be repaired by itself: ETHUSDT" in answer.problems()
    assert answer.json()["streams"][0]["symbol"] == "ETHUSDT"
    await stage.con.execute("DELETE FROM feed_gaps WHERE from_id = 1")

    # gaps of what has no stream here: another service's, however old, and those of a pair without a cursor
    await stage.con.execute(
        "INSERT INTO feed_gaps (service, venue, symbol, from_id, to_id, from_time, to_time, missing, status, reason,"
        " opened_at) SELECT s, v, n, -1, 2, now() - interval '5 h', now() - interval '4 h', '{[1,3)}', 'open', 'x',"
        " now() - interval '4 h' FROM (VALUES ('influencer', 'hyperliquid', '0xabc:BTC'),"
        " ('ohlcv', 'binance', 'NOCURSOR')) AS g(s, v, n)"
    )
    answer = await call("status", "--json", **env)
    assert answer.code == 1
    assert "gaps: 1 open in 0xabc:BTC, oldest noticed 4 h ago" in answer.problems()
    assert "gaps: 1 too old to be repaired by itself: NOCURSOR" in answer.problems()
    await stage.con.execute("DELETE FROM feed_gaps WHERE from_id = -1")

    # the venue is silent, and comes back
    await stage.fault("silent", for_s=60)
    answer = await until_status(stage, env, 1, "ohlcv-0: ", 15)
    assert "allowed 2 s" in answer.problems()
    await stage.fault("clear")
    await until_status(stage, env, 0, "all well", 30)

    # the ingestor is killed
    await ingestor.kill()
    answer = await call("status", "--json", **env)
    assert answer.code == 1
    assert "nothing listens there" in answer.problems()

    # by now the management interface, which counts every few seconds, knows of what the log holds
    async def counted() -> bool:
        _, management = (await call("status", "--json", **env)).json()["brokers"]
        return {queue["name"]: queue["messages"] for queue in management["queues"]}["trading.bus.log"] > 0

    await stage.until(counted, 15, "the messages of the log are counted")


async def test_a_wrong_address_is_exit_code_2(ts_dsn: str) -> None:
    answer = await call("status", "--url", "foo", TS_DSN=ts_dsn)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "trading-bus: --url, STATUS_URLS: is not an address like http://127.0.0.1:8101\n"


def findings(answer: Answer) -> dict[str, tuple[str, str]]:
    """Level and what was seen by name; of several with one name the first that is worst."""
    assert answer.err == ""
    ranked = sorted(answer.json(), key=lambda it: ("fail", "warn", "ok").index(it["level"]))
    return {it["name"]: (it["level"], it["seen"]) for it in reversed(ranked)}


async def test_doctor(stage: Stage, management_url: str) -> None:
    venue = f"127.0.0.1:{stage.port}"
    env: dict[str, str | None] = {
        "TS_DSN": stage.dsn, "RMQ_URL": stage.rmq_url, "MANAGEMENT_URL": management_url, "HTTP_PORT": "8101",
        "AGG_WS_URL": f"ws://{venue}/stream", "BINANCE_REST_URL": f"http://{venue}",
        "OKX_WS_URL": f"ws://{venue}/ws/v5/public", "OKX_REST_URL": f"http://{venue}",
    }  # fmt: skip

    # well; and nothing is left behind
    answer = await call("doctor", "--json", **env)
    seen = findings(answer)
    assert answer.code == 0, seen
    warned = {name for name, (level, _) in seen.items() if level != "ok"}
    assert warned <= {"broker publish", "database disk", "broker disk", "open files"}, seen
    assert {"binance stream", "okx stream", "okx REST", "clock binance", "clock okx", "clock database"} <= seen.keys()
    assert seen["database rights"][0] == "ok"
    assert "of 6000 a minute" in seen["binance budget"][1]
    assert await stage.count("ingest_cursors") == 0

    # settings that look wrong, a clock that is wrong, a schema that is not there, a stream without data
    await stage.fault("skew", ms=60_000)
    await stage.fault("silent", for_s=20)
    await stage.con.execute("DELETE FROM schema_migrations WHERE name LIKE '0004%'")
    wrong = {**env, "AGG_WS_URL": f"ws://{venue}/ws", "FALLBACK": "none"}
    answer = await call("doctor", "--json", "--timeout", "1", **wrong)
    seen = findings(answer)
    assert answer.code == 1 and "okx REST" not in seen
    assert {"settings ohlcv", "clock binance", "schema", "binance stream"} <= {
        name for name, (level, _) in seen.items() if level == "fail"
    }, seen

    # servers away: a line each, in time; --offline asks no venue
    with frozen() as one:
        away = {"TS_DSN": f"postgresql://w:s3cr3t-pw@{one}/x", "RMQ_URL": f"amqp://w:s3cr3t-pw@{one}/"}
        answer = await call("doctor", "--offline", "--timeout", "1", **{**env, **away, "MANAGEMENT_URL": None})
    assert answer.code == 1 and answer.err == ""
    assert answer.out.count("no answer within 1 s") == 2
    assert "binance REST" not in answer.out
    assert "s3cr3t" not in answer.out
    assert answer.took_s < 5


async def test_doctor_names_missing_rights(ts_dsn: str, rmq_url: str) -> None:
    con = await asyncpg.connect(ts_dsn)
    login = f"reader_{urlsplit(ts_dsn).path[-8:]}"
    try:
        await con.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'abc-def-ghi' IN ROLE trading_reader")
        parts = urlsplit(ts_dsn)
        dsn = parts._replace(netloc=f"{login}:abc-def-ghi@{parts.hostname}:{parts.port}").geturl()
        answer = await call("doctor", "--json", "--offline", TS_DSN=dsn, RMQ_URL=rmq_url)
        level, told = findings(answer)["database rights"]
        assert (answer.code, level) == (1, "fail")
        assert "INSERT, UPDATE on raw_bars" in told and "DELETE on bus_outbox" in told and "SELECT" not in told
    finally:
        await con.execute(f"DROP ROLE IF EXISTS {login}")
        await con.close()
