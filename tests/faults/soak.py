"""`make soak MINUTES=n`: 200 symbols in real time without faults; memory, open files, outbox and lag must not grow.

Prints a line every so often, and at the end holds every row and message against the venue's recount. The exit code is
0 when nothing grew and everything is equal.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression

import click
import psutil

from ops.servers_private import PrivateServers
from tests.faults.chaos import NOISY
from tests.faults.evidence import AWAY
from tests.faults.judge import judge_log, judge_tables
from tests.faults.world import Setup, World, open_world
from tests.servers import end_run, lead_run, own_private_servers

SAMPLE_EVERY_S = 2.0
PRINT_EVERY_S = 30.0
SETTLE_WITHIN_S = 60.0

RSS_MB_PER_MIN_MAX = 1.0
FILES_PER_MIN_MAX = 0.5
OUTBOX_MAX = 5_000
OUTBOX_PER_MIN_MAX = 50.0
LAG_S_MAX = 5.0
LAG_S_PER_MIN_MAX = 0.2


@dataclass(frozen=True)
class Sample:
    """One look: minutes since the start, and what was there."""

    at_min: float
    rss_mb: float
    files: int
    outbox: int
    lag_s: float
    cpu: float


class Soak:
    """The samples of one run."""

    def __init__(self, world: World) -> None:
        self.samples: list[Sample] = []
        self._world, self._began = world, time.monotonic()
        process = world.living().process
        assert process is not None
        self._process = psutil.Process(process.pid)
        self._process.cpu_percent()

    async def run(self, minutes: float) -> None:
        """Look every `SAMPLE_EVERY_S`, print every `PRINT_EVERY_S`."""
        due = 0.0
        click.echo(f"{'min':>5} {'MB':>6} {'files':>5} {'outbox':>6} {'lag s':>5} {'% core':>6}")
        while (passed := time.monotonic() - self._began) < 60 * minutes:
            sample = await self._look(passed / 60)
            self.samples.append(sample)
            if passed >= due:
                due += PRINT_EVERY_S
                click.echo(line_of(sample))
            # Not in step with the seconds of the market, or the lag would seem to drift.
            await asyncio.sleep(SAMPLE_EVERY_S * random.uniform(0.75, 1.25))

    async def _look(self, at_min: float) -> Sample:
        world = self._world
        world.living()
        row = (
            await world.fetch(
                "SELECT (SELECT coalesce(sum(cardinality(keys)), 0) FROM bus_outbox) AS outbox,"
                " (SELECT extract(epoch FROM min(event_time))::float8 FROM ingest_cursors) AS oldest"
            )
        )[0]
        lag_s = (await world.stage.oracle("status"))["venue_ms"] / 1000 - row["oldest"]
        memory = self._process.memory_info().rss / 2**20
        return Sample(at_min, memory, self._process.num_fds(), row["outbox"], lag_s, self._process.cpu_percent())


def line_of(s: Sample) -> str:
    return f"{s.at_min:>5.1f} {s.rss_mb:>6.1f} {s.files:>5} {s.outbox:>6} {s.lag_s:>5.1f} {s.cpu:>6.1f}"


def find_growth(samples: Sequence[Sample]) -> list[str]:
    """What grew in the second half, or was ever too much."""
    half = [s for s in samples if s.at_min >= samples[-1].at_min / 2]
    looks: list[tuple[str, Callable[[Sample], float], float]] = [
        ("memory, MB", lambda s: s.rss_mb, RSS_MB_PER_MIN_MAX),
        ("open files", lambda s: s.files, FILES_PER_MIN_MAX),
        ("outbox, messages", lambda s: s.outbox, OUTBOX_PER_MIN_MAX),
        ("lag, s", lambda s: s.lag_s, LAG_S_PER_MIN_MAX),
    ]
    found: list[str] = []
    for name, value, most in looks:
        slope = linear_regression([s.at_min for s in half], [value(s) for s in half]).slope
        click.echo(f"second half: {name}: {slope:+.3f} a minute (allowed {most:g})")
        if slope > most:
            found.append(f"{name} grows by {slope:.3f} a minute")
    if max(s.outbox for s in samples) > OUTBOX_MAX:
        found.append(f"the outbox held {max(s.outbox for s in samples)} messages")
    late = sorted(s.lag_s for s in samples)[int(len(samples) * 0.99) - 1]
    click.echo(f"lag: p99 {late:.1f} s (allowed {LAG_S_MAX:g})")
    if late > LAG_S_MAX:
        found.append(f"the lag's p99 is {late:.1f} s")
    return found


async def soak(own: PrivateServers, folder: Path, minutes: float, symbols: int, rate: float) -> list[str]:
    """Run and judge; returns what was wrong."""
    names = ("BTCUSDT", *(f"S{i:03d}USDT" for i in range(1, symbols)))
    # A short ring is full early, so that what still grows afterwards is a leak.
    setup = Setup(names, speed=1, rate=rate, rank_power=1.0, settings={"ring_s": 120})
    async with open_world(folder, setup, own=own) as world:
        run = Soak(world)
        await run.run(minutes)
        found = find_growth(run.samples)
        target_s = await world.venue_s() + 2
        try:
            await world.reach(lambda: world.is_whole(target_s), SETTLE_WITHIN_S, "all stored and delivered")
            from_s = 0
            compared = await judge_tables(world, from_s, target_s, missing=False, lossy=False)
            await judge_log(world, from_s, target_s)
            click.echo(f"compared: {compared.rows} rows, {world.tail.messages} messages, {world.tail.repeats} repeats")
            if compared.incomplete:
                found.append(f"{compared.incomplete} rows are incomplete")
        except (AssertionError, *AWAY) as error:
            found.append(str(error)[:3000])
    return found


@click.command(help=__doc__)
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--symbols", default=200, show_default=True)
@click.option("--rate", default=500.0, show_default=True, help="trades per second, all symbols together")
def main(minutes: float, symbols: int, rate: float) -> None:
    """Run and exit."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    click.echo(f"soak: {symbols} symbols, {rate:g} trades/s, {minutes:g} minutes")
    lead_run()
    try:
        with own_private_servers() as own, tempfile.TemporaryDirectory() as folder:
            found = asyncio.run(soak(own, Path(folder), minutes, symbols, rate))
    finally:
        end_run()
    for text in found:
        click.echo(f"soak: {text}")
    click.echo("soak: ok" if not found else "soak: failed")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
