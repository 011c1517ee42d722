"""Prometheus metrics of one service: names by its conventions, values read at scrape time where possible."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from common.health import Health

log = logging.getLogger(__name__)

Reading = float | None | Mapping[str, float] | Mapping[tuple[str, ...], float]
"""What a callback answers: one number (None = unknown, no sample), or numbers by label value(s)."""

_NAME = re.compile(r"trading_bus_[a-z0-9]+(_[a-z0-9]+)*")
_WRONG_UNIT = re.compile(r"_(ms|us|ns|milliseconds|minutes|hours|kb|mb|kilobytes|megabytes|percent|pct)(_total)?$")


def new_registry() -> CollectorRegistry:
    """Make a registry of our own with the process metrics (memory, CPU, open files) in it."""
    disable_created_metrics()  # a second series per counter that only says when the process began
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    return registry


def make_counter(registry: CollectorRegistry, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
    """Make a counter that code increments; the name ends in _total."""
    return Counter(_checked(name, total=True), text, labels, registry=registry)


def make_histogram(registry: CollectorRegistry, name: str, text: str, buckets: Sequence[float]) -> Histogram:
    """Make a histogram; buckets in the base unit the name ends in."""
    return Histogram(_checked(name, total=False), text, buckets=buckets, registry=registry)


def watch_gauge(
    registry: CollectorRegistry, name: str, text: str, read: Callable[[], Reading], labels: Sequence[str] = ()
) -> None:
    """Show what `read()` answers at each scrape as a gauge; with several labels the keys are tuples."""
    registry.register(_Watched(GaugeMetricFamily, _checked(name, total=False), text, read, labels))


def watch_counter(
    registry: CollectorRegistry, name: str, text: str, read: Callable[[], Reading], labels: Sequence[str] = ()
) -> None:
    """Show a count that an object keeps by itself as a counter; the name ends in _total."""
    registry.register(_Watched(CounterMetricFamily, _checked(name, total=True), text, read, labels))


def watch_health(registry: CollectorRegistry, health: Health) -> None:
    """Show every health check, the age it judges, and readiness."""

    def ages() -> dict[str, float]:
        return {c.name: c.age_s for c in health.report().checks if c.age_s is not None}

    def healthy() -> dict[str, float]:
        return {c.name: float(c.healthy) for c in health.report().checks}

    watch_gauge(registry, "trading_bus_check_healthy", "1 while a health check holds.", healthy, ("check",))
    watch_gauge(registry, "trading_bus_check_age_seconds", "Age of the data that a check judges.", ages, ("check",))
    watch_gauge(registry, "trading_bus_healthy", "What /healthz answers.", lambda: float(health.report().healthy))
    watch_gauge(registry, "trading_bus_ready", "What /readyz answers.", lambda: float(health.report().ready))


def _checked(name: str, *, total: bool) -> str:
    if not _NAME.fullmatch(name) or name.endswith("_total") != total or _WRONG_UNIT.search(name):
        raise ValueError(f"{name!r} is not trading_bus_<what>_<base unit>, with _total for counters only")
    return name


class _Watched(Collector):
    """One metric family whose samples come from a callback."""

    def __init__(
        self,
        family: type[GaugeMetricFamily | CounterMetricFamily],
        name: str,
        text: str,
        read: Callable[[], Reading],
        labels: Sequence[str],
    ) -> None:
        self._family, self._name, self._text, self._read, self._labels = family, name, text, read, tuple(labels)
        self._failing = False

    def describe(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        yield self._family(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        family = self._family(self._name, self._text, labels=self._labels)
        try:
            for labels, value in _samples(self._read()):
                family.add_metric(labels, value)
            self._failing = False
        except Exception:
            # One broken callback must not take the whole page away; told once, not at every scrape.
            if not self._failing:
                log.exception("metric can not be read", extra={"metric": self._name})
            self._failing = True
        yield family


def _samples(reading: Reading) -> Iterator[tuple[tuple[str, ...], float]]:
    if reading is None:
        return
    if isinstance(reading, Mapping):
        for key, value in reading.items():
            yield (key,) if isinstance(key, str) else key, float(value)
    else:
        yield (), float(reading)
