"""What the registry reads from and writes to the database: SQL, and the values that go in and come out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

import msgspec

from common.contracts import OutgoingMessage, symbol_event_message
from common.outbox import Query
from common.postgres import Connection
from registry.changes import decode_breakdown, encode_breakdown, symbol_event
from registry.facts import Facts, Kind, Night, PastVerdict, RegistryRow, Verdict
from registry.gathered import Own

HISTORY_SHOWN = 14
OWN_TIMEOUT_S = 30.0
"""For the statements that read a day of rows of every symbol."""
OPEN_INTEREST_OFF = 0.5
FUNDING_OFF = 0.04
"""An outlier: open interest further than this from its median of the day, as a share; a funding rate beyond that."""

_ROWS = f"SELECT {', '.join(RegistryRow.__struct_fields__)} FROM coin_registry"
_LAST_RUN = "SELECT max(run_at) FROM coin_registry_history"
_LAST_SAMPLE = "SELECT max(time) FROM book_samples WHERE time > $1::timestamptz - interval '1 day'"
_RUN_THERE = "SELECT EXISTS (SELECT FROM coin_registry_history WHERE run_at = $1)"

_KEPT = [name for name in RegistryRow.__struct_fields__ if name != "symbol"]
_UPSERT = f"""
INSERT INTO coin_registry AS t ({", ".join(RegistryRow.__struct_fields__)}, updated_at)
SELECT {", ".join(f"u.{name}" for name in RegistryRow.__struct_fields__)}, now()
  FROM jsonb_to_recordset($1::jsonb)
    AS u(symbol text, status text, data_health int, liquidity_cluster text, age_days int, vol_24h numeric,
         spread_pct numeric, pair text, okx_inst_id text, tick_size numeric, reason text, perp text, listed_on date,
         probation_since timestamptz, excluded_since timestamptz, good_nights int, absent_nights int, judged_on date,
         away_since jsonb)
 ORDER BY u.symbol
ON CONFLICT (symbol) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _KEPT)}, updated_at = now()
 WHERE ({", ".join(f"t.{name}" for name in _KEPT)}) IS DISTINCT FROM ({", ".join(f"excluded.{name}" for name in _KEPT)})
"""

_REMEMBER = """
INSERT INTO coin_registry_history (run_at, symbol, status, data_health, liquidity_cluster, reason, breakdown)
SELECT $1, u.* FROM unnest($2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[]::jsonb[]) AS u
"""

_SAMPLE = """
INSERT INTO book_samples (time, symbol, bid, ask, spread_pct)
SELECT $1, u.* FROM unnest($2::text[], $3::text[]::numeric[], $4::text[]::numeric[], $5::text[]::numeric[]) AS u
ON CONFLICT (symbol, time) DO NOTHING
"""

_SPREADS = """
SELECT symbol, percentile_disc(0.5) WITHIN GROUP (ORDER BY spread_pct) AS spread_pct, count(*)::int AS samples
  FROM book_samples
 WHERE symbol = ANY($1::text[]) AND time > $2::timestamptz - interval '1 day' AND time <= $2
 GROUP BY symbol
"""

_COVERAGE = """
WITH span AS (
  SELECT date_trunc('minute', $2::timestamptz - interval '1 day') AS from_t,
         date_trunc('minute', $2::timestamptz - interval '2 minutes') AS to_t
), followed AS (
  SELECT w.symbol, s.to_t,
         CASE WHEN EXISTS (SELECT FROM raw_bars b WHERE b.symbol = w.symbol
                            AND b.time < s.from_t AND b.time >= s.from_t - interval '7 days')
              THEN s.from_t
              ELSE (SELECT min(b.time) FROM raw_bars b
                     WHERE b.symbol = w.symbol AND b.time >= s.from_t AND b.time < s.to_t) END AS from_t
    FROM unnest($1::text[]) AS w(symbol), span s
)
SELECT f.symbol,
       (SELECT count(*) FROM raw_bars b
         WHERE b.symbol = f.symbol AND b.time >= f.from_t AND b.time < f.to_t AND b.complete) AS good,
       extract(epoch FROM f.to_t - f.from_t)::bigint / 60 AS minutes,
       (SELECT coalesce(sum(extract(epoch FROM upper(r) - lower(r))), 0)::bigint / 60
          FROM unnest((SELECT range_agg(tstzrange(greatest(g.from_time, f.from_t), least(g.to_time, f.to_t)))
                         FROM feed_gaps g
                        WHERE g.service = 'ohlcv' AND g.venue = 'binance' AND g.symbol = f.symbol
                          AND g.status = 'not_subscribed'
                          AND g.from_time < f.to_t AND g.to_time > f.from_t)) AS r) AS unwanted
  FROM followed f WHERE f.from_t IS NOT NULL
"""
"""Complete minutes, minutes since we follow (a day at most), and those of them in which we did not want the pair."""

_METRICS_THERE = "SELECT to_regclass('metric_15s') IS NOT NULL"
_METRICS = f"""
WITH rows AS (
  SELECT symbol, funding, open_interest, cvd_delta FROM metric_15s
   WHERE symbol = ANY($1::text[]) AND time > $2::timestamptz - interval '1 day' AND time <= $2
), middles AS (
  SELECT symbol, percentile_disc(0.5) WITHIN GROUP (ORDER BY open_interest) AS open_interest FROM rows GROUP BY symbol
)
SELECT r.symbol, count(*)::int AS n, count(*) FILTER (WHERE r.cvd_delta IS NULL)::int AS no_cvd,
       count(*) FILTER (WHERE r.funding IS NULL)::int AS no_funding,
       count(*) FILTER (WHERE r.open_interest IS NULL)::int AS no_interest,
       count(*) FILTER (WHERE r.funding IS NOT NULL OR r.open_interest IS NOT NULL)::int AS judged,
       count(*) FILTER (WHERE abs(r.open_interest - m.open_interest) > {OPEN_INTEREST_OFF} * m.open_interest
                           OR abs(r.funding) > {FUNDING_OFF})::int AS outliers
  FROM rows r JOIN middles m USING (symbol) GROUP BY r.symbol
"""

_BREAKDOWN = """
SELECT breakdown::text AS breakdown FROM coin_registry_history WHERE symbol = $1 ORDER BY run_at DESC LIMIT 1
"""
_HISTORY = """
SELECT run_at, status, data_health, liquidity_cluster, reason FROM coin_registry_history
 WHERE symbol = $1 ORDER BY run_at DESC LIMIT $2
"""
_KINDS = """
SELECT r.symbol, last.kind
  FROM coin_registry r,
       LATERAL (SELECT h.breakdown -> 'facts' ->> 'kind' AS kind FROM coin_registry_history h
                 WHERE h.symbol = r.symbol ORDER BY h.run_at DESC LIMIT 1) last
 WHERE last.kind IS NOT NULL
"""
# Runs of an older version did not note it: there a known market cap stands for the vendor's answer.
_KINDS_TOLD = """
SELECT EXISTS (SELECT FROM coin_registry_history
                WHERE run_at > $1::timestamptz - make_interval(days => $2)
                  AND coalesce((breakdown -> 'facts' ->> 'kinds_told')::boolean,
                               breakdown -> 'facts' ->> 'market_cap' IS NOT NULL))
"""
KINDS_PAUSE_DAYS = 3
"""For so long without all its categories their vendor is away for some nights; after that they are not to be had."""
_POPULATION = """
SELECT DISTINCT ON (symbol) (breakdown -> 'facts')::text AS facts FROM coin_registry_history
 WHERE run_at > $1::timestamptz - make_interval(days => $2) ORDER BY symbol, run_at DESC
"""


class Sample(msgspec.Struct, frozen=True):
    """Best bid and ask of a pair, and the spread in percent."""

    symbol: str
    bid: Decimal
    ask: Decimal
    spread_pct: Decimal


async def read_rows(query: Query) -> dict[str, RegistryRow]:
    """The whole table by symbol."""
    rows = [dict(row) | {"away_since": msgspec.json.decode(row["away_since"])} for row in await query(_ROWS)]
    return {row["symbol"]: msgspec.convert(row, RegistryRow) for row in rows}


async def read_last_run(query: Query) -> dt.datetime | None:
    """When the last run that was written began."""
    return (await query(_LAST_RUN))[0][0]


async def was_run(query: Query, at: dt.datetime) -> bool:
    """Was a run that began at this second written?"""
    return (await query(_RUN_THERE, at))[0][0]


async def read_last_sample(query: Query, now: dt.datetime) -> dt.datetime | None:
    """When a spread was sampled last, in the last day."""
    return (await query(_LAST_SAMPLE, now))[0][0]


async def read_kinds(query: Query) -> dict[str, Kind]:
    """What sort of asset each symbol of the table was when it was judged last."""
    return {row["symbol"]: Kind(row["kind"]) for row in await query(_KINDS, timeout_s=OWN_TIMEOUT_S)}


async def kinds_told(query: Query, now: dt.datetime) -> bool:
    """Was a run of the last nights told all categories?"""
    return (await query(_KINDS_TOLD, now, KINDS_PAUSE_DAYS, timeout_s=OWN_TIMEOUT_S))[0][0]


async def read_own(
    query: Query, pairs: Collection[str], followed: Mapping[str, bool], now: dt.datetime
) -> dict[str, Own]:
    """What our tables say of these pairs in the 24 h before `now`.

    `followed` are the pairs that ingestors follow, with whether each has a perpetual: of others bars and metrics say
    nothing.
    """
    found: dict[str, dict[str, Decimal | int | None]] = {pair: {} for pair in pairs}
    for r in await query(_SPREADS, sorted(pairs), now, timeout_s=OWN_TIMEOUT_S):
        found[r["symbol"]] |= {"spread_pct": r["spread_pct"], "spread_samples": r["samples"]}
    wanted = sorted(found.keys() & followed.keys())
    for r in await query(_COVERAGE, wanted, now, timeout_s=OWN_TIMEOUT_S):
        found[r["symbol"]]["bar_coverage"] = _share(r["good"], r["minutes"] - r["unwanted"])
    if (await query(_METRICS_THERE))[0][0]:
        for r in await query(_METRICS, wanted, now, timeout_s=OWN_TIMEOUT_S):
            nulls, fields = r["no_cvd"], r["n"]
            if followed[r["symbol"]]:
                nulls, fields = nulls + r["no_funding"] + r["no_interest"], 3 * fields
            shares = {"null_share": _share(nulls, fields), "outlier_share": _share(r["outliers"], r["judged"])}
            found[r["symbol"]] |= shares
    return {pair: msgspec.convert(values, Own) for pair, values in found.items()}


def _share(part: int, whole: int) -> Decimal | None:
    return round(min(Decimal(1), Decimal(part) / whole), 4) if whole > 0 else None


async def write_night(con: Connection, night: Night) -> tuple[int, Sequence[OutgoingMessage]]:
    """Write a run in the transaction that `con` is in; answers how many events, and the events.

    The same run again changes nothing and announces nothing: its rows are there.
    """
    if await con.fetchval(_RUN_THERE, night.run_at):
        return 0, ()
    rows = sorted([v.row for v in night.verdicts] + list(night.idle), key=lambda row: row.symbol)
    await con.execute(_UPSERT, msgspec.json.encode(rows).decode())
    columns = [[getattr(v.row, name) for v in night.verdicts] for name in _REMEMBERED]
    await con.execute(_REMEMBER, night.run_at, *columns, [encode_breakdown(v) for v in night.verdicts])
    messages = [symbol_event_message(symbol_event(v), night.run_at) for v in night.verdicts if v.changed]
    return len(messages), messages


_REMEMBERED = ("symbol", "status", "data_health", "liquidity_cluster", "reason")


async def write_samples(con: Connection, at: dt.datetime, samples: Sequence[Sample]) -> tuple[None, tuple[()]]:
    """Write spreads of one moment; those that are there stay."""
    ordered = sorted(samples, key=lambda one: one.symbol)
    texts = [[format(getattr(one, name), "f") for one in ordered] for name in ("bid", "ask", "spread_pct")]
    await con.execute(_SAMPLE, at, [one.symbol for one in ordered], *texts)
    return None, ()


async def read_verdict(query: Query, symbol: str) -> tuple[Verdict, list[PastVerdict]] | None:
    """The last verdict on a symbol with its history, newest first; None when it was never judged."""
    found = await query(_BREAKDOWN, symbol)
    if not found:
        return None
    past = [msgspec.convert(dict(r), PastVerdict) for r in await query(_HISTORY, symbol, HISTORY_SHOWN)]
    return decode_breakdown(found[0]["breakdown"]), past


async def read_population(query: Query, now: dt.datetime, days: int) -> list[Facts]:
    """The newest facts of every symbol judged in so many days."""
    rows = await query(_POPULATION, now, days, timeout_s=OWN_TIMEOUT_S)
    return [msgspec.json.decode(r["facts"], type=Facts) for r in rows]
