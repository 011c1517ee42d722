"""How far single symbols are behind their line: what a healthy connection alone would hide. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ohlcv_ingestor.line import Line
from ohlcv_ingestor.series import Series


@dataclass(frozen=True)
class Lags:
    """Venue seconds: per symbol how far its closed rows are behind the line, and the age of the oldest open gap.

    A symbol whose first trade came but whose start is not known yet (the venue's REST does not answer) is behind
    since that trade. Gaps left for an operator (`parked`) do not count.
    """

    behind_s: dict[str, float]
    oldest_gap_s: float
    gaps: int
    parked: int


def measure_lags(line: Line[Series]) -> Lags:
    """Look at every series of a line."""
    behind: dict[str, float] = {}
    oldest, gaps, parked = 0.0, 0, 0
    for symbol, series in line.series.items():
        seen = series.ids.first_seen
        if not series.young:
            behind[symbol] = line.watermark_ms / 1000 - series.closed_s
        elif seen is not None:
            behind[symbol] = (line.watermark_ms - seen.time_ms) / 1000
        for gap in series.ids.gaps:
            if gap.parked:
                parked += 1
                continue
            gaps += 1
            end_ms = gap.from_ms if gap.to_ms is None else gap.to_ms
            oldest = max(oldest, (line.watermark_ms - end_ms) / 1000)
    return Lags(behind, oldest, gaps, parked)
