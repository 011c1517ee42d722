"""Stored minutes against the venue's: what is equal, what differs, and what is counted apart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from common.contracts import BarRow, FootprintRow, GapStatus
from common.venues.market import Kline
from ohlcv_ingestor.bars import bar_row, kline_bar
from ohlcv_ingestor.bricks import footprint_row, settle_brick
from ops import verify_live
from ops.verify_minutes import COLUMNS, MinuteCounts, compare_minutes, join_runs
from tests.rows import T0, make_gap

SYMBOL = "SOLUSDT"
U = 10**8


def second(at: int, price: int, n: int = 3) -> Kline:
    buy, sell = 5 * U, 2 * U
    return Kline(at, price * U, (price + 1) * U, price * U, (price + 1) * U, buy + sell, price * (buy + sell) * U, n,
                 buy, price * buy * U)  # fmt: skip


def market(minutes: int = 3) -> tuple[list[Kline], list[BarRow], list[FootprintRow]]:
    """Candles, and what is stored of them: two seconds with trades in each minute."""
    candles: list[Kline] = []
    bars: list[BarRow] = []
    seconds: list[FootprintRow] = []
    for i in range(minutes):
        at = T0 + 60 * i
        parts = [second(at + 7, 100 + i), second(at + 30, 90 + i)]
        a, b = parts
        whole = Kline(at, a.open, a.high, b.low, b.close, a.vol + b.vol, a.quote_vol + b.quote_vol, a.n + b.n,
                      a.buy_vol + b.buy_vol, a.buy_quote_vol + b.buy_quote_vol)  # fmt: skip
        candles.append(whole)
        bars.append(bar_row(kline_bar(whole), SYMBOL, "binance", 8, True, 4))
        seconds += [footprint_row(settle_brick(k), SYMBOL, "binance", 8, True, 4) for k in parts]
    return candles, bars, seconds


def judge(candles: Any, bars: Any, seconds: Any, ledger: Any = (), first: int | None = T0) -> Any:
    return compare_minutes(SYMBOL, candles, bars, seconds, ledger, first)


class Venue:
    """Tells the time, and is asked for nothing else."""

    def __init__(self, *_: object) -> None: ...

    async def now_s(self) -> int:
        return T0 + 3600

    async def close(self) -> None: ...


@pytest.mark.parametrize(("after", "code"), [(MinuteCounts(compared=3, equal=3), 0), (MinuteCounts(wrong={T0}), 1)])
async def test_a_window_of_the_fallback_alone_that_was_made_equal_is_a_success(
    monkeypatch: pytest.MonkeyPatch, after: MinuteCounts, code: int
) -> None:
    told = [MinuteCounts(fallback=3, wrong={T0, T0 + 60, T0 + 120}), after]

    async def compare(*_: object) -> MinuteCounts:
        return told.pop(0)

    async def repair(*_: object) -> None: ...

    @asynccontextmanager
    async def outlet(*_: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(store=None, outbox=SimpleNamespace(wake=lambda: None))

    for name, instead in (("compare_symbol", compare), ("repair_minutes", repair), ("open_outlet", outlet),
                          ("Asker", Venue)):  # fmt: skip
        monkeypatch.setattr(verify_live, name, instead)
    assert await verify_live._verify("", "", "", (SYMBOL,), "10m", None, True, 100, "") == code


def test_what_is_equal_is_equal() -> None:
    counts = judge(*market())
    assert (counts.compared, counts.equal, counts.wrong, counts.differences) == (3, 3, set(), [])


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_compared(column: str) -> None:
    candles, bars, seconds = market()
    old = getattr(bars[1], column)
    bars[1] = replace(bars[1], **{column: old + 1 if isinstance(old, int) else old + "1" if "." in old else old + ".1"})
    counts = judge(candles, bars, seconds)
    assert counts.wrong == {T0 + 60}
    assert counts.equal == 2
    assert [str(d).partition(": ours")[0].split("Z ")[1] for d in counts.differences] == [
        column, f"{column} of its seconds",
    ]  # fmt: skip


@pytest.mark.parametrize("column", ["open", "high", "low", "close", "buy_vol", "sell_vol", "buy_quote", "sell_quote"])
def test_every_column_of_a_second_counts_in_its_minute(column: str) -> None:
    candles, bars, seconds = market()
    which = {"open": 2, "close": 3}.get(column, 2 if column == "high" else 3)
    value = {"high": "999", "low": "1"}.get(column, getattr(seconds[which], column) + "7")
    seconds[which] = replace(seconds[which], **{column: value})
    counts = judge(candles, bars, seconds)
    assert counts.wrong == {T0 + 60}
    assert all(d.field.endswith("of its seconds") for d in counts.differences)


def test_a_second_too_few_or_of_another_venue_is_named() -> None:
    candles, bars, seconds = market()
    assert judge(candles, bars, seconds[:-1]).wrong == {T0 + 120}
    seconds[0] = replace(seconds[0], source="okx")
    (difference,) = judge(candles, bars, seconds).differences
    assert (difference.field, difference.ours) == ("source of its seconds", "okx")


def test_a_minute_that_nothing_explains_is_not_left_out_of_the_count() -> None:
    candles, bars, seconds = market()
    counts = judge(candles, bars[:1] + bars[2:], seconds)
    assert (counts.compared, counts.equal, counts.wrong) == (3, 2, {T0 + 60})


def test_what_the_ledger_or_a_fallback_explains_is_counted_apart() -> None:
    candles, bars, seconds = market(5)
    bars[0] = replace(bars[0], complete=False, grade=2, v="1")
    bars[1] = replace(bars[1], source="okx", complete=False, grade=3, v="1")
    del bars[2]
    gap = make_gap(1, from_ms=1000 * (T0 + 3), to_ms=1000 * (T0 + 121))
    late = [row for row in seconds if row.time >= T0 + 240]
    counts = judge(candles, bars, late, [gap])
    assert (counts.incomplete, counts.fallback, counts.missing, counts.bare) == (1, 1, 1, 1)
    assert (counts.compared, counts.equal, counts.wrong) == (2, 2, set())


def test_what_nothing_explains_differs() -> None:
    candles, bars, seconds = market()
    bars[0] = replace(bars[0], complete=False, grade=2)
    del bars[1]
    gap = make_gap(1, GapStatus.REPAIRED, from_ms=1000 * T0, to_ms=1000 * (T0 + 121))
    bars[-1] = replace(bars[-1], source="okx", complete=False, grade=3)
    counts = judge(candles, bars, seconds, [gap])
    assert counts.wrong == {T0, T0 + 60, T0 + 120}
    assert [d.field for d in counts.differences] == ["complete", "row", "source"]
    assert (counts.incomplete, counts.fallback) == (1, 1)
    assert judge(candles, bars[1:], seconds, [gap], first=T0 + 120).missing == 2
    assert judge(candles, [], [], [], first=None).missing == 3


def test_a_minute_with_trades_that_the_venue_lacks_differs() -> None:
    candles, bars, seconds = market()
    counts = judge(candles[:1], bars, seconds)
    assert (counts.compared, counts.equal, counts.wrong) == (3, 1, {T0 + 60, T0 + 120})
    assert [(d.field, d.theirs) for d in counts.differences] == [("row", "none")] * 2
    assert judge([], bars, seconds).wrong == {T0, T0 + 60, T0 + 120}, "a venue that answers nothing proves nothing"
    unproven = [replace(bars[0], complete=False), replace(bars[1], n=0)]
    assert judge([], unproven, []).wrong == set(), "neither claims a trade"


def test_a_venue_that_rounds_is_compared_as_near_as_it_prints() -> None:
    candles, bars, _ = market(1)
    exact = replace(bars[0], quote_vol=bars[0].quote_vol + ".000000051")
    assert judge(candles, [exact], []).wrong == set()
    far = replace(bars[0], quote_vol=bars[0].quote_vol + ".000000061")
    assert judge(candles, [far], []).wrong == {T0}
    whole = replace(bars[0], quote_vol=bars[0].quote_vol + ".00000001")
    assert judge(candles, [whole], []).wrong == {T0}, "where nothing is finer nothing is rounded"


def test_minutes_join_into_stretches() -> None:
    assert join_runs([180, 0, 60, 300, 120], 2) == [(0, 120), (120, 240), (300, 360)]
