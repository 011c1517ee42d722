"""`python -m benchmarks` (`make bench`): every question, one table. Exits 1 when a ratio or an account does not hold.

BENCH_SECONDS (20) is the length of one paced measurement. TS_DSN, RMQ_URL and MANAGEMENT_URL name servers to use.
"""

from __future__ import annotations

import sys

import uvloop

from benchmarks import influencer, latency, parts, saturated, whole
from benchmarks.bench import Answer, show


async def measure() -> list[Answer]:
    """One question after the other, because the machine is shared enough."""
    answers: list[Answer] = []
    for question in (saturated, whole, latency, influencer, parts):
        print(f"{question.__name__.rpartition('.')[2]} ..", file=sys.stderr, flush=True)
        answers += await question.measure()
    return answers


if __name__ == "__main__":
    sys.exit(show(uvloop.run(measure())))
