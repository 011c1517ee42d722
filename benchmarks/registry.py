"""Question 5: how long does a night's run take, and what of the venues' limits, when every answer takes 150 ms?"""

from __future__ import annotations

import asyncio
import re
import sys
import time

import uvloop

from benchmarks.bench import Answer, show
from benchmarks.ground import Ground, open_ground

LATENCY_MS = 150
SYMBOLS = 200
LISTED = 260
TARGET_S = 60.0
WEIGHT_PER_MIN = 6_000
RUN_TIMEOUT_S = 300.0
_VENDORS = ("BINANCE_REST_URL", "BINANCE_FUTURES_REST_URL", "OKX_REST_URL", "COINGECKO_URL")


async def _run(ground: Ground, number: int) -> tuple[float, str]:
    """One run as a timer makes it: seconds from the process's start to its end, and what it said."""
    env = {**dict.fromkeys(_VENDORS, f"http://127.0.0.1:{ground.venue_port}"), "TS_DSN": ground.dsn}
    begun_s = time.monotonic()
    child = await ground.stage.start(
        f"run{number}", ["registry", "run"], {**env, "RMQ_URL": ground.rmq_url, "BUS_LOG_MAX_BYTES": 20_000_000}
    )
    if await asyncio.wait_for(child.process.wait(), RUN_TIMEOUT_S):
        raise RuntimeError(f"the run failed:\n{child.last_words()}")
    return time.monotonic() - begun_s, child.log.read_text()


def _count(pattern: str, told: str) -> int:
    found = re.search(pattern, told)
    if found is None:
        raise RuntimeError(f"no {pattern!r} in:\n{told}")
    return int(found[1])


async def measure() -> list[Answer]:
    """A first run, in which everybody is new, and one right after it, which must have nothing to say."""
    async with open_ground(2) as ground:
        limits = ("--weight-limit", WEIGHT_PER_MIN, "--rest-latency-ms", LATENCY_MS)
        # A market that all but stands: a point of a score that moves is told, and rightly so.
        await ground.start_venue(20, "--speed", 0.001, "--listing", LISTED, "--okx", *limits)
        first_s, first = await _run(ground, 1)
        second_s, second = await _run(ground, 2)
        status = await ground.venue_status()
        messages = await ground.count("bus_outbox")
    judged, events = _count(r"(\d+) symbols judged", first), _count(r"; (\d+) events", second)
    spot = _count(r"binance \d+ calls \(weight (\d+)", first)
    futures = _count(r"binance futures \d+ calls \(weight (\d+)", first)
    most, refused = status["weight_used_max"], status["requests_refused"]
    return [
        Answer(
            f"registry run, {judged} symbols, {LATENCY_MS} ms an answer", f"{first_s:.1f} s, the next {second_s:.1f} s",
            f"<= {TARGET_S:g} s", judged == SYMBOLS and max(first_s, second_s) <= TARGET_S,
        ),
        Answer("events of the next run; messages left", f"{events}; {messages}", "0; 0", events == messages == 0),
        Answer(
            "weight of a run; most a minute, both runs; refused", f"spot {spot}, futures {futures}; {most}; {refused}",
            f"<= {WEIGHT_PER_MIN // 2}; 0 refused", most <= WEIGHT_PER_MIN // 2 and not refused,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(show(uvloop.run(measure())))
