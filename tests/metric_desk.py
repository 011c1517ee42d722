"""What tests of metric rows stand on: a store that writes seconds, and a recorder that judges them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import asyncpg

from common.batch import Batch
from common.clock import Clock
from common.contracts import FootprintRow, GapStatus, MetricRow
from common.store import Store
from metric_ingestor.dirty import Dirty
from metric_ingestor.ingestor import MetricIngestor
from metric_ingestor.recorder import Recorder
from metric_ingestor.samples import Samples
from metric_ingestor.settings import MetricSettings
from metric_ingestor.venue_time import VenueTime
from tests.rows import T0, make_bar, make_cursor, make_gap
from tests.servers import fresh_database, share_servers

SOL = "SOLUSDT"
END = T0 + 15
"""The first window of the minute T0."""
WRITTEN = ("metric_15s", "footprint_1s", "raw_bars", "feed_gaps", "ingest_cursors", "bus_outbox", "funding_settled")

Ground = tuple[Store, asyncpg.Connection]


@dataclass
class Desk:
    """A store that writes seconds, a recorder that judges them, and a connection that looks."""

    store: Store
    recorder: Recorder
    dirty: Dirty
    con: asyncpg.Connection
    announced: list[int] = field(default_factory=list)

    async def put(
        self, *seconds: FootprintRow, cursor_s: int = END, gap: GapStatus | None = None, bar_n: int = 0
    ) -> None:
        batch = Batch()
        for row in seconds:
            batch.put_footprint(row)
        batch.put_cursor(make_cursor(100, cursor_s))
        if gap is not None:
            batch.put_gap(make_gap(status=gap))
        if bar_n:
            batch.put_bar(make_bar(n=bar_n))
        await self.store.commit(batch)

    async def write(self, row: MetricRow) -> asyncpg.Record:
        """A due window."""
        self.recorder.hand_in(row.time, [row])
        await self.recorder.step()
        return await self.row(row.time)

    async def again(self, *ends: int) -> None:
        for end in ends:
            self.dirty.mark(SOL, end, end)
        await self.recorder.step()

    async def row(self, end: int = END) -> asyncpg.Record:
        return await self.con.fetchrow("SELECT * FROM metric_15s WHERE time = to_timestamp($1)", end)

    async def messages(self) -> list[str]:
        """Ids of metric messages in the outbox, in order."""
        rows = await self.con.fetch("SELECT ids FROM bus_outbox ORDER BY id")
        return [ident for row in rows for ident in row["ids"] if ident.startswith("metric")]


@asynccontextmanager
async def open_ground() -> AsyncGenerator[Ground]:
    """A fresh database, a store that may write to it, and a connection that looks."""
    async with fresh_database(share_servers().ts_dsn) as dsn:
        store, con = Store(dsn, "ohlcv/0/1"), await asyncpg.connect(dsn)
        try:
            assert await store.acquire()
            yield store, con
        finally:
            await store.close()
            await con.close()


async def clear_desk(ground: Ground) -> Desk:
    """A desk over empty tables."""
    store, con = ground
    for table in WRITTEN:
        await con.execute(f"DELETE FROM {table}")
    dirty = Dirty()
    recorder = Recorder(store.database, Clock(), dirty, lambda symbol: "", lambda: None, (0.1, 500, 3))
    return Desk(store, recorder, dirty, con)


def ingestor_of(desk: Desk, clock: Clock, time: VenueTime) -> MetricIngestor:
    """What knows symbols and marks, without processes: no vendor is asked here."""
    settings = MetricSettings(ts_dsn=share_servers().ts_dsn, rmq_url=share_servers().rmq_url)
    vendors: Any = SimpleNamespace(time=time, samples=Samples(), now_ms=lambda: time.now_ms(clock.monotonic_s()))
    sampler: Any = SimpleNamespace()
    ingestor = MetricIngestor(settings, clock, desk.store.database, desk.dirty, vendors, sampler)
    ingestor.recorder = desk.recorder
    return ingestor
