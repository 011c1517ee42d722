"""The metric ingestor process beside the trades' ingestor, against sandbox processes on real servers."""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests.metric_judge import judge_messages, judge_metrics
from tests.stage import Process, Stage, open_stage, write_registry

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"]
SPEED = 10
MARKET = ("--symbols", ",".join(SYMBOLS), "--rate", "20", "--history", "120", "--speed", str(SPEED), "--okx")


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        yield stage


async def window(stage: Stage, since: int) -> dict[str, dict[str, object]]:
    """Rows by symbol of the newest window, once one is there that began after `since` and is full."""
    newest = 0

    async def there() -> bool:
        nonlocal newest
        newest = await stage.con.fetchval(
            "SELECT coalesce(max(s), 0) FROM (SELECT extract(epoch FROM time)::bigint AS s, count(*) AS n"
            " FROM metric_15s WHERE cvd_delta IS NOT NULL GROUP BY time) w WHERE n >= $1", len(SYMBOLS),
        )  # fmt: skip
        return newest >= since + 15

    await stage.until(there, 15, "a whole window")
    rows = await stage.con.fetch("SELECT * FROM metric_15s WHERE time = to_timestamp($1)", newest)
    return {row["symbol"]: dict(row) for row in rows}


async def after_fault(stage: Stage, *faults: dict[str, object]) -> dict[str, dict[str, object]]:
    """A window that was sampled wholly under these faults."""
    for fault in faults:
        await stage.fault("rest_answer", **{"venue": "futures", **fault})
    return await window(stage, (await stage.venue_s()) // 15 * 15 + 15)


async def serves(stage: Stage, process: Process) -> bool:
    port_file = stage.folder / f"{process.name}.port"
    if not port_file.exists() or not (port := port_file.read_text().strip()):
        return False
    return (await stage.http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200


async def counted(stage: Stage, process: Process, pattern: str) -> float:
    port = int((stage.folder / f"{process.name}.port").read_text())
    text = (await stage.http.get(f"http://127.0.0.1:{port}/metrics")).text
    return sum(float(n) for n in re.findall(rf"^{pattern} (\S+)$", text, re.M))


async def test_what_fails_is_null_and_nothing_else(stage: Stage) -> None:
    """Each endpoint ill alone, then a `kill -9`; every row that was written is right, and every message is its row."""
    await stage.start_venue(*MARKET)
    await stage.fault("list", symbol="XRPUSDT", perp=False)
    await stage.fault("list", symbol="SOLUSDT", perp="1000SOLUSDT")
    await write_registry(stage, dict.fromkeys(SYMBOLS, "ACTIVE"))
    await stage.start_ingestor(clock_rate=SPEED)
    metric = await stage.start_metric(clock_rate=SPEED)
    begun_s = await stage.venue_s()

    rows = await window(stage, begun_s + 60)
    for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT"):
        assert rows[symbol]["funding_source"] == rows[symbol]["oi_source"] == "binance", symbol
    assert [rows[s]["funding_interval_h"] for s in SYMBOLS] == [8, 8, 4, None]
    assert (rows["XRPUSDT"]["funding"], rows["XRPUSDT"]["open_interest"]) == (None, None), "it has no perpetual"

    rows = await after_fault(
        stage,
        {"path": "openInterest", "symbol": "ETHUSDT", "answer": "shift", "field": "time", "by_ms": 60_000},
        {"path": "premiumIndex", "symbol": "1000SOLUSDT", "answer": "set", "fields": {"lastFundingRate": ""}},
        {"path": "openInterest", "symbol": "BTCUSDT", "answer": "error", "code": -1000, "msg": "x"},
    )
    assert (rows["ETHUSDT"]["open_interest"], rows["BTCUSDT"]["open_interest"]) == (None, None)
    assert rows["SOLUSDT"]["funding"] is None
    assert rows["SOLUSDT"]["open_interest"] is not None
    assert rows["BTCUSDT"]["funding"] is not None
    ahead = r'trading_bus_metric_samples_total\{fate="ahead",field="open_interest"\}'
    assert await counted(stage, metric, ahead) >= 1
    await stage.fault("clear", venue="futures")

    rows = await after_fault(
        stage,
        {"path": "premiumIndex", "answer": "status", "status": 503},
        {"path": "openInterest", "answer": "old", "by_ms": 4_000, "every": 2},
    )
    assert [rows[s]["funding"] for s in SYMBOLS] == [None] * 4
    assert [rows[s]["funding_source"] for s in SYMBOLS] == [None] * 4
    assert rows["BTCUSDT"]["open_interest"] is not None
    await stage.fault("clear", venue="futures")

    await metric.kill()
    await stage.fault("rest_answer", venue="futures", path="premiumIndex", answer="garbage")
    await stage.fault("rest_answer", venue="futures", path="openInterest", answer="cut")
    second = await stage.start_metric("metric-2", clock_rate=SPEED, fallback="okx")
    # Until then windows are those of a time without samples.
    await stage.until(lambda: serves(stage, second), 15, "the second one serves")
    rows = await window(stage, (await stage.venue_s()) // 15 * 15 + 15)
    for symbol in SYMBOLS[:3]:
        assert rows[symbol]["funding_source"] == "okx", symbol
        assert rows[symbol]["funding_interval_h"] in (4, 8)
        assert rows[symbol]["open_interest"] is None

    end_s = (await stage.venue_s()) // 15 * 15 - 30
    judged = await judge_metrics(stage, SYMBOLS, begun_s + 75, end_s, multiples={"SOLUSDT": 1000})
    assert judged.wrong == []
    assert judged.flows == judged.windows
    assert judged.interest > judged.windows / 4
    assert await stage.count("funding_settled WHERE regular") > 0
    for process in stage.ingestors:
        if process.alive():
            assert await process.stop() == 0, process.tail()
    assert await judge_messages(stage, SYMBOLS) >= judged.windows
    times = await stage.con.fetch(
        "SELECT 1 FROM (SELECT oi_time, lag(oi_time) OVER (PARTITION BY symbol ORDER BY time) AS before FROM metric_15s"
        " WHERE oi_time IS NOT NULL) t WHERE oi_time < before"
    )
    assert times == [], "vendor time is monotonic"


async def test_what_is_ill_at_the_start_costs_its_own_column_alone(stage: Stage) -> None:
    """No running rates, and a pause for settled funding: open interest is there, and rates come from the fallback."""
    await stage.start_venue(*MARKET)
    for fault in (
        {"path": "premiumIndex", "answer": "status", "status": 503},
        {"path": "fundingRate", "answer": "status", "status": 429, "retry_after_s": 300},
    ):
        await stage.fault("rest_answer", venue="futures", **fault)
    pinned = {"symbols": ",".join(SYMBOLS), "clock_rate": SPEED}
    await stage.start_ingestor(**pinned)
    metric = await stage.start_metric(fallback="okx", **pinned)
    await stage.until(lambda: serves(stage, metric), 15, "it serves")

    async def ill(endpoint: str) -> float:
        return await counted(stage, metric, rf'trading_bus_metric_vendor_failing\{{endpoint="{endpoint}"\}}')

    async def paused() -> bool:
        return await ill("fundingRate") == 1

    await stage.until(paused, 10, "settled funding was asked")
    rows = await window(stage, (await stage.venue_s()) // 15 * 15 + 15)
    assert [rows[s]["funding_source"] for s in SYMBOLS] == ["okx"] * 4
    assert [rows[s]["oi_source"] for s in SYMBOLS] == ["binance"] * 4
    assert await counted(stage, metric, "trading_bus_metric_funding_calls_used") >= 2
    assert await counted(stage, metric, "trading_bus_metric_perps") == 4

    await stage.fault("rest_answer", venue="okx", path="funding-rate", answer="status", status=503)
    rows = await window(stage, (await stage.venue_s()) // 15 * 15 + 15)
    assert [rows[s]["funding"] for s in SYMBOLS] == [None] * 4
    assert (await ill("okx funding-rate"), await ill("premiumIndex")) == (1, 1)
    await stage.fault("clear", venue="futures")
    rows = await window(stage, (await stage.venue_s()) // 15 * 15 + 15)
    assert [rows[s]["funding_source"] for s in SYMBOLS] == ["binance"] * 4
    assert (await ill("okx funding-rate"), await ill("premiumIndex")) == (0, 0), "nobody needs the fallback now"


async def test_a_real_capture_adds_up(stage: Stage, shared_data: Path) -> None:
    """Eleven minutes of BTCUSDT and ETHUSDT, single trades as aggregates of one: every window equals a Decimal sum."""
    symbols, speed = ["BTCUSDT", "ETHUSDT"], 120
    files = [shared_data / f"binance/spot_ws_{s.lower()}_2024080{day}.ndjson.gz" for s in symbols for day in (8, 9)]
    if missing := [file.name for file in files if not file.is_file()]:
        pytest.skip(f"no captures: {', '.join(missing)}")
    truth = {symbol: recount([file for file in files if symbol.lower() in file.name]) for symbol in symbols}
    tapes = [flag for file in files for flag in ("--tape", f"{file}:{file.name[8:15].upper()}")]
    stage.history_s = 0
    await stage.start_venue("--start", "recorded", "--hold", "--speed", str(speed), *tapes)
    pinned = {"symbols": ",".join(symbols), "clock_rate": speed}
    await stage.start_ingestor(**pinned)
    await stage.start_metric(**pinned)
    end_s = (await stage.oracle("status"))["tape_end_ms"] // 1000 // 15 * 15
    await stage.settle(symbols, end_s + 30, 60)

    async def wrong() -> list[str]:
        found: list[str] = []
        for symbol in symbols:
            rows = await stage.con.fetch(
                "SELECT extract(epoch FROM time)::bigint AS s, cvd_delta FROM metric_15s WHERE symbol = $1", symbol
            )
            stored = {row["s"]: row["cvd_delta"] for row in rows}
            first_minute = min(truth[symbol]) // 60 * 60 + 60
            ends = [end for end in truth[symbol] if first_minute < end <= end_s]
            assert len(ends) >= 38
            found += [
                f"{symbol} {end}: {stored.get(end)} is not {truth[symbol][end]}"
                for end in ends
                if stored.get(end) != float(truth[symbol][end])
            ]
        return found

    async def right() -> bool:
        return await wrong() == []

    try:
        await stage.until(right, 15, "every window is the recount")
    except AssertionError as error:
        raise AssertionError(str((await wrong())[:10])) from error


def recount(files: list[Path]) -> dict[int, Decimal]:
    """Signed volume by window end of the captured trades, read without any code of ours."""
    flows: dict[int, Decimal] = defaultdict(Decimal)
    for file in files:
        with gzip.open(file, "rt") as lines:
            for line in lines:
                if '@trade"' in line:
                    trade = json.loads(line.partition(" ")[2])["data"]
                    flows[trade["T"] // 15_000 * 15 + 15] += Decimal(trade["q"]) * (-1 if trade["m"] else 1)
    return flows
