"""What a feed delivers, the limits it keeps, and what its connections share."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

import msgspec

from common.clock import Clock
from common.venues.market import Cadence, Market, Trade


class Opened(msgspec.Struct, frozen=True):
    """The connection is open; nothing is subscribed yet."""


class Subscribed(msgspec.Struct, frozen=True):
    """The venue acknowledged these streams: coverage starts at the first Cadence after it."""

    streams: frozenset[str]


class Unsubscribed(msgspec.Struct, frozen=True):
    """The venue acknowledged that these streams end; some of their last frames may have come before."""

    streams: frozenset[str]


class Lost(msgspec.Struct, frozen=True):
    """The connection is gone and nothing more comes from it; planned when we closed it (rotation, stop)."""

    reason: str
    planned: bool


class BadFrame(msgspec.Struct, frozen=True):
    """A frame that can not be read, cut to `FeedLimits.bad_frame_bytes_kept`; the connection goes on."""

    raw: bytes
    reason: str


Event = Trade | Cadence | Subscribed | Unsubscribed | Lost | BadFrame | Opened
Arrival = tuple[int, Event]


class FeedLimits(msgspec.Struct, frozen=True):
    """Every limit of a feed, in real seconds: CLOCK_RATE never touches the network.

    `stale_after_s` counts data frames only; an ack or a pong proves nothing. `rotate_after_s` stays an hour below the
    venue's connection life. `overlap_s` is how long both connections deliver before the older one is closed.
    """

    # opening and closing
    open_timeout_s: float = 10.0
    close_timeout_s: float = 2.0
    # while open
    stale_after_s: float = 5.0
    ack_timeout_s: float = 5.0
    send_timeout_s: float = 5.0
    keepalive_every_s: float = 20.0
    # make before break
    rotate_after_s: float = 23 * 3600.0
    overlap_s: float = 2.0
    # trying again
    retry_first_s: float = 0.25
    retry_max_s: float = 30.0
    attempts_max: int = 300
    attempts_window_s: float = 300.0
    # sizes
    frame_bytes_max: int = 2**20
    socket_frames_max: int = 1024
    buffer_events_max: int = 10_000
    bad_frame_bytes_kept: int = 4096


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
