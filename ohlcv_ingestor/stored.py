"""Rows of the database as the values a series starts from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from common.contracts import BarRow, CursorRow, FootprintRow, GapRow, GapStatus
from common.numbers import parse_scaled
from ohlcv_ingestor.bars import Bar
from ohlcv_ingestor.bricks import Brick
from ohlcv_ingestor.gaps import Gap
from ohlcv_ingestor.ring import Minute, minute_of


@dataclass
class Stored:
    """What the database knows of a series: cursor, the ring before it, and gaps not repaired."""

    last_id: int
    event_s: int
    carry: int | None = None
    minutes: dict[int, Minute] = field(default_factory=lambda: dict[int, Minute]())
    open_gaps: list[Gap] = field(default_factory=lambda: list[Gap]())
    barred: list[Gap] = field(default_factory=lambda: list[Gap]())


def brick_of_row(row: FootprintRow, scale: int) -> Brick:
    """Brick of a stored second; without ids it was settled by a kline."""
    return Brick(
        row.time,
        parse_scaled(row.open, scale), parse_scaled(row.high, scale),
        parse_scaled(row.low, scale), parse_scaled(row.close, scale),
        parse_scaled(row.buy_vol, scale), parse_scaled(row.sell_vol, scale),
        parse_scaled(row.buy_quote, 2 * scale), parse_scaled(row.sell_quote, 2 * scale),
        row.n, row.first_id, row.last_id, row.first_id is None,
    )  # fmt: skip


def bar_of_row(row: BarRow, scale: int) -> Bar:
    """Bar of a stored minute of the primary venue, which tells every column."""
    return Bar(
        row.time,
        parse_scaled(row.o, scale), parse_scaled(row.h, scale), parse_scaled(row.l, scale), parse_scaled(row.c, scale),
        parse_scaled(row.v, scale), row.n or 0, parse_scaled(row.quote_vol, 2 * scale),
        parse_scaled(row.buy_vol or "0", scale), parse_scaled(row.buy_quote_vol or "0", 2 * scale),
    )  # fmt: skip


def gap_of_row(row: GapRow) -> Gap:
    """Gap of a ledger row. Its neighbours' single-trade ids are not stored, so its sum is not checked again."""
    return Gap(
        row.from_id, row.to_id, row.from_ms, row.to_ms, row.reason, missing=list(row.missing), status=row.status,
        tries=0 if row.status is GapStatus.OPEN else row.tries, restored_n=row.restored_n, recorded=True, worked=True,
    )  # fmt: skip


def spans_to_load(
    event_s: int, gaps: Iterable[GapRow], ring_s: int, last_traded_s: int | None
) -> list[tuple[int, int]]:
    """Spans of whole minutes [from_s, to_s) before the cursor whose rows a series needs to go on.

    They are the ring, the minute of the last trade, and all that open gaps touch.
    """
    spans = [(minute_of(event_s) - ring_s, event_s)]
    if last_traded_s is not None:
        spans.append((minute_of(last_traded_s), minute_of(last_traded_s) + 60))
    for gap in gaps:
        if gap.status is GapStatus.OPEN:
            to_s = event_s if gap.to_ms is None else gap.to_ms // 1000
            spans.append((minute_of(gap.from_ms // 1000), minute_of(to_s) + 60))
    return [(first, min(last, event_s)) for first, last in spans if first < event_s]


def restore_state(
    cursor: CursorRow, bars: Iterable[BarRow], footprints: Iterable[FootprintRow], gaps: Iterable[GapRow], scale: int
) -> Stored:
    """State of a series at its cursor. `bars` also hold, before each span loaded, the last bar ahead of it.

    Rows at or after the cursor are left out: the venue is asked for them again.
    """
    rows = [row for row in bars if row.time + 60 <= cursor.event_s]
    by_minute = {row.time: bar_of_row(row, scale) for row in rows}
    complete = {row.time for row in rows if row.complete}
    minutes: dict[int, Minute] = {}
    for row in footprints:
        if row.time < cursor.event_s:
            minutes.setdefault(minute_of(row.time), Minute()).bricks[row.time] = brick_of_row(row, scale)
    closes = sorted((minute, bar.c) for minute, bar in by_minute.items())
    at, close = 0, None
    for minute in sorted(minutes.keys() | by_minute.keys()):
        while at < len(closes) and closes[at][0] < minute:
            close, at = closes[at][1], at + 1
        record = minutes.setdefault(minute, Minute())
        record.prev_close = close
        bar = by_minute.get(minute)
        record.emitted_close = None if bar is None else bar.c
        if bar is not None and minute in complete and bar.n > 0 and sum(b.n for b in record.bricks.values()) != bar.n:
            record.settled = bar  # its seconds were never stored: history of a first subscription
    ledger = list(gaps)
    return Stored(
        cursor.last_id, cursor.event_s, closes[-1][1] if closes else None, minutes,
        open_gaps=[gap_of_row(row) for row in ledger if row.status is GapStatus.OPEN],
        barred=[gap_of_row(row) for row in ledger if row.status is GapStatus.SOURCE_MISSING],
    )  # fmt: skip
