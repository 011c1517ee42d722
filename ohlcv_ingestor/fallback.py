"""One symbol of the fallback venue, while the primary is blind: its own seconds, and whole minutes only.

Never two venues in one bar: bricks here hold the fallback's trades alone. A minute is whole if live coverage began at
or before its opening and no trade id was missed; minutes before that come from the venue's own 1 m candle. Nothing
here is ever `complete`: the primary's repair replaces it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from common.batch import Batch
from common.contracts import GRADE_FALLBACK, GRADE_FALLBACK_PART, BarRow
from common.numbers import format_scaled
from common.venues.market import Candle, Trade
from ohlcv_ingestor.bars import bar_row, flat_bar, fold_bricks
from ohlcv_ingestor.bricks import Brick, add_trade, footprint_row, start_brick
from ohlcv_ingestor.ring import minute_of
from ohlcv_ingestor.rows import Stream

KEEP_MINUTES = 3
NOT_FOLLOWED = 2**62
"""A second that never comes: of a pair that is no longer wanted the fallback tells nothing."""
CANDLES_MAX = 5
"""Minutes before live coverage that are asked for by their candle; older ones are the primary's repair alone."""


class Primary(Protocol):
    """The primary's series of a pair: what lies before `closed_s` is its word alone."""

    @property
    def closed_s(self) -> int:
        """End of the last closed second."""
        ...

    def note_fallback(self, second: int) -> None:
        """Hear of a second that the fallback told and that is still to be closed here."""
        ...


class FallbackSeries:
    """Seconds and minutes of one symbol from the fallback venue.

    `since_s` is the second in which the primary was lost: its minute is the first one wanted (None: the primary was
    never heard). `primary` gives the primary's series, None once the pair is not wanted. It offers a line what `Series`
    does.
    """

    def __init__(self, stream: Stream, since_s: int | None, primary: Callable[[], Primary | None]) -> None:
        self.stream = stream
        self._primary = primary
        self.young = False
        self.closed_s = 0
        self.watermark_ms = 0
        self._last_ms = 0
        self.ignored = 0
        self._since_minute: int | None = None if since_s is None else minute_of(since_s)
        self._covered_s: int | None = None
        self._next_id: int | None = None
        self._minutes: dict[int, dict[int, Brick]] = {}
        self._broken: set[int] = set()
        self._wanted: list[int] = []
        self._close: tuple[int, int] | None = None
        self._ready_s: list[int] = []
        self._ready_minutes: list[int] = []
        self._candles: list[BarRow] = []

    def add(self, t: Trade) -> None:
        """Take a streamed trade; one that was already seen, or is older than what is closed, is ignored."""
        second = t.time_ms // 1000
        if self._next_id is not None and t.id < self._next_id:
            self.ignored += 1
            return
        if self._next_id is not None and t.first > self._next_id:
            self._broken.update(range(minute_of(self._last_ms // 1000), minute_of(second) + 60, 60))
        self._next_id, self._last_ms = t.last + 1, max(self._last_ms, t.time_ms)
        if second < self.closed_s:
            self._broken.add(minute_of(second))
            self.ignored += 1
            return
        bricks = self._minutes.setdefault(minute_of(second), {})
        brick = bricks.get(second)
        if brick is None:
            bricks[second] = start_brick(t)
        else:
            add_trade(brick, t)

    def resume(self, from_ms: int) -> None:
        """Live coverage began: seconds are whole from the next one on, minutes from the next one on."""
        self._covered_s = from_ms // 1000 + 1
        self.closed_s = max(self.closed_s, self._covered_s)
        self._next_id = None
        first_whole = minute_of(self._covered_s + 59)
        since = first_whole if self._since_minute is None else self._since_minute
        since = max(since, first_whole - 60 * CANDLES_MAX)
        self._wanted += [m for m in range(since, first_whole, 60) if m not in self._wanted]
        self._since_minute = first_whole

    def lose(self, at_ms: int, reason: str) -> None:
        """The fallback is gone too: what began with it is not whole."""
        if self._covered_s is not None:
            self._since_minute = minute_of(max(at_ms // 1000, self.closed_s))
            self._minutes.clear()
        self._covered_s = None

    def advance(self, to_ms: int) -> bool:
        """Close what ends at or before the fallback's watermark; true if a second was closed."""
        self.watermark_ms = max(self.watermark_ms, to_ms)
        new_s = self.watermark_ms // 1000
        if self._covered_s is None or new_s <= self.closed_s:
            return False
        for minute in range(minute_of(self.closed_s), new_s, 60):
            bricks = self._minutes.get(minute, {})
            self._ready_s += [s for s in sorted(bricks) if self.closed_s <= s < new_s]
            if minute + 60 <= new_s and minute >= (self._since_minute or 0):
                self._ready_minutes.append(minute)
        self.closed_s = new_s
        return True

    def wanted_minutes(self, settle_s: int) -> list[int]:
        """Minutes whose candle is needed and settled at the venue."""
        return [m for m in self._wanted if 1000 * (m + 60 + settle_s) <= self.watermark_ms]

    def take_candle(self, candle: Candle) -> None:
        """A minute that live coverage did not span whole, as the venue itself tells it."""
        if candle.open_s not in self._wanted:
            return
        self._wanted.remove(candle.open_s)
        stream = self.stream
        if self._close is None or self._close[0] <= candle.open_s:
            self._close = (candle.open_s, candle.close)
        scale = stream.scale
        self._candles.append(
            BarRow(
                time=candle.open_s, symbol=stream.symbol,
                o=format_scaled(candle.open, scale), h=format_scaled(candle.high, scale),
                l=format_scaled(candle.low, scale), c=format_scaled(candle.close, scale),
                v=format_scaled(candle.vol, scale), n=None, quote_vol=format_scaled(candle.quote_vol, 2 * scale),
                buy_vol=None, buy_quote_vol=None, source=stream.source, complete=False, grade=GRADE_FALLBACK,
            )
        )  # fmt: skip

    def forget_candle(self, minute: int) -> None:
        """The venue does not tell this minute: it stays as the primary left it."""
        if minute in self._wanted:
            self._wanted.remove(minute)

    def drain(self, batch: Batch) -> None:
        """Hand on what was closed."""
        primary = self._primary()
        theirs_s = NOT_FOLLOWED if primary is None else primary.closed_s
        for row in self._candles:
            batch.put_bar(row)
        self._candles.clear()
        for second in [s for s in self._ready_s if s >= theirs_s]:
            brick = self._minutes[minute_of(second)][second]
            batch.put_footprint(footprint_row(brick, *self._row_of(minute_of(second))))
            if primary is not None:
                primary.note_fallback(second)
        self._ready_s.clear()
        for minute in [m for m in self._ready_minutes if m + 60 > theirs_s]:
            self._emit_minute(minute, batch)
        self._ready_minutes.clear()
        for minute in [m for m in self._minutes if m < minute_of(self.closed_s) - 60 * KEEP_MINUTES]:
            del self._minutes[minute]

    @property
    def last_ms(self) -> int:
        """Time of the newest trade."""
        return self._last_ms

    def last_close(self) -> int | None:
        """Close of the newest trade known here."""
        traded = [m for m, bricks in self._minutes.items() if bricks]
        if not traded:
            return None if self._close is None else self._close[1]
        bricks = self._minutes[max(traded)]
        return bricks[max(bricks)].close

    def traded_at(self, second: int) -> bool:
        """Did a trade fall into this second?"""
        return second in self._minutes.get(minute_of(second), {})

    def _row_of(self, minute: int) -> tuple[str, str, int, bool, int]:
        stream = self.stream
        grade = GRADE_FALLBACK_PART if minute in self._broken else GRADE_FALLBACK
        return stream.symbol, stream.source, stream.scale, False, grade

    def _emit_minute(self, minute: int, batch: Batch) -> None:
        bricks = self._minutes.get(minute)
        if bricks:
            bar = fold_bricks(minute, bricks)
        elif self._close is None:
            self._wanted.append(minute)  # quiet, and no close before it is known: its candle tells
            return
        else:
            bar = flat_bar(minute, self._close[1])
        self._close = (minute, bar.c)
        batch.put_bar(bar_row(bar, *self._row_of(minute)))
