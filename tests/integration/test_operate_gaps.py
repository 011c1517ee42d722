"""Gaps, repairs by hand and audits: the operator's commands beside real ingestors, on real servers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ops.gaps import gaps
from tests.stage import Stage, open_stage

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
SPEED = 20
BACKFILL_MINUTES = 2


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        stage.history_s = 60 * BACKFILL_MINUTES
        yield stage


async def start_market(stage: Stage, epoch_ms: int, *more: str) -> None:
    flags = ("--symbols", ",".join(SYMBOLS), "--rate", "4", "--speed", str(SPEED), "--epoch-ms", str(epoch_ms))
    await stage.start_venue(*flags, "--history", "30", *more)


async def start_ingestor(stage: Stage, name: str) -> None:
    await stage.start_ingestor(
        name, symbols=",".join(SYMBOLS), clock_rate=SPEED, backfill_minutes=BACKFILL_MINUTES, ring_s=120
    )


async def run(stage: Stage, *words: str) -> tuple[int, str]:
    """Exit code and output of `trading-bus gaps`, against the stage's servers and venue."""
    env = {
        "TS_DSN": stage.dsn, "RMQ_URL": stage.rmq_url, "BINANCE_REST_URL": f"http://127.0.0.1:{stage.port}",
        "BACKFILL_MINUTES": str(BACKFILL_MINUTES), "RING_S": "120",
    }  # fmt: skip
    result = await asyncio.to_thread(CliRunner().invoke, gaps, words, env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


async def sleep_through(stage: Stage, epoch_ms: int, minutes: int) -> None:
    """The ingestor dies, and the venue goes on for so long."""
    await stage.ingestors[-1].kill()
    now_ms = (await stage.oracle("status"))["venue_ms"]
    assert stage.venue is not None
    await stage.venue.kill()
    (stage.folder / "venue.ready").unlink()
    await start_market(stage, epoch_ms, "--start", str(now_ms + 60_000 * minutes))


async def test_a_parked_gap_is_listed_repaired_and_stays_so(stage: Stage) -> None:
    epoch_ms = (int(time.time()) - 3_600) * 1000
    await start_market(stage, epoch_ms)
    await start_ingestor(stage, "first")
    await stage.settle(SYMBOLS, await stage.venue_s() + 90)
    await sleep_through(stage, epoch_ms, 65)
    await start_ingestor(stage, "second")
    parked_sql = "feed_gaps WHERE status = 'open' AND to_id IS NOT NULL"
    await stage.until(lambda: stage.count(parked_sql), 15, "the old part is parked")

    async def only_old_gaps() -> bool:
        return (
            await stage.count("feed_gaps WHERE status = 'open'")
            == await stage.count(
                "feed_gaps WHERE status = 'open' AND to_time < (SELECT min(event_time) FROM ingest_cursors)"
                f" - interval '{BACKFILL_MINUTES + 1} minutes'"
            )
            == len(SYMBOLS)
        )

    await stage.until(only_old_gaps, 20, "the ingestor repaired what is its own")

    code, text = await run(stage)
    assert (code, text.splitlines()[-1]) == (1, "2 open"), text
    code, text = await run(stage, "--json", "--symbol", "BTCUSDT")
    (entry,) = json.loads(text)
    assert (code, entry["status"], entry["symbol"]) == (1, "open", "BTCUSDT")
    assert entry["missing_ids"] > 65 * 60
    published = await stage.collect("price_updates.#")

    code, text = await run(stage, "--repair")
    assert code == 0, text
    assert "messages published" in text
    assert " 0 still missing at the venue, 0 left alone" in text
    assert await stage.count("bus_outbox WHERE owner = 'ops/gaps'") == 0
    assert await stage.count("feed_gaps WHERE status NOT IN ('repaired')") == 0
    repaired = await stage.con.fetch("SELECT * FROM feed_gaps ORDER BY symbol, from_id")
    assert sum(r["restored_n"] for r in repaired if r["symbol"] == "BTCUSDT") > entry["missing_ids"]
    old = {entry["from_ms"] // 1000 // 60 * 60 + 60, entry["to_ms"] // 1000 // 60 * 60}
    times = {m["time"] for m in published if m["symbol"] == "BTCUSDT" and "o" in m}
    stamp = "%Y-%m-%dT%H:%M:%SZ"
    assert {time.strftime(stamp, time.gmtime(s)) for s in old} <= times

    assert (await run(stage))[0] == 0
    code, text = await run(stage, "--repair")
    assert (code, text.splitlines()[-1]) == (
        0, "0 repaired, 0 still missing at the venue, 0 left alone, 0 rows changed",
    )  # fmt: skip

    # The ingestor still holds the gap in memory, and another one begins from what is stored.
    assert await stage.ingestors[-1].stop() == 0
    await start_ingestor(stage, "third")
    end_s = await stage.venue_s() + 130
    await stage.settle(SYMBOLS, end_s)
    counts = await stage.judge(SYMBOLS, end_s)
    assert counts["incomplete"] == 0
    assert counts["bars"] > 2 * 65
    assert await stage.judge_log(end_s) > 0
