"""The ledger and the rows it is about, read from the database."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import msgspec

from common.contracts import BarRow, FootprintRow, GapRow, GapStatus
from common.numbers import trim_decimal
from common.store import Store

LEDGER = """
SELECT g.service, g.venue, g.symbol, g.from_id, g.to_id, (extract(epoch FROM g.from_time) * 1000)::bigint AS from_ms,
       (extract(epoch FROM g.to_time) * 1000)::bigint AS to_ms, g.status, g.reason, g.tries, g.restored_n,
       (SELECT array_agg(lower(r) ORDER BY lower(r)) FROM unnest(g.missing) r) AS firsts,
       (SELECT array_agg(upper(r) - 1 ORDER BY lower(r)) FROM unnest(g.missing) r) AS lasts,
       extract(epoch FROM now() - g.opened_at)::bigint AS age_s
  FROM feed_gaps g
 WHERE g.status = ANY($1::text[]) AND (cardinality($2::text[]) = 0 OR g.symbol = ANY($2::text[]))
   AND (g.to_time IS NULL OR g.to_time >= to_timestamp($3::float8 / 1000))
   AND g.from_time < to_timestamp($4::float8 / 1000)
 ORDER BY g.symbol, g.from_time, g.from_id
"""

BARS = """
SELECT extract(epoch FROM time)::bigint AS time, symbol, o::text, h::text, l::text, c::text, v::text, n,
       quote_vol::text, buy_vol::text, buy_quote_vol::text, source, complete, grade
  FROM raw_bars WHERE symbol = $1 AND time >= to_timestamp($2) AND time < to_timestamp($3) ORDER BY time LIMIT $4
"""

SECONDS = """
SELECT extract(epoch FROM time)::bigint AS time, symbol, open::text, high::text, low::text, close::text, buy_vol::text,
       sell_vol::text, buy_quote::text, sell_quote::text, n, first_id, last_id, source, complete, grade
  FROM footprint_1s WHERE symbol = $1 AND time >= to_timestamp($2) AND time < to_timestamp($3) ORDER BY time
"""

STATUSES = "SELECT pair, status FROM coin_registry WHERE pair IS NOT NULL"

FOREVER_MS = 32_503_680_000_000
"""The year 3000."""

_READ_TIMEOUT_S = 60.0
_TEXTS = frozenset({"symbol", "source"})


class Entry(msgspec.Struct, frozen=True):
    """One row of the ledger, and how long ago it was written first."""

    gap: GapRow
    age_s: int


async def read_ledger(
    store: Store, statuses: Sequence[GapStatus], symbols: Sequence[str] = (), from_ms: int = 0, to_ms: int = FOREVER_MS
) -> list[Entry]:
    """Rows of the ledger with one of these statuses that reach into [from_ms, to_ms); every symbol if none is given."""
    arguments = [[s.value for s in statuses], list(symbols), float(from_ms), float(to_ms)]
    return [Entry(_gap(r), r["age_s"]) for r in await store.query(LEDGER, *arguments, timeout_s=_READ_TIMEOUT_S)]


async def read_bars(store: Store, symbol: str, from_s: int, to_s: int, limit: int = 1_000_000) -> list[BarRow]:
    """Stored minutes of [from_s, to_s), by time, at most `limit`."""
    rows = await store.query(BARS, symbol, from_s, to_s, limit, timeout_s=_READ_TIMEOUT_S)
    return [msgspec.convert(_canonical(r), BarRow) for r in rows]


async def read_seconds(store: Store, symbol: str, from_s: int, to_s: int) -> list[FootprintRow]:
    """Stored seconds of [from_s, to_s), by time."""
    rows = await store.query(SECONDS, symbol, from_s, to_s, timeout_s=_READ_TIMEOUT_S)
    return [msgspec.convert(_canonical(r), FootprintRow) for r in rows]


async def read_statuses(store: Store) -> dict[str, str]:
    """What the registry says of each pair."""
    return {r["pair"]: r["status"] for r in await store.query(STATUSES)}


def _canonical(record: asyncpg.Record) -> dict[str, object]:
    return {
        name: trim_decimal(value) if isinstance(value, str) and name not in _TEXTS else value
        for name, value in record.items()
    }


def _gap(r: asyncpg.Record) -> GapRow:
    missing = tuple(zip(r["firsts"] or (), r["lasts"] or (), strict=True))
    return GapRow(
        r["service"], r["venue"], r["symbol"], r["from_id"], r["to_id"], r["from_ms"], r["to_ms"], missing,
        GapStatus(r["status"]), r["reason"], r["tries"], r["restored_n"],
    )  # fmt: skip
