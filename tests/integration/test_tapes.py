"""Recorded trades through sandbox and ingestor into the database, much faster than they happened."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.stage import Stage, open_stage

SYMBOL = "LTCUSDT"
FIRST = "binance/spot_aggTrades_LTCUSDT_20250622_14h-17h.csv.gz"
SECOND = "binance/spot_aggTrades_LTCUSDT_20250622_17h-19h_with_gaps.csv.gz"
WITHHELD = [
    (293632900, 293632903),
    (293633500, 293633500),
    (293635000, 293635120),
    (293638000, 293638699),
    (293641000, 293641009),
]


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        stage.history_s = 0
        yield stage


async def play(stage: Stage, speed: int, *flags: str) -> int:
    """Play a tape to its end and let everything settle; returns the venue second up to which rows are stored."""
    await stage.start_venue("--start", "recorded", "--hold", "--speed", str(speed), *flags)
    await stage.start_ingestor(symbols=SYMBOL, clock_rate=speed)
    end_s = (await stage.oracle("status"))["tape_end_ms"] // 1000 + 70
    await stage.settle([SYMBOL], end_s, 110)
    return end_s


async def test_withheld_ids_are_repaired(stage: Stage, shared_data: Path) -> None:
    """Five id ranges never streamed but served by REST: five gaps, each repaired, every bar equal to the recount."""
    withhold = ",".join(f"{SYMBOL}:{a}-{b}" for a, b in WITHHELD)
    tape = ("--tape", f"{shared_data / FIRST}:{SYMBOL}", "--tape-limit", "10000")
    end_s = await play(stage, 200, *tape, "--withhold", withhold)
    gaps = await stage.con.fetch("SELECT from_id, to_id, status FROM feed_gaps ORDER BY from_id")
    assert [(g["from_id"], g["to_id"]) for g in gaps] == WITHHELD
    assert {g["status"] for g in gaps} == {"repaired"}
    counts = await stage.judge([SYMBOL], end_s)
    assert counts["incomplete"] == 0
    assert counts["bars"] > 30
    await stage.judge_log(end_s)


@pytest.mark.timeout(180)
async def test_ids_the_venue_lacks_are_named(stage: Stage, shared_data: Path) -> None:
    """Both tapes as recorded: six gaps in their ids, which no REST call can fill."""
    speed = 600
    tapes = [flag for name in (FIRST, SECOND) for flag in ("--tape", f"{shared_data / name}:{SYMBOL}")]
    end_s = await play(stage, speed, *tapes)
    gaps = await stage.con.fetch(
        "SELECT *, (SELECT sum(upper(r) - lower(r)) FROM unnest(missing) r) AS ids FROM feed_gaps ORDER BY from_id"
    )
    assert [(g["ids"], g["status"]) for g in gaps] == [(n, "source_missing") for n in (9, 10, 90, 5, 629, 10)]
    assert [(g["from_id"], g["to_id"]) for g in gaps] == id_gaps([shared_data / FIRST, shared_data / SECOND])
    counts = await stage.judge([SYMBOL], end_s, missing_ok=True)
    assert counts["bars"] > 280
    assert 0 < counts["incomplete"] < 40
    await stage.judge_log(end_s)


def id_gaps(tapes: list[Path]) -> list[tuple[int, int]]:
    """Holes in the ids of the recorded files, read without any code of ours."""
    ids: list[int] = []
    for tape in tapes:
        with gzip.open(tape, "rt") as lines:
            next(lines)
            ids += [int(line.rsplit(",", 1)[1]) for line in lines]
    return [(a + 1, b - 1) for a, b in pairwise(ids) if b != a + 1]
