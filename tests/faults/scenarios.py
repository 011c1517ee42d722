"""Scenarios: what happens when, and what may then be expected. One table of single faults, and combinations of them.

Times are real seconds. In a world of speed 10 a second of ours is ten of the venue's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

LIVE_WITHIN_S = 10.0
WHOLE_WITHIN_S = 30.0
ROWS_PER_S = 3_000
FAILOVER_S = 18.0
"""At speed 10 long enough for the fallback to give a whole minute."""
REST_AGAIN_S = 10.0
"""A REST side that is behind the stream is asked again at least so often."""


@dataclass(frozen=True)
class Step:
    """One action of `actions.ACTIONS`, so many seconds after the beginning."""

    at_s: float
    action: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """Steps, and how they are to be judged (see `judge.judge_tables`).

    `hits` names what the fault acts on: combinations never take two that act on the same thing in the same way.
    `proof`: what must have been seen of it at least, by field of `world.Evidence`.
    `extra_s` is added to both limits where the fault itself goes on after its last step (a ban, a spent budget).
    """

    name: str
    steps: tuple[Step, ...]
    hits: frozenset[str] = frozenset()
    lossy: bool = False
    missing: bool = False
    servers: bool = False
    extra_s: float = 0.0
    proof: dict[str, float] = field(default_factory=dict)


def scenario(name: str, *steps: tuple[float, str, dict[str, Any]], hits: str, **more: Any) -> Scenario:
    return Scenario(name, tuple(Step(*step) for step in steps), frozenset(hits.split()), **more)


def venue(at_s: float, kind: str, **args: Any) -> tuple[float, str, dict[str, Any]]:
    return at_s, "venue", {"kind": kind, **args}


def stream_faults(window_s: float) -> list[Scenario]:
    """What the venue's streams can do to us."""
    first, second = "BTCUSDT", "ETHUSDT"
    symbol, gap, late = {"symbol": first, "for_s": window_s}, {"gaps": 1}, {"quiet_s": 8}
    return [
        scenario("cut", venue(0, "cut", for_s=window_s / 2), hits="socket", proof={"gaps": 4}),
        scenario("cut of the oldest socket", venue(0, "cut", oldest=True, for_s=0), hits="socket", proof={"gaps": 4}),
        scenario("serverShutdown", venue(0, "shutdown", after_s=2, for_s=3), hits="socket", proof={"sockets": 1}),
        scenario("silent socket", venue(0, "silent", for_s=window_s + 4), hits="socket", lossy=True,
                 proof={"gaps": 4, "stall_s": 3}),
        scenario("stalled socket", venue(0, "stall", for_s=2 * window_s), hits="socket",
                 proof={"stall_s": min(5, window_s)}),
        scenario("silent symbol", venue(0, "silent_symbol", **symbol), hits="frames", lossy=True, proof=gap),
        scenario("stalled symbol", venue(0, "stall_symbol", **symbol), hits="frames", lossy=True, proof=late),
        scenario("delayed trades", venue(0, "delay", by_s=1.5, for_s=window_s), hits="frames", lossy=True, proof=late),
        scenario("muted stream", (0, "mute", {"symbol": first, "for_s": window_s}), hits="frames", lossy=True,
                 proof=gap),
        scenario("muted cadence", (0, "mute", {"symbol": first, "kind": "miniTicker", "for_s": window_s + 5}),
                 hits="socket", proof={"gaps": 4, "sockets": 1}),
        scenario(
            "lost frames",
            venue(0, "drop", symbol=first, next=7), venue(0, "drop", next=5), venue(1, "drop", symbol=second, next=40),
            hits="frames", lossy=True, proof={"gaps": 2},
        ),
        scenario("repeated frames", venue(0, "duplicate", next=30), hits="frames", proof={"repeated": 10}),
        # Of busy symbols: with a rare one the fault would outlast its scenario.
        scenario("frames out of order", venue(0, "reorder", symbol=first, next=20, behind=3),
                 venue(0, "reorder", symbol=second, next=10, behind=3), hits="frames", lossy=True,
                 proof={"swapped": 10}),
        scenario("broken frames", venue(0, "malformed", next=20, for_s=1), hits="frames", proof={"bad": 20}),
        scenario("oversized frame", venue(0, "oversized", bytes=3 << 20), hits="socket", proof={"sockets": 1}),
        scenario("venue clock ahead", (0, "skew", {"ms": 60_000, "for_s": window_s}), hits="clock",
                 proof={"revised": 1}),
        scenario("venue clock behind", (0, "skew", {"ms": -60_000, "for_s": window_s}), hits="clock", extra_s=6,
                 proof={"stall_s": 1}),
        scenario("lost at the source", (0, "lose_at_source", {"symbol": first, "trades": 5}), hits="source",
                 missing=True, lossy=True, extra_s=15, proof=gap),
    ]  # fmt: skip


def failover_faults(long_s: float) -> list[Scenario]:
    """The primary away long enough for the other venue to speak, and both of them away."""
    return [
        scenario("primary silent for minutes", venue(0, "silent", for_s=long_s), hits="socket", lossy=True,
                 proof={"okx": 4, "gaps": 4}),
        scenario("primary cut for minutes", venue(0, "cut", for_s=long_s), hits="socket", proof={"okx": 4, "gaps": 4}),
        scenario("both venues cut", venue(0, "cut", for_s=long_s), venue(0, "cut", venue="okx", for_s=long_s),
                 hits="socket okx", proof={"gaps": 4}),
    ]  # fmt: skip


def rest_faults(window_s: float) -> list[Scenario]:
    """What REST can do to a repair: each comes with a cut."""
    cut, gaps = venue(0.2, "cut", for_s=0.5), {"gaps": 4}
    return [
        scenario("REST down", venue(0, "rest_down", for_s=window_s), cut, hits="rest socket", proof=gaps),
        scenario("REST 418", venue(0, "rest_ban", for_s=window_s), cut, hits="rest socket", proof=gaps),
        scenario("REST slow", venue(0, "rest_slow", for_s=window_s, by_s=2.0), cut, hits="rest socket", proof=gaps),
        scenario("REST behind", (0, "rest_behind", {"by_ms": 20_000, "for_s": window_s}), cut, hits="rest socket",
                 proof=gaps),
        # Longer than all tries of a gap would take, and with a symbol that begins meanwhile.
        scenario("REST late for longer than three tries", cut, (0, "rest_late", {"by_s": 20, "for_s": 14 + window_s}),
                 (1.5, "exclude", {"symbol": "SOLUSDT"}), (3.5, "include", {"symbol": "SOLUSDT"}),
                 hits="rest socket registry", extra_s=REST_AGAIN_S, proof=gaps),
        scenario("REST late after 25 minutes away", (0, "outage", {"minutes": 25, "late_s": 20, "for_s": 3 + window_s}),
                 hits="ingestor source socket rest frames clock", extra_s=REST_AGAIN_S, proof=gaps),
        scenario("REST budget spent", (0, "restart_with", {"rest_weight_per_min": 40}),
                 venue(4, "cut", for_s=1), venue(8, "cut", for_s=1), hits="rest socket ingestor", extra_s=135,
                 proof=gaps),
    ]  # fmt: skip


def process_faults(window_s: float) -> list[Scenario]:
    """What can happen to the ingestor itself."""
    gaps = {"gaps": 4}
    return [
        scenario("ingestor killed", (0, "kill", {}), hits="ingestor", proof=gaps),
        scenario("ingestor away for a while", (0, "kill", {"down_s": window_s}), hits="ingestor", proof=gaps),
        scenario("ingestor stopped", (0, "stop", {"down_s": 1}), hits="ingestor", proof=gaps),
        scenario("ingestor frozen", (0, "freeze", {"for_s": window_s + 2}), hits="ingestor",
                 proof={"stall_s": window_s}),
        scenario("25 minutes away", (0, "outage", {"minutes": 25}), hits="ingestor source socket rest frames clock",
                 proof=gaps),
        scenario("local clock 10 s fast", (0, "restart_with", {"clock_offset_s": 10}), hits="ingestor", proof=gaps),
        scenario("local clock 10 s slow", (0, "restart_with", {"clock_offset_s": -10}), hits="ingestor", proof=gaps),
        scenario("started twice", (0, "twice", {"for_s": 2}), hits="ingestor"),
        scenario("take-over", (0, "take_over", {}), hits="ingestor socket", proof=gaps),
        scenario(
            "excluded and active again in a cut",
            venue(0, "cut", for_s=window_s), (0.5, "exclude", {"symbol": "SOLUSDT"}),
            (window_s / 2, "include", {"symbol": "SOLUSDT"}), hits="socket registry", proof=gaps,
        ),
        scenario(
            "excluded and active again",
            (0, "exclude", {"symbol": "SOLUSDT"}), (window_s, "include", {"symbol": "SOLUSDT"}), hits="registry",
            proof={"gaps": 1},
        ),
    ]  # fmt: skip


def metric_faults(window_s: float) -> list[Scenario]:
    """What can happen to the metric ingestor, and to what it reads meanwhile."""
    away = (0, "metric_kill", {"down_s": window_s})
    return [
        scenario("metric ingestor killed", (0, "metric_kill", {}), hits="metric"),
        scenario("metric ingestor frozen", (0, "metric_freeze", {"for_s": window_s + 2}), hits="metric"),
        scenario("metric ingestor away while trades are repaired", away, venue(0.2, "drop", symbol="BTCUSDT", next=7),
                 hits="metric frames", lossy=True, proof={"gaps": 1}),
        scenario("both ingestors killed", (0, "kill", {"down_s": 1}), away, hits="metric ingestor", proof={"gaps": 4}),
        scenario("futures REST down", venue(0, "rest_down", venue="futures", for_s=window_s), hits="futures"),
        scenario("futures values out of order",
                 venue(0, "rest_answer", venue="futures", answer="old", by_ms=20_000, every=2, for_s=window_s),
                 hits="futures"),
    ]  # fmt: skip


def database_faults(window_s: float) -> list[Scenario]:
    """What the database can do without being killed."""
    return [
        scenario("PostgreSQL slow", (0, "postgres_slow", {"by_s": 2.0, "for_s": window_s + 4}), hits="database",
                 proof={"stall_s": 1.5}),
        scenario("disk full", (0, "disk_full", {"for_s": window_s}), hits="database", proof={"stall_s": window_s / 2}),
    ]  # fmt: skip


def server_faults(down_s: float) -> list[Scenario]:
    """Servers killed, frozen, blocked; they need servers of our own."""
    small = (0.0, "restart_with", {"buffer_rows_max": 1_000})
    away, unsent, both = {"stall_s": down_s / 2}, {"outbox": 100}, "broker database"
    rabbitmq, postgres = (0, "rabbitmq_down", {"for_s": down_s}), (0.5, "postgres_down", {"for_s": down_s})
    return [
        scenario("RabbitMQ killed", rabbitmq, hits="broker", proof=unsent, servers=True),
        scenario("PostgreSQL killed", postgres, hits="database", proof=away, servers=True),
        scenario("both killed", rabbitmq, postgres, hits=both, proof=away, servers=True),
        scenario("RabbitMQ frozen", (0, "rabbitmq_frozen", {"for_s": down_s}), hits="broker", proof=unsent,
                 servers=True),
        scenario("PostgreSQL frozen", (0, "postgres_frozen", {"for_s": down_s}), hits="database", proof=away,
                 servers=True),
        scenario("memory alarm", (0, "memory_alarm", {"for_s": down_s}), hits="broker", proof=unsent, servers=True),
        scenario("buffer full while PostgreSQL is away", small, (3, "postgres_down", {"for_s": down_s + 24}),
                 hits="database ingestor", proof={**away, "gaps": 4}, servers=True),
        scenario("ingestor killed while the broker is away", rabbitmq, (1, "kill", {}), hits="broker ingestor",
                 proof={**unsent, "gaps": 4}, servers=True),
    ]  # fmt: skip


def single_faults(window_s: float, down_s: float) -> list[Scenario]:
    """Every fault alone: `window_s` for those of the venue, `down_s` for servers."""
    return [
        *stream_faults(window_s), *failover_faults(max(down_s, FAILOVER_S)), *rest_faults(window_s),
        *process_faults(window_s), *metric_faults(window_s), *database_faults(window_s), *server_faults(down_s),
    ]  # fmt: skip


def pick(scenarios: list[Scenario], *names: str) -> list[Scenario]:
    """Some of them, by name."""
    known = {one.name: one for one in scenarios}
    return [known[name] for name in names]


def combine(rng: Random, singles: list[Scenario], window_s: float) -> Scenario:
    """Two or three faults at once, begun within `window_s` of each other."""
    wanted = rng.choice((2, 2, 3))
    chosen: list[Scenario] = []
    for fault in rng.sample(singles, len(singles)):
        if len(chosen) < wanted and not any(fault.hits & other.hits for other in chosen):
            chosen.append(fault)
    steps: list[Step] = []
    for fault in chosen:
        shift_s = round(rng.uniform(0, window_s), 1)
        steps += [replace(step, at_s=step.at_s + shift_s) for step in fault.steps]
    return Scenario(
        " + ".join(fault.name for fault in chosen),
        tuple(sorted(steps, key=lambda step: step.at_s)),
        frozenset().union(*(fault.hits for fault in chosen)),
        # A cut that comes together with anything hides losses that only later trades show.
        lossy=any(fault.lossy for fault in chosen),
        missing=any(fault.missing for fault in chosen),
        servers=any(fault.servers for fault in chosen),
        extra_s=sum(fault.extra_s for fault in chosen),
    )
