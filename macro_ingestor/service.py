"""Wiring of the macro ingestor: who is on, what was known, doors, passes and their schedule."""

from __future__ import annotations

import asyncio
import logging

from common.errors import ConfigError
from common.ground import Ground, lay_ground
from common.publisher import publish_dead
from common.redact import Mask
from common.service import Service
from common.settings import secret_values
from macro_ingestor.configured import Cast, Configured, configure
from macro_ingestor.desk import Desk, Known
from macro_ingestor.door import Door, DoorLimits
from macro_ingestor.ledger import Written, keep_changes, load, persevere, read_left, take_call
from macro_ingestor.observing import watch_macro
from macro_ingestor.passes import Passes
from macro_ingestor.pulling import Puller
from macro_ingestor.schedule import start_schedule
from macro_ingestor.settings import MacroSettings

log = logging.getLogger(__name__)

SERVICE = "macro"


async def main(service: Service[MacroSettings]) -> None:
    """Build the ingestor, wait for the right to write, pull once, and go on by the clock."""
    settings = service.settings
    if settings.shard.count != 1:
        raise ConfigError("SHARD: there is nothing to share out: one instance pulls, others stand by as 0/1")
    cast = configure(settings)
    tell_cast(cast)
    ground = await lay_ground(service, "macro_ingestor")
    database = ground.store.database
    known: Known = await persevere(lambda: load(database, ground.clock.wall_ms() // 1000))
    desk = Desk(cast.chains, cast.offers(), known)
    doors = open_doors(service, cast, ground)
    puller = make_puller(cast, desk, doors, ground, Mask(secret_values(settings)))

    def committed(written: Written) -> None:
        ground.outbox.wake()
        service.ready()

    passes = Passes(desk, puller, database, ground.clock, committed)
    watch_macro(service, ground, desk, puller, passes, doors)
    service.spawn("passes", passes.run())
    end_schedule = start_schedule(passes.ask_quarter, passes.ask_day, settings.daily_at, ground.clock)

    async def end() -> None:
        end_schedule()

    service.on_stop("schedule", end)


def tell_cast(cast: Cast) -> None:
    """Say once who is on, under which licence, and who is off."""
    for one in cast.off:
        log.info("provider is off", extra={"provider": one.name, "reason": one.reason})
    for name, one in cast.on.items():
        extra = {"provider": name, "columns": [offer.column for offer in one.offers]}
        log.info("provider is on", extra=extra)
        if one.provider.licence:
            log.warning("licence", extra={"provider": name, "note": one.provider.licence})
    empty = [column for column, chain in cast.chains.items() if not chain]
    if empty:
        log.warning("columns without a provider stay null", extra={"columns": empty})


def limits_of(settings: MacroSettings) -> DoorLimits:
    """Limits of calls by the settings."""
    return DoorLimits(
        settings.connect_timeout_s, settings.read_timeout_s, settings.call_timeout_s, settings.attempts_max,
        settings.retry_first_s, settings.retry_max_s, settings.answer_bytes_max,
    )  # fmt: skip


def open_doors(service: Service[MacroSettings], cast: Cast, ground: Ground) -> dict[str, Door]:
    """A door to each provider that is on."""
    database, clock = ground.store.database, ground.clock

    async def take(configured: Configured) -> bool:
        return await persevere(lambda: take_call(database, configured, clock.wall_ms() // 1000))

    doors = {name: Door(one, take, clock, limits_of(service.settings)) for name, one in cast.on.items()}

    async def close() -> None:
        await asyncio.gather(*(door.close() for door in doors.values()))

    service.on_stop("doors", close)
    return doors


def make_puller(cast: Cast, desk: Desk, doors: dict[str, Door], ground: Ground, mask: Mask) -> Puller:
    """A puller that knows the quotas and buries what can not be read."""
    database, clock = ground.store.database, ground.clock

    def now_s() -> int:
        return clock.wall_ms() // 1000

    async def read_spent() -> frozenset[str]:
        left = await persevere(lambda: read_left(database, cast.on.values(), now_s()))
        return frozenset(name for name, calls in left.items() if calls == 0)

    def bury(raw: bytes, reason: str, source: str) -> None:
        publish_dead(ground.publisher, raw, reason, source)

    return Puller(desk, doors, now_s, read_spent, bury, lambda: keep_changes(database, desk), mask.hide)
