"""What the venue tells of a watched account, as values: fills, order updates, positions held, and what can not be read.

Addresses are lower case. Prices, sizes and profits are integers in units of 10**-SCALE, positions are signed (a short
is negative), times are the venue's epoch milliseconds. `raw` is the venue's own JSON text, byte for byte.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b

import msgspec

EXCHANGE = "hyperliquid"
"""The constant `exchange` of every signal, the `venue` of every ledger row."""

SERVICE = "influencer"

SCALE = 18
"""Decimals of every number: no token of the venue has more places; finer text is unreadable, never rounded."""


class EventType(StrEnum):
    """Kinds of rows in `influencer_raw_events` (seed 001, 5.2)."""

    FILL = "FILL"
    ORDER_UPDATE = "ORDER_UPDATE"
    POSITION_SNAPSHOT = "POSITION_SNAPSHOT"
    """An answer of the info endpoint that we asked for."""
    POSITION_UPDATE = "POSITION_UPDATE"
    """The same shape, pushed by the venue."""


class Source(StrEnum):
    """How a fill reached us first."""

    LIVE = "live"
    """A streamed frame that is not a snapshot."""
    REPAIR = "repair"
    """A snapshot after (re)subscribing, or the info endpoint: a gap, a start, a polled account."""


class Account(msgspec.Struct, frozen=True):
    """One row of `influencers`.

    A larger `priority` is more important. `markets` limits the signals, never the raw events; None means all.
    `added_ms` is the account's cursor: fills before it are stored raw and never signalled. The backoff overrides are
    seconds, None for the settings' own.
    """

    address: str
    influencer_id: str
    label: str = ""
    priority: int = 0
    markets: frozenset[str] | None = None
    enabled: bool = True
    added_ms: int = 0
    backoff_first_s: float | None = None
    backoff_max_s: float | None = None


class Liquidation(msgspec.Struct, frozen=True):
    """The object that both sides of a liquidation carry; only `user` tells whose it was, and it may be missing."""

    user: str | None
    mark_px: int
    method: str


class Fill(msgspec.Struct, frozen=True):
    """One fill of one account. `buy`: this account bought. `start` is its signed position before the fill.

    `tid` is None where the venue gives none (2023) or a zero (system fills), see `event_id`.
    """

    user: str
    coin: str
    buy: bool
    px: int
    sz: int
    start: int
    time_ms: int
    dir: str
    closed_pnl: int
    hash: str
    oid: int
    tid: int | None
    liquidation: Liquidation | None
    raw: bytes

    @property
    def delta(self) -> int:
        """Signed change of the position."""
        return self.sz if self.buy else -self.sz

    @property
    def end(self) -> int:
        """Signed position after the fill."""
        return self.start + self.delta

    @property
    def event_id(self) -> str:
        """The fill's identity within its account: "time:coin:tid", the venue's own unique tuple (vendors 5.3).

        A fill without a usable `tid` is named by "time:coin:x<hash>" over everything that tells it from its neighbours:
        order, side, price, size, start and transaction. Two fills that agree in all of these are one.
        """
        if self.tid:
            return f"{self.time_ms}:{self.coin}:{self.tid}"
        told = f"{self.oid}|{self.buy:d}|{self.px}|{self.sz}|{self.start}|{self.hash}"
        return f"{self.time_ms}:{self.coin}:x{blake2b(told.encode(), digest_size=8).hexdigest()}"

    @property
    def key(self) -> tuple[str, str]:
        """Identity over all accounts: buyer and seller share time, coin and tid."""
        return self.user, self.event_id


class OrderUpdate(msgspec.Struct, frozen=True):
    """One order changed its state; the frame names no account, so the socket's only asker of it owns it."""

    coin: str
    oid: int
    status: str
    time_ms: int
    raw: bytes


class Held(msgspec.Struct, frozen=True):
    """One open position as the venue states it; `leverage` and `margin_mode` as configured by the account."""

    coin: str
    size: int
    leverage: int | None
    margin_mode: str | None
    entry_px: int | None


class PositionSnapshot(msgspec.Struct, frozen=True):
    """Every open perp position of an account on one dex ("" is the venue's own) at `time_ms`.

    What is not in it is flat. `time_ms` is None where the venue does not say (2023).
    """

    user: str
    dex: str
    time_ms: int | None
    held: tuple[Held, ...]
    raw: bytes


class ParseFailure(msgspec.Struct, frozen=True):
    """Something of the venue that can not be read: one dead letter, and nothing else of its frame is lost."""

    reason: str
    raw: bytes
    user: str | None = None


class RawEvent(msgspec.Struct, frozen=True):
    """One row of `influencer_raw_events`; key (address, event_type, event_id, time_ms).

    `payload` is the venue's JSON object unmodified; `market` is None where the event is of no single market.
    """

    address: str
    event_type: EventType
    market: str | None
    event_id: str
    time_ms: int
    payload: bytes


class Arrived(msgspec.Struct, frozen=True):
    """A fill on its way through the service: when it reached us (venue clock, epoch ms) and how."""

    fill: Fill
    received_ms: int
    source: Source
    listener: int | None = None
    """0 or 1; None for the info endpoint."""
