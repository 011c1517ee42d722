"""The database from a service's side: the right to write, transactions that announce what they changed, reads.

One dedicated connection holds the owner's advisory lock and does every write, so the right to write and the writes die
together. A second connection serves table loads and the outbox.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg
import msgspec

from common import statements as sql
from common.contracts import OutgoingMessage
from common.errors import Reconnect, Superseded, TryLater
from common.postgres import Connection, PostgresLimits, connect, named_errors

log = logging.getLogger(__name__)

T = TypeVar("T")


class StoreLimits(msgspec.Struct, frozen=True):
    """Bounds of the store."""

    commit_timeout_s: float = 15.0
    query_timeout_s: float = 10.0
    lock_retry_s: float = 5.0
    """After a lost connection the server may take a moment to free our own lock; as long may one answer take."""
    lock_poll_s: float = 0.1
    outbox_messages_max: int = 1_000
    """Messages in one outbox row: one unconfirmed message sends its row's others again."""
    postgres: PostgresLimits = PostgresLimits()


class Database:
    """Everything a service writes to, and reads from, the database.

    `owner` names the instance ("ohlcv/0/1"): its lock and its outbox rows. `epoch` marks message ids of another life of
    the database.
    """

    def __init__(self, dsn: str, owner: str, *, epoch: str = "", limits: StoreLimits | None = None) -> None:
        self.owner = owner
        self._dsn = dsn
        self._epoch = epoch
        self._limits = limits or StoreLimits()
        self._writer: Connection | None = None
        self._owned = False
        self._writer_turn = asyncio.Lock()
        self._reader: Connection | None = None
        self._reader_turn = asyncio.Lock()

    async def acquire(self) -> bool:
        """Try to become the owner; False while another process is. Raises TryLater while the server is away."""
        con = self._writer
        if con is None or con.is_closed():
            con = self._writer = await connect(self._dsn, f"{self.owner}/writer", self._limits.postgres)
            self._owned = False
        if not self._owned:
            try:
                with named_errors():
                    self._owned = await con.fetchval(sql.TRY_LOCK, self.owner)
            except BaseException:
                self._drop_writer()
                raise
            if self._owned:
                log.info("write lock taken", extra={"owner": self.owner})
        return self._owned

    async def transact(self, write: Callable[[Connection], Awaitable[tuple[T, Sequence[OutgoingMessage]]]]) -> T:
        """Run `write` in one transaction of the writer, and put the messages it answers with into the outbox there.

        `write` may run again after an error, so it has to be repeatable. Raises Reconnect when it is not known whether
        the commit happened, TryLater when the server has no room, Superseded when another process took the lock
        meanwhile.
        """
        async with self._writer_turn:
            con = await self._owned_writer()
            try:
                with named_errors():
                    async with asyncio.timeout(self._limits.commit_timeout_s), con.transaction():
                        answer, messages = await write(con)
                        if messages:
                            await con.executemany(sql.INSERT_OUTBOX, self._outbox_rows(messages))
                        return answer
            except TryLater as error:
                if isinstance(error, Reconnect):
                    log.warning("commit in doubt", extra={"owner": self.owner, "error": str(error)})
                    self._drop_writer()
                raise
            except BaseException:
                self._drop_writer()
                raise

    async def query(self, text: str, *args: object, timeout_s: float | None = None) -> list[asyncpg.Record]:
        """Run one statement on the second connection, which comes back by itself after a loss.

        Raises TryLater (Reconnect) while the server is away or does not answer in time.
        """
        limit = timeout_s or self._limits.query_timeout_s
        with named_errors():
            async with asyncio.timeout(limit), self._reader_turn:
                con = self._reader
                if con is None or con.is_closed():
                    con = self._reader = await connect(self._dsn, f"{self.owner}/reader", self._limits.postgres)
                try:
                    return await con.fetch(text, *args, timeout=limit)
                except (asyncpg.PostgresError, ValueError):
                    raise
                except BaseException:
                    # Cut off in the middle: the connection, and any lock it held, goes with the call.
                    con.terminate()
                    self._reader = None
                    raise

    async def close(self) -> None:
        """Close both connections, and with them give up the lock."""
        for con in (self._writer, self._reader):
            if con is not None and not con.is_closed():
                try:
                    await con.close(timeout=self._limits.postgres.connect_timeout_s)
                except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    con.terminate()
        self._writer = self._reader = None
        self._owned = False

    def _drop_writer(self) -> None:
        if self._writer is not None:
            self._writer.terminate()
        self._writer = None
        self._owned = False

    async def _owned_writer(self) -> Connection:
        if self._writer is not None and self._owned and not self._writer.is_closed():
            return self._writer
        loop, refused_s = asyncio.get_running_loop(), None
        while not await self._acquire_in_time():
            # Only what the server said counts: as long as it does not answer, nobody is known to hold the lock.
            refused_s = refused_s or loop.time()
            if loop.time() - refused_s >= self._limits.lock_retry_s:
                raise Superseded(f"another process holds the write lock of {self.owner}")
            await asyncio.sleep(self._limits.lock_poll_s)
        assert self._writer is not None
        return self._writer

    async def _acquire_in_time(self) -> bool:
        try:
            async with asyncio.timeout(self._limits.lock_retry_s):
                return await self.acquire()
        except TimeoutError as error:
            raise Reconnect("database: no answer in time") from error

    def _outbox_rows(self, messages: Sequence[OutgoingMessage]) -> list[tuple[object, ...]]:
        most = self._limits.outbox_messages_max
        rows: list[tuple[object, ...]] = []
        for lane in sorted({m.lane for m in messages}):
            mine = [m for m in messages if m.lane == lane]
            for start in range(0, len(mine), most):
                part = mine[start : start + most]
                keys, ids, headers = [m.key for m in part], [self._ident(m) for m in part], [m.headers for m in part]
                rows.append((self.owner, lane, keys, ids, headers, [m.body for m in part]))
        return rows

    def _ident(self, message: OutgoingMessage) -> str:
        return f"{message.message_id}~{self._epoch}" if self._epoch else message.message_id
