"""Which perpetual belongs to a pair, and how often it pays funding. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from common.venues.binance_futures import DEFAULT_FUNDING_HOURS

MULTIPLES = (1, 1_000, 1_000_000)
"""Cheap coins are listed by the thousand or the million: PEPEUSDT trades as 1000PEPEUSDT."""
HOUR_MS = 3_600_000


class Perp(msgspec.Struct, frozen=True):
    """A pair's perpetual: its symbol at the venue, and how many coins one unit of it holds."""

    symbol: str
    multiple: int


def find_perp(pair: str, listed: Collection[str]) -> Perp | None:
    """The perpetual of a pair among those the venue lists; None when it has none."""
    for multiple in MULTIPLES:
        symbol = pair if multiple == 1 else f"{multiple}{pair}"
        if symbol in listed:
            return Perp(symbol, multiple)
    return None


def interval_hours(perp: str, adjusted: Mapping[str, int] | None, time_ms: int, next_ms: int) -> int | None:
    """Hours between settlements of a perpetual; None while the venue has not told, or tells what can not be.

    `adjusted` is fundingInfo, which names only the unusual ones, None when it is not known. Settlements come at the
    multiples of the interval since midnight UTC: a next one farther away than the interval, or at another time, says
    that the interval was changed since.
    """
    if adjusted is None:
        return None
    hours = adjusted.get(perp, DEFAULT_FUNDING_HOURS)
    step_ms = hours * HOUR_MS
    return hours if next_ms - time_ms <= step_ms and next_ms % step_ms == 0 else None
