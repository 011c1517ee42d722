"""Follows the symbol registry: an event only says that the table is to be read again, and the table decides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from common.bus import Bus
from common.consuming import BusMessage
from common.contracts import SymbolEvent
from common.errors import BadInput, TryLater
from common.listings import Listing
from common.outbox import Query

log = logging.getLogger(__name__)

EVENTS = "symbol_events.#"
REGISTRY = "SELECT pair, status, okx_inst_id FROM coin_registry WHERE pair IS NOT NULL AND status IS NOT NULL"


class RegistryFollower:
    """Keeps `follow` called with pair -> listing; a burst of events costs one read of the table."""

    gather_s = 0.05
    retry_s = 1.0

    def __init__(self, query: Query, follow: Callable[[Mapping[str, Listing]], Awaitable[None]]) -> None:
        self._query, self._follow = query, follow
        self._stale = asyncio.Event()
        self._seen = False

    async def run(self, bus: Bus) -> None:
        """Follow for ever; the first read of the table does not wait for the broker."""
        self._stale.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_when_stale())
            await bus.consume_state([EVENTS], self.load, self._note)

    async def load(self) -> None:
        """Read the table and follow what it says; raises TryLater."""
        self._stale.clear()
        rows = await self._query(REGISTRY)
        if not rows and self._seen:
            log.error("coin_registry is empty: what is followed stays")
            return
        self._seen = self._seen or bool(rows)
        await self._follow({row["pair"]: Listing(row["status"], row["okx_inst_id"]) for row in rows})

    async def _note(self, message: BusMessage) -> None:
        try:
            msgspec.json.decode(message.body, type=SymbolEvent)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise BadInput(f"{message.key}: {error}") from error
        self._stale.set()

    async def _read_when_stale(self) -> None:
        while True:
            await self._stale.wait()
            await asyncio.sleep(self.gather_s)
            try:
                await self.load()
            except TryLater as error:
                self._stale.set()
                await asyncio.sleep(max(self.retry_s, error.wait_s or 0.0))
