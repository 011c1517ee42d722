"""The sandbox's second venue, heard by an independent WebSocket client and asked by an HTTP client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from sandbox.config import Config
from sandbox.venue import Sandbox

START_MS = 1_790_000_040_000
LIMIT_S = 15.0
CONFIG = Config(
    symbols=("SOLUSDT", "ETHUSDT"), rate=300.0, quiet_every=0, history_rate=1.0, history_minutes=5, okx=True,
    start=START_MS, speed=10.0, hold=True,
)  # fmt: skip
SOL, CLOCK = ("trades", "SOL-USDT"), ("tickers", "BTC-USDT")


def order(op: str, *args: tuple[str, str], id_: str = "1") -> str:
    return json.dumps({"id": id_, "op": op, "args": [{"channel": c, "instId": i} for c, i in args]})


@asynccontextmanager
async def talking(venue: Sandbox, *args: tuple[str, str]) -> AsyncIterator[ClientConnection]:
    async with connect(venue.okx_ws_url, compression=None, max_queue=None, ping_interval=None) as client:
        if args:
            await client.send(order("subscribe", *args))
        yield client


async def frame(client: ClientConnection) -> dict[str, Any]:
    return json.loads(await asyncio.wait_for(client.recv(), LIMIT_S))


async def frames_until(client: ClientConnection, is_last: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    found = [await frame(client)]
    while not is_last(found[-1]):
        found.append(await frame(client))
    return found


def rows_of(messages: list[dict[str, Any]], inst_id: str = "SOL-USDT") -> list[dict[str, Any]]:
    wanted = {"channel": "trades", "instId": inst_id}
    return [row for m in messages if m.get("arg") == wanted for row in m.get("data", [])]


def ids_of(rows: list[dict[str, Any]]) -> list[int]:
    return [id_ for row in rows for id_ in range(int(row["tradeId"]) - int(row["count"]) + 1, int(row["tradeId"]) + 1)]


def is_after(ms: int) -> Callable[[dict[str, Any]], bool]:
    return lambda m: m.get("arg", {}).get("channel") == "tickers" and int(m.get("data", [{"ts": 0}])[0]["ts"]) >= ms


async def closed_by(client: ClientConnection) -> websockets.ConnectionClosed:
    try:
        while True:
            await asyncio.wait_for(client.recv(), LIMIT_S)
    except websockets.ConnectionClosed as closed:
        return closed


async def test_trades_without_a_hole_in_order_with_the_clock():
    async with Sandbox(CONFIG) as venue, talking(venue, CLOCK, SOL) as client:
        messages = await frames_until(client, is_after(START_MS + 5_000))
        acks, rows = [m for m in messages if "event" in m], rows_of(messages)
        assert [(m["id"], m["event"], m["arg"]["channel"]) for m in acks] == [
            *(("1", "subscribe", "tickers"), ("1", "subscribe", "trades"))
        ]
        old, *fresh = rows
        assert int(old["ts"]) < START_MS <= int(fresh[0]["ts"])
        ids = ids_of(rows)
        assert len(fresh) > 300 and ids == list(range(ids[0], ids[-1] + 1))
        assert any(len(m["data"]) > 1 for m in messages if m.get("arg", {}).get("channel") == "trades" and "data" in m)
        stamps = [(m["arg"]["channel"], int(m["data"][-1]["ts"])) for m in messages if "data" in m]
        clock = [ms for channel, ms in stamps if channel == "tickers"]
        assert clock == [START_MS + 500 * n for n in range(1, len(clock) + 1)]
        # No trade comes behind a clock frame that tells a later time.
        assert [ms for _, ms in stamps] == sorted(ms for _, ms in stamps)


async def test_what_was_pushed_is_what_the_judge_counts():
    async with Sandbox(CONFIG) as venue, talking(venue, CLOCK, SOL) as client:
        rows = rows_of(await frames_until(client, is_after(START_MS + 6_000)))[1:]
        second = START_MS // 1000
        told = await venue.okx_oracle.footprints("SOLUSDT", second, second + 5)
        others = await venue.oracle.footprints("SOLUSDT", second, second + 5)
        for span in told:
            mine = [row for row in rows if int(row["ts"]) // 1000 == span["time"]]
            assert (span["first_id"], span["last_id"]) == (int(mine[0]["tradeId"]), int(mine[-1]["tradeId"]))
            assert span["n"] == len(ids_of(mine)) and span["close"] == mine[-1]["px"]
        assert len(told) >= 4 and told != others
        status = venue.okx_oracle.status()
        assert status["sent"]["SOLUSDT"] >= len(rows) and len(status["streamed_ids"]["SOLUSDT"]) == 1
        assert venue.oracle.status()["connections"] == 0 and status["connections"] == 1


async def test_one_answer_per_argument_and_errors():
    async with (
        Sandbox(CONFIG) as venue,
        talking(venue, SOL, ("trades", "FOO-USDT"), ("candle1m", "SOL-USDT")) as client,
    ):
        first = await frame(client)
        assert (first["event"], first["arg"]["instId"]) == ("subscribe", "SOL-USDT")
        errors = [m for m in await frames_until(client, lambda m: "candle1m" in m.get("msg", "")) if "event" in m]
        assert [(m["id"], m["event"], m["code"]) for m in errors] == [("1", "error", "60018")] * 2
        assert "channel:trades,instId:FOO-USDT doesn't exist" in errors[0]["msg"]
        await client.send("nonsense")
        assert (await frames_until(client, lambda m: "event" in m))[-1]["code"] == "60012"
        await client.send(order("unsubscribe", SOL, id_="2"))
        bye = (await frames_until(client, lambda m: m.get("event") == "unsubscribe"))[-1]
        assert bye["arg"] == {"channel": "trades", "instId": "SOL-USDT"} and bye["id"] == "2"
        await client.send("ping")
        assert await asyncio.wait_for(client.recv(), LIMIT_S) == "pong"


async def test_silence_ends_a_connection_and_a_ping_prevents_it():
    async with Sandbox(replace(CONFIG, okx_idle_s=0.6)) as venue, talking(venue) as idle, talking(venue) as pinging:
        ended = asyncio.create_task(closed_by(idle))
        while not ended.done():
            await pinging.send("ping")
            assert await asyncio.wait_for(pinging.recv(), LIMIT_S) == "pong"
            await asyncio.wait({ended}, timeout=0.2)
        assert ended.result().rcvd.code == 4004
        assert venue.okx_oracle.status()["connections_cut"] == {"no data": 1}


async def test_limits_of_connections_and_orders():
    config = replace(CONFIG, okx_control_per_hour=2, okx_connects_per_s=2)
    async with Sandbox(config) as venue, talking(venue, CLOCK) as client, talking(venue):
        with pytest.raises(websockets.InvalidStatus):
            await connect(venue.okx_ws_url)
        await client.send(order("unsubscribe", CLOCK))
        await client.send(order("subscribe", CLOCK))
        assert (await closed_by(client)).rcvd.code == 4009


async def test_faults_are_those_of_one_venue():
    async with Sandbox(CONFIG) as venue, httpx.AsyncClient(base_url=venue.rest_url) as api:
        async with (
            talking(venue, CLOCK, SOL) as client,
            connect(f"{venue.ws_url}?streams=solusdt@aggTrade", compression=None, max_queue=None) as other,
        ):
            await frame(client)
            assert (await api.post("/_fault", json={"kind": "cut"})).json() == {"ok": True}
            assert (await closed_by(other)).rcvd is None
            await frames_until(client, is_after(START_MS + 3_000))
            await api.post("/_fault", json={"kind": "drop", "venue": "okx", "symbol": "SOLUSDT", "next": 2})
            await api.post("/_fault", json={"kind": "shutdown", "venue": "okx", "after_s": 0.5})
            messages = await frames_until(client, lambda m: m.get("event") == "notice")
            assert messages[-1]["code"] == "64008"
            assert (await closed_by(client)).rcvd.code == 1001
        assert venue.okx_oracle.status()["faults_done"] == {"drop": 2} and venue.oracle.status()["faults_done"] == {}
        assert (await api.post("/_fault", json={"kind": "cut", "venue": "kraken"})).status_code == 400
        venue.fault("cut", venue="okx", for_s=30)
        with pytest.raises(websockets.InvalidStatus):
            await connect(venue.okx_ws_url)
        async with connect(f"{venue.ws_url}?streams=solusdt@aggTrade", compression=None, max_queue=None) as other:
            await frame(other)


async def test_holes_silence_and_skew():
    async with Sandbox(CONFIG) as venue, talking(venue, CLOCK, SOL) as client:
        messages = await frames_until(client, is_after(START_MS + 2_000))
        venue.fault("silent", venue="okx", for_s=0.3)
        await client.send("ping")  # answered although the venue is silent
        while (text := await asyncio.wait_for(client.recv(), LIMIT_S)) != "pong":
            messages.append(json.loads(text))
        venue.fault("skew", venue="okx", ms=100_000)
        messages += await frames_until(client, is_after(START_MS + 108_000))
        assert venue.stage.market.clock.skew_ms == 0 and not venue.stage.troubles.on("silent")
        rows = rows_of(messages)
        assert int(rows[-1]["ts"]) < START_MS + 50_000
        holes = [after - before - 1 for before, after in pairwise(ids_of(rows)) if after != before + 1]
        assert len(holes) == 1 and holes[0] > 100


async def test_the_trade_before_a_subscription_comes_again_and_again():
    async with Sandbox(replace(CONFIG, speed=0.0)) as venue, talking(venue) as client:
        seen: list[list[dict[str, Any]]] = []
        for op in ("subscribe", "unsubscribe", "subscribe"):
            await client.send(order(op, SOL, id_="1"))
            messages = [await frame(client)]
            messages += [await frame(client)] if op == "subscribe" else []
            seen.append(rows_of(messages))
        first, nothing, again = seen
        assert len(first) == 1 and first == again and nothing == []
        assert int(first[0]["ts"]) < START_MS
    async with Sandbox(replace(CONFIG, speed=0.0, okx_old_first=False)) as venue, talking(venue, SOL, CLOCK) as client:
        assert [(await frame(client))["event"] for _ in range(2)] == ["subscribe", "subscribe"]


@pytest.fixture
async def api() -> AsyncIterator[httpx.AsyncClient]:
    """A venue that stands still 20 minutes and 30 s into its market."""
    config = replace(CONFIG, start=START_MS + 1_230_000, epoch_ms=START_MS, history_minutes=20)
    async with Sandbox(config) as venue, httpx.AsyncClient(base_url=venue.rest_url, timeout=10) as client:
        yield client


async def data(api: httpx.AsyncClient, path: str, **params: Any) -> list[Any]:
    answer = await api.get(f"/api/v5/{path}", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.json()["code"] == "0"
    return answer.json()["data"]


async def test_candles(api: httpx.AsyncClient):
    rows = await data(api, "market/candles", instId="SOL-USDT", bar="1m")
    assert [int(row[0]) for row in rows] == [START_MS + 60_000 * n for n in range(20, -1, -1)]
    assert [row[8] for row in rows] == ["0", *["1"] * 20]
    span = {"symbol": "SOLUSDT", "from_s": START_MS // 1000, "to_s": START_MS // 1000 + 1200}
    bars = (await api.get("/_oracle/okx/bars", params=span)).json()
    told = [(str(b["time"] * 1000), b["o"], b["h"], b["l"], b["c"], b["v"], b["quote_vol"]) for b in reversed(bars)]
    assert [(*row[:6], row[7]) for row in rows[1:]] == told

    async def times(**params: Any) -> list[int]:
        rows = await data(api, "market/candles", instId="SOL-USDT", **params)
        return [(int(row[0]) - START_MS) // 60_000 for row in rows]

    assert await times(limit=2) == [20, 19]
    assert await times(after=START_MS + 300_000, limit=2) == [4, 3]
    assert await times(after=START_MS + 300_000, before=START_MS + 120_000) == [4, 3]
    assert await times(before=START_MS + 60_000, limit=2) == [20, 19]
    assert await times(after=START_MS) == []


async def test_instruments_time_and_errors(api: httpx.AsyncClient):
    rows = await data(api, "public/instruments", instType="SPOT")
    assert [row["instId"] for row in rows] == ["SOL-USDT", "ETH-USDT"] and {row["state"] for row in rows} == {"live"}
    assert await data(api, "public/instruments", instType="FUTURES") == []
    assert await data(api, "public/time") == [{"ts": str(START_MS + 1_230_000)}]
    for path, params, status, code in (
        ("market/candles", {"instId": "FOO-USDT"}, 200, "51001"),
        ("market/candles", {"instId": "SOL-USDT", "bar": "7m"}, 200, "51000"),
        ("market/candles", {"instId": "SOL-USDT", "after": "x"}, 200, "51000"),
        ("market/candles", {}, 400, "50014"),
        ("public/instruments", {}, 400, "51000"),
    ):
        answer = await api.get(f"/api/v5/{path}", params=params)
        assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (status, code, [])


async def test_too_many_calls_of_one_endpoint(api: httpx.AsyncClient):
    answers = [await api.get("/api/v5/public/time") for _ in range(12)]
    assert [a.json()["code"] for a in answers] == ["0"] * 10 + ["50011"] * 2
    assert answers[-1].status_code == 429
    await data(api, "public/instruments", instType="SPOT")
    await api.post("/_fault", json={"kind": "rest_down", "venue": "okx", "for_s": 30, "status": 503})
    assert (await api.get("/api/v5/public/time")).status_code == 503
    assert (await api.get("/api/v3/time")).status_code == 200


async def test_without_the_flag_there_is_no_second_venue():
    async with Sandbox(replace(CONFIG, okx=False)) as venue, httpx.AsyncClient(base_url=venue.rest_url) as api:
        assert (await api.get("/api/v5/public/time")).status_code == 404
        assert (await api.post("/_fault", json={"kind": "cut", "venue": "okx"})).status_code == 400
