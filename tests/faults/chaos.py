"""`make chaos MINUTES=n SEED=s`: every fault alone, then random pairs and triples, until the time is over.

Lanes run side by side, each with servers, a venue and an ingestor of its own; what a lane plays, and in which order,
depends on the seed alone. One system lives through a whole lane, and is replaced only when a scenario broke it. At the
end of each life everything it ever stored is judged once more. Prints a table of faults and outcomes; the exit code is
0 when every one of them is ok.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random

import click

from ops.servers_private import PrivateServers
from tests.faults.evidence import AWAY
from tests.faults.judge import judge_log, judge_tables
from tests.faults.metric import judge_world_metrics
from tests.faults.runner import HEAD, Outcome, line_of, run_scenario, table_of
from tests.faults.scenarios import WHOLE_WITHIN_S, Scenario, combine, single_faults
from tests.faults.world import Setup, World, open_world
from tests.servers import end_run, lead_run, own_private_servers

WINDOW_S = 4.0
DOWN_S = 30.0
COMBINED_DOWN_S = 10.0
NOISY = ("aiormq", "aio_pika")


def scenarios_of(lane: int, lanes: int, seed: int, only: str) -> Iterator[Scenario]:
    """What one lane plays: its share of the single faults in a seeded order, then combinations without end."""
    singles = [one for one in single_faults(WINDOW_S, DOWN_S) if re.search(only, one.name)]
    Random(seed).shuffle(singles)
    yield from singles[lane::lanes]
    rng = Random(f"{seed}/{lane}")
    shorter = [one for one in single_faults(WINDOW_S, COMBINED_DOWN_S) if re.search(only, one.name)]
    while len(shorter) > 1:
        yield combine(rng, shorter, WINDOW_S)


class Lane:
    """One system after another on the same servers, and what was played on them."""

    def __init__(self, number: int, own: PrivateServers, setup: Setup, keep: Path, until: float) -> None:
        self.number, self.own, self.setup, self.keep, self.until = number, own, setup, keep, until
        self.outcomes: list[Outcome] = []

    async def run(self, scenarios: Iterator[Scenario]) -> None:
        """Play until the time is over; a scenario that was begun is finished."""
        while not self._over():
            await asyncio.to_thread(self.own.start)  # a broken scenario may have left one of them down
            with tempfile.TemporaryDirectory() as folder:
                try:
                    async with open_world(Path(folder), self.setup, own=self.own) as world:
                        if not await self._live(world, scenarios, Path(folder)):
                            return
                except (AssertionError, *AWAY) as error:
                    self._note(Outcome("start of a system", None, None, 0, fault=repr(error)), Path(folder))
                    return

    async def _live(self, world: World, scenarios: Iterator[Scenario], folder: Path) -> bool:
        """One system's life; true when it was broken and another is wanted."""
        for scenario in scenarios:
            outcome = await run_scenario(world, scenario)
            self._note(outcome, folder)
            if outcome.fault is not None:
                return True
            if self._over():
                break
        self._note(await judge_life(world, self.number), folder)
        return False

    def _over(self) -> bool:
        return time.monotonic() > self.until

    def _note(self, outcome: Outcome, folder: Path) -> None:
        self.outcomes.append(outcome)
        click.echo(f"{self.number} {line_of(outcome)}")
        if outcome.fault is not None:
            kept = self.keep / f"lane-{self.number}-{len(self.outcomes)}"
            shutil.copytree(folder, kept)
            click.echo(f"  {outcome.fault[:2000]}\n  logs kept in {kept}")


async def judge_life(world: World, number: int) -> Outcome:
    """Everything a system ever stored, once more."""
    name, rows, fault = f"the whole life of system {number}", 0, None
    try:
        now_s = await world.venue_s()
        await world.reach(lambda: world.is_whole(now_s), WHOLE_WITHIN_S, "all repaired")
        from_s, to_s = 0, world.judged_s
        rows = (await judge_tables(world, from_s, to_s, missing=world.missing, lossy=world.lossy)).rows
        await judge_log(world, from_s, to_s)
        await judge_world_metrics(world, from_s, to_s)
    except AssertionError as error:
        fault = f"{type(error).__name__}: {error}"
    return Outcome(name, None, None, rows, world.seen, fault)


async def play(lanes: list[Lane], seed: int, only: str) -> None:
    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(lane.run(scenarios_of(lane.number, len(lanes), seed, only)))


@click.command(help=__doc__)
@click.option("--minutes", default=10.0, show_default=True)
@click.option(
    "--seed", type=int, default=None, help="of the order, the combinations and the market; made up if not given"
)
@click.option("--lanes", "count", default=2, show_default=True, help="systems side by side")
@click.option("--only", default="", help="a pattern that the names of faults must match")
def main(minutes: float, seed: int | None, count: int, only: str) -> None:
    """Run and exit."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    seed = Random().randrange(1_000_000) if seed is None else seed
    click.echo(f"chaos: SEED={seed} MINUTES={minutes:g}, {count} lanes")
    keep = Path(tempfile.mkdtemp(prefix="chaos-"))
    lead_run()
    try:
        with ExitStack() as stack:
            owned = [stack.enter_context(own_private_servers()) for _ in range(count)]
            click.echo(f"  {HEAD}")
            until = time.monotonic() + 60 * minutes
            setups = [Setup(seed=seed + number) for number in range(count)]
            lanes = [Lane(number, owned[number], setups[number], keep, until) for number in range(count)]
            with suppress(KeyboardInterrupt):  # what was played until then is told
                asyncio.run(play(lanes, seed, only))
    finally:
        end_run()
    sys.exit(conclude(lanes, seed, only))


def conclude(lanes: list[Lane], seed: int, only: str) -> int:
    """Print the table, singles first; returns the exit code."""
    outcomes = [outcome for lane in lanes for outcome in lane.outcomes]
    played = {outcome.name for outcome in outcomes}
    missed = [
        one.name for one in single_faults(WINDOW_S, DOWN_S) if re.search(only, one.name) and one.name not in played
    ]
    outcomes.sort(key=lambda outcome: outcome.name.count(" + "))
    click.echo(f"\n{table_of(outcomes)}\n")
    if missed:
        click.echo(f"not played, the time was over: {', '.join(missed)}")
    broken = sum(outcome.fault is not None for outcome in outcomes)
    click.echo(f"chaos: SEED={seed}: {len(outcomes)} scenarios, {len(outcomes) - broken} ok, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    main()
