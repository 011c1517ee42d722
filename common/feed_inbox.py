"""What the connections of one feed share: the events on their way to its consumer, and counts."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from common.clock import Clock
from common.feed_events import Arrival, FeedLimits
from common.venues.market import Market


class Inbox:
    """Events on their way from the sockets to the one consumer, taken in batches.

    `put` never refuses, so that no event is lost: a producer looks at `full` and waits for `room` before it reads
    on, and the venue's TCP window does the rest. The reader of a socket, which does this for every frame, appends to
    `arrivals` itself and calls `wake` when it was empty.
    """

    def __init__(self, events_max: int) -> None:
        self.events_max = events_max
        self.arrivals: deque[Arrival] = deque()
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False

    @property
    def full(self) -> bool:
        """Should producers stop reading?"""
        return len(self.arrivals) >= self.events_max

    def put(self, arrival: Arrival) -> None:
        """Add one event and wake the consumer."""
        self.arrivals.append(arrival)
        self._some.set()

    def wake(self) -> None:
        """Tell the consumer that something is about to be there, before control returns to the loop."""
        self._some.set()

    async def room(self) -> None:
        """Wait until the consumer has taken what was there."""
        if self.full and not self._closed:
            self._room.clear()
            await self._room.wait()

    async def take(self) -> list[Arrival]:
        """Wait for events and take all of them, oldest first; empty when closed and drained."""
        while not self.arrivals and not self._closed:
            self._some.clear()
            await self._some.wait()
        arrivals = list(self.arrivals)
        self.arrivals.clear()
        self._room.set()
        return arrivals

    def close(self) -> None:
        """No more events will be put."""
        self._closed = True
        self._some.set()
        self._room.set()


class FeedCounts:
    """What a feed has seen so far; `frames` are those of connections that are gone."""

    def __init__(self, now_s: float) -> None:
        self.frames = 0
        self.bad = 0
        self.reconnects = 0
        self.refusals = 0
        self.rotations = 0
        self.data_at_s = now_s


@dataclass(frozen=True)
class Slot:
    """What all connections of one feed share."""

    name: str
    market: Market
    url: str
    limits: FeedLimits
    clock: Clock
    inbox: Inbox
    counts: FeedCounts
