"""Which fills were seen already: the filter in front of the tables, whose unique key decides. Pure.

A fill is one per (account, time, coin, tid). The old form without a `tid` (2023), and system fills with `tid` 0, are
told apart by order, side, price, size, start and transaction as well (`Fill.event_id`).

The filter forgets the oldest keys of an account; what it has forgotten is asked of the table once more, where
`influencer_raw_events` answers that nothing was inserted. It never calls a fill seen that was not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from influencer_ingestor.events import Arrived, Fill

KEYS_MAX = 4_000
"""Of one account; a snapshot of both listeners, 2,000 fills each, and what streams meanwhile."""


class FirstSeen(msgspec.Struct, frozen=True, gc=False):
    """How a fill reached us first: the listener (None: the info endpoint, or the tables) and when, venue clock."""

    listener: int | None
    received_ms: int


class Dedup:
    """The newest keys of every account, in the order in which they were first seen."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._seen: dict[str, dict[str, FirstSeen]] = {}

    def see(self, arrived: Arrived) -> FirstSeen | None:
        """Book an arrival; answers how the same fill came first, None when this is the first we know of."""
        seen = self._seen.setdefault(arrived.fill.user, {})
        event_id = arrived.fill.event_id
        if (first := seen.get(event_id)) is not None:
            return first
        seen[event_id] = FirstSeen(arrived.listener, arrived.received_ms)
        if len(seen) > self._keys_max:
            del seen[next(iter(seen))]
        return None

    def load(self, user: str, event_ids: Iterable[str]) -> None:
        """Take over an account's stored keys, oldest first."""
        seen = self._seen.setdefault(user, {})
        for event_id in event_ids:
            seen.setdefault(event_id, FirstSeen(None, 0))
        for event_id in list(seen)[: max(0, len(seen) - self._keys_max)]:
            del seen[event_id]

    def forget(self, fills: Iterable[Fill]) -> None:
        """Fills that were not written after all will come again, and must be taken then."""
        for fill in fills:
            self._seen.get(fill.user, {}).pop(fill.event_id, None)

    def drop(self, user: str) -> None:
        """Forget all of an account: what was stored of it is loaded again."""
        self._seen.pop(user, None)

    def keep(self, users: Collection[str]) -> None:
        """Only these are watched now."""
        for user in [user for user in self._seen if user not in users]:
            del self._seen[user]
