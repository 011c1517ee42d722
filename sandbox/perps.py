"""A venue's perpetuals by time: funding, open interest, mark price, each a pure function of (key, pair, second)."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from sandbox.draws import draw_between, draw_unit, sway
from sandbox.facts import Facts
from sandbox.listing import Listing

HOUR_MS = 3_600_000
LATE_MS_MAX = 9
"""A settlement may bear a time up to so many milliseconds past its hour."""
SPECIAL_EVERY_MS, SPECIAL_AT_MS = 7 * 24 * HOUR_MS, 4 * 24 * HOUR_MS + 13 * HOUR_MS + HOUR_MS // 2
_RATE, _PRICE = Decimal(10**8), Decimal("1e-8")


class Settlement(NamedTuple):
    """A funding that was paid; `rate_type` is Special for an adjustment beside the regular ones."""

    time_ms: int
    rate: Decimal
    mark: Decimal
    rate_type: str = "Regular"


class Perps:
    """One venue's perpetuals; `key` sets its numbers apart from another venue's. Seconds are epoch seconds.

    A `plain` venue settles on the hour, shows every settlement, and has no contract of a thousand coins.
    """

    def __init__(self, key: str, listing: Listing, plain: bool = False) -> None:
        self._key = key
        self._plain = plain
        self._listing = listing

    def rate(self, facts: Facts, at_s: int) -> Decimal:
        """The running forecast for the next settlement, eight decimals."""
        slow = sway(at_s, 43_200, self._key, facts.symbol, "funding")
        noise = draw_unit(self._key, facts.symbol, "funding", at_s)
        return Decimal(10_000 + round(20_000 * slow) + round(200 * noise)) / _RATE

    def next_settlement_ms(self, facts: Facts, at_ms: int) -> int:
        """The next settlement's hour."""
        step = facts.funding_hours * HOUR_MS
        return (at_ms // step + 1) * step

    def open_interest(self, facts: Facts, at_s: int) -> Decimal:
        """Open interest in what the contract counts in (a plain venue: base coins), three decimals."""
        middle = facts.open_interest * (facts.multiplier if self._plain else 1)
        swing = 0.05 * sway(at_s, 7200, self._key, facts.symbol, "open interest")
        noise = draw_between(-0.001, 0.001, self._key, facts.symbol, "open interest", at_s)
        return Decimal(round(middle * 1000 * (1 + Decimal(f"{swing + noise:.6f}")))).scaleb(-3)

    def index(self, facts: Facts, at_s: int) -> Decimal:
        """The spot price of what one unit of the contract holds."""
        return self._listing.price(facts, at_s * 1000) * (1 if self._plain else facts.multiplier)

    def mark(self, facts: Facts, at_s: int) -> Decimal:
        """The mark price, a little off the index."""
        premium = 0.0004 * sway(at_s, 1800, self._key, facts.symbol, "premium")
        return (self.index(facts, at_s) * (1 + Decimal(f"{premium:.7f}"))).quantize(_PRICE)

    def settlements(self, facts: Facts, from_ms: int, to_ms: int) -> list[Settlement]:
        """What was paid in `[from_ms, to_ms)`, by time; those that the venue lost are not there."""
        found = [
            self._settle(facts, hour_ms)
            for hour_ms in self.settlement_hours(facts, from_ms - LATE_MS_MAX, to_ms)
            if self._plain or hour_ms not in facts.funding_missing
        ]
        if facts.special_funding and not self._plain:
            found += self._specials(facts, from_ms, to_ms)
        return sorted(one for one in found if from_ms <= one.time_ms < to_ms)

    def settlement_hours(self, facts: Facts, from_ms: int, to_ms: int) -> Iterator[int]:
        """Scheduled hours in `[from_ms, to_ms)` since the contract was listed."""
        step = facts.funding_hours * HOUR_MS
        from_ms = max(from_ms, facts.perp_listed_ms + 1)
        return iter(range(-(-from_ms // step) * step, to_ms, step))

    def _settle(self, facts: Facts, hour_ms: int) -> Settlement:
        late = 0.0 if self._plain else draw_unit(self._key, facts.symbol, "late", hour_ms)
        late_ms = int(late * (LATE_MS_MAX + 1))
        second = hour_ms // 1000
        return Settlement(hour_ms + late_ms, self.rate(facts, second - 1), self.mark(facts, second))

    def _specials(self, facts: Facts, from_ms: int, to_ms: int) -> Iterator[Settlement]:
        first = -(-(from_ms - SPECIAL_AT_MS) // SPECIAL_EVERY_MS) * SPECIAL_EVERY_MS + SPECIAL_AT_MS
        for time_ms in range(max(first, 0), to_ms, SPECIAL_EVERY_MS):
            yield Settlement(time_ms, Decimal("-0.00250000"), self.mark(facts, time_ms // 1000), "Special")
