"""Parked gaps and the ledger: an operator repairs them there, and the series lets go of what was repaired. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.contracts import GapRow, GapStatus
from ohlcv_ingestor.gaps import Gap
from ohlcv_ingestor.series import Series
from ohlcv_ingestor.stored import gap_of_row


def parked_gaps(series: Series) -> list[Gap]:
    """Gaps that an operator may have repaired: bounded, in the ledger, and nothing of ours about them is unwritten."""
    return [
        g
        for g in series.ids.gaps
        if g.parked and g.recorded and g.to_id is not None and not g.active and g not in series.ids.changed
        # An end that is not known yet is told with the gap's own.
        and all(part.to_id is not None for part in g.subsumed)
    ]  # fmt: skip


def follow_ledger(series: Series, told: Mapping[Gap, Sequence[GapRow]]) -> list[Gap]:
    """Let go of parked gaps that the ledger divided or ended; returns them.

    `told` has the ledger's rows among each one's ids that are not repaired, and its own row whatever it says. What is
    left of a gap stays parked in its place. The ring holds the minutes around a gap as they were before the repair,
    so a gap goes with its minutes: while one of them is still needed, the gap stays too.
    """
    ids, handover = series.ids, series.handover
    going = {gap for gap in parked_gaps(series) if gap in told and _was_changed(gap, told[gap])}
    while going:
        minutes = handover.staying(gap for gap in ids.gaps if gap not in going)
        bound = {gap for gap in going if any(gap.touches(1000 * m, 1000 * (m + 60)) for m in minutes)}
        if not bound:
            break
        going -= bound
    ids.gaps = [gap for gap in ids.gaps if gap not in going]
    for gap in going:
        _keep_rest(series, told[gap])
    if going:
        handover.evict()
    return list(going)


def _was_changed(gap: Gap, rows: Sequence[GapRow]) -> bool:
    own = next((row for row in rows if row.from_id == gap.from_id), None)
    return own is not None and (own.status is not GapStatus.OPEN or own.to_id != gap.to_id)


def _keep_rest(series: Series, rows: Sequence[GapRow]) -> None:
    ids = series.ids
    known = {gap.from_id for gap in ids.gaps + ids.barred}
    for row in rows:
        if row.from_id in known or row.to_id is None:
            continue
        rest = gap_of_row(row)
        if row.status is GapStatus.OPEN:
            rest.parked = True
            ids.gaps.append(rest)
        elif row.status is GapStatus.SOURCE_MISSING:
            ids.barred.append(rest)
