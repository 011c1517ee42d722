"""The numbers that `status` takes out of a `/metrics` page. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from common.errors import BadInput
from ops.status_facts import Meters

_NAMES = {
    "trading_bus_outbox_messages": "outbox_messages",
    "trading_bus_outbox_age_seconds": "outbox_age_s",
    "trading_bus_rest_weight_used": "weight_used",
    "trading_bus_rest_weight_limit": "weight_limit",
    "trading_bus_feed_reconnects_total": "reconnects",
    "process_resident_memory_bytes": "memory_bytes",
}


def parse_meters(page: str) -> Meters:
    """Sum each number over its labels; raises BadInput when the page is no Prometheus text."""
    sums: dict[str, float] = {}
    try:
        families: Iterable[Any] = text_string_to_metric_families(page)
        for sample in (sample for family in families for sample in family.samples):
            field = _NAMES.get(sample.name)
            if field is not None:
                sums[field] = sums.get(field, 0.0) + float(sample.value)
    except (ValueError, KeyError, IndexError) as error:
        raise BadInput(f"not a page of metrics: {error}") from error
    return Meters(**sums)
