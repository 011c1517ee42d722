"""Keep a demo's picture up to date: a bus consumer of its own, and a look into the tables twice a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from common.bus import Bus
from common.consuming import BusLimits, BusMessage
from common.errors import TryLater
from common.postgres import Connection, named_errors
from common.topology import TopologyLimits
from ops.demo_picture import Picture, gap_of

KEYS = ["price_updates.#"]
LOG_BYTES_MAX = 100_000_000
QUEUE_MESSAGES_MAX = 200_000
POLL_S = 0.5
JOIN_TIMEOUT_S = 20.0

_GAPS = """
SELECT symbol, from_id, to_id, status, reason, tries, restored_n FROM feed_gaps
 WHERE service = 'ohlcv' AND updated_at >= to_timestamp($1) AND status <> 'not_subscribed' ORDER BY symbol, from_id
"""
_CURSORS = (
    "SELECT symbol, extract(epoch FROM event_time)::bigint AS event_s FROM ingest_cursors WHERE service = 'ohlcv'"
)
_OUTBOX = "SELECT coalesce(sum(cardinality(ids)), 0)::bigint FROM bus_outbox"


class Listener:
    """An exclusive queue bound to every price update; what it hears goes into the picture."""

    def __init__(self, rmq_url: str, picture: Picture, now_s: Callable[[], float], log_bytes_max: int | None) -> None:
        topology = (
            None
            if log_bytes_max is None
            else TopologyLimits(log_bytes_max=log_bytes_max, log_segment_bytes=log_bytes_max // 4)
        )
        # Acks are cheap here, and reading the table again is not needed: nothing is decided from what we hear.
        limits = BusLimits(state_messages_max=QUEUE_MESSAGES_MAX, reload_every_s=86_400)
        self._bus = Bus(rmq_url, "trading-bus/demo", topology=topology, limits=limits)
        self._picture, self._now_s = picture, now_s
        self._joined = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.joins = 0
        self.heard = 0

    async def start(self) -> None:
        """Declare the bus and listen until closed: nothing published from now on is missed. Raises TryLater."""
        await self._bus.declare()
        self._task = asyncio.create_task(self._bus.consume_state(KEYS, self._note_join, self._see))
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                await self._joined.wait()
        except TimeoutError as error:
            raise TryLater("the broker does not let the demo listen") from error

    def check(self) -> None:
        """Raise what ended the listening, if it has ended."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def wait_quiet(self, quiet_s: float, timeout_s: float) -> None:
        """Wait until nothing has been heard for a while, or the time is up."""
        loop = asyncio.get_running_loop()
        end, since, heard = loop.time() + timeout_s, loop.time(), self.heard
        while loop.time() < end and loop.time() - since < quiet_s:
            await asyncio.sleep(quiet_s / 10)
            if heard != self.heard:
                since, heard = loop.time(), self.heard

    async def close(self) -> None:
        """Leave."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._bus.close()

    async def _note_join(self) -> None:
        self.joins += 1
        self._joined.set()

    async def _see(self, message: BusMessage) -> None:
        self.heard += 1
        self._picture.see_message(self._now_s(), message.key, message.message_id, message.body)


async def look_at_tables(con: Connection, picture: Picture, now_s: float, since_s: float) -> None:
    """Read ledger, cursors and outbox once; `since_s` (wall time) leaves out gaps settled before. Raises TryLater."""
    with named_errors():
        gaps = [gap_of(dict(record)) for record in await con.fetch(_GAPS, since_s)]
        cursors = {record["symbol"]: record["event_s"] for record in await con.fetch(_CURSORS)}
        picture.outbox = await con.fetchval(_OUTBOX)
    picture.see_gaps(now_s, gaps)
    picture.see_cursors(cursors)
