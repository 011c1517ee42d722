"""A whole system that lives through one fault after another: venue, servers, ingestor, and what is measured of them.

Everything under test is a real process. The world knows how to start, stop and replace each of them, keeps its own
connection to the database (which may be the thing that is killed), samples the ingestor's memory and follows the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from ops.servers_private import PrivateServers
from ops.services import Servers
from tests.faults.evidence import AWAY, CALL_TIMEOUT_S, Evidence, Witness
from tests.faults.log_tail import LogTail
from tests.servers import fresh_database, fresh_vhost
from tests.stage import Process, Stage, open_stage, write_registry

BEGIN_WITHIN_S = 120.0
EXECUTE_WITHIN_S = 120.0
SWITCHES = """
CREATE TABLE fault_switch (slow_s double precision NOT NULL, full_disk boolean NOT NULL);
INSERT INTO fault_switch VALUES (0, false);
GRANT SELECT ON fault_switch TO PUBLIC;
CREATE FUNCTION fault_on_write() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE f fault_switch;
BEGIN
  SELECT * INTO f FROM fault_switch;
  IF f.full_disk THEN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
  END IF;
  IF f.slow_s > 0 THEN PERFORM pg_sleep(f.slow_s); END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER fault BEFORE INSERT ON ingest_cursors FOR EACH STATEMENT EXECUTE FUNCTION fault_on_write();
"""
"""Every flush writes a cursor, so this table is where the database's own troubles are made."""


@dataclass(frozen=True)
class Setup:
    """The market and the ingestor of a world; `settings` are the ingestor's, by field. `metric`: its rows too."""

    symbols: tuple[str, ...] = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
    speed: int = 10
    rate: float = 20.0
    seed: int = 1
    history_minutes: int = 120
    rank_power: float = 0.0
    metric: bool = True
    settings: dict[str, object] = field(default_factory=dict)


class World:
    """One running system. `own` servers can be killed; without them the servers are the run's shared ones."""

    def __init__(self, stage: Stage, setup: Setup, own: PrivateServers | None) -> None:
        self.stage, self.setup, self.own = stage, setup, own
        self.symbols = list(setup.symbols)
        self.ingestor: Process | None = None
        self.metric: Process | None = None
        self.metric_from_s = 0
        self.extra: dict[str, object] = {}
        self.tail = LogTail(stage.rmq_url)
        self.rss_base = 0
        self.witness = Witness(stage.dsn, self.rss)
        self._before = Counter[str]()
        self._asking = asyncio.Lock()
        self.first_s: dict[str, int] = {}
        self.judged_s = 0
        # What any scenario so far may have left to be shown by a later trade, or explained by the ledger.
        self.lossy = self.missing = False
        # What the ledger may say: ids that the venue was told to lose, and since when and until when (venue seconds)
        # nobody wanted a symbol.
        self.lost: dict[str, list[tuple[int, int]]] = {}
        self.idle: dict[str, list[tuple[int, int | None]]] = {}
        self._count = 0
        self._epoch_ms = (int(time.time()) // 60 - setup.history_minutes) * 60_000
        self._tasks: list[asyncio.Task[None]] = []

    # ---- life

    async def begin(self) -> None:
        """Start everything and wait until all symbols are stored without a hole."""
        await self.start_venue()
        await self.stage.con.execute(SWITCHES)
        await write_registry(self.stage, dict.fromkeys(self.symbols, "ACTIVE"))
        await self.execute("UPDATE coin_registry SET okx_inst_id = symbol || '-USDT'")
        self._tasks = [asyncio.create_task(self.witness.run()), asyncio.create_task(self.tail.run())]
        await self.start_ingestor()
        begun_s = await self.venue_s()
        if self.setup.metric:
            await self.start_metric()
        await self.reach(lambda: self.is_whole(begun_s + 2 * self.setup.speed), BEGIN_WITHIN_S, "the first start")
        for row in await self.fetch(
            "SELECT symbol, min(extract(epoch FROM time))::bigint AS s FROM raw_bars GROUP BY 1"
        ):
            self.first_s[row["symbol"]] = row["s"] + self.stage.history_s
        self.judged_s = min(self.first_s.values()) - self.stage.history_s
        if self.setup.metric:
            await self.reach(self.has_metrics, BEGIN_WITHIN_S, "the metric ingestor's first rows")
        self.rss_base = self.rss()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def start_venue(self, ahead_s: int | None = None) -> None:
        """Start the venue; with `ahead_s` again on its port, with the same market, that much later."""
        setup = self.setup
        flags = [
            "--symbols", ",".join(setup.symbols), "--rate", setup.rate, "--speed", setup.speed, "--seed", setup.seed,
            "--epoch-ms", self._epoch_ms, "--history", setup.history_minutes, "--okx",
            "--rank-power", setup.rank_power,
        ]  # fmt: skip
        if ahead_s is not None:
            now_ms = (await self.stage.oracle("status"))["venue_ms"]
            assert self.stage.venue is not None
            await self.stage.venue.kill()
            (self.stage.folder / "venue.ready").unlink()
            flags += ["--port", self.stage.port, "--start", now_ms + 1000 * ahead_s]
        await self.stage.start_venue(*map(str, flags))

    async def start_ingestor(self, **extra: object) -> Process:
        """Start an ingestor with the world's settings and these."""
        self._count += 1
        address = f"127.0.0.1:{self.stage.port}"
        okx = {"fallback": "okx", "okx_ws_url": f"ws://{address}/ws/v5/public", "okx_rest_url": f"http://{address}"}
        settings = {"clock_rate": self.setup.speed, **okx, **self.setup.settings, **self.extra, **extra}
        self.ingestor = await self.stage.start_ingestor(f"ingestor-{self._count}", **settings)
        return self.ingestor

    async def start_metric(self) -> None:
        """Start the metric ingestor beside it."""
        self._count += 1
        settings = {"clock_rate": self.setup.speed, "fallback": "okx"}
        self.metric = await self.stage.start_metric(f"metric-{self._count}", **settings)

    async def has_metrics(self) -> bool:
        """Does every symbol have a row? Notes from where on there are all."""
        rows = await self.fetch("SELECT symbol, max(extract(epoch FROM time))::bigint AS s FROM metric_15s GROUP BY 1")
        self.metric_from_s = max((row["s"] for row in rows), default=0)
        return {row["symbol"] for row in rows} == set(self.symbols)

    async def replace_ingestor(self, *, kill: bool, down_s: float = 0.0, **extra: object) -> None:
        """End the ingestor and, after a while, start another with these settings beside its usual ones."""
        ingestor = self.living()
        if kill:
            await ingestor.kill()
        else:
            code = await ingestor.stop()
            assert code == 0, f"the ingestor ended with {code}\n{ingestor.tail()}"
        await asyncio.sleep(down_s)
        self.extra = extra
        await self.start_ingestor()

    async def restore(self) -> None:
        """Leave nothing of a scenario behind: settings, faults, registry."""
        await self.stage.fault("clear")
        await self.stage.fault("rest_behind", by_ms=0)
        if self.extra:
            await self.replace_ingestor(kill=False)
            await self.reach(self.serves, BEGIN_WITHIN_S, "the ingestor serves")

    def living(self) -> Process:
        """The ingestor; neither it nor who watches it may have ended by themselves."""
        ingestor = self.ingestor
        assert ingestor is not None
        for task in self._tasks:
            assert not task.done(), f"{task.get_name()} has ended: {task!r}"
        for one in filter(None, (ingestor, self.metric)):
            assert one.process is not None
            if not one.alive():
                raise AssertionError(f"{one.name} ended with {one.process.returncode}\n{one.tail()}")
        return ingestor

    def signal(self, number: signal.Signals) -> None:
        process = self.living().process
        assert process is not None
        process.send_signal(number)

    # ---- asking

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Ask the database, on a connection that comes back; raises one of AWAY."""
        async with self._asking:
            if self.stage.con.is_closed():
                self.stage.con = await asyncpg.connect(self.stage.dsn, timeout=CALL_TIMEOUT_S)
            try:
                return await self.stage.con.fetch(sql, *args, timeout=CALL_TIMEOUT_S)
            except AWAY:
                self.stage.con.terminate()
                raise

    async def execute(self, sql: str) -> None:
        """Change something, as soon as the database is there."""
        async with asyncio.timeout(EXECUTE_WITHIN_S):
            while True:
                with contextlib.suppress(*AWAY):
                    await self.fetch(sql)
                    return
                await asyncio.sleep(0.2)

    async def venue_s(self) -> int:
        return await self.stage.venue_s()

    async def status_of(self, process: Process, path: str) -> tuple[int, Any]:
        """Status and body of a page of the ingestor; 0 while it does not answer."""
        port_file = self.stage.folder / f"{process.name}.port"
        if not port_file.exists():
            return 0, None
        try:
            answer = await self.stage.http.get(f"http://127.0.0.1:{int(port_file.read_text() or 0)}/{path}", timeout=2)
        except Exception:  # noqa: BLE001 - a process that is being killed answers in many ways
            return 0, None
        return answer.status_code, answer.json() if "json" in answer.headers.get("content-type", "") else answer.text

    async def serves(self) -> bool:
        """Does the ingestor say of itself that it is ready?"""
        return (await self.status_of(self.living(), "readyz"))[0] == 200

    async def stored_to(self, second: int) -> bool:
        """Has every symbol a cursor at or after this venue second?"""
        rows = await self.fetch("SELECT symbol, extract(epoch FROM event_time)::bigint AS s FROM ingest_cursors")
        cursors = {r["symbol"]: r["s"] for r in rows}
        return all(cursors.get(symbol, 0) >= second for symbol in self.symbols)

    async def is_whole(self, second: int) -> bool:
        """Is everything stored up to this second, no gap open, nothing waiting for the bus?"""
        # A venue whose clock was ahead has closed seconds that are still going on.
        if await self.venue_s() <= second or not await self.stored_to(second):
            return False
        rows = await self.fetch(
            "SELECT EXISTS (SELECT FROM feed_gaps WHERE status = 'open') OR EXISTS (SELECT FROM bus_outbox) AS more"
        )
        return not rows[0]["more"]

    async def reach(self, ready: Callable[[], Awaitable[bool]], within_s: float, what: str) -> float:
        """Seconds until something is so, looked at ten times a second while servers come and go."""
        begun = time.monotonic()
        while True:
            self.living()
            with contextlib.suppress(*AWAY):
                if await ready():
                    return time.monotonic() - begun
            if time.monotonic() - begun > within_s:
                raise AssertionError(f"not within {within_s:g} s: {what}; {await self.describe()}")
            await asyncio.sleep(0.1)

    async def describe(self) -> str:
        """Where things stand, for a failure's message."""
        lines: list[str] = []
        try:
            venue_s = await self.venue_s()
            for row in await self.fetch(
                "SELECT symbol, extract(epoch FROM event_time)::bigint AS s FROM ingest_cursors"
            ):
                lines.append(f"{row['symbol']} cursor {row['s'] - venue_s:+d} s")
            for row in await self.fetch(
                "SELECT symbol, reason, from_id, to_id, tries, missing::text FROM feed_gaps WHERE status = 'open'"
            ):
                lines.append(f"open gap {tuple(row)}")
            lines.append(f"outbox {(await self.fetch('SELECT count(*) FROM bus_outbox'))[0][0]}")
        except AWAY as error:
            lines.append(f"database: {error!r}")
        log = self.ingestor.tail(12) if self.ingestor else ""
        return "; ".join(lines) + "\n" + log

    # ---- evidence

    @property
    def seen(self) -> Evidence:
        return self.witness.seen

    async def note(self) -> None:
        """Begin to collect evidence anew."""
        self._before = await self._counts()
        self.witness.begin((await self.fetch("SELECT now() AS t"))[0]["t"])

    async def conclude(self) -> None:
        """Complete the evidence with what only counters tell."""
        for name, count in (await self._counts()).items():
            setattr(self.seen, name, count - self._before[name])

    async def _counts(self) -> Counter[str]:
        _, text = await self.status_of(self.living(), "metrics")
        bad = sum(float(n) for n in re.findall(r"^trading_bus_feed_bad_frames_total\{.*\} (\S+)$", text or "", re.M))
        venue = await self.stage.oracle("status")
        done = Counter[str](venue["faults_done"])
        return Counter(
            sockets=venue["connections_accepted"], bad=round(bad), repeated=done["duplicate"], swapped=done["reorder"]
        )

    def rss(self) -> int:
        """Resident bytes of the ingestor now, 0 when there is none."""
        process = self.ingestor.process if self.ingestor else None
        try:
            return psutil.Process(process.pid).memory_info().rss if process else 0
        except psutil.NoSuchProcess:
            return 0


@asynccontextmanager
async def open_world(
    folder: Path, setup: Setup, servers: Servers | None = None, own: PrivateServers | None = None
) -> AsyncIterator[World]:
    """A running world on the run's servers, or on servers of its own that may be killed."""
    given = own if own is not None else servers
    assert given is not None
    assert given.management_url is not None
    async with fresh_database(given.ts_dsn) as dsn:
        with fresh_vhost(given.rmq_url, given.management_url) as url:
            async with open_stage(folder, dsn, url) as stage:
                world = World(stage, setup, own)
                try:
                    await world.begin()
                    yield world
                finally:
                    await world.end()
