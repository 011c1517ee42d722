"""What a series hands on: rows, ledger rows and its cursor, in an order from which a restart can go on.

While a gap is not in the ledger yet, or ends in a second still open, everything waits: what is stored must be what a
restart from the stored cursor expects.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.batch import Batch
from common.contracts import LANE_REPAIR, Clearance, CursorRow, GapStatus, Retraction
from ohlcv_ingestor.continuity import Continuity
from ohlcv_ingestor.gaps import Gap, gap_row
from ohlcv_ingestor.ring import Ring, minute_of
from ohlcv_ingestor.rows import Rows, Stream

PACK_AT_S = 20
"""Second of a minute at which those before it are packed: when late trades have come and no bar is waited for."""

Position = tuple[int, int]
"""(last id, end of the last closed second): what a cursor says."""


class Handover:
    """What was handed on so far, and what changed since; `ring_s` is how long minutes stay once they are.

    `cursor` is the newest position handed on, `start` that of a first subscription.
    """

    def __init__(self, stream: Stream, ring: Ring, ids: Continuity, rows: Rows, ring_s: int) -> None:
        self.cursor: Position = (-2, 0)
        self.start: Position = (-2, 0)
        self._stream, self._ring, self._ids, self._rows, self._ring_s = stream, ring, ids, rows, ring_s
        self._closed_s = 0
        self._fallback_s: tuple[int, int] | None = None

    def note_fallback(self, second: int) -> None:
        """Hear of a second that the fallback told and that is still to be closed here."""
        first, last = self._fallback_s or (second, second)
        self._fallback_s = min(first, second), max(last, second)

    def drain(self, batch: Batch, closed_s: int, watermark_ms: int, *, last: bool = False) -> None:
        """Hand on every row, gap and cursor that changed up to the last closed second.

        `last`: nothing more comes, so nothing waits.
        """
        self._closed_s = closed_s
        self._note_due_gaps(watermark_ms)
        if not last and self._held():
            self._put_start(batch)
            return
        self._record_gaps(batch)
        self._rows.emit(batch, closed_s)
        self._clear_fallback(batch)
        self._move_cursor(batch)
        self._evict()

    def retire(self, batch: Batch, closed_s: int, watermark_ms: int) -> None:
        """Hand on the last rows; from the last closed second on the symbol is not wanted.

        With an open end it is as after a stop in a cut: the gap stays open, and the next subscription repairs it.
        """
        for gap in self._ids.gaps:
            gap.due_ms, gap.silent = None, False
        self.drain(batch, closed_s, watermark_ms, last=True)
        if self._ids.tail is not None or any(self._reaches_open_second(g) for g in self._ids.gaps):
            return
        last_id = self._last_closed_id()
        idle = Gap(last_id + 1, None, 1000 * closed_s, None, "unsubscribed", status=GapStatus.NOT_SUBSCRIBED)
        batch.put_gap(gap_row(idle, self._stream.service, self._stream.venue, self._stream.symbol))

    def _note_due_gaps(self, watermark_ms: int) -> None:
        for gap in self._ids.gaps:
            if gap.silent and self._closed_s - gap.from_ms // 1000 > self._ring_s:
                gap.silent = False  # its repair takes so long that it belongs into the ledger
            if not (gap.recorded or gap.silent) and (gap.due_ms is None or gap.due_ms <= watermark_ms):
                gap.recorded = True
                self._ids.changed.append(gap)

    def _reaches_open_second(self, gap: Gap) -> bool:
        return bool(gap.missing) and gap.to_ms is not None and gap.to_ms >= 1000 * self._closed_s

    def _held(self) -> bool:
        if any(not g.recorded or self._reaches_open_second(g) for g in self._ids.gaps):
            return True
        return (self._last_closed_id(), self._closed_s) < self.cursor

    def _put_start(self, batch: Batch) -> None:
        """The start of a first subscription is stored at once: a crash must not lose it."""
        if self.start > self.cursor:
            self.cursor, stream = self.start, self._stream
            batch.put_cursor(CursorRow(stream.service, stream.venue, stream.symbol, *self.start))
            for gap in [g for g in self._ids.changed if g.status is GapStatus.NOT_SUBSCRIBED]:
                batch.put_gap(gap_row(gap, stream.service, stream.venue, stream.symbol))

    def _record_gaps(self, batch: Batch) -> None:
        ids, stream = self._ids, self._stream
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
                to_s = self._closed_s if gap.to_ms is None else gap.to_ms // 1000
                batch.retract(Retraction(stream.symbol, stream.source, gap.from_ms // 1000, to_s))
                gap.retract = False

    def _clear_others(self, gap: Gap, batch: Batch) -> None:
        """The fallback may have spoken in the gap and a little longer: what is closed is ours, up to the next gap."""
        from_s = gap.from_ms // 1000
        to_s = min([self._closed_s - 1, *(g.from_ms // 1000 for g in self._ids.gaps if g.from_ms >= gap.from_ms)])
        self._clear_between(from_s, to_s, batch)

    def _clear_fallback(self, batch: Batch) -> None:
        """Seconds that the fallback told while we were coming back, once they are closed here: a quiet one has no row.

        Those in a gap are cleared when it is repaired.
        """
        if self._fallback_s is None or self._fallback_s[1] >= self._closed_s:
            return
        (from_s, last_s), self._fallback_s = self._fallback_s, None
        from_s = max(from_s, self.start[1])  # before a first subscription's start we have no seconds
        for gap in sorted(self._ids.gaps, key=lambda g: g.from_ms):
            self._clear_between(from_s, min(last_s, gap.from_ms // 1000 - 1), batch)
            from_s = max(from_s, self._closed_s if gap.to_ms is None else gap.to_ms // 1000 + 1)
        self._clear_between(from_s, last_s, batch)

    def _clear_between(self, from_s: int, to_s: int, batch: Batch) -> None:
        if to_s >= from_s:
            batch.clear_others(Clearance(self._stream.symbol, self._stream.source, from_s, to_s))

    def _mark_gap(self, gap: Gap) -> None:
        """Have the rows that a gap touches derived again."""
        from_s = gap.from_ms // 1000
        # A gap that closed without a trade after it had touched all that came after it.
        to_s = self._closed_s if gap.to_ms is None or gap.open_ended else min(gap.to_ms // 1000, self._closed_s)
        from_minute, to_minute = minute_of(from_s), minute_of(to_s)
        if gap.status in (GapStatus.OPEN, GapStatus.NOT_SUBSCRIBED):
            minutes = [m for m in self._ring.minutes if from_minute <= m <= to_minute]
        else:
            minutes = self._ring.rederive(from_minute, to_minute, self._closed_s, newest=gap.open_ended)
        self._rows.mark_minutes(minutes, LANE_REPAIR)
        for minute in minutes:
            for second in self._ring.minutes[minute].bricks:
                if from_s <= second <= to_s:
                    self._rows.mark_second(second, LANE_REPAIR)

    def _last_closed_id(self) -> int:
        """The highest id that no unclosed second can still hold: neither a trade there nor one missing from it."""
        last = (self._ids.next_id or 1) - 1
        for gap in self._ids.gaps:
            if gap.missing and gap.to_ms is not None and gap.to_ms >= 1000 * self._closed_s:
                last = min(last, gap.missing[0][0] - 1)
        for minute, record in self._ring.minutes.items():
            if minute + 60 > self._closed_s:
                for second, brick in record.bricks.items():
                    if second >= self._closed_s and brick.first_id is not None:
                        last = min(last, brick.first_id - 1)
        return last

    def _move_cursor(self, batch: Batch) -> None:
        """The cursor passes nothing that is neither in a row nor in the ledger."""
        cursor = (self._last_closed_id(), self._closed_s)
        if any(not g.recorded for g in self._ids.gaps):
            cursor = self.start
        if cursor > self.cursor:
            self.cursor = cursor
            batch.put_cursor(CursorRow(self._stream.service, self._stream.venue, self._stream.symbol, *cursor))

    def staying(self, gaps: Iterable[Gap]) -> list[int]:
        """Minutes in the ring that stay there: the newest, the last one traded, and those that these gaps need."""
        keep = {minute_of(self._ids.last_ms // 1000)}
        for gap in gaps:
            end_ms = gap.to_ms if gap.to_ms is not None else gap.probe_ms
            if gap.to_ms is None and gap.worked:
                end_ms = 1000 * self._closed_s  # what was restored may lie anywhere up to now
            first, last = minute_of(gap.from_ms // 1000), minute_of((gap.from_ms if end_ms is None else end_ms) // 1000)
            keep.update((first, last) if gap.parked else range(first, last + 60, 60))
        newest = minute_of(self._closed_s) - self._ring_s
        return [minute for minute in self._ring.minutes if minute >= newest or minute in keep]

    def evict(self) -> None:
        """Drop the minutes that nothing needs."""
        minutes = self._ring.minutes
        self._ring.evict(minute_of(self._closed_s) - self._ring_s, set(self.staying(self._ids.gaps)))
        oldest_ms = 1000 * min(minutes, default=0)
        self._ids.barred = [g for g in self._ids.barred if g.to_ms is None or g.to_ms >= oldest_ms]

    def _evict(self) -> None:
        if self._closed_s % 60 == PACK_AT_S:
            self._ring.pack(minute_of(self._closed_s))
        if len(self._ring.minutes) > self._ring_s // 60 + 2:
            self.evict()
