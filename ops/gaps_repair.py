"""Repairing gaps by hand: fetch, commit and divide them step by step, so that an interruption costs one step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import msgspec

from common.batch import Batch
from common.contracts import GapRow, Retraction, format_time
from common.errors import Refused
from common.store import Store
from common.venues.binance_spot import MARKET
from ohlcv_ingestor.ring import minute_of
from ops.gaps_ledger import read_bars, read_ledger
from ops.gaps_plan import (
    SERVICE,
    UNPROVEN,
    VENUE,
    Ends,
    began_anew,
    divide_gap,
    find_ends,
    follow_close,
    is_done,
    may_pause,
    span_batch,
)
from ops.gaps_refetch import SPAN_MAX_S, Edge, Span, fetch_span
from ops.gaps_venue import Asker, Say

STEP_S = 3_600
"""A step is committed, with its messages, after this much of a gap."""
CHAIN_MAX = 10_000
"""Minutes without a trade that are looked at after a changed close."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of one gap: ledger rows by status, and rows that changed."""

    repaired: int = 0
    still_missing: int = 0
    rows: int = 0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.repaired + other.repaired, self.still_missing + other.still_missing, self.rows + other.rows)


async def repair_gap(store: Store, asker: Asker, gap: GapRow, say: Say) -> Outcome:
    """Fetch every minute that a gap touches anew, commit it with the ledger, and go on until the gap's end.

    Raises TryLater when the venue or the database stays away, Refused when the venue's ids began anew; what was
    committed until then stays.
    """
    symbol, total = gap.symbol, Outcome()
    ends: Ends = await asker.drive(symbol, find_ends(gap))
    rest: GapRow | None = gap
    while rest is not None:
        spans = await _fetch_step(asker, rest, ends.from_s)
        rows, following = divide_gap(rest, spans, ends)
        changed = await commit_step(store, spans, rows, following)
        last = spans[-1]
        left = [row for row in rows if row.status in UNPROVEN]
        say(
            f"{symbol} {format_time(spans[0].from_s)} to {format_time(last.to_s)}: "
            f"{f'the venue lacks {missing_ids(left)} ids, {left[0].status}' if left else 'repaired'}, "
            f"{sum(len(s.bricks) for s in spans)} seconds fetched, {changed} rows changed"
        )
        total += Outcome(len(rows) - len(left), len(left), changed)
        rest, ends = following, Ends(last.to_s, last.after.first, ends.next_first)
    return total


def missing_ids(gaps: Iterable[GapRow]) -> int:
    """How many ids are missing, as far as they are known."""
    return sum(last - first + 1 for gap in gaps for first, last in gap.missing)


async def _fetch_step(asker: Asker, gap: GapRow, from_s: int) -> list[Span]:
    """Minutes of a step; it goes on past its length to a trade at which the gap can be divided, or to its end.

    Raises Refused where the venue's ids will never reach that end.
    """
    assert gap.to_id is not None
    assert gap.to_ms is not None
    spans: list[Span] = []
    at, edge, end_s = from_s, None, minute_of(gap.to_ms // 1000) + 60
    while True:
        to_s = min(at + SPAN_MAX_S, end_s) if at < end_s else at + 60
        span: Span = await asker.drive(gap.symbol, fetch_span(at, to_s, edge))
        spans.append(span)
        if is_done(gap, span) or (to_s - from_s >= STEP_S and may_pause(gap, span)):
            return spans
        if began_anew(gap, span):
            raise Refused(f"the venue's ids began anew: after this gap it counts {span.after.id}, not {gap.to_id + 1}")
        at, edge = to_s, _known(span.after)


def _known(edge: Edge) -> Edge | None:
    return None if edge.ms is None else edge


async def commit_step(store: Store, spans: Sequence[Span], rows: Sequence[GapRow], rest: GapRow | None) -> int:
    """Commit rows and ledger; a gap that an ingestor wrote meanwhile lowers what it touches. Returns rows changed."""
    symbol, ledger = rows[0].symbol, [*rows, *([] if rest is None else [rest])]
    read = partial(read_ledger, store, UNPROVEN, [symbol], 1000 * spans[0].from_s, 1000 * (spans[-1].to_s + 1))
    own = {row.from_id for row in ledger}
    others = [e.gap for e in await read() if _key(e.gap) == (SERVICE, VENUE) and e.gap.from_id not in own]
    batch = span_batch(symbol, spans, others + [g for g in ledger if g.status in UNPROVEN])
    for row in ledger:
        batch.put_gap(row)
    committed = await store.commit(batch)
    changed = committed.bars + committed.footprints
    known = own | {g.from_id for g in others}
    fresh = [e.gap for e in await read() if _key(e.gap) == (SERVICE, VENUE) and e.gap.from_id not in known]
    if fresh:
        lowering = Batch()
        for gap in fresh:
            to_s = spans[-1].to_s if gap.to_ms is None else gap.to_ms // 1000
            lowering.retract(Retraction(gap.symbol, MARKET.source, gap.from_ms // 1000, to_s))
        await store.commit(lowering)
    return changed + await correct_flat_bars(store, symbol, spans[-1])


async def correct_flat_bars(store: Store, symbol: str, span: Span) -> int:
    """Give bars without a trade after a span its close, where they copied another; returns how many changed."""
    last = span.bars.get(span.to_s - 60)
    if last is None:
        return 0
    after = await read_bars(store, symbol, span.to_s, span.to_s + 60 * CHAIN_MAX, CHAIN_MAX)
    return (await store.commit(follow_close(symbol, last.c, after))).bars


def _key(gap: GapRow) -> tuple[str, str]:
    return (gap.service, gap.venue)
