"""Ground for whole-process questions: servers, a database and a vhost of one's own, the sandbox, the ingestor."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx

from benchmarks.bench import Child, Stage, open_stage, symbol_names
from ops.demo_ground import running_servers
from tests.servers import fresh_database, fresh_vhost

TICK_MS = 1
"""How often the sandbox pushes: frames come one by one, as they do from a venue, not in bursts."""
WEIGHT = 1_000_000


@dataclass
class Ground:
    """Where everything answers."""

    stage: Stage
    dsn: str
    rmq_url: str
    con: asyncpg.Connection
    http: httpx.AsyncClient
    symbols: tuple[str, ...]
    venue_port: int = 0
    ingestor_port: int = 0

    async def start_venue(self, rate: float, *more: object) -> Child:
        """A seeded market of all symbols, activity by power law, with a little history."""
        ready = self.stage.folder / "venue.json"
        flags: dict[str, object] = {
            "--ready-file": ready, "--symbols": ",".join(self.symbols), "--rate": rate, "--history-rate": 20,
            "--rank-power": 1, "--quiet-every": 0, "--history": 2, "--tick-ms": TICK_MS, "--weight-limit": WEIGHT,
        }  # fmt: skip
        words = [word for pair in flags.items() for word in pair]
        venue = await self.stage.start("venue", ["sandbox", *words, *more])
        self.venue_port = (await self.stage.told(venue, ready))["port"]
        return venue

    async def start_ingestor(self, wait: bool = True) -> Child:
        """The service as it is, on these servers; with `wait` it answers HTTP when this returns."""
        ready = self.stage.folder / "ingestor.port"
        ingestor = await self.stage.start(
            "ingestor", ["ohlcv_ingestor"],
            {
                "TS_DSN": self.dsn, "RMQ_URL": self.rmq_url, "HTTP_PORT_FILE": ready, "FALLBACK": "none",
                "SYMBOLS": ",".join(self.symbols), "BUS_LOG_MAX_BYTES": 100_000_000,
                "AGG_WS_URL": f"ws://127.0.0.1:{self.venue_port}/stream", "REPAIRS_AT_ONCE": 16,
                "BINANCE_REST_URL": f"http://127.0.0.1:{self.venue_port}", "REST_WEIGHT_PER_MIN": WEIGHT,
            },
        )  # fmt: skip
        if wait:
            self.ingestor_port = await self.stage.told(ingestor, ready)
        return ingestor

    async def venue_status(self) -> Any:
        """What the sandbox sent so far."""
        return (await self.http.get(f"http://127.0.0.1:{self.venue_port}/_oracle/status")).raise_for_status().json()

    async def fault(self, kind: str, **fields: object) -> None:
        """Have the sandbox misbehave."""
        url = f"http://127.0.0.1:{self.venue_port}/_fault"
        (await self.http.post(url, json={"kind": kind, **fields})).raise_for_status()

    async def metrics(self) -> dict[str, float]:
        """The ingestor's metrics by name, summed over labels."""
        page = (await self.http.get(f"http://127.0.0.1:{self.ingestor_port}/metrics")).raise_for_status().text
        found: dict[str, float] = {}
        for line in page.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found

    async def count(self, sql: str) -> int:
        """One number from the database."""
        return await self.con.fetchval(f"SELECT count(*) FROM {sql}")


@asynccontextmanager
async def open_ground(symbols: int) -> AsyncGenerator[Ground]:
    """Running servers (those given by TS_DSN and RMQ_URL, else the clone's own) with an empty place on them."""
    async with AsyncExitStack() as stack:
        servers = stack.enter_context(running_servers(print))
        dsn = await stack.enter_async_context(fresh_database(servers.ts_dsn))
        url = servers.rmq_url
        if servers.management_url is not None:
            url = stack.enter_context(fresh_vhost(url, servers.management_url))
        con = await asyncpg.connect(dsn)
        stack.push_async_callback(con.close)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=60, trust_env=False))
        stage = await stack.enter_async_context(open_stage())
        yield Ground(stage, dsn, url, con, http, symbol_names(symbols))


def deadline_in(seconds: float) -> float:
    """A moment on the monotonic clock."""
    return time.monotonic() + seconds
