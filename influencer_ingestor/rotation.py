"""Whose turn it is to be asked of the info endpoint: polled accounts in rotation, the important ones more often. Pure.

The pace is the weight budget's (`common.weights.WeightBudget`); this only chooses. Nobody starves: an account's claim
grows with the time since its last turn, and before anybody would wait too long the longest waiting go first.
"""

from __future__ import annotations

import math

import msgspec

from influencer_ingestor.hyperliquid import fills_weight


class Turn(msgspec.Struct, frozen=True):
    """Ask for `user` now; about `weight` of the budget."""

    user: str
    weight: int


class PollRotation:
    """The polled accounts. An account that was never asked goes first.

    Nobody waits longer than `every_max_ms` while turns take `turn_ms` each and all of them fit in there.
    """

    def __init__(self, every_min_ms: int = 1_000, every_max_ms: int | None = None, turn_ms: float = 0.0) -> None:
        self._every_min_ms, self._every_max_ms, self._turn_ms = every_min_ms, every_max_ms, turn_ms
        self._shares: dict[str, int] = {}
        self._last_ms: dict[str, int] = {}
        self._items: dict[str, int] = {}

    def rank(self, priorities: dict[str, int]) -> None:
        """Take the polled accounts with their priorities; of n different priorities the highest counts n times."""
        steps = sorted(set(priorities.values()))
        self._shares = {user: steps.index(priority) + 1 for user, priority in priorities.items()}
        for gone in self._last_ms.keys() - priorities.keys():
            self._last_ms.pop(gone)
            self._items.pop(gone, None)

    def next_turn(self, now_ms: int) -> Turn | None:
        """Choose who is asked next; None while nobody is due (`wait_ms`)."""
        due = [user for user in self._shares if self._age_ms(user, now_ms) >= self._every_min_ms]
        if not due:
            return None
        user = max(due, key=lambda each: (self._age_ms(each, now_ms) * self._shares[each], self._shares[each], each))
        if self._delays(user, now_ms):
            user = max(due, key=lambda each: (self._age_ms(each, now_ms), self._shares[each], each))
        return Turn(user, fills_weight(self._items.get(user, 0)))

    def asked(self, user: str, now_ms: int, items: int) -> None:
        """Book a turn and how many fills it brought, failed ones (0) too: the others must not wait for it."""
        self._last_ms[user] = now_ms
        self._items[user] = items

    def wait_ms(self, now_ms: int) -> int | None:
        """Milliseconds until somebody is due; None when nobody is polled."""
        if not self._shares:
            return None
        oldest = max(self._age_ms(user, now_ms) for user in self._shares)
        return max(0, math.ceil(self._every_min_ms - oldest)) if oldest != math.inf else 0

    def age_ms(self, user: str, now_ms: int) -> int | None:
        """Time since an account's last turn; None before its first."""
        return now_ms - self._last_ms[user] if user in self._last_ms else None

    def _delays(self, user: str, now_ms: int) -> bool:
        """Say whether a turn of this account now lets another wait too long, though the others had theirs at once."""
        if self._every_max_ms is None:
            return False
        ages = sorted((self._age_ms(each, now_ms) for each in self._shares if each != user), reverse=True)
        return any(age + turns * self._turn_ms > self._every_max_ms for turns, age in enumerate(ages, 2))

    def _age_ms(self, user: str, now_ms: int) -> float:
        return now_ms - self._last_ms[user] if user in self._last_ms else math.inf
