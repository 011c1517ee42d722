"""The writer: takes what the lines handed on, commits it in batches, and wakes the outbox.

While the database is away rows wait, one per key, in a bounded buffer. When it is full it is thrown away whole, and
every series begins anew from its committed cursor once the database is back: what was thrown away is then a gap like
any other.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol

from common.backoff import full_jitter
from common.batch import Batch
from common.clock import Clock
from common.errors import TryLater
from common.store import Committed
from ohlcv_ingestor.line import Outlet

log = logging.getLogger(__name__)


class Committing(Protocol):
    """What the writer needs of the store."""

    async def commit(self, batch: Batch) -> Committed:
        """Write a batch in one transaction; raises TryLater when it has to be repeated."""
        ...


class Writer:
    """Commits the outlet's rows every `flush_every_s`, and at once when a minute closed.

    `wake_outbox` is called after every try, also a failed one: its commit may have happened. `overflowed` is set
    when rows were thrown away; whoever rebuilds the series clears it.
    """

    retry_first_s = 0.1
    retry_max_s = 2.0

    def __init__(
        self, outlet: Outlet, store: Committing, clock: Clock, wake_outbox: Callable[[], None], flush_every_s: float,
        rows_max: int,
    ) -> None:  # fmt: skip
        self.overflowed = asyncio.Event()
        self.committed_total = 0
        self.thrown_away_total = 0
        self.failing_since_s: float | None = None
        self._outlet, self._store, self._clock, self._wake_outbox = outlet, store, clock, wake_outbox
        self._flush_every_s, self._rows_max = flush_every_s, rows_max
        self._waiting = Batch()
        self._closed = asyncio.Event()
        self._turn = asyncio.Lock()

    def waiting(self) -> int:
        """Rows, gaps and cursors not committed yet."""
        return len(self._waiting) + len(self._outlet.batch)

    def has_room(self) -> bool:
        """Is the buffer less than half full? Repairs wait for room; the stream does not."""
        return self.waiting() < self._rows_max // 2

    def hurry(self) -> None:
        """A minute closed: do not wait for the next flush."""
        self._closed.set()

    def failing_s(self) -> float:
        """For how long no commit has succeeded though one was tried."""
        return 0.0 if self.failing_since_s is None else self._clock.monotonic_s() - self.failing_since_s

    async def run(self) -> None:
        """Commit for ever; returns only by cancellation or an error that is a bug."""
        attempt, rng = 0, random.Random()
        while True:
            try:
                async with asyncio.timeout(self._flush_every_s):
                    await self._closed.wait()
            except TimeoutError:
                pass
            self._closed.clear()
            try:
                await self.flush()
            except TryLater as error:
                if attempt == 0:
                    log.warning("writing stalled", extra={"error": str(error), "waiting": self.waiting()})
                pause_s = full_jitter(attempt, self.retry_first_s, self.retry_max_s, rng)
                attempt += 1
                await asyncio.sleep(max(pause_s, error.wait_s or 0.0))
                continue
            if attempt:
                log.info("writing again", extra={"failures": attempt})
                attempt = 0

    async def flush(self) -> None:
        """Commit what waits; raises TryLater, and then what waits is kept for the next time."""
        async with self._turn:
            await self._flush()

    async def _flush(self) -> None:
        self._gather()
        if not self._waiting:
            return
        try:
            await self._store.commit(self._waiting)
        except TryLater:
            if self.failing_since_s is None:
                self.failing_since_s = self._clock.monotonic_s()
            self._wake_outbox()
            self._gather()
            raise
        self.committed_total += len(self._waiting)
        self.failing_since_s = None
        self._waiting = Batch()
        self._wake_outbox()

    def throw_away(self) -> None:
        """Forget all that waits: the cursors in the database say where to begin again."""
        self.thrown_away_total += self.waiting()
        self._waiting = Batch()
        self._outlet.batch = Batch()

    def _gather(self) -> None:
        fresh, self._outlet.batch = self._outlet.batch, Batch()
        if self.overflowed.is_set():
            # Until every series has begun anew, what the old ones hand on lies behind what was thrown away.
            self.thrown_away_total += len(fresh)
            return
        if self._waiting:
            self._waiting.absorb(fresh)
        else:
            self._waiting = fresh
        if len(self._waiting) > self._rows_max:
            log.error("buffer full, begun anew from the cursors", extra={"rows": len(self._waiting)})
            self.throw_away()
            self.overflowed.set()
