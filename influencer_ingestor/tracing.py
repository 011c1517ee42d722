"""Correlation ids of signals, and OpenTelemetry spans from a frame's receipt to the broker's confirm.

Spans are off by default; on, they need the packages opentelemetry-sdk and
opentelemetry-exporter-otlp-proto-http, which are imported then and not before.
"""

from __future__ import annotations

import importlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from common.contracts import OutgoingMessage, SignalRow
from common.errors import ConfigError
from influencer_ingestor.statements import RawRow

SLOW_S = 0.25
WAITING_MAX = 50_000
"""Signals between commit and confirm whose times are remembered."""


class Stage(msgspec.Struct, frozen=True):
    """When a signal's frame came, and what it was of."""

    received_ms: int
    address: str
    event_id: str
    market: str
    listener: int | None


Export = Callable[[str, Stage, int], None]
"""Send one span: correlation id, where it began, confirmed at (epoch ms)."""


def correlation_id(address: str, source_event_id: str) -> str:
    """Name an event through all systems: 32 hexadecimal digits, a W3C trace id; a replay gives the same."""
    return blake2b(f"{address}|{source_event_id}".encode(), digest_size=16).hexdigest()


def message_headers(signal: SignalRow, address: str, sampled: bool) -> str:
    """Headers of a signal's message as JSON: `correlation_id`, and `traceparent` while traces are on."""
    ident = correlation_id(address, signal.source_event_id)
    headers = {"correlation_id": ident}
    if sampled:
        headers["traceparent"] = f"00-{ident}-{signal.signal_id[:16]}-01"
    return json.dumps(headers, separators=(",", ":"))


class Tracer:
    """Follows signals from their frame to the confirm; `observe` is called with the seconds that took."""

    def __init__(self, now_ms: Callable[[], int], export: Export | None) -> None:
        self._now_ms, self._export = now_ms, export
        self.observe: Callable[[float], object] = lambda seconds: None
        self.slow_total = 0
        """Signals that took longer than SLOW_S."""
        self._waiting: OrderedDict[str, Stage] = OrderedDict()

    @property
    def enabled(self) -> bool:
        """Are spans sent?"""
        return self._export is not None

    def note(self, signal: SignalRow, raw: RawRow) -> None:
        """A signal goes into the outbox."""
        event = raw.event
        self._waiting[signal.signal_id] = Stage(
            raw.received_ms, event.address, event.event_id, signal.market, raw.listener
        )
        while len(self._waiting) > WAITING_MAX:
            self._waiting.popitem(last=False)

    def confirmed(self, messages: Sequence[OutgoingMessage]) -> None:
        """The broker has them."""
        now_ms = self._now_ms()
        for message in messages:
            stage = self._waiting.pop(message.message_id.partition("~")[0], None)
            if stage is None:
                continue
            took_s = max(0, now_ms - stage.received_ms) / 1000
            self.observe(took_s)
            self.slow_total += took_s > SLOW_S
            if self._export is not None:
                self._export(message.message_id, stage, now_ms)


def open_export(url: str) -> Export | None:
    """Where spans go; None when `url` is empty. Raises ConfigError when the packages are not installed."""
    if not url:
        return None
    try:
        api: Any = importlib.import_module("opentelemetry.trace")
        sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
        batch: Any = importlib.import_module("opentelemetry.sdk.trace.export")
        resources: Any = importlib.import_module("opentelemetry.sdk.resources")
        otlp: Any = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as error:
        raise ConfigError(
            f"TRACES_URL: {error.name} is not installed: pip install opentelemetry-sdk "
            "opentelemetry-exporter-otlp-proto-http, or leave it empty"
        ) from error
    provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": "influencer_ingestor"}))
    provider.add_span_processor(batch.BatchSpanProcessor(otlp.OTLPSpanExporter(endpoint=url)))
    tracer = provider.get_tracer("influencer_ingestor")

    def export(message_id: str, stage: Stage, confirmed_ms: int) -> None:
        trace_id = int(correlation_id(stage.address, stage.event_id), 16)
        # The span that the message's traceparent names is the parent: consumers hang theirs under the same.
        parent = api.SpanContext(trace_id, int(message_id[:16], 16), True, api.TraceFlags(1))
        span = tracer.start_span(
            "signal",
            context=api.set_span_in_context(api.NonRecordingSpan(parent)),
            start_time=stage.received_ms * 1_000_000,
            attributes={
                "market": stage.market,
                "source_event_id": stage.event_id,
                "listener": -1 if stage.listener is None else stage.listener,
            },
        )
        span.end(end_time=confirmed_ms * 1_000_000)

    return export
