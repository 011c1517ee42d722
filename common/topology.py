"""What `trading.bus` consists of: exchanges, queues and bindings with every argument, as data.

Arguments can not be changed by declaring again; an existing queue with other arguments is kept as it is.
"""

from __future__ import annotations

import msgspec

EXCHANGE = "trading.bus"
EXCHANGE_DEAD = "trading.bus.dead"
EXCHANGE_UNROUTED = "trading.bus.unrouted"
EXCHANGE_BEATS = "trading.bus.beats"
QUEUE_LOG = "trading.bus.log"

LOG_BINDINGS = (
    "price_updates.*.1m",
    "price_updates.*.1s",
    "metric_updates.#",
    "symbol_events.#",
    "onchain.#",
    "influencer_signals.#",
)
"""The persistent keys. Not "#": every key would be routed then, and a mistyped one never seen as unrouted."""

DEAD_RETURNS_MAX = 1_000_000_000
"""RabbitMQ 4 drops a message of a quorum queue that was given back 20 times, and looking at a letter gives it back."""

Argument = str | int


class TopologyLimits(msgspec.Struct, frozen=True):
    """Sizes of the broker's queues; a demo makes them smaller, in a vhost of its own."""

    unrouted_messages_max: int = 10_000
    dead_bytes_max: int = 1_000_000_000
    log_bytes_max: int = 5_000_000_000
    """About 340 bytes a message: size decides before age. Keep it well below the disk: a full disk stops publishing."""
    log_age_max: str = "7D"
    log_segment_bytes: int = 100_000_000
    """The log is cut by whole segments only."""


class ExchangeSpec(msgspec.Struct, frozen=True):
    """A durable exchange."""

    name: str
    type: str
    arguments: dict[str, Argument] = {}


class QueueSpec(msgspec.Struct, frozen=True):
    """A durable queue."""

    name: str
    arguments: dict[str, Argument]


class BindingSpec(msgspec.Struct, frozen=True):
    """A queue, or another exchange, that gets what an exchange carries under a key."""

    exchange: str
    key: str
    to: str
    to_exchange: bool = False


class Topology(msgspec.Struct, frozen=True):
    """Everything that has to be there before the first message."""

    exchanges: tuple[ExchangeSpec, ...]
    queues: tuple[QueueSpec, ...]
    bindings: tuple[BindingSpec, ...]


def describe_topology(limits: TopologyLimits) -> Topology:
    """The topology at these sizes."""
    exchanges = (
        ExchangeSpec(EXCHANGE_UNROUTED, "fanout"),
        # What nobody binds is confirmed and otherwise silent; here it is seen.
        ExchangeSpec(EXCHANGE, "topic", {"alternate-exchange": EXCHANGE_UNROUTED}),
        ExchangeSpec(EXCHANGE_DEAD, "topic"),
        # Leads nowhere: beats that nobody binds must not push mistyped keys out of the unrouted queue.
        ExchangeSpec(EXCHANGE_BEATS, "fanout"),
    )
    queues = (
        QueueSpec(EXCHANGE_UNROUTED, {"x-max-length": limits.unrouted_messages_max, "x-overflow": "drop-head"}),
        QueueSpec(
            EXCHANGE_DEAD,
            {
                "x-queue-type": "quorum",
                "x-max-length-bytes": limits.dead_bytes_max,
                "x-delivery-limit": DEAD_RETURNS_MAX,
            },
        ),
        QueueSpec(
            QUEUE_LOG,
            {
                "x-queue-type": "stream",
                "x-max-length-bytes": limits.log_bytes_max,
                "x-max-age": limits.log_age_max,
                "x-stream-max-segment-size-bytes": limits.log_segment_bytes,
            },
        ),
    )
    bindings = (
        BindingSpec(EXCHANGE_UNROUTED, "", EXCHANGE_UNROUTED),
        BindingSpec(EXCHANGE_DEAD, "#", EXCHANGE_DEAD),
        BindingSpec(EXCHANGE, "price_updates.*.beat", EXCHANGE_BEATS, to_exchange=True),
        *(BindingSpec(EXCHANGE, key, QUEUE_LOG) for key in LOG_BINDINGS),
    )
    return Topology(exchanges, queues, bindings)
