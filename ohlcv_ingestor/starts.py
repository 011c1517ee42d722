"""How a series starts: it goes on from its cursor, or begins at a settled minute as a new subscription does."""

from __future__ import annotations

from collections.abc import Iterable

from common.contracts import GapStatus
from common.venues.market import Kline, Trade
from ohlcv_ingestor.bars import kline_bar
from ohlcv_ingestor.continuity import Continuity
from ohlcv_ingestor.gaps import Gap, clip_runs
from ohlcv_ingestor.ring import minute_of
from ohlcv_ingestor.series import Inherited, Series
from ohlcv_ingestor.stored import Stored


def restart(series: Series, stored: Stored) -> None:
    """Go on from the cursor: what the venue did since then is a gap until repaired."""
    ids, ring = series.ids, series.ring
    series.young = False
    series.closed_s = stored.event_s
    series.handover.cursor = (stored.last_id, stored.event_s)
    ring.minutes, ring.carry = stored.minutes, stored.carry
    ids.next_id = stored.last_id + 1
    traded = [s for record in stored.minutes.values() for s in record.bricks]
    ids.last_ms = 1000 * max(traded) if traded else 1000 * stored.event_s
    tail = next((g for g in stored.open_gaps if g.to_id is None and g.from_id <= ids.next_id), None)
    if tail is None:
        tail = Gap(ids.next_id, None, 1000 * stored.event_s, None, "restart", recorded=True)
    for gap in stored.open_gaps + stored.barred:
        first_missing = gap.missing[0][0] if gap.missing else gap.from_id
        if first_missing > stored.last_id and gap is not tail:
            # All it lacks lies in the span that is asked for again; with the same first id it is the same ledger row.
            tail.from_ms = min(tail.from_ms, gap.from_ms)
            if gap.from_id != tail.from_id:
                tail.subsumed.append(gap)
        elif gap in stored.barred:
            ids.barred.append(gap)
        elif gap is not tail:
            ids.gaps.append(gap)  # not written again: an operator may have repaired it since it was read
    ids.open_gap(tail)


def choose_start(series: Series, waited_s: float = 0.0) -> int | None:
    """The second at which a young series may begin: a settled minute, no later than the first trade it saw.

    `waited_s` is how long it has been wanted, in venue time: a blind primary must not shorten what is owed.
    """
    if not series.young or not series.watermark_ms:
        return None
    now_s, seen = series.watermark_ms // 1000, series.ids.first_seen
    from_s = minute_of(now_s - series.limits.settle_s - int(waited_s))
    if seen is not None:
        from_s = min(from_s, minute_of(seen.time_ms // 1000))
    return max(from_s, minute_of(now_s - series.limits.backfill_s) + 60)


def inherit(series: Series, stored: Stored, idle: list[Gap]) -> None:
    """Know, before a new start, what an earlier subscription left: open gaps, and the `idle` time since then."""
    series.inherited = Inherited(stored, idle)


def begin_at(series: Series, first_id: int, from_s: int, close: int | None) -> None:
    """Begin at `first_id`, the first trade the venue has since the minute `from_s`, with the close before it."""
    series.young = False
    series.closed_s = from_s
    series.handover.start = (first_id - 1, from_s)
    series.ring.carry, series.ring.floor = close, from_s
    series.ring.evict(from_s, set())
    ids, seen = series.ids, series.ids.first_seen
    if seen is None or ids.next_id is None or ids.next_id <= first_id:
        ids.next_id, ids.last_ms, ids.tail, ids.gaps = first_id, 1000 * from_s, None, []
        ids.open_gap(Gap(first_id, None, 1000 * from_s, None, "first", silent=True, probe_ms=series.covered_ms))
    else:
        _join_seen(ids, seen, first_id, from_s)
    ids.changed = [g for g in ids.changed if g in ids.gaps]
    if series.inherited is not None:
        _end_idle(ids, series.inherited.idle, first_id, from_s)
        _take_over(series, series.inherited, first_id, from_s)
    series.inherited = None


def keep_history(series: Series, klines: Iterable[Kline]) -> None:
    """Minutes before the start that an inherited gap touches: they are handed on again when it ends."""
    for k in klines:
        if any(g.touches(1000 * k.open_s, 1000 * (k.open_s + 60)) for g in series.ids.gaps):
            series.ring.ensure(k.open_s).settled = kline_bar(k)


def ledger_touches(series: Series, from_ms: int, to_ms: int) -> bool:
    """Is there an open or lost gap of an earlier subscription in the span?"""
    gaps = [g for g in series.ids.gaps + series.ids.barred if g.status is not GapStatus.NOT_SUBSCRIBED]
    return any(g.touches(from_ms, to_ms) for g in gaps)


def _join_seen(ids: Continuity, seen: Trade, first_id: int, from_s: int) -> None:
    """Trades were streamed before the start was known: gaps among them stay, what lies before them is one more."""
    ids.gaps = [g for g in ids.gaps if g.to_id is None or g.to_id >= first_id]
    for gap in ids.gaps:
        gap.from_ms = max(gap.from_ms, 1000 * from_s)
        if gap.from_id < first_id:
            gap.from_id, gap.prev_last = first_id, None
        gap.missing = [(max(a, first_id), b) for a, b in gap.missing if b >= first_id]
    if seen.id > first_id:
        start = Gap(
            first_id, seen.id - 1, 1000 * from_s, seen.time_ms, "first",
            missing=[(first_id, seen.id - 1)], next_first=seen.first, silent=True,
        )  # fmt: skip
        ids.open_gap(start)


def _end_idle(ids: Continuity, idle: list[Gap], first_id: int, from_s: int) -> None:
    """The time in which the symbol was not wanted ends with the start."""
    for gap in idle:
        gap.to_id, gap.to_ms = max(first_id, gap.from_id) - 1, max(gap.from_ms, 1000 * from_s - 1)
        ids.changed.append(gap)


def _take_over(series: Series, inherited: Inherited, first_id: int, from_s: int) -> None:
    """Gaps of the earlier subscription go on, cut at the start, with the minutes they touch."""
    ids, kept = series.ids, inherited.stored.minutes
    ids.barred = inherited.stored.barred + [g for g in inherited.idle if (g.to_ms or 0) > g.from_ms]
    for gap in inherited.stored.open_gaps:
        stored_end = gap.to_id
        if gap.to_id is None:
            gap.to_id, gap.to_ms, gap.open_ended = first_id - 1, 1000 * from_s, False
            gap.missing = [(gap.from_id, gap.to_id)] if gap.from_id <= gap.to_id else []
        if gap.from_id >= first_id:
            _end_with_start(ids, gap)
            continue
        if stored_end != gap.to_id or (gap.to_id or 0) >= first_id:
            gap.missing = clip_runs(gap.missing, gap.from_id, first_id - 1)
            gap.to_id = min(gap.to_id or 0, first_id - 1)
            ids.changed.append(gap)  # an uncut one is not written again: an operator may have repaired it meanwhile
        ids.gaps.insert(0, gap)
        minutes = range(minute_of(gap.from_ms // 1000), min(gap.to_ms or 0, 1000 * from_s) // 1000 + 1, 60)
        series.ring.minutes.update({m: kept[m] for m in minutes if m in kept and m < from_s})


def _end_with_start(ids: Continuity, gap: Gap) -> None:
    """A gap of an earlier subscription in the minute that is fetched anew: it ends with the start's own gap."""
    start = next((g for g in ids.gaps if g.reason == "first"), None)
    if start is not None:
        start.subsumed.append(gap)
    else:
        gap.status, gap.missing = GapStatus.REPAIRED, []
        ids.changed.append(gap)
