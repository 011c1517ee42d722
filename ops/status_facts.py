"""What one look at a running system brings back: values only. Pure."""

from __future__ import annotations

import msgspec

from common.health import Check, Phase


class Silent(msgspec.Struct, frozen=True):
    """A source that did not answer: which, why, and what to do about it; `by_timer`: it need not be there."""

    source: str
    reason: str
    advice: str
    by_timer: bool = False


class StreamFacts(msgspec.Struct, frozen=True):
    """What the database holds of one (service, venue, symbol).

    `cursor_s` is its watermark: the end of its last stored second, venue time; None for a pair that is wanted and was
    never begun, and for what only the ledger knows. `status` is the registry's, None for a pair it does not know.
    `idle`: the ledger says that it is not subscribed. Gaps: `open` ones are under repair, `parked` ones left for an
    operator, `missing` ones given up in the last day; `gap_age_s` is how long ago the oldest open one was noticed.
    """

    service: str
    venue: str
    symbol: str
    cursor_s: float | None = None
    last_trade_s: float | None = None
    trades_per_s: float = 0.0
    status: str | None = None
    idle: bool = False
    gaps_open: int = 0
    gaps_parked: int = 0
    gaps_missing: int = 0
    gap_age_s: float = 0.0


class OutboxFacts(msgspec.Struct, frozen=True):
    """Messages of one owner and lane that wait for the broker; `alive`: somebody holds the owner's lock."""

    owner: str
    lane: str
    messages: int
    age_s: float
    alive: bool


class RegistryFacts(msgspec.Struct, frozen=True):
    """How old the last written run of the registry is, and whether spreads were sampled lately."""

    run_age_s: float
    sampled: bool


class DatabaseFacts(msgspec.Struct, frozen=True):
    """Cursors, ledger, registry and outbox at the database's own time `now_s`; `registry` None: it never ran."""

    now_s: float
    streams: tuple[StreamFacts, ...] = ()
    outbox: tuple[OutboxFacts, ...] = ()
    registry: RegistryFacts | None = None


class FeedFacts(msgspec.Struct, frozen=True):
    """One feed of a service as its `/healthz` tells it; `trades` holds every symbol on it and its last trade's age."""

    name: str
    healthy: bool
    data_age_s: float | None
    watermark_ms: int = 0
    watermark_age_s: float = 0.0
    speaker: str = ""
    failovers: int = 0
    trades: dict[str, float | None] = {}

    def venue_now_s(self) -> float | None:
        """Venue time by now: its watermark, and what has passed since it moved. None before the first frame."""
        return self.watermark_ms / 1000 + self.watermark_age_s if self.watermark_ms else None


class Meters(msgspec.Struct, frozen=True):
    """Numbers of a service's `/metrics`; None where it does not have one."""

    outbox_messages: float | None = None
    outbox_age_s: float | None = None
    weight_used: float | None = None
    weight_limit: float | None = None
    reconnects: float | None = None
    memory_bytes: float | None = None


class ServiceFacts(msgspec.Struct, frozen=True):
    """One instance that answered."""

    url: str
    name: str
    phase: Phase
    healthy: bool
    checks: tuple[Check, ...] = ()
    feeds: tuple[FeedFacts, ...] = ()
    meters: Meters = Meters()


class QueueFacts(msgspec.Struct, frozen=True):
    """One queue of the broker; None where the source can not tell."""

    name: str
    messages: int
    consumers: int | None = None


class BrokerFacts(msgspec.Struct, frozen=True):
    """The broker answers; `declared`: the bus is there; `alarms` block every publisher."""

    source: str
    declared: bool = True
    queues: tuple[QueueFacts, ...] = ()
    alarms: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True):
    """All answers of one look; `brokers` is empty where no broker was named."""

    database: DatabaseFacts | Silent
    services: tuple[ServiceFacts | Silent, ...] = ()
    brokers: tuple[BrokerFacts | Silent, ...] = ()
