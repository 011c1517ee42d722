"""The primary delivers nothing: the fallback venue speaks, and the primary's repair replaces what it said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.stage import Stage, open_stage

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
MARKET = (
    "--symbols",
    ",".join(SYMBOLS),
    "--rate",
    "20",
    "--history",
    "120",
    "--speed",
    "10",
    "--quiet-every",
    "0",
    "--okx",
)


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        await stage.start_venue(*MARKET)
        await start_ingestor(stage)
        yield stage


async def start_ingestor(stage: Stage, **settings: object) -> None:
    await stage.start_ingestor(
        symbols=",".join(SYMBOLS), clock_rate=10, fallback="okx", failover_after_s=2,
        okx_ws_url=f"ws://127.0.0.1:{stage.port}/ws/v5/public", okx_rest_url=f"http://127.0.0.1:{stage.port}",
        **settings,
    )  # fmt: skip
    await stage.settle(SYMBOLS, await stage.venue_s() + 30)


async def okx_bars(stage: Stage) -> int:
    return await stage.count("raw_bars WHERE source = 'okx'")


async def test_the_fallback_speaks_and_is_replaced(stage: Stage) -> None:
    await stage.fault("silent", for_s=25)
    await stage.until(lambda: _bars_of_all(stage, 2), 30, "two minutes of the fallback for every symbol")
    rows = await stage.con.fetch(
        "SELECT *, extract(epoch FROM time)::bigint AS s FROM raw_bars WHERE source = 'okx' ORDER BY symbol, time"
    )
    assert not any(r["complete"] for r in rows)
    assert {r["grade"] for r in rows} == {3}
    for symbol in SYMBOLS:
        mine = [r for r in rows if r["symbol"] == symbol]
        truth = {
            b["time"]: b
            for b in await stage.oracle("okx/bars", symbol=symbol, from_s=mine[0]["s"], to_s=mine[-1]["s"] + 60)
        }
        assert mine[0]["n"] is None, "the minute of the switch comes from the fallback's candle"
        assert any(r["n"] is not None for r in mine)
        for r in mine:
            for column in ("o", "h", "l", "c", "v"):
                assert r[column] == stage.decimal(truth[r["s"]][column]), (symbol, r["s"], column)
            if r["n"] is not None:
                assert (r["n"], r["buy_vol"]) == (truth[r["s"]]["n"], stage.decimal(truth[r["s"]]["buy_vol"]))
    # While the primary is away its cursor stands still; nothing is whole, and the ledger says so.
    assert await stage.count("feed_gaps WHERE status = 'open'") == len(SYMBOLS)
    await stage.fault("clear")
    end_s = await stage.venue_s() + 120
    await stage.settle(SYMBOLS, end_s)
    assert await okx_bars(stage) == 0
    assert (await stage.judge(SYMBOLS, end_s))["incomplete"] == 0
    await stage.judge_log(end_s)


async def test_the_fallback_speaks_though_its_rest_does_not_answer(tmp_path: Path, ts_dsn: str, rmq_url: str) -> None:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        await stage.start_venue(*MARKET)
        await stage.fault("rest_slow", venue="okx", for_s=60, by_s=30)
        await start_ingestor(stage)
        await stage.fault("silent", for_s=60)
        await stage.until(lambda: _seconds_of_all(stage), 20, "the fallback's seconds of every symbol")


async def test_the_fallback_speaks_while_trades_come_without_their_time(
    tmp_path: Path, ts_dsn: str, rmq_url: str
) -> None:  # fmt: skip
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        await stage.start_venue(*MARKET)
        await start_ingestor(stage, stale_after_s=1)
        await stage.fault("mute_stream", stream="btcusdt@miniTicker")
        await stage.until(lambda: _seconds_of_all(stage), 10, "the fallback's seconds of every symbol")
        await stage.fault("clear")
        end_s = await stage.venue_s() + 60
        await stage.settle(SYMBOLS, end_s)
        assert (await stage.judge(SYMBOLS, end_s))["incomplete"] == 0


async def test_both_venues_dead(stage: Stage) -> None:
    beats = await stage.collect("price_updates.*.beat")
    await stage.fault("silent", for_s=60)
    await stage.fault("silent", for_s=60, venue="okx")
    await stage.until(lambda: _blind_bars(stage), 40, "a minute closed blind")
    await stage.until(lambda: any(b["live"] is False for b in beats), 10, "beats say that nothing is live")
    await stage.fault("clear")
    await stage.fault("clear", venue="okx")
    end_s = await stage.venue_s() + 120
    await stage.settle(SYMBOLS, end_s)
    assert (await stage.judge(SYMBOLS, end_s))["incomplete"] == 0
    await stage.judge_log(end_s)


async def _seconds_of_all(stage: Stage) -> bool:
    rows = await stage.con.fetch("SELECT DISTINCT symbol FROM footprint_1s WHERE source = 'okx'")
    return {r["symbol"] for r in rows} == set(SYMBOLS)


async def _bars_of_all(stage: Stage, least: int) -> bool:
    rows = await stage.con.fetch("SELECT symbol, count(*) AS n FROM raw_bars WHERE source = 'okx' GROUP BY 1")
    return len(rows) == len(SYMBOLS) and all(r["n"] > least for r in rows)


async def _blind_bars(stage: Stage) -> bool:
    return await stage.count("raw_bars WHERE NOT complete AND source = 'binance' AND v = 0") >= len(SYMBOLS)
