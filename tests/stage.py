"""A stage for whole-system tests: the sandbox and the ingestor as real processes, and the judge that compares tables.

The judge knows the sandbox's recount and the database; it shares no code with the ingestor's pure core.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import httpx

from common.bus import read_log
from tests.servers import service_address

BAR_COLUMNS = ("o", "h", "l", "c", "v", "n", "quote_vol", "buy_vol", "buy_quote_vol")
FOOTPRINT_COLUMNS = ("open", "high", "low", "close", "buy_vol", "sell_vol", "buy_quote", "sell_quote", "n")


class Process:
    """One child process with its log in a file; it dies with the test."""

    def __init__(self, folder: Path, name: str, command: list[str], env: dict[str, str]) -> None:
        self.name, self.command, self.env = name, command, {**os.environ, **env}
        self.log = folder / f"{name}.log"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *self.command, env=self.env, stdout=log, stderr=log
            )

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def stop(self, within_s: float = 12.0) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), within_s)

    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Stage:
    """Addresses, processes and questions of one scenario."""

    def __init__(self, folder: Path, dsn: str, rmq_url: str, con: asyncpg.Connection, http: httpx.AsyncClient) -> None:
        self.folder, self.dsn, self.rmq_url, self.con, self.http = folder, dsn, rmq_url, con, http
        self.venue: Process | None = None
        self.port = 0
        self.history_s = 6_000
        self._closing = AsyncExitStack()
        self.ingestors: list[Process] = []

    async def close(self) -> None:
        await self._closing.aclose()

    @staticmethod
    def decimal(value: object) -> Decimal:
        return Decimal(str(value))

    # ---- processes

    async def start_venue(self, *flags: str) -> None:
        ready = self.folder / "venue.ready"
        self.venue = Process(self.folder, "venue", ["-m", "sandbox", "--ready-file", str(ready), *flags], {})
        await self.venue.start()
        await self.until(ready.exists, 20, "the sandbox listens")
        self.port = json.loads(ready.read_text())["port"]

    async def start_ingestor(self, name: str = "ingestor", **env: object) -> Process:
        port_file = self.folder / f"{name}.port"
        variables = {
            "TS_DSN": service_address(self.dsn), "RMQ_URL": service_address(self.rmq_url),
            "HTTP_PORT_FILE": str(port_file),
            "AGG_WS_URL": f"ws://127.0.0.1:{self.port}/stream", "BINANCE_REST_URL": f"http://127.0.0.1:{self.port}",
            "BUS_LOG_MAX_BYTES": "100000000", "FALLBACK": "none",
        }  # fmt: skip
        variables |= {key.upper(): str(value) for key, value in env.items()}
        process = Process(self.folder, name, ["-m", "ohlcv_ingestor"], variables)
        await process.start()
        self.ingestors.append(process)
        return process

    async def start_metric(self, name: str = "metric", **env: object) -> Process:
        """The metric ingestor beside it; settings by field."""
        address = f"http://127.0.0.1:{self.port}"
        variables = {
            "TS_DSN": service_address(self.dsn), "RMQ_URL": service_address(self.rmq_url),
            "HTTP_PORT_FILE": str(self.folder / f"{name}.port"), "BINANCE_FUTURES_REST_URL": address,
            "OKX_REST_URL": address, "BUS_LOG_MAX_BYTES": "100000000", "FALLBACK": "none",
        }  # fmt: skip
        variables |= {key.upper(): str(value) for key, value in env.items()}
        process = Process(self.folder, name, ["-m", "metric_ingestor"], variables)
        await process.start()
        self.ingestors.append(process)
        return process

    # ---- venue

    async def fault(self, kind: str, **fields: object) -> None:
        answer = await self.http.post(f"http://127.0.0.1:{self.port}/_fault", json={"kind": kind, **fields})
        answer.raise_for_status()

    async def oracle(self, what: str, **query: object) -> Any:
        answer = await self.http.get(f"http://127.0.0.1:{self.port}/_oracle/{what}", params=query)
        answer.raise_for_status()
        return answer.json()

    async def venue_s(self) -> int:
        return int((await self.oracle("status"))["venue_ms"]) // 1000

    # ---- waiting

    async def until(self, ready: Callable[[], Any], within_s: float, what: str, every_s: float = 0.1) -> None:
        deadline = time.monotonic() + within_s
        while True:
            answer = ready()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            if time.monotonic() > deadline:
                logs = "\n".join(
                    f"--- {p.name}\n{p.tail()}" for p in [*self.ingestors, *([self.venue] if self.venue else [])]
                )
                raise AssertionError(f"not within {within_s} s: {what}\n{logs}")
            await asyncio.sleep(every_s)

    async def cursors(self) -> dict[str, int]:
        rows = await self.con.fetch("SELECT symbol, extract(epoch FROM event_time)::bigint AS s FROM ingest_cursors")
        return {r["symbol"]: r["s"] for r in rows}

    async def count(self, sql: str, *args: object) -> int:
        return await self.con.fetchval(f"SELECT count(*) FROM {sql}", *args)

    async def collect(self, pattern: str) -> list[dict[str, Any]]:
        """Bodies of the messages under a key pattern, growing as they come."""
        connection = await aio_pika.connect(self.rmq_url)
        self._closing.push_async_callback(connection.close)
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind("trading.bus", pattern)
        bodies: list[dict[str, Any]] = []

        async def keep(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            bodies.append(json.loads(message.body, parse_float=Decimal))

        await queue.consume(keep, no_ack=True)
        return bodies

    async def stored_to(self, symbols: list[str], second: int) -> bool:
        cursors = await self.cursors()
        return all(cursors.get(symbol, 0) >= second for symbol in symbols)

    async def settle(self, symbols: list[str], second: int, within_s: float = 40.0) -> None:
        """Wait until every symbol is stored up to a venue second, no gap is open and the outbox is empty."""

        async def ready() -> bool:
            return (
                await self.stored_to(symbols, second)
                and await self.count("feed_gaps WHERE status = 'open'") == 0
                and await self.count("bus_outbox") == 0
            )

        await self.until(ready, within_s, f"stored to {second}, no gap open, outbox empty")

    # ---- the judge

    async def judge(self, symbols: list[str], to_s: int, missing_ok: bool = False) -> dict[str, int]:
        """Compare every table with the recount, up to a venue second; returns what was compared."""
        counts = {"bars": 0, "footprints": 0, "incomplete": 0}
        for symbol in symbols:
            gaps = await self.con.fetch(
                "SELECT from_time, to_time FROM feed_gaps WHERE symbol = $1 AND status IN ('open', 'source_missing')",
                symbol,
            )
            spans = [
                (g["from_time"].timestamp(), None if g["to_time"] is None else g["to_time"].timestamp()) for g in gaps
            ]
            await self._judge_table("footprint_1s", FOOTPRINT_COLUMNS, 1, symbol, to_s, spans, counts, missing_ok)
            await self._judge_table("raw_bars", BAR_COLUMNS, 60, symbol, to_s - 59, spans, counts, missing_ok)
        return counts

    async def _judge_table(
        self, table: str, columns: tuple[str, ...], width: int, symbol: str, to_s: int,
        spans: list[tuple[float, float | None]], counts: dict[str, int], missing_ok: bool,
    ) -> None:  # fmt: skip
        rows = await self.con.fetch(
            f"SELECT *, extract(epoch FROM time)::bigint AS s FROM {table}"
            " WHERE symbol = $1 AND time < to_timestamp($2) ORDER BY time",
            symbol, to_s,
        )  # fmt: skip
        first_bar_s = await self.con.fetchval(
            "SELECT extract(epoch FROM min(time))::bigint FROM raw_bars WHERE symbol = $1", symbol
        )
        assert first_bar_s is not None, f"raw_bars holds nothing of {symbol}"
        # A first subscription begins with the seconds of its minute, after `history_s` of bars.
        from_s = first_bar_s if width == 60 else first_bar_s + self.history_s
        what = "bars" if width == 60 else "footprints"
        truth = {r["time"]: r for r in await self.oracle(what, symbol=symbol, from_s=from_s, to_s=to_s)}
        stored = {r["s"]: r for r in rows}
        touched = {
            s for s in truth.keys() | stored.keys() if any(a < s + width and (b is None or b >= s) for a, b in spans)
        }
        absent = [s for s in sorted(truth.keys() - stored.keys()) if not (missing_ok and s in touched)]
        assert not absent, f"{table} {symbol}: {len(absent)} rows are missing, first {absent[:5]}"
        extra = sorted(stored.keys() - truth.keys())
        assert not extra, f"{table} {symbol}: {len(extra)} rows are not the venue's, first {extra[:5]}"
        for s, row in stored.items():
            counts[what] += 1
            assert row["complete"] is (s not in touched), f"{table} {symbol} {s}: complete is {row['complete']}"
            if not row["complete"]:
                counts["incomplete"] += 1
                if missing_ok:
                    continue
            for column in columns:
                assert Decimal(str(row[column])) == Decimal(str(truth[s][column])), (
                    f"{table} {symbol} {s} {column}: {row[column]} is not {truth[s][column]}"
                )

    async def judge_log(self, to_s: int) -> int:
        """Stop the ingestors; then every row's current rev was delivered, and no message has a later one.

        Returns the messages read.
        """
        for process in self.ingestors:
            if process.alive():
                assert await process.stop() == 0, process.tail()
        assert await self.count("bus_outbox") == 0
        newest: dict[str, int] = {}
        seen: set[str] = set()
        bodies: dict[str, bytes] = {}
        read = 0
        async for message in read_log(self.rmq_url, idle_s=1.5):
            if not message.key.startswith("price_updates."):
                continue
            read += 1
            key, _, rev = message.message_id.rpartition("#")
            newest[key] = max(newest.get(key, 0), int(rev))
            seen.add(message.message_id)
            bodies[message.message_id] = message.body
        for table, kind in (("raw_bars", "1m"), ("footprint_1s", "1s")):
            for r in await self.con.fetch(
                "SELECT *, to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS t"
                f" FROM {table} WHERE time < to_timestamp($1)",
                to_s,
            ):
                key = f"price_updates.{r['symbol']}.{kind}@{r['t']}"
                ident = f"{key}#{r['rev']}"
                assert ident in seen, f"{ident} was never delivered (newest {newest.get(key)})"
                assert newest[key] == r["rev"], f"{key}: a message has rev {newest[key]}, the row {r['rev']}"
                body = json.loads(bodies[ident], parse_float=Decimal)
                assert body["complete"] is r["complete"], ident
                for column in (
                    ("o", "h", "l", "c", "v") if kind == "1m" else ("open", "high", "low", "close", "buy_vol")
                ):
                    assert Decimal(body[column]) == r[column], f"{ident} {column}"
        return read


@asynccontextmanager
async def open_stage(folder: Path, dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    con = await asyncpg.connect(dsn)
    async with httpx.AsyncClient(timeout=20) as http:
        stage = Stage(folder, dsn, rmq_url, con, http)
        try:
            yield stage
        finally:
            for process in [*stage.ingestors, *([stage.venue] if stage.venue else [])]:
                await process.kill()
            await stage.close()
            await con.close()


async def write_registry(stage: Stage, statuses: dict[str, str]) -> None:
    """Rows of coin_registry as the registry would write them (pair -> status)."""
    for pair, status in statuses.items():
        await stage.con.execute(
            "INSERT INTO coin_registry (symbol, pair, status) VALUES ($1, $2, $3)"
            " ON CONFLICT (symbol) DO UPDATE SET status = excluded.status, updated_at = now()",
            pair.removesuffix("USDT"), pair, status,
        )  # fmt: skip


async def publish_symbol_events(stage: Stage, pairs: list[str]) -> None:
    """Say on the bus that these rows changed, as the registry would."""
    connection = await aio_pika.connect(stage.rmq_url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("trading.bus")
        for pair in pairs:
            row = await stage.con.fetchrow("SELECT * FROM coin_registry WHERE pair = $1", pair)
            body = {
                "symbol": row["symbol"],
                "status": row["status"],
                "cluster": None,
                "health": None,
                "pair": pair,
                "reason": None,
            }
            await exchange.publish(aio_pika.Message(json.dumps(body).encode()), "symbol_events.updated")
