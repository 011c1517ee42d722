"""What a feed delivers, and the limits it keeps."""

from __future__ import annotations

import msgspec

from common.venues.market import Cadence, Trade


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

    `stale_after_s` counts data frames only; an ack or a pong proves nothing, nor do trades without the cadence stream
    that tells their time. `rotate_after_s` stays an hour below the
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
    retry_max_s: float = 8.0
    attempts_max: int = 300
    attempts_window_s: float = 300.0
    # the reader rests this long after a small read; the watermark gets as much older
    rest_s: float = 0.005
    # sizes
    frame_bytes_max: int = 2**20
    buffer_events_max: int = 10_000
    bad_frame_bytes_kept: int = 4096
