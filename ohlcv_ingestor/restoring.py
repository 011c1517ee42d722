"""What a repair does to a series: trades and candles of the venue put where they were missing, and the gap ended."""

from __future__ import annotations

from collections.abc import Iterable

from common.contracts import LANE_REPAIR, GapStatus
from common.venues.market import Kline, Trade
from ohlcv_ingestor.bars import kline_bar
from ohlcv_ingestor.bricks import settle_brick
from ohlcv_ingestor.continuity import AHEAD_MAX_MS
from ohlcv_ingestor.gaps import Gap, clip_runs
from ohlcv_ingestor.ring import minute_of
from ohlcv_ingestor.series import Series


def choose_gaps(series: Series) -> list[Gap]:
    """Gaps whose span is settled at the venue and closed here, and that no repair is at work on.

    Of a second that is still open the cursor knows by its trades' ids which ones it holds; a candle has none.
    """
    if series.young:
        return []
    settled = min(series.watermark_ms - 1000 * series.limits.settle_s, 1000 * series.closed_s - 1)
    return [
        g
        for g in series.ids.gaps
        if not (g.active or g.parked or (g.reason == "late" and not _minute_settled(series, g)))
        and (g.recorded or g.silent)
        and (end := g.probe_ms if g.to_id is None else g.to_ms) is not None
        and end <= settled
    ]


def _minute_settled(series: Series, gap: Gap) -> bool:
    """A late trade's whole minute is fetched anew, so it has to be over."""
    end_s = minute_of(gap.from_ms // 1000) + 60
    return 1000 * (end_s + series.limits.settle_s) <= series.watermark_ms


def restore_trades(series: Series, gap: Gap, trades: Iterable[Trade]) -> None:
    """Add trades fetched for a gap; one whose time can not be right stays missing, as if the venue did not have it."""
    earliest_ms = gap.from_ms - 1000 * series.limits.backfill_s
    begun_id, begun_s = series.handover.start
    for t in trades:
        if not earliest_ms <= t.time_ms <= series.watermark_ms + AHEAD_MAX_MS:
            series.ignored += 1
        elif series.ids.restore(gap, t):
            series.ids.changed.append(gap)
            second = t.time_ms // 1000
            if t.id > begun_id and second < begun_s:
                continue  # the candles of a first subscription's history hold it
            gap.from_ms = min(gap.from_ms, t.time_ms)
            series.put(t, second)
            series.rows.mark_second(second, LANE_REPAIR)


def restore_seconds(series: Series, klines: Iterable[Kline], from_s: int, to_s: int) -> None:
    """Replace all bricks of [from_s, to_s) by 1 s klines."""
    for minute in range(minute_of(from_s), to_s, 60):
        bricks = series.ring.ensure(minute).bricks
        for second in [s for s in bricks if from_s <= s < to_s]:
            del bricks[second]
    for k in klines:
        if k.n and from_s <= k.open_s < to_s:
            series.ring.minutes[minute_of(k.open_s)].bricks[k.open_s] = settle_brick(k)
            series.rows.mark_second(k.open_s, LANE_REPAIR)


def restore_bars(series: Series, klines: Iterable[Kline]) -> None:
    """Hand on whole minutes of a long gap by their 1 m klines, ahead of their seconds."""
    for k in klines:
        record = series.ring.ensure(k.open_s)
        record.settled = kline_bar(k)
        series.rows.mark_minute(k.open_s, LANE_REPAIR)


def leave_behind(series: Series, gap: Gap) -> bool:
    """REST has not reached the gap's end: that proves nothing and costs no try; false if it is to be asked again.

    What REST does not reach in the time that is repaired by itself is left for an operator.
    """
    if gap.behind_ms is None:
        gap.behind_ms = series.watermark_ms
    gap.parked = gap.parked or series.watermark_ms - gap.behind_ms > 1000 * series.limits.backfill_s
    return gap.parked or gap.status is not GapStatus.OPEN


def settle_gap(series: Series, gap: Gap) -> bool:
    """End a repair attempt that the venue answered; false if it is to be tried again."""
    gap.behind_ms = None
    whole = not gap.missing and gap.adds_up()
    if whole:
        series.ids.close(gap, GapStatus.REPAIRED)
        return True
    gap.tries += 1
    if gap.tries > series.limits.tries_max:
        gap.retract = True
        series.ids.close(gap, GapStatus.SOURCE_MISSING)
        return True
    series.ids.changed.append(gap)
    return False


def narrow_gap(series: Series, gap: Gap, first_id: int, from_s: int, close: int | None) -> Gap:
    """Park the part of a gap that lies before `from_s`, whose first trade is `first_id`; returns the rest."""
    ids = series.ids
    rest = Gap(
        first_id, gap.to_id, 1000 * from_s, gap.to_ms, gap.reason, next_first=gap.next_first,
        missing=[] if gap.to_id is None else clip_runs(gap.missing, first_id, gap.to_id),
        probe_ms=gap.probe_ms, silent=gap.silent, recorded=gap.recorded, narrowed=True,
        subsumed=[g for g in gap.subsumed if g.from_id >= first_id],
    )  # fmt: skip
    if gap is ids.tail:
        # Now that ids are known to be missing they may lie anywhere after the last trade.
        gap.from_ms, gap.retract = min(gap.from_ms, ids.last_ms or gap.from_ms), True
        ids.next_id, ids.last_ms = first_id, max(ids.last_ms, 1000 * from_s)
        gap.missing = [(gap.from_id, first_id - 1)] if first_id > gap.from_id else []
    else:
        gap.missing = clip_runs(gap.missing, gap.from_id, first_id - 1)
    gap.to_id, gap.to_ms, gap.parked = first_id - 1, 1000 * from_s, True
    gap.subsumed = [g for g in gap.subsumed if g.from_id < first_id]
    gap.probe_ms = gap.next_first = None
    ids.changed.append(gap)
    ids.open_gap(rest)
    if close is not None:
        _correct_close(series, from_s, close)
    return rest


def _correct_close(series: Series, minute: int, close: int) -> None:
    """The chain of closes goes on from what the venue says of the close before this minute."""
    ring = series.ring
    ring.carry = close
    record = ring.minutes.get(minute)
    if record is not None:
        record.prev_close = close
        series.rows.mark_minutes(ring.rederive(minute, minute, series.closed_s, newest=False), LANE_REPAIR)
