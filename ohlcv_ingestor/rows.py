"""Rows of one series: which seconds and minutes have to be handed on, and what each says of itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.batch import Batch
from common.contracts import GRADE_EXACT, GRADE_PART, LANE_REPAIR, GapStatus
from ohlcv_ingestor.bars import bar_row
from ohlcv_ingestor.bricks import Brick, footprint_row
from ohlcv_ingestor.continuity import Continuity
from ohlcv_ingestor.ring import Ring, minute_of


@dataclass(frozen=True)
class Stream:
    """Which rows a series writes: its service, venue, symbol, `source` and the venue's scale."""

    service: str
    venue: str
    symbol: str
    source: str
    scale: int


class Rows:
    """Seconds and minutes marked since the last `emit`, each with the lane of its message.

    A closed span is complete exactly if no gap touches it; a minute that the venue's own candle told is, unless a
    gap that can not be repaired touches it.
    """

    def __init__(self, stream: Stream, ring: Ring, ids: Continuity) -> None:
        self._stream, self._ring, self._ids = stream, ring, ids
        self._seconds: dict[int, int] = {}
        self._minutes: dict[int, int] = {}

    def mark_second(self, second: int, lane: int) -> None:
        """Have a second handed on."""
        self._seconds[second] = lane

    def mark_minute(self, minute: int, lane: int) -> None:
        """Have a minute handed on."""
        self._minutes[minute] = lane

    def mark_minutes(self, minutes: Iterable[int], lane: int) -> None:
        """Have minutes handed on."""
        for minute in minutes:
            self._minutes[minute] = lane

    def mark_after(self, second: int) -> None:
        """An open end got its second end at this closed second: what lies after it is no longer touched."""
        for minute, record in self._ring.minutes.items():
            if minute + 60 > second:
                self._minutes[minute] = LANE_REPAIR
                self._seconds.update(dict.fromkeys((s for s in record.bricks if s >= second), LANE_REPAIR))

    def emit(self, batch: Batch, closed_s: int) -> None:
        """Hand on what was marked and is closed; what is not closed is marked again when it closes."""
        stream = self._stream
        for second, lane in self._seconds.items():
            brick = self._brick(second)
            if second < closed_s and brick is not None:
                complete = self._whole(1000 * second, 1000 * second + 1000)
                grade = GRADE_EXACT if complete else GRADE_PART
                row = footprint_row(brick, stream.symbol, stream.source, stream.scale, complete, grade)
                batch.put_footprint(row, lane)
        for minute, lane in self._minutes.items():
            bar = self._ring.bar(minute) if minute + 60 <= closed_s and minute in self._ring.minutes else None
            if bar is not None:
                complete = self._minute_whole(minute)
                grade = GRADE_EXACT if complete else GRADE_PART
                batch.put_bar(bar_row(bar, stream.symbol, stream.source, stream.scale, complete, grade), lane)
                self._ring.minutes[minute].emitted_close = bar.c
        self._seconds.clear()
        self._minutes.clear()

    def _whole(self, from_ms: int, to_ms: int) -> bool:
        ids = self._ids
        return not any(g.touches(from_ms, to_ms) for g in ids.gaps) and not any(
            g.touches(from_ms, to_ms) for g in ids.barred
        )

    def _minute_whole(self, minute: int) -> bool:
        from_ms, to_ms = 1000 * minute, 1000 * (minute + 60)
        if self._ring.minutes[minute].settled is None:
            return self._whole(from_ms, to_ms)
        lost = [g for g in self._ids.barred if g.status is GapStatus.SOURCE_MISSING]
        return not any(g.touches(from_ms, to_ms) for g in lost)

    def _brick(self, second: int) -> Brick | None:
        record = self._ring.minutes.get(minute_of(second))
        return None if record is None else record.bricks.get(second)
