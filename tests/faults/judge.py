"""The judge: tables against the venue's recount, the ledger against both, and the log against the tables."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import asyncpg

from tests.faults.world import World
from tests.stage import BAR_COLUMNS, FOOTPRINT_COLUMNS

LOG_WITHIN_S = 10.0
READ_WITHIN_S = 120.0
"""For a log of a hundred thousand messages on a busy machine."""
REGISTRY_WITHIN_S = 70.0
"""A registry event that a dead broker swallowed is found by the next reading of the table."""
SHOWN_MAX = 6
Span = tuple[float, float | None]
TABLES = {
    "footprint_1s": ("footprints", "1s", 1, FOOTPRINT_COLUMNS),
    "raw_bars": ("bars", "1m", 60, BAR_COLUMNS),
}
BODY_COLUMNS = {
    "1s": ("open", "high", "low", "close", "buy_vol", "sell_vol", "n"),
    "1m": ("o", "h", "l", "c", "v", "n", "quote_vol", "buy_vol"),
}


DELETED = """
SELECT d.symbol, d.rev, to_char(d.time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS t FROM footprint_deleted d
 WHERE d.time >= to_timestamp($1) AND d.time < to_timestamp($2)
   AND NOT EXISTS (SELECT FROM footprint_1s f WHERE f.symbol = d.symbol AND f.time = d.time)
"""


class Mismatch(AssertionError):
    """What is stored, written down or delivered is not what the venue did."""


@dataclass
class Compared:
    """How much was held against the recount."""

    rows: int = 0
    incomplete: int = 0


async def judge_tables(world: World, from_s: int, to_s: int, *, missing: bool, lossy: bool) -> Compared:
    """Compare both tables with the recount in [from_s, to_s); raises Mismatch.

    `missing`: the venue itself lost trades, so rows touched by a `source_missing` gap may differ, and say so.
    `lossy`: trades were lost on a live connection, which only a later trade can show; a quiet symbol may not have had
    one, and is judged up to the last trade it was sent.
    """
    compared = Compared()
    status = await world.stage.oracle("status")
    for symbol in world.symbols:
        end_s = min(to_s, await heard_s(world, symbol, status)) if lossy else to_s
        unproven, idle = await spans_of(world, symbol, missing)
        for table, (what, _, width, columns) in TABLES.items():
            # Seconds begin with the first subscription, bars with the history before it.
            begin_s = max(from_s, world.first_s[symbol] - (world.stage.history_s if width == 60 else 0))
            low, high = -(-begin_s // width) * width, end_s // width * width
            truth = {r["time"]: r for r in await world.stage.oracle(what, symbol=symbol, from_s=low, to_s=high)}
            stored = await _stored(world, table, symbol, low, high)
            where = f"{table} {symbol}"
            _compare(where, width, columns, truth, stored, unproven, idle if width == 1 else [], compared)
    return compared


async def judge_log(world: World, from_s: int, to_s: int, within_s: float = LOG_WITHIN_S) -> None:
    """Hold the log against the current revision of every row, bodies too; raises Mismatch.

    Judged is what was read up to a message younger than the question, not what was read in some time: how fast a reader
    is on a busy machine says nothing about delivery. `within_s` is for rows that change meanwhile. Every message that
    was ever in the log has to be as the schemas promise.
    """
    until = time.monotonic() + within_s
    while wrong := await _wrong_in_log(world, from_s, to_s):
        if time.monotonic() > until:
            async with asyncio.timeout(READ_WITHIN_S):
                skipped = await world.tail.read_again()
            if still := await _wrong_in_log(world, from_s, to_s):
                raise Mismatch(f"{len(still)} rows are not on the bus as they are stored: {still[:SHOWN_MAX]}")
            raise Mismatch(f"{len(wrong)} rows are on the bus, but our reader skipped {skipped}: {wrong[:SHOWN_MAX]}")
    check = world.tail.check
    if check.wrong or not check.checked:
        raise Mismatch(f"{check.wrong} of {check.checked} messages are not as promised: {check.shown}")


async def _wrong_in_log(world: World, from_s: int, to_s: int) -> list[str]:
    """What is wrong once everything published before now was read."""
    now = dt.datetime.now(dt.UTC)

    async def caught_up() -> bool:
        return world.tail.has_read_to(now)

    await world.reach(caught_up, READ_WITHIN_S, f"the log is read up to now ({world.tail.describe()})")
    wrong: list[str] = []
    for table, (_, kind, _, _) in TABLES.items():
        rows = await world.fetch(
            "SELECT *, to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS t"
            f" FROM {table} WHERE time >= to_timestamp($1) AND time < to_timestamp($2)", from_s, to_s,
        )  # fmt: skip
        wrong.extend(text for row in rows if (text := _undelivered(world, row, kind)))
    for row in await world.fetch(DELETED, from_s, to_s):
        key = f"price_updates.{row['symbol']}.1s@{row['t']}"
        told = world.tail.rows.get(key)
        if told is None or told.rev != row["rev"] or json.loads(told.body)["n"] != 0:
            wrong.append(f"{key} was deleted as rev {row['rev']}, delivered {told}")
    return wrong


async def heard_s(world: World, symbol: str, status: dict[str, Any]) -> int:
    """The venue second of the newest trade that was streamed."""
    spans = status["streamed_ids"].get(symbol) or []
    if not spans:
        return 0
    last = max(b for _, b in spans)
    trades = await world.stage.oracle("trades", symbol=symbol, from_id=last, to_id=last)
    return int(trades[0]["T"]) // 1000 if trades else 0


async def spans_of(world: World, symbol: str, missing: bool) -> tuple[list[Span], list[Span]]:
    """Spans of the ledger that are unproven, and those in which the symbol was not wanted; raises Mismatch.

    The ledger is believed where the fault explains it: ids that the venue was told to lose, time in which the registry
    said that nobody wants the symbol.
    """
    unproven: list[Span] = []
    idle: list[Span] = []
    for gap in await world.fetch("SELECT * FROM feed_gaps WHERE symbol = $1 AND status <> 'repaired'", symbol):
        end = gap["to_time"]
        span = (gap["from_time"].timestamp(), None if end is None else end.timestamp())
        if gap["status"] == "not_subscribed" and _was_idle(world, symbol, span):
            idle.append(span)
        elif gap["status"] == "source_missing" and missing and _was_lost(world, symbol, gap["missing"]):
            unproven.append(span)
        else:
            raise Mismatch(f"ledger: {dict(gap)}")
    return unproven, idle


def _was_idle(world: World, symbol: str, span: Span) -> bool:
    """Lies the span in a time in which the registry excluded the symbol, allowing for how late that is heard?"""
    late_s = REGISTRY_WITHIN_S * world.setup.speed
    return any(
        span[0] >= from_s - late_s and (to_s is None or (span[1] is not None and span[1] <= to_s + late_s))
        for from_s, to_s in world.idle.get(symbol, [])
    )


def _was_lost(world: World, symbol: str, missing: Iterable[Any]) -> bool:
    """Are these ids, and there are some, among those that the venue was told to lose?"""
    runs = [(part.lower, part.upper - 1) for part in missing]
    return bool(runs) and all(any(a >= c and b <= d for c, d in world.lost.get(symbol, [])) for a, b in runs)


async def _stored(world: World, table: str, symbol: str, from_s: int, to_s: int) -> dict[int, asyncpg.Record]:
    rows = await world.fetch(
        f"SELECT *, extract(epoch FROM time)::bigint AS s FROM {table}"
        " WHERE symbol = $1 AND time >= to_timestamp($2) AND time < to_timestamp($3)", symbol, from_s, to_s,
    )  # fmt: skip
    return {row["s"]: row for row in rows}


def _compare(
    where: str, width: int, columns: tuple[str, ...], truth: dict[int, Any], stored: dict[int, asyncpg.Record],
    unproven: list[Span], idle: list[Span], compared: Compared,
) -> None:  # fmt: skip
    touched = {s for s in truth.keys() | stored.keys() if _within(s, width, unproven)}
    absent = [s for s in sorted(truth.keys() - stored.keys()) if s not in touched and not _within(s, width, idle)]
    if absent:
        raise Mismatch(f"{where}: {len(absent)} rows are missing: {absent[:SHOWN_MAX]}")
    extra = sorted(stored.keys() - truth.keys() - touched)
    if extra:
        raise Mismatch(f"{where}: {len(extra)} rows are not the venue's: {extra[:SHOWN_MAX]}")
    wrong: list[str] = []
    for s, row in sorted(stored.items()):
        compared.rows += 1
        compared.incomplete += not row["complete"]
        if row["complete"] is (s in touched):
            wrong.append(f"{s} complete {row['complete']}")
        if s in touched:
            continue
        wrong += [
            f"{s} {column} {row[column]} is not {truth[s][column]}"
            for column in columns
            if Decimal(str(row[column])) != Decimal(str(truth[s][column]))
        ]
    if wrong:
        raise Mismatch(f"{where}: {len(wrong)} values differ: {wrong[:SHOWN_MAX]}")


def _within(s: int, width: int, spans: list[Span]) -> bool:
    return any(a < s + width and (b is None or b >= s) for a, b in spans)


def _undelivered(world: World, row: asyncpg.Record, kind: str) -> str | None:
    """What is wrong with the delivery of a row; None when its current revision arrived with the same body."""
    key = f"price_updates.{row['symbol']}.{kind}@{row['t']}"
    delivered = world.tail.rows.get(key)
    if delivered is None or delivered.rev != row["rev"]:
        return f"{key} has rev {row['rev']}, delivered {delivered and delivered.rev}"
    body = json.loads(delivered.body, parse_float=Decimal)
    if body["complete"] is not row["complete"] or body["time"] != row["t"]:
        return f"{key} {body}"
    different = [c for c in BODY_COLUMNS[kind] if Decimal(body[c]) != Decimal(str(row[c]))]
    return f"{key} {different} differ" if different else None
