"""The writer: one transaction per flush for rows, gaps, cursors and the messages that announce them.

One dedicated connection holds the owner's advisory lock and does every write, so the right to write and the writes die
together. A second connection serves table loads and the outbox.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import asyncpg
import msgspec

from common import statements as sql
from common.batch import Batch, RowKey
from common.contracts import (
    GRADE_EXACT,
    LANE_LIVE,
    LANE_REPAIR,
    BarRow,
    Clearance,
    FootprintRow,
    OutgoingMessage,
    Retraction,
    bar_message,
    footprint_message,
)
from common.errors import Reconnect, Superseded, TryLater
from common.numbers import trim_decimal
from common.postgres import Connection, PostgresLimits, connect, named_errors

log = logging.getLogger(__name__)

_BAR_SPAN_S = 60
_FOOTPRINT_SPAN_S = 1

_Row = TypeVar("_Row", BarRow, FootprintRow)
_Revisions = dict[RowKey, tuple[_Row, int, int]]
"""key -> (row as it is stored now, its rev, its lane)."""


class StoreLimits(msgspec.Struct, frozen=True):
    """Bounds of the store."""

    commit_timeout_s: float = 15.0
    query_timeout_s: float = 10.0
    lock_retry_s: float = 5.0
    """After a lost connection the server may take a moment to free our own lock."""
    lock_poll_s: float = 0.1
    outbox_messages_max: int = 1_000
    """Messages in one outbox row: one unconfirmed message sends its row's others again."""
    postgres: PostgresLimits = PostgresLimits()


class Committed(msgspec.Struct, frozen=True):
    """What a flush changed; a row that was lowered and then written again counts once."""

    bars: int
    footprints: int
    messages: int


def _no_headers(symbol: str) -> str:
    return ""


class Store:
    """Everything a service writes to, and reads from, the database.

    `owner` names the instance ("ohlcv/0/1"): its lock and its outbox rows. `headers_for` gives the JSON header text
    of a symbol's messages. `epoch` marks message ids of another life of the database.
    """

    def __init__(
        self,
        dsn: str,
        owner: str,
        *,
        headers_for: Callable[[str], str] = _no_headers,
        epoch: str = "",
        limits: StoreLimits | None = None,
    ) -> None:
        self.owner = owner
        self._dsn = dsn
        self._headers_for = headers_for
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

    async def commit(self, batch: Batch, *, force: bool = False) -> Committed:
        """Write a batch in one transaction; exactly the rows that changed are announced, in the same transaction.

        Committing the same batch again changes and announces nothing, so after any error the caller repeats it.
        `force` skips the grade rule. Raises Reconnect when it is not known whether the commit happened, TryLater when
        the server has no room, Superseded when another process took the lock meanwhile.
        """
        if not batch:
            return Committed(0, 0, 0)
        async with self._writer_turn:
            return await self._commit(batch, force)

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

    async def _commit(self, batch: Batch, force: bool) -> Committed:
        con = await self._owned_writer()
        try:
            with named_errors():
                async with asyncio.timeout(self._limits.commit_timeout_s), con.transaction():
                    return await self._write(con, batch, force)
        except TryLater as error:
            if isinstance(error, Reconnect):
                log.warning("commit in doubt", extra={"owner": self.owner, "error": str(error)})
                self._drop_writer()
            raise
        except BaseException:
            self._drop_writer()
            raise

    def _drop_writer(self) -> None:
        if self._writer is not None:
            self._writer.terminate()
        self._writer = None
        self._owned = False

    async def _owned_writer(self) -> Connection:
        if self._writer is not None and self._owned and not self._writer.is_closed():
            return self._writer
        try:
            async with asyncio.timeout(self._limits.lock_retry_s):
                while not await self.acquire():  # noqa: ASYNC110 - a server's lock has no event
                    await asyncio.sleep(self._limits.lock_poll_s)
        except TimeoutError as error:
            if self._writer is None:
                raise Reconnect("database: no connection in time") from error
            raise Superseded(f"another process holds the write lock of {self.owner}") from error
        assert self._writer is not None
        return self._writer

    async def _write(self, con: Connection, batch: Batch, force: bool) -> Committed:
        bars: _Revisions[BarRow] = {}
        footprints: _Revisions[FootprintRow] = {}
        if batch.retractions:
            await _retract(con, batch.retractions, bars, footprints)
        statement = sql.UPSERT_FORCED if force else sql.UPSERT
        for changed in await con.fetch(statement, *sql.upsert_arguments(batch)):
            key = (changed["symbol"], changed["time"])
            if changed["kind"] == "bar":
                bars[key] = (batch.bars[key], changed["rev"], batch.bar_lanes[key])
            else:
                footprints[key] = (batch.footprints[key], changed["rev"], batch.footprint_lanes[key])
        if batch.clearances:
            await _clear_others(con, batch.clearances, footprints)
        if batch.gaps:
            await con.execute(sql.UPSERT_GAPS, *sql.gap_arguments(gap for _, gap in sorted(batch.gaps.items())))
        messages = self._messages(bars, footprints)
        if messages:
            await con.executemany(sql.INSERT_OUTBOX, self._outbox_rows(messages))
        return Committed(len(bars), len(footprints), len(messages))

    def _messages(
        self, bars: Mapping[RowKey, tuple[BarRow, int, int]], footprints: Mapping[RowKey, tuple[FootprintRow, int, int]]
    ) -> list[OutgoingMessage]:
        """Announce rows in the order in which their spans ended, so that a minute follows its seconds."""
        ordered: list[tuple[int, str, int, OutgoingMessage]] = []
        for (symbol, time), (row, rev, lane) in footprints.items():
            ordered.append((time + _FOOTPRINT_SPAN_S, symbol, 0, footprint_message(row, rev, lane)))
        for (symbol, time), (row, rev, lane) in bars.items():
            ordered.append((time + _BAR_SPAN_S, symbol, 1, bar_message(row, rev, lane)))
        ordered.sort(key=lambda entry: entry[:3])
        return [self._dressed(message, symbol) for _, symbol, _, message in ordered]

    def _dressed(self, message: OutgoingMessage, symbol: str) -> OutgoingMessage:
        headers = self._headers_for(symbol)
        if not headers and not self._epoch:
            return message
        ident = f"{message.message_id}~{self._epoch}" if self._epoch else message.message_id
        return OutgoingMessage(message.key, ident, message.body, message.lane, headers)

    def _outbox_rows(self, messages: list[OutgoingMessage]) -> list[tuple[object, ...]]:
        most = self._limits.outbox_messages_max
        rows: list[tuple[object, ...]] = []
        for lane in sorted({m.lane for m in messages}):
            mine = [m for m in messages if m.lane == lane]
            for start in range(0, len(mine), most):
                part = mine[start : start + most]
                keys, ids, headers = [m.key for m in part], [m.message_id for m in part], [m.headers for m in part]
                rows.append((self.owner, lane, keys, ids, headers, [m.body for m in part]))
        return rows


async def _retract(
    con: Connection, retractions: list[Retraction], bars: _Revisions[BarRow], footprints: _Revisions[FootprintRow]
) -> None:
    """Lower stored rows and note what they are now; a correction of what was published is urgent, so it goes live."""
    arguments = sql.retraction_arguments(retractions)
    for record in await con.fetch(sql.RETRACT_BARS, *arguments):
        bars[record["symbol"], record["time"]] = (_row(BarRow, record), record["rev"], LANE_LIVE)
    for record in await con.fetch(sql.RETRACT_FOOTPRINTS, *arguments):
        footprints[record["symbol"], record["time"]] = (_row(FootprintRow, record), record["rev"], LANE_LIVE)


async def _clear_others(con: Connection, clearances: list[Clearance], footprints: _Revisions[FootprintRow]) -> None:
    """Delete seconds of a fallback venue in which the primary was quiet; whoever heard of one is told so."""
    for r in await con.fetch(sql.CLEAR_OTHERS, *sql.clearance_arguments(clearances)):
        close = trim_decimal(r["close"])
        quiet = FootprintRow(
            time=r["time"], symbol=r["symbol"], open=close, high=close, low=close, close=close,
            buy_vol="0", sell_vol="0", buy_quote="0", sell_quote="0", n=0, first_id=None, last_id=None,
            source=r["source"], complete=True, grade=GRADE_EXACT,
        )  # fmt: skip
        footprints[r["symbol"], r["time"]] = (quiet, r["rev"], LANE_REPAIR)


def _row(kind: type[_Row], record: asyncpg.Record) -> _Row:
    """A stored row as its struct, numbers in canonical text."""
    texts = {name for name, kind_name in kind.__annotations__.items() if "str" in kind_name} - {"symbol", "source"}
    values = {name: record[name] for name in kind.__struct_fields__}
    return msgspec.convert(
        {name: trim_decimal(v) if name in texts and v is not None else v for name, v in values.items()}, kind
    )
