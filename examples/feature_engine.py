"""A worked consumer of trading.bus: bars and footprints in, features out, nothing counted twice.

Needs aio-pika and asyncpg, and nothing of this project: copy it and change `features`.

    RMQ_URL=amqp://user:password@host/ TS_DSN=postgresql://user:password@host/trading python examples/feature_engine.py

The rules it follows (docs/CONSUMING.md):
1. Bind first, load the tables, then follow; after a lost connection all three again. The tables decide.
2. Keep the highest `rev` per key; what is not higher is a repetition and changes nothing.
3. A feature is complete only if everything it is made of is.
4. A feature has the key and the rev of its bar, so that a revision replaces it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import signal
import sys
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg

BARS_KEPT_S = 4 * 3600
SECONDS_KEPT_S = 15 * 60
RELOAD_EVERY_S = 300.0
SILENT_MAX_S = 60.0
"""There is a beat every second: after so long without any the queue may be gone, and joining again is harmless."""
QUEUE_MESSAGES_MAX = 100_000
PREFETCH = 500
CALL_TIMEOUT_S = 10.0
HEARTBEAT_S = 10
CONSUMER = os.environ.get("CONSUMER", "features")
"""Our login's name: a consumer may have queues called consumer.<name> and consumer.<name>.*."""
RETRY_S = 1.0
LOST = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, aio_pika.exceptions.AMQPError)

LOAD_BARS = """
SELECT symbol, extract(epoch FROM time)::bigint AS time, c, complete, rev FROM raw_bars
 WHERE time >= to_timestamp($1)
"""
LOAD_SECONDS = """
SELECT symbol, extract(epoch FROM time)::bigint AS time, buy_vol, sell_vol, n, complete, rev FROM footprint_1s
 WHERE time >= to_timestamp($1)
UNION ALL
SELECT symbol, extract(epoch FROM time)::bigint, 0, 0, 0, true, rev FROM footprint_deleted
 WHERE time >= to_timestamp($1)
"""
"""With the seconds that were deleted: an older message of one may come once more. One that came back is in both."""

KINDS = ("1m", "1s", "beat")
"""Last words of the keys that we understand."""

Row = dict[str, Any]


@dataclass
class Symbol:
    """What is known of one symbol, rows by time (epoch seconds); of all before `*_from_s` nothing is known."""

    bars_from_s: int
    seconds_from_s: int
    bars: dict[int, Row] = field(default_factory=dict)
    seconds: dict[int, Row] = field(default_factory=dict)
    heard_to_s: int = 0
    """End of the last second that a footprint or a beat told of."""
    live: bool = True


class Engine:
    """All symbols: rows and messages in, features out. No I/O, no clock."""

    def __init__(self) -> None:
        self.symbols: dict[str, Symbol] = {}
        self.repeated = 0
        self._from_s = (0, 0)

    def load(self, bars: Iterable[Row], seconds: Iterable[Row], bars_from_s: int, seconds_from_s: int) -> None:
        """Begin anew from the tables; what was announced meanwhile is in them already, or waits in the queue."""
        self.symbols, self._from_s = {}, (bars_from_s, seconds_from_s)
        for row in bars:
            self._symbol(row["symbol"]).bars[row["time"]] = row
        for row in seconds:
            symbol = self._symbol(row["symbol"])
            self._keep(symbol.seconds, row, seconds_from_s)
            symbol.heard_to_s = max(symbol.heard_to_s, row["time"] + 1)

    def see(self, kind: str, row: Row) -> list[Row]:
        """Take in a message (kind 1m, 1s or beat); answers the features that it makes or changes."""
        name, time = row["symbol"], row["time"]
        symbol = self._symbol(name)
        if kind == "1m":
            if not self._keep(symbol.bars, row, symbol.bars_from_s):
                return []
            forget(symbol, time)
            return [self.features(name, at) for at in (time, time + 60) if at in symbol.bars]
        if time + 1 >= symbol.heard_to_s:
            symbol.heard_to_s, symbol.live = time + 1, row.get("live", True)
        # A deleted second (n = 0) is kept like any other: its rev guards against an older message.
        if kind == "beat" or not self._keep(symbol.seconds, row, symbol.seconds_from_s):
            return []
        minute = time - time % 60
        return [self.features(name, minute)] if minute in symbol.bars else []

    def features(self, name: str, time: int) -> Row:
        """The features of a bar; null where they can not be known."""
        symbol = self.symbols[name]
        bar, before = symbol.bars[time], symbol.bars.get(time - 60)
        seconds = [symbol.seconds[s] for s in range(time, time + 60) if s in symbol.seconds]
        bought, sold = sum(row["buy_vol"] for row in seconds), sum(row["sell_vol"] for row in seconds)
        knows_seconds = time >= symbol.seconds_from_s and bought + sold > 0
        return {
            "symbol": name,
            "time": time,
            "rev": bar["rev"],
            "return_1m": None if before is None else float(bar["c"] / before["c"] - 1),
            "imbalance": float((bought - sold) / (bought + sold)) if knows_seconds else None,
            "complete": all(row["complete"] for row in (bar, before or bar, *seconds)),
            "live": symbol.live,
        }

    def _symbol(self, name: str) -> Symbol:
        return self.symbols.setdefault(name, Symbol(*self._from_s))

    def _keep(self, rows: dict[int, Row], row: Row, from_s: int) -> bool:
        """Keep a row if its rev is the highest so far; False for a repetition, and for what is too old."""
        known = rows.get(row["time"])
        if row["time"] < from_s or (known is not None and row["rev"] <= known["rev"]):
            self.repeated += known is not None
            return False
        rows[row["time"]] = row
        return True


def forget(symbol: Symbol, now_s: int) -> None:
    """Let go of what is too old, so that memory stays bounded."""
    symbol.bars_from_s = max(symbol.bars_from_s, now_s - BARS_KEPT_S)
    symbol.seconds_from_s = max(symbol.seconds_from_s, now_s - SECONDS_KEPT_S)
    for rows, from_s in ((symbol.bars, symbol.bars_from_s), (symbol.seconds, symbol.seconds_from_s)):
        for time in [time for time in rows if time < from_s]:
            del rows[time]


def read_message(body: bytes) -> Row:
    """A body with exact decimals, its time as epoch seconds."""
    row: Row = json.loads(body, parse_float=Decimal)
    row["time"] = int(dt.datetime.fromisoformat(row["time"]).timestamp())
    return row


async def load_tables(engine: Engine, ts_dsn: str) -> None:
    """Read of both tables what is kept."""
    now_s = int(dt.datetime.now(dt.UTC).timestamp())
    bars_from_s, seconds_from_s = (now_s - kept - now_s % 60 for kept in (BARS_KEPT_S, SECONDS_KEPT_S))
    con = await asyncpg.connect(ts_dsn, timeout=CALL_TIMEOUT_S, command_timeout=CALL_TIMEOUT_S)
    try:
        bars = [dict(record) for record in await con.fetch(LOAD_BARS, bars_from_s)]
        seconds = [dict(record) for record in await con.fetch(LOAD_SECONDS, seconds_from_s)]
    finally:
        con.terminate()
    engine.load(bars, seconds, bars_from_s, seconds_from_s)


async def join(channel: aio_pika.abc.AbstractChannel) -> asyncio.Queue[aio_pika.abc.AbstractIncomingMessage | None]:
    """A queue of our own: gone with the connection, and bounded, because a slow consumer must not fill the broker."""
    inbox = asyncio.Queue[aio_pika.abc.AbstractIncomingMessage | None]()  # never more than PREFETCH
    await channel.set_qos(prefetch_count=PREFETCH)
    queue = await channel.declare_queue(
        f"consumer.{CONSUMER}.{uuid.uuid4().hex[:12]}",
        exclusive=True,
        arguments={"x-max-length": QUEUE_MESSAGES_MAX, "x-overflow": "drop-head"},
    )
    await queue.bind("trading.bus", "price_updates.#")

    def end(*_: object) -> None:
        inbox.put_nowait(None)

    channel.close_callbacks.add(end)
    await queue.consume(inbox.put)
    return inbox


async def follow(engine: Engine, rmq_url: str, ts_dsn: str) -> None:
    """Bind, load, follow; raises one of LOST."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CALL_TIMEOUT_S):
        told: dict[str, aio_pika.abc.FieldValue] = {"connection_name": f"consumer.{CONSUMER}"}
        connection = await aio_pika.connect(rmq_url, heartbeat=HEARTBEAT_S, client_properties=told)
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            inbox = await join(await connection.channel())
        reload_at = 0.0
        while True:
            # Also from time to time: a full queue drops its oldest messages without a word.
            if loop.time() >= reload_at:
                await load_tables(engine, ts_dsn)
                reload_at = loop.time() + RELOAD_EVERY_S
                print(f"loaded {len(engine.symbols)} symbols", file=sys.stderr, flush=True)
            async with asyncio.timeout(SILENT_MAX_S):
                message = await inbox.get()
            if message is None:
                raise ConnectionError("the broker closed the channel")
            kind = (message.routing_key or "").rpartition(".")[2]
            if kind in KINDS:  # more may come
                for features in engine.see(kind, read_message(message.body)):
                    print(json.dumps(features), flush=True)
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await message.ack()
    finally:
        with contextlib.suppress(*LOST):
            async with asyncio.timeout(1.0):
                await connection.close()


def describe(engine: Engine) -> Row:
    """What it knows at the end: by symbol where its knowledge begins, and [time, rev, value, complete] of each row."""
    return {
        name: {
            "bars_from_s": symbol.bars_from_s,
            "seconds_from_s": symbol.seconds_from_s,
            "bars": [[t, row["rev"], f"{row['c']}", row["complete"]] for t, row in sorted(symbol.bars.items())],
            "seconds": [
                [t, row["rev"], f"{row['buy_vol']}", row["complete"]]
                for t, row in sorted(symbol.seconds.items())
                if row["n"]
            ],
        }
        for name, symbol in engine.symbols.items()
    }


async def main() -> Engine:
    """Follow until SIGTERM or Ctrl-C."""
    engine, stop = Engine(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait())
    while not stop.is_set():
        following = asyncio.create_task(follow(engine, os.environ["RMQ_URL"], os.environ["TS_DSN"]))
        await asyncio.wait((following, stopping), return_when=asyncio.FIRST_COMPLETED)
        following.cancel()
        try:
            await following
        except asyncio.CancelledError:
            continue
        except LOST as error:
            print(f"lost, beginning anew: {error!r}", file=sys.stderr, flush=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_S)
    return engine


if __name__ == "__main__":
    if missing := [name for name in ("RMQ_URL", "TS_DSN") if not os.environ.get(name)]:
        sys.exit(f"not set: {', '.join(missing)}")
    known = asyncio.run(main())
    if name := os.environ.get("FEATURES_FILE"):
        Path(name).write_text(json.dumps(describe(known)), encoding="utf-8")
