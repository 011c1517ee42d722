"""`make metric-soak MINUTES=n`: 200 symbols in real time; how late rows are, what they cost, and whether all are right.

Prints a line every half minute, and at the end holds every window against the venue's recount and the futures venue's
own values. The exit code is 0 when every row was written within 2 s of its window's end, nearly all have funding and
open interest, the weight stayed below half of the venue's limit, the process used at most 5 % of a core, and everything
is equal.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import psutil

from tests.faults.chaos import NOISY
from tests.faults.evidence import AWAY
from tests.faults.metric import LAST_WINDOWS
from tests.faults.world import Setup, World, open_world
from tests.metric_judge import WINDOW_S, judge_messages, judge_metrics
from tests.servers import end_run, lead_run, share_servers

LATE_S_MAX = 2.0
CORE_SHARE_MAX = 0.05
WEIGHT_LIMIT, WEIGHT_SHARE_MAX = 2400, 0.5
SAMPLED_MIN = 0.98
"""Of all rows: a venue that is well answers nearly always."""
PRINT_EVERY_S = 30.0
SAMPLE_EVERY_S = 2.0
STARTING_WINDOWS = 2
"""Windows in which the ingestors begin are not timed."""


@dataclass
class Timing:
    """What was measured: rows by how late they were written, seconds; venue seconds less ours."""

    offset_s: float = 0.0
    late_s: list[float] = field(default_factory=list)
    heard_s: list[float] = field(default_factory=list)
    weight: float = 0.0
    core: float = 0.0
    rss_mb: float = 0.0


class MetricSoak:
    """One run; the ingestor's process is looked at from outside."""

    def __init__(self, world: World) -> None:
        self.world, self.timing = world, Timing()
        assert world.metric is not None
        assert world.metric.process is not None
        self.process = psutil.Process(world.metric.process.pid)
        self.from_s = 0

    async def run(self, minutes: float) -> None:
        """Measure for so long."""
        status = await self.world.stage.oracle("status")
        self.timing.offset_s = status["venue_ms"] / 1000 - time.time()
        self.from_s = (int(await self.world.venue_s()) // WINDOW_S + STARTING_WINDOWS) * WINDOW_S
        messages = await self.world.stage.collect("metric_updates.#")
        began, cpu_before, due = time.monotonic(), self._cpu_s(), PRINT_EVERY_S
        click.echo(f"{'min':>5} {'rows':>6} {'late s':>6} {'% core':>6} {'weight':>6} {'MB':>5}")
        while (passed := time.monotonic() - began) < 60 * minutes:
            self.world.living()
            _, text = await self.world.status_of(self.world.metric, "metrics")  # pyright: ignore[reportArgumentType]
            used = re.search(r"^trading_bus_rest_weight_used (\S+)$", text or "", re.M)
            self.timing.weight = max(self.timing.weight, float(used[1]) if used else 0.0)
            self.timing.rss_mb = max(self.timing.rss_mb, self.process.memory_info().rss / 2**20)
            self.timing.core = (self._cpu_s() - cpu_before) / max(passed, 1e-9)
            if passed >= due:
                due += PRINT_EVERY_S
                await self._time_rows()
                self._print(passed, len(messages))
            await asyncio.sleep(SAMPLE_EVERY_S)
        self.timing.core = (self._cpu_s() - cpu_before) / (time.monotonic() - began)
        await self._time_rows()
        self._print(time.monotonic() - began, len(messages))

    def _cpu_s(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system

    async def _time_rows(self) -> None:
        """How late rows that were never revised were committed; those that were had to be written before."""
        rows = await self.world.fetch(
            "SELECT extract(epoch FROM updated_at)::float8 - extract(epoch FROM time)::float8 AS late FROM metric_15s"
            " WHERE rev = 1 AND time > to_timestamp($1)", self.from_s,
        )  # fmt: skip
        self.timing.late_s = sorted(row["late"] + self.timing.offset_s for row in rows)

    def _print(self, passed_s: float, heard: int) -> None:
        t = self.timing
        late = t.late_s[-1] if t.late_s else 0.0
        click.echo(
            f"{passed_s / 60:>5.1f} {heard:>6} {late:>6.2f} {100 * t.core:>6.1f} {t.weight:>6.0f} {t.rss_mb:>5.0f}"
        )


async def conclude(run: MetricSoak, symbols: int) -> list[str]:
    """What was wrong: rows missing or late, weight, processor, values, messages."""
    world, t = run.world, run.timing
    to_s = (await world.venue_s() // WINDOW_S - LAST_WINDOWS) * WINDOW_S
    found: list[str] = []
    counts: dict[str, Any] = dict(
        (
            await world.fetch(
                "SELECT count(*) AS rows, count(*) FILTER (WHERE rev > 1) AS revised, count(DISTINCT time) AS windows,"
                " count(funding) AS funding, count(open_interest) AS oi, count(cvd_delta) AS cvd FROM metric_15s"
                " WHERE time > to_timestamp($1) AND time <= to_timestamp($2)", run.from_s, to_s,
            )
        )[0]
    )  # fmt: skip
    p99 = t.late_s[int(len(t.late_s) * 0.99) - 1]
    click.echo(f"rows: {counts}")
    click.echo(f"late: p50 {t.late_s[len(t.late_s) // 2]:.2f} s, p99 {p99:.2f} s, worst {t.late_s[-1]:.2f} s")
    if counts["rows"] != symbols * ((to_s - run.from_s) // WINDOW_S):
        found.append(f"{counts['rows']} rows of {symbols} symbols in {(to_s - run.from_s) // WINDOW_S} windows")
    for kind in ("funding", "oi"):
        if counts[kind] < SAMPLED_MIN * counts["rows"]:
            found.append(f"only {counts[kind]} of {counts['rows']} rows have {kind}")
    if t.late_s[-1] > LATE_S_MAX:
        found.append(f"a row was {t.late_s[-1]:.2f} s late")
    if t.weight > WEIGHT_LIMIT * WEIGHT_SHARE_MAX:
        found.append(f"weight {t.weight:.0f} of {WEIGHT_LIMIT}")
    if t.core > CORE_SHARE_MAX:
        found.append(f"{100 * t.core:.1f} % of a core")
    judged = await judge_metrics(world.stage, world.symbols, run.from_s, to_s)
    click.echo(f"judged: {judged.windows} windows, {judged.funding} rates, {judged.interest} open interests")
    found += judged.wrong[:10]
    assert world.metric is not None
    if await world.metric.stop() != 0:
        found.append("the metric ingestor did not stop in order")
    click.echo(f"messages: {await judge_messages(world.stage, world.symbols)} read, every row's last one is there")
    return found


async def soak(folder: Path, minutes: float, symbols: int, rate: float) -> list[str]:
    """Run and judge; returns what was wrong."""
    names = ("BTCUSDT", *(f"S{i:03d}USDT" for i in range(1, symbols)))
    setup = Setup(names, speed=1, rate=rate, rank_power=1.0, settings={"ring_s": 120})
    async with open_world(folder, setup, share_servers()) as world:
        run = MetricSoak(world)
        try:
            await run.run(minutes)
            return await conclude(run, symbols)
        except (AssertionError, *AWAY) as error:
            return [str(error)[:3000]]


@click.command(help=__doc__)
@click.option("--minutes", default=20.0, show_default=True)
@click.option("--symbols", default=200, show_default=True)
@click.option("--rate", default=500.0, show_default=True, help="trades per second, all symbols together")
def main(minutes: float, symbols: int, rate: float) -> None:
    """Run and exit."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    click.echo(f"metric soak: {symbols} symbols, {rate:g} trades/s, {minutes:g} minutes")
    lead_run()
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = asyncio.run(soak(Path(folder), minutes, symbols, rate))
    finally:
        end_run()
    for text in found:
        click.echo(f"metric soak: {text}")
    click.echo("metric soak: ok" if not found else "metric soak: failed")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
