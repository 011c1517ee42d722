"""What the macro ingestor tells about itself: health from the age of what it knows, and metrics."""

from __future__ import annotations

from collections.abc import Mapping

from common.ground import Ground, watch_outbox
from common.health import Check, check_age
from common.metrics import watch_counter, watch_gauge
from common.service import Service
from macro_ingestor.desk import Desk
from macro_ingestor.door import Door
from macro_ingestor.passes import Passes
from macro_ingestor.pulling import Puller
from macro_ingestor.readings import SLOT_S
from macro_ingestor.settings import MacroSettings

PASS_MAX_S = 2 * SLOT_S
WRITING_MAX_S = 30.0
OUTBOX_MAX_S = 30.0


def watch_macro(
    service: Service[MacroSettings], ground: Ground, desk: Desk, puller: Puller, passes: Passes,
    doors: Mapping[str, Door],
) -> None:  # fmt: skip
    """Register probes and metrics."""
    _watch_health(service, ground, desk, puller, passes)
    _watch_columns(service, ground, desk, puller)
    _watch_providers(service, ground, desk, puller, doors)
    _watch_path(service, ground, passes)


def _watch_health(
    service: Service[MacroSettings], ground: Ground, desk: Desk, puller: Puller, passes: Passes
) -> None:  # fmt: skip
    clock, outbox = ground.clock, ground.outbox

    def pulls() -> Check:
        age_s = None if passes.ended_s is None else clock.monotonic_s() - passes.ended_s
        return check_age("pulls", age_s, PASS_MAX_S)

    def columns() -> Check:
        """Every column that somebody could tell has a value that is not too old."""
        now_s = clock.wall_ms() // 1000
        detail: dict[str, object] = {}
        unknown: list[str] = []
        for column, chain in desk.chains.items():
            reading = desk.pick(column, now_s, puller.spent) if chain else None
            if reading is not None:
                detail[column] = f"{reading.source}, {now_s - reading.as_of} s old"
            elif chain:
                unknown.append(column)
        return Check("columns", not unknown and any(desk.chains.values()), {"unknown": unknown, **detail})

    def writing() -> Check:
        age_s = 0.0 if passes.waiting_s is None else clock.monotonic_s() - passes.waiting_s
        return check_age("writing", age_s, WRITING_MAX_S)

    def publishing() -> Check:
        return check_age("publishing", outbox.oldest_age_s(), OUTBOX_MAX_S, depth=outbox.depth())

    service.health.add_probe("pulls", pulls)
    service.health.add_probe("columns", columns)
    service.health.add_probe("writing", writing)
    service.health.add_probe("publishing", publishing)


def _watch_columns(service: Service[MacroSettings], ground: Ground, desk: Desk, puller: Puller) -> None:
    registry, clock = service.registry, ground.clock

    def told() -> list[str]:
        return [column for column, chain in desk.chains.items() if chain]

    def now_s() -> int:
        return clock.wall_ms() // 1000

    def ages() -> dict[str, float]:
        picked = ((c, desk.pick(c, now_s(), puller.spent)) for c in told())
        return {column: float(now_s() - reading.as_of) for column, reading in picked if reading is not None}

    def known() -> dict[str, float]:
        return {c: float(desk.pick(c, now_s(), puller.spent) is not None) for c in told()}

    def cadences() -> dict[str, float]:
        return {c: float(desk.offers[c, desk.chains[c][0]].cadence_s) for c in told()}

    watch_gauge(
        registry, "trading_bus_macro_column_age_seconds", "Age of a column's value, by its vendor's time.",
        ages, ("column",),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_macro_column_overdue_seconds", "Since when a column's next value has been due.",
        lambda: {c: desk.overdue_s(c, now_s()) for c in told()}, ("column",),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_macro_column_cadence_seconds", "How often a column gets a new value.",
        cadences, ("column",),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_macro_column_known", "1 while a column has a value that is not too old.",
        known, ("column",),
    )  # fmt: skip


def _watch_providers(
    service: Service[MacroSettings], ground: Ground, desk: Desk, puller: Puller, doors: Mapping[str, Door]
) -> None:
    registry, clock = service.registry, ground.clock

    def circuits() -> dict[str, float]:
        now_s = clock.wall_ms() // 1000
        return {name: float(desk.circuit(name).is_open(now_s)) for name in doors}

    def failing() -> dict[str, float]:
        now_s = clock.wall_ms() // 1000
        return {name: float(desk.circuit(name).is_failing(now_s)) for name in doors}

    watch_gauge(
        registry, "trading_bus_macro_circuit_open", "1 while a provider is left alone.", circuits, ("provider",)
    )
    watch_gauge(
        registry, "trading_bus_macro_provider_failing", "1 from a provider's failure to its next answer.",
        failing, ("provider",),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_macro_quota_spent", "1 while a provider has no call left.",
        lambda: {name: float(name in puller.spent) for name in doors}, ("provider",),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_macro_calls_total", "Calls made.",
        lambda: {name: float(door.calls_total) for name, door in doors.items()}, ("provider",),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_macro_unreadable_total", "Answers that could not be read, kept as dead letters.",
        lambda: float(puller.unreadable_total),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_macro_provisional_total", "Values left out because their span had not ended.",
        lambda: float(desk.provisional_total),
    )  # fmt: skip


def _watch_path(service: Service[MacroSettings], ground: Ground, passes: Passes) -> None:
    registry, outbox, publisher = service.registry, ground.outbox, ground.publisher
    watch_counter(
        registry, "trading_bus_macro_rows_total", "Rows written or revised.",
        lambda: {"15m": float(passes.slots_total), "1d": float(passes.days_total)}, ("table",),
    )  # fmt: skip
    watch_outbox(registry, outbox, publisher)
