"""From what a listener or the info endpoint brought to the queue: believed, counted, and seen once."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b

from common.clock import Clock
from influencer_ingestor.events import (
    Arrived,
    EventType,
    Fill,
    OrderUpdate,
    ParseFailure,
    PositionSnapshot,
    RawEvent,
    Source,
)
from influencer_ingestor.fan_in import FanIn, Offer
from influencer_ingestor.hyperliquid import Fills, OrderUpdates
from influencer_ingestor.positions import market_of
from influencer_ingestor.statements import RawRow
from influencer_ingestor.watched import Watched
from influencer_ingestor.writer import Writer

log = logging.getLogger(__name__)

Bury = Callable[[bytes, str, str], None]
"""Keep what can not be read as a dead letter: bytes, reason, source."""

ROOM_POLL_S = 0.02
BURIED_MAX = 1_000
"""Unreadable fills that are remembered: both listeners, snapshots and every poll bring the same one."""


class Intake:
    """The one way into the queue. `changed` is called when an account left the queue for the info endpoint."""

    def __init__(
        self, watched: dict[str, Watched], fan_in: FanIn, writer: Writer, bury: Bury, clock: Clock, ahead_ms_max: int,
        changed: Callable[[], None],
    ) -> None:  # fmt: skip
        self._watched, self._fan_in, self._writer = watched, fan_in, writer
        self._bury, self._clock, self._ahead_ms_max, self._changed = bury, clock, ahead_ms_max, changed
        self.received: Counter[tuple[str, str]] = Counter()
        """By account and market."""
        self.channels: Counter[tuple[str, str]] = Counter()
        """By listener and channel."""
        self._buried: dict[tuple[str, bytes], None] = {}
        self.poison_total = 0
        self.strangers_total = 0
        """Fills of accounts that nobody watches (any more)."""

    def hear(self, listener: int, told: Fills) -> None:
        """Take a frame of a listener; called from the socket's reader, so it never waits."""
        now_ms = self._clock.wall_ms()
        self.channels[str(listener), "snapshot" if told.snapshot else "userFills"] += 1
        watched = self._watched.get(told.user)
        if watched is None:
            self.strangers_total += len(told.fills)
            return
        source = Source.REPAIR if told.snapshot else Source.LIVE
        for fill in told.fills:
            if not self._is_believed(fill, now_ms):
                continue
            arrived = Arrived(fill, now_ms, source, listener)
            shed = set(self._fan_in.shed)
            offer, first = self._fan_in.offer(arrived)
            if self._fan_in.shed != shed:
                self._note_shed(self._fan_in.shed - shed)
            # What a snapshot repeats says nothing about who is faster.
            if offer is Offer.NEW:
                self.received[watched.account.influencer_id, market_of(fill.coin)] += 1
                if not told.snapshot:
                    watched.pair.first(arrived)
            elif offer is Offer.COPY and first is not None and not told.snapshot:
                watched.pair.copied(arrived, first)
        self._bury_all(told.failures, f"influencer.listener{listener}")
        self._writer.wake()

    async def fetched(self, told: Fills) -> int:
        """Take what the info endpoint answered, waiting for room; returns how many of them were new."""
        watched = self._watched.get(told.user)
        new = 0
        for fill in told.fills:
            now_ms = self._clock.wall_ms()
            if watched is None or not self._is_believed(fill, now_ms):
                continue
            while (offer := self._fan_in.offer(Arrived(fill, now_ms, Source.REPAIR))[0]) is Offer.FULL:
                self._writer.wake()
                await asyncio.sleep(ROOM_POLL_S)
                if self._watched.get(told.user) is not watched:
                    # Gone, or taken anew: that life fetches for itself.
                    return new
            if offer is Offer.NEW:
                new += 1
                self.received[watched.account.influencer_id, market_of(fill.coin)] += 1
        self._bury_all(told.failures, "influencer.info")
        self._writer.wake()
        return new

    def hear_orders(self, listener: int, user: str, told: OrderUpdates) -> None:
        """Keep the order updates of the one account that a socket asks them for."""
        self.channels[str(listener), "orderUpdates"] += 1
        for update in told.updates:
            self._writer.keep(RawRow(_order_event(user, update), Source.LIVE, listener, self._clock.wall_ms()))
        self._bury_all(told.failures, f"influencer.listener{listener}")

    def hear_state(self, listener: int, told: PositionSnapshot) -> None:
        """Take leverage and margin mode, and keep a state that tells another holding than the last one."""
        self.channels[str(listener), "clearinghouseState"] += 1
        watched = self._watched.get(told.user)
        if watched is None:
            return
        watched.learn_margins(told)
        if watched.is_news(told):
            watched.stated[told.dex] = told
            row = RawRow(state_event(told, EventType.POSITION_UPDATE, self._clock), Source.LIVE, listener, 0)
            self._writer.keep(row)

    def bury_frame(self, raw: bytes, reason: str, listener: int) -> None:
        """A frame that can not be read."""
        self._bury_all((ParseFailure(reason, raw),), f"influencer.listener{listener}")

    def _is_believed(self, fill: Fill, now_ms: int) -> bool:
        """A time far ahead would make all that follows late; control characters fit into no row and no key."""
        reason = None
        if fill.time_ms > now_ms + self._ahead_ms_max:
            reason = f"executed {(fill.time_ms - now_ms) / 1000:.0f} s from now"
        elif not (fill.coin + fill.dir + fill.hash).isprintable():
            reason = "a name with control characters"
        if reason is not None:
            self._bury_all((ParseFailure(reason, fill.raw, fill.user),), "influencer.fill")
        return reason is None

    def _bury_all(self, failures: tuple[ParseFailure, ...], source: str) -> None:
        for failure in failures:
            if failure.user is not None and self._is_buried(failure.user, failure.raw):
                continue
            self.poison_total += 1
            who = f" ({failure.user})" if failure.user else ""
            self._bury(failure.raw, f"{failure.reason}{who}", source)
            log.warning("poison event", extra={"reason": failure.reason, "account": failure.user, "source": source})

    def _is_buried(self, user: str, raw: bytes) -> bool:
        """Say whether this very fill has its dead letter already; from now on it has."""
        key = user, blake2b(raw, digest_size=16).digest()
        if key in self._buried:
            return True
        self._buried[key] = None
        if len(self._buried) > BURIED_MAX:
            del self._buried[next(iter(self._buried))]
        return False

    def _note_shed(self, users: set[str]) -> None:
        """Accounts left the queue, with all that waited of them: also what a fetch that is under way had brought."""
        for user in users:
            if (watched := self._watched.get(user)) is None:
                continue
            watched.lose_cover()
            # Neither listener is deaf because it was not listened to.
            for listener, ear in enumerate(watched.pair.ears):
                watched.pair.connect(listener, ear.connected)
            log.error("queue is full: account is polled instead", extra={"account": watched.account.influencer_id})
        self._changed()


def state_event(state: PositionSnapshot, kind: EventType, clock: Clock) -> RawEvent:
    """A statement of positions as a raw event, named by its dex and its time."""
    time_ms = clock.wall_ms() if state.time_ms is None else state.time_ms
    return RawEvent(state.user, kind, None, f"{state.dex or 'main'}:{time_ms}", time_ms, state.raw)


def _order_event(user: str, update: OrderUpdate) -> RawEvent:
    event_id = f"{update.time_ms}:{update.oid}:{update.status}"
    return RawEvent(user, EventType.ORDER_UPDATE, market_of(update.coin), event_id, update.time_ms, update.raw)
