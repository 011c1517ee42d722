"""The sandbox's REST and judge, asked by an HTTP client; and the sandbox as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from sandbox.venue import Sandbox
from tests.integration.test_sandbox_stream import write_tape

START_MS = 1_790_000_040_000


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A venue that stands 30 s into a tape of one trade each 100 ms: ids 1..290 are seen, 291..400 to come."""
    config = replace(write_tape(tmp_path / "t.jsonl", 400), start=START_MS + 30_000, epoch_ms=START_MS + 1000)
    async with Sandbox(config) as venue, httpx.AsyncClient(base_url=venue.rest_url, timeout=10) as client:
        yield client


async def get(api: httpx.AsyncClient, path: str, **params: Any) -> Any:
    answer = await api.get(path, params={"symbol": "ABCUSDT", **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_agg_trades(api: httpx.AsyncClient):
    rows = await get(api, "/api/v3/aggTrades", fromId=289)
    assert [row["a"] for row in rows] == [289, 290]
    assert list(rows[0]) == ["a", "p", "q", "f", "l", "T", "m", "M"]
    assert (rows[0]["p"], rows[0]["q"]) == ("102.25000000", "0.50000000")
    assert [row["a"] for row in await get(api, "/api/v3/aggTrades", limit=3)] == [288, 289, 290]
    first_ms = START_MS + 1100  # T=100 moved to the second of the anchor
    span = {"startTime": first_ms, "endTime": first_ms + 300}
    assert [row["a"] for row in await get(api, "/api/v3/aggTrades", **span)] == [1, 2, 3, 4]
    assert [row["a"] for row in await get(api, "/api/v3/aggTrades", startTime=first_ms + 1, limit=2)] == [2, 3]
    assert [row["a"] for row in await get(api, "/api/v3/aggTrades", endTime=first_ms + 300, limit=2)] == [3, 4]
    assert await get(api, "/api/v3/aggTrades", fromId=291) == []
    assert len(await get(api, "/api/v3/aggTrades", fromId=0, limit=5000)) == 290


async def test_klines(api: httpx.AsyncClient):
    seconds = await get(api, "/api/v3/klines", interval="1s")
    assert len(seconds) == 30 and seconds[-1][0] == START_MS + 30_000
    assert all(len(row) == 12 for row in seconds)
    assert [row[8] for row in seconds[:3]] == [18, 20, 20]  # the first second opens with T=100
    assert seconds[-1][8] == 2 and seconds[-1][6] == START_MS + 30_999  # so far: one trade at its very beginning
    (minute,) = await get(api, "/api/v3/klines", interval="1m", startTime=0)
    assert (minute[0], minute[8], minute[5]) == (START_MS, 580, "145.00000000")
    some = await get(api, "/api/v3/klines", interval="1s", startTime=START_MS + 4001, endTime=START_MS + 7000)
    assert [row[0] for row in some] == [START_MS + 5000, START_MS + 6000, START_MS + 7000]
    last = await get(api, "/api/v3/klines", interval="1s", endTime=START_MS + 7000, limit=2)
    assert [row[0] for row in last] == [START_MS + 6000, START_MS + 7000]


async def test_time_and_exchange_info(api: httpx.AsyncClient):
    assert await get(api, "/api/v3/time") == {"serverTime": START_MS + 30_000}
    info = await get(api, "/api/v3/exchangeInfo")
    assert [row["symbol"] for row in info["symbols"]] == ["ABCUSDT"]
    assert info["symbols"][0]["baseAsset"] == "ABC" and info["symbols"][0]["status"] == "TRADING"
    assert (await api.get("/api/v3/ping")).json() == {}


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("aggTrades", {}, -1102),
        ("aggTrades", {"symbol": "NOPE"}, -1121),
        ("aggTrades", {"symbol": "ABCUSDT", "fromId": 1, "startTime": 1}, -1128),
        ("aggTrades", {"symbol": "ABCUSDT", "fromId": "x"}, -1100),
        ("klines", {"symbol": "ABCUSDT", "interval": "7m"}, -1120),
        ("exchangeInfo", {"symbol": "NOPE"}, -1121),
    ],
)
async def test_errors(api: httpx.AsyncClient, path: str, params: dict[str, Any], code: int):
    answer = await api.get(f"/api/v3/{path}", params=params)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


async def test_weight_and_ban(tmp_path: Path):
    config = replace(write_tape(tmp_path / "t.jsonl", 5), weight_limit=10, ban_after=1)
    async with Sandbox(config) as venue, httpx.AsyncClient(base_url=venue.rest_url) as api:
        answers = [await api.get("/api/v3/aggTrades", params={"symbol": "ABCUSDT"}) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 418]
        assert [answer.headers["X-MBX-USED-WEIGHT-1M"] for answer in answers[:2]] == ["4", "8"]
        assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
        assert answers[3].json()["code"] == -1003 and int(answers[3].headers["Retry-After"]) == 120
        assert venue.oracle.status()["weight_used_max"] == 8
        venue.fault("clear")
        assert (await api.get("/api/v3/time")).status_code == 200


async def test_rest_faults(api: httpx.AsyncClient):
    async def fault(**args: object) -> httpx.Response:
        return await api.post("/_fault", json=args)

    assert (await fault(kind="rest_down", for_s=30, status=502)).json() == {"ok": True}
    assert (await api.get("/api/v3/time")).status_code == 502
    await fault(kind="clear")
    await fault(kind="rest_behind", by_ms=10_000)
    assert (await get(api, "/api/v3/aggTrades", limit=1))[0]["a"] == 190
    await fault(kind="skew", ms=-7000)
    assert await get(api, "/api/v3/time") == {"serverTime": START_MS + 23_000}
    await fault(kind="clear")
    await fault(kind="rest_slow", for_s=30, by_s=30)
    with pytest.raises(httpx.ReadTimeout):
        await api.get("/api/v3/time", timeout=0.2)
    await fault(kind="clear")
    await fault(kind="rest_ban", for_s=30)
    assert (await api.get("/api/v3/time")).status_code == 418
    for wrong in ({"kind": "nonsense"}, {"kind": "silent"}, {"kind": "drop", "symbol": "NOPE"}):
        assert (await fault(**wrong)).status_code == 400


async def test_judge(api: httpx.AsyncClient):
    second = START_MS // 1000
    rows = await get(api, "/_oracle/footprints", from_s=second + 2, to_s=second + 4)
    assert [(row["time"], row["n"], row["first_id"], row["last_id"]) for row in rows] == [
        (second + 2, 20, 10, 19),
        (second + 3, 20, 20, 29),
    ]
    (bar,) = await get(api, "/_oracle/bars", from_s=second, to_s=second + 60)
    assert (bar["time"], bar["n"], bar["v"]) == (second, 580, "145")
    trades = await get(api, "/_oracle/trades", from_id=5, to_id=6)
    assert [row["a"] for row in trades] == [5, 6]
    assert (await api.get("/_oracle/bars", params={"symbol": "NOPE"})).status_code == 400
    status = (await api.get("/_oracle/status")).json()
    assert (status["venue_ms"], status["tape_done"], status["connections"]) == (START_MS + 30_000, False, 0)


async def test_process(tmp_path: Path):
    """The real command line: ready line, a scripted fault, the same trades after a restart, a clean end."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"at_s": 0.0, "kind": "rest_down", "for_s": 0.2}]))
    flags = [
        "--symbols",
        "BTCUSDT,ETHUSDT",
        "--seed",
        "9",
        "--epoch-ms",
        str(START_MS),
        "--start",
        str(START_MS + 60_000),
    ]
    seen: list[Any] = []
    for _ in range(2):
        ready = tmp_path / "ready.json"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sandbox", "--ready-file", str(ready), "--script", str(script), *flags),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            port = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))["port"]
            assert json.loads(ready.read_text()) == {"port": port}
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as api:
                async with asyncio.timeout(10):
                    while (await api.get("/api/v3/ping")).status_code != 200:
                        await asyncio.sleep(0.02)
                seen.append(await get(api, "/api/v3/aggTrades", symbol="BTCUSDT", fromId=0, limit=50))
            async with connect(f"ws://127.0.0.1:{port}/stream?streams=btcusdt@aggTrade") as client:
                assert "aggTrade" in str(await asyncio.wait_for(client.recv(), 10))
                process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(process.wait(), 10) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert seen[0] == seen[1] and len(seen[0]) == 50
