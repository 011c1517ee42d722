"""`registry schedule`: the nightly run and the samples without a timer of the system; health tells what was missed."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from common.clock import Clock
from common.database import Database
from common.errors import Refused, TradingBusError, TryLater
from common.health import check_age
from common.metrics import watch_counter, watch_gauge
from common.service import Service
from registry.run import Report, load_rules_of, run
from registry.samples import moment_of, take_samples
from registry.schedule import RUN_AGE_MAX_S, is_due
from registry.settings import RegistrySettings, read_pull_time
from registry.tables import read_last_run, read_last_sample

log = logging.getLogger(__name__)

NAME = "registry"
READER = "registry/schedule"
SAMPLE_AGE_SHARE_MAX = 3.0

# Neither has type stubs.
_SCHEDULER: Any = import_module("apscheduler.schedulers.asyncio").AsyncIOScheduler
_CRON: Any = import_module("apscheduler.triggers.cron").CronTrigger
_EVERY: Any = import_module("apscheduler.triggers.interval").IntervalTrigger


class Keeper:
    """Runs what is due, and remembers how it went."""

    def __init__(self, settings: RegistrySettings, database: Database, ready: Callable[[], None]) -> None:
        self._settings, self._database, self._ready = settings, database, ready
        self._clock = Clock(settings.clock_rate, settings.clock_offset_s)
        self._pull_time = read_pull_time(settings.registry_pull_time)
        self._turn = asyncio.Lock()
        self.jobs: set[asyncio.Task[None]] = set()
        """What is at work now."""
        self.last_run: dt.datetime | None = None
        self.last_sample: dt.datetime | None = None
        self.last_report: Report | None = None
        self.counts: Counter[str] = Counter()

    async def load(self) -> None:
        """Read what was done before this process; raises TryLater."""
        self.last_run = await read_last_run(self._database.query)
        self.last_sample = await read_last_sample(self._database.query, moment_of(self._clock))

    async def run_if_due(self) -> None:
        """Make the run that is owed, unless it is being made; a timer or another instance may have made it already."""
        if self._turn.locked():
            return
        async with self._turn:
            await self.load()
            self._ready()  # an outage of the venue is told by the age of the last run
            if is_due(moment_of(self._clock), self.last_run, self._pull_time):
                self.last_report = await run(self._settings)
                self.last_run = self.last_report.night.run_at
                self.counts["runs"] += 1
                self.counts["events"] += self.last_report.events

    async def sample(self) -> None:
        """Store the spreads of now."""
        limits = load_rules_of(self._settings).thresholds.universe
        self.counts["samples"] += await take_samples(self._settings, limits)
        self.last_sample = moment_of(self._clock)

    def age_s(self, since: dt.datetime | None) -> float | None:
        """Seconds by our clock since something was done; None when it never was."""
        return None if since is None else max(0.0, self._clock.wall_ms() / 1000 - since.timestamp())

    def statuses(self) -> dict[str, float]:
        """Symbols of the last run of this process by status."""
        verdicts = self.last_report.night.verdicts if self.last_report else ()
        return {str(status): float(n) for status, n in Counter(v.row.status for v in verdicts).items()}


async def main(service: Service[RegistrySettings]) -> None:
    """Read what was done, then do what is due, and go on."""
    settings = service.settings
    load_rules_of(settings)  # a wrong file stops the start, not the night
    database = Database(settings.ts_dsn.get_secret_value(), READER)
    service.on_stop("database", database.close)
    keeper = Keeper(settings, database, service.ready)
    watch_registry(service, keeper)
    scheduler = _SCHEDULER(timezone=dt.UTC)
    at = read_pull_time(settings.registry_pull_time)
    now = dt.datetime.now(dt.UTC)  # the scheduler's own clock
    careful = {"coalesce": True, "misfire_grace_time": None, "max_instances": 1}
    nightly = _CRON(hour=at.hour, minute=at.minute, second=at.second, timezone=dt.UTC)
    again = _EVERY(seconds=settings.registry_retry_every_s)
    often = _EVERY(seconds=settings.registry_sample_every_s)
    run_job, sample_job = (
        _job(service, keeper, "run", keeper.run_if_due),
        _job(service, keeper, "sample", keeper.sample),
    )
    scheduler.add_job(run_job, nightly, id="nightly", **careful)
    scheduler.add_job(run_job, again, id="catch up", next_run_time=now, **careful)
    scheduler.add_job(sample_job, often, id="samples", next_run_time=now, **careful)
    scheduler.start()

    async def stop() -> None:
        scheduler.pause()
        await asyncio.sleep(0)  # nothing new begins, and what was about to has begun
        jobs = list(keeper.jobs)
        for job in jobs:
            job.cancel()
        if jobs:
            await asyncio.wait(jobs)  # what they opened is closed before what they read from
        scheduler.shutdown(wait=False)

    service.on_stop("scheduler", stop)


def _job(
    service: Service[RegistrySettings], keeper: Keeper, name: str, work: Callable[[], Awaitable[None]]
) -> Callable[[], Awaitable[None]]:
    async def do_it() -> None:
        try:
            await work()
        except (TryLater, Refused, TradingBusError) as error:
            keeper.counts[f"{name} failures"] += 1
            log.warning("registry job failed", extra={"job": name, "error": str(error)})
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the scheduler would swallow a bug
            service.fail(name, error)

    async def do() -> None:
        # A task of its own, to be ended at the stop: the scheduler would log its end as an error.
        task = asyncio.create_task(do_it(), name=name)
        keeper.jobs.add(task)
        task.add_done_callback(keeper.jobs.discard)
        await asyncio.wait({task})

    return do


def watch_registry(service: Service[RegistrySettings], keeper: Keeper) -> None:
    """Checks and metrics of the registry."""
    settings, registry = service.settings, service.registry
    sample_age_max_s = SAMPLE_AGE_SHARE_MAX * settings.registry_sample_every_s
    service.health.add_probe("run", lambda: check_age("run", keeper.age_s(keeper.last_run), RUN_AGE_MAX_S))
    service.health.add_probe(
        "samples", lambda: check_age("samples", keeper.age_s(keeper.last_sample), sample_age_max_s)
    )
    for name, text in (
        ("runs", "Runs written."), ("events", "Registry events written."), ("samples", "Spreads sampled."),
        ("run failures", "Runs that failed."), ("sample failures", "Samplings that failed."),
    ):  # fmt: skip
        watch_counter(registry, f"trading_bus_registry_{name.replace(' ', '_')}_total", text, _count_of(keeper, name))
    watch_gauge(
        registry, "trading_bus_registry_symbols", "Symbols of the last run by status.", keeper.statuses, ("status",)
    )
    watch_gauge(
        registry, "trading_bus_registry_run_age_seconds", "Since the last run that was written, whoever made it.",
        lambda: keeper.age_s(keeper.last_run),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_registry_run_seconds", "What the last run took.",
        lambda: keeper.last_report.seconds if keeper.last_report else None,
    )  # fmt: skip


def _count_of(keeper: Keeper, name: str) -> Callable[[], float]:
    return lambda: float(keeper.counts[name])
