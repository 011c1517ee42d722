"""What the registry's tests stand on: loopback vendors, nights that can be played, and a consumer of its events."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg

from common.bus import Bus
from common.topology import TopologyLimits
from registry import run as nightly
from registry.samples import take_samples
from registry.settings import RegistrySettings
from sandbox.config import Config
from sandbox.venue import Sandbox
from tests.servers import service_address

START = dt.datetime(2026, 9, 21, 2, 0, tzinfo=dt.UTC)
# Venue time all but stands, so that the same night can be played twice.
CONFIG = Config(
    symbols=("BTCUSDT", "ETHUSDT"), listing=16, okx=True, history_minutes=1, speed=0.001,
    start=int(START.timestamp() * 1000), coingecko_calls_per_min=100_000,
)  # fmt: skip
SMALL_BROKER = 20_000_000


class World:
    """Vendors, tables, and what came over the bus: `heard` has message id and body of each event, in order."""

    def __init__(
        self, venue: Sandbox, con: asyncpg.Connection, dsn: str, rmq_url: str, folder: Path,
        heard: list[tuple[str, dict[str, Any]]],
    ) -> None:  # fmt: skip
        self.venue, self.con, self.heard, self.folder = venue, con, heard, folder
        self.dsn, self.rmq_url = service_address(dsn), service_address(rmq_url)
        self.night = self.minute = 0
        self.lists: dict[str, dict[str, str]] = {"banlist_path": {}, "whitelist_path": {}}

    def settings(self, **changes: object) -> RegistrySettings:
        for name, entries in self.lists.items():
            path = self.folder / f"{name}.yml"
            path.write_text("".join(f'"{symbol}": {reason}\n' for symbol, reason in entries.items()))
            changes.setdefault(name, path)
        values: dict[str, Any] = {**vendor_settings(self.venue.rest_url), "ts_dsn": self.dsn, "rmq_url": self.rmq_url}
        return RegistrySettings(**{**values, "bus_log_max_bytes": SMALL_BROKER, **changes})

    @property
    def now(self) -> dt.datetime:
        return START + dt.timedelta(days=self.night, minutes=self.minute)

    def go_to(self, night: int) -> None:
        self.night, self.minute = night, 0
        self.venue.fault("night", to_ms=night * 86_400_000)

    async def run(self, night: int | None = None, **changes: object) -> nightly.Report:
        force = bool(changes.pop("force", False))
        if night is not None:
            self.go_to(night)
        return await nightly.run(self.settings(**changes), force=force, now=self.now)

    async def sample_day(self, every_h: int = 2) -> None:
        """A day's samples before this night."""
        settings = self.settings()
        limits = nightly.load_rules_of(settings).thresholds.universe
        for hours in range(0, 24, every_h):
            await take_samples(settings, limits, self.now - dt.timedelta(hours=hours, minutes=1))

    async def rows(self) -> dict[str, dict[str, Any]]:
        return {row["symbol"]: dict(row) for row in await self.con.fetch("SELECT * FROM coin_registry")}

    async def row(self, symbol: str) -> dict[str, Any]:
        return (await self.rows())[symbol]

    async def hear(self, count: int) -> dict[str, tuple[str, dict[str, Any]]]:
        """Wait for so many new events; answers message id and body by symbol, and forgets them."""
        async with asyncio.timeout(5):
            while len(self.heard) < count:
                await asyncio.sleep(0.01)
        assert len(self.heard) == count
        told = {body["symbol"]: (ident, body) for ident, body in self.heard}
        self.heard.clear()
        return told


def vendor_settings(url: str) -> dict[str, str]:
    return dict.fromkeys(("binance_rest_url", "binance_futures_rest_url", "okx_rest_url", "coingecko_url"), url)


@asynccontextmanager
async def open_world(folder: Path, dsn: str, rmq_url: str, config: Config = CONFIG) -> AsyncIterator[World]:
    bus = Bus(rmq_url, "test", topology=TopologyLimits(log_bytes_max=SMALL_BROKER, log_segment_bytes=SMALL_BROKER // 4))
    await bus.declare()
    await bus.close()
    heard: list[tuple[str, dict[str, Any]]] = []
    connection = await aio_pika.connect(rmq_url)
    con = await asyncpg.connect(dsn)
    async with Sandbox(config) as venue, connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind("trading.bus", "symbol_events.#")

        async def keep(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            heard.append((message.message_id or "", json.loads(message.body)))

        await queue.consume(keep, no_ack=True)
        try:
            yield World(venue, con, dsn, rmq_url, folder, heard)
        finally:
            await con.close()
