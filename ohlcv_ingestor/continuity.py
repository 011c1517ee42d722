"""Continuity of one symbol's aggTrade ids: which trades are new, which ids are missing, and what fills them.

Ids of one symbol rise by one. Every id above the last seen is taken, every id inside an open gap fills it, everything
else is a duplicate. `changed` collects the gaps that were opened, bounded or closed since it was last emptied.
"""

from __future__ import annotations

from common.contracts import GapStatus
from common.venues.market import Trade
from ohlcv_ingestor.gaps import Gap, clip_runs

IDS_ANEW = "ids began anew"
ANEW_MS = 1_000
"""A repeated trade is never newer than the last one; a listing that counts from the beginning again is."""

AHEAD_MAX_MS = 300_000
"""Nothing is this far ahead of its venue's time: what claims to be can not be read. A clock off by a minute can be."""


class Continuity:
    """The ids of one (venue, symbol). `next_id` is None until a first id is known."""

    def __init__(self, settle_ms: int) -> None:
        self.settle_ms = settle_ms
        self.next_id: int | None = None
        self.last_ms = 0
        self.last_raw: int | None = None
        self.first_seen: Trade | None = None
        self.tail: Gap | None = None
        self.gaps: list[Gap] = []
        self.barred: list[Gap] = []
        self.changed: list[Gap] = []

    def see(self, t: Trade) -> bool:
        """Judge a streamed trade: true if it is new and must be added."""
        if self.next_id is None:
            self.first_seen = t
            self._advance(t)
            return True
        if t.id < self.next_id:
            if self._fill(t):
                return True
            if t.time_ms > self.last_ms + ANEW_MS:
                self._doubt_ids()
            return False
        if self.tail is not None:
            self._bound_tail(self.tail, self.next_id, t)
        elif t.id > self.next_id:
            self._open(
                Gap(
                    self.next_id, t.id - 1, min(self.last_ms, t.time_ms), t.time_ms, "jump",
                    missing=[(self.next_id, t.id - 1)], prev_last=self.last_raw, next_first=t.first,
                    due_ms=t.event_ms + self.settle_ms, retract=True,
                )
            )  # fmt: skip
        self._advance(t)
        return True

    def lose(self, at_ms: int, reason: str) -> None:
        """No live connection covers the symbol after `at_ms`: what follows the last id is unknown from here.

        Up to the last trade the ids prove everything, also where coverage had not begun yet.
        """
        if self.next_id is None:
            return
        at_ms = max(at_ms, self.last_ms)
        for gap in self.gaps:
            gap.due_ms = None  # a hole that might still have settled by itself is written at once
        if self.tail is not None:
            self.tail.probe_ms = self.tail.behind_ms = None  # how far REST was behind says nothing of the new time
            return
        self.tail = Gap(self.next_id, None, at_ms, None, reason, prev_last=self.last_raw)
        self._open(self.tail)

    def doubt(self, reason: str) -> None:
        """The venue has trades after the last id that a live connection did not deliver: all since then is unproven."""
        if self.next_id is not None and self.tail is None:
            self.tail = Gap(self.next_id, None, self.last_ms, None, reason, prev_last=self.last_raw, retract=True)
            self._open(self.tail)

    def resume(self, from_ms: int) -> None:
        """Live coverage began again at `from_ms`."""
        if self.tail is not None and self.tail.probe_ms is None:
            self.tail.probe_ms = from_ms

    def restore(self, gap: Gap, t: Trade) -> bool:
        """Judge a trade fetched for `gap`: true if it was missing and must be added."""
        if gap.take(t.id, t.n):
            return True
        if gap is not self.tail or self.next_id is None or gap.probe_ms is None:
            return False
        if t.id < self.next_id or t.time_ms >= gap.probe_ms:
            return False
        if t.id > self.next_id:
            gap.missing.append((self.next_id, t.id - 1))
            gap.from_ms = min(gap.from_ms, self.last_ms or gap.from_ms)
            gap.retract = True
        gap.restored_n += t.n
        self._advance(t)
        return True

    def close(self, gap: Gap, status: GapStatus) -> None:
        """End a gap. An open end that was probed ends at the start of live coverage."""
        if gap not in self.gaps:
            return
        if gap is self.tail:
            self.tail = None
            gap.to_id = (self.next_id or gap.from_id) - 1
            gap.to_ms = gap.probe_ms
        self.gaps.remove(gap)
        gap.status = status
        if status is not GapStatus.REPAIRED:
            self.barred.append(gap)
            gap.recorded = True  # even of a first subscription: what stays missing is in the ledger
        for part in gap.subsumed:
            part.status, part.open_ended = status, False
            if part.to_id is None:
                part.to_id, part.to_ms = max(gap.to_id or 0, part.from_id - 1), gap.to_ms
            part.missing = [run for a, b in gap.missing for run in clip_runs(part.missing, a, b)]
            part.recorded = True
            self.changed.append(part)
        gap.subsumed = []
        self.changed.append(gap)

    def open_gap(self, gap: Gap) -> None:
        """Take over a gap found elsewhere: the ledger, the span since the cursor."""
        if gap.to_id is None:
            self.tail = gap
        self._open(gap)

    def _doubt_ids(self) -> None:
        """A low id newer than the last trade: the venue counts anew, and only an operator can say from where."""
        self.doubt(IDS_ANEW)
        if self.tail is not None:
            self.tail.parked = True

    def _open(self, gap: Gap) -> None:
        self.gaps.append(gap)
        self.changed.append(gap)

    def _advance(self, t: Trade) -> None:
        self.next_id = t.id + 1
        self.last_raw = t.last
        self.last_ms = max(self.last_ms, t.time_ms)

    def _fill(self, t: Trade) -> bool:
        for gap in self.gaps:
            if gap.take(t.id, t.n):
                gap.worked = True
                self.changed.append(gap)  # the ledger never calls an id missing that a stored row holds
                if not gap.missing and gap.to_id is not None and gap.adds_up():
                    self.close(gap, GapStatus.REPAIRED)
                return True
        return False

    def _bound_tail(self, gap: Gap, next_id: int, t: Trade) -> None:
        """The trade after an open end is known: either nothing was missed, or the gap now has two ends."""
        if t.id == next_id and not gap.missing:
            gap.probe_ms = t.time_ms if gap.probe_ms is None else min(gap.probe_ms, t.time_ms)
            self.close(gap, GapStatus.REPAIRED)
            return
        self.tail, gap.open_ended = None, False
        gap.to_id, gap.to_ms, gap.next_first = t.id - 1, t.time_ms, t.first
        gap.from_ms = min(gap.from_ms, self.last_ms or gap.from_ms, t.time_ms)
        if t.id > next_id:
            gap.missing.append((next_id, t.id - 1))
        gap.retract = True
        self.changed.append(gap)
