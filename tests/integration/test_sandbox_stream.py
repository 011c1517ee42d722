"""The sandbox's streams, heard by an independent WebSocket client."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from sandbox.config import Config
from sandbox.venue import Sandbox

START_MS = 1_790_000_040_000
LIMIT_S = 15.0


def write_tape(path: Path, count: int, step_ms: int = 100) -> Config:
    """A tape of ABCUSDT with ids 1..count, one trade each step, played fast from the first subscription on."""
    side = ("false", "true", "true")
    path.write_text(
        "".join(
            f'{{"a":{i},"p":"{100 + i % 7}.25","q":"0.5","f":{2 * i},"l":{2 * i + 1},"T":{i * step_ms},'
            f'"m":{side[i % 3]}}}\n'
            for i in range(1, count + 1)
        )
    )
    return Config(
        tapes=((path, "ABCUSDT"),), start=START_MS, epoch_ms=START_MS + 1000, lead_s=0.0, speed=100.0, hold=True
    )


@pytest.fixture
def tape(tmp_path: Path) -> Config:
    return write_tape(tmp_path / "tape.jsonl", 200)


@asynccontextmanager
async def hearing(venue: Sandbox, *streams: str) -> AsyncIterator[ClientConnection]:
    # Without a queue limit: a paused reader would not see the end of its own closing handshake.
    async with connect(f"{venue.ws_url}?streams={'/'.join(streams)}", compression=None, max_queue=None) as client:
        yield client


def small_socket(venue: Sandbox) -> socket.socket:
    """A client socket that takes in little while nobody reads."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(("127.0.0.1", venue.port))
    plain.setblocking(False)
    return plain


async def frame(client: ClientConnection) -> dict[str, Any]:
    return json.loads(await asyncio.wait_for(client.recv(), LIMIT_S))


async def frames_until(client: ClientConnection, is_last: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    found = [await frame(client)]
    while not is_last(found[-1]):
        found.append(await frame(client))
    return found


def is_trade(number: int) -> Callable[[dict[str, Any]], bool]:
    return lambda message: message.get("data", {}).get("a") == number


def trade_ids(messages: list[dict[str, Any]]) -> list[int]:
    return [message["data"]["a"] for message in messages if message["data"].get("e") == "aggTrade"]


async def closed_by(client: ClientConnection) -> websockets.ConnectionClosed:
    try:
        while True:
            await asyncio.wait_for(client.recv(), LIMIT_S)
    except websockets.ConnectionClosed as closed:
        return closed


async def test_whole_tape_in_order_with_cadence(tape: Config):
    async with (
        Sandbox(tape) as venue,
        hearing(venue, "abcusdt@aggTrade", "btcusdt@miniTicker", "abcusdt@miniTicker") as client,
    ):
        messages = await frames_until(client, is_trade(200))
        beat = (await frames_until(client, lambda m: m["data"]["e"] == "24hrMiniTicker"))[-1]
        status = venue.oracle.status()
    assert trade_ids(messages) == list(range(1, 201))
    events = [message["data"]["E"] for message in messages]
    assert events == sorted(events)
    cadence = [m["data"]["E"] for m in messages if m["stream"] == "btcusdt@miniTicker"]
    assert cadence == [START_MS + 1000 * i for i in range(1, len(cadence) + 1)]
    assert len(cadence) >= 20
    assert beat["data"]["E"] > messages[-1]["data"]["E"]
    assert status["sent"] == {"ABCUSDT": 200} and status["streamed_ids"] == {"ABCUSDT": [(1, 200)]}
    assert list(beat["data"]) == ["e", "E", "s", "c", "o", "h", "l", "v", "q"]


async def test_nothing_is_lost_to_a_slow_reader(tmp_path: Path):
    """At a hundred thousand times real speed the stream waits for the reader instead of losing frames."""
    count = 45_000
    config = replace(write_tape(tmp_path / "big.jsonl", count, 10), speed=100_000.0, buffer_bytes=1 << 16)
    async with Sandbox(config) as venue:
        url = f"{venue.ws_url}?streams=abcusdt@aggTrade/btcusdt@miniTicker"
        async with connect(url, sock=small_socket(venue), compression=None, close_timeout=0.1) as reader:
            await asyncio.sleep(0.5)  # it does not read
            behind = venue.oracle.status()
            messages = await frames_until(reader, is_trade(count))
    assert trade_ids(messages) == list(range(1, count + 1))
    events = [message["data"]["E"] for message in messages]
    assert events == sorted(events)
    assert behind["tape_done"] is False and behind["connections_cut"] == {}
    assert behind["venue_ms"] > behind["tape_end_ms"]


async def test_stuck_reader_is_cut_and_others_go_on(tmp_path: Path):
    config = replace(write_tape(tmp_path / "t.jsonl", 60_000, 10), speed=10_000.0, buffer_bytes=4096, stuck_s=0.3)
    async with Sandbox(config) as venue:
        reader, writer = await asyncio.open_connection(sock=small_socket(venue), limit=1024)
        writer.write(
            b"GET /stream?streams=abcusdt@aggTrade HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        async with hearing(venue, "abcusdt@aggTrade") as client:
            await frames_until(client, is_trade(60_000))
        assert venue.oracle.status()["connections_cut"] == {"slow reader": 1}
        writer.close()


async def test_control_frames(tape: Config):
    async with Sandbox(tape) as venue, connect(venue.ws_url, compression=None, max_queue=None) as client:

        async def ask(text: str) -> dict[str, Any]:
            await client.send(text)
            return await frame(client)

        assert await ask('{"method":"SUBSCRIBE","params":["abcusdt@nonsense","nosuch@aggTrade"],"id":1}') == {
            "result": None,
            "id": 1,
        }
        assert (await ask('{"method":"LIST_SUBSCRIPTIONS","id":"two"}'))["result"] == [
            "abcusdt@nonsense",
            "nosuch@aggTrade",
        ]
        assert await ask('{"method":"GET_PROPERTY","params":["combined"],"id":3}') == {"result": True, "id": 3}
        assert (await ask("nonsense"))["code"] == 3
        await asyncio.sleep(1.1)  # the venue hears five messages a second
        assert (await ask('{"method":"UNSUBSCRIBE","params":["abcusdt@nonsense"],"id":4}'))["result"] is None
        await client.send('{"method":"SUBSCRIBE","params":["abcusdt@trade","abcusdt@aggTrade"],"id":5}')
        await client.send('{"method":"SET_PROPERTY","params":["combined",false],"id":6}')
        messages = await frames_until(client, lambda message: message.get("e") == "trade")
        assert messages[-1]["q"] == "0.25000000"


async def test_raw_endpoint_and_too_many_streams(tape: Config):
    async with Sandbox(replace(tape, streams_max=3)) as venue:
        raw = f"ws://127.0.0.1:{venue.port}/ws/abcusdt%40aggTrade"
        async with connect(raw, compression=None, max_queue=None) as client:
            assert list(await frame(client)) == ["e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"]
            await client.send('{"method":"SUBSCRIBE","params":["a","b","c"],"id":9}')
            refused = (await frames_until(client, lambda message: "e" not in message))[-1]
            assert (refused["code"], refused["id"]) == (2, 9)
        async with hearing(venue, "a", "b", "c", "d") as client:
            assert (await closed_by(client)).rcvd.code == 1008


async def test_streams_begin_at_subscription(tape: Config):
    async with Sandbox(replace(tape, speed=20.0)) as venue, hearing(venue, "abcusdt@aggTrade") as first:
        await frames_until(first, is_trade(20))
        async with hearing(venue, "abcusdt@aggTrade") as second:
            assert (await frame(second))["data"]["a"] >= 20


async def test_talking_too_fast_ends_the_connection(tape: Config):
    async with Sandbox(tape) as venue, connect(venue.ws_url, compression=None, max_queue=None) as client:
        for i in range(6):
            await client.send(f'{{"method":"LIST_SUBSCRIPTIONS","id":{i}}}')
        assert (await closed_by(client)).rcvd.code == 1008
        assert venue.oracle.status()["connections_cut"] == {"too many messages": 1}


async def test_pings_are_sent_and_must_be_answered(tape: Config):
    config = replace(tape, ping_every_s=0.3, pong_timeout_s=0.8)
    async with Sandbox(config) as venue:
        async with connect(venue.ws_url, compression=None, max_queue=None) as good:
            reader, writer = await asyncio.open_connection("127.0.0.1", venue.port)
            writer.write(
                b"GET /stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            heard = await asyncio.wait_for(reader.read(), LIMIT_S)  # to the end: it never answers
            assert heard[:2] == b"\x89\x0d" and heard[2:15].isdigit() and b"Pong timeout" in heard
            writer.close()
            await asyncio.wait_for(await good.ping(), LIMIT_S)
        assert venue.oracle.status()["connections_cut"] == {"no pong": 1}


async def test_end_of_life_is_announced(tape: Config):
    async with (
        Sandbox(replace(tape, connection_life_s=0.6, shutdown_notice_s=0.4)) as venue,
        connect(venue.ws_url, compression=None, max_queue=None) as client,
    ):
        notice = await frame(client)
        assert notice["stream"] == "!serverShutdown" and notice["data"]["e"] == "serverShutdown"
        assert (await closed_by(client)).rcvd.code == 1001


async def test_withheld_and_dropped_are_in_rest_only(tape: Config):
    config = replace(tape, withhold=(("ABCUSDT", 10, 12),))
    async with Sandbox(config) as venue:
        venue.fault("drop", symbol="ABCUSDT", ids=[20, 20])
        venue.fault("drop", symbol="ABCUSDT", next=2)
        venue.fault("source_missing", symbol="ABCUSDT", ids=[30, 31])
        async with hearing(venue, "abcusdt@aggTrade") as client:
            ids = trade_ids(await frames_until(client, is_trade(200)))
        assert ids == [i for i in range(3, 201) if i not in {10, 11, 12, 20, 30, 31}]
        seconds = await venue.oracle.footprints("ABCUSDT", 0, 2**40)
        assert sum(int(str(row["n"])) for row in seconds) == 2 * 198
        status = venue.oracle.status()
        assert status["tape_done"] is True and status["sent"] == {"ABCUSDT": len(ids)}


async def test_duplicates_swaps_and_broken_frames(tape: Config):
    async with Sandbox(tape) as venue:
        venue.fault("duplicate", symbol="ABCUSDT", next=1)
        venue.fault("malformed", next=1)
        async with hearing(venue, "abcusdt@aggTrade") as client:
            texts = [str(await asyncio.wait_for(client.recv(), LIMIT_S)) for _ in range(3)]
            venue.fault("reorder", symbol="ABCUSDT", next=1)
            rest = trade_ids(await frames_until(client, is_trade(200)))
    broken = [text for text in texts if not text.endswith("}}")]
    assert len(broken) == 1
    with pytest.raises(ValueError):
        json.loads(broken[0])
    whole = [json.loads(text)["data"]["a"] for text in texts if text.endswith("}}")]
    assert whole == [1, 1]
    assert sorted(rest) == list(range(2, 201)) and rest != sorted(rest)


async def test_cut_refuse_and_come_back(tape: Config):
    async with Sandbox(replace(tape, speed=1.0)) as venue:
        async with hearing(venue, "abcusdt@aggTrade") as client:
            venue.fault("cut", for_s=0.5)
            assert (await closed_by(client)).rcvd is None
        with pytest.raises(websockets.InvalidStatus):
            await connect(venue.ws_url)
        async with asyncio.timeout(LIMIT_S):
            while venue.stage.troubles.on("refuse"):
                await asyncio.sleep(0.05)
        async with hearing(venue, "abcusdt@aggTrade") as client:
            await frame(client)


async def test_silence_keeps_the_socket_and_loses_the_frames(tape: Config):
    async with Sandbox(replace(tape, speed=10.0)) as venue, hearing(venue, "abcusdt@aggTrade") as client:
        await frame(client)
        venue.fault("silent", for_s=0.6)
        await asyncio.wait_for(await client.ping(), 0.5)  # pongs go on
        ids = trade_ids(await frames_until(client, lambda message: message["data"]["a"] > 100))
    jumps = [later - earlier for earlier, later in pairwise([1, *ids])]
    assert [jump > 30 for jump in jumps if jump != 1] == [True]  # one hole of about sixty


async def test_stall_holds_everything_and_loses_nothing(tape: Config):
    async with Sandbox(replace(tape, speed=20.0)) as venue, hearing(venue, "abcusdt@aggTrade") as client:
        await frame(client)
        venue.fault("stall", for_s=0.3)
        assert trade_ids(await frames_until(client, is_trade(200))) == list(range(2, 201))


async def test_muted_stream_and_huge_frame(tape: Config):
    async with Sandbox(tape) as venue, hearing(venue, "btcusdt@miniTicker") as client:
        venue.fault("mute_stream", stream="abcusdt@aggTrade")
        await client.send('{"method":"SUBSCRIBE","params":["abcusdt@aggTrade"],"id":1}')
        messages = await frames_until(client, lambda m: m.get("data", {}).get("E", 0) > START_MS + 30_000)
        assert {"result": None, "id": 1} in messages
        assert {m["stream"] for m in messages if "stream" in m} == {"btcusdt@miniTicker"}
        venue.fault("oversized", bytes=2 << 20)
        assert (await closed_by(client)).sent.code == 1009


async def test_seeded_stream_equals_rest_and_recount():
    config = Config(symbols=("BTCUSDT", "ETHUSDT"), rate=200.0, speed=20.0, start=START_MS, history_minutes=2)
    async with Sandbox(config) as venue, hearing(venue, "btcusdt@aggTrade", "ethusdt@aggTrade") as client:
        heard: dict[str, list[dict[str, Any]]] = {"BTCUSDT": [], "ETHUSDT": []}
        async with asyncio.timeout(LIMIT_S):
            while len(heard["ETHUSDT"]) < 2000:
                data = (await frame(client))["data"]
                heard[data["s"]].append(data)
                assert data["T"] < data["E"] <= venue.stage.market.clock.now_ms()
        market = venue.stage.market
        for symbol, rows in heard.items():
            ids = [row["a"] for row in rows]
            assert ids == list(range(ids[0], ids[0] + len(ids)))
            assert all(a["l"] + 1 == b["f"] for a, b in pairwise(rows))
            truth = market.from_id(symbol, ids[0], len(ids), market.clock.now_ms())
            assert [(t.id, t.time_ms, t.maker) for t in truth] == [(r["a"], r["T"], r["m"]) for r in rows]
            whole = sorted({row["T"] // 1000 for row in rows})[1:-1]
            seconds = await venue.oracle.footprints(symbol, whole[0], whole[-1] + 1)
            counted = [sum(r["l"] - r["f"] + 1 for r in rows if r["T"] // 1000 == s["time"]) for s in seconds]
            assert counted == [s["n"] for s in seconds] and len(seconds) == len(whole)
