"""What one flush commits: a value that folds a sequence of writes into one write per key.

Committing a batch gives the same tables as committing its writes one by one, except that waiting rows skip the
revisions nobody saw. Three rules make it so: a waiting row is replaced exactly when a stored one would be (the grade
rule of the store), a retraction lowers waiting rows as well as stored ones, and cursors only rise. The retractions of
a batch go first, so one thing differs: a row that was lowered while it waited meets the stored row as a part, not as
the whole it briefly was.
"""

from __future__ import annotations

from msgspec.structs import replace

from common.contracts import (
    GRADE_FALLBACK,
    GRADE_PART,
    LANE_LIVE,
    BarRow,
    Clearance,
    CursorRow,
    FootprintRow,
    GapRow,
    Retraction,
)

RowKey = tuple[str, int]
"""(symbol, time): sorting by it is the lock order of every writer."""


def outranks(newer: BarRow | FootprintRow, older: BarRow | FootprintRow) -> bool:
    """Whether a newer row may take an older one's place.

    A higher grade wins; among whole rows (fallback and exact) the newer; among parts the one that saw no fewer trades.
    """
    if newer.grade != older.grade:
        return newer.grade > older.grade
    return newer.grade >= GRADE_FALLBACK or (newer.n or 0) >= (older.n or 0)


def _only_forgets_ids(newer: FootprintRow, older: FootprintRow) -> bool:
    return newer.first_id is None and newer == replace(older, first_id=None, last_id=None)


class Batch:
    """Rows, gaps, cursors and retractions waiting for one transaction, each key once."""

    def __init__(self) -> None:
        self.bars: dict[RowKey, BarRow] = {}
        self.footprints: dict[RowKey, FootprintRow] = {}
        self.bar_lanes: dict[RowKey, int] = {}
        self.footprint_lanes: dict[RowKey, int] = {}
        self.retractions: list[Retraction] = []
        self.clearances: list[Clearance] = []
        self.gaps: dict[tuple[str, str, str, int], GapRow] = {}
        self.cursors: dict[tuple[str, str, str], CursorRow] = {}

    def __len__(self) -> int:
        """Rows, gaps and cursors; a batch of nothing but retractions is still true."""
        return len(self.bars) + len(self.footprints) + len(self.gaps) + len(self.cursors)

    def __bool__(self) -> bool:
        return len(self) > 0 or bool(self.retractions) or bool(self.clearances)

    def put_bar(self, row: BarRow, lane: int = LANE_LIVE) -> None:
        """Add a minute, or replace the waiting one if it outranks it.

        A key that was asked for on the live lane stays there: a repair must not slow down what somebody waits for.
        """
        key = (row.symbol, row.time)
        older = self.bars.get(key)
        if older is None or outranks(row, older):
            self.bars[key] = row
        self.bar_lanes[key] = min(lane, self.bar_lanes.get(key, lane))

    def put_footprint(self, row: FootprintRow, lane: int = LANE_LIVE) -> None:
        """Add a second, or replace the waiting one if it outranks it; the same second without ids is no news."""
        key = (row.symbol, row.time)
        older = self.footprints.get(key)
        if older is None or (outranks(row, older) and not _only_forgets_ids(row, older)):
            self.footprints[key] = row
        self.footprint_lanes[key] = min(lane, self.footprint_lanes.get(key, lane))

    def put_gap(self, row: GapRow) -> None:
        """Add a gap, or replace it by its newer state."""
        self.gaps[row.service, row.venue, row.symbol, row.from_id] = row

    def put_cursor(self, row: CursorRow) -> None:
        """Move a cursor forward; one that is not ahead of the waiting one changes nothing."""
        key = (row.service, row.venue, row.symbol)
        older = self.cursors.get(key)
        if older is None:
            self.cursors[key] = row
        elif (row.last_id, row.event_s) > (older.last_id, older.event_s):
            # By id first, so only the time can be behind.
            self.cursors[key] = replace(row, event_s=max(row.event_s, older.event_s))

    def retract(self, retraction: Retraction) -> None:
        """Remember a retraction for the stored rows, and lower the complete rows in its range that still wait here."""
        self.retractions.append(retraction)
        symbol, source = retraction.symbol, retraction.source
        first_bar_s = retraction.from_s - retraction.from_s % 60
        for key, bar in self.bars.items():
            if (
                bar.complete
                and (bar.symbol, bar.source) == (symbol, source)
                and first_bar_s <= bar.time <= retraction.to_s
            ):
                self.bars[key] = replace(bar, complete=False, grade=GRADE_PART)
        for key, second in self.footprints.items():
            in_range = retraction.from_s <= second.time <= retraction.to_s
            if second.complete and in_range and (second.symbol, second.source) == (symbol, source):
                self.footprints[key] = replace(second, complete=False, grade=GRADE_PART)

    def clear_others(self, clearance: Clearance) -> None:
        """Have other venues' seconds deleted, after this batch's rows were written."""
        self.clearances.append(clearance)

    def absorb(self, newer: Batch) -> None:
        """Become this batch followed by `newer`, as if every write had been made here in that order.

        A retraction of the newer batch lowers rows waiting here, but not the newer batch's own rows: those it lowered
        itself, in its own order. A key keeps the repair lane only if both sides had it there.
        """
        for retraction in newer.retractions:
            self.retract(retraction)
        self.clearances += newer.clearances
        for key, bar in newer.bars.items():
            self.put_bar(bar, newer.bar_lanes[key])
        for key, second in newer.footprints.items():
            self.put_footprint(second, newer.footprint_lanes[key])
        for gap in newer.gaps.values():
            self.put_gap(gap)
        for cursor in newer.cursors.values():
            self.put_cursor(cursor)

    def clear(self) -> None:
        """Forget everything."""
        self.bars.clear()
        self.footprints.clear()
        self.bar_lanes.clear()
        self.footprint_lanes.clear()
        self.retractions.clear()
        self.clearances.clear()
        self.gaps.clear()
        self.cursors.clear()
