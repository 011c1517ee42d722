"""The one way of persistent messages to the bus: read committed rows, publish, delete what was confirmed.

Nothing is remembered between two reads, so a crash, a refused message or a lost connection needs no rule of its own:
what was not deleted is read again. Delivery is at least once; after a failure the first unconfirmed messages repeat.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import asyncpg
import msgspec

from common import statements as sql
from common.backoff import full_jitter
from common.contracts import OutgoingMessage
from common.errors import TryLater
from common.publisher import Publisher, dead_letter
from common.topology import EXCHANGE_DEAD

log = logging.getLogger(__name__)


class Query(Protocol):
    """Run one statement on a connection that is not the writer's (see `Store.query`)."""

    async def __call__(self, text: str, *args: object, timeout_s: float | None = None) -> list[asyncpg.Record]:
        """Return its rows; raises TryLater while the server is away."""
        ...


class OutboxLimits(msgspec.Struct, frozen=True):
    """Bounds and pace of the outbox."""

    window_rows_max: int = 16
    group_messages: int = 256
    """Rows are published in groups of about this many messages, and deleted once per window."""
    batch_every_s: float = 0.02
    """Messages committed within this time travel together: the cheapest thing there is for the broker."""
    idle_poll_s: float = 1.0
    measure_every_s: float = 5.0
    takeover_every_s: float = 15.0
    retry_first_s: float = 0.25
    retry_max_s: float = 5.0


class Outbox:
    """The publisher of one owner's rows, and of rows whose owner has died."""

    def __init__(
        self,
        query: Query,
        owner: str,
        publisher: Publisher,
        limits: OutboxLimits | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.owner = owner
        self._query = query
        self._publisher = publisher
        self._limits = limits or OutboxLimits()
        self._monotonic_s = monotonic_s
        self._woken = asyncio.Event()
        self._empty = asyncio.Event()
        self._depth = 0
        self._age_s = 0.0
        self._measured_s: float | None = None
        self._takeover_due_s = monotonic_s() + self._limits.takeover_every_s
        self.on_confirmed: Callable[[Sequence[OutgoingMessage]], None] | None = None
        """Called with the messages that the broker confirmed, before their rows are deleted; must not raise."""
        self.confirmed_total = 0
        self.refused_total = 0
        self.taken_over_total = 0
        self.failures_total = 0

    def wake(self) -> None:
        """Say that something was committed."""
        self._empty.clear()
        self._woken.set()

    async def drained(self) -> None:
        """Wait until nothing that was committed before this call waits any more."""
        await self._empty.wait()

    def depth(self) -> int:
        """Messages that waited at the last measurement."""
        return self._depth

    def oldest_age_s(self) -> float:
        """Age of the oldest waiting message; it goes on growing while nothing can be measured. 0 when none waits."""
        if not self._depth or self._measured_s is None:
            return 0.0
        return self._age_s + self._monotonic_s() - self._measured_s

    async def run(self) -> None:
        """Publish for ever: the live lane before the repair lane, in the order of commit."""
        attempt, rng, told = 0, random.Random(), set[str]()
        while True:
            try:
                rows = await self._turn()
            except TryLater as error:
                self.failures_total += 1
                # The first is often the lost connection only; why there is no new one comes with the next.
                kind = type(error.__cause__ or error).__name__
                if kind not in told:
                    told.add(kind)
                    log.warning("publishing stalled", extra={"owner": self.owner, "error": str(error)})
                wait_s = full_jitter(attempt, self._limits.retry_first_s, self._limits.retry_max_s, rng)
                attempt += 1
                await asyncio.sleep(max(wait_s, error.wait_s or 0.0))
                continue
            if attempt:
                log.info("publishing again", extra={"owner": self.owner, "failures": attempt})
                attempt = 0
                told.clear()
            await self._pause(rows)

    async def take_over(self, only: str | None = None) -> dict[str, int]:
        """Publish one window of every dead owner (or of one); returns messages by owner, {} when nothing was left.

        An owner whose lock nobody holds is dead. That lock is only looked at: while the broker does not answer, the
        owner has to be able to come back and write. If it does and publishes the same rows at the same time, messages
        repeat; both go by id and delete what was confirmed, so that each still comes first in its order.
        """
        published: dict[str, int] = {}
        for record in await self._query(sql.DEAD_OWNERS, self.owner):
            owner: str = record["owner"]
            if only not in (None, owner) or not (await self._query(sql.TRY_TURN, owner))[0][0]:
                continue
            try:
                sent = await self._publish_window(owner)
            finally:
                await self._query(sql.END_TURN, owner)
            if sent:
                published[owner] = sent
                self.taken_over_total += sent
                log.info("rows of a dead owner published", extra={"owner": owner, "messages": sent})
        return published

    async def _turn(self) -> int:
        self._woken.clear()
        await self._measure()
        rows = await self._query(sql.READ_OUTBOX, self.owner, self._limits.window_rows_max)
        await self._publish(self.owner, rows)
        if len(rows) < self._limits.window_rows_max:
            self._depth = 0  # not what was measured before it went out
        if not rows and not self._woken.is_set():
            self._empty.set()
        if self._monotonic_s() >= self._takeover_due_s and not await self.take_over():
            self._takeover_due_s = self._monotonic_s() + self._limits.takeover_every_s
        return len(rows)

    async def _pause(self, rows: int) -> None:
        if rows >= self._limits.window_rows_max:
            return
        await asyncio.sleep(self._limits.batch_every_s)
        if self._monotonic_s() >= self._takeover_due_s:
            return
        try:
            async with asyncio.timeout(self._limits.idle_poll_s):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _measure(self) -> None:
        now_s = self._monotonic_s()
        if self._measured_s is not None and now_s - self._measured_s < self._limits.measure_every_s:
            return
        record = (await self._query(sql.MEASURE_OUTBOX, self.owner))[0]
        self._depth, self._age_s, self._measured_s = record["messages"], record["age_s"], now_s

    async def _publish_window(self, owner: str) -> int:
        rows = await self._query(sql.READ_OUTBOX, owner, self._limits.window_rows_max)
        return await self._publish(owner, rows)

    async def _publish(self, owner: str, rows: Sequence[asyncpg.Record]) -> int:
        """Publish rows in order and delete those that were confirmed, also when a later one fails."""
        lanes: list[int] = []
        idents: list[int] = []
        published = 0
        try:
            for group in self._groups(rows):
                messages = [message for row in group for message in _messages(row)]
                await self._publish_group(messages)
                published += len(messages)
                lanes += [row["lane"] for row in group]
                idents += [row["id"] for row in group]
        finally:
            if idents:
                await self._query(sql.DELETE_OUTBOX, owner, lanes, idents)
        return published

    def _groups(self, rows: Sequence[asyncpg.Record]) -> Iterator[list[asyncpg.Record]]:
        group: list[asyncpg.Record] = []
        count = 0
        for row in rows:
            group.append(row)
            count += len(row["keys"])
            if count >= self._limits.group_messages:
                yield group
                group, count = [], 0
        if group:
            yield group

    async def _publish_group(self, messages: list[OutgoingMessage]) -> None:
        """Publish what the broker takes; the rest becomes dead letters, confirmed like everything else."""
        refused = [(message, reason) for message in messages if (reason := self._publisher.refusal(message))]
        if refused:
            poison = {message.message_id for message, _ in refused}
            messages = [message for message in messages if message.message_id not in poison]
        await self._publisher.publish(messages)
        self.confirmed_total += len(messages)
        if self.on_confirmed is not None:
            self.on_confirmed(messages)
        if refused:
            letters = [dead_letter(m.body, reason, f"outbox.{m.key}") for m, reason in refused]
            await self._publisher.publish(letters, exchange=EXCHANGE_DEAD)
            self.refused_total += len(refused)
            for message, reason in refused:
                log.error("message refused", extra={"message_id": message.message_id, "reason": reason})


def _messages(row: asyncpg.Record) -> Iterator[OutgoingMessage]:
    columns = zip(row["keys"], row["ids"], row["payloads"], row["headers"], strict=True)
    for key, ident, body, headers in columns:
        yield OutgoingMessage(key, ident, body, row["lane"], headers, row["created_s"])
