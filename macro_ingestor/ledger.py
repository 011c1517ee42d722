"""The database of the macro ingestor: what it goes on from, calls that count, and rows with their messages."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar, cast

import asyncpg
import msgspec

from common.contracts import (
    MacroDayRow,
    MacroSlotRow,
    OutgoingMessage,
    format_time,
    macro_day_message,
    macro_slot_message,
)
from common.database import Database
from common.errors import TryLater
from common.numbers import trim_decimal
from common.postgres import Connection
from macro_ingestor import statements as sql
from macro_ingestor.circuit import Circuit
from macro_ingestor.configured import Configured
from macro_ingestor.desk import KEPT_MAX, Changes, Desk, Known
from macro_ingestor.quota import calls_left, hour_of, longest_window_s
from macro_ingestor.readings import SLOT_COLUMNS, Reading
from macro_ingestor.standing import AHEAD_MAX_S, Ask, Outcome

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_MAX_S = 0.25, 5.0
DAY_TABLE_COLUMNS = ("mvrv", "asopr_7d", "nupl")
HOURS_KEPT_S = 3 * 86_400

_T = TypeVar("_T")


class Written(msgspec.Struct, frozen=True):
    """How many rows a commit changed."""

    slots: int = 0
    days: int = 0


async def persevere(act: Callable[[], Awaitable[_T]]) -> _T:
    """Do it again until the database takes it: what is waiting for it is not wrong, only late."""
    pause_s = RETRY_FIRST_S
    while True:
        try:
            return await act()
        except TryLater as error:
            log.warning("database is away", extra={"error": str(error)})
            await asyncio.sleep(max(pause_s, error.wait_s or 0.0))
            pause_s = min(RETRY_MAX_S, 2 * pause_s)


async def take_call(database: Database, configured: Configured, now_s: int) -> bool:
    """Book one call of a provider before it is made; False when its quota has no room."""
    name, quotas = configured.provider.name, configured.quotas

    async def write(con: Connection) -> tuple[bool, Sequence[OutgoingMessage]]:
        # Two processes may call one vendor at once: the service, and `macro check`.
        await con.execute(sql.LOCK_QUOTA, name)
        calls = {r["hour"]: r["calls"] for r in await con.fetch(sql.READ_CALLS, name)}
        left = calls_left(quotas, calls, now_s)
        if left == 0:
            return False, ()
        await con.execute(sql.ADD_CALL, name, hour_of(now_s))
        if hour_of(now_s) not in calls:
            await con.execute(sql.FORGET_CALLS, name, hour_of(now_s) - max(HOURS_KEPT_S, longest_window_s(quotas)))
        return True, ()

    return await database.transact(write)


async def read_left(database: Database, providers: Iterable[Configured], now_s: int) -> dict[str, int | None]:
    """Calls left by provider; None where nothing limits them."""
    calls: dict[str, dict[int, int]] = {}
    for record in await database.query(sql.READ_ALL_CALLS):
        calls.setdefault(record["provider"], {})[record["hour"]] = record["calls"]
    return {one.provider.name: calls_left(one.quotas, calls.get(one.provider.name, {}), now_s) for one in providers}


async def load(database: Database, now_s: int) -> Known:
    """What was stored last; readings of the future, stored while our clock was ahead, would crowd out the others."""
    known = Known()
    for r in await database.query(sql.LOAD_READINGS, KEPT_MAX, now_s + AHEAD_MAX_S):
        reading = Reading(r["column_name"], trim_decimal(r["value"]), r["as_of"], r["source"])
        known.history.setdefault((reading.column, r["provider"]), {})[reading.as_of] = reading
    for r in await database.query(sql.LOAD_ASKS):
        known.asks[r["provider"], r["column_name"]] = Ask(r["asked_at"], Outcome(r["outcome"]), r["error"])
    for r in await database.query(sql.LOAD_CIRCUITS):
        known.circuits[r["provider"]] = Circuit(r["failures"], r["open_until"], r["error"])
    return known


async def commit(
    database: Database, changes: Changes, known: Known, slot: MacroSlotRow | None, days: Sequence[MacroDayRow]
) -> Written:
    """Store what changed and rows in one transaction; exactly the rows that changed are announced."""

    async def write(con: Connection) -> tuple[Written, Sequence[OutgoingMessage]]:
        await _write_changes(con, changes, known)
        messages: list[OutgoingMessage] = []
        if slot is not None:
            values = [slot.values.get(column) for column in SLOT_COLUMNS]
            stories = json.dumps(slot.as_of), json.dumps(slot.source)
            record = await con.fetchrow(sql.UPSERT_SLOT, slot.time, *values, *stories)
            if record is not None:
                stored = MacroSlotRow(slot.time, *_told(record, SLOT_COLUMNS))
                messages.append(macro_slot_message(stored, record["rev"]))
        slots = len(messages)
        if days:
            found = sorted(await con.fetch(sql.UPSERT_DAYS, *_day_arguments(days)), key=lambda r: r["day"])
            messages += [
                macro_day_message(MacroDayRow(r["day_s"], *_told(r, DAY_TABLE_COLUMNS)), r["rev"]) for r in found
            ]
        return Written(slots, len(messages) - slots), messages

    return await database.transact(write)


async def keep_changes(database: Database, desk: Desk) -> None:
    """Store what is new on the desk, without rows."""
    changes = desk.hand_out()
    if changes:
        await persevere(lambda: commit(database, changes, desk.known, None, ()))


async def _write_changes(con: Connection, changes: Changes, known: Known) -> None:
    if changes.readings:
        rows = [
            (reading.column, provider, as_of, reading.value, reading.source)
            for (_, provider, as_of), reading in sorted(changes.readings.items())
        ]
        await con.execute(sql.UPSERT_READINGS, *map(list, zip(*rows, strict=True)))
    if changes.asks:
        asks = [(pair, known.asks[pair]) for pair in sorted(changes.asks)]
        await con.execute(
            sql.UPSERT_ASKS, [p for (p, _), _ in asks], [c for (_, c), _ in asks], [a.asked_at for _, a in asks],
            [a.outcome.value for _, a in asks], [a.error for _, a in asks],
        )  # fmt: skip
    for name in sorted(changes.circuits):
        circuit = known.circuits[name]
        await con.execute(sql.UPSERT_CIRCUIT, name, circuit.failures, circuit.open_until, circuit.error)


def _day_arguments(days: Sequence[MacroDayRow]) -> list[list[object]]:
    texts = [[row.values.get(column) for row in days] for column in DAY_TABLE_COLUMNS]
    stories = [[json.dumps(part) for part in parts] for parts in ([r.as_of for r in days], [r.source for r in days])]
    dates = [dt.date.fromisoformat(format_time(row.day)[:10]) for row in days]
    return cast("list[list[object]]", [dates, *texts, *stories])


def _told(record: asyncpg.Record, columns: Sequence[str]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Values, as_of and source of a stored row."""
    values = {column: trim_decimal(record[column]) for column in columns if record[column] is not None}
    as_of, source = (cast("Mapping[str, str]", json.loads(record[name])) for name in ("as_of", "source"))
    return values, dict(as_of), dict(source)
