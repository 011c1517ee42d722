"""The judge judged: hand-made sums, and a real venue's own candles."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

from sandbox.clock import VenueClock
from sandbox.market import Market
from sandbox.recount import Recount, bar_row, collect, footprint_row, kline_row, write_eight, write_number
from sandbox.tape import TapeSource, read_tapes, units_of
from sandbox.trades import Trade

MINUTE_S = 1_790_000_040  # opens a minute


def trade(number: int, at_s: float, price: str, qty: str, *, sold: bool, raw: tuple[int, int]) -> Trade:
    return Trade(number, units_of(price), units_of(qty), *raw, int((MINUTE_S + at_s) * 1000), sold)


TRADES = [
    trade(1, 0.0, "100.5", "2", sold=False, raw=(10, 12)),
    trade(2, 0.999, "99.25", "0.00000001", sold=True, raw=(13, 13)),
    trade(3, 3.0, "101", "1.5", sold=True, raw=(14, 15)),
    trade(4, 59.999, "100", "1", sold=False, raw=(16, 16)),
    trade(5, 180.0, "98", "3", sold=True, raw=(17, 17)),
]


def recount(trades: list[Trade] = TRADES) -> Recount:
    return Recount(Market(TapeSource({"ABCUSDT": trades}, 0), VenueClock(0, 0)))


async def test_seconds():
    rows = [footprint_row(s) for s in await collect(recount().seconds("ABCUSDT", 0, MINUTE_S + 60, 2**60))]
    assert rows[0] == {
        "time": MINUTE_S,
        "open": "100.5",
        "high": "100.5",
        "low": "99.25",
        "close": "99.25",
        "buy_vol": "2",
        "sell_vol": "0.00000001",
        "buy_quote": "201",
        "sell_quote": "0.0000009925",
        "n": 4,
        "first_id": 1,
        "last_id": 2,
    }
    assert [(row["time"], row["n"]) for row in rows[1:]] == [(MINUTE_S + 3, 2), (MINUTE_S + 59, 1)]


async def test_minutes_with_flat_ones_between():
    now_ms = (MINUTE_S + 200) * 1000
    rows = [bar_row(s) for s in await recount().spans("ABCUSDT", 60, 0, 2**40, now_ms)]
    assert [row["time"] for row in rows] == [MINUTE_S + 60 * i for i in range(4)]
    assert rows[0] == {
        "time": MINUTE_S,
        "o": "100.5",
        "h": "101",
        "l": "99.25",
        "c": "100",
        "v": "4.50000001",
        "n": 7,
        "quote_vol": "452.5000009925",
        "buy_vol": "3",
        "buy_quote_vol": "301",
    }
    flat = {"o": "100", "h": "100", "l": "100", "c": "100", "v": "0", "n": 0, "quote_vol": "0"}
    assert rows[2] == {"time": MINUTE_S + 120, **flat, "buy_vol": "0", "buy_quote_vol": "0"}
    assert (rows[3]["o"], rows[3]["v"]) == ("98", "3")


async def test_ranges_limits_and_the_open_span():
    count = recount()
    now_ms = (MINUTE_S + 3) * 1000  # trade 3 is seen, trade 4 not yet
    assert [s.n for s in await count.spans("ABCUSDT", 60, 0, 2**40, now_ms)] == [6]
    assert [s.n for s in await count.spans("ABCUSDT", 1, 0, 2**40, now_ms)] == [4, 0, 0, 2]
    assert await count.spans("ABCUSDT", 60, 0, 2**40, MINUTE_S * 1000 - 1) == []
    later = (MINUTE_S + 600) * 1000
    flat = await count.spans("ABCUSDT", 60, MINUTE_S + 61, MINUTE_S + 180, later)
    assert [(s.time - MINUTE_S, s.close, s.n) for s in flat] == [(120, units_of("100"), 0)]
    assert len(await count.spans("ABCUSDT", 1, 0, 2**40, later, limit=70)) == 70
    assert [s.n for s in await count.spans("ABCUSDT", 86400, 0, 2**40, later, limit=1)] == [8]


async def test_loss_at_the_venue_changes_the_past():
    market = Market(TapeSource({"ABCUSDT": TRADES}, 0), VenueClock(0, 0))
    count = Recount(market)
    later = (MINUTE_S + 600) * 1000
    before = await count.spans("ABCUSDT", 60, MINUTE_S, MINUTE_S + 180, later)
    market.lose("ABCUSDT", 4, 4)
    after = await count.spans("ABCUSDT", 60, MINUTE_S, MINUTE_S + 180, later)
    assert before[0].close == units_of("100") and after[0].close == units_of("101")
    assert before[1].close == units_of("100") and after[1].close == units_of("101")


async def test_kline_columns():
    (span,) = await recount().spans("ABCUSDT", 60, MINUTE_S, MINUTE_S + 60, 2**60)
    assert kline_row(span, 60) == [
        MINUTE_S * 1000,
        "100.50000000",
        "101.00000000",
        "99.25000000",
        "100.00000000",
        "4.50000001",
        MINUTE_S * 1000 + 59_999,
        "452.50000099",
        7,
        "3.00000000",
        "301.00000000",
        "0",
    ]


def test_numbers_are_exact():
    assert write_number(10**40 + 1, 16) == "1000000000000000000000000.0000000000000001"
    assert [write_number(n, 8) for n in (0, 1, 10**8, 12 * 10**7)] == ["0", "0.00000001", "1", "1.2"]
    assert [write_eight(n, 16) for n in (15 * 10**7, 25 * 10**7)] == ["0.00000002", "0.00000002"]


async def test_equals_the_venues_own_candles(shared_data: Path):
    """2,160 minutes of XRPETH as Binance printed them, flat ones included."""
    folder = shared_data / "binance"
    tape = TapeSource(read_tapes([(folder / "spot_rest_aggTrades_XRPETH_20191011-12.jsonl", None)]), 0)
    own = json.loads((folder / "spot_klines_1m_XRPETH_20191011-12.json").read_text(), parse_float=Decimal)
    count = Recount(Market(tape, VenueClock(0, 0)))
    bars = await count.spans("XRPETH", 60, own[0][0] // 1000, own[-1][0] // 1000 + 1, 2**60)
    assert len(bars) == len(own) == 2160
    told = [
        (
            s.time * 1000,
            *(Decimal(write_number(x, 8)) for x in (s.open, s.high, s.low, s.close, s.buy_vol + s.sell_vol)),
        )
        for s in bars
    ]
    assert told == [(row[0], *(Decimal(x) for x in row[1:])) for row in own]
