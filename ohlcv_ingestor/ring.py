"""The last minutes of one symbol: bricks by minute, and the chain of closes that flat minutes need."""

from __future__ import annotations

from dataclasses import dataclass, field

from ohlcv_ingestor.bars import Bar, flat_bar, fold_bricks
from ohlcv_ingestor.bricks import Brick


def minute_of(second: int) -> int:
    """The minute (its opening second) that holds a second."""
    return second - second % 60


@dataclass(slots=True)
class Minute:
    """Bricks of one minute by second; `prev_close` is the close before it.

    `settled` is the venue's own 1 m candle, where one was fetched ahead of the seconds. `emitted_close` is the close
    last handed on, by which a revision knows whether the flat minutes after it change too.
    """

    bricks: dict[int, Brick] = field(default_factory=lambda: dict[int, Brick]())
    prev_close: int | None = None
    settled: Bar | None = None
    emitted_close: int | None = None

    def close(self) -> int | None:
        """Close of the minute; the previous close where it had no trade."""
        if self.settled is not None:
            return self.settled.c
        return self.bricks[max(self.bricks)].close if self.bricks else self.prev_close


class Ring:
    """Minutes kept in memory, by opening second.

    The chain of closes begins at `floor` with the close `carry`; older minutes, kept for open gaps, are no part of it.
    """

    def __init__(self) -> None:
        self.minutes: dict[int, Minute] = {}
        self.carry: int | None = None
        self.floor = 0

    def ensure(self, minute: int) -> Minute:
        """The record of a minute, made if it is not there."""
        record = self.minutes.get(minute)
        if record is None:
            record = self.minutes[minute] = Minute()
        return record

    def close_before(self, minute: int) -> int | None:
        """The close a flat bar of this minute copies."""
        before = self.minutes.get(minute - 60) if minute > self.floor else None
        return self.carry if before is None else before.close()

    def bar(self, minute: int) -> Bar | None:
        """The minute's bar; None where it had no trade and no earlier close is known."""
        record = self.minutes[minute]
        if record.settled is not None:
            return record.settled
        if record.bricks:
            return fold_bricks(minute, record.bricks)
        return None if record.prev_close is None else flat_bar(minute, record.prev_close)

    def rederive(self, from_minute: int, to_minute: int, closed_s: int, *, newest: bool) -> list[int]:
        """Walk the chain of closes over [from_minute, to_minute] and on while closes change; returns minutes touched.

        Minutes inside the span that were dropped held no trade, so they are made again. After it the walk goes on
        while the close it leaves behind is a new one; minutes that were dropped there are made again only if the
        span ends with the `newest` trade, because otherwise they may have held trades.
        """
        first = self.minutes.get(from_minute)
        prev = self.close_before(from_minute) if first is None else first.prev_close
        touched: list[int] = []
        changed = True
        minute = from_minute
        while minute < closed_s or minute <= to_minute:
            record = self.minutes.get(minute)
            if minute > to_minute and (not changed or (not newest if record is None else record.prev_close == prev)):
                break
            if record is None:
                record = self.minutes[minute] = Minute()
            record.prev_close = prev
            prev = record.close()
            if minute >= to_minute:
                changed = record.emitted_close != prev
            touched.append(minute)
            minute += 60
        return touched

    def evict(self, before: int, keep: set[int]) -> None:
        """Drop minutes before a second, but for those to keep."""
        for minute in [m for m in self.minutes if m < before and m not in keep]:
            del self.minutes[minute]
