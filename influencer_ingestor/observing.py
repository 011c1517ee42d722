"""What the influencer ingestor tells about itself: health from what was heard and asked, and metrics."""

from __future__ import annotations

from common.ground import Ground, watch_outbox
from common.health import Check, check_age
from common.metrics import make_histogram, watch_counter, watch_gauge
from common.service import Service
from influencer_ingestor.configuration import Configuration
from influencer_ingestor.fan_in import Offer
from influencer_ingestor.filling import Info
from influencer_ingestor.ingestor import Ingestor
from influencer_ingestor.intake import Intake
from influencer_ingestor.settings import InfluencerSettings
from influencer_ingestor.sockets import Socket
from influencer_ingestor.tracing import Tracer
from influencer_ingestor.writer import Writer

LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
WRITING_MAX_S = 30.0
OUTBOX_MAX_S = 30.0
CONFIGURATION_ROUNDS_MAX = 3
TOLD_MAX = 50


def watch_influencers(
    service: Service[InfluencerSettings], ground: Ground, ingestor: Ingestor, writer: Writer, intake: Intake,
    info: Info, configuration: Configuration, tracer: Tracer,
) -> None:  # fmt: skip
    """Register probes and metrics."""
    _watch_latency(service, tracer)
    _watch_health(service, ground, ingestor, writer, configuration)
    _watch_listeners(service, ingestor, intake)
    _watch_events(service, ground, ingestor, writer, intake)
    _watch_info(service, ground, ingestor, info)


def _watch_latency(service: Service[InfluencerSettings], tracer: Tracer) -> None:
    latency = make_histogram(
        service.registry, "trading_bus_influencer_confirm_seconds",
        "From a fill's frame to the broker's confirm of its signal.", LATENCY_BUCKETS_S,
    )  # fmt: skip
    tracer.observe = latency.observe
    watch_counter(
        service.registry, "trading_bus_influencer_slow_signals_total", "Signals that took longer than 250 ms.",
        lambda: float(tracer.slow_total),
    )  # fmt: skip


def _watch_health(
    service: Service[InfluencerSettings], ground: Ground, ingestor: Ingestor, writer: Writer,
    configuration: Configuration,
) -> None:  # fmt: skip
    settings, clock, outbox = service.settings, ground.clock, ground.outbox
    heard_max_s = settings.ping_every_s + settings.pong_timeout_s

    def listener(number: int) -> Check:
        """The age of the oldest socket that has something to carry: the venue answers every ping."""
        sockets = [s for s in ingestor.listeners.sockets if s.listener == number and s.wanted]
        ages = [None if s.heard_s is None or not s.opened else clock.monotonic_s() - s.heard_s for s in sockets]
        told: dict[str, object] = {
            "open": sum(s.opened for s in sockets), "of": len(sockets),
            "subscribed": sum(s.subscribed for s in sockets), "wanted": sum(s.wanted for s in sockets),
        }  # fmt: skip
        if None in ages:
            return Check(f"listener {number}", False, told | {"reason": _reason(sockets)}, None, heard_max_s)
        missing = sum(s.subscribed < s.wanted for s in sockets)
        age_s = max((age for age in ages if age is not None), default=0.0)
        return Check(f"listener {number}", not missing and age_s <= heard_max_s, told, age_s, heard_max_s)

    def accounts() -> Check:
        """Every account is heard by a listener or polled in time."""
        polled = ingestor.poller.ages_s()
        deaf = [w.account.influencer_id for w in ingestor.watched.values() if not w.polled and not w.heard]
        late = [
            ingestor.watched[user].account.influencer_id
            for user, age_s in polled.items()
            if user in ingestor.watched and (age_s is None or age_s > 2 * settings.poll_every_max_s)
        ]
        detail: dict[str, object] = {
            "watched": len(ingestor.watched), "polled": len(polled), "shed": len(ingestor.fan_in.shed),
            "unheard": deaf[:TOLD_MAX], "polled_late": late[:TOLD_MAX],
            "polled_accounts": [ingestor.watched[u].account.influencer_id for u in polled if u in ingestor.watched][
                :TOLD_MAX
            ],
        }  # fmt: skip
        if names := detail["polled_accounts"]:
            detail["remark"] = f"accounts beyond {ingestor.listeners.limits.users_max} users are polled: {names}"
        return Check("accounts", not deaf and not late, detail)

    def configured() -> Check:
        age_s = None if configuration.read_s is None else clock.monotonic_s() - configuration.read_s
        check = check_age(
            "configuration", age_s, CONFIGURATION_ROUNDS_MAX * settings.configuration_poll_s,
            listening=configuration.listening, users_max=ingestor.listeners.limits.users_max,
        )  # fmt: skip
        if ingestor.listeners.refusal is None:
            return check
        return Check(check.name, False, check.detail | {"refused": ingestor.listeners.refusal}, age_s, check.max_age_s)

    def writing() -> Check:
        return check_age("writing", writer.failing_s(), WRITING_MAX_S, queue=len(ingestor.fan_in))

    def publishing() -> Check:
        return check_age("publishing", outbox.oldest_age_s(), OUTBOX_MAX_S, depth=outbox.depth())

    service.health.add_probe("listeners", lambda: [listener(0), listener(1)])
    for name, probe in (
        ("accounts", accounts), ("configuration", configured), ("writing", writing), ("publishing", publishing),
    ):  # fmt: skip
        service.health.add_probe(name, probe)


def _reason(sockets: list[Socket]) -> str:
    return next((s.last_reason for s in sockets if not s.opened and s.last_reason), "not connected yet")


def _watch_listeners(service: Service[InfluencerSettings], ingestor: Ingestor, intake: Intake) -> None:
    registry, sockets = service.registry, ingestor.listeners.sockets
    watched = ingestor.watched

    def by_listener(value: str) -> dict[str, float]:
        return {str(n): float(sum(getattr(s, value) for s in sockets if s.listener == n)) for n in (0, 1)}

    def by_ear(value: str) -> dict[tuple[str, ...], float]:
        return {
            (w.account.influencer_id, str(n)): getattr(ear, value) / (1000 if value.endswith("_ms") else 1)
            for w in watched.values()
            if not w.polled
            for n, ear in enumerate(w.pair.ears)
        }

    labels = ("influencer", "listener")
    watch_gauge(
        registry, "trading_bus_influencer_connections", "Open sockets.", lambda: by_listener("opened"), ("listener",)
    )
    watch_counter(
        registry, "trading_bus_influencer_connections_lost_total", "Connections lost or not opened.",
        lambda: by_listener("lost_total"), ("listener",),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_bad_frames_total", "Frames that could not be read.",
        lambda: by_listener("bad_total"), ("listener",),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_influencer_listener_connected", "1 while a listener hears an account.",
        lambda: by_ear("connected"), labels,
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_influencer_listener_lag_seconds", "From a fill's execution to its arrival, smoothed.",
        lambda: by_ear("lag_ms"), labels,
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_influencer_listener_skew_seconds", "Behind the other listener, smoothed.",
        lambda: by_ear("skew_ms"), labels,
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_listener_missed_total", "Fills that only the other listener brought.",
        lambda: by_ear("missed_n"), labels,
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_influencer_primary", "Which listener leads: 0 or 1.",
        lambda: {w.account.influencer_id: float(w.pair.primary) for w in watched.values()}, ("influencer",),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_failovers_total", "Primaries handed over, by reason.",
        lambda: {reason: float(n) for reason, n in ingestor.listeners.rotations.items()}, ("reason",),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_deaf_total", "Connections given up because they missed fills.",
        lambda: {listener: float(n) for listener, n in ingestor.listeners.deaf_total.items()}, ("listener",),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_frames_total", "Frames with data, by listener and channel.",
        lambda: {key: float(n) for key, n in intake.channels.items()}, ("listener", "channel"),
    )  # fmt: skip


def _watch_events(
    service: Service[InfluencerSettings], ground: Ground, ingestor: Ingestor, writer: Writer, intake: Intake
) -> None:
    registry, fan_in, outbox = service.registry, ingestor.fan_in, ground.outbox
    watch_counter(
        registry, "trading_bus_influencer_fills_total", "Fills, each once.",
        lambda: {key: float(n) for key, n in intake.received.items()}, ("influencer", "market"),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_arrivals_total", "What became of arriving fills: new, copy, polled, full.",
        lambda: {offer.value: float(fan_in.counts[offer]) for offer in Offer}, ("offer",),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_signals_total", "Signals written.",
        lambda: {key: float(n) for key, n in writer.signals.items()}, ("action", "source"),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_silent_total", "Fills without a signal, by reason.",
        lambda: {reason: float(n) for reason, n in writer.silent.items()}, ("reason",),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_poison_total", "Events that could not be read or written: dead letters.",
        lambda: float(intake.poison_total + writer.poison_total),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_unknown_labels_total", "Fills whose dir is not a known label.",
        lambda: float(writer.unknown_dir_total),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_raw_dropped_total", "Raw states and orders given up: no room to wait.",
        lambda: float(writer.kept_dropped_total),
    )  # fmt: skip
    watch_gauge(registry, "trading_bus_influencer_queue", "Fills in the queue.", lambda: float(len(fan_in)))
    watch_gauge(
        registry, "trading_bus_influencer_gaps", "Gaps that are being filled.",
        lambda: float(sum(len(c.gaps) for w in ingestor.watched.values() for c in w.chains.values())),
    )  # fmt: skip
    watch_outbox(registry, outbox, ground.publisher)


def _watch_info(service: Service[InfluencerSettings], ground: Ground, ingestor: Ingestor, info: Info) -> None:
    registry, watched = service.registry, ingestor.watched
    budget = info.rest.budget
    watch_gauge(
        registry, "trading_bus_influencer_accounts", "Accounts watched, by how.",
        lambda: {
            "heard": float(sum(not w.polled for w in watched.values())),
            "polled": float(sum(w.polled for w in watched.values())),
            "shed": float(len(ingestor.fan_in.shed)),
        },
        ("how",),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_influencer_uncovered", "Heard accounts whose fills since the cursor are not fetched.",
        lambda: float(sum(not w.polled and not w.covered for w in watched.values())),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_rest_weight_used", "REST weight spent in the last minute.",
        lambda: float(budget.used(ground.clock.monotonic_s())),
    )  # fmt: skip
    watch_gauge(registry, "trading_bus_rest_weight_limit", "REST weight we may spend a minute.", lambda: budget.limit)
    watch_counter(
        registry, "trading_bus_influencer_info_calls_total", "Calls to the info endpoint.",
        lambda: float(info.calls_total),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_info_failures_total", "Calls without a usable answer.",
        lambda: float(info.failures_total),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_info_found_total", "Fills that only the info endpoint brought.",
        lambda: float(ingestor.filler.found_total),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_influencer_differences_total", "Positions that the venue stated otherwise.",
        lambda: float(ingestor.baselines.differences_total),
    )  # fmt: skip
