"""Record a market, play it again, and let a real ingestor make tables of it."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ops.dead import dead
from sandbox.tape import read_tape
from tests.stage import Process, Stage, open_stage

SCRIPT = "from ops.cli import main; main()"
SYMBOLS = ["BTCUSDT", "ETHUSDT"]
SPEED = 60


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        stage.history_s = 0
        yield stage


def recorder(stage: Stage, name: str, venue: str, path: str, symbols: str) -> Process:
    url = f"ws://127.0.0.1:{stage.port}{path}"
    out = str(stage.folder / f"{name}.tape.gz")
    words = ["-c", SCRIPT, "record", venue, "--symbols", symbols, "--out", out, "--url", url]
    process = Process(stage.folder, name, words, {})
    stage.ingestors.append(process)  # killed with the stage
    return process


def rows_of(stage: Stage, name: str) -> list[dict[str, Any]]:
    with gzip.open(stage.folder / f"{name}.tape.gz") as lines:
        return [json.loads(line) for line in lines]


def readable(stage: Stage, name: str, symbol: str) -> list[int]:
    """Ids on a tape that is still being written."""
    path = stage.folder / f"{name}.tape.gz"
    try:
        return [trade.id for trade in read_tape(path)[symbol]]
    except (EOFError, KeyError, ValueError, FileNotFoundError):
        return []


async def record_market(stage: Stage) -> None:
    """Three recorders for some seconds: one is stopped, one killed, the venue cuts the third."""
    await stage.start_venue("--symbols", ",".join(SYMBOLS), "--rate", "160", "--quiet-every", "0", "--okx")
    whole = recorder(stage, "whole", "binance", "/stream", ",".join(SYMBOLS))
    killed = recorder(stage, "killed", "binance", "/stream", "btcusdt")
    okx = recorder(stage, "okx", "okx", "/ws/v5/public", "BTCUSDT,ETH-USDT,NONE-USDT")
    await asyncio.gather(whole.start(), killed.start(), okx.start())
    await stage.until(lambda: (stage.folder / "okx.tape.gz").exists(), 10, "the third recorder works")
    await stage.until(lambda: len(readable(stage, "killed", "BTCUSDT")) > 20, 15, "the second recorder works")
    before = readable(stage, "killed", "BTCUSDT")
    await stage.fault("malformed", symbol="ETHUSDT", count=1)
    await stage.fault("cut", venue="okx")
    await killed.kill()
    await stage.until(lambda: len(readable(stage, "whole", "BTCUSDT")) > 250, 15, "the first recorder works")
    await stage.until(lambda: "connection lost" in okx.tail(), 5, "the third recorder noticed the cut")
    await stage.until(
        lambda: (stage.folder / "okx.tape.gz").stat().st_size > 2000 and "NONE" in okx.tail(), 10, "it came back"
    )
    assert readable(stage, "killed", "BTCUSDT")[: len(before)] == before
    okx.process.send_signal(signal.SIGINT)  # type: ignore[union-attr]
    assert await whole.stop() == 0, whole.tail()
    assert await asyncio.wait_for(okx.process.wait(), 10) == 0, okx.tail()  # type: ignore[union-attr]


async def judge_tapes(stage: Stage) -> dict[str, list[int]]:
    """Hold the tapes against what the venue says it traded; ids by symbol."""
    rows = rows_of(stage, "whole")
    assert (rows[0]["venue"], rows[0]["version"], rows[0]["symbols"]) == ("binance", 1, SYMBOLS)
    marks = [row["mark"] for row in rows if "mark" in row]
    assert marks == ["opened", "sent", "subscribed", "unreadable", "lost", "end"]
    assert (rows[-2]["planned"], rows[-1]["frames"]) == (True, sum("f" in row for row in rows))
    assert all(earlier["t"] <= later["t"] for earlier, later in pairwise(rows[1:]))
    ids: dict[str, list[int]] = {}
    for symbol in SYMBOLS:
        ids[symbol] = [trade.id for trade in read_tape(stage.folder / "whole.tape.gz")[symbol]]
        first, last = ids[symbol][0], ids[symbol][-1]
        truth = await stage.oracle("trades", symbol=symbol, from_id=first, to_id=last)
        frames = [data for row in rows if (data := data_of(row.get("f", ""))).get("s") == symbol]
        told = [{key: f[key] for key in ("a", "p", "q", "f", "l", "T", "m", "M")} for f in frames if "a" in f]
        assert told == truth
    judge_okx(rows_of(stage, "okx"))
    return ids


def data_of(frame: str) -> dict[str, Any]:
    """The event in a frame of Binance; nothing for answers, marks, and what the venue broke."""
    try:
        return json.loads(frame).get("data", {})
    except ValueError:
        return {}


def judge_okx(rows: list[dict[str, Any]]) -> None:
    """Two connections, the cut between them, and a stream the venue does not have."""
    marks = [(row["c"], row["mark"]) for row in rows if "mark" in row]
    second = [mark for connection, mark in marks if connection == 2]
    assert rows[0]["symbols"] == ["BTC-USDT", "ETH-USDT", "NONE-USDT"]
    assert [mark for connection, mark in marks if connection == 1][:2] == ["opened", "sent"]
    assert [row["planned"] for row in rows if row.get("mark") == "lost"] == [False, True]
    assert second[:2] == ["opened", "sent"]
    assert second.count("subscribed") == 3  # one answer each: the cadence and two symbols
    assert "NONE-USDT" in next(row["reason"] for row in rows if row.get("mark") == "refused")
    assert {json.loads(row["f"])["arg"]["instId"] for row in rows if '"data"' in row.get("f", "")} == {
        "BTC-USDT", "ETH-USDT",
    }  # fmt: skip


async def replay_tape(stage: Stage) -> None:
    """Put the played tape into the venue's place."""
    assert stage.venue is not None
    await stage.venue.kill()
    ready = stage.folder / "replay.ready"
    tape = str(stage.folder / "whole.tape.gz")
    words = ["-c", SCRIPT, "replay", tape, "--speed", str(SPEED), "--ready-file", str(ready)]
    stage.venue = Process(stage.folder, "replay", words, {})
    await stage.venue.start()
    await stage.until(ready.exists, 15, "the replay listens")
    stage.port = json.loads(ready.read_text())["port"]


async def test_a_recorded_market_is_played_to_an_ingestor(stage: Stage, rmq_url: str) -> None:
    await record_market(stage)
    ids = await judge_tapes(stage)
    await replay_tape(stage)
    await stage.fault("malformed", symbol="BTCUSDT", count=1)
    await stage.start_ingestor(symbols=",".join(SYMBOLS), clock_rate=SPEED)
    end_s = (await stage.oracle("status"))["tape_end_ms"] // 1000 + 70
    await stage.settle(SYMBOLS, end_s, 60)
    counts = await stage.judge(SYMBOLS, end_s)
    assert counts["incomplete"] == 0
    assert counts["footprints"] >= 4
    for symbol in SYMBOLS:
        row = await stage.con.fetchrow(
            "SELECT min(first_id) AS first, max(last_id) AS last, sum(buy_vol + sell_vol) AS volume"
            " FROM footprint_1s WHERE symbol = $1", symbol,
        )  # fmt: skip
        assert (row["first"], row["last"]) == (ids[symbol][0], ids[symbol][-1])
        tape = read_tape(stage.folder / "whole.tape.gz")[symbol]
        assert row["volume"] * 10**8 == sum(trade.qty for trade in tape)

    # The frame that the venue broke lies among the dead letters.
    listed = await asyncio.to_thread(lambda: CliRunner().invoke(dead, ["list"], env={"RMQ_URL": rmq_url}))
    (line,) = listed.stdout.splitlines()
    assert "ohlcv.frames" in line
    shown = await asyncio.to_thread(
        lambda: CliRunner().invoke(dead, ["show", line.split()[0]], env={"RMQ_URL": rmq_url})
    )
    assert '{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade"' in shown.output
    assert stage.venue is not None
    assert "export AGG_WS_URL=ws://127.0.0.1:" in stage.venue.log.read_text()
    assert await stage.venue.stop() == 0
