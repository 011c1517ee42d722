"""One symbol of one venue: trades in, rows out, and for each row whether it is proven whole.

Everything that makes a span unproven is a gap (a jump of ids, time without a live connection, time since the cursor),
so a closed row is complete exactly if no gap touches it. Time is the venue's: `advance` is told the watermark.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from common.batch import Batch
from common.contracts import (
    LANE_LIVE,
    LANE_REPAIR,
    Clearance,
    CursorRow,
    GapStatus,
    Retraction,
)
from common.venues.market import Kline, Trade
from ohlcv_ingestor.bars import kline_bar
from ohlcv_ingestor.bricks import add_trade, settle_brick, start_brick
from ohlcv_ingestor.continuity import Continuity
from ohlcv_ingestor.gaps import Gap, clip_runs, gap_row
from ohlcv_ingestor.ring import Minute, Ring, minute_of
from ohlcv_ingestor.rows import Rows, Stream

PACK_AT_S = 20
"""Second of a minute at which those before it are packed: when late trades have come and no bar is waited for."""


@dataclass(frozen=True)
class SeriesLimits:
    """Spans in venue time and counts that bound one series; `tries_max` follow an answer that did not fill a gap."""

    ring_s: int = 300
    gap_settle_ms: int = 1_000
    settle_s: int = 3
    backfill_s: int = 6_000
    tries_max: int = 3


@dataclass
class Stored:
    """What the database knows of a series: cursor, the ring before it, and gaps not repaired."""

    last_id: int
    event_s: int
    carry: int | None = None
    minutes: dict[int, Minute] = field(default_factory=lambda: dict[int, Minute]())
    open_gaps: list[Gap] = field(default_factory=lambda: list[Gap]())
    barred: list[Gap] = field(default_factory=lambda: list[Gap]())


class Series:
    """State of one (venue, symbol). It is young, and says nothing, until `restart` or `baseline` gave it a start.

    `wanted_s` is when it became wanted, by our monotonic clock.
    """

    def __init__(self, stream: Stream, limits: SeriesLimits, wanted_s: float = 0.0) -> None:
        self.stream = stream
        self.wanted_s = wanted_s
        self.limits = limits
        self.ids = Continuity(limits.gap_settle_ms)
        self.ring = Ring()
        self.young = True
        self.closed_s = 0
        self.watermark_ms = 0
        self.covered_ms: int | None = None
        self.checked_ms = 0
        self.ignored = 0
        self._inherited: Stored | None = None
        self._idle: list[Gap] = []
        self.rows = Rows(stream, self.ring, self.ids)
        self._cursor = self._start = (-2, 0)

    # ---- start

    def restart(self, stored: Stored) -> None:
        """Go on from the cursor: what the venue did since then is a gap until repaired."""
        self.young = False
        self.closed_s = stored.event_s
        self._cursor = (stored.last_id, stored.event_s)
        self.ring.minutes, self.ring.carry = stored.minutes, stored.carry
        ids = self.ids
        ids.next_id = stored.last_id + 1
        traded = [s for record in stored.minutes.values() for s in record.bricks]
        ids.last_ms = 1000 * max(traded) if traded else 1000 * stored.event_s
        tail = next((g for g in stored.open_gaps if g.to_id is None and g.from_id <= ids.next_id), None)
        if tail is None:
            tail = Gap(ids.next_id, None, 1000 * stored.event_s, None, "restart", recorded=True)
        for gap in stored.open_gaps + stored.barred:
            if gap.from_id > stored.last_id and gap is not tail:
                # It lies in the span that is asked for again; with the same first id it is the same ledger row.
                tail.from_ms = min(tail.from_ms, gap.from_ms)
                if gap.from_id != tail.from_id:
                    tail.subsumed.append(gap)
            elif gap in stored.barred:
                ids.barred.append(gap)
            elif gap is not tail:
                ids.open_gap(gap)
        ids.open_gap(tail)

    def start_second(self, waited_s: float = 0.0) -> int | None:
        """Where a young series may begin: a settled minute, no later than the first trade it saw.

        `waited_s` is how long it has been wanted, in venue time: a blind primary must not shorten what is owed.
        """
        if not self.young or not self.watermark_ms:
            return None
        now_s, seen = self.watermark_ms // 1000, self.ids.first_seen
        from_s = minute_of(now_s - self.limits.settle_s - int(waited_s))
        if seen is not None:
            from_s = min(from_s, minute_of(seen.time_ms // 1000))
        return max(from_s, minute_of(now_s - self.limits.backfill_s) + 60)

    def inherit(self, stored: Stored, idle: list[Gap]) -> None:
        """Know, before a new start, what an earlier subscription left: open gaps, and the `idle` time since then."""
        self._inherited, self._idle = stored, idle

    def baseline(self, first_id: int, from_s: int, close: int | None) -> None:
        """Begin at `first_id`, the first trade the venue has since the minute `from_s`, with the close before it."""
        self.young = False
        self.closed_s = from_s
        self._start = (first_id - 1, from_s)
        self.ring.carry, self.ring.floor = close, from_s
        self.ring.evict(from_s, set())
        ids, seen = self.ids, self.ids.first_seen
        if seen is None or ids.next_id is None or ids.next_id <= first_id:
            ids.next_id, ids.last_ms, ids.tail, ids.gaps = first_id, 1000 * from_s, None, []
            start = Gap(first_id, None, 1000 * from_s, None, "first", silent=True, probe_ms=self.covered_ms)
            ids.open_gap(start)
        else:
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
        ids.changed = [g for g in ids.changed if g in ids.gaps]
        for gap in self._idle:
            gap.to_id, gap.to_ms = max(first_id, gap.from_id) - 1, max(gap.from_ms, 1000 * from_s - 1)
            ids.changed.append(gap)
        if self._inherited is not None:
            ids.barred = self._inherited.barred + [g for g in self._idle if (g.to_ms or 0) > g.from_ms]
            for gap in self._inherited.open_gaps:
                if gap.to_id is None:
                    gap.to_id, gap.to_ms, gap.open_ended = first_id - 1, 1000 * from_s, False
                    gap.missing = [(gap.from_id, gap.to_id)] if gap.from_id <= gap.to_id else []
                if gap.from_id >= first_id:
                    self._end_with_start(gap)
                    continue
                gap.missing = clip_runs(gap.missing, gap.from_id, first_id - 1)
                gap.to_id = min(gap.to_id or 0, first_id - 1)
                ids.gaps.insert(0, gap)
                ids.changed.append(gap)
                minutes = range(minute_of(gap.from_ms // 1000), min(gap.to_ms or 0, 1000 * from_s) // 1000 + 1, 60)
                kept = self._inherited.minutes
                self.ring.minutes.update({m: kept[m] for m in minutes if m in kept and m < from_s})
        self._inherited, self._idle = None, []

    def _end_with_start(self, gap: Gap) -> None:
        """A gap of an earlier subscription in the minute that is fetched anew: it ends with the start's own gap."""
        start = next((g for g in self.ids.gaps if g.reason == "first"), None)
        if start is not None:
            start.subsumed.append(gap)
        else:
            gap.status, gap.missing = GapStatus.REPAIRED, []
            self.ids.changed.append(gap)

    # ---- stream

    def add(self, t: Trade) -> None:
        """Take a streamed trade."""
        second, ids = t.time_ms // 1000, self.ids
        if second < self.closed_s:
            self._add_late(t, second)
            return
        # Nearly every trade is the next one in order: spelled out here, the calls of `see` are spared.
        if t.id == ids.next_id and ids.tail is None:
            ids.next_id, ids.last_raw = t.id + 1, t.last
            if t.time_ms > ids.last_ms:
                ids.last_ms = t.time_ms
        elif not ids.see(t):
            return
        record = self.ring.minutes.get(second - second % 60)
        brick = None if record is None else record.bricks.get(second)
        if brick is None:
            self._put(t, second)
        elif not add_trade(brick, t):
            self.ignored += 1

    def lose(self, at_ms: int, reason: str) -> None:
        """No live connection covers the symbol any more."""
        self.covered_ms = None
        self.ids.lose(max(at_ms, 1000 * self.closed_s), reason)

    def resume(self, from_ms: int) -> None:
        """A live connection covers the symbol again, from this venue time on."""
        self.covered_ms = from_ms
        self.ids.resume(from_ms)

    def doubt(self, reason: str) -> None:
        """The venue has trades that a live connection did not deliver; what follows the last one is unproven."""
        self.ids.doubt(reason)

    def keep_history(self, klines: Iterable[Kline]) -> None:
        """Minutes before the start that an inherited gap touches: they are handed on again when it ends."""
        for k in klines:
            if any(g.touches(1000 * k.open_s, 1000 * (k.open_s + 60)) for g in self.ids.gaps):
                self.ring.ensure(k.open_s).settled = kline_bar(k)

    def ledger_touches(self, from_ms: int, to_ms: int) -> bool:
        """Is there an open or lost gap of an earlier subscription in the span?"""
        gaps = [g for g in self.ids.gaps + self.ids.barred if g.status is not GapStatus.NOT_SUBSCRIBED]
        return any(g.touches(from_ms, to_ms) for g in gaps)

    def silent_ms(self) -> int:
        """For how long neither a trade nor an answer of the venue has told that nothing is missed."""
        return 0 if self.young or self.ids.tail is not None else self.watermark_ms - max(self.last_ms, self.checked_ms)

    def advance(self, to_ms: int) -> bool:
        """Close what ends at or before the watermark; true if a second was closed."""
        if to_ms <= self.watermark_ms:
            return False
        self.watermark_ms = to_ms
        if self.young:
            self.ring.evict(minute_of(to_ms // 1000 - self.limits.backfill_s), set())
        if self.young or to_ms // 1000 <= self.closed_s:
            return False
        self._close_to(to_ms // 1000)
        return True

    @property
    def last_ms(self) -> int:
        """Time of the newest trade."""
        return self.ids.last_ms

    def last_close(self) -> int | None:
        """Close of the newest trade known."""
        traded = [m for m, record in self.ring.minutes.items() if record.traded or record.settled]
        return self.ring.minutes[max(traded)].close() if traded else self.ring.carry

    def traded_at(self, second: int) -> bool:
        """Did a trade fall into this second (as far as it is in the ring)?"""
        record = self.ring.minutes.get(minute_of(second))
        return record is not None and second in record.bricks

    # ---- repair

    def ready_gaps(self) -> list[Gap]:
        """Gaps whose span is settled at the venue and that no repair is at work on."""
        if self.young:
            return []
        settled = self.watermark_ms - 1000 * self.limits.settle_s
        return [
            g
            for g in self.ids.gaps
            if not (g.active or g.parked or (g.reason == "late" and not self._minute_settled(g)))
            and (g.recorded or g.silent)
            and (end := g.probe_ms if g.to_id is None else g.to_ms) is not None
            and end <= settled
        ]

    def _minute_settled(self, gap: Gap) -> bool:
        """A late trade's whole minute is fetched anew, so it has to be over."""
        end_s = minute_of(gap.from_ms // 1000) + 60
        return 1000 * (end_s + self.limits.settle_s) <= self.watermark_ms

    def restore_trades(self, gap: Gap, trades: Iterable[Trade]) -> None:
        """Add trades fetched for a gap."""
        for t in trades:
            if self.ids.restore(gap, t):
                self.ids.changed.append(gap)
                gap.from_ms = min(gap.from_ms, t.time_ms)
                second = t.time_ms // 1000
                self._put(t, second)
                self.rows.mark_second(second, LANE_REPAIR)

    def restore_seconds(self, klines: Iterable[Kline], from_s: int, to_s: int) -> None:
        """Replace all bricks of [from_s, to_s) by 1 s klines."""
        for minute in range(minute_of(from_s), to_s, 60):
            bricks = self.ring.ensure(minute).bricks
            for second in [s for s in bricks if from_s <= s < to_s]:
                del bricks[second]
        for k in klines:
            if k.n and from_s <= k.open_s < to_s:
                self.ring.minutes[minute_of(k.open_s)].bricks[k.open_s] = settle_brick(k)
                self.rows.mark_second(k.open_s, LANE_REPAIR)

    def restore_bars(self, klines: Iterable[Kline]) -> None:
        """Hand on whole minutes of a long gap by their 1 m klines, ahead of their seconds."""
        for k in klines:
            record = self.ring.ensure(k.open_s)
            record.settled = kline_bar(k)
            self.rows.mark_minute(k.open_s, LANE_REPAIR)

    def settle(self, gap: Gap) -> bool:
        """End a repair attempt that the venue answered; false if it is to be tried again."""
        whole = not gap.missing and gap.adds_up()
        if whole:
            self.ids.close(gap, GapStatus.REPAIRED)
            return True
        gap.tries += 1
        if gap.tries > self.limits.tries_max:
            gap.retract = True
            self.ids.close(gap, GapStatus.SOURCE_MISSING)
            return True
        self.ids.changed.append(gap)
        return False

    def narrow(self, gap: Gap, first_id: int, from_s: int, close: int | None) -> Gap:
        """Park the part of a gap that lies before `from_s`, whose first trade is `first_id`; returns the rest."""
        rest = Gap(
            first_id, gap.to_id, 1000 * from_s, gap.to_ms, gap.reason, next_first=gap.next_first,
            missing=[] if gap.to_id is None else clip_runs(gap.missing, first_id, gap.to_id),
            probe_ms=gap.probe_ms, silent=gap.silent, recorded=gap.recorded, narrowed=True,
            subsumed=[g for g in gap.subsumed if g.from_id >= first_id],
        )  # fmt: skip
        if gap is self.ids.tail:
            # Now that ids are known to be missing they may lie anywhere after the last trade.
            gap.from_ms, gap.retract = min(gap.from_ms, self.ids.last_ms or gap.from_ms), True
            self.ids.next_id, self.ids.last_ms = first_id, max(self.ids.last_ms, 1000 * from_s)
            gap.missing = [(gap.from_id, first_id - 1)] if first_id > gap.from_id else []
        else:
            gap.missing = clip_runs(gap.missing, gap.from_id, first_id - 1)
        gap.to_id, gap.to_ms, gap.parked = first_id - 1, 1000 * from_s, True
        gap.subsumed = [g for g in gap.subsumed if g.from_id < first_id]
        gap.probe_ms = gap.next_first = None
        self.ids.changed.append(gap)
        self.ids.open_gap(rest)
        if close is not None:
            self.ring.carry = close
            record = self.ring.minutes.get(from_s)
            if record is not None:
                record.prev_close = close
                self.rows.mark_minutes(self.ring.rederive(from_s, from_s, self.closed_s, newest=False), LANE_REPAIR)
        return rest

    # ---- rows

    def drain(self, batch: Batch, *, last: bool = False) -> None:
        """Hand on every row, gap and cursor that changed.

        While a gap is not in the ledger yet, or ends in a second still open, everything waits: what is stored must
        be what a restart from the stored cursor expects. `last`: nothing more comes, so nothing waits.
        """
        if self.young:
            return
        self._note_due_gaps()
        if not last and self._held():
            self._put_start(batch)
            return
        self._record_gaps(batch)
        self.rows.emit(batch, self.closed_s)
        self._move_cursor(batch)
        self._evict()

    def retire(self, batch: Batch) -> None:
        """Hand on the last rows; from the last closed second on the symbol is not wanted.

        With an open end it is as after a stop in a cut: the gap stays open, and the next subscription repairs it.
        """
        for gap in self.ids.gaps:
            gap.due_ms, gap.silent = None, False
        self.drain(batch, last=True)
        if self.young or self.ids.tail is not None or any(self._reaches_open_second(g) for g in self.ids.gaps):
            return
        last_id = self._last_closed_id()
        idle = Gap(last_id + 1, None, 1000 * self.closed_s, None, "unsubscribed", status=GapStatus.NOT_SUBSCRIBED)
        batch.put_gap(gap_row(idle, self.stream.service, self.stream.venue, self.stream.symbol))

    # ---- inside

    def _note_due_gaps(self) -> None:
        for gap in self.ids.gaps:
            if gap.silent and self.closed_s - gap.from_ms // 1000 > self.limits.ring_s:
                gap.silent = False  # its repair takes so long that it belongs into the ledger
            if not (gap.recorded or gap.silent) and (gap.due_ms is None or gap.due_ms <= self.watermark_ms):
                gap.recorded = True
                self.ids.changed.append(gap)

    def _reaches_open_second(self, gap: Gap) -> bool:
        return bool(gap.missing) and gap.to_ms is not None and gap.to_ms >= 1000 * self.closed_s

    def _held(self) -> bool:
        if any(not g.recorded or self._reaches_open_second(g) for g in self.ids.gaps):
            return True
        return (self._last_closed_id(), self.closed_s) < self._cursor

    def _put_start(self, batch: Batch) -> None:
        """The start of a first subscription is stored at once: a crash must not lose it."""
        if self._start > self._cursor:
            self._cursor, stream = self._start, self.stream
            batch.put_cursor(CursorRow(stream.service, stream.venue, stream.symbol, *self._start))
            for gap in [g for g in self.ids.changed if g.status is GapStatus.NOT_SUBSCRIBED]:
                batch.put_gap(gap_row(gap, stream.service, stream.venue, stream.symbol))

    def _put(self, t: Trade, second: int) -> None:
        minute = second - second % 60
        record = self.ring.minutes.get(minute)
        if record is None:
            record = self.ring.minutes[minute] = Minute()
        brick = record.bricks.get(second)
        if brick is None:
            record.bricks[second] = start_brick(t)
        elif not add_trade(brick, t):
            self.ignored += 1

    def _add_late(self, t: Trade, second: int) -> None:
        minute = minute_of(second)
        if self.closed_s - second > self.limits.backfill_s:
            self.ignored += 1  # no venue is that late: its time is wrong, and its id comes back as a gap
            return
        if minute >= max(minute_of(self.closed_s) - self.limits.ring_s, self.ring.floor):
            tail = self.ids.tail
            if self.ids.see(t):
                self._put(t, second)
                self.rows.mark_second(second, LANE_LIVE)
                self.rows.mark_minutes(self.ring.rederive(minute, minute, self.closed_s, newest=True), LANE_LIVE)
                if tail is not None and self.ids.tail is None:
                    self.rows.mark_after(second)
            return
        if self.ids.next_id is not None and t.id < self.ids.next_id:
            self.ignored += 1  # inside a gap its repair fetches it again, else it is a duplicate
            return
        self.ids.see(t)
        self.ids.open_gap(Gap(t.id, t.id, t.time_ms, t.time_ms, "late", missing=[(t.id, t.id)], retract=True))

    def _close_to(self, new_s: int) -> None:
        if new_s - self.closed_s > self.limits.backfill_s + 60:
            # Older minutes of so long a gap get no rows by themselves: the ledger holds them. What was traded in
            # seconds still open when it began is in no gap, and is handed on.
            for minute, old in self.ring.minutes.items():
                self.rows.mark_minute(minute, LANE_LIVE)
                for second in old.bricks:
                    self.rows.mark_second(second, LANE_LIVE)
            self.ring.carry = self.last_close()
            self.ring.floor = self.closed_s = minute_of(new_s - self.limits.backfill_s)
        for minute in range(minute_of(self.closed_s), new_s, 60):
            record = self.ring.ensure(minute)
            record.prev_close = self.ring.close_before(minute)
            for second in record.bricks:
                if self.closed_s <= second < new_s:
                    self.rows.mark_second(second, LANE_LIVE)
            if minute + 60 <= new_s:
                self.rows.mark_minute(minute, LANE_LIVE)
        self.closed_s = new_s

    def _record_gaps(self, batch: Batch) -> None:
        ids, stream = self.ids, self.stream
        if not ids.changed:
            return
        # Time that was not wanted first: where its row has the key of a gap, the gap's row counts.
        ordered = sorted(ids.changed, key=lambda g: g.status is not GapStatus.NOT_SUBSCRIBED)
        changed, ids.changed = dict.fromkeys(ordered), []
        for gap in changed:
            self._mark_gap(gap)
            if gap.status is GapStatus.REPAIRED:
                self._clear_others(gap, batch)
            if not gap.recorded and gap.status is not GapStatus.NOT_SUBSCRIBED:
                continue
            batch.put_gap(gap_row(gap, stream.service, stream.venue, stream.symbol))
            if gap.retract and gap.status is not GapStatus.REPAIRED:
                to_s = self.closed_s if gap.to_ms is None else gap.to_ms // 1000
                batch.retract(Retraction(stream.symbol, stream.source, gap.from_ms // 1000, to_s))
                gap.retract = False

    def _clear_others(self, gap: Gap, batch: Batch) -> None:
        """The fallback may have spoken in the gap and a little longer: what is closed is ours, up to the next gap."""
        from_s = gap.from_ms // 1000
        to_s = min([self.closed_s - 1, *(g.from_ms // 1000 for g in self.ids.gaps if g.from_ms >= gap.from_ms)])
        if to_s >= from_s:
            batch.clear_others(Clearance(self.stream.symbol, self.stream.source, from_s, to_s))

    def _mark_gap(self, gap: Gap) -> None:
        """Have the rows that a gap touches derived again."""
        from_s = gap.from_ms // 1000
        # A gap that closed without a trade after it had touched all that came after it.
        to_s = self.closed_s if gap.to_ms is None or gap.open_ended else min(gap.to_ms // 1000, self.closed_s)
        from_minute, to_minute = minute_of(from_s), minute_of(to_s)
        if gap.status in (GapStatus.OPEN, GapStatus.NOT_SUBSCRIBED):
            minutes = [m for m in self.ring.minutes if from_minute <= m <= to_minute]
        else:
            minutes = self.ring.rederive(from_minute, to_minute, self.closed_s, newest=gap.open_ended)
        self.rows.mark_minutes(minutes, LANE_REPAIR)
        for minute in minutes:
            for second in self.ring.minutes[minute].bricks:
                if from_s <= second <= to_s:
                    self.rows.mark_second(second, LANE_REPAIR)

    def _last_closed_id(self) -> int:
        """The highest id that no unclosed second can still hold: neither a trade there nor one missing from it."""
        last = (self.ids.next_id or 1) - 1
        for gap in self.ids.gaps:
            if gap.missing and gap.to_ms is not None and gap.to_ms >= 1000 * self.closed_s:
                last = min(last, gap.missing[0][0] - 1)
        for minute, record in self.ring.minutes.items():
            if minute + 60 > self.closed_s:
                for second, brick in record.bricks.items():
                    if second >= self.closed_s and brick.first_id is not None:
                        last = min(last, brick.first_id - 1)
        return last

    def _move_cursor(self, batch: Batch) -> None:
        """The cursor passes nothing that is neither in a row nor in the ledger."""
        cursor = (self._last_closed_id(), self.closed_s)
        if any(not g.recorded for g in self.ids.gaps):
            cursor = self._start
        if cursor > self._cursor:
            self._cursor = cursor
            batch.put_cursor(CursorRow(self.stream.service, self.stream.venue, self.stream.symbol, *cursor))

    def _evict(self) -> None:
        limits, minutes = self.limits, self.ring.minutes
        if self.closed_s % 60 == PACK_AT_S:
            self.ring.pack(minute_of(self.closed_s))
        if len(minutes) <= limits.ring_s // 60 + 2:
            return
        keep = {minute_of(self.ids.last_ms // 1000)}
        for gap in self.ids.gaps:
            end_ms = gap.to_ms if gap.to_ms is not None else gap.probe_ms
            if gap.to_ms is None and gap.worked:
                end_ms = 1000 * self.closed_s  # what was restored may lie anywhere up to now
            first, last = minute_of(gap.from_ms // 1000), minute_of((gap.from_ms if end_ms is None else end_ms) // 1000)
            keep.update((first, last) if gap.parked else range(first, last + 60, 60))
        self.ring.evict(minute_of(self.closed_s) - limits.ring_s, keep)
        oldest_ms = 1000 * min(minutes)
        self.ids.barred = [g for g in self.ids.barred if g.to_ms is None or g.to_ms >= oldest_ms]
