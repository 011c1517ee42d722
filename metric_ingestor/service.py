"""Wiring of the metric ingestor: what is built on what, what is watched, and in which order it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from msgspec.structs import replace

from common.clock import Clock
from common.errors import TryLater
from common.ground import lay_ground, watch_outbox
from common.lean_http import LeanHttp
from common.listings import Listing, choose_symbols, status_header
from common.registry_follower import RegistryFollower
from common.rest import RestClient, RestLimits, WeightBudget
from common.service import Service
from common.venues import okx_spot
from common.venues.binance_futures import FUNDING_CALLS, FUNDING_WINDOW_S
from metric_ingestor.dirty import Dirty
from metric_ingestor.ingestor import BINDINGS, MetricIngestor
from metric_ingestor.observing import watch_metrics
from metric_ingestor.recorder import Recorder
from metric_ingestor.sampler import Sampler
from metric_ingestor.samples import SampleLimits, Samples
from metric_ingestor.settings import MetricSettings
from metric_ingestor.settled import Settlements
from metric_ingestor.vendors import Clients, Vendors
from metric_ingestor.venue_time import VenueTime

log = logging.getLogger(__name__)

SERVICE = "metric"
BUDGET_WAIT_S = 1.0
LAST_ROWS_S = 4.0
"""At stop: the window's wait for its trades, and its transaction."""
FUNDING_SHARE = 0.1
"""Of the pool for settled funding, all instances together: the registry's nightly run takes the rest."""

Follow = Callable[[Mapping[str, Listing]], Awaitable[None]]


async def main(service: Service[MetricSettings]) -> None:
    """Build the ingestor, wait for the right to write, and begin."""
    settings = service.settings
    ground = await lay_ground(service, "metric_ingestor")
    clock, database, outbox = ground.clock, ground.store.database, ground.outbox
    dirty = Dirty()

    limits = RestLimits(
        connect_timeout_s=settings.vendor_timeout_s, read_timeout_s=settings.vendor_timeout_s,
        call_timeout_s=settings.vendor_timeout_s, attempts_max=1, budget_wait_max_s=BUDGET_WAIT_S,
        connections_max=settings.calls_at_once,
    )  # fmt: skip
    budget = WeightBudget(settings.futures_weight_per_min, settings.weight_share())
    # Open interest takes a call per symbol and window: most of what this process does.
    lean = LeanHttp(settings.binance_futures_rest_url, limits)
    rest = RestClient(settings.binance_futures_rest_url, budget, limits, clock, caller=lean)
    service.on_stop("rest", rest.close)
    funding = open_funding(service, clock, limits)
    okx = open_fallback(service, clock, limits)
    samples = Samples(SampleLimits(ahead_ms_max=settings.sample_ahead_ms_max))
    vendors = Vendors(Clients(rest, funding, okx), clock, VenueTime(clock.rate), samples, lambda: ingestor.heard_ms())
    sampler = Sampler(settings, clock, vendors, budget.limit)
    ingestor = MetricIngestor(settings, clock, database, dirty, vendors, sampler)
    recorder = ingestor.recorder = Recorder(
        database, clock, dirty, lambda symbol: status_header(ingestor.followed.get(symbol)), outbox.wake,
        (settings.recompute_every_ms / 1000, settings.recompute_windows_max, settings.pending_windows_max),
    )  # fmt: skip
    settlements = Settlements(database, vendors, settings.settled_every_s)

    async def follow(listings: Mapping[str, Listing]) -> None:
        await ingestor.follow(listings)
        settlements.followed = ingestor.followed

    watch_metrics(service, clock, ingestor, sampler, vendors, (budget, funding.budget), outbox)
    watch_outbox(service.registry, outbox, ground.publisher)
    service.spawn("intervals", sampler.keep_intervals())
    if settings.symbols:
        await follow_pinned(follow, settings)
    else:
        follower = RegistryFollower(database.query, lambda rows: follow(choose_symbols(rows, settings.shard)))
        service.spawn("symbols", follower.run(ground.bus))
    service.on_stop("last rows", lambda: write_last_rows(ingestor, recorder))
    service.spawn("recorder", recorder.run())
    service.spawn("sampler", sampler.run())
    service.spawn("windows", ingestor.keep_time(service.ready))
    service.spawn("marks", ingestor.keep_marks())
    service.spawn("settlements", settlements.run())
    service.spawn("bus", ground.bus.consume_state(BINDINGS, ingestor.load, ingestor.note))


def open_funding(service: Service[MetricSettings], clock: Clock, limits: RestLimits) -> RestClient:
    """The client of the pool for settled funding and intervals: a pause that it asks for stops nothing else."""
    settings = service.settings
    budget = WeightBudget(
        FUNDING_CALLS, FUNDING_SHARE / settings.shard.count, window_s=FUNDING_WINDOW_S, counted_by_venue=False
    )
    # Nothing waits for its answers: they may wait for room.
    patient = replace(limits, budget_wait_max_s=FUNDING_WINDOW_S, connections_max=1)
    funding = RestClient(settings.binance_futures_rest_url, budget, patient, clock)
    service.on_stop("funding rest", funding.close)
    return funding


def open_fallback(service: Service[MetricSettings], clock: Clock, limits: RestLimits) -> RestClient | None:
    """The client of the fallback venue, None when there is to be none."""
    settings = service.settings
    if settings.fallback == "none":
        return None
    share = 1.0 / settings.shard.count
    budget = WeightBudget(okx_spot.REST_LIMIT, share, window_s=okx_spot.REST_WINDOW_S)
    okx = RestClient(settings.okx_rest_url, budget, limits, clock)
    service.on_stop("fallback rest", okx.close)
    return okx


async def write_last_rows(ingestor: MetricIngestor, recorder: Recorder) -> None:
    """Write the window that ended just before the stop: nobody can sample it again."""
    try:
        async with asyncio.timeout(LAST_ROWS_S):
            await ingestor.hand_in_last()
            await recorder.write_due()
    except (TryLater, TimeoutError) as error:
        log.warning("last rows not written", extra={"error": str(error), "waiting": recorder.waiting()})


async def follow_pinned(follow: Follow, settings: MetricSettings) -> None:
    """Follow SYMBOLS, whatever the registry says."""
    wanted = {symbol: Listing() for symbol in settings.symbols if settings.shard.owns(symbol)}
    while True:
        try:
            return await follow(wanted)
        except TryLater as error:
            await asyncio.sleep(max(1.0, error.wait_s or 0.0))
