"""The scenario runner: play the steps, wait for live and whole, judge, and say how it went."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.faults.actions import ACTIONS
from tests.faults.evidence import AWAY, Evidence
from tests.faults.judge import Mismatch, judge_log, judge_tables
from tests.faults.metric import judge_world_metrics
from tests.faults.scenarios import LIVE_WITHIN_S, ROWS_PER_S, WHOLE_WITHIN_S, Scenario, Step
from tests.faults.world import World

GIVE_UP_S = 60.0
"""How long is waited beyond a limit, to learn whether it is late or broken."""
RSS_BYTES_MAX = 250 << 20
RSS_GROWTH_MAX = 100 << 20
LOOK_BACK_S = 900
DUMPED = (
    "feed_gaps ORDER BY symbol, from_time",
    "ingest_cursors",
    "raw_bars WHERE NOT complete OR source <> 'binance' ORDER BY symbol, time",
    "footprint_1s WHERE NOT complete OR source <> 'binance' ORDER BY symbol, time",
)


@dataclass(frozen=True)
class Outcome:
    """How one scenario went; `fault` is None when all was well."""

    name: str
    live_s: float | None
    whole_s: float | None
    rows: int
    seen: Evidence = field(default_factory=Evidence)
    fault: str | None = None


async def run_scenario(world: World, scenario: Scenario, patience: float = 1.0) -> Outcome:
    """Play and judge; never raises for what the system under test did. `patience` multiplies the limits of time."""
    live_s = whole_s = None
    rows = 0
    fault = None
    try:
        await world.note()
        begun_s = await world.venue_s()
        await _play(world, scenario.steps)
        ended, ended_s = time.monotonic(), await world.venue_s()
        speed, limit_s = world.setup.speed, patience * LIVE_WITHIN_S + scenario.extra_s
        await world.reach(lambda: world.stored_to(ended_s + speed), limit_s + GIVE_UP_S, "live data")
        live_s = time.monotonic() - ended
        target_s = ended_s + 2 * speed
        lost = len(world.symbols) * (ended_s - begun_s)
        whole_limit_s = patience * (WHOLE_WITHIN_S + lost / ROWS_PER_S) + scenario.extra_s
        await world.reach(lambda: world.is_whole(target_s), whole_limit_s + GIVE_UP_S, "all repaired")
        whole_s = time.monotonic() - ended
        await world.conclude()
        rows = await judge(world, target_s, scenario)
        fault = (
            _late("live", live_s, limit_s)
            or _late("whole", whole_s, whole_limit_s)
            or _fat(world)
            or _felt(world, scenario)
        )
        await world.restore()
    except (AssertionError, TimeoutError, OSError, ExceptionGroup) as error:
        fault = _tell(error)
        await _dump(world)
    return Outcome(scenario.name, live_s, whole_s, rows, world.seen, fault)


async def judge(world: World, to_s: int, scenario: Scenario) -> int:
    """Compare what changed since the last judgement, and a while before it; returns the rows compared."""
    from_s = world.judged_s - LOOK_BACK_S
    world.lossy |= scenario.lossy
    world.missing |= scenario.missing
    compared = await judge_tables(world, from_s, to_s, missing=world.missing, lossy=world.lossy)
    if compared.incomplete and not world.missing:
        raise Mismatch(f"{compared.incomplete} rows are incomplete and nothing explains it")
    await judge_log(world, from_s, to_s)
    await judge_world_metrics(world, from_s, to_s)
    world.judged_s = to_s
    return compared.rows


async def _play(world: World, steps: Sequence[Step]) -> None:
    async def take(step: Step) -> None:
        await asyncio.sleep(step.at_s)
        await ACTIONS[step.action](world, **step.args)

    async with asyncio.TaskGroup() as group:
        for step in steps:
            group.create_task(take(step))


async def _dump(world: World) -> None:
    """Leave the ledger, the cursors and all rows without proof beside the logs."""
    with contextlib.suppress(*AWAY), (world.stage.folder / "dump.txt").open("w") as file:
        for table in DUMPED:
            rows = await world.fetch(f"SELECT * FROM {table}")
            file.writelines(f"{table.split()[0]} {' | '.join(map(str, row.values()))}\n" for row in rows)


def _late(what: str, took_s: float, limit_s: float) -> str | None:
    return f"{what} after {took_s:.1f} s, allowed {limit_s:.0f} s" if took_s > limit_s else None


def _fat(world: World) -> str | None:
    most = world.seen.rss_max
    if most > RSS_BYTES_MAX or most > world.rss_base + RSS_GROWTH_MAX:
        return f"memory {most >> 20} MB, at first {world.rss_base >> 20} MB"
    return None


def _felt(world: World, scenario: Scenario) -> str | None:
    """A fault that leaves no trace was none, and its scenario proves nothing."""
    for name, least in scenario.proof.items():
        if (seen := getattr(world.seen, name)) < least:
            return f"the fault was not felt: {name} {seen:g}, expected {least:g}"
    return None


def _tell(error: BaseException) -> str:
    if isinstance(error, ExceptionGroup):
        return "; ".join(_tell(part) for part in error.exceptions)
    return f"{type(error).__name__}: {error}"


HEAD = (
    f"{'scenario':<60} {'outcome':<7} {'live s':>6} {'whole s':>7} {'rows':>6} {'gaps':>4} {'rev.':>5} {'okx':>3}"
    f" {'outbox':>6} {'stall s':>7} {'MB':>4}"
)


def line_of(outcome: Outcome) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    verdict, seen = "ok" if outcome.fault is None else "BROKEN", outcome.seen
    return (
        f"{outcome.name[:60]:<60} {verdict:<7} {number(outcome.live_s):>6} {number(outcome.whole_s):>7}"
        f" {outcome.rows:>6} {seen.gaps:>4} {seen.revised:>5} {seen.okx:>3} {seen.outbox:>6} {seen.stall_s:>7.1f}"
        f" {seen.rss_max >> 20:>4}"
    )


def table_of(outcomes: Sequence[Outcome]) -> str:
    """All outcomes, and what was wrong below."""
    lines = [HEAD, *(line_of(outcome) for outcome in outcomes)]
    lines += [f"\n{outcome.name}: {outcome.fault}" for outcome in outcomes if outcome.fault]
    return "\n".join(lines)
