"""Which gaps an operator may repair, what a repaired piece makes of the ledger, and which rows it writes. Pure.

A gap is repaired in steps, each committed with its ledger rows: the part that is done becomes a row of its own, the
rest a new one, as when an ingestor leaves the old part of a gap. So an interrupted repair goes on where it ended.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from common.batch import Batch
from common.contracts import GRADE_EXACT, GRADE_PART, LANE_REPAIR, BarRow, Clearance, GapRow, GapStatus
from common.venues.binance_spot import MARKET
from ohlcv_ingestor.bars import bar_row, flat_bar
from ohlcv_ingestor.bricks import footprint_row
from ohlcv_ingestor.continuity import IDS_ANEW
from ohlcv_ingestor.gaps import clip_runs
from ohlcv_ingestor.repair import Answer, Ask, AskTrades
from ohlcv_ingestor.ring import minute_of
from ops.gaps_refetch import Hole, Span, holes_in, runs_of

SERVICE, VENUE = "ohlcv", "binance"
TRIES_MAX = 3
"""A gap is open for three tries, then the venue does not have it; each run of the command is one."""

UNPROVEN = (GapStatus.OPEN, GapStatus.SOURCE_MISSING)


class Ages(msgspec.Struct, frozen=True):
    """How old a gap must be so that no ingestor works on it or holds its rows, in venue seconds."""

    backfill_s: int = 6_000
    ring_s: int = 300
    margin_s: int = 120


class Choice(msgspec.Struct, frozen=True):
    """One gap, and why it is left alone ("" where it is repaired)."""

    gap: GapRow
    why_left: str = ""


def choose_gaps(ledger: Sequence[GapRow], now_s: int, ages: Ages, again: bool) -> list[Choice]:
    """Judge every open gap, and with `again` those the venue did not have, oldest first."""
    wanted = [g for g in ledger if g.status is GapStatus.OPEN or (again and g.status is GapStatus.SOURCE_MISSING)]
    judged = {id(g): _why_left(g, now_s, ages) for g in wanted}
    busy = [g for g in wanted if g.status is GapStatus.OPEN and judged[id(g)]]
    choices: list[Choice] = []
    for gap in sorted(wanted, key=lambda g: (g.symbol, g.from_ms, g.from_id)):
        why = judged[id(gap)]
        if not why and any(b.symbol == gap.symbol and touches_minutes_of(b, gap) for b in busy):
            why = "shares a minute with a gap that the ingestor repairs: run this again when that is done"
        choices.append(Choice(gap, why))
    return choices


def _why_left(gap: GapRow, now_s: int, ages: Ages) -> str:
    if (gap.service, gap.venue) != (SERVICE, VENUE):
        return f"this command knows how to ask {VENUE} for trades, not {gap.venue} for {gap.service}"
    if gap.to_id is None and gap.reason == IDS_ANEW:
        return "the venue's ids began anew after it: no id says what is missing, so nothing repairs it"
    if gap.to_id is None or gap.to_ms is None:
        return "its end is not known yet: the ingestor repairs it while the symbol is followed"
    if gap.status is GapStatus.OPEN and gap.to_ms >= 1000 * minute_of(now_s - max(ages.backfill_s, ages.ring_s)):
        return f"younger than {max(ages.backfill_s, ages.ring_s) // 60} minutes: the ingestor repairs it"
    if gap.status is GapStatus.SOURCE_MISSING and gap.to_ms >= 1000 * (now_s - ages.ring_s - ages.margin_s):
        return "too young: the ingestor still has its minutes in hand"
    return ""


def touches(gap: GapRow, from_ms: int, to_ms: int) -> bool:
    """Does a gap leave the span [from_ms, to_ms) unproven?"""
    return gap.from_ms < to_ms and (gap.to_ms is None or gap.to_ms >= from_ms)


def touches_minutes_of(gap: GapRow, other: GapRow) -> bool:
    """Does a gap touch a minute that the other one touches too?"""
    end_s = minute_of((other.from_ms if other.to_ms is None else other.to_ms) // 1000) + 60
    return touches(gap, 1000 * minute_of(other.from_ms // 1000), 1000 * end_s)


def is_done(gap: GapRow, span: Span) -> bool:
    """Does a span reach the end of a gap, in ids and in time?"""
    assert gap.to_id is not None
    assert gap.to_ms is not None
    return span.after.id > gap.to_id and 1000 * span.to_s > gap.to_ms


def may_pause(gap: GapRow, span: Span) -> bool:
    """May a step end here? Only at a trade that lies inside the gap: it becomes the first id of the rest."""
    return gap.to_id is not None and gap.from_id < span.after.id <= gap.to_id


def began_anew(gap: GapRow, span: Span) -> bool:
    """Does the venue count lower ids past a gap's end in time than before it, or has it no trade left to reach them?"""
    assert gap.to_id is not None
    assert gap.to_ms is not None
    if 1000 * span.to_s <= gap.to_ms or span.after.id > gap.to_id:
        return False
    return span.after.id < gap.from_id or span.after.ms is None


class Ends(NamedTuple):
    """Where the fetching of a gap begins, and the single-trade ids of its first trade and of the trade after it."""

    from_s: int
    first: int | None
    next_first: int | None


def find_ends(gap: GapRow) -> Generator[Ask, Answer, Ends]:
    """Ask for the trades around a gap: the one before it may lie in an earlier minute than the ledger says."""
    assert gap.to_id is not None
    from_ms, first, next_first = gap.from_ms, None, None
    page = (yield AskTrades(from_id=max(0, gap.from_id - 1), limit=1)).trades
    if page and page[0].id == gap.from_id - 1:
        from_ms, first = min(from_ms, page[0].time_ms), page[0].last + 1
    page = (yield AskTrades(from_id=gap.to_id + 1, limit=1)).trades
    if page and page[0].id == gap.to_id + 1:
        next_first = page[0].first
    return Ends(minute_of(from_ms // 1000), first, next_first)


def divide_gap(gap: GapRow, spans: Sequence[Span], ends: Ends) -> tuple[list[GapRow], GapRow | None]:
    """What the ledger says after a step: the part that was fetched, in one to three rows, and the rest if there is one.

    What the venue does not have is a row of its own, between what was repaired before and after it.
    """
    last = spans[-1]
    part, rest, end = gap, None, ends.next_first
    if not is_done(gap, last):
        at_id, at_ms, end = last.after.id, 1000 * last.to_s, last.after.first
        rest = replace(gap, from_id=at_id, from_ms=at_ms, missing=_clip(gap, at_id, gap.to_id or at_id), restored_n=0)
        part = replace(gap, to_id=at_id - 1, to_ms=at_ms)
    lost_n = sum(s.after.first - s.before.first - sum(b.n for b in s.bricks.values()) for s in spans)
    restored_n = part.restored_n if end is None or ends.first is None else max(0, end - ends.first - lost_n)
    lost = find_lost(part, spans)
    if not lost:
        return [replace(part, status=GapStatus.REPAIRED, missing=(), restored_n=restored_n)], rest
    return _cut_out(part, lost, restored_n), rest


def _cut_out(part: GapRow, lost: Sequence[Hole], restored_n: int) -> list[GapRow]:
    """Divide a part at its holes; the count of what was restored goes to its first row."""
    assert part.to_id is not None
    assert part.to_ms is not None
    first_id = min(h.from_id for h in lost)
    last_id = max(first_id, *(h.to_id for h in lost))
    from_ms, to_ms = min(h.from_ms for h in lost), max(h.to_ms for h in lost)
    tries = part.tries + 1
    given_up = part.status is GapStatus.SOURCE_MISSING or tries >= TRIES_MAX
    rows = [
        replace(
            part, from_id=first_id, to_id=last_id, from_ms=from_ms, to_ms=to_ms, missing=runs_of(lost), tries=tries,
            status=GapStatus.SOURCE_MISSING if given_up else GapStatus.OPEN, restored_n=0,
        )
    ]  # fmt: skip
    healed = replace(part, status=GapStatus.REPAIRED, missing=(), restored_n=0)
    if first_id > part.from_id:
        rows.insert(0, replace(healed, to_id=first_id - 1, to_ms=max(part.from_ms, from_ms)))
    if last_id < part.to_id:
        rows.append(replace(healed, from_id=last_id + 1, from_ms=to_ms, to_ms=max(part.to_ms, to_ms)))
    return [replace(rows[0], restored_n=restored_n), *rows[1:]]


def _clip(gap: GapRow, from_id: int, to_id: int) -> tuple[tuple[int, int], ...]:
    return tuple(clip_runs(list(gap.missing), from_id, to_id))


def find_lost(part: GapRow, spans: Sequence[Span]) -> list[Hole]:
    """What the venue does not have of a part of a gap."""
    to_id = part.from_id - 1 if part.to_id is None else part.to_id
    lost = [hole for span in spans for hole in holes_in(span, part.from_id, to_id)]
    first = spans[0].before
    if first.id > part.from_id:
        # Ids before the first trade of the first minute that nobody can place: no trade before the gap is known.
        to_ms = 1000 * spans[0].to_s if first.ms is None else first.ms
        lost.insert(0, Hole(part.from_id, min(to_id, first.id - 1), part.from_ms, to_ms))
    return lost


def span_batch(symbol: str, spans: Iterable[Span], unproven: Sequence[GapRow]) -> Batch:
    """Rows of fetched minutes: complete exactly where none of these gaps touches; other venues' seconds go there."""
    batch = Batch()
    for span in spans:
        near = [g for g in unproven if touches(g, 1000 * span.from_s, 1000 * span.to_s)]
        for second, brick in span.bricks.items():
            complete = not _touched(near, second, 1)
            grade = GRADE_EXACT if complete else GRADE_PART
            row = footprint_row(brick, symbol, MARKET.source, MARKET.scale, complete, grade)
            batch.put_footprint(row, LANE_REPAIR)
        for minute, bar in span.bars.items():
            complete = not _touched(near, minute, 60)
            grade = GRADE_EXACT if complete else GRADE_PART
            batch.put_bar(bar_row(bar, symbol, MARKET.source, MARKET.scale, complete, grade), LANE_REPAIR)
        for minute in range(span.from_s, span.to_s, 60):
            if not _touched(near, minute, 60):
                batch.clear_others(Clearance(symbol, MARKET.source, minute, minute + 59))
    return batch


def _touched(gaps: Sequence[GapRow], at_s: int, width_s: int) -> bool:
    return any(touches(g, 1000 * at_s, 1000 * (at_s + width_s)) for g in gaps)


def follow_close(symbol: str, close: int, after: Iterable[BarRow]) -> Batch:
    """Bars without a trade right after a minute, given its close, as long as they say something else.

    `after` are the stored minutes that follow, in order; the first one with a trade, or missing, ends the chain.
    """
    batch = Batch()
    minute: int | None = None
    for row in after:
        if row.n != 0 or row.source != MARKET.source or (minute is not None and row.time != minute + 60):
            break
        minute = row.time
        flat = bar_row(flat_bar(minute, close), symbol, MARKET.source, MARKET.scale, row.complete, row.grade)
        if flat == row:
            break
        batch.put_bar(flat, LANE_REPAIR)
    return batch
