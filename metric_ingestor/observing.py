"""What the metric ingestor tells about itself: health from the age of rows and answers, and metrics."""

from __future__ import annotations

from common.clock import Clock
from common.health import Check, check_age
from common.metrics import watch_counter, watch_gauge
from common.outbox import Outbox
from common.rest import WeightBudget
from common.service import Service
from metric_ingestor.ingestor import MetricIngestor
from metric_ingestor.sampler import Sampler
from metric_ingestor.settings import MetricSettings
from metric_ingestor.vendors import INTEREST, Vendors
from metric_ingestor.windows import WINDOW_S

ROWS_AGE_WINDOWS_MAX = 3
VENDOR_AGE_WINDOWS_MAX = 4
TRADES_BEHIND_S_MAX = 60.0
WRITING_MAX_S = 30.0
OUTBOX_MAX_S = 30.0
BEHIND_TOLD = 20


def watch_metrics(
    service: Service[MetricSettings], clock: Clock, ingestor: MetricIngestor, sampler: Sampler, vendors: Vendors,
    budgets: tuple[WeightBudget, WeightBudget], outbox: Outbox,
) -> None:  # fmt: skip
    """Register probes and metrics; `budgets` are the futures venue's: of all calls but funding's, and of those."""
    _watch_health(service, clock, ingestor, sampler, vendors, outbox)
    _watch_budgets(service, clock, *budgets)
    _watch_vendors(service, sampler, vendors)
    _watch_rows(service, ingestor)


def _watch_health(
    service: Service[MetricSettings], clock: Clock, ingestor: MetricIngestor, sampler: Sampler, vendors: Vendors,
    outbox: Outbox,
) -> None:  # fmt: skip
    # Windows pass as fast as venue time does.
    window_s = clock.real_s(WINDOW_S)
    recorder = ingestor.recorder

    def rows() -> Check:
        age_s = None if recorder.written_s is None else clock.monotonic_s() - recorder.written_s
        return check_age(
            "rows", age_s, max(ROWS_AGE_WINDOWS_MAX * window_s, 1.0), followed=len(ingestor.followed),
            waiting=recorder.waiting(),
        )  # fmt: skip

    def vendor(name: str) -> Check:
        answered_s = vendors.answered_s.get(name)
        age_s = None if answered_s is None else clock.monotonic_s() - answered_s
        return check_age(
            f"vendor {name}", age_s, max(VENDOR_AGE_WINDOWS_MAX * window_s, 1.0), failures=vendors.failures[name]
        )

    def asked() -> list[Check]:
        names = ["time", "premiumIndex", *([INTEREST] if sampler.asked_of[0] else [])]
        return [vendor(name) for name in names]

    def trades() -> Check:
        """The rows' signed volume needs the trades' service: how far each symbol is stored, against venue time."""
        if not vendors.time.known:
            return Check("trades", False, {"time": "not known"})
        now_s = vendors.now_ms() / 1000
        behind = {s: round(now_s - ingestor.cursors.get(s, 0), 1) for s in ingestor.followed}
        late = {s: lag for s, lag in behind.items() if lag > TRADES_BEHIND_S_MAX * clock.rate}
        told = {s: (lag if s in ingestor.cursors else None) for s, lag in sorted(late.items())[:BEHIND_TOLD]}
        return Check("trades", not late, {"behind": len(late), "behind_s": told})

    def writing() -> Check:
        return check_age("writing", recorder.failing_s(), WRITING_MAX_S, waiting=recorder.waiting())

    def publishing() -> Check:
        return check_age("publishing", outbox.oldest_age_s(), OUTBOX_MAX_S, depth=outbox.depth())

    for name, probe in (
        ("rows", rows), ("vendors", asked), ("trades", trades), ("writing", writing), ("publishing", publishing),
    ):  # fmt: skip
        service.health.add_probe(name, probe)


def _watch_budgets(service: Service[MetricSettings], clock: Clock, budget: WeightBudget, funding: WeightBudget) -> None:
    registry = service.registry
    watch_gauge(
        registry, "trading_bus_rest_weight_used", "REST weight spent in the last minute.",
        lambda: float(budget.used(clock.monotonic_s())),
    )  # fmt: skip
    watch_gauge(registry, "trading_bus_rest_weight_limit", "REST weight we may spend a minute.", lambda: budget.limit)
    watch_gauge(
        registry, "trading_bus_metric_funding_calls_used", "Calls for settled funding and intervals in five minutes.",
        lambda: float(funding.used(clock.monotonic_s())),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_metric_funding_calls_limit", "Of these calls we may make in five minutes.",
        lambda: funding.limit,
    )  # fmt: skip


def _watch_vendors(service: Service[MetricSettings], sampler: Sampler, vendors: Vendors) -> None:
    registry = service.registry
    watch_counter(
        registry, "trading_bus_metric_vendor_failures_total", "Calls to a vendor without a usable answer.",
        lambda: {name: float(n) for name, n in vendors.failures.items()}, ("endpoint",),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_metric_vendor_failing", "1 while an endpoint does not answer.",
        lambda: {name: float(name in vendors.failing) for name in {*vendors.answered_s, *vendors.failing}},
        ("endpoint",),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_metric_bad_rows_total", "Rows of vendors' answers that could not be read.",
        lambda: {name: float(n) for name, n in vendors.bad_rows.items()}, ("endpoint",),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_metric_samples_total", "Samples by what became of them; ahead: dropped for its time.",
        lambda: {(field.value, fate.value): float(n) for (field, fate), n in vendors.samples.counts.items()},
        ("field", "fate"),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_metric_time_doubted_total", "Server times that were not believed.",
        lambda: float(vendors.time.doubted_total),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_metric_interest_symbols", "Symbols asked for open interest in the last window.",
        lambda: float(sampler.asked_of[0]),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_metric_perps", "Symbols followed that have a perpetual.",
        lambda: float(sampler.asked_of[1]),
    )  # fmt: skip


def _watch_rows(service: Service[MetricSettings], ingestor: MetricIngestor) -> None:
    registry, recorder = service.registry, ingestor.recorder
    watch_gauge(registry, "trading_bus_symbols", "Symbols followed.", lambda: float(len(ingestor.followed)))
    watch_gauge(registry, "trading_bus_rows_waiting", "Rows not committed yet.", lambda: float(recorder.waiting()))
    watch_counter(
        registry, "trading_bus_metric_rows_total", "Rows written or revised.", lambda: float(recorder.rows_total)
    )
    watch_counter(
        registry, "trading_bus_metric_revisions_total", "Rows revised.", lambda: float(recorder.revised_total)
    )
    watch_counter(
        registry, "trading_bus_metric_late_rows_total", "Rows written before their trades were stored.",
        lambda: float(ingestor.late_total),
    )  # fmt: skip
    watch_counter(
        registry, "trading_bus_metric_rows_dropped_total", "Samples given up because the database was away too long.",
        lambda: float(recorder.dropped_total),
    )  # fmt: skip
    watch_gauge(
        registry, "trading_bus_metric_dirty_windows", "Windows to be computed again.",
        lambda: float(ingestor.dirty_windows()),
    )  # fmt: skip
