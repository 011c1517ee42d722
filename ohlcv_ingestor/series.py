"""One symbol of one venue: trades in, rows out, and for each row whether it is proven whole.

Everything that makes a span unproven is a gap (a jump of ids, time without a live connection, time since the cursor),
so a closed row is complete exactly if no gap touches it. Time is the venue's: `advance` is told the watermark.

How it starts is in `starts`, what a repair does to it in `restoring`, what it tells the tables in `handing_on`.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.batch import Batch
from common.contracts import LANE_LIVE
from common.venues.market import Trade
from ohlcv_ingestor.bricks import add_trade, start_brick
from ohlcv_ingestor.continuity import Continuity
from ohlcv_ingestor.gaps import Gap
from ohlcv_ingestor.handing_on import Handover
from ohlcv_ingestor.ring import Minute, Ring, minute_of
from ohlcv_ingestor.rows import Rows, Stream
from ohlcv_ingestor.stored import Stored


@dataclass(frozen=True)
class SeriesLimits:
    """Spans in venue time and counts that bound one series; `tries_max` follow an answer that did not fill a gap."""

    ring_s: int = 300
    gap_settle_ms: int = 1_000
    settle_s: int = 3
    backfill_s: int = 6_000
    tries_max: int = 3


@dataclass(frozen=True)
class Inherited:
    """What an earlier subscription left: its state, and the time since then in which the symbol was not wanted."""

    stored: Stored
    idle: list[Gap]


class Series:
    """State of one (venue, symbol). It is young, and says nothing, until it was given a start.

    `wanted_s` is when it became wanted, by our monotonic clock. `closed_s` is the end of its last closed second,
    `covered_ms` the venue time from which on a live connection covers it, `checked_ms` that up to which the venue
    was asked whether silence is quiet, `behind_ms` the watermark at which REST was found not to have reached its start,
    `ignored` counts trades of no use.
    """

    def __init__(self, stream: Stream, limits: SeriesLimits, wanted_s: float = 0.0) -> None:
        self.stream = stream
        self.wanted_s = wanted_s
        self.limits = limits
        self.ids = Continuity(limits.gap_settle_ms)
        self.ring = Ring()
        self.rows = Rows(stream, self.ring, self.ids)
        self.handover = Handover(stream, self.ring, self.ids, self.rows, limits.ring_s)
        self.young = True
        self.closed_s = 0
        self.watermark_ms = 0
        self.covered_ms: int | None = None
        self.checked_ms = 0
        self.behind_ms: int | None = None
        self.ignored = 0
        self.inherited: Inherited | None = None

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
            self.put(t, second)
        elif not add_trade(brick, t):
            self.ignored += 1

    def lose(self, at_ms: int, reason: str) -> None:
        """No live connection covers the symbol any more."""
        self.covered_ms = self.behind_ms = None
        self.ids.lose(max(at_ms, 1000 * self.closed_s), reason)

    def resume(self, from_ms: int) -> None:
        """A live connection covers the symbol again, from this venue time on."""
        self.covered_ms = from_ms
        self.ids.resume(from_ms)

    def doubt(self, reason: str) -> None:
        """The venue has trades that a live connection did not deliver; what follows the last one is unproven."""
        self.ids.doubt(reason)

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
            self.ring.pack(minute_of(to_ms // 1000))
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

    def put(self, t: Trade, second: int) -> None:
        """Put a trade that is known to be new into its second."""
        minute = second - second % 60
        record = self.ring.minutes.get(minute)
        if record is None:
            record = self.ring.minutes[minute] = Minute()
        brick = record.bricks.get(second)
        if brick is None:
            record.bricks[second] = start_brick(t)
        elif not add_trade(brick, t):
            self.ignored += 1

    def note_fallback(self, second: int) -> None:
        """Hear of a second that the fallback told and that is still to be closed here."""
        self.handover.note_fallback(second)

    def drain(self, batch: Batch) -> None:
        """Hand on every row, gap and cursor that changed."""
        if not self.young:
            self.handover.drain(batch, self.closed_s, self.watermark_ms)

    def retire(self, batch: Batch) -> None:
        """Hand on the last rows; from the last closed second on the symbol is not wanted."""
        if not self.young:
            self.handover.retire(batch, self.closed_s, self.watermark_ms)

    def _add_late(self, t: Trade, second: int) -> None:
        minute = minute_of(second)
        if self.closed_s - second > self.limits.backfill_s:
            self.ignored += 1  # no venue is that late: its time is wrong, and its id comes back as a gap
            return
        if minute >= max(minute_of(self.closed_s) - self.limits.ring_s, self.ring.floor):
            tail = self.ids.tail
            if self.ids.see(t):
                self.put(t, second)
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
