"""Where a first subscription begins: what to ask the venue, what its answers mean. No I/O: a generator that asks."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum

from common.venues.market import Kline, Trade
from ohlcv_ingestor.repair import PAGE, QUIET_AFTER_S, Answer, Ask, AskKlines, AskTrades
from ohlcv_ingestor.ring import minute_of


@dataclass(frozen=True)
class Start:
    """Where a first subscription begins: the first trade since a minute, the close before it, the bars before it."""

    first_id: int
    from_s: int
    close: int | None
    history: list[Kline]


class NoStart(Enum):
    """Why a first subscription can not begin yet: it was never traded, or REST has not reached its start."""

    UNTRADED = "untraded"
    BEHIND = "behind"


def begin_symbol(
    from_s: int, history_s: int, *, seen: bool = False, behind_s: float = 0.0
) -> Generator[Ask, Answer, Start | NoStart]:
    """Find the start of a first subscription at a settled minute, once REST has reached it.

    `seen`: a trade was streamed since then, so REST will show one. `behind_s`: for how long it was behind already.
    """
    first_id, newest = None, None
    while first_id is None:
        since = (yield AskTrades(start_ms=1000 * from_s, limit=1)).trades
        if since:
            first_id = since[0].id
            break
        if seen:
            return NoStart.BEHIND
        last = (yield AskTrades(limit=1)).trades
        if not last:
            return NoStart.UNTRADED
        if last[-1].time_ms < 1000 * from_s:
            newest = last[-1]
            first_id = newest.id + 1
    # At least a tenth of the page lies after the start.
    history_s = min(history_s, 60 * PAGE * 9 // 10)
    klines = (yield AskKlines("1m", from_s - history_s, from_s - history_s + 60 * PAGE)).klines
    if not _reaches(klines, from_s, newest):
        if newest is None or behind_s <= QUIET_AFTER_S:
            return NoStart.BEHIND
        # Believed to be quiet, and not proven: all after the last candle shown is asked for like any other gap.
        shown_s = _shown_to(klines, from_s, newest)
        if shown_s < from_s:
            since = (yield AskTrades(start_ms=1000 * shown_s, limit=1)).trades
            from_s, first_id = shown_s, since[0].id if since else newest.id + 1
    history = [k for k in klines if k.open_s < from_s]
    return Start(first_id, from_s, history[-1].close if history else None, history)


def _shown_to(klines: list[Kline], from_s: int, newest: Trade) -> int:
    """Opening of the last candle before `from_s` that may still be open, or that lacks the `newest` trade."""
    if not klines:
        return from_s
    traded = [k.open_s for k in klines if k.n]
    lacks = klines[-1].open_s >= from_s and traded
    return min(from_s, klines[-1].open_s, *((traded[-1], minute_of(newest.time_ms // 1000)) if lacks else ()))


def _reaches(klines: list[Kline], from_s: int, newest: Trade | None) -> bool:
    """Do candles go on after `from_s`, and tell of no trade after the one said to be the `newest`?"""
    if not klines or klines[-1].open_s < from_s:
        return False
    traded = [k for k in klines if k.n]
    if newest is None or not traded:
        return True
    return (traded[-1].open_s, traded[-1].close) == (minute_of(newest.time_ms // 1000), newest.price)
