"""The SQL of the metric ingestor, each statement with what builds its parameters. Pure text and values.

Times travel as epoch seconds or milliseconds and become timestamps by integer arithmetic in SQL. Rows are sorted by
key, so that two writers that overlap wait for each other instead of deadlocking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import astuple

from common.contracts import REWRITER, MetricRow
from metric_ingestor.dirty import Window

SERVICE_OF_TRADES = "ohlcv"
REVISERS = (SERVICE_OF_TRADES, REWRITER)
"""Whose rows of the ledger tell of seconds that changed."""

_S = "timestamptz 'epoch' + {} * interval '1 second'"


def _at(seconds: str) -> str:
    return _S.format(seconds)


EVIDENCE = f"""
SELECT w.symbol, w.window_s, coalesce(f.net, ''), f.source_min, f.source_max, f.grade_min,
       coalesce(extract(epoch FROM c.event_time)::bigint, 0), coalesce(g.touched, false), g.minute_touched, f.minute_n,
       f.minute_source_min, f.minute_source_max, b.source, b.grade::int, b.n,
       m.cvd_delta, m.cvd_source, m.symbol IS NOT NULL AS stored, coalesce(g.idle, false) AS idle
  FROM (SELECT u.symbol, u.window_s, {_at("(u.window_s - 15)")} AS from_time, {_at("u.window_s")} AS to_time,
               {_at("((u.window_s - 1) / 60 * 60)")} AS minute
          FROM unnest($1::text[], $2::bigint[]) AS u(symbol, window_s)) w
  LEFT JOIN ingest_cursors c ON c.service = $3 AND c.venue = $4 AND c.symbol = w.symbol
  LEFT JOIN LATERAL (
    SELECT (sum(s.buy_vol - s.sell_vol) FILTER (WHERE s.time >= w.from_time AND s.time < w.to_time))::text AS net,
           min(s.source) FILTER (WHERE s.time >= w.from_time AND s.time < w.to_time) AS source_min,
           max(s.source) FILTER (WHERE s.time >= w.from_time AND s.time < w.to_time) AS source_max,
           min(s.grade::int) FILTER (WHERE s.time >= w.from_time AND s.time < w.to_time) AS grade_min,
           coalesce(sum(s.n), 0)::bigint AS minute_n, min(s.source) AS minute_source_min,
           max(s.source) AS minute_source_max
      FROM footprint_1s s
     WHERE s.symbol = w.symbol AND s.time >= w.minute AND s.time < w.minute + interval '1 minute'
       AND s.time >= {_at("$5::bigint")} AND s.time < {_at("$6::bigint")}) f ON true
  LEFT JOIN LATERAL (
    SELECT bool_or(l.from_time < w.to_time AND (l.to_time IS NULL OR l.to_time >= w.from_time)) AS touched,
           bool_or(l.status = 'not_subscribed' AND l.from_time < w.to_time
                   AND (l.to_time IS NULL OR l.to_time >= w.from_time)) AS idle,
           count(*) > 0 AS minute_touched
      FROM feed_gaps l
     WHERE l.service = $3 AND l.venue = $4 AND l.symbol = w.symbol AND l.status <> 'repaired'
       AND l.from_time < w.minute + interval '1 minute' AND (l.to_time IS NULL OR l.to_time >= w.minute)) g ON true
  LEFT JOIN raw_bars b ON b.symbol = w.symbol AND b.time = w.minute
   AND b.time >= {_at("$5::bigint")} AND b.time < {_at("$6::bigint")}
  LEFT JOIN metric_15s m ON m.symbol = w.symbol AND m.time = w.to_time
   AND m.time > {_at("$5::bigint")} AND m.time <= {_at("$6::bigint")}
"""
"""What the tables say of windows, all read at one moment: the fields of `Evidence` in their order, those of the stored
`Flow`, whether there is a row, and whether the symbol was not wanted. The last two parameters bound the chunks.
"""


def evidence_arguments(windows: Sequence[Window], venue: str) -> list[object]:
    """Parameters of EVIDENCE."""
    ends = [end for _, end in windows]
    from_s, to_s = (min(ends) - 1) // 60 * 60, (max(ends) - 1) // 60 * 60 + 60
    return [[symbol for symbol, _ in windows], ends, SERVICE_OF_TRADES, venue, from_s, to_s]


_NEWER_FUNDING = "excluded.funding_time > coalesce(t.funding_time, '-infinity')"
_NEWER_OI = "excluded.oi_time > coalesce(t.oi_time, '-infinity')"

UPSERT = f"""
INSERT INTO metric_15s AS t (time, symbol, funding, open_interest, cvd_delta, funding_interval_h, funding_source,
                             oi_source, cvd_source, funding_time, oi_time)
SELECT {_at("u.time")}, u.symbol, u.funding, u.open_interest, u.cvd_delta, u.funding_interval_h, u.funding_source,
       u.oi_source, u.cvd_source, timestamptz 'epoch' + u.funding_ms * interval '1 millisecond',
       timestamptz 'epoch' + u.oi_ms * interval '1 millisecond'
  FROM unnest($1::bigint[], $2::text[], $3::float8[], $4::float8[], $5::float8[], $6::smallint[], $7::text[],
              $8::text[], $9::text[], $10::bigint[], $11::bigint[])
    AS u(time, symbol, funding, open_interest, cvd_delta, funding_interval_h, funding_source, oi_source, cvd_source,
         funding_ms, oi_ms)
ON CONFLICT (symbol, time) DO UPDATE
   SET funding = CASE WHEN {_NEWER_FUNDING} THEN excluded.funding ELSE t.funding END,
       funding_interval_h = CASE WHEN {_NEWER_FUNDING} THEN excluded.funding_interval_h ELSE t.funding_interval_h END,
       funding_source = CASE WHEN {_NEWER_FUNDING} THEN excluded.funding_source ELSE t.funding_source END,
       funding_time = greatest(excluded.funding_time, t.funding_time),
       open_interest = CASE WHEN {_NEWER_OI} THEN excluded.open_interest ELSE t.open_interest END,
       oi_source = CASE WHEN {_NEWER_OI} THEN excluded.oi_source ELSE t.oi_source END,
       oi_time = greatest(excluded.oi_time, t.oi_time),
       cvd_delta = excluded.cvd_delta, cvd_source = excluded.cvd_source, rev = t.rev + 1, updated_at = now()
 WHERE (t.cvd_delta, t.cvd_source) IS DISTINCT FROM (excluded.cvd_delta, excluded.cvd_source)
    OR {_NEWER_FUNDING} OR {_NEWER_OI}
RETURNING extract(epoch FROM t.time)::bigint AS time, t.symbol, t.funding, t.open_interest, t.cvd_delta,
          t.funding_interval_h::int, t.funding_source, t.oi_source, t.cvd_source,
          (extract(epoch FROM t.funding_time) * 1000)::bigint AS funding_ms,
          (extract(epoch FROM t.oi_time) * 1000)::bigint AS oi_ms, t.rev
"""
"""Rows of windows; returns all columns of what changed, in no promised order.

The signed volume is what it is now; a sampled value stays until a newer one comes, and a row that only brings a signed
volume leaves them alone.
"""


def upsert_arguments(rows: Iterable[MetricRow]) -> list[list[object]]:
    """Parameters of UPSERT: the struct's fields, in the order in which they are declared."""
    ordered = [astuple(row) for row in sorted(rows, key=lambda row: (row.symbol, row.time))]
    columns: list[list[object]] = [list(column) for column in zip(*ordered, strict=True)]
    return columns or [[] for _ in MetricRow.__struct_fields__]


CURSORS = """
SELECT symbol, extract(epoch FROM event_time)::bigint AS cursor_s FROM ingest_cursors
 WHERE service = $1 AND venue = $2 AND symbol = ANY($3::text[])
"""
"""How far the trades of these symbols are stored: the watermark that rows wait for."""

LAST_ROWS = """
SELECT w.symbol, extract(epoch FROM m.time)::bigint AS time, m.updated_at,
       (extract(epoch FROM m.funding_time) * 1000)::bigint AS funding, (extract(epoch FROM m.oi_time) * 1000)::bigint
       AS open_interest
  FROM unnest($1::text[]) AS w(symbol)
 CROSS JOIN LATERAL (SELECT time, updated_at, funding_time, oi_time FROM metric_15s
                      WHERE symbol = w.symbol ORDER BY time DESC LIMIT 1) m
"""
"""The newest row of each symbol: where the last life of this service ended, if this one has not written yet."""

LEDGER = """
SELECT symbol, from_id, updated_at, extract(epoch FROM from_time)::float8 AS from_s,
       extract(epoch FROM to_time)::float8 AS to_s, now() AS now
  FROM feed_gaps
 WHERE service = ANY($1::text[]) AND venue = $2 AND symbol = ANY($3::text[])
   AND updated_at >= coalesce($4::timestamptz, now()) - $5 * interval '1 second'
"""
"""Gaps that changed since a moment, less a margin for transactions that had begun before it."""

DATABASE_NOW = "SELECT now() AS now"

UPSERT_SETTLED = """
INSERT INTO funding_settled AS t (time, symbol, rate, regular, source)
SELECT timestamptz 'epoch' + u.time * interval '1 second', u.symbol, u.rate, u.regular, 'binance'
  FROM unnest($1::bigint[], $2::text[], $3::text[]::numeric[], $4::boolean[]) AS u(time, symbol, rate, regular)
ON CONFLICT (symbol, time, regular) DO UPDATE SET rate = excluded.rate, updated_at = now()
 WHERE t.rate IS DISTINCT FROM excluded.rate
"""
"""Settlements; the same again changes nothing."""

LAST_SETTLED = """
SELECT extract(epoch FROM max(time))::bigint AS time FROM funding_settled WHERE symbol = ANY($1::text[])
"""
"""Of our own symbols: other instances may be further."""

LIQUIDITY = """
SELECT pair, vol_24h::float8 AS volume FROM coin_registry WHERE pair = ANY($1::text[]) AND vol_24h IS NOT NULL
"""
"""Which symbols are the most liquid: they are asked first when the budget can not carry all."""
