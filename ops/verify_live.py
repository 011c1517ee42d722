"""`trading-bus verify live`: what is stored, held against what the venue says of the same minutes now."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager

import click

from common.clock import Clock
from common.contracts import REWRITER, Clearance, GapRow, GapStatus, format_time
from common.errors import ConfigError, Refused
from common.store import Store
from common.venues.binance_spot import MARKET
from common.venues.market import Kline
from ohlcv_ingestor.repair import PAGE, Answer, Ask, AskKlines
from ohlcv_ingestor.ring import minute_of
from ops.compare import list_lines
from ops.gaps_ledger import read_bars, read_ledger, read_seconds
from ops.gaps_options import (
    dsn_option,
    epoch_option,
    find_dsn,
    find_rmq_url,
    read_moment,
    rest_option,
    rmq_option,
    weight_option,
)
from ops.gaps_outlet import open_outlet
from ops.gaps_plan import SERVICE, UNPROVEN, VENUE, span_batch
from ops.gaps_refetch import SPAN_MAX_S, fetch_span
from ops.gaps_repair import correct_flat_bars
from ops.gaps_venue import Asker
from ops.verify_minutes import MinuteCounts, compare_minutes, join_runs

OWNER = "ops/verify"
SETTLE_S = 10
"""The venue's last seconds may still change."""

_BOUNDS = """
SELECT (SELECT extract(epoch FROM event_time)::bigint FROM ingest_cursors
         WHERE service = $1 AND venue = $2 AND symbol = $3) AS cursor_s,
       (SELECT extract(epoch FROM time)::bigint FROM raw_bars WHERE symbol = $3 ORDER BY time LIMIT 1) AS first_s
"""

_EPILOG = """\b
Examples:
  trading-bus verify live --symbol SOLUSDT --since 2h
  trading-bus verify live --symbol SOLUSDT --symbol BTCUSDT --since 2026-09-21T14:00Z --until 2026-09-21T16:00Z
  trading-bus verify live --symbol SOLUSDT --since 1d --repair
"""


@click.command(epilog=_EPILOG)
@dsn_option
@rmq_option
@rest_option
@click.option("--symbol", "symbols", multiple=True, required=True, help="A pair; may be repeated.")
@click.option("--since", required=True, help="From here on: 2h, 3d (before now), or an ISO time (UTC).")
@click.option("--until", help="Up to here, in the same words; as far as the symbol is stored if not given.")
@click.option("--repair", is_flag=True, help="Write the venue's own value over what differs, and publish it.")
@weight_option
@epoch_option
def live(
    dsn: str | None, rmq_url: str | None, rest_url: str, symbols: tuple[str, ...], since: str, until: str | None,
    repair: bool, weight_per_min: int, bus_epoch: str,
) -> None:  # fmt: skip
    """Compare stored bars with the venue's 1 m candles, and the seconds of each minute with its bar.

    Every data column of every complete minute; what the ledger explains is counted apart. Exit code 0 when all is
    equal (with --repair: was made equal), 1 when something differs or nothing could be compared, 2 for wrong usage.
    """
    database, broker = find_dsn(dsn), find_rmq_url(rmq_url) if repair else ""
    sys.exit(asyncio.run(_verify(database, broker, rest_url, symbols, since, until, repair, weight_per_min, bus_epoch)))


async def _verify(
    dsn: str, rmq_url: str, rest_url: str, symbols: tuple[str, ...], since: str, until: str | None, repair: bool,
    weight: int, epoch: str,
) -> int:  # fmt: skip
    asker = Asker(rest_url, weight, click.echo)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asker.close)
        now_s = await asker.now_s()
        from_s, to_s = read_moment(since, now_s, "--since"), now_s - SETTLE_S
        if until is not None:
            to_s = min(to_s, read_moment(until, now_s, "--until"))
        if to_s < from_s + 60:
            raise ConfigError(f"no whole minute lies between {format_time(from_s)} and {format_time(to_s)}")
        opened = open_outlet(dsn, rmq_url, OWNER, epoch, click.echo) if repair else None
        outlet = None if opened is None else await stack.enter_async_context(opened)
        store = outlet.store if outlet else await stack.enter_async_context(_reading(dsn))
        wrong, idle = 0, 0
        for symbol in dict.fromkeys(symbols):
            counts = await compare_symbol(store, asker, symbol, from_s, to_s)
            _tell(symbol, counts)
            if outlet and counts.wrong:
                await repair_minutes(store, asker, symbol, counts)
                outlet.outbox.wake()
                counts = await compare_symbol(store, asker, symbol, min(counts.wrong), max(counts.wrong) + 60)
                click.echo(f"{symbol} after the repair: {len(counts.wrong)} minutes differ")
            wrong += len(counts.wrong)
            idle += not counts.compared
        return int(wrong > 0 or idle > 0)


@asynccontextmanager
async def _reading(dsn: str) -> AsyncGenerator[Store]:
    store = Store(dsn, OWNER)
    try:
        yield store
    finally:
        await store.close()


async def compare_symbol(store: Store, asker: Asker, symbol: str, from_s: int, to_s: int) -> MinuteCounts:
    """Compare the whole minutes of [from_s, to_s), as far as the symbol is stored, a page of candles at a time."""
    bounds = (await store.query(_BOUNDS, SERVICE, VENUE, symbol))[0]
    if bounds["first_s"] is None or bounds["cursor_s"] is None:
        raise Refused(f"{symbol}: nothing is stored of it")
    at, until = -(-from_s // 60) * 60, minute_of(to_s)
    end = min(until, minute_of(bounds["cursor_s"]))
    counts = MinuteCounts(later=(max(at, end), until) if end < until else None)
    if at < bounds["first_s"]:
        # The venue may have years of it: what lies before the first row needs no call.
        counts.missing = (min(bounds["first_s"], until) - at) // 60
        at = bounds["first_s"]
    while at < end:
        page_end = min(end, at + 60 * PAGE)
        theirs = await asker.drive(symbol, _ask_minutes(at, page_end))
        ledger = [e.gap for e in await read_ledger(store, list(GapStatus), [symbol], 1000 * at, 1000 * page_end)]
        bars, seconds = await read_bars(store, symbol, at, page_end), await read_seconds(store, symbol, at, page_end)
        counts.add(compare_minutes(symbol, theirs, bars, seconds, ledger, bounds["first_s"]))
        at = page_end
    return counts


def _ask_minutes(from_s: int, to_s: int) -> Generator[Ask, Answer, list[Kline]]:
    return (yield AskKlines("1m", from_s, to_s)).klines


async def repair_minutes(store: Store, asker: Asker, symbol: str, counts: MinuteCounts) -> None:
    """Write what the venue says of the wrong minutes, whatever is stored: bar, seconds, and no second more."""
    for from_s, to_s in join_runs(sorted(counts.wrong), SPAN_MAX_S // 60):
        span = await asker.drive(symbol, fetch_span(from_s, to_s))
        near = [e.gap for e in await read_ledger(store, UNPROVEN, [symbol], 1000 * from_s, 1000 * to_s)]
        batch = span_batch(symbol, [span], near)
        for row in await read_seconds(store, symbol, from_s, to_s):
            if row.time not in span.bricks:
                batch.clear_others(Clearance(symbol, MARKET.source, row.time, row.time, own=True))
        # Whoever computes from these rows may be down, and the messages are gone when it comes back.
        batch.put_gap(note_rewriting(symbol, from_s, to_s))
        done = await store.commit(batch, force=True)
        changed = done.bars + done.footprints + await correct_flat_bars(store, symbol, span)
        click.echo(f"{symbol} {format_time(from_s)} to {format_time(to_s)} written anew: {changed} rows changed")
        for hole in span.holes:
            click.echo(f"{symbol} the venue itself lacks trades {hole.from_id} to {hole.to_id} there")


def note_rewriting(symbol: str, from_s: int, to_s: int) -> GapRow:
    """The row of the ledger that says when [from_s, to_s) was written anew."""
    now_ms = Clock().wall_ms()
    return GapRow(
        REWRITER, VENUE, symbol, now_ms, now_ms, 1000 * from_s, 1000 * to_s - 1, (), GapStatus.REPAIRED,
        "verify live --repair", 0,
    )  # fmt: skip


def _tell(symbol: str, counts: MinuteCounts) -> None:
    for line in list_lines(counts.differences):
        click.echo(line)
    apart = (
        (counts.incomplete, "incomplete"), (counts.fallback, "of the fallback venue"), (counts.missing, "not stored"),
        (counts.bare, "without seconds"),
    )  # fmt: skip
    more = "".join(f", {count} {what}" for count, what in apart if count)
    click.echo(f"{symbol}: {counts.equal} of {counts.compared} minutes equal{more}")
    if counts.later:
        from_s, to_s = counts.later
        minutes = f"{(to_s - from_s) // 60} minutes, {format_time(from_s)} to {format_time(to_s)},"
        click.echo(f"{symbol}: {minutes} lie past its cursor: not stored yet")
    if not (counts.compared or counts.wrong):
        click.echo(f"{symbol}: nothing was compared")
