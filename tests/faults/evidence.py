"""What was seen of a scenario while it played: proof that its fault was felt at all, and what it cost."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

AWAY = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.CannotConnectNowError, OSError, TimeoutError)
"""What a server that comes and goes does to a caller."""
CALL_TIMEOUT_S = 5.0
SAMPLE_EVERY_S = 0.25

SAMPLE = """
SELECT (SELECT coalesce(sum(cardinality(keys)), 0) FROM bus_outbox) AS outbox,
       (SELECT max(event_time) FROM ingest_cursors) AS cursor,
       (SELECT extract(epoch FROM max(event_time) - (SELECT max(time) FROM footprint_1s WHERE symbol = 'BTCUSDT'))::int
          FROM ingest_cursors WHERE symbol = 'BTCUSDT') AS quiet_s,
       (SELECT count(*) FROM feed_gaps WHERE updated_at >= $1) AS gaps,
       (SELECT count(*) FROM raw_bars WHERE updated_at >= $1 AND source <> 'binance') AS okx,
       (SELECT count(*) FROM footprint_1s WHERE updated_at >= $1 AND rev > 1) AS revised
"""


@dataclass
class Evidence:
    """What was seen so far.

    `outbox`: messages that waited at once; `gaps`: ledger rows written; `okx`: minutes that the fallback venue gave;
    `revised`: seconds written more than once; `stall_s`: the longest time without a newer cursor; `quiet_s`: the
    longest time (the venue's) without a trade of BTCUSDT, which is always busy; `sockets`: connections the venue
    accepted; `bad`: frames the ingestor could not read (as far as it was not replaced); `repeated`, `swapped`: trades
    that the venue pushed twice, and out of order.
    """

    began: dt.datetime = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    moved: float | None = None
    rss_max: int = 0
    outbox: int = 0
    gaps: int = 0
    okx: int = 0
    revised: int = 0
    stall_s: float = 0.0
    quiet_s: int = 0
    sockets: int = 0
    bad: int = 0
    repeated: int = 0
    swapped: int = 0
    cursor: dt.datetime | None = None

    def add(self, sample: asyncpg.Record, now: float) -> None:
        self.outbox, self.gaps = max(self.outbox, sample["outbox"]), max(self.gaps, sample["gaps"])
        self.okx, self.revised = max(self.okx, sample["okx"]), max(self.revised, sample["revised"])
        self.quiet_s = max(self.quiet_s, sample["quiet_s"] or 0)
        if self.moved is not None:
            self.stall_s = max(self.stall_s, now - self.moved)
        if self.moved is None or sample["cursor"] != self.cursor:
            self.cursor, self.moved = sample["cursor"], now


class Witness:
    """Looks at the database several times a second, on a connection of its own; `rss` gives the ingestor's bytes."""

    def __init__(self, dsn: str, rss: Callable[[], int]) -> None:
        self.seen = Evidence()
        self._dsn, self._rss = dsn, rss

    def begin(self, at: dt.datetime) -> None:
        """Forget what was seen before; `at` is the database's own time."""
        self.seen = Evidence(at, time.monotonic(), self._rss())

    async def run(self) -> None:
        con: asyncpg.Connection | None = None
        while True:
            self.seen.rss_max = max(self.seen.rss_max, self._rss())
            try:
                if con is None or con.is_closed():
                    con = await asyncpg.connect(self._dsn, timeout=CALL_TIMEOUT_S)
                sample = await con.fetchrow(SAMPLE, self.seen.began, timeout=CALL_TIMEOUT_S)
                self.seen.add(sample, time.monotonic())
            except AWAY:
                if con is not None:
                    con.terminate()
            await asyncio.sleep(SAMPLE_EVERY_S)
