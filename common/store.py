"""Price rows: one transaction per flush for rows, gaps, cursors and the messages that announce them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from common.database import Database, StoreLimits
from common.numbers import trim_decimal
from common.postgres import Connection

__all__ = ["Committed", "Store", "StoreLimits"]

_BAR_SPAN_S = 60
_FOOTPRINT_SPAN_S = 1

_Row = TypeVar("_Row", BarRow, FootprintRow)
_Revisions = dict[RowKey, tuple[_Row, int, int]]
"""key -> (row as it is stored now, its rev, its lane)."""


class Committed(msgspec.Struct, frozen=True):
    """What a flush changed; a row that was lowered and then written again counts once."""

    bars: int
    footprints: int
    messages: int


def _no_headers(symbol: str) -> str:
    return ""


class Store:
    """What writes price rows (see `Database` for `owner` and `epoch`).

    `headers_for` gives the JSON header text of a symbol's messages.
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
        self.database = Database(dsn, owner, epoch=epoch, limits=limits)
        self.acquire = self.database.acquire
        self.query = self.database.query
        self.close = self.database.close
        self._headers_for = headers_for

    async def commit(self, batch: Batch, *, force: bool = False) -> Committed:
        """Write a batch in one transaction; exactly the rows that changed are announced, in the same transaction.

        Committing the same batch again changes and announces nothing, so after any error the caller repeats it.
        `force` skips the grade rule. Raises what `Database.transact` raises.
        """
        if not batch:
            return Committed(0, 0, 0)
        return await self.database.transact(lambda con: self._write(con, batch, force))

    async def _write(self, con: Connection, batch: Batch, force: bool) -> tuple[Committed, Sequence[OutgoingMessage]]:
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
        return Committed(len(bars), len(footprints), len(messages)), messages

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
        if not headers:
            return message
        return OutgoingMessage(message.key, message.message_id, message.body, message.lane, headers)


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
