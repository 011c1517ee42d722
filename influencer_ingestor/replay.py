"""Signals made again from stored raw events: an audit of the table, and the way back after a mistake."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import asyncpg
import msgspec
from msgspec.structs import replace

from common.contracts import LANE_REPAIR, OutgoingMessage, SignalRow, signal_message
from common.database import Database
from common.errors import Refused
from common.postgres import Connection
from influencer_ingestor import statements as sql
from influencer_ingestor.configuration import read_account
from influencer_ingestor.events import Account, Arrived, Source
from influencer_ingestor.hyperliquid import parse_fill
from influencer_ingestor.signals import Margin, make_signal
from influencer_ingestor.tracing import message_headers

PAGE_ROWS = 5_000


class Totals(msgspec.Struct):
    """What a replay saw; `missing` are signals that the table lacks (and that it has now, if they were written)."""

    fills: int = 0
    signals: int = 0
    stored: int = 0
    missing: int = 0


async def replay_all(dsn: str, since_ms: int, only: frozenset[str], write: bool, say: Callable[[str], None]) -> Totals:
    """Go through the raw fills of the table's accounts; raises TryLater, Refused for an influencer nobody knows."""
    database = Database(dsn, f"influencer-replay/{os.getpid()}")
    totals = Totals()
    try:
        accounts = [read_account(row) for row in await database.query(sql.READ_ACCOUNTS)]
        unknown = only - {account.influencer_id for account in accounts}
        if unknown:
            raise Refused(f"{', '.join(sorted(unknown))} is not in the table influencers")
        for account in accounts:
            if not only or account.influencer_id in only:
                before = totals.missing
                await _replay(database, account, since_ms, write, totals)
                say(f"{account.influencer_id}: {totals.missing - before} missing")
        return totals
    finally:
        await database.close()


async def _replay(database: Database, account: Account, since_ms: int, write: bool, totals: Totals) -> None:
    margins = {
        row["coin"]: Margin(row["leverage"], row["margin_mode"])
        for row in await database.query(sql.READ_POSITIONS, account.address)
    }
    at_ms, at_id = since_ms, ""
    while True:
        rows = await database.query(sql.READ_FILLS_SINCE, account.address, at_ms, at_id, PAGE_ROWS)
        signals = [signal for row in rows if (signal := _signal(row, account, margins)) is not None]
        known = await database.query(sql.READ_SIGNAL_IDS, [signal.signal_id for signal in signals])
        stored = {row["signal_id"] for row in known}
        missing = [signal for signal in signals if signal.signal_id not in stored]
        if write and missing:
            await _write(database, account, missing)
        totals.fills += len(rows)
        totals.signals += len(signals)
        totals.stored += len(signals) - len(missing)
        totals.missing += len(missing)
        if len(rows) < PAGE_ROWS:
            return
        at_ms, at_id = parse_fill(rows[-1]["raw"].encode(), account.address).time_ms, rows[-1]["id"]


def _signal(row: asyncpg.Record, account: Account, margins: dict[str, Margin]) -> SignalRow | None:
    fill = parse_fill(row["raw"].encode(), account.address)
    signal = make_signal(Arrived(fill, row["received_ms"], Source(row["source"])), account, margins.get(fill.coin))
    return signal if isinstance(signal, SignalRow) else None


async def _write(database: Database, account: Account, missing: Sequence[SignalRow]) -> None:
    async def write(con: Connection) -> tuple[None, list[OutgoingMessage]]:
        new = {record["signal_id"] for record in await con.fetch(sql.INSERT_SIGNALS, *sql.signal_arguments(missing))}
        messages = [
            replace(signal_message(signal, LANE_REPAIR), headers=message_headers(signal, account.address, False))
            for signal in missing
            if signal.signal_id in new
        ]
        return None, messages

    await database.transact(write)
