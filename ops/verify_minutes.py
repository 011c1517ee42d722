"""Stored minutes held against the venue's, and their seconds against them. Pure: rows in, a verdict out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from decimal import Decimal

import msgspec
from msgspec.structs import asdict

from common.contracts import GRADE_EXACT, BarRow, FootprintRow, GapRow, GapStatus
from common.venues.binance_spot import MARKET
from common.venues.market import Kline
from ohlcv_ingestor.bars import bar_row, fold_bricks, kline_bar
from ohlcv_ingestor.ring import minute_of
from ohlcv_ingestor.stored import brick_of_row
from ops.compare import Difference, Fields, compare_row
from ops.gaps_plan import touches

COLUMNS = ("o", "h", "l", "c", "v", "n", "quote_vol", "buy_vol", "buy_quote_vol")
_PRINTED_DECIMALS = 8


class MinuteCounts(msgspec.Struct):
    """What was looked at. `wrong` are the minutes that differ, or are missing or lowered though no gap says so.

    `incomplete`, `fallback` and `missing` minutes are no errors where the ledger, or the time before the first row,
    says why. `bare` minutes have no seconds (history, or past their retention). `later` is the stretch [from, to) of
    the window, in epoch seconds, that lies past the cursor: nobody has stored it yet.
    """

    compared: int = 0
    equal: int = 0
    incomplete: int = 0
    fallback: int = 0
    missing: int = 0
    bare: int = 0
    later: tuple[int, int] | None = None
    differences: list[Difference] = msgspec.field(default_factory=lambda: list[Difference]())
    wrong: set[int] = msgspec.field(default_factory=lambda: set[int]())

    def add(self, other: MinuteCounts) -> None:
        """Count another stretch too."""
        for name in ("compared", "equal", "incomplete", "fallback", "missing", "bare"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.differences += other.differences
        self.wrong |= other.wrong


def compare_minutes(
    symbol: str, theirs: Sequence[Kline], bars: Sequence[BarRow], seconds: Sequence[FootprintRow],
    ledger: Sequence[GapRow], first_bar_s: int | None,
) -> MinuteCounts:  # fmt: skip
    """Judge every minute of which the venue has a candle; `ledger` holds the gaps near them, of every status.

    Only complete minutes are compared; one that is incomplete, or a fallback venue's, without a gap that touches it
    differs, and so does a complete minute with trades of which the venue has no candle.
    """
    stored = {row.time: row for row in bars}
    counts = _judge_ours_alone(bars, {k.open_s for k in theirs})
    held: dict[int, list[FootprintRow]] = {}
    for second in seconds:
        held.setdefault(minute_of(second.time), []).append(second)
    fine = any(_is_fine(row.quote_vol) or _is_fine(row.buy_quote_vol or "") for row in bars)
    for k in theirs:
        row = stored.get(k.open_s)
        excused = any(g.status is not GapStatus.REPAIRED and _touches_minute(g, k.open_s) for g in ledger)
        found: list[Difference] = []
        if row is None:
            if excused or first_bar_s is None or k.open_s < first_bar_s:
                counts.missing += 1
                continue
            counts.compared += 1
            found = compare_row(symbol, k.open_s, None, {})
        elif row.source != MARKET.source or not row.complete:
            foreign = row.source != MARKET.source
            counts.fallback += foreign
            counts.incomplete += not foreign
            if excused:
                continue
            field, ours = ("source", row.source) if foreign else ("complete", "false")
            found = [Difference(symbol, k.open_s, field, ours, "no gap touches it")]
        else:
            counts.compared += 1
            found = _compare_bar(row, k, fine)
            if k.open_s in held:
                found += _compare_seconds(row, held[k.open_s])
            elif row.n:
                counts.bare += 1
            counts.equal += not found
        if found:
            counts.differences += found
            counts.wrong.add(k.open_s)
    return counts


def _judge_ours_alone(bars: Iterable[BarRow], theirs: Set[int]) -> MinuteCounts:
    """A minute that we call proven, with trades in it, is wrong where the venue has none; a flat one claims nothing."""
    alone = [row for row in bars if row.complete and row.n and row.time not in theirs]
    found = [Difference(row.symbol, row.time, "row", "there is one", "none") for row in alone]
    return MinuteCounts(compared=len(alone), differences=found, wrong={row.time for row in alone})


def join_runs(minutes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Minutes as stretches [from_s, to_s) of at most so many minutes that follow each other."""
    runs: list[tuple[int, int]] = []
    for minute in sorted(minutes):
        if runs and runs[-1][1] == minute and minute - runs[-1][0] < 60 * most:
            runs[-1] = (runs[-1][0], minute + 60)
        else:
            runs.append((minute, minute + 60))
    return runs


def _compare_bar(row: BarRow, k: Kline, fine: bool) -> list[Difference]:
    theirs = _bar_fields(bar_row(kline_bar(k), row.symbol, row.source, MARKET.scale, True, GRADE_EXACT))
    slack = Decimal(k.n).scaleb(-_PRINTED_DECIMALS) if fine else Decimal(0)
    return compare_row(row.symbol, row.time, _bar_fields(row), theirs, slack)


def _compare_seconds(row: BarRow, seconds: Sequence[FootprintRow]) -> list[Difference]:
    """The fold of a minute's seconds against its bar; each candle of a second may have been rounded on its own."""
    foreign = {s.source for s in seconds} - {row.source}
    if foreign:
        return [Difference(row.symbol, row.time, "source of its seconds", ", ".join(sorted(foreign)), row.source)]
    bricks = {s.time: brick_of_row(s, MARKET.scale) for s in seconds}
    folded = bar_row(fold_bricks(row.time, bricks), row.symbol, row.source, MARKET.scale, True, GRADE_EXACT)
    slack = Decimal(row.n or 0).scaleb(-_PRINTED_DECIMALS)
    return [
        msgspec.structs.replace(d, field=f"{d.field} of its seconds")
        for d in compare_row(row.symbol, row.time, _bar_fields(folded), _bar_fields(row), slack)
    ]


def _bar_fields(row: BarRow) -> Fields:
    values: Mapping[str, str | int | None] = asdict(row)
    return {name: values[name] for name in COLUMNS}


def _touches_minute(gap: GapRow, minute: int) -> bool:
    return touches(gap, 1000 * minute, 1000 * (minute + 60))


def _is_fine(text: str) -> bool:
    return len(text.partition(".")[2]) > _PRINTED_DECIMALS
