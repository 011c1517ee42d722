"""SQL of the macro ingestor; times go in and out as epoch seconds. Pure."""

from __future__ import annotations

from macro_ingestor.readings import SLOT_COLUMNS

LOCK_QUOTA = "SELECT pg_advisory_xact_lock(hashtextextended('trading-bus/macro-quota/' || $1, 0))"
READ_CALLS = "SELECT extract(epoch FROM hour)::bigint AS hour, calls FROM macro_quota WHERE provider = $1"
READ_ALL_CALLS = "SELECT provider, extract(epoch FROM hour)::bigint AS hour, calls FROM macro_quota"
ADD_CALL = """
INSERT INTO macro_quota AS q (provider, hour, calls) VALUES ($1, to_timestamp($2::bigint), 1)
ON CONFLICT (provider, hour) DO UPDATE SET calls = q.calls + 1
"""
FORGET_CALLS = "DELETE FROM macro_quota WHERE provider = $1 AND hour < to_timestamp($2::bigint)"

LOAD_READINGS = """
SELECT column_name, provider, extract(epoch FROM as_of)::bigint AS as_of, value::text AS value, source
  FROM (SELECT *, row_number() OVER (PARTITION BY column_name, provider ORDER BY as_of DESC) AS place
          FROM macro_readings WHERE as_of <= to_timestamp($2::bigint)) r
 WHERE place <= $1
"""
LOAD_ASKS = (
    "SELECT provider, column_name, extract(epoch FROM asked_at)::bigint AS asked_at, outcome, error FROM macro_asks"
)
LOAD_CIRCUITS = (
    "SELECT provider, failures, extract(epoch FROM open_until)::bigint AS open_until, error FROM macro_circuits"
)

UPSERT_READINGS = """
INSERT INTO macro_readings AS t (column_name, provider, as_of, value, source)
SELECT c, p, to_timestamp(a), v::numeric, s
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[]) AS r(c, p, a, v, s)
ON CONFLICT (column_name, provider, as_of) DO UPDATE
   SET value = excluded.value, source = excluded.source, rev = t.rev + 1, updated_at = now()
 WHERE (t.value, t.source) IS DISTINCT FROM (excluded.value, excluded.source)
"""
UPSERT_ASKS = """
INSERT INTO macro_asks (provider, column_name, asked_at, outcome, error)
SELECT p, c, to_timestamp(a), o, e
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[]) AS r(p, c, a, o, e)
ON CONFLICT (provider, column_name) DO UPDATE
   SET asked_at = excluded.asked_at, outcome = excluded.outcome, error = excluded.error
"""
UPSERT_CIRCUIT = """
INSERT INTO macro_circuits (provider, failures, open_until, error) VALUES ($1, $2, to_timestamp($3::bigint), $4)
ON CONFLICT (provider) DO UPDATE
   SET failures = excluded.failures, open_until = excluded.open_until, error = excluded.error
"""

_NAMES = ", ".join(SLOT_COLUMNS)
_GIVEN = ", ".join(f"${place}::text::numeric" for place in range(2, 2 + len(SLOT_COLUMNS)))
_TAIL = len(SLOT_COLUMNS) + 2
_KEPT = [f"coalesce(excluded.{column}, t.{column})" for column in SLOT_COLUMNS]
_SET = ", ".join(f"{column} = {kept}" for column, kept in zip(SLOT_COLUMNS, _KEPT, strict=True))
_MERGED = ("t.as_of || excluded.as_of", "t.source || excluded.source")
_OLD = ", ".join(f"t.{column}" for column in (*SLOT_COLUMNS, "as_of", "source"))
_NEW = ", ".join((*_KEPT, *_MERGED))

UPSERT_SLOT = f"""
INSERT INTO macro_onchain_15m AS t (time, {_NAMES}, as_of, source)
VALUES (to_timestamp($1::bigint), {_GIVEN}, ${_TAIL}::text::jsonb, ${_TAIL + 1}::text::jsonb)
ON CONFLICT (time) DO UPDATE
   SET {_SET}, as_of = {_MERGED[0]}, source = {_MERGED[1]}, rev = t.rev + 1, updated_at = now()
 WHERE ({_OLD}) IS DISTINCT FROM ({_NEW})
RETURNING {", ".join(f"{column}::text" for column in (*SLOT_COLUMNS, "as_of", "source"))}, rev
"""
"""What was known when the quarter began stays known in its row, whatever is too old by a restart within it."""

UPSERT_DAYS = """
INSERT INTO macro_btc_daily AS t (day, mvrv, asopr_7d, nupl, as_of, source)
SELECT d, m::numeric, s::numeric, n::numeric, a::jsonb, o::jsonb
  FROM unnest($1::date[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) AS r(d, m, s, n, a, o)
ON CONFLICT (day) DO UPDATE
   SET mvrv = coalesce(excluded.mvrv, t.mvrv), asopr_7d = coalesce(excluded.asopr_7d, t.asopr_7d),
       nupl = coalesce(excluded.nupl, t.nupl), as_of = t.as_of || excluded.as_of, source = t.source || excluded.source,
       rev = t.rev + 1, updated_at = now()
 WHERE (t.mvrv, t.asopr_7d, t.nupl, t.as_of, t.source) IS DISTINCT FROM
       (coalesce(excluded.mvrv, t.mvrv), coalesce(excluded.asopr_7d, t.asopr_7d), coalesce(excluded.nupl, t.nupl),
        t.as_of || excluded.as_of, t.source || excluded.source)
RETURNING day, extract(epoch FROM day)::bigint AS day_s, mvrv::text, asopr_7d::text, nupl::text,
          as_of::text, source::text, rev
"""
"""What is known is never replaced by null."""
