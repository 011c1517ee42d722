"""Parked gaps that an operator repaired in the ledger: the series lets go of them, and of their minutes."""

from __future__ import annotations

from msgspec.structs import replace

from common.batch import Batch
from common.contracts import GapRow, GapStatus
from common.venues.market import Trade
from ohlcv_ingestor.gaps import Gap
from ohlcv_ingestor.parked import follow_ledger, parked_gaps
from ohlcv_ingestor.ring import Minute
from ohlcv_ingestor.rows import Stream
from ohlcv_ingestor.series import Series, SeriesLimits
from ohlcv_ingestor.starts import restart
from ohlcv_ingestor.stored import Stored, gap_of_row
from tests.rows import T0, make_gap

NOW = T0 + 7_200
LEDGER = make_gap(100, to_id=199, from_ms=1000 * (T0 + 10), to_ms=1000 * (T0 + 610), missing=((100, 199),))
REPAIRED = replace(LEDGER, status=GapStatus.REPAIRED, missing=())


def parked(*rows: GapRow, last_traded_s: int = NOW - 1) -> tuple[Series, list[Gap]]:
    """A series that holds these gaps, with the minutes around each, and has traded since."""
    series = Series(Stream("ohlcv", "binance", "SOLUSDT", "binance", 8), SeriesLimits())
    gaps = [gap_of_row(row) for row in rows]
    minutes = {t // 60 * 60: Minute() for row in rows for t in (row.from_ms // 1000, (row.to_ms or 0) // 1000)}
    restart(series, Stored(500, NOW - 60, 7, minutes | {NOW - 60: Minute()}, gaps))
    for gap in gaps:
        gap.parked = True
    series.ids.changed.clear()
    series.ids.last_ms = 1000 * last_traded_s
    series.ids.see(Trade("SOLUSDT", 501, 900, 900, 1, 1, 1000 * last_traded_s, 1000 * last_traded_s, True))
    series.drain(Batch())
    return series, gaps


def test_a_repaired_gap_goes_with_its_minutes() -> None:
    series, (gap,) = parked(LEDGER)
    assert parked_gaps(series) == [gap]
    assert follow_ledger(series, {gap: [LEDGER]}) == [], "still open"
    assert follow_ledger(series, {gap: []}) == [], "not in the ledger"
    assert follow_ledger(series, {}) == [], "nobody asked"
    assert follow_ledger(series, {gap: [REPAIRED]}) == [gap]
    assert parked_gaps(series) == []
    assert min(series.ring.minutes) == NOW - 60


def test_what_is_left_of_it_stays_parked() -> None:
    """Divided by a repair that was interrupted, with a piece that the venue does not have."""
    series, (gap,) = parked(LEDGER)
    first = replace(REPAIRED, to_id=149, to_ms=1000 * (T0 + 300))
    lost = replace(LEDGER, from_id=120, to_id=121, status=GapStatus.SOURCE_MISSING)
    rest = replace(LEDGER, from_id=150, from_ms=1000 * (T0 + 300), missing=((150, 199),))
    assert follow_ledger(series, {gap: [first, lost, rest]}) == [gap]
    (left,) = parked_gaps(series)
    assert (left.from_id, left.to_id, left.missing) == (150, 199, [(150, 199)])
    assert sorted(series.ring.minutes) == [T0 + 600, NOW - 60], "the first one was around what is repaired"
    assert follow_ledger(series, {left: [rest]}) == []
    assert follow_ledger(series, {left: [replace(rest, status=GapStatus.REPAIRED)]}) == [left]


def test_a_gap_stays_while_a_minute_around_it_is_needed() -> None:
    """What the ring holds of such a minute is less than the operator stored: it must not be called whole."""
    series, (gap,) = parked(LEDGER, last_traded_s=T0 + 610)
    assert follow_ledger(series, {gap: [REPAIRED]}) == [], "it holds the last trade"
    other = replace(LEDGER, from_id=300, to_id=310, from_ms=1000 * (T0 + 630), to_ms=1000 * (T0 + 900))
    series, (gap, beside) = parked(LEDGER, other)
    beside.parked = False
    assert follow_ledger(series, {gap: [REPAIRED]}) == [], "the ingestor repairs a gap in the same minute"
    beside.parked = True
    both = {gap: [REPAIRED], beside: [replace(other, status=GapStatus.REPAIRED)]}
    assert set(follow_ledger(series, both)) == {gap, beside}


def test_what_is_not_settled_between_us_and_the_ledger_is_left_alone() -> None:
    series, (gap,) = parked(LEDGER)
    series.ids.changed.append(gap)
    assert follow_ledger(series, {gap: [REPAIRED]}) == []
    series.ids.changed.clear()
    gap.subsumed.append(Gap(150, None, gap.from_ms, None, "restart"))
    assert parked_gaps(series) == []
