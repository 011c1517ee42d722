"""What every long-running service stands on: its database, the bus, the one publisher and the outbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from common.bus import Bus
from common.clock import Clock
from common.consuming import BusLimits
from common.database import StoreLimits
from common.errors import TryLater
from common.metrics import watch_counter, watch_gauge
from common.outbox import Outbox, OutboxLimits
from common.publisher import AmqpPublisher
from common.service import Service, SettingsT
from common.settings import ServiceSettings
from common.store import Store
from common.topology import TopologyLimits

log = logging.getLogger(__name__)

STANDBY_POLL_S = 0.5
OUTBOX_LAST_S = 2.0
"""At stop the outbox gets this long to empty; what is left is published by the next start."""
LOG_SEGMENT_BYTES_MAX = 100_000_000


@dataclass(frozen=True)
class Ground:
    """The right to write is held, the outbox publishes; `bus` consumes, `publisher` also takes transient messages."""

    clock: Clock
    store: Store
    bus: Bus
    publisher: AmqpPublisher
    outbox: Outbox


def describe_sizes(settings: ServiceSettings) -> TopologyLimits:
    """Sizes of the broker's queues by the settings; the log is cut by whole segments."""
    size = settings.bus_log_max_bytes
    return TopologyLimits(log_bytes_max=size, log_segment_bytes=min(LOG_SEGMENT_BYTES_MAX, size // 4))


async def lay_ground(
    service: Service[SettingsT],
    app_id: str,
    headers_for: Callable[[str], str] = lambda symbol: "",
    outbox_limits: OutboxLimits | None = None,
) -> Ground:
    """Connect, stand by until the right to write is ours, and begin to publish.

    `app_id` stands in every message; `headers_for` gives the JSON header text of a symbol's price messages.
    """
    settings = service.settings
    clock = Clock(settings.clock_rate, settings.clock_offset_s)
    url = settings.rmq_url.get_secret_value()
    bus = Bus(url, f"{service.owner}/state", topology=describe_sizes(settings), limits=BusLimits())
    publisher = AmqpPublisher(url, app_id, prepare=bus.declare, wall_ms=clock.wall_ms)
    limits = StoreLimits(commit_timeout_s=settings.commit_timeout_s)
    dsn = settings.ts_dsn.get_secret_value()
    store = Store(dsn, service.owner, headers_for=headers_for, epoch=settings.bus_epoch, limits=limits)
    service.on_stop("store", store.close)
    service.on_stop("bus", bus.close)
    await wait_for_lock(service, store.acquire)
    outbox = Outbox(store.query, service.owner, publisher, outbox_limits)
    service.spawn("publisher", publisher.run())
    service.spawn("outbox", outbox.run())
    service.on_stop("last messages", lambda: empty_outbox(outbox))
    return Ground(clock, store, bus, publisher, outbox)


async def wait_for_lock(service: Service[SettingsT], acquire: Callable[[], Awaitable[bool]]) -> None:
    """Stand by while another instance holds the right to write."""
    while True:
        try:
            if await acquire():
                return service.resume()
            service.stand_by()
        except TryLater as error:
            log.warning("database is away", extra={"error": str(error)})
        await asyncio.sleep(STANDBY_POLL_S)


async def empty_outbox(outbox: Outbox) -> None:
    """Let the outbox publish what was committed last."""
    outbox.wake()
    try:
        async with asyncio.timeout(OUTBOX_LAST_S):
            await outbox.drained()
    except TimeoutError:
        log.warning("messages left in the outbox", extra={"depth": outbox.depth()})


def watch_outbox(registry: CollectorRegistry, outbox: Outbox, publisher: AmqpPublisher) -> None:
    """Show what waits for the broker, what it took, and what went to the dead letters."""
    watch_gauge(
        registry, "trading_bus_outbox_messages", "Messages committed and not confirmed.", lambda: outbox.depth()
    )
    watch_gauge(
        registry, "trading_bus_outbox_age_seconds", "Age of the oldest message not confirmed.", outbox.oldest_age_s
    )
    for name, text, read in (
        ("trading_bus_messages_confirmed_total", "Messages that the broker confirmed.", lambda: outbox.confirmed_total),
        ("trading_bus_messages_refused_total", "Messages that the broker would never take.",
         lambda: outbox.refused_total),
        ("trading_bus_dead_letters_total", "What could not be read, kept as dead letters.",
         lambda: publisher.dead_total),
    ):  # fmt: skip
        watch_counter(registry, name, text, read)
