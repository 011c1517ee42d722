"""`trading-bus retain`: old chunks dropped, where the database's edition does not do it by itself."""

from __future__ import annotations

import asyncio
import datetime as dt

import asyncpg
import click
import msgspec

from common.errors import ConfigError, TryLater
from common.postgres import Connection, connect, named_errors
from influencer_ingestor.watched import LONG_KNOWN_DAYS
from ops.gaps_options import dsn_option, find_dsn

STATEMENT_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = 5

_LICENSE = "SELECT current_setting('timescaledb.license', true)"
_CHUNKS = """
SELECT c.range_start, c.range_end,
       pg_total_relation_size(format('%I.%I', c.chunk_schema, c.chunk_name)::regclass) AS bytes
  FROM timescaledb_information.chunks c
 WHERE c.hypertable_schema = current_schema() AND c.hypertable_name = $1
   AND c.range_end <= now() - make_interval(days => $2)
 ORDER BY c.range_start
"""
_REPAIRABLE = ("footprint_1s", "raw_bars")
_OPEN_GAPS = """
SELECT symbol, from_time, coalesce(to_time, from_time) AS to_time
  FROM feed_gaps WHERE status = 'open' AND service = 'ohlcv'
"""
"""Other services' gaps are repaired, or given up, within seconds, and by none of these tables."""
_FORGET = """
DELETE FROM footprint_deleted
 WHERE time < least(now() - make_interval(days => $1),
                    (SELECT min(range_start) FROM timescaledb_information.chunks
                      WHERE hypertable_schema = current_schema() AND hypertable_name = 'footprint_1s'))
"""
"""A mark goes after the seconds around it: while they are there, one may be written again, and its rev goes on."""
_POLICIES = """
SELECT t.name, t.days, j.job_id, j.config->>'drop_after' AS drop_after
  FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS t(name, days, n)
  LEFT JOIN timescaledb_information.jobs j ON j.proc_name = 'policy_retention'
   AND j.hypertable_schema = current_schema() AND j.hypertable_name = t.name
 WHERE (j.config->>'drop_after')::interval IS DISTINCT FROM make_interval(days => t.days)
 ORDER BY t.n
"""
_DROP = "SELECT drop_chunks($1::regclass, older_than => $2::timestamptz, newer_than => $3::timestamptz)"


class Chunk(msgspec.Struct, frozen=True):
    """One chunk of a table: what it spans, and how much room it takes."""

    from_time: dt.datetime
    to_time: dt.datetime
    size_bytes: int


class OpenGap(msgspec.Struct, frozen=True):
    """A hole that may still be repaired, as far as its end is known."""

    symbol: str
    from_time: dt.datetime
    to_time: dt.datetime


@click.command(
    epilog="\b\nExamples:\n  trading-bus retain --dry-run\n  trading-bus retain --footprint-days 14\n"
    "Once a day, from cron:\n  25 3 * * *  trading-bus retain"
)
@dsn_option
@click.option(
    "--footprint-days", envvar="RETAIN_FOOTPRINT_DAYS", show_envvar=True, type=click.IntRange(1, 36_500), default=30,
    show_default=True, help="Keep the seconds of footprint_1s so many days.",
)  # fmt: skip
@click.option(
    "--bars-days", envvar="RETAIN_BARS_DAYS", show_envvar=True, type=click.IntRange(1, 36_500), default=400,
    show_default=True, help="Keep the minutes of raw_bars so many days.",
)  # fmt: skip
@click.option(
    "--samples-days", envvar="RETAIN_SAMPLES_DAYS", show_envvar=True, type=click.IntRange(2, 36_500), default=30,
    show_default=True, help="Keep the spreads of book_samples so many days.",
)  # fmt: skip
@click.option(
    "--metrics-days", envvar="RETAIN_METRICS_DAYS", show_envvar=True, type=click.IntRange(1, 36_500), default=100,
    show_default=True, help="Keep the windows of metric_15s so many days.",
)  # fmt: skip
@click.option(
    "--events-days", envvar="RETAIN_EVENTS_DAYS", show_envvar=True,
    # Not fewer: what the tables dropped must not be taken for missed.
    type=click.IntRange(LONG_KNOWN_DAYS + 1, 36_500), default=90, show_default=True,
    help="Keep the raw events of influencer_raw_events so many days.",
)  # fmt: skip
@click.option(
    "--signals-days", envvar="RETAIN_SIGNALS_DAYS", show_envvar=True,
    type=click.IntRange(LONG_KNOWN_DAYS + 1, 36_500), default=400, show_default=True,
    help="Keep the signals of influencer_signals so many days.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be dropped.")
def retain(
    dsn: str | None, footprint_days: int, bars_days: int, samples_days: int, metrics_days: int, events_days: int,
    signals_days: int, dry_run: bool,
) -> None:  # fmt: skip
    """Drop whole chunks that are older than they must be kept; to be run once a day.

    The login must own the tables (as the one that migrates does): nobody else may drop chunks.

    A chunk that an open gap still touches is kept and named, until `trading-bus gaps --repair` has ended the gap.
    TimescaleDB's Community edition drops chunks by its own policies, open gaps or not: there it is an error when they
    keep a table for other days than these options, and only marks of deleted seconds go.
    """
    if signals_days < events_days:
        raise ConfigError(
            f"--signals-days {signals_days} is below --events-days {events_days}: "
            "a replay of the raw events would find those signals missing, and publish them again"
        )
    days = {
        "footprint_1s": footprint_days, "raw_bars": bars_days, "book_samples": samples_days,
        "metric_15s": metrics_days, "influencer_raw_events": events_days, "influencer_signals": signals_days,
    }  # fmt: skip
    asyncio.run(_retain(find_dsn(dsn), days, dry_run))


async def _retain(dsn: str, days: dict[str, int], dry_run: bool) -> None:
    con = await connect(dsn, "ops/retain")
    try:
        with named_errors():
            if await con.fetchval(_LICENSE) == "timescale":
                await check_policies(con, days)
                click.echo("no chunks to drop: retention policies of TimescaleDB's Community edition do it")
            else:
                await _retain_tables(con, days, dry_run)
            if not dry_run:
                await con.execute(_FORGET, days["footprint_1s"])
    finally:
        await con.close()


async def check_policies(con: Connection, days: dict[str, int]) -> None:
    """Raise ConfigError where a retention policy keeps a table for other days, or there is none."""
    wrong: list[str] = []
    for r in await con.fetch(_POLICIES, list(days), list(days.values())):
        if r["job_id"] is None:
            wrong.append(f"{r['name']}: to be kept {r['days']} days, but it has no retention policy that would drop it")
            continue
        config = f"jsonb_set(config, '{{drop_after}}', '\"{r['days']} days\"')"
        wrong.append(
            f"{r['name']}: to be kept {r['days']} days, but its retention policy drops after {r['drop_after']}; "
            f"give those days, or change the policy: SELECT alter_job(job_id, config => {config}) "
            f"FROM timescaledb_information.jobs WHERE job_id = {r['job_id']}"
        )
    if wrong:
        raise ConfigError("\n".join(wrong))


async def _retain_tables(con: Connection, days: dict[str, int], dry_run: bool) -> None:
    await con.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
    gaps = [OpenGap(r["symbol"], r["from_time"], r["to_time"]) for r in await con.fetch(_OPEN_GAPS)]
    for table, keep_days in days.items():
        await _retain_table(con, table, keep_days, gaps if table in _REPAIRABLE else [], dry_run)


async def _retain_table(con: Connection, table: str, keep_days: int, gaps: list[OpenGap], dry_run: bool) -> None:
    old = [Chunk(r["range_start"], r["range_end"], r["bytes"]) for r in await con.fetch(_CHUNKS, table, keep_days)]
    drop, kept = part_chunks(old, gaps)
    for chunk, gap in kept:
        click.echo(f"{table} {_span(chunk)} kept: an open gap of {gap.symbol} touches it")
    for chunk in drop:
        if not dry_run:
            await _drop(con, table, chunk)
        click.echo(f"{table} {_span(chunk)} {'would be ' if dry_run else ''}dropped")
    size = sum(chunk.size_bytes for chunk in drop) / 1e6
    done = "to drop" if dry_run else "dropped"
    click.echo(f"{table}: {len(drop)} chunks older than {keep_days} days {done}, {size:.1f} MB, {len(kept)} kept")


async def _drop(con: Connection, table: str, chunk: Chunk) -> None:
    try:
        await con.fetch(_DROP, table, chunk.to_time, chunk.from_time, timeout=STATEMENT_TIMEOUT_S)
    except asyncpg.LockNotAvailableError as error:
        raise TryLater(f"{table} {_span(chunk)} is in use for more than {LOCK_TIMEOUT_S} s: run this again") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigError(f"{table}: {error}; give the login that migrates, it owns the tables") from error


def part_chunks(old: list[Chunk], gaps: list[OpenGap]) -> tuple[list[Chunk], list[tuple[Chunk, OpenGap]]]:
    """Chunks to drop, and those to keep with a gap that touches each.

    What was left open for an operator must stay repairable beside the rows that are there; only the chunks it touches
    are kept, so that one forgotten gap does not fill the disk.
    """
    drop: list[Chunk] = []
    kept: list[tuple[Chunk, OpenGap]] = []
    for chunk in old:
        gap = next((g for g in gaps if g.from_time < chunk.to_time and g.to_time >= chunk.from_time), None)
        if gap is None:
            drop.append(chunk)
        else:
            kept.append((chunk, gap))
    return drop, kept


def _span(chunk: Chunk) -> str:
    return f"{chunk.from_time:%Y-%m-%d %H:%M} to {chunk.to_time:%Y-%m-%d %H:%M}"
