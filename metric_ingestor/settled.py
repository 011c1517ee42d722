"""What perpetuals paid: settlements into `funding_settled`, page by page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from common.contracts import OutgoingMessage
from common.database import Database
from common.errors import TryLater
from common.listings import Listing
from common.postgres import Connection
from common.venues.binance_futures import MAX_FUNDING, Settlement
from metric_ingestor import statements as sql
from metric_ingestor.vendors import Vendors

log = logging.getLogger(__name__)

HISTORY_S = 3 * 86_400
"""How far back the first look for a symbol goes."""
OVERLAP_S = 3_600
RETRY_S = 30.0
START_S = 1.0
PAGES_MAX = 20
"""Of one look; the next one goes on."""


class Settlements:
    """Keeps the table of settlements; `followed` names the pairs."""

    def __init__(self, database: Database, vendors: Vendors, every_s: float) -> None:
        self._database, self._vendors, self._every_s = database, vendors, every_s
        self.followed: Mapping[str, Listing] = {}
        self.stored_total = 0
        self._looked: set[str] = set()
        self._going_on: tuple[int, set[str]] | None = None

    async def run(self) -> None:
        """Look again and again, for ever."""
        while not (self._vendors.time.known and self._vendors.perps and self.followed):  # noqa: ASYNC110
            await asyncio.sleep(START_S)
        while True:
            try:
                good = await self.look()
            except TryLater as error:
                log.debug("settlements wait", extra={"error": str(error)})
                good = False
            await asyncio.sleep(self._every_s if good else RETRY_S)

    async def look(self) -> bool:
        """Ask for what is new, page by page; false when there was no answer. Raises TryLater."""
        if self._going_on is None:
            perps = {pair for pair in self.followed if self._vendors.perp_of(pair) is not None}
            self._going_on = await self._begin_s(perps), perps
        start_s, looked = self._going_on
        for _ in range(PAGES_MAX):
            page = await self._vendors.ask_settled(1000 * start_s)
            if page is None:
                return False
            await self._store(page.settled)
            if page.records < MAX_FUNDING:
                self._looked, self._going_on = looked, None
                break
            start_s = max(start_s + 1, page.settled[-1].time_ms // 1000)
            self._going_on = start_s, looked
        return True

    async def _begin_s(self, perps: set[str]) -> int:
        """Where the stored ones end; farther back for symbols that were not looked for before."""
        history_s = int(self._vendors.now_ms()) // 1000 - HISTORY_S
        stored = (await self._database.query(sql.LAST_SETTLED, list(self.followed)))[0]["time"]
        if stored is None:
            return history_s
        return stored - OVERLAP_S if perps <= self._looked else min(stored - OVERLAP_S, history_s)

    async def _store(self, page: list[Settlement]) -> None:
        pairs = {perp.symbol: pair for pair in self.followed if (perp := self._vendors.perp_of(pair)) is not None}
        rows = {(pairs[one.symbol], one.time_ms // 1000, one.regular): one for one in page if one.symbol in pairs}
        if not rows:
            return
        keys = sorted(rows)
        columns: list[list[object]] = [
            [second for _, second, _ in keys], [pair for pair, _, _ in keys],
            [format(rows[key].rate, "f") for key in keys], [regular for _, _, regular in keys],
        ]  # fmt: skip

        async def write(con: Connection) -> tuple[str, list[OutgoingMessage]]:
            return await con.execute(sql.UPSERT_SETTLED, *columns), []

        answer = await self._database.transact(write)
        self.stored_total += int(answer.rpartition(" ")[2])
