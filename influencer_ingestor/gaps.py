"""A gap: fills of one (account, coin) that are missing between two times, as the ledger tells it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.contracts import GapRow, GapStatus
from common.numbers import format_scaled
from influencer_ingestor.events import EXCHANGE, SCALE, SERVICE, Fill
from influencer_ingestor.fills_order import comes_by, follow, order_fills
from influencer_ingestor.positions import market_of

TRY_AFTER_S = (1.0, 3.0, 9.0)
"""When to ask the info endpoint again: it may be behind the stream. Then the gap is given up: never spin."""
TRIES_MAX = len(TRY_AFTER_S)


@dataclass
class Gap:
    """Missing fills of one (account, coin) between two times of the venue, both inclusive.

    They lead from the position `expected` to the position `found`. `id` is its key in the ledger: `from_ms`, or the
    next free number where two gaps begin in one millisecond.
    """

    user: str
    coin: str
    id: int
    from_ms: int
    to_ms: int
    expected: int
    found: int
    reason: str
    status: GapStatus = GapStatus.OPEN
    tries: int = 0
    recorded: bool = False
    """In the ledger: what the other listener repairs during the hold is a reordering, no gap."""
    fills: list[Fill] = field(default_factory=list[Fill])

    def spans(self, fill: Fill) -> bool:
        """Say whether a fill may be one of the missing."""
        return self.from_ms <= fill.time_ms <= self.to_ms

    def joins(self, fill: Fill) -> bool:
        """Say whether a fill continues what is known of the gap, at either end."""
        begins = {self.expected, *(each.end for each in self.fills)}
        return fill.start in begins or fill.end in {self.found, *(each.start for each in self.fills)}

    def is_filled(self) -> bool:
        """Say whether the fills found lead all the way from `expected` to `found`."""
        return bool(self.fills) and follow(order_fills(self.fills, self.expected), self.expected) == self.found

    def is_bridged(self, stored: list[Fill]) -> bool:
        """Say whether the stored fills of its times leave nothing missing.

        They do if a walk from `expected` comes by `found`; what surrounds the gap may be among them, the fills of its
        first millisecond that lead to `expected` too. A gap within one millisecond was an order not understood then:
        nothing is missing if all fills of that time chain in any.
        """
        if self.from_ms == self.to_ms and stored:
            whole = order_fills(stored)
            return follow(whole, whole[0].start) is not None
        # A time that chains only in parts is walked from `expected` first, or from where its own fills begin.
        return any(self._leads(order_fills(stored, position)) for position in (self.expected, None))

    def _leads(self, ordered: list[Fill]) -> bool:
        for at, first in enumerate(ordered):
            if first.start == self.expected and comes_by(ordered[at:], self.expected, self.found):
                return True
            if first.time_ms > self.from_ms:
                return False
        return False


def gap_row(gap: Gap) -> GapRow:
    """The gap as a row of the ledger: ids there are the venue's times in epoch milliseconds.

    The symbol is "<address>:<MARKET>". `restored_n` counts the fills that came back.
    """
    missing = () if gap.status is GapStatus.REPAIRED else ((gap.from_ms, gap.to_ms),)
    return GapRow(
        service=SERVICE,
        venue=EXCHANGE,
        symbol=f"{gap.user}:{market_of(gap.coin)}",
        from_id=gap.id,
        to_id=max(gap.id, gap.to_ms),
        from_ms=gap.from_ms,
        to_ms=gap.to_ms,
        missing=missing,
        status=gap.status,
        reason=f"{gap.reason}: {format_scaled(gap.expected, SCALE)} expected, {format_scaled(gap.found, SCALE)} found",
        tries=gap.tries,
        restored_n=len(gap.fills),
    )
