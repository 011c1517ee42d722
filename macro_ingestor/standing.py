"""Which reading stands, who is asked next, and which value a column has now. Pure; times in epoch seconds.

A reading stands until its vendor's next one is due; then the vendor is asked again. When it fails, the next provider
of the chain is asked. A value whose vendor is late or away holds until its `max_age_s`, then the column is unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum

import msgspec

from macro_ingestor.chains import Offer
from macro_ingestor.readings import Reading

REFUSED_WAIT_S = 6 * 3600
"""A vendor that understood and said no (wrong key, plan, metric) is not asked again for so long."""
AHEAD_MAX_S = 60
"""A reading from further in the future can not be right, or is about a span that has not ended: provisional."""


class Outcome(StrEnum):
    """How the last ask of a provider for a column ended."""

    ANSWERED = "answered"
    FAILING = "failing"
    REFUSED = "refused"


class Ask(msgspec.Struct, frozen=True):
    """The last ask of a provider for a column."""

    asked_at: int
    outcome: Outcome
    error: str = ""


class Standing(msgspec.Struct, frozen=True):
    """One provider of a column's chain, as it stands.

    `blocked`: its circuit is open or its quota is spent, so that it can not be asked now.
    """

    provider: str
    offer: Offer
    newest: Reading | None
    ask: Ask | None
    blocked: bool

    def stands(self, now_s: int) -> bool:
        """Is the vendor's next value not due yet?"""
        return self.newest is not None and now_s < self.offer.next_due_s(self.newest.as_of)

    def is_valid(self, now_s: int) -> bool:
        """Is there a value that is not too old?"""
        return self.newest is not None and now_s - self.newest.as_of <= self.offer.max_age_s

    def is_askable(self, now_s: int) -> bool:
        """May the vendor be asked now, its next value being due?"""
        if self.blocked:
            return False
        if self.ask is None or self.ask.outcome is Outcome.FAILING:
            return True  # how long to leave a failing vendor alone is its circuit's matter
        wait_s = REFUSED_WAIT_S if self.ask.outcome is Outcome.REFUSED else self.offer.recheck_s
        # An ask of the future was written while our clock was wrong: nobody waits for it.
        return not 0 <= now_s - self.ask.asked_at < wait_s

    def is_well(self, now_s: int) -> bool:
        """Is what it told the best it can tell: not due, or asked a while ago at most, because it is late?"""
        if self.stands(now_s):
            return True
        if self.ask is None or self.ask.outcome is not Outcome.ANSWERED:
            return False
        return not self.blocked or now_s < self.ask.asked_at + max(1, self.offer.recheck_s)


def next_to_ask(chain: Sequence[Standing], tried: Collection[str], now_s: int) -> str | None:
    """The provider that has to be asked next for a column; None when there is nothing to ask.

    `tried`: providers that were asked for it in this pass.
    """
    for one in chain:
        if one.provider not in tried and not one.stands(now_s) and one.is_askable(now_s):
            return one.provider
        if one.is_valid(now_s) and one.is_well(now_s):
            return None
    return None


def pick_reading(chain: Sequence[Standing], now_s: int) -> Reading | None:
    """The value that a column has now, None when it is unknown.

    The first provider that is well decides; one before it that fails keeps the column only with a value that is not
    older. Among failing ones the newest value counts.
    """
    best: Reading | None = None
    for one in chain:
        if one.newest is None or not one.is_valid(now_s):
            continue
        if best is None or one.newest.as_of > best.as_of:
            best = one.newest
        if one.is_well(now_s):
            break
    return best


def is_settled(reading: Reading, offer: Offer, now_s: int) -> bool:
    """Has the span that a reading is about ended? The last point of a running day is provisional."""
    return reading.as_of + offer.span_s <= now_s + (0 if offer.span_s else AHEAD_MAX_S)


def overdue_s(chain: Sequence[Standing], reading: Reading | None, now_s: int) -> float:
    """For how long a column's next value has been due at the provider whose value it has.

    When its value is too old to count, the newest one that was ever told goes on being overdue; 0 where none was.
    """
    told = [(one.newest, one.offer) for one in chain if one.newest is not None]
    if reading is not None:
        told = [(newest, offer) for newest, offer in told if newest is reading]
    if not told:
        return 0.0
    newest, offer = max(told, key=lambda pair: pair[0].as_of)
    return float(max(0, now_s - offer.next_due_s(newest.as_of)))
