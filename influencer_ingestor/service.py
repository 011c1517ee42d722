"""Wiring of the influencer ingestor: what is built on what, what is watched, and in which order it stops."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit, urlunsplit

from common.errors import ConfigError
from common.feed import stream_url
from common.ground import Ground, lay_ground
from common.lean_http import LeanHttp
from common.outbox import OutboxLimits
from common.publisher import publish_dead
from common.rest import RestClient, RestLimits, WeightBudget
from common.service import Service
from influencer_ingestor import plan as planning
from influencer_ingestor.baseline import Baselines
from influencer_ingestor.configuration import Configuration
from influencer_ingestor.dedup import Dedup
from influencer_ingestor.events import Account
from influencer_ingestor.fan_in import FanIn
from influencer_ingestor.filling import Filler, Info
from influencer_ingestor.ingestor import Ingestor
from influencer_ingestor.intake import Intake
from influencer_ingestor.listener import Listeners
from influencer_ingestor.observing import watch_influencers
from influencer_ingestor.polling import Poller
from influencer_ingestor.settings import InfluencerSettings
from influencer_ingestor.tracing import Export, Tracer, open_export
from influencer_ingestor.watched import Watched
from influencer_ingestor.writer import Writer

BATCH_EVERY_S = 0.002
"""People trade on signals: they travel alone rather than wait for company, at a few hundred a second at most."""


async def main(service: Service[InfluencerSettings]) -> None:
    """Build the ingestor, wait for the right to write, and follow the table."""
    settings = service.settings
    planning.check_limits(settings.limits())
    settings = settings.model_copy(update={"hyperliquid_ws_url": stream_url(settings.hyperliquid_ws_url)})
    export = open_export(settings.traces_url)
    ground = await lay_ground(service, "influencer_ingestor", outbox_limits=OutboxLimits(batch_every_s=BATCH_EVERY_S))
    ingestor, writer, intake, info, tracer = build(service, settings, ground, export)
    configuration = Configuration(
        settings.ts_dsn.get_secret_value(), service.owner, ground.store.query, settings.shard, ground.clock,
        settings.configuration_poll_s,
    )  # fmt: skip
    watch_influencers(service, ground, ingestor, writer, intake, info, configuration, tracer)

    async def follow(accounts: list[Account]) -> None:
        await ingestor.follow(accounts)
        service.ready()

    service.spawn("writer", writer.run())
    service.spawn("filler", ingestor.filler.run())
    service.spawn("baselines", ingestor.baselines.run())
    service.spawn("poller", ingestor.poller.run())
    service.spawn("listeners", ingestor.listeners.run())
    service.spawn("configuration", configuration.run(follow))


def build(
    service: Service[InfluencerSettings], settings: InfluencerSettings, ground: Ground, export: Export | None
) -> tuple[Ingestor, Writer, Intake, Info, Tracer]:
    """Every part of the ingestor, on the ground."""
    clock, database, outbox = ground.clock, ground.store.database, ground.outbox
    tracer = Tracer(clock.wall_ms, export)
    outbox.on_confirmed = tracer.confirmed

    def bury(raw: bytes, reason: str, source: str) -> None:
        publish_dead(ground.publisher, raw, reason, source)

    watched: dict[str, Watched] = {}
    dedup = Dedup(settings.dedup_keys_max)
    fan_in = FanIn(settings.queue_max, dedup)
    writer = Writer(
        database, watched, fan_in, clock, tracer, outbox.wake, bury, settings.write_batch_max, settings.signal_max_age_s
    )
    replan = asyncio.Event()
    intake = Intake(watched, fan_in, writer, bury, clock, settings.fill_ahead_ms_max, lambda: poller.rank())
    info = open_info(service, settings, ground)
    filler = Filler(settings, clock, info, watched, intake, writer, database)
    writer.want = filler.want_gap
    listeners = Listeners(settings, clock, watched, intake, filler.want_since, replan.set)
    baselines = Baselines(settings, clock, info, watched, writer, filler)
    poller = Poller(settings, clock, watched, fan_in, filler)
    ingestor = Ingestor(
        settings, clock, database, watched, dedup, fan_in, writer, listeners, filler, baselines, poller
    )  # fmt: skip
    filler.after_start = ingestor.after_start
    service.spawn("replan", replan_when(replan, ingestor))
    return ingestor, writer, intake, info, tracer


async def replan_when(wanted: asyncio.Event, ingestor: Ingestor) -> None:
    """Place the accounts anew whenever the venue's limits turned out to be others."""
    while True:
        await wanted.wait()
        wanted.clear()
        await ingestor.replan()


def open_info(service: Service[InfluencerSettings], settings: InfluencerSettings, ground: Ground) -> Info:
    """The client of the info endpoint; raises ConfigError for an address that can never work."""
    parts = urlsplit(settings.hyperliquid_info_url)
    folder, _, name = parts.path.rpartition("/")
    if not name:
        raise ConfigError(f"HYPERLIQUID_INFO_URL: {settings.hyperliquid_info_url!r} has no path, such as /info")
    limits = RestLimits(
        connect_timeout_s=min(5.0, settings.rest_timeout_s), read_timeout_s=settings.rest_timeout_s,
        call_timeout_s=2 * settings.rest_timeout_s, connections_max=settings.fetches_at_once + 2,
    )  # fmt: skip
    # Polls keep to their share by themselves; audits and statements come beside them.
    budget = WeightBudget(settings.weight_per_min, background_share=(1 + settings.poll_share) / 2)
    base_url = urlunsplit(parts._replace(path=folder, query=""))
    rest = RestClient(base_url, budget, limits, ground.clock, caller=LeanHttp(base_url, limits))
    service.on_stop("info", rest.close)
    return Info(rest, f"/{name}", ground.clock)
