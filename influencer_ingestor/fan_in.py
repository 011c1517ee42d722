"""Where two listeners and the info endpoint become one: the bounded queue, and which listener leads. Pure.

Both listeners always feed, so the loss of either shows no hole. The primary is the one whose delivery is expected
first: who lags behind the other, misses what the other brought, or is gone, hands over.

When the queue is full the account of lowest priority leaves it, with everything of it that waits: it is followed by
the info endpoint from its cursor, which has not moved, so nothing is lost and nothing is silent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from influencer_ingestor.dedup import Dedup, FirstSeen
from influencer_ingestor.events import Arrived


class Offer(StrEnum):
    """What became of an arrival."""

    NEW = "new"
    """In the queue."""
    COPY = "copy"
    """Seen before: the other listener, a snapshot, the info endpoint."""
    POLLED = "polled"
    """Its account is followed by the info endpoint, which will bring it again."""
    FULL = "full"
    """The info endpoint's own: ask again when there is room."""


class FanIn:
    """One bounded queue of first arrivals; `priorities` ranks the accounts, a larger number is more important.

    `shed` are the accounts that a full queue sent to the info endpoint.
    """

    def __init__(self, capacity: int, dedup: Dedup) -> None:
        self.capacity = capacity
        self.shed: set[str] = set()
        self.counts: dict[Offer, int] = dict.fromkeys(Offer, 0)
        self._dedup = dedup
        self._queue: deque[Arrived] = deque()
        self._waiting: dict[str, int] = {}
        self._priorities: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def rank(self, priorities: dict[str, int]) -> None:
        """Take the watched accounts with their priorities; what waits of others goes."""
        self._priorities = priorities
        self.shed &= priorities.keys()
        for user in self._waiting.keys() - priorities.keys():
            self._remove(user)
        self._dedup.keep(priorities.keys())

    def leave(self, user: str) -> None:
        """Forget an account, waiting and seen: taken anew, it begins with what is stored."""
        self._remove(user)
        self._dedup.drop(user)

    def waiting(self, user: str) -> int:
        """How many arrivals of an account are in the queue."""
        return self._waiting.get(user, 0)

    def offer(self, arrived: Arrived) -> tuple[Offer, FirstSeen | None]:
        """Take one arrival; with COPY also how it came first, for `Pair.copied`."""
        user = arrived.fill.user
        streamed = arrived.listener is not None
        if streamed and user in self.shed:
            return self._count(Offer.POLLED), None
        if (first := self._dedup.see(arrived)) is not None:
            return self._count(Offer.COPY), first
        if not streamed and len(self._queue) >= max(1, self.capacity // 2):
            # What can be asked for again leaves the other half to what can not.
            self._dedup.forget([arrived.fill])
            return self._count(Offer.FULL), None
        if len(self._queue) >= self.capacity:
            least = self._least_important(user)
            self._remove(least)
            self.shed.add(least)
            if least == user:
                self._dedup.forget([arrived.fill])
                return self._count(Offer.POLLED), None
        self._queue.append(arrived)
        self._waiting[user] = self._waiting.get(user, 0) + 1
        return self._count(Offer.NEW), None

    def take(self, most: int) -> list[Arrived]:
        """Take the oldest arrivals out of the queue, at most so many."""
        taken = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
        for arrived in taken:
            self._leave(arrived.fill.user)
        return taken

    def give_back(self, taken: Iterable[Arrived]) -> None:
        """Put what could not be written back to the front, in its order."""
        for arrived in reversed(list(taken)):
            self._queue.appendleft(arrived)
            self._waiting[arrived.fill.user] = self._waiting.get(arrived.fill.user, 0) + 1

    def readmit(self) -> str | None:
        """Name the most important shed account, and take its stream again, once half of the queue is free.

        The info endpoint must then be asked once more: what streamed in between came to nobody.
        """
        if not self.shed or 2 * len(self._queue) > self.capacity:
            return None
        user = max(self.shed, key=lambda each: (self._priorities.get(each, 0), each))
        self.shed.remove(user)
        return user

    def _least_important(self, user: str) -> str:
        """The lowest priority among those that wait and `user`; of equals the one with the most waiting."""
        return min(
            {*self._waiting, user} - self.shed or {user},
            key=lambda each: (self._priorities.get(each, 0), -self._waiting.get(each, 0), each),
        )

    def _remove(self, user: str) -> None:
        gone = [each for each in self._queue if each.fill.user == user]
        self._dedup.forget(each.fill for each in gone)
        self._queue = deque(each for each in self._queue if each.fill.user != user)
        self._waiting.pop(user, None)

    def _leave(self, user: str) -> None:
        self._waiting[user] -= 1
        if not self._waiting[user]:
            del self._waiting[user]

    def _count(self, offer: Offer) -> Offer:
        self.counts[offer] += 1
        return offer


class PairLimits(msgspec.Struct, frozen=True):
    """When a primary hands over, and when a listener is taken for deaf."""

    skew_max_ms: int = 200
    """How far a primary may be behind the other listener, smoothed."""
    probes_min: int = 3
    """So many probes in a row must say so: one slow frame is no reason."""
    copy_wait_ms: int = 2_000
    """A fill that the other listener has not brought after this long was missed by it."""
    misses_max: int = 3
    """So many in a row, and the listener is deaf although it answers pings: connect it anew."""


class Rotation(msgspec.Struct, frozen=True):
    """The other listener is the primary now."""

    primary: int
    reason: str


class Ear(msgspec.Struct):
    """What is measured of one listener of one account; times in milliseconds."""

    connected: bool = False
    lag_ms: float = 0.0
    """From the execution to its arrival, smoothed."""
    skew_ms: float = 0.0
    """Behind the other listener, smoothed; 0 for the faster one."""
    last_ms: int | None = None
    misses: int = 0
    """In a row."""
    missed_n: int = 0


_SMOOTHING = 0.2


class Pair:
    """The two listeners of one account."""

    def __init__(self, limits: PairLimits | None = None) -> None:
        self.limits = limits or PairLimits()
        self.primary = 0
        self.rotations = 0
        self.ears = (Ear(), Ear())
        self._uncopied: dict[str, tuple[int, int]] = {}
        self._bad_probes = 0

    def connect(self, listener: int, connected: bool) -> None:
        """The venue acknowledged the listener's subscription, or its connection is gone."""
        ear = self.ears[listener]
        ear.connected, ear.misses = connected, 0
        # What one listener alone could hear proves nothing about the other.
        self._uncopied.clear()

    def first(self, arrived: Arrived) -> None:
        """A listener brought a streamed fill first."""
        if arrived.listener is None:
            return
        self._heard(arrived)
        self.ears[arrived.listener].skew_ms *= 1 - _SMOOTHING
        if self.ears[1 - arrived.listener].connected:
            self._uncopied[arrived.fill.event_id] = (arrived.listener, arrived.received_ms)

    def copied(self, arrived: Arrived, first: FirstSeen) -> None:
        """A listener brought a fill that had come before."""
        if arrived.listener is None or first.listener is None or first.listener == arrived.listener:
            return
        self._heard(arrived)
        self._uncopied.pop(arrived.fill.event_id, None)
        ear = self.ears[arrived.listener]
        ear.misses = 0
        ear.skew_ms += _SMOOTHING * (arrived.received_ms - first.received_ms - ear.skew_ms)

    def probe(self, now_ms: int) -> Rotation | None:
        """Judge the listeners; answers when the primary changed."""
        self._count_misses(now_ms)
        primary, other = self.ears[self.primary], self.ears[1 - self.primary]
        if not other.connected or other.misses >= self.limits.misses_max:
            self._bad_probes = 0
            return None
        if not primary.connected:
            return self._rotate("gone")
        if primary.misses >= self.limits.misses_max:
            return self._rotate("missed fills")
        lagging = primary.skew_ms - other.skew_ms > self.limits.skew_max_ms
        self._bad_probes = self._bad_probes + 1 if lagging else 0
        return self._rotate("lags behind") if self._bad_probes >= self.limits.probes_min else None

    def deaf(self) -> list[int]:
        """Listeners to connect anew: connected, yet they missed what the other one brought."""
        return [at for at, ear in enumerate(self.ears) if ear.connected and ear.misses >= self.limits.misses_max]

    def _heard(self, arrived: Arrived) -> None:
        assert arrived.listener is not None
        ear = self.ears[arrived.listener]
        ear.last_ms = arrived.received_ms
        ear.lag_ms += _SMOOTHING * (arrived.received_ms - arrived.fill.time_ms - ear.lag_ms)

    def _count_misses(self, now_ms: int) -> None:
        late = [key for key, (_, at_ms) in self._uncopied.items() if now_ms - at_ms > self.limits.copy_wait_ms]
        for key in late:
            listener, _ = self._uncopied.pop(key)
            ear = self.ears[1 - listener]
            ear.misses += 1
            ear.missed_n += 1

    def _rotate(self, reason: str) -> Rotation:
        self.primary = 1 - self.primary
        self.rotations += 1
        self._bad_probes = 0
        return Rotation(self.primary, reason)
