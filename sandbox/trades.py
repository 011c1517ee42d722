"""What the sandbox knows about one trade, and small sets of trade ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

UNIT = 10**8
"""Prices and quantities are integers counting units of 1e-8, the finest step the venue prints."""


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One aggTrade: `first`..`last` are the venue's single trades in it, `maker` says that the buyer was the maker."""

    id: int
    price: int
    qty: int
    first: int
    last: int
    time_ms: int
    maker: bool


class Source(Protocol):
    """Where trades come from; every answer is a pure function of its arguments.

    Times are epoch milliseconds of the venue, spans are half-open `[from_ms, to_ms)`, answers rise by id.
    `lag_ms` is how long after its trade time a trade is pushed; `end_ms` the time of the last trade, None for endless.
    """

    @property
    def symbols(self) -> tuple[str, ...]:
        """What is traded."""
        ...

    @property
    def lag_ms(self) -> int:
        """From trade time to push time."""
        ...

    @property
    def end_ms(self) -> int | None:
        """Time of the last trade; None: endless, or no trade at all."""
        ...

    def first_ms(self, symbol: str) -> int | None:
        """Time of the first trade ever, or a lower bound of it; None when there is none."""
        ...

    def between(self, symbol: str, from_ms: int, to_ms: int) -> Sequence[Trade]:
        """Trades of `[from_ms, to_ms)`."""
        ...

    def from_id(self, symbol: str, from_id: int, limit: int, until_ms: int) -> Sequence[Trade]:
        """At most `limit` trades with ids from `from_id` on, none later than `until_ms`."""
        ...

    def before(self, symbol: str, time_ms: int, limit: int) -> Sequence[Trade]:
        """The last `limit` trades earlier than `time_ms`."""
        ...


class IdRanges:
    """Closed ranges of trade ids per symbol."""

    def __init__(self) -> None:
        self._ranges: dict[str, list[tuple[int, int]]] = {}

    def add(self, symbol: str, from_id: int, to_id: int) -> None:
        """Put ids `from_id`..`to_id` in; a range that continues the last one extends it."""
        ranges = self._ranges.setdefault(symbol, [])
        if ranges and ranges[-1][1] + 1 == from_id:
            ranges[-1] = (ranges[-1][0], to_id)
        else:
            ranges.append((from_id, to_id))

    def has(self, symbol: str, trade_id: int) -> bool:
        """Whether an id is in."""
        ranges = self._ranges.get(symbol)
        return ranges is not None and any(low <= trade_id <= high for low, high in ranges)

    def without(self, symbol: str, trades: Sequence[Trade]) -> Sequence[Trade]:
        """The trades whose ids are not in."""
        if symbol not in self._ranges:
            return trades
        return [trade for trade in trades if not self.has(symbol, trade.id)]

    def clear(self) -> None:
        """Forget every range."""
        self._ranges.clear()

    def as_json(self) -> dict[str, list[tuple[int, int]]]:
        """Symbol to list of `[from, to]`."""
        return {symbol: list(ranges) for symbol, ranges in self._ranges.items()}
