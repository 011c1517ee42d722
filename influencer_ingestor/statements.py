"""The SQL of the influencer ingestor; batches travel as one array per column. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from common.contracts import SignalRow
from common.numbers import format_scaled
from influencer_ingestor.events import SCALE, RawEvent, Source
from influencer_ingestor.positions import Position

CHANNEL = "influencers"
"""What the table's trigger notifies."""

_TIME = "timestamptz 'epoch' + {} * interval '1 millisecond'"
_MS = "(extract(epoch FROM {}) * 1000)::bigint"

READ_ACCOUNTS = f"""
SELECT address, influencer_id, label, priority, markets, enabled, {_MS.format("added_at")} AS added_ms,
       backoff_first_s, backoff_max_s
  FROM influencers ORDER BY priority DESC, address
"""

INSERT_RAW = f"""
INSERT INTO influencer_raw_events (time, influencer_address, event_type, id, market, raw_payload, source, listener,
                                   received_at)
SELECT {_TIME.format("u.time_ms")}, u.address, u.event_type, u.id, u.market, u.payload::json, u.source, u.listener,
       {_TIME.format("u.received_ms")}
  FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::smallint[],
              $9::bigint[])
    AS u(time_ms, address, event_type, id, market, payload, source, listener, received_ms)
ON CONFLICT (influencer_address, event_type, id, time) DO NOTHING
RETURNING influencer_address, event_type, id
"""

INSERT_SIGNALS = f"""
INSERT INTO influencer_signals (signal_id, influencer_id, exchange, market, action, side, size, delta_size, price, time,
                                source_event_id, metadata)
SELECT u.signal_id, u.influencer_id, u.exchange, u.market, u.action, u.side, u.size::numeric, u.delta_size::numeric,
       u.price::numeric, {_TIME.format("u.time_ms")}, u.source_event_id, u.metadata::jsonb
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
              $9::text[], $10::bigint[], $11::text[], $12::text[])
    AS u(signal_id, influencer_id, exchange, market, action, side, size, delta_size, price, time_ms, source_event_id,
         metadata)
ON CONFLICT (signal_id, time) DO NOTHING
RETURNING signal_id
"""
"""Answers those that were not there: exactly they are announced, in the same transaction."""

UPSERT_POSITIONS = f"""
INSERT INTO influencer_positions AS p (address, coin, size, time, event_id, leverage, margin_mode)
SELECT u.address, u.coin, u.size::numeric, {_TIME.format("u.time_ms")}, u.event_id, u.leverage, u.margin_mode
  FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::int[], $7::text[])
    AS u(address, coin, size, time_ms, event_id, leverage, margin_mode)
ON CONFLICT (address, coin) DO UPDATE
   SET size = excluded.size, time = excluded.time, event_id = excluded.event_id,
       leverage = coalesce(excluded.leverage, p.leverage), margin_mode = coalesce(excluded.margin_mode, p.margin_mode),
       updated_at = now()
 WHERE excluded.time >= p.time
"""

UPSERT_CURSORS = f"""
INSERT INTO ingest_cursors AS c (service, venue, symbol, last_id, event_time)
SELECT $1, $2, u.address, u.time_ms, {_TIME.format("u.time_ms")}
  FROM unnest($3::text[], $4::bigint[]) AS u(address, time_ms)
ON CONFLICT (service, venue, symbol) DO UPDATE SET last_id = excluded.last_id, event_time = excluded.event_time
 WHERE c.last_id < excluded.last_id
"""
"""Up to when all fills of an account are stored; it never goes back."""

READ_CURSOR = "SELECT last_id FROM ingest_cursors WHERE service = $1 AND venue = $2 AND symbol = $3"

READ_KEYS = """
SELECT id FROM (SELECT id, time FROM influencer_raw_events
                 WHERE influencer_address = $1 AND event_type = 'FILL' ORDER BY time DESC LIMIT $2) newest
 ORDER BY time
"""

READ_POSITIONS = f"""
SELECT coin, size::text AS size, {_MS.format("time")} AS time_ms, event_id, leverage, margin_mode
  FROM influencer_positions WHERE address = $1
"""

READ_NEWEST_FILLS = """
SELECT r.raw_payload::text AS raw
  FROM influencer_positions p
  JOIN influencer_raw_events r ON r.influencer_address = p.address AND r.time = p.time AND r.event_type = 'FILL'
 WHERE p.address = $1 AND p.event_id <> ''
"""
"""All fills of the times at which positions stand, other coins' among them."""

READ_GAPS = f"""
SELECT symbol, from_id, {_MS.format("from_time")} AS from_ms, {_MS.format("to_time")} AS to_ms, reason, tries
  FROM feed_gaps
 WHERE service = $1 AND venue = $2 AND status = 'open' AND starts_with(symbol, $3 || ':') AND to_time IS NOT NULL
"""

CLOSE_LEFT_GAPS = """
UPDATE feed_gaps AS g SET status = 'not_subscribed', updated_at = now()
 WHERE service = $1 AND venue = $2 AND status = 'open' AND NOT EXISTS (
       SELECT FROM influencers i WHERE i.address = split_part(g.symbol, ':', 1) AND i.enabled
                                   AND g.to_time >= date_trunc('milliseconds', i.added_at))
"""
"""Gaps of accounts that nobody watches, or not since before: nobody asks for them any more."""

READ_FILLS_BETWEEN = """
SELECT raw_payload::text AS raw FROM influencer_raw_events
 WHERE influencer_address = $1 AND event_type = 'FILL' AND market = $2
   AND time BETWEEN timestamptz 'epoch' + $3::bigint * interval '1 millisecond'
                AND timestamptz 'epoch' + $4::bigint * interval '1 millisecond'
 ORDER BY time
"""

READ_FILLS_SINCE = f"""
SELECT raw_payload::text AS raw, id, source, {_MS.format("received_at")} AS received_ms
  FROM influencer_raw_events
 WHERE influencer_address = $1 AND event_type = 'FILL' AND (time, id) > (timestamptz 'epoch' + $2::bigint
       * interval '1 millisecond', $3::text)
 ORDER BY time, id LIMIT $4
"""

READ_SIGNAL_IDS = "SELECT signal_id FROM influencer_signals WHERE signal_id = ANY($1::text[])"


class RawRow(msgspec.Struct, frozen=True):
    """A row of `influencer_raw_events`: the event, and how and when it reached us (epoch ms)."""

    event: RawEvent
    source: Source
    listener: int | None
    received_ms: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        """The table's key."""
        return self.event.address, self.event.event_type.value, self.event.event_id, self.event.time_ms


class PositionRow(msgspec.Struct, frozen=True):
    """A row of `influencer_positions`; None keeps what is stored."""

    position: Position
    leverage: int | None = None
    margin_mode: str | None = None


def raw_arguments(rows: Iterable[RawRow]) -> list[list[object]]:
    """Parameters of INSERT_RAW, each key once, in the order of the keys."""
    unique = {row.key: row for row in reversed(list(rows))}
    return _columns(
        [
            (
                row.event.time_ms, row.event.address, row.event.event_type.value, row.event.event_id, row.event.market,
                row.event.payload.decode(), row.source.value, row.listener, row.received_ms,
            )
            for _, row in sorted(unique.items(), key=lambda item: item[0])
        ],
        9,
    )  # fmt: skip


def signal_arguments(rows: Iterable[SignalRow]) -> list[list[object]]:
    """Parameters of INSERT_SIGNALS: the struct's fields, each id once, in the order of the ids."""
    unique = {row.signal_id: row for row in rows}
    return _columns([msgspec.structs.astuple(row) for _, row in sorted(unique.items())], 12)


def position_arguments(rows: Iterable[PositionRow]) -> list[list[object]]:
    """Parameters of UPSERT_POSITIONS, the newest of each account and coin: of one time the last."""
    last: dict[tuple[str, str], PositionRow] = {}
    for row in rows:
        key = row.position.address, row.position.coin
        if key not in last or row.position.time_ms >= last[key].position.time_ms:
            last[key] = row
    return _columns(
        [
            (
                row.position.address, row.position.coin, format_scaled(row.position.size, SCALE), row.position.time_ms,
                row.position.event_id, row.leverage, row.margin_mode,
            )
            for _, row in sorted(last.items())
        ],
        7,
    )  # fmt: skip


def _columns(rows: Sequence[Sequence[object]], width: int) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
