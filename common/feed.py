"""A venue connection as one async iterator that outlives reconnects and rotation.

    feed = Feed(binance_spot.MARKET, url, FeedLimits(), clock, "ohlcv-0")
    feed.want(frozenset({"solusdt@aggTrade"}))
    async with contextlib.aclosing(feed.events()) as batches:
        async for batch in batches:
            for connection, event in batch: ...

Events of one connection come in order of arrival; connection numbers rise. While two connections overlap (rotation)
their events are mixed and the same trade comes twice: ids tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from urllib.parse import SplitResult, urlsplit, urlunsplit

from common.backoff import AttemptBudget, full_jitter
from common.clock import Clock
from common.errors import ConfigError
from common.feed_events import (
    Arrival,
    BadFrame,
    Event,
    FeedLimits,
    Lost,
    Opened,
    Subscribed,
    Unsubscribed,
)
from common.feed_inbox import FeedCounts, Inbox, Slot
from common.feed_socket import Connection
from common.venues.market import Market

__all__ = [
    "Arrival",
    "BadFrame",
    "Event",
    "Feed",
    "FeedLimits",
    "Lost",
    "Opened",
    "Subscribed",
    "Unsubscribed",
    "stream_url",
]

log = logging.getLogger(__name__)


def stream_url(url: str) -> str:
    """Strip the query part of a stream endpoint: streams are subscribed by control frames, never by URL.

    Raises ConfigError when it is not a WebSocket address.
    """
    parts = _split_url(url)
    if parts.query:
        log.warning("query part of the stream address is ignored", extra={"query": parts.query})
    return urlunsplit(parts._replace(query="", fragment=""))


def _split_url(url: str) -> SplitResult:
    # A port that is no number shows only when it is read.
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0:
            return parts
    raise ConfigError(f"{url!r} is not a ws:// or wss:// address")


class Feed:
    """One connection slot of a venue: at most `market.streams_per_connection` streams, the cadence stream included.

    `attempts` counts connection attempts; share one among all feeds of a process to the same host. `market_for` answers
    the market that a connection of this number speaks: who records frames reads along there.
    """

    def __init__(
        self,
        market: Market,
        url: str,
        limits: FeedLimits,
        clock: Clock,
        name: str,
        attempts: AttemptBudget | None = None,
        rng: random.Random | None = None,
        market_for: Callable[[int], Market] | None = None,
    ) -> None:
        _split_url(url)
        self.name = name
        self._market, self._limits, self._clock = market, limits, clock
        self._attempts = attempts or AttemptBudget(limits.attempts_max, limits.attempts_window_s)
        self._rng = rng or random.Random()
        self._fields = {"venue": market.source, "feed": name}
        self._wanted = frozenset({market.cadence_stream})
        self._inbox = Inbox(limits.buffer_events_max)
        self._counts = FeedCounts(clock.monotonic_s())
        self._slot = Slot(name, market, url, limits, clock, self._inbox, self._counts)
        self._market_for = market_for
        self._live: dict[Connection, asyncio.Task[None]] = {}
        self._last_number = 0
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    def want(self, streams: frozenset[str]) -> None:
        """Set the streams to carry; the cadence stream is always added. Takes effect soon, at the venue's pace.

        Raises ValueError when one connection can not carry so many.
        """
        wanted = streams | {self._market.cadence_stream}
        if len(wanted) > self._market.streams_per_connection:
            raise ValueError(f"{len(wanted)} streams for {self._market.streams_per_connection} places")
        self._wanted = wanted
        for connection in self._live:
            connection.want(wanted)

    async def events(self) -> AsyncGenerator[list[Arrival]]:
        """Connect and deliver batches of (connection number, event) until `close`; to be iterated once.

        Losing the venue is an event, never an exception; what is raised is an error of ours.
        """
        if self._keeper is not None or self._closed:
            raise RuntimeError("the events of a feed can be iterated once")
        self._keeper = asyncio.create_task(self._keep_connected(), name=f"feed-{self.name}")
        self._keeper.add_done_callback(self._end_unless_closing)
        try:
            while batch := await self._inbox.take():
                yield batch
            if not self._closed:
                self._keeper.result()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connections with a handshake (at most about `close_timeout_s`) and end `events`."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        tasks = set(self._live.values())
        for connection in self._live:
            connection.stop()
        if tasks:
            await asyncio.wait(tasks)
        self._inbox.close()

    def _end_unless_closing(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled():
            self._inbox.close()

    @property
    def connected(self) -> bool:
        """Is a connection open? Says nothing about data: see `data_age_s`."""
        return any(connection.opened for connection in self._live)

    @property
    def streams(self) -> frozenset[str]:
        """Streams that the venue has acknowledged on any open connection."""
        return frozenset[str]().union(*(c.subscriptions.actual for c in self._live if c.opened))

    def data_age_s(self) -> float:
        """Seconds since data arrived; before the first, since this feed was made."""
        return self._clock.monotonic_s() - self._counts.data_at_s

    @property
    def frames_total(self) -> int:
        """Frames received."""
        return self._counts.frames + sum(connection.frames for connection in self._live if connection.opened)

    @property
    def bad_total(self) -> int:
        """Frames that could not be read."""
        return self._counts.bad

    @property
    def reconnects_total(self) -> int:
        """Connections that were open and were lost: one for an outage, however long it takes to be connected again."""
        return self._counts.reconnects

    @property
    def refusals_total(self) -> int:
        """Attempts that came to no connection."""
        return self._counts.refusals

    @property
    def rotations_total(self) -> int:
        """Connections replaced while they still worked."""
        return self._counts.rotations

    async def _launch(self) -> tuple[Connection, asyncio.Task[None]]:
        """Start the next connection, as soon as the attempt budget and the consumer allow."""
        await self._inbox.room()
        await asyncio.sleep(self._attempts.reserve(self._clock.monotonic_s()))
        self._last_number += 1
        slot = self._slot
        if self._market_for is not None:
            slot = replace(slot, market=self._market_for(self._last_number))
        connection = Connection(self._last_number, slot)
        connection.want(self._wanted)
        task = asyncio.create_task(connection.run(), name=f"feed-{self.name}-{connection.number}")
        self._live[connection] = task
        task.add_done_callback(lambda _: self._live.pop(connection, None))
        return connection, task

    async def _pause(self, gone: Connection, failures: int, unless: asyncio.Task[None] | None = None) -> int:
        """Wait before the next attempt, or until `unless` is done; returns the new count of failures."""
        failures = 0 if gone.trusted else failures
        self._counts.reconnects += gone.was_open
        self._counts.refusals += not gone.was_open
        wait_s = full_jitter(failures, self._limits.retry_first_s, self._limits.retry_max_s, self._rng)
        wait_s = max(wait_s, gone.wait_s or 0.0)
        if unless is None:
            await asyncio.sleep(wait_s)
        else:
            await asyncio.wait({unless}, timeout=wait_s)
        return failures + 1

    async def _keep_connected(self) -> None:
        failures = 0
        connection, task = await self._launch()
        while not self._closed:
            await asyncio.wait({task, connection.retire}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                failures = await self._pause(connection, failures)
                connection, task = await self._launch()
            else:
                connection, task = await self._replace(connection, task)

    async def _replace(self, old: Connection, old_task: asyncio.Task[None]) -> tuple[Connection, asyncio.Task[None]]:
        """Make before break: returns the connection that carries on, which may be gone already."""
        log.info("rotating", extra={**self._fields, "conn": old.number})
        failures = 0
        while not old_task.done():
            new, new_task = await self._launch()
            await asyncio.wait({old_task, new_task, new.settled}, return_when=asyncio.FIRST_COMPLETED)
            if new_task.done():
                new_task.result()
                failures = await self._pause(new, failures, unless=old_task)
                continue
            if not old_task.done():
                self._counts.rotations += 1
                old.stop()
                await asyncio.wait({old_task})
            old_task.result()
            return new, new_task
        return old, old_task
