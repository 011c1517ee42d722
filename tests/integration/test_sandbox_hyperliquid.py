"""The sandbox's Hyperliquid, heard by an independent WebSocket client and asked by an HTTP client."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from sandbox.config import Config
from sandbox.hyperliquid_config import HyperliquidConfig
from sandbox.venue import Sandbox

LIMIT_S = 15.0
ANN, BEN = "0x" + "a" * 40, "0x" + "b" * 40
LOUD_ANN = "0x" + "A" * 40
GREETING = "Websocket connection established."
BUY = {"user": ANN, "coin": "ETH", "side": "B", "sz": "1", "px": "3000"}


def quiet(**settings: Any) -> Config:
    """A venue where only scripts trade."""
    return Config(rate=1.0, hyperliquid=HyperliquidConfig(accounts=0, **settings))


@asynccontextmanager
async def talking(
    venue: Sandbox, *users: str, kind: str = "userFills", **options: Any
) -> AsyncIterator[ClientConnection]:
    """A socket past its greeting, its acks and its snapshots."""
    async with connect(
        venue.hyperliquid_ws_url, compression=None, max_queue=None, ping_interval=None, **options
    ) as client:
        assert await asyncio.wait_for(client.recv(), LIMIT_S) == GREETING
        for user in users:
            await order(client, "subscribe", kind, user)
            await frames_until(client, lambda m: m["channel"] == kind and m["data"].get("isSnapshot"))
        yield client


async def order(client: ClientConnection, method: str, kind: str, user: str) -> None:
    await client.send(json.dumps({"method": method, "subscription": {"type": kind, "user": user}}))


async def frame(client: ClientConnection) -> dict[str, Any]:
    return json.loads(await asyncio.wait_for(client.recv(), LIMIT_S))


async def frames_until(client: ClientConnection, is_last: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    found = [await frame(client)]
    while not is_last(found[-1]):
        found.append(await frame(client))
    return found


async def heard(client: ClientConnection) -> list[Any]:
    """What came before the answer to a ping; text that is no JSON as it is."""
    await client.send('{"method":"ping"}')
    found: list[Any] = []
    while True:
        text = str(await asyncio.wait_for(client.recv(), LIMIT_S))
        if text == '{"channel":"pong"}':
            return found
        try:
            found.append(json.loads(text))
        except ValueError:
            found.append(text)


def tids(messages: list[Any]) -> list[int]:
    return [
        f["tid"] for m in messages if isinstance(m, dict) and m["channel"] == "userFills" for f in m["data"]["fills"]
    ]


def keys(messages: list[Any]) -> list[tuple[Any, ...]]:
    """What tells one fill from any other; two accounts that trade with each other share a tid."""
    return [
        (m["data"]["user"], f["time"], f["coin"], f["tid"])
        for m in messages
        if m["channel"] == "userFills"
        for f in m["data"]["fills"]
    ]


async def refused(venue: Sandbox, **options: Any) -> int:
    with pytest.raises(websockets.InvalidStatus) as error:
        async with connect(venue.hyperliquid_ws_url, **options):
            pass
    return error.value.response.status_code


async def ask(venue: Sandbox, api: httpx.AsyncClient, kind: str, **fields: Any) -> httpx.Response:
    return await api.post(venue.hyperliquid_info_url, json={"type": kind, **fields})


def fault(venue: Sandbox, kind: str, **args: Any) -> None:
    venue.fault(kind, venue="hyperliquid", **args)


def play(venue: Sandbox, *steps: dict[str, Any]) -> list[int]:
    assert venue.hyperliquid is not None
    return [one.fill["tid"] for one in venue.hyperliquid.play(list(steps))]


def status(venue: Sandbox) -> Any:
    assert venue.hyperliquid is not None
    return venue.hyperliquid.status()


async def test_a_session():
    async with Sandbox(quiet(snapshot_fills=2)) as venue, talking(venue) as client:
        old = play(venue, BUY | {"parts": 3})
        await order(client, "subscribe", "userFills", LOUD_ANN)
        ack, snapshot = await frame(client), await frame(client)
        told = {"type": "userFills", "user": ANN, "aggregateByTime": False}
        assert ack == {"channel": "subscriptionResponse", "data": {"method": "subscribe", "subscription": told}}
        assert snapshot["data"]["isSnapshot"] is True
        assert tids([snapshot]) == old[1:]
        new = play(venue, BUY | {"parts": 55}, {"user": BEN, "coin": "ETH", "side": "B", "sz": "1"})
        live = await frame(client)
        assert (list(live["data"]), live["data"]["user"], tids([live])) == (["user", "fills"], ANN, new[:55])
        await order(client, "subscribe", "userFills", ANN)
        assert (await frame(client))["data"].startswith('Already subscribed: {"type":"userFills"')
        await client.send("nonsense")
        assert (await frame(client))["data"] == "Error parsing JSON into valid websocket request: nonsense"
        await order(client, "unsubscribe", "userFills", ANN)
        assert (await frame(client))["data"] == {"method": "unsubscribe", "subscription": told}
        play(venue, BUY)
        assert await heard(client) == []


async def test_events_orders_and_states():
    async with Sandbox(quiet(state_every_s=0.2)) as venue, talking(venue) as client:
        for kind in ("userEvents", "orderUpdates", "clearinghouseState"):
            await order(client, "subscribe", kind, ANN)
        assert [m["channel"] for m in await heard(client)].count("subscriptionResponse") == 3
        play(venue, BUY | {"sz": "2"}, {"user": ANN, "coin": "xyz:CL", "side": "A", "sz": "1"})

        def is_told(message: dict[str, Any]) -> bool:
            return message["channel"] == "clearinghouseState" and state_of(message)["assetPositions"]

        def state_of(message: dict[str, Any]) -> Any:
            return message["data"]["clearinghouseState"]

        messages = await frames_until(client, is_told)
        assert [p["position"]["coin"] for p in state_of(messages[-1])["assetPositions"]] == ["ETH"]
        assert state_of(messages[-1])["assetPositions"][0]["position"]["szi"] == "2.0"
        by_channel = {m["channel"]: m["data"] for m in messages}
        assert list(by_channel["user"]) == ["fills"]
        assert [row["status"] for row in by_channel["orderUpdates"]] == ["filled", "filled"]


async def test_limits_count_per_address_and_errors_name_nobody():
    async with Sandbox(quiet(users_max=2, connections_max=3, connects_per_min=4, messages_per_min=9)) as venue:
        users = [f"0x{i:040x}" for i in range(3)]
        async with talking(venue, *users[:2]) as client, talking(venue, users[0]), talking(venue):
            await order(client, "subscribe", "userFills", users[2])
            assert await frame(client) == {"channel": "error", "data": "Cannot track more than 2 total users."}
            fault(venue, "limits", users_max=3)
            await order(client, "subscribe", "userFills", users[2])
            assert (await frame(client))["channel"] == "subscriptionResponse"
            assert await refused(venue) == 429
            async with talking(venue, *users[:2], local_addr=("127.0.0.2", 0)):
                pass
            for _ in range(5):
                await client.send('{"method":"ping"}')
            await asyncio.wait_for(client.wait_closed(), LIMIT_S)
        async with asyncio.timeout(LIMIT_S):
            while status(venue)["connections"]:
                await asyncio.sleep(0.01)
        async with talking(venue):
            pass
        assert await refused(venue) == 429
        client_use = status(venue)["clients"]["127.0.0.1"]
        assert client_use["refused"] == {"users": 1, "connections": 1, "messages": 1, "new connections": 1}
        assert (client_use["users_most"], client_use["connections_most"], client_use["users"]) == (3, 3, [])


async def test_idle_sockets_are_closed_and_pings_keep_them():
    async with Sandbox(quiet(idle_s=0.4)) as venue, talking(venue) as idle, talking(venue) as awake:
        began = time.monotonic()
        closing = asyncio.create_task(idle.wait_closed())
        while not closing.done():
            assert await heard(awake) == []
            assert time.monotonic() - began < LIMIT_S
            await asyncio.wait([closing], timeout=0.1)
        assert (idle.close_code, idle.close_reason) == (1000, "Inactive")
        assert await heard(awake) == []


async def test_info_pages_weights_and_errors():
    async with Sandbox(quiet()) as venue, httpx.AsyncClient() as api:
        base_ms = time.time_ns() // 1_000_000 - 60_000
        steps = [BUY | {"sz": "1", "parts": 100, "time": base_ms + i} for i in range(25)]
        made = play(venue, *steps)
        page = (await ask(venue, api, "userFillsByTime", user=LOUD_ANN, startTime=base_ms)).json()
        assert ([f["tid"] for f in page], page[-1]["time"]) == (made[:2000], base_ms + 19)
        rest = (await ask(venue, api, "userFillsByTime", user=ANN, startTime=base_ms + 19, endTime=base_ms + 20)).json()
        assert [f["tid"] for f in rest] == made[1900:2100]
        latest = (await ask(venue, api, "userFills", user=ANN)).json()
        assert len(latest) == 2000
        assert [f["tid"] for f in latest[:100]] == made[-100:]
        assert (await ask(venue, api, "userRole", user=ANN)).json() == {"role": "user"}
        assert (await ask(venue, api, "userRole", user=BEN)).json() == {"role": "missing"}
        state = (await ask(venue, api, "clearinghouseState", user=BEN)).json()
        assert state["assetPositions"] == []
        assert status(venue)["clients"]["127.0.0.1"]["weight_used"] == 120 + 30 + 120 + 60 + 60 + 2
        assert {coin["name"] for coin in (await ask(venue, api, "meta", dex="xyz")).json()["universe"]} == {
            "xyz:CL",
            "xyz:SP500",
        }
        wrong = [
            await ask(venue, api, "noSuchType"),
            await ask(venue, api, "userFills", user="0x12"),
            await ask(venue, api, "userFillsByTime", user=ANN),
            await ask(venue, api, "meta", dex="no"),
        ]
        assert [(answer.status_code, answer.text[:21]) for answer in wrong] == [
            *[(422, "Failed to deserialize")] * 3, (500, "null")
        ]  # fmt: skip
        answers = [await ask(venue, api, "userRole", user=ANN) for _ in range(13)]
        assert (answers[0].status_code, answers[-1].status_code, answers[-1].text) == (200, 429, "null")
        assert status(venue)["clients"]["127.0.0.1"]["weight_most"] <= 1200


async def test_faults_hit_one_listener_and_leave_the_other():
    """What goes wrong at the first socket, kind by kind; the second one hears everything at once."""
    async with Sandbox(quiet()) as venue, talking(venue, ANN) as first, talking(venue, ANN) as second:
        at_first: Any = {"connection": 0, "user": ANN}

        async def trade(steps: int = 1) -> tuple[list[int], list[Any]]:
            made = [tid for _ in range(steps) for tid in play(venue, BUY | {"parts": 3})]
            assert tids(await heard(second)) == made
            return made, await heard(first)

        fault(venue, "silent", **at_first)
        assert (await trade())[1] == []
        fault(venue, "clear")
        fault(venue, "mute", **at_first)
        assert (await trade())[1] == []
        fault(venue, "clear")
        fault(venue, "drop", next=2, **at_first)
        made, got = await trade()
        assert tids(got) == made[2:]
        fault(venue, "duplicate", **at_first)
        made, got = await trade()
        assert tids(got) == made * 2
        fault(venue, "shuffle", **at_first)
        made, got = await trade()
        assert tids(got) == made[::-1]
        fault(venue, "reorder", **at_first)
        made, got = await trade(steps=2)
        assert tids(got) == made[3:] + made[:3]
        fault(venue, "malformed", **at_first)
        made, got = await trade()
        assert isinstance(got[0], str)
        assert tids(got) == made
        fault(venue, "spoil", fields={"sz": "many"}, how="instead", **at_first)
        made, got = await trade()
        assert [f["sz"] for f in got[0]["data"]["fills"]] == ["many"] * 3
        fault(venue, "text", text='{"channel":"error","data":"oh"}', **at_first)
        assert await heard(first) == [{"channel": "error", "data": "oh"}]
        fault(venue, "lag", by_s=0.4, **at_first)
        began = time.monotonic()
        made, got = await trade()
        assert got == []
        assert tids([await frame(first)]) == made
        assert time.monotonic() - began >= 0.4
        assert status(venue)["faults_done"] == dict.fromkeys(
            ("duplicate", "shuffle", "reorder", "malformed", "spoil"), 1
        ) | {"drop": 2}


async def test_what_the_stream_loses_rest_has():
    async with (
        Sandbox(quiet()) as venue,
        talking(venue, ANN) as first,
        talking(venue, ANN) as second,
        httpx.AsyncClient() as api,
    ):
        fault(venue, "drop", next=3, user=ANN)
        made = play(venue, BUY | {"parts": 5}, BUY | {"streamed": False})
        assert tids(await heard(first)) == tids(await heard(second)) == made[3:5]
        fault(venue, "cut", connection=-1, for_s=60)
        with pytest.raises(websockets.ConnectionClosedError):
            await asyncio.wait_for(second.recv(), LIMIT_S)
        assert await heard(first) == []
        assert await refused(venue) == 503
        fault(venue, "clear")
        fault(venue, "rest_behind", by_ms=60_000)
        assert (await ask(venue, api, "userFills", user=ANN)).json() == []
        fault(venue, "clear")
        fault(venue, "rest_down", next=1, status=502)
        fault(venue, "rest_429", next=1, type="userFills")
        fault(venue, "rest_slow", next=1, by_s=0.2)
        fault(venue, "rest_body", body='{"no', type="meta")
        answers = [await ask(venue, api, "userFills", user=ANN) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [502, 429, 200]
        assert (await ask(venue, api, "meta")).text == '{"no'
        assert {f["tid"] for f in answers[-1].json()} == set(made)
        async with talking(venue) as third:
            await order(third, "subscribe", "userFills", ANN)
            assert tids([await frame(third), snapshot := await frame(third)]) == made[:5]
            assert snapshot["data"]["isSnapshot"]


async def test_made_up_accounts_reach_every_listener_and_the_judge():
    """Two sockets at 150 fills a second, one of them ill: together they hear each fill that the judge knows."""
    config = Config(rate=1.0, hyperliquid=HyperliquidConfig(rate=150.0, history_s=5, fills_per_frame=20))
    async with Sandbox(config) as venue, httpx.AsyncClient(base_url=venue.rest_url) as api:
        assert venue.hyperliquid is not None
        users = venue.hyperliquid.accounts
        async with talking(venue, *users) as first, talking(venue, *users) as second:
            after = len((await api.get("/_oracle/hyperliquid/fills")).json())
            for kind in ("reorder", "duplicate", "drop", "shuffle"):
                fault(venue, kind, connection=0, every=3, for_s=60)
            messages: list[Any] = []
            while len(tids(messages)) < 300:
                messages.append(await frame(second))
            fault(venue, "stall", connection=1, for_s=0.3)
            while len(tids(messages)) < 450:
                messages.append(await frame(second))
            judged = (await api.get("/_oracle/hyperliquid/fills", params={"from_seq": after})).json()
            messages += await heard(second)
            ill = keys(await heard(first))
        sent = keys(messages)
        told = [(one["user"], *(one["fill"][name] for name in ("time", "coin", "tid"))) for one in judged]
        assert len(set(sent)) == len(sent)
        assert sent[sent.index(told[0]) :][: len(told)] == told
        assert 0 < len(set(told) - set(ill)) < len(told)
        assert len(ill) > len(set(ill))
        assert list(dict.fromkeys(ill)) != [key for key in sent if key in set(ill)]
        accounts = (await api.get("/_oracle/hyperliquid/accounts")).json()
        assert [one["user"] for one in accounts] == users


async def test_process(tmp_path: Path):
    """The real command line: ready line with accounts, a script that trades, control calls, a clean end."""
    script = tmp_path / "script.json"
    steps = [BUY | {"after_ms": 100}, {"user": ANN, "action": "close", "coin": "ETH", "after_ms": 150}]
    script.write_text(json.dumps([{"at_s": 0.0, "venue": "hyperliquid", "kind": "play", "steps": steps}]))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sandbox", "--hyperliquid", "--hyperliquid-accounts", "2", "--script", str(script)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        assert len(ready["hyperliquid_accounts"]) == 2
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ready['port']}") as api, asyncio.timeout(LIMIT_S):
            while True:
                judged = (await api.get("/_oracle/hyperliquid/fills", params={"user": LOUD_ANN})).json()
                if judged and judged[-1]["end"] == "0.0":
                    break
                await asyncio.sleep(0.02)
            assert [one["fill"]["dir"] for one in judged][:1] == ["Open Long"]
            answer = await api.post("/_play", json=[BUY | {"sz": 2.5}])
            assert [one["end"] for one in answer.json()] == ["2.5"]
            wrong = [
                await api.post("/_play", json=[BUY | {"side": "up"}]),
                await api.post("/_fault", json={"venue": "hyperliquid", "kind": "flood"}),
                await api.post("/_fault", json={"venue": "hyperliquid", "kind": "cut", "connection": 4}),
                await api.post("/_fault", json={"venue": "hyperliquid", "kind": "limits", "patience": 4}),
            ]
            assert [one.status_code for one in wrong] == [400] * 4
            known = (await api.get("/_oracle/hyperliquid/status")).json()
            assert known["connections"] == []
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
