"""Question 2: what does the whole ingestor cost with 500 symbols, at an ordinary and at a tenfold pace?

The service as it runs (database, outbox, broker, beats, metrics) follows the sandbox, which sends at event time; the
floor reads the same frames from the same sandbox at the same time. At the end the sandbox falls silent and what it
sent is counted against what is stored and what still waits for its second to close.
"""

from __future__ import annotations

import asyncio
import sys
import time

import psutil

from benchmarks.bench import SECONDS, Answer, Child, read_usage, show
from benchmarks.ground import Ground, deadline_in, open_ground

SYMBOLS = 500
PER_SOCKET = 200
BEGIN_TIMEOUT_S = 90.0
WARM_S = 5.0
SCRAPE_EVERY_S = 15.0
ORDINARY, TENFOLD = 1_300, 13_000

BACKLOG = "bus_outbox WHERE created_at < now() - interval '1 second'"
STORED = """
SELECT coalesce(sum(f.last_id - greatest(f.first_id, u.first) + 1), 0)::bigint
  FROM footprint_1s f JOIN unnest($1::text[], $2::bigint[]) AS u(symbol, first) USING (symbol)
 WHERE f.last_id >= u.first
"""
PENDING = """
SELECT coalesce(sum(u.last - c.last_id), 0)::bigint
  FROM ingest_cursors c JOIN unnest($1::text[], $2::bigint[]) AS u(symbol, last) USING (symbol)
"""


async def _settled(ground: Ground) -> bool:
    if await ground.count("ingest_cursors") < len(ground.symbols) or await ground.count(BACKLOG):
        return False
    return not (await ground.metrics())["trading_bus_gaps_open"] if ground.ingestor_port else True


async def wait_begun(ground: Ground) -> None:
    """Every first subscription has its history and its cursor, and the bus has it too."""
    deadline = deadline_in(BEGIN_TIMEOUT_S)
    while not await _settled(ground):
        if time.monotonic() > deadline:
            raise RuntimeError("the symbols did not begin in time")
        await asyncio.sleep(0.5)


async def _streamed_to(ground: Ground) -> dict[str, int]:
    """The newest id that was streamed, by symbol."""
    return {symbol: runs[-1][1] for symbol, runs in (await ground.venue_status())["streamed_ids"].items() if runs}


async def _account(ground: Ground, since: dict[str, int]) -> tuple[int, int, int]:
    """Trades sent after the ids `since`, and of them those stored and pending, once the sandbox is silent.

    What was sent before a symbol had begun is in its history, and may be there by seconds, without ids.
    """
    await ground.fault("silent", for_s=60)
    await asyncio.sleep(1.0)
    last = await _streamed_to(ground)
    names = [symbol for symbol in last if symbol in since]
    stored = await ground.con.fetchval(STORED, names, [since[s] + 1 for s in names])
    pending = await ground.con.fetchval(PENDING, names, [last[s] for s in names])
    return sum(last[s] - since[s] for s in names), stored, pending


async def _pace(ground: Ground, ingestor: Child, floor: Child, seconds: float) -> dict[str, float]:
    """Usage of ingestor and floor, and frames, over some seconds; metrics are scraped as a Prometheus would."""
    before, frames = await ground.metrics(), await _frames(ground)
    ours, bare = read_usage(ingestor.pid), read_usage(floor.pid)
    deadline = deadline_in(seconds)
    while (left_s := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(left_s, SCRAPE_EVERY_S))
        if left_s > SCRAPE_EVERY_S:
            await ground.metrics()
    ours_then, bare_then = read_usage(ingestor.pid), read_usage(floor.pid)
    frames = await _frames(ground) - frames
    after = await ground.metrics()
    wall_s = ours_then.wall_s - ours.wall_s
    return {
        "rate": frames / wall_s,
        "share": (ours_then.cpu_s - ours.cpu_s) / wall_s,
        "floor": (bare_then.cpu_s - bare.cpu_s) / wall_s,
        "rss_mb": ours_then.rss_mb,
        "age_s": time.time() - psutil.Process(ingestor.pid).create_time(),
        "rows": (after["trading_bus_rows_committed_total"] - before["trading_bus_rows_committed_total"]) / wall_s,
        "outbox": after["trading_bus_outbox_messages"],
    }


async def _frames(ground: Ground) -> float:
    return (await ground.metrics())["trading_bus_feed_frames_total"]


async def run(rate: float, seconds: float) -> tuple[dict[str, float], tuple[int, int, int], int]:
    """One pace: its figures, the account of its trades, and gaps in the ledger."""
    async with open_ground(SYMBOLS) as ground:
        await ground.start_venue(rate)
        ingestor = await ground.start_ingestor()
        await wait_begun(ground)
        url = f"ws://127.0.0.1:{ground.venue_port}/stream"
        flags = ["--url", url, "--symbols", SYMBOLS, "--per-socket", PER_SOCKET]
        floor = await ground.stage.start("floor", ["benchmarks.floor", *flags])
        since = await _streamed_to(ground)
        await asyncio.sleep(WARM_S)
        figures = await _pace(ground, ingestor, floor, seconds)
        account = await _account(ground, since)
        return figures, account, await ground.count("feed_gaps")


def _answers(rate: int, figures: dict[str, float], account: tuple[int, int, int], gaps: int) -> list[Answer]:
    sent, stored, pending = account
    share, floor = 100 * figures["share"], 100 * figures["floor"]
    whole = sent == stored + pending and not gaps
    return [
        Answer(
            f"whole ingestor, {SYMBOLS} symbols at {rate:,} frames/s",
            f"{share:.1f} % of a core at {figures['rate']:,.0f}/s",
            "<= 15 %" if rate == ORDINARY else "<= 60 %",
        ),
        Answer("  the floor beside it", f"{floor:.1f} %, ratio {share / floor:.2f} x"),
        Answer("  rows a second", f"{figures['rows']:,.0f}"),
        Answer(
            "  resident memory (grows until the ring is full, 7 min)",
            f"{figures['rss_mb']:.0f} MB after {figures['age_s']:.0f} s",
            "<= 100 MB" if rate == ORDINARY else "",
        ),
        Answer("  sent = stored + pending, gaps", f"{sent:,} = {stored:,} + {pending:,}, {gaps}", "equal, 0", whole),
    ]


async def measure() -> list[Answer]:
    """Both paces."""
    answers: list[Answer] = []
    for rate in (ORDINARY, TENFOLD):
        answers += _answers(rate, *await run(rate, SECONDS))
    return answers


if __name__ == "__main__":
    sys.exit(show(asyncio.run(measure())))
