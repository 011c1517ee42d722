"""What a line needs of the series it feeds, whichever venue they belong to."""

from __future__ import annotations

from typing import Protocol

from common.batch import Batch
from common.venues.market import Trade
from ohlcv_ingestor.rows import Stream


class Follower(Protocol):
    """One symbol of one venue: trades and venue time in, rows out (see `Series`, `FallbackSeries`)."""

    stream: Stream
    young: bool
    closed_s: int
    watermark_ms: int

    @property
    def last_ms(self) -> int:
        """Time of the newest trade."""
        ...

    def add(self, t: Trade) -> None:
        """Take a streamed trade."""
        ...

    def resume(self, from_ms: int) -> None:
        """A live connection covers the symbol from this venue time on."""
        ...

    def lose(self, at_ms: int, reason: str) -> None:
        """No live connection covers the symbol any more."""
        ...

    def advance(self, to_ms: int) -> bool:
        """Close what ends at or before the watermark; true if a second was closed."""
        ...

    def drain(self, batch: Batch) -> None:
        """Hand on every row that changed."""
        ...

    def last_close(self) -> int | None:
        """Close of the newest trade known."""
        ...

    def traded_at(self, second: int) -> bool:
        """Did a trade fall into this second?"""
        ...
