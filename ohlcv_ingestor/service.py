"""Wiring of the OHLCV ingestor: what is built on what, what is watched, and in which order it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from msgspec.structs import replace

from common.backoff import AttemptBudget
from common.clock import Clock
from common.errors import TryLater
from common.ground import lay_ground
from common.listings import Listing, choose_symbols, status_header
from common.registry_follower import RegistryFollower
from common.rest import RestClient, RestLimits, WeightBudget
from common.service import Service
from common.venues import okx_spot
from common.venues.binance_spot import MARKET
from ohlcv_ingestor.failover import Failover
from ohlcv_ingestor.ingestor import Ingestor, ReliefMaker, Track
from ohlcv_ingestor.observing import watch_ingestor
from ohlcv_ingestor.relief import Relief
from ohlcv_ingestor.repairer import Repairer
from ohlcv_ingestor.settings import OhlcvSettings
from ohlcv_ingestor.writer import Writer

log = logging.getLogger(__name__)


async def main(service: Service[OhlcvSettings]) -> None:
    """Build the ingestor, wait for the right to write, and begin."""
    settings = service.settings
    listings: dict[str, Listing] = {}
    ground = await lay_ground(service, "ohlcv_ingestor", lambda symbol: status_header(listings.get(symbol)))
    clock, store, publisher, outbox = ground.clock, ground.store, ground.publisher, ground.outbox

    def spawn_reader(name: str, track: Track) -> None:
        service.spawn(name, ingestor.read(track, service.ready))
        if track.relief is not None:
            service.spawn(track.relief.name, track.relief.run(ingestor.hand_on))

    make_relief = relief_maker(service, clock, listings)
    ingestor = Ingestor(settings, MARKET, clock, store.query, publisher, listings, make_relief, spawn_reader)
    writer = Writer(
        ingestor.outlet, store, clock, outbox.wake, settings.flush_every_ms / 1000, settings.buffer_rows_max
    )
    ingestor.writer = writer
    service.on_stop("last rows", lambda: flush_last(ingestor, writer))
    service.spawn("writer", writer.run())
    service.spawn("overflow", rebuild_after_overflow(ingestor, writer))

    budget = WeightBudget(settings.rest_weight_per_min, settings.weight_share())
    rest = RestClient(settings.binance_rest_url, budget, RestLimits(), clock)
    service.on_stop("rest", rest.close)
    repairer = Repairer(
        rest, clock, settings.repair_limits(), settings.repairs_at_once,
        ingestor.all_series, ingestor.begin, ingestor.drain, settings.silence_check_s, ingestor.renew, writer.has_room,
    )  # fmt: skip
    service.spawn("repairer", repairer.run())
    service.spawn("stalls", ingestor.watch_stalls())
    service.spawn("parked", ingestor.watch_parked())
    watch_ingestor(service, clock, ingestor, writer, outbox, publisher, repairer, budget)
    if settings.symbols:
        service.spawn("symbols", follow_pinned(ingestor, settings))
    else:
        follower = RegistryFollower(
            store.query, lambda registry: ingestor.follow(choose_symbols(registry, settings.shard))
        )
        service.spawn("symbols", follower.run(ground.bus))


def relief_maker(service: Service[OhlcvSettings], clock: Clock, listings: Mapping[str, Listing]) -> ReliefMaker:
    """How each line gets its fallback: lines share one REST client and one count of connection attempts."""
    settings = service.settings
    if settings.fallback == "none":
        return lambda name, outlet, primary: None
    budget = WeightBudget(okx_spot.REST_LIMIT, settings.weight_share(), window_s=okx_spot.REST_WINDOW_S)
    rest = RestClient(settings.okx_rest_url, budget, RestLimits(no_hint_pause_s=okx_spot.REST_PAUSE_S), clock)
    service.on_stop("fallback rest", rest.close)
    attempts = AttemptBudget(okx_spot.CONNECTS_MAX, okx_spot.CONNECTS_WINDOW_S)
    market = replace(okx_spot.MARKET, streams_per_connection=settings.streams_per_connection)
    limits = (settings.feed_limits(), settings.line_limits(), settings.settle_s)

    def native(pair: str) -> str | None:
        listing = listings.get(pair)
        return listing.okx_inst_id if listing and listing.okx_inst_id else okx_spot.inst_id_of(pair)

    return lambda name, outlet, primary: Relief(
        name, market, settings.okx_ws_url, rest, clock, outlet, native, limits,
        Failover(settings.failover_after_s), attempts, primary,
    )  # fmt: skip


async def follow_pinned(ingestor: Ingestor, settings: OhlcvSettings) -> None:
    """Follow SYMBOLS, whatever the registry says."""
    wanted = {symbol: Listing() for symbol in settings.symbols if settings.shard.owns(symbol)}
    while True:
        try:
            await ingestor.follow(wanted)
            break
        except TryLater as error:
            await asyncio.sleep(max(1.0, error.wait_s or 0.0))
    await asyncio.Event().wait()


async def rebuild_after_overflow(ingestor: Ingestor, writer: Writer) -> None:
    """Begin all series anew whenever the write buffer had to be thrown away."""
    while True:
        await writer.overflowed.wait()
        await ingestor.rebuild()
        writer.overflowed.clear()


async def flush_last(ingestor: Ingestor, writer: Writer) -> None:
    """Commit what was closed before the stop; what can not be written is a gap of the next start."""
    ingestor.retire_all()
    try:
        await writer.flush()
    except TryLater as error:
        log.warning("last rows not written", extra={"error": str(error), "waiting": writer.waiting()})
