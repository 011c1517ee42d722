"""What the symbol registry says of a pair, and which pairs an instance follows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.shards import Shard

WANTED_STATUSES = frozenset({"ACTIVE", "ACTIVE_OVERRIDE", "PROBATION"})
"""PROBATION is a time of grace: the symbol is followed, and its status stands in every message's header."""


@dataclass(frozen=True)
class Listing:
    """What the registry says of a pair: its status, and its name at the fallback venue."""

    status: str = ""
    okx_inst_id: str | None = None


def choose_symbols(registry: Mapping[str, Listing], shard: Shard) -> dict[str, Listing]:
    """Pairs of the registry that this instance follows."""
    return {pair: one for pair, one in registry.items() if one.status in WANTED_STATUSES and shard.owns(pair)}


def status_header(listing: Listing | None) -> str:
    """Message headers of a symbol: the status the registry gives it."""
    return f'{{"symbol_status":"{listing.status}"}}' if listing and listing.status else ""
