"""One nightly run: pull, judge, write in one transaction, publish what was written."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time

import msgspec

from common.bus import Bus
from common.clock import Clock
from common.database import Database, StoreLimits
from common.errors import Refused, TryLater
from common.ground import describe_sizes
from common.outbox import Outbox, OutboxLimits, Query
from common.publisher import AmqpPublisher
from common.statements import MEASURE_OUTBOX
from registry.defaults import load_rules
from registry.facts import Night
from registry.gathering import gather_facts
from registry.night import Rules, judge_night
from registry.samples import moment_of
from registry.schedule import night_of
from registry.settings import RegistrySettings, read_pull_time
from registry.sources import Sources, Spent
from registry.tables import read_last_run, read_rows, was_run, write_night
from registry.universe import split_bases

log = logging.getLogger(__name__)

OWNER = "registry/0/1"
"""Whose lock keeps two runs apart, and whose messages wait in the outbox."""
APP_ID = "registry"
WRITE_TRIES = 3
WRITE_PAUSE_S = 1.0
DRAIN_POLL_S = 0.05


class Report(msgspec.Struct, frozen=True):
    """A run: what was decided, what it took, events written, and messages that still wait for the broker."""

    night: Night
    spent: list[Spent]
    seconds: float
    events: int = 0
    waiting: int = 0


def load_rules_of(settings: RegistrySettings) -> Rules:
    """The rules that the settings name; raises ConfigError."""
    return load_rules(settings.thresholds_path, settings.banlist_path, settings.whitelist_path, settings.centroids_path)


def open_database(settings: RegistrySettings) -> Database:
    """The database as the registry's run sees it."""
    limits = StoreLimits(commit_timeout_s=settings.commit_timeout_s)
    return Database(settings.ts_dsn.get_secret_value(), OWNER, epoch=settings.bus_epoch, limits=limits)


async def look(settings: RegistrySettings, query: Query, now: dt.datetime | None = None) -> Report:
    """Pull and judge, and write nothing.

    `now` is when the run begins, this machine's time if none is given. Raises TryLater, Refused or BadInput when
    exchangeInfo can not be had, ConfigError when a file of rules is wrong.
    """
    began_s = time.monotonic()
    rules = load_rules_of(settings)
    clock = Clock(settings.clock_rate, settings.clock_offset_s)
    run_at = await _choose_moment(query, now or moment_of(clock))
    rows = await read_rows(query)
    sources = Sources(settings, clock, rules.thresholds.universe)
    try:
        facts, offers = await gather_facts(sources, query, rows, rules, run_at)
    finally:
        await sources.close()
    pull_time = read_pull_time(settings.registry_pull_time)
    dated, last_run = night_of(run_at, pull_time), await read_last_run(query)
    last_night = None if last_run is None else night_of(last_run, pull_time)
    known, elsewhere = split_bases(offers, rules.thresholds.universe.quotes)
    night = judge_night(run_at, dated, facts, rows, rules, known, elsewhere, last_night)
    for warning in night.warnings:
        log.warning("registry list", extra={"problem": warning})
    return Report(night, sources.spent(), time.monotonic() - began_s)


async def run(settings: RegistrySettings, *, force: bool = False, now: dt.datetime | None = None) -> Report:
    """Pull, judge, write and publish; one run at a time.

    Raises what `look` raises, and Refused when another run is at work, or when the run would change the status of too
    many rows and `force` is not given.
    """
    database = open_database(settings)
    try:
        if not await database.acquire():
            raise Refused("another run of the registry is at work")
        report = await look(settings, database.query, now)
        if report.night.stop and not force:
            raise Refused(report.night.stop)
        events = await _write(database, report.night)
        waiting = await drain(settings, database)
        report = msgspec.structs.replace(report, events=events, waiting=waiting)
        _tell(report)
        return report
    finally:
        await database.close()


async def drain(settings: RegistrySettings, database: Database) -> int:
    """Publish what this run and runs before it committed; answers how many messages still wait after the time given.

    What is left belongs to a dead owner as soon as this process ends: any running service takes it over.
    """
    if not (await database.query(MEASURE_OUTBOX, OWNER))[0]["messages"]:
        return 0
    url = settings.rmq_url.get_secret_value()
    bus = Bus(url, f"{OWNER}/state", topology=describe_sizes(settings))
    publisher = AmqpPublisher(url, APP_ID, prepare=bus.declare)
    outbox = Outbox(database.query, OWNER, publisher, OutboxLimits(idle_poll_s=DRAIN_POLL_S))
    task = asyncio.create_task(outbox.run(), name="outbox")
    try:
        outbox.wake()
        async with asyncio.timeout(settings.drain_timeout_s):
            await outbox.drained()
        return 0
    except TimeoutError:
        waiting: int = (await database.query(MEASURE_OUTBOX, OWNER))[0]["messages"]
        log.warning("events wait for the broker", extra={"messages": waiting})
        return waiting
    finally:
        task.cancel()
        await asyncio.wait([task])
        await publisher.close()
        await bus.close()


async def _write(database: Database, night: Night) -> int:
    """Write in one transaction; after an unknown commit the same run again changes nothing."""
    for turn in range(WRITE_TRIES):
        try:
            return await database.transact(lambda con: write_night(con, night))
        except TryLater as error:
            if turn == WRITE_TRIES - 1:
                raise
            log.warning("writing again", extra={"error": str(error)})
            await asyncio.sleep(max(WRITE_PAUSE_S, error.wait_s or 0.0))
    raise AssertionError("unreachable")


async def _choose_moment(query: Query, now: dt.datetime) -> dt.datetime:
    """When the run counts as begun: it names its events, so that no two runs may have the same second."""
    while await was_run(query, now):
        now += dt.timedelta(seconds=1)
    return now


def _tell(report: Report) -> None:
    night = report.night
    spent = {one.vendor: {"calls": one.calls, "weight": one.weight} for one in report.spent}
    log.info(
        "registry run written",
        extra={
            "run_at": night.run_at.isoformat(), "symbols": len(night.verdicts), "events": report.events,
            "status_changes": night.status_changes, "took_s": round(report.seconds, 1), "spent": spent,
        },
    )  # fmt: skip
    for verdict in night.verdicts:
        if "status" in verdict.changed and verdict.row.status != "ACTIVE":
            row = verdict.row
            extra = {"symbol": row.symbol, "status": row.status, "was": verdict.was, "health": row.data_health}
            parts = {c.name: None if c.value is None else str(round(c.value, 2)) for c in verdict.score.components}
            log.info("symbol judged", extra={**extra, "reason": row.reason, "score": parts})
