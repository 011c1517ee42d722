"""The one writer: in the order of each (account, market), raw event, position, signal, cursor and message together."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import asyncpg
from msgspec.structs import replace

from common import statements as ledger
from common.backoff import full_jitter
from common.clock import Clock
from common.contracts import LANE_LIVE, LANE_REPAIR, GapRow, OutgoingMessage, SignalRow, signal_message
from common.database import Database
from common.errors import TryLater
from common.postgres import Connection
from influencer_ingestor import statements as sql
from influencer_ingestor.chain import Chain, Released
from influencer_ingestor.events import EXCHANGE, SERVICE, Arrived, EventType, Fill, RawEvent
from influencer_ingestor.fan_in import FanIn
from influencer_ingestor.gaps import Gap, gap_row
from influencer_ingestor.positions import Position, is_known, market_of
from influencer_ingestor.signals import SIGNAL_MAX_AGE_S, Margin, Silence, make_signal
from influencer_ingestor.statements import PositionRow, RawRow
from influencer_ingestor.tracing import Tracer, message_headers
from influencer_ingestor.watched import Watched

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_MAX_S = 0.05, 2.0
KEPT_MAX = 5_000
"""Raw events besides fills that wait; the oldest go, because their next statement says it again."""

_BAD_ROW = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ValueError)


@dataclass
class Item:
    """What one event gives: its raw row, and where it is a fill that counts, its signal and position."""

    raw: RawRow
    signal: SignalRow | None = None
    position: PositionRow | None = None
    lane: int = LANE_LIVE


@dataclass
class Work:
    """One transaction, ready to be repeated."""

    items: list[Item] = field(default_factory=list[Item])
    positions: list[PositionRow] = field(default_factory=list[PositionRow])
    gaps: dict[tuple[str, int], GapRow] = field(default_factory=dict[tuple[str, int], GapRow])
    cursors: dict[str, int] = field(default_factory=dict[str, int])

    def __bool__(self) -> bool:
        return bool(self.items or self.positions or self.gaps or self.cursors)


class Writer:
    """Takes arrivals from the queue through their chains into the database.

    `announced` is called after a commit with messages, `want` with a gap whose times shall be fetched, `bury` with an
    event that no table takes.
    """

    def __init__(
        self, database: Database, watched: dict[str, Watched], fan_in: FanIn, clock: Clock, tracer: Tracer,
        announced: Callable[[], None], bury: Callable[[bytes, str, str], None], batch_max: int = 500,
        max_age_s: int = SIGNAL_MAX_AGE_S,
    ) -> None:  # fmt: skip
        self._database, self._watched, self._fan_in, self._clock = database, watched, fan_in, clock
        self._tracer, self._announced, self._bury = tracer, announced, bury
        self._batch_max, self._max_age_s = batch_max, max_age_s
        self.want: Callable[[Chain, Gap], None] = lambda chain, gap: None
        self._woken = asyncio.Event()
        self._turned = asyncio.Condition()
        self._touched: dict[tuple[str, str], Chain] = {}
        """Chains that hold something, or have a gap to tell."""
        self._kept: list[RawRow] = []
        self._stated: list[PositionRow] = []
        self._cursors: dict[str, int] = {}
        self._taken = self._done = 0
        """Arrivals taken out of the queue, and how many of them are committed or held."""
        self._failing_since_s: float | None = None
        self.signals: Counter[tuple[str, str]] = Counter()
        """By action and source."""
        self.silent: Counter[str] = Counter()
        self.raw_total = self.poison_total = self.kept_dropped_total = self.unknown_dir_total = 0

    def wake(self) -> None:
        """There is something to write."""
        self._woken.set()

    def keep(self, row: RawRow) -> None:
        """Have a raw event stored that is no fill."""
        if row.received_ms == 0:
            row = replace(row, received_ms=self._clock.wall_ms())
        if len(self._kept) >= KEPT_MAX:
            del self._kept[0]
            self.kept_dropped_total += 1
        self._kept.append(row)
        self.wake()

    def state(self, row: PositionRow) -> None:
        """Have a position stored as the venue states it."""
        self._stated.append(row)
        self.wake()

    def touch(self, user: str, chain: Chain) -> None:
        """A chain's gaps changed."""
        self._touched[user, chain.coin] = chain
        self.wake()

    def move_cursor(self, user: str, to_ms: int) -> None:
        """All fills of an account up to `to_ms` are stored."""
        watched = self._watched.get(user)
        if watched is not None and to_ms > watched.cursor_ms:
            self._cursors[user] = max(to_ms, self._cursors.get(user, 0))
            self.wake()

    async def settled(self, user: str) -> None:
        """Wait until all of an account that arrived so far is committed; what arrives meanwhile does not count."""
        await self._passed(self._taken + len(self._fan_in))
        held_to_ms = self._clock.wall_ms() + max(
            [chain.hold_ms for (at, _), chain in self._touched.items() if at == user], default=0
        )
        async with self._turned:
            await self._turned.wait_for(lambda: not self._holds(user, held_to_ms))
        await self._passed(self._taken)

    def failing_s(self) -> float:
        """For how long nothing could be written; 0 when all is well."""
        return 0.0 if self._failing_since_s is None else self._clock.monotonic_s() - self._failing_since_s

    async def run(self) -> None:
        """Write for ever: at once, as much as came while the last commit was on its way."""
        while True:
            work = self._prepare()
            if work:
                await self._persevere(work)
            self._done = self._taken
            async with self._turned:
                self._turned.notify_all()
            if not len(self._fan_in):
                await self._rest()

    # ---- deciding what to write

    def _prepare(self) -> Work:
        self._woken.clear()
        work = Work()
        taken = self._fan_in.take(self._batch_max)
        self._taken += len(taken)
        for arrived in taken:
            self._sort_in(work, arrived)
        now_ms = self._clock.wall_ms()
        for (user, coin), chain in list(self._touched.items()):
            watched = self._watched.get(user)
            if watched is None or watched.chains.get(coin) is not chain:
                del self._touched[user, coin]
                continue
            for released in chain.release(now_ms):
                self._add(work, watched, released)
            work.gaps |= {(row.symbol, row.from_id): row for row in map(gap_row, chain.changed)}
            wanted, chain.wanted[:] = list(chain.wanted), []
            chain.changed.clear()
            for gap in wanted:
                self.want(chain, gap)
            if chain.due_ms is None:
                del self._touched[user, coin]
        work.items += [Item(row) for row in self._kept]
        self._kept.clear()
        work.positions += self._stated
        self._stated.clear()
        for user, to_ms in self._cursors.items():
            work.cursors[user] = max(to_ms, work.cursors.get(user, 0))
        self._cursors.clear()
        return work

    def _sort_in(self, work: Work, arrived: Arrived) -> None:
        """To its chain, or past it: what happened before the account was added explains nothing after."""
        fill = arrived.fill
        watched = self._watched.get(fill.user)
        if watched is None:
            return
        if fill.time_ms < watched.account.added_ms:
            self.silent[Silence.BEFORE_START.value] += 1
            work.items.append(Item(_raw_fill(arrived)))
            return
        if watched.long_knows(fill):
            self.silent[Silence.LONG_KNOWN.value] += 1
            return
        chain = watched.chain(fill.coin)
        chain.add(arrived)
        self._touched[fill.user, fill.coin] = chain

    def _add(self, work: Work, watched: Watched, released: Released) -> None:
        arrived, user = released.arrived, watched.account.address
        fill = arrived.fill
        margin = watched.margins.get(fill.coin, Margin())
        item = Item(_raw_fill(arrived))
        signal = make_signal(arrived, watched.account, margin, self._max_age_s)
        if isinstance(signal, SignalRow):
            item.signal = signal
            stale = arrived.received_ms - fill.time_ms > self._max_age_s * 1000
            item.lane = LANE_REPAIR if stale else LANE_LIVE
        else:
            self.silent[signal.value] += 1
        if not is_known(fill.dir):
            self.unknown_dir_total += 1
        if released.moves:
            position = Position(user, fill.coin, released.position, fill.time_ms, fill.event_id)
            item.position = PositionRow(position, margin.leverage, margin.mode)
        work.items.append(item)
        if watched.covered and fill.time_ms > watched.cursor_ms:
            work.cursors[user] = max(fill.time_ms, work.cursors.get(user, 0))

    # ---- writing it

    async def _persevere(self, work: Work) -> None:
        attempt, rng = 0, random.Random()
        while True:
            try:
                await self._commit(work)
                break
            except TryLater as error:
                if self._failing_since_s is None:
                    self._failing_since_s = self._clock.monotonic_s()
                    log.warning("nothing can be written", extra={"error": str(error), "queue": len(self._fan_in)})
                wait_s = full_jitter(attempt, RETRY_FIRST_S, RETRY_MAX_S, rng)
                attempt += 1
                await asyncio.sleep(max(wait_s, error.wait_s or 0.0))
        if self._failing_since_s is not None:
            log.info("writing again", extra={"failed_for_s": round(self.failing_s(), 1)})
            self._failing_since_s = None

    async def _commit(self, work: Work) -> None:
        try:
            await self._transact(work)
        except _BAD_ROW as error:
            if len(work.items) <= 1 and not (work.positions or work.gaps or work.cursors):
                self._bury_item(work.items[0], error)
                return
            # One event that no table takes must not keep the others: each by itself, then the rest.
            for item in list(work.items):
                await self._commit(Work(items=[item]))
                work.items.remove(item)
            await self._transact(work)

    async def _transact(self, work: Work) -> None:
        announced = await self._database.transact(lambda con: self._write(con, work))
        for user, to_ms in work.cursors.items():
            if (watched := self._watched.get(user)) is not None:
                watched.cursor_ms = max(watched.cursor_ms, to_ms)
        self.raw_total += len(work.items)
        for item in work.items:
            if item.signal is not None and item.signal.signal_id in announced:
                self.signals[item.signal.action, item.raw.source.value] += 1
        if announced:
            self._announced()

    async def _write(self, con: Connection, work: Work) -> tuple[set[str], Sequence[OutgoingMessage]]:
        if work.items:
            await con.execute(sql.INSERT_RAW, *sql.raw_arguments(item.raw for item in work.items))
        signals = [item for item in work.items if item.signal is not None]
        new: set[str] = set()
        if signals:
            arguments = sql.signal_arguments(item.signal for item in signals if item.signal is not None)
            new = {record["signal_id"] for record in await con.fetch(sql.INSERT_SIGNALS, *arguments)}
        positions = [item.position for item in work.items if item.position is not None] + work.positions
        if positions:
            await con.execute(sql.UPSERT_POSITIONS, *sql.position_arguments(positions))
        if work.cursors:
            users, times = map(list, zip(*sorted(work.cursors.items()), strict=True))
            await con.execute(sql.UPSERT_CURSORS, SERVICE, EXCHANGE, users, times)
        if work.gaps:
            await con.execute(ledger.UPSERT_GAPS, *ledger.gap_arguments(gap for _, gap in sorted(work.gaps.items())))
        messages = [self._message(item) for item in signals if item.signal is not None and item.signal.signal_id in new]
        return new, messages

    def _message(self, item: Item) -> OutgoingMessage:
        assert item.signal is not None
        self._tracer.note(item.signal, item.raw)
        headers = message_headers(item.signal, item.raw.event.address, self._tracer.enabled)
        return replace(signal_message(item.signal, item.lane), headers=headers)

    def _bury_item(self, item: Item, error: Exception) -> None:
        self.poison_total += 1
        reason = f"no table takes it: {type(error).__name__}: {error}"
        log.error("poison event", extra={"id": item.raw.event.event_id, "reason": reason})
        self._bury(item.raw.event.payload, reason, "influencer.writer")

    # ---- waiting

    async def _passed(self, place: int) -> None:
        """Wait until so many arrivals are through; those that left the queue for polling never come."""
        async with self._turned:
            await self._turned.wait_for(
                lambda: self._done >= place or (self._done == self._taken and not len(self._fan_in))
            )

    def _holds(self, user: str, to_ms: int) -> bool:
        due = (chain.due_ms for (at, _), chain in self._touched.items() if at == user)
        return any(at_ms is not None and at_ms <= to_ms for at_ms in due)

    async def _rest(self) -> None:
        due = [chain.due_ms for chain in self._touched.values() if chain.due_ms is not None]
        wait_s = None if not due else max(0.0, (min(due) - self._clock.wall_ms()) / 1000 + 0.001)
        try:
            async with asyncio.timeout(wait_s):
                await self._woken.wait()
        except TimeoutError:
            return


def _raw_fill(arrived: Arrived) -> RawRow:
    return RawRow(fill_event(arrived.fill), arrived.source, arrived.listener, arrived.received_ms)


def fill_event(fill: Fill) -> RawEvent:
    """A fill as a raw event."""
    return RawEvent(fill.user, EventType.FILL, market_of(fill.coin), fill.event_id, fill.time_ms, fill.raw)
