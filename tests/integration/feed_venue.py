"""A small venue on a loopback socket, steered by the test, and a recorder of what a feed delivers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from common.feed import Arrival, Event, Feed, Lost
from common.venues.market import Trade

CADENCE = "btcusdt@miniTicker"


def aggtrade_text(symbol: str, id_: int) -> str:
    data = f'{{"e":"aggTrade","E":1790000000123,"s":"{symbol}","a":{id_},"p":"91234.56000000","q":"0.01500000",'
    data += f'"f":{id_},"l":{id_},"T":1790000000121,"m":true,"M":true}}'
    return f'{{"stream":"{symbol.lower()}@aggTrade","data":{data}}}'


class Venue:
    """Answers control frames, sends cadence to who asked for it, and misbehaves on command."""

    def __init__(self, cadence_s: float = 0.02) -> None:
        self.cadence_s = cadence_s
        self.control: list[tuple[float, dict[str, object]]] = []
        self.texts: list[str] = []
        self.streams: dict[ServerConnection, set[str]] = {}
        self.silent = False
        self.muted: str | None = None
        self.acking = True
        self.refusing = False
        self.refused: str | None = None
        self.handshakes = 0
        self.pongs = 0
        self.last_id = 0
        self.changed = asyncio.Condition()
        self._server: Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await serve(
            self._converse, "127.0.0.1", 0, compression=None, process_request=self._admit, ping_interval=None,
            write_limit=2**20,
        )  # fmt: skip
        port = next(iter(self._server.sockets)).getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}/stream"
        self._tasks = {asyncio.create_task(self._tick()), asyncio.create_task(self._ping())}

    async def stop(self) -> None:
        assert self._server is not None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server.close()
        await self._server.wait_closed()

    def _admit(self, connection: ServerConnection, _: Request) -> Response | None:
        self.handshakes += 1
        return connection.respond(503, "away\n") if self.refusing else None

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, true: Callable[[], bool], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s), self.changed:
            await self.changed.wait_for(true)

    async def _converse(self, connection: ServerConnection) -> None:
        self.streams[connection] = set()
        await self._notify()
        try:
            async for text in connection:
                await self._obey(connection, str(text))
        except ConnectionClosed:
            return
        finally:
            del self.streams[connection]
            await self._notify()

    async def _obey(self, connection: ServerConnection, text: str) -> None:
        if not text.startswith("{"):
            self.texts.append(text)
            return await self._notify()
        frame = json.loads(text)
        self.control.append((time.monotonic(), frame))
        if self.refused in frame["params"]:
            error = {"code": 2, "msg": "Invalid request"}
            await connection.send(json.dumps({"error": error, "id": frame["id"]}))
        elif self.acking:
            names = set(frame["params"])
            mine = self.streams[connection]
            (mine.update if frame["method"] == "SUBSCRIBE" else mine.difference_update)(names)
            await connection.send(json.dumps({"result": None, "id": frame["id"]}))
        return await self._notify()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.cadence_s)
            now_ms = time.time_ns() // 1_000_000
            data = f'{{"e":"24hrMiniTicker","E":{now_ms},"s":"BTCUSDT","c":"1.0"}}'
            self.push(f'{{"stream":"{CADENCE}","data":{data}}}', CADENCE)

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            for connection in list(self.streams):
                with contextlib.suppress(ConnectionClosed):
                    (await connection.ping()).add_done_callback(self._pong)

    def _pong(self, future: asyncio.Future[float]) -> None:
        if not future.cancelled() and future.exception() is None:
            self.pongs += 1

    def push(self, text: str, stream: str, anyway: bool = False) -> None:
        if anyway or not (self.silent or stream == self.muted):
            broadcast([c for c, streams in self.streams.items() if stream in streams], text)

    def trade(self, symbol: str = "SOLUSDT", n: int = 1) -> None:
        for _ in range(n):
            self.last_id += 1
            self.push(aggtrade_text(symbol, self.last_id), f"{symbol.lower()}@aggTrade")

    def cut(self) -> None:
        for connection in list(self.streams):
            connection.transport.abort()


class Recorder:
    """Drains a feed into a list, and lets a test wait for what should come."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.arrivals: list[Arrival] = []
        self.times: list[float] = []
        self.largest_batch = 0
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        async with contextlib.aclosing(self.feed.events()) as batches:
            async for batch in batches:
                self.arrivals += batch
                self.times += [time.monotonic()] * len(batch)
                self.largest_batch = max(self.largest_batch, len(batch))
                self._changed.set()

    def of(self, kind: type[Event]) -> list[tuple[int, Event]]:
        return [(number, event) for number, event in self.arrivals if isinstance(event, kind)]

    def ids(self) -> list[int]:
        return [event.id for _, event in self.arrivals if isinstance(event, Trade)]

    def lost(self) -> list[tuple[int, Lost]]:
        return [(number, event) for number, event in self.arrivals if isinstance(event, Lost)]

    async def until(self, true: Callable[[], bool], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while not true():
                self._changed.clear()
                await self._changed.wait()


@contextlib.asynccontextmanager
async def recording(feed: Feed) -> AsyncIterator[Recorder]:
    """Run a feed for the length of a test; afterwards no task of it may remain."""
    before = asyncio.all_tasks()
    recorder = Recorder(feed)
    try:
        yield recorder
    finally:
        await feed.close()
        await asyncio.wait_for(recorder.task, 10)
    left = {task.get_name() for task in asyncio.all_tasks() - before if "feed" in task.get_name()}
    assert not left
