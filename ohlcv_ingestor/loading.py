"""What the database knows when a series starts: cursors, ledger, and the rows around the cursor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg
import msgspec

from common.contracts import BarRow, CursorRow, FootprintRow, GapRow, GapStatus
from common.numbers import trim_decimal
from ohlcv_ingestor.gaps import Gap
from ohlcv_ingestor.stored import Stored, gap_of_row, restore_state, spans_to_load

Query = Callable[..., Awaitable[list[asyncpg.Record]]]

CURSORS = """
SELECT k.symbol, k.last_id, extract(epoch FROM k.event_time)::bigint AS event_s,
       (SELECT extract(epoch FROM f.time)::bigint FROM footprint_1s f
         WHERE f.symbol = k.symbol AND f.time < k.event_time ORDER BY f.time DESC LIMIT 1) AS traded_s
  FROM ingest_cursors k WHERE k.service = $1 AND k.venue = $2 AND k.symbol = ANY($3::text[])
"""

GAPS = """
SELECT g.symbol, g.from_id, g.to_id, (extract(epoch FROM g.from_time) * 1000)::bigint AS from_ms,
       (extract(epoch FROM g.to_time) * 1000)::bigint AS to_ms, g.status, g.reason, g.tries, g.restored_n,
       (SELECT array_agg(lower(r) ORDER BY lower(r)) FROM unnest(g.missing) r) AS firsts,
       (SELECT array_agg(upper(r) - 1 ORDER BY lower(r)) FROM unnest(g.missing) r) AS lasts
  FROM feed_gaps g LEFT JOIN ingest_cursors k USING (service, venue, symbol)
 WHERE g.service = $1 AND g.venue = $2 AND g.symbol = ANY($3::text[])
   AND (g.status = 'open' OR (g.status = 'not_subscribed' AND g.to_id IS NULL)
        OR (g.status = 'source_missing' AND g.to_time > k.event_time - interval '1 day'))
"""
"""Gaps that are open, that end with a new subscription, or that may touch rows still in the ring."""

LEDGER_OF = """
SELECT w.n, g.symbol, g.from_id, g.to_id, (extract(epoch FROM g.from_time) * 1000)::bigint AS from_ms,
       (extract(epoch FROM g.to_time) * 1000)::bigint AS to_ms, g.status, g.reason, g.tries, g.restored_n,
       (SELECT array_agg(lower(r) ORDER BY lower(r)) FROM unnest(g.missing) r) AS firsts,
       (SELECT array_agg(upper(r) - 1 ORDER BY lower(r)) FROM unnest(g.missing) r) AS lasts
  FROM unnest($3::text[], $4::bigint[], $5::bigint[]) WITH ORDINALITY AS w(symbol, from_id, to_id, n)
  JOIN feed_gaps g ON g.service = $1 AND g.venue = $2 AND g.symbol = w.symbol
   AND g.from_id >= w.from_id AND g.from_id <= w.to_id
   AND (g.from_id = w.from_id OR g.status IN ('open', 'source_missing'))
"""

_SPANS = "unnest($1::text[], $2::bigint[], $3::bigint[]) AS w(symbol, from_s, to_s)"

FOOTPRINTS = f"""
SELECT DISTINCT ON (f.symbol, f.time) extract(epoch FROM f.time)::bigint AS time, f.symbol, f.open::text, f.high::text,
       f.low::text, f.close::text, f.buy_vol::text, f.sell_vol::text, f.buy_quote::text, f.sell_quote::text, f.n,
       f.first_id, f.last_id, f.source, f.complete, f.grade
  FROM {_SPANS} JOIN footprint_1s f
    ON f.symbol = w.symbol AND f.time >= to_timestamp(w.from_s) AND f.time < to_timestamp(w.to_s)
 WHERE f.source = $4
"""

_BAR = """extract(epoch FROM b.time)::bigint AS time, b.symbol, b.o::text, b.h::text, b.l::text, b.c::text, b.v::text,
       b.n, b.quote_vol::text, b.buy_vol::text, b.buy_quote_vol::text, b.source, b.complete, b.grade"""

BARS = f"""
SELECT DISTINCT ON (b.symbol, b.time) {_BAR}
  FROM {_SPANS} JOIN raw_bars b
    ON b.symbol = w.symbol AND b.time >= to_timestamp(w.from_s) AND b.time < to_timestamp(w.to_s)
 WHERE b.source = $4
UNION
SELECT {_BAR}
  FROM {_SPANS} JOIN LATERAL (SELECT * FROM raw_bars r WHERE r.symbol = w.symbol AND r.time < to_timestamp(w.from_s)
                                 AND r.source = $4 ORDER BY r.time DESC LIMIT 1) b ON true
"""


_BAR_NUMBERS = frozenset({"o", "h", "l", "c", "v", "quote_vol", "buy_vol", "buy_quote_vol"})
_FOOTPRINT_NUMBERS = frozenset({"open", "high", "low", "close", "buy_vol", "sell_vol", "buy_quote", "sell_quote"})


class Known:
    """What is stored of some symbols: a state to go on from where there is a cursor, and ledger rows to end."""

    def __init__(self) -> None:
        self.states: dict[str, Stored] = {}
        self.idle: dict[str, list[Gap]] = {}


@dataclass(frozen=True)
class Origin:
    """Whose rows to read: of a service, a venue, a `source`, in the venue's scale; the ring is `ring_s` long."""

    service: str
    venue: str
    source: str
    scale: int
    ring_s: int


async def load_known(query: Query, origin: Origin, symbols: Sequence[str]) -> Known:
    """Read the state of many symbols in four statements; raises TryLater while the database is away.

    A symbol that was taken off (its last ledger row is an open-ended `not_subscribed`) begins like a new one.
    """
    known = Known()
    gaps: dict[str, list[GapRow]] = defaultdict(list)
    for r in await query(GAPS, origin.service, origin.venue, list(symbols)):
        gaps[r["symbol"]].append(_gap(r, origin))
    cursors: dict[str, CursorRow] = {}
    spans: list[tuple[str, int, int]] = []
    for r in await query(CURSORS, origin.service, origin.venue, list(symbols)):
        symbol = r["symbol"]
        idle = [gap_of_row(g) for g in gaps[symbol] if g.status is GapStatus.NOT_SUBSCRIBED]
        if idle:
            known.idle[symbol] = idle
        cursors[symbol] = CursorRow(origin.service, origin.venue, symbol, r["last_id"], r["event_s"])
        wanted = spans_to_load(r["event_s"], gaps[symbol], origin.ring_s, r["traded_s"])
        spans.extend((symbol, first, last) for first, last in wanted)
    if not cursors:
        return known
    arguments = [[s for s, _, _ in spans], [a for _, a, _ in spans], [b for _, _, b in spans]]
    bars: dict[str, list[BarRow]] = defaultdict(list)
    footprints: dict[str, list[FootprintRow]] = defaultdict(list)
    for r in await query(BARS, *arguments, origin.source):
        bars[r["symbol"]].append(msgspec.convert(_canonical(r, _BAR_NUMBERS), BarRow))
    for r in await query(FOOTPRINTS, *arguments, origin.source):
        footprints[r["symbol"]].append(msgspec.convert(_canonical(r, _FOOTPRINT_NUMBERS), FootprintRow))
    for symbol, cursor in cursors.items():
        rows = (bars[symbol], footprints[symbol], gaps[symbol])
        known.states[symbol] = restore_state(cursor, *rows, origin.scale)
    return known


async def load_ledger(query: Query, origin: Origin, wanted: Sequence[tuple[str, Gap]]) -> list[list[GapRow]]:
    """What the ledger says of each gap: its own row, and those not repaired among its ids; raises TryLater."""
    told: list[list[GapRow]] = [list[GapRow]() for _ in wanted]
    spans = [[s for s, _ in wanted], [g.from_id for _, g in wanted], [g.to_id for _, g in wanted]]
    for r in await query(LEDGER_OF, origin.service, origin.venue, *spans):
        place: int = r["n"] - 1
        told[place].append(_gap(r, origin))
    return told


def _canonical(record: asyncpg.Record, numbers: frozenset[str]) -> dict[str, object]:
    return {name: trim_decimal(value) if name in numbers else value for name, value in record.items()}


def _gap(r: asyncpg.Record, origin: Origin) -> GapRow:
    missing = tuple(zip(r["firsts"] or (), r["lasts"] or (), strict=True))
    return GapRow(
        origin.service, origin.venue, r["symbol"], r["from_id"], r["to_id"], r["from_ms"], r["to_ms"], missing,
        GapStatus(r["status"]), r["reason"], r["tries"], r["restored_n"],
    )  # fmt: skip
