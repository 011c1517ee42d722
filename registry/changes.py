"""What changed in a row, the event that tells it, and the breakdown kept in the history. Pure."""

from __future__ import annotations

import msgspec

from common.contracts import SymbolEvent
from registry.facts import RegistryRow, Verdict

EVENT_COLUMNS = ("status", "data_health", "liquidity_cluster", "pair", "okx_inst_id", "tick_size")
"""An event fires when one of these changed, and not on every jitter of volume."""

_encoder = msgspec.json.Encoder(decimal_format="number")
_decoder = msgspec.json.Decoder(Verdict)


def changed_columns(was: RegistryRow | None, row: RegistryRow) -> tuple[str, ...]:
    """Name the columns of an event that differ; all of them for a newcomer."""
    if was is None:
        return EVENT_COLUMNS
    return tuple(name for name in EVENT_COLUMNS if getattr(was, name) != getattr(row, name))


def symbol_event(verdict: Verdict) -> SymbolEvent:
    """Write the event of a verdict."""
    row = verdict.row
    return SymbolEvent(row.symbol, str(row.status), row.liquidity_cluster, row.data_health, row.pair, row.reason)


def encode_breakdown(verdict: Verdict) -> str:
    """Write a verdict as JSON; decimals are JSON numbers, digit by digit."""
    return _encoder.encode(verdict).decode()


def decode_breakdown(text: str | bytes) -> Verdict:
    """Read a verdict back; raises msgspec.DecodeError or ValidationError."""
    return _decoder.decode(text)
