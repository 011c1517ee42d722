"""The last minutes of one symbol: bricks by minute, and the chain of closes that flat minutes need."""

from __future__ import annotations

import marshal

from msgspec.structs import astuple

from ohlcv_ingestor.bars import Bar, flat_bar, fold_bricks
from ohlcv_ingestor.bricks import Brick


def minute_of(second: int) -> int:
    """The minute (its opening second) that holds a second."""
    return second - second % 60


class Minute:
    """Bricks of one minute by second; `prev_close` is the close before it.

    `settled` is the venue's own 1 m candle, where one was fetched ahead of the seconds. `emitted_close` is the close
    last handed on, by which a revision knows whether the flat minutes after it change too. Bricks that are packed
    take a third of their room, and come back when they are asked for.
    """

    __slots__ = ("_bricks", "_last_close", "_packed", "emitted_close", "prev_close", "settled")

    def __init__(self) -> None:
        self.prev_close: int | None = None
        self.settled: Bar | None = None
        self.emitted_close: int | None = None
        self._bricks: dict[int, Brick] = {}
        self._packed = b""
        self._last_close = 0

    @property
    def bricks(self) -> dict[int, Brick]:
        """Bricks by second, to be changed at will."""
        if self._packed:
            # A brick's first field is its second.
            self._bricks = {values[0]: Brick(*values) for values in marshal.loads(self._packed)}
            self._packed = b""
        return self._bricks

    @property
    def traded(self) -> bool:
        """Is there any brick?"""
        return bool(self._packed or self._bricks)

    def pack(self) -> None:
        """Pack the bricks: most minutes are never looked at again."""
        if self._bricks:
            self._last_close = self._bricks[max(self._bricks)].close
            self._packed = marshal.dumps([astuple(brick) for brick in self._bricks.values()])
            self._bricks = {}

    def close(self) -> int | None:
        """Close of the minute; the previous close where it had no trade."""
        if self.settled is not None:
            return self.settled.c
        if self._packed:
            return self._last_close
        return self._bricks[max(self._bricks)].close if self._bricks else self.prev_close


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
        prev = (
            first.prev_close if first is not None and first.prev_close is not None else self.close_before(from_minute)
        )
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

    def pack(self, before: int) -> None:
        """Pack the minutes before a second."""
        for minute, record in self.minutes.items():
            if minute < before:
                record.pack()
