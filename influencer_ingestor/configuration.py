"""Whom to watch: the table `influencers`, read at the start, at every NOTIFY of its trigger, and now and then."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import asyncpg

from common.clock import Clock
from common.errors import TryLater
from common.outbox import Query
from common.postgres import Connection, connect, named_errors
from common.shards import Shard
from influencer_ingestor import statements as sql
from influencer_ingestor.events import Account
from influencer_ingestor.positions import market_of

log = logging.getLogger(__name__)

RETRY_S = 1.0
CLOSE_TIMEOUT_S = 2.0

Follow = Callable[[list[Account]], Awaitable[None]]


class Configuration:
    """Keeps `follow` called with the accounts of this shard, at once when the table changes."""

    def __init__(self, dsn: str, name: str, query: Query, shard: Shard, clock: Clock, every_s: float) -> None:
        self._dsn, self._name, self._query = dsn, name, query
        self._shard, self._clock, self._every_s = shard, clock, every_s
        self._stale = asyncio.Event()
        self.read_s: float | None = None
        self.listening = False

    async def run(self, follow: Follow) -> None:
        """Follow the table for ever; raises ConfigError where the first reading can not be followed."""
        # Outside the group, so that what is wrong with it is told by its own name.
        await self._read(follow)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="listen")
            group.create_task(self._read_when_stale(follow), name="read")

    async def _read_when_stale(self, follow: Follow) -> None:
        while True:
            # Now and then it is read whatever was notified.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._stale.wait()
            await self._read(follow)

    async def _read(self, follow: Follow) -> None:
        while True:
            self._stale.clear()
            try:
                rows = await self._query(sql.READ_ACCOUNTS)
                await follow([account for account in map(read_account, rows) if self._owns(account)])
                self.read_s = self._clock.monotonic_s()
                return
            except TryLater as error:
                log.warning("configuration not read", extra={"error": str(error)})
                await asyncio.sleep(max(RETRY_S, error.wait_s or 0.0))

    def _owns(self, account: Account) -> bool:
        return account.enabled and self._shard.owns(account.influencer_id)

    async def _listen(self) -> None:
        """Hear the trigger; whatever was missed while nobody listened is read when somebody does."""
        while True:
            try:
                await self._listen_once()
            except TryLater as error:
                log.warning("not listening to the configuration", extra={"error": str(error)})
            await asyncio.sleep(RETRY_S)

    async def _listen_once(self) -> None:
        con = await connect(self._dsn, f"{self._name}/listen")
        gone = asyncio.Event()
        try:
            con.add_termination_listener(lambda _: gone.set())
            with named_errors():
                await con.add_listener(sql.CHANNEL, self._heard)
            self.listening = True
            self._stale.set()
            while not gone.is_set():
                try:
                    async with asyncio.timeout(self._every_s):
                        await gone.wait()
                except TimeoutError:
                    with named_errors():  # a dead peer shows only when it is spoken to
                        await con.fetchval("SELECT 1")
        finally:
            self.listening = False
            con.terminate()

    def _heard(self, _con: Connection | object, _pid: int, _channel: str, _payload: object) -> None:
        self._stale.set()


def read_account(row: asyncpg.Record) -> Account:
    """One row of the table; markets may be named as coins, too."""
    markets = None if row["markets"] is None else frozenset(market_of_name(name) for name in row["markets"])
    return Account(
        address=row["address"], influencer_id=row["influencer_id"], label=row["label"], priority=row["priority"],
        markets=markets, enabled=row["enabled"], added_ms=row["added_ms"], backoff_first_s=row["backoff_first_s"],
        backoff_max_s=row["backoff_max_s"],
    )  # fmt: skip


def market_of_name(name: str) -> str:
    """The market that an operator means: "ETH-PERP" and "ETH" are the same, a token stays as it is."""
    return name if name.endswith("-PERP") else market_of(name)
