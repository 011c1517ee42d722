"""`python -m benchmarks [QUESTION ...]` (`make bench`): every question, or those named; one table.

Exits 1 when a ratio or an account does not hold.
"""

from __future__ import annotations

import sys
from types import ModuleType

import click
import uvloop

from benchmarks import influencer, latency, parts, registry, saturated, whole
from benchmarks.bench import Answer, show

QUESTIONS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module for module in (saturated, whole, latency, influencer, registry, parts)
}


async def measure(names: tuple[str, ...]) -> list[Answer]:
    """One question after the other, because the machine is shared enough."""
    answers: list[Answer] = []
    for name in names:
        print(f"{name} ..", file=sys.stderr, flush=True)
        answers += await QUESTIONS[name].measure()
    return answers


@click.command(epilog="\b\nExamples:\n  python -m benchmarks\n  BENCH_SECONDS=8 python -m benchmarks saturated whole")
@click.argument("question", nargs=-1, type=click.Choice(list(QUESTIONS)))
def main(question: tuple[str, ...]) -> None:
    """Measure what the services cost and how fast they are; without a QUESTION all of them, in about five minutes.

    BENCH_SECONDS (20) is the length of one paced measurement. TS_DSN, RMQ_URL and MANAGEMENT_URL name servers to use;
    otherwise the clone's own are started. Exit code 1 when a ratio or an account does not hold.
    """
    sys.exit(show(uvloop.run(measure(question or tuple(QUESTIONS)))))


if __name__ == "__main__":
    main()
