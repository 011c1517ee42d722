"""The SQL of one flush, each statement with the function that builds its parameters. Pure text and values.

Times travel as epoch seconds or milliseconds in bigint arrays and become timestamps by integer arithmetic in SQL.
Numerics travel as text arrays: exact, no common scale, and a float is refused. Every array is sorted by key, so that
two writers that overlap wait for each other instead of deadlocking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import astuple

from common.batch import Batch
from common.contracts import Clearance, GapRow, Retraction

_SECONDS = "timestamptz 'epoch' + u.time * interval '1 second'"

_GRADE_LINE = """
     AND (excluded.grade > t.grade OR excluded.grade = t.grade AND (excluded.grade >= 3 OR excluded.n >= t.n))"""


def _upsert(grade_line: str) -> str:
    return f"""
WITH bars AS (
  INSERT INTO raw_bars AS t (time, symbol, o, h, l, c, v, n, quote_vol, buy_vol, buy_quote_vol, source, complete, grade)
  SELECT {_SECONDS}, u.symbol, u.o, u.h, u.l, u.c, u.v, u.n, u.quote_vol, u.buy_vol, u.buy_quote_vol,
         u.source, u.complete, u.grade
    FROM unnest($1::bigint[], $2::text[], $3::text[]::numeric[], $4::text[]::numeric[], $5::text[]::numeric[],
                $6::text[]::numeric[], $7::text[]::numeric[], $8::int[], $9::text[]::numeric[], $10::text[]::numeric[],
                $11::text[]::numeric[], $12::text[], $13::boolean[], $14::smallint[])
      AS u(time, symbol, o, h, l, c, v, n, quote_vol, buy_vol, buy_quote_vol, source, complete, grade)
  ON CONFLICT (symbol, time) DO UPDATE
     SET o = excluded.o, h = excluded.h, l = excluded.l, c = excluded.c, v = excluded.v, n = excluded.n,
         quote_vol = excluded.quote_vol, buy_vol = excluded.buy_vol, buy_quote_vol = excluded.buy_quote_vol,
         source = excluded.source, complete = excluded.complete, grade = excluded.grade,
         rev = t.rev + 1, updated_at = now()
   WHERE (t.o, t.h, t.l, t.c, t.v, t.n, t.quote_vol, t.buy_vol, t.buy_quote_vol, t.source, t.complete, t.grade)
         IS DISTINCT FROM
         (excluded.o, excluded.h, excluded.l, excluded.c, excluded.v, excluded.n, excluded.quote_vol, excluded.buy_vol,
          excluded.buy_quote_vol, excluded.source, excluded.complete, excluded.grade){grade_line}
  RETURNING t.time, t.symbol, t.rev
), footprints AS (
  INSERT INTO footprint_1s AS t (time, symbol, open, high, low, close, buy_vol, sell_vol, buy_quote, sell_quote, n,
                                 first_id, last_id, source, complete, grade, rev)
  SELECT {_SECONDS}, u.symbol, u.open, u.high, u.low, u.close, u.buy_vol, u.sell_vol, u.buy_quote, u.sell_quote, u.n,
         u.first_id, u.last_id, u.source, u.complete, u.grade,
         -- One that was deleted and is back goes on from the revision that told of its end.
         1 + coalesce((SELECT d.rev FROM footprint_deleted d WHERE d.symbol = u.symbol AND d.time = {_SECONDS}), 0)
    FROM unnest($15::bigint[], $16::text[], $17::text[]::numeric[], $18::text[]::numeric[], $19::text[]::numeric[],
                $20::text[]::numeric[], $21::text[]::numeric[], $22::text[]::numeric[], $23::text[]::numeric[],
                $24::text[]::numeric[], $25::int[], $26::bigint[], $27::bigint[], $28::text[], $29::boolean[],
                $30::smallint[])
      AS u(time, symbol, open, high, low, close, buy_vol, sell_vol, buy_quote, sell_quote, n, first_id, last_id,
           source, complete, grade)
  ON CONFLICT (symbol, time) DO UPDATE
     SET open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
         buy_vol = excluded.buy_vol, sell_vol = excluded.sell_vol, buy_quote = excluded.buy_quote,
         sell_quote = excluded.sell_quote, n = excluded.n, first_id = excluded.first_id, last_id = excluded.last_id,
         source = excluded.source, complete = excluded.complete, grade = excluded.grade,
         rev = t.rev + 1, updated_at = now()
         -- A candle does not know trade ids: the same second without them is no news.
   WHERE ((t.open, t.high, t.low, t.close, t.buy_vol, t.sell_vol, t.buy_quote, t.sell_quote, t.n, t.source, t.complete,
           t.grade)
          IS DISTINCT FROM
          (excluded.open, excluded.high, excluded.low, excluded.close, excluded.buy_vol, excluded.sell_vol,
           excluded.buy_quote, excluded.sell_quote, excluded.n, excluded.source, excluded.complete, excluded.grade)
          OR excluded.first_id IS NOT NULL
             AND (t.first_id, t.last_id) IS DISTINCT FROM (excluded.first_id, excluded.last_id)){grade_line}
  RETURNING t.time, t.symbol, t.rev
), cursors AS (
  INSERT INTO ingest_cursors AS k (service, venue, symbol, last_id, event_time)
  SELECT u.service, u.venue, u.symbol, u.last_id, {_SECONDS}
    FROM unnest($31::text[], $32::text[], $33::text[], $34::bigint[], $35::bigint[])
      AS u(service, venue, symbol, last_id, time)
  ON CONFLICT (service, venue, symbol) DO UPDATE
     SET last_id = greatest(k.last_id, excluded.last_id), event_time = greatest(k.event_time, excluded.event_time)
   WHERE (excluded.last_id, excluded.event_time) > (k.last_id, k.event_time)
)
SELECT 'bar' AS kind, extract(epoch FROM time)::bigint AS time, symbol, rev FROM bars
UNION ALL
SELECT 'footprint', extract(epoch FROM time)::bigint, symbol, rev FROM footprints
"""


UPSERT = _upsert(_GRADE_LINE)
"""Rows and cursors; returns kind, time, symbol and rev of what changed, in no promised order."""

UPSERT_FORCED = _upsert("")
"""The same without the grade line: an audit may correct anything."""


def _columns(rows: Iterable[Sequence[object]], width: int) -> list[list[object]]:
    """Turn rows into columns, also when there are none."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(width)]


def upsert_arguments(batch: Batch) -> list[list[object]]:
    """Parameters of UPSERT and UPSERT_FORCED: the structs' fields, in the order in which they are declared."""
    bars = [astuple(row) for _, row in sorted(batch.bars.items())]
    footprints = [astuple(row) for _, row in sorted(batch.footprints.items())]
    cursors = [astuple(row) for _, row in sorted(batch.cursors.items())]
    return _columns(bars, 14) + _columns(footprints, 16) + _columns(cursors, 5)


def _retract(table: str, first_s: str, columns: str) -> str:
    # The rows are locked in key order first: an UPDATE alone would lock them in whatever order its plan finds them.
    return f"""
WITH wanted AS (
  SELECT t.symbol, t.time FROM {table} t
   WHERE t.complete AND EXISTS (
     SELECT FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS r(symbol, source, from_s, to_s)
      WHERE r.symbol = t.symbol AND r.source = t.source
        AND t.time >= timestamptz 'epoch' + ({first_s}) * interval '1 second'
        AND t.time <= timestamptz 'epoch' + r.to_s * interval '1 second')
     AND t.symbol = ANY($1::text[])
     AND t.time >= timestamptz 'epoch' + $5::bigint * interval '1 second'
     AND t.time <= timestamptz 'epoch' + $6::bigint * interval '1 second'
   ORDER BY t.symbol, t.time FOR UPDATE
)
UPDATE {table} AS t SET complete = false, grade = 2, rev = t.rev + 1, updated_at = now()
  FROM wanted WHERE t.symbol = wanted.symbol AND t.time = wanted.time AND t.complete
   AND t.time >= timestamptz 'epoch' + $5::bigint * interval '1 second'
   AND t.time <= timestamptz 'epoch' + $6::bigint * interval '1 second'
RETURNING extract(epoch FROM t.time)::bigint AS time, t.symbol, {columns}, t.source, t.complete, t.grade, t.rev
"""


RETRACT_BARS = _retract(
    "raw_bars",
    "r.from_s - r.from_s % 60",
    "t.o::text, t.h::text, t.l::text, t.c::text, t.v::text, t.n, t.quote_vol::text, t.buy_vol::text,"
    " t.buy_quote_vol::text",
)
"""Lower complete minutes; returns every column of what changed."""

RETRACT_FOOTPRINTS = _retract(
    "footprint_1s",
    "r.from_s",
    "t.open::text, t.high::text, t.low::text, t.close::text, t.buy_vol::text, t.sell_vol::text, t.buy_quote::text,"
    " t.sell_quote::text, t.n, t.first_id, t.last_id",
)
"""Lower complete seconds; returns every column of what changed."""


def retraction_arguments(retractions: Sequence[Retraction]) -> list[object]:
    """Parameters of both RETRACT statements; the last two bound the chunks that are looked at."""
    columns = _columns([(r.symbol, r.source, r.from_s, r.to_s) for r in retractions], 4)
    first_s = min(r.from_s - r.from_s % 60 for r in retractions)
    return [*columns, first_s, max(r.to_s for r in retractions)]


UPSERT_GAPS = """
INSERT INTO feed_gaps AS g (service, venue, symbol, from_id, to_id, from_time, to_time, missing, status, reason, tries,
                            restored_n)
SELECT u.service, u.venue, u.symbol, u.from_id, u.to_id, timestamptz 'epoch' + u.from_ms * interval '1 millisecond',
       timestamptz 'epoch' + u.to_ms * interval '1 millisecond', u.missing, u.status, u.reason, u.tries, u.restored_n
  FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
              $8::text[]::int8multirange[], $9::text[], $10::text[], $11::int[], $12::bigint[])
    AS u(service, venue, symbol, from_id, to_id, from_ms, to_ms, missing, status, reason, tries, restored_n)
ON CONFLICT (service, venue, symbol, from_id) DO UPDATE
   SET to_id = excluded.to_id, from_time = excluded.from_time, to_time = excluded.to_time, missing = excluded.missing,
       status = excluded.status, reason = excluded.reason, tries = excluded.tries, restored_n = excluded.restored_n,
       updated_at = now()
 WHERE (g.to_id, g.from_time, g.to_time, g.missing, g.status, g.reason, g.tries, g.restored_n) IS DISTINCT FROM
       (excluded.to_id, excluded.from_time, excluded.to_time, excluded.missing, excluded.status, excluded.reason,
        excluded.tries, excluded.restored_n)
"""
"""Gaps as their one writer sees them now; the first missing id never changes, the time it can be told from may."""


def format_ranges(ranges: Iterable[tuple[int, int]]) -> str:
    """Closed id ranges as PostgreSQL writes a multirange: ((1, 5), (7, 7)) -> {[1,5],[7,7]}."""
    return "{" + ",".join(f"[{first},{last}]" for first, last in ranges) + "}"


def gap_arguments(gaps: Iterable[GapRow]) -> list[list[object]]:
    """Parameters of UPSERT_GAPS."""
    rows = [(*astuple(g)[:7], format_ranges(g.missing), g.status.value, *astuple(g)[9:]) for g in gaps]
    return _columns(rows, 12)


INSERT_OUTBOX = """
INSERT INTO bus_outbox (owner, lane, keys, ids, headers, payloads)
VALUES ($1, $2, $3::text[], $4::text[], $5::text[], $6::bytea[])
"""

READ_OUTBOX = """
SELECT lane, id, floor(extract(epoch FROM created_at))::bigint AS created_s, keys, ids, headers, payloads
  FROM bus_outbox WHERE owner = $1 ORDER BY lane, id LIMIT $2
"""
"""What an owner has to publish next: the live lane before the repair lane.

A cast rounds: without `floor` a message would claim to be of the second after its commit, and a reader that ends with
the present would take it for the future.
"""

DELETE_OUTBOX = """
DELETE FROM bus_outbox AS b USING unnest($2::smallint[], $3::bigint[]) AS u(lane, id)
 WHERE b.owner = $1 AND b.lane = u.lane AND b.id = u.id
"""

MEASURE_OUTBOX = """
SELECT coalesce(sum(cardinality(keys)), 0)::bigint AS messages,
       coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS age_s
  FROM bus_outbox WHERE owner = $1
"""

TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))"
"""The right to write as an owner. Only who is to be that owner ever takes it: nobody else may keep it out."""

TRY_TURN = "SELECT pg_try_advisory_lock(hashtextextended($1, 1))"
"""The turn to publish what a dead owner left: it keeps those who would take over apart, and never the owner."""

END_TURN = "SELECT pg_advisory_unlock(hashtextextended($1, 1))"

_ALIVE = """
EXISTS (SELECT FROM pg_locks l
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(b.owner, 0))
"""
"""Does somebody hold the right to write as this owner? Looking at a lock does not disturb its owner."""

DEAD_OWNERS = f"""
SELECT owner FROM (SELECT DISTINCT owner FROM bus_outbox WHERE owner <> $1) AS b WHERE NOT {_ALIVE} ORDER BY owner
"""

OWNERS = f"""
SELECT owner, lane, count(*)::int AS flushes, sum(cardinality(keys))::bigint AS messages,
       extract(epoch FROM now() - min(created_at))::float8 AS age_s, {_ALIVE} AS alive
  FROM bus_outbox b GROUP BY owner, lane ORDER BY owner, lane
"""
"""Who has messages waiting, and whether their owner lives."""


CLEAR_OTHERS = """
WITH gone AS (
  DELETE FROM footprint_1s AS t
   USING unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::boolean[])
      AS r(symbol, source, from_s, to_s, own)
   WHERE t.symbol = r.symbol AND (r.own OR t.source <> r.source)
     AND t.time >= timestamptz 'epoch' + r.from_s * interval '1 second'
     AND t.time <= timestamptz 'epoch' + r.to_s * interval '1 second'
     AND t.time >= timestamptz 'epoch' + $6::bigint * interval '1 second'
     AND t.time <= timestamptz 'epoch' + $7::bigint * interval '1 second'
  RETURNING t.time, t.symbol, t.close, t.rev, r.source
), told AS (
  INSERT INTO footprint_deleted AS d (symbol, time, rev) SELECT g.symbol, g.time, g.rev + 1 FROM gone g
  ON CONFLICT (symbol, time) DO UPDATE SET rev = excluded.rev
)
SELECT extract(epoch FROM g.time)::bigint AS time, g.symbol, g.rev + 1 AS rev, g.source,
       coalesce((SELECT f.close FROM footprint_1s f
                  WHERE f.symbol = g.symbol AND f.source = g.source AND f.time < g.time
                  ORDER BY f.time DESC LIMIT 1), g.close)::text AS close
  FROM gone g
"""
"""Delete other venues' seconds; returns for each the close before it, for the message that says it was quiet."""


def clearance_arguments(clearances: Sequence[Clearance]) -> list[object]:
    """Parameters of CLEAR_OTHERS; the last two bound the chunks that are looked at."""
    columns = _columns([(c.symbol, c.source, c.from_s, c.to_s, c.own) for c in clearances], 5)
    return [*columns, min(c.from_s for c in clearances), max(c.to_s for c in clearances)]
