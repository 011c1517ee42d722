"""`trading-bus gaps`: what is missing, and repairing by hand what no ingestor repairs by itself."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

import click
from msgspec.structs import asdict
from rich.console import Console
from rich.table import Table

from common.contracts import GapStatus, format_time
from common.errors import BadInput, ConfigError, Refused
from common.store import Store
from ops.gaps_ledger import Entry, read_ledger
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
from ops.gaps_plan import UNPROVEN, Ages, choose_gaps
from ops.gaps_repair import Outcome, missing_ids, repair_gap
from ops.gaps_venue import Asker

OWNER = "ops/gaps"
DAY_S = 86_400

_EPILOG = """\b
Examples:
  trading-bus gaps
  trading-bus gaps --symbol SOLUSDT --status repaired --since 6h
  trading-bus gaps --repair
  trading-bus gaps --repair --again --weight-per-min 1200
"""


@click.command(epilog=_EPILOG)
@dsn_option
@rmq_option
@rest_option
@click.option("--symbol", "symbols", multiple=True, help="Only this pair; may be repeated.")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice([s.value for s in GapStatus]),
    help="Only gaps of this status; may be repeated. Default: open, and source_missing of the last day.",
)  # fmt: skip
@click.option("--since", help="Only gaps that reach past this: 2h, 3d, or an ISO time (UTC).")
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of a table.")
@click.option("--repair", is_flag=True, help="Repair what is older than the ingestors repair by themselves.")
@click.option("--again", is_flag=True, help="With --repair: ask once more for what the venue did not have.")
@click.option(
    "--backfill-minutes", envvar="BACKFILL_MINUTES", show_envvar=True, type=click.IntRange(1, 1_000), default=100,
    show_default=True, help="As the ingestors have it: younger gaps are theirs.",
)  # fmt: skip
@click.option(
    "--ring-s", envvar="RING_S", show_envvar=True, type=click.IntRange(120, 3_600), default=300, show_default=True,
    help="As the ingestors have it, in seconds: they hold these minutes in memory.",
)  # fmt: skip
@weight_option
@epoch_option
def gaps(
    dsn: str | None, rmq_url: str | None, rest_url: str, symbols: tuple[str, ...], statuses: tuple[str, ...],
    since: str | None, as_json: bool, repair: bool, again: bool, backfill_minutes: int, ring_s: int,
    weight_per_min: int, bus_epoch: str,
) -> None:  # fmt: skip
    """List the holes in the venues' trade ids; with --repair fill the old ones from the venue.

    Each gap's minutes are fetched anew, proven by the venue's count of its trades, written and published as revisions.
    It works beside running ingestors, and may be interrupted and run again. Exit code 0 when no gap is open, else 1;
    2 for wrong usage.
    """
    database = find_dsn(dsn)
    if not repair:
        if again:
            raise ConfigError("--again needs --repair")
        from_s = None if since is None else read_moment(since, int(time.time()), "--since")
        sys.exit(asyncio.run(_list(database, symbols, statuses, from_s, as_json)))
    if statuses or since or as_json:
        raise ConfigError("--repair takes neither --status, --since nor --json")
    ages = Ages(60 * backfill_minutes, ring_s)
    sys.exit(
        asyncio.run(_repair(database, find_rmq_url(rmq_url), rest_url, symbols, ages, again, weight_per_min, bus_epoch))
    )


async def _list(dsn: str, symbols: Sequence[str], statuses: Sequence[str], from_s: int | None, as_json: bool) -> int:
    store = Store(dsn, OWNER)
    try:
        ledger = await read_ledger(store, list(GapStatus), symbols)
    finally:
        await store.close()
    entries = select_entries(ledger, [GapStatus(s) for s in statuses], from_s, int(time.time()))
    if as_json:
        click.echo(json.dumps([entry_fields(e) for e in entries]))
    else:
        _show(entries)
    return int(any(e.gap.status is GapStatus.OPEN for e in ledger))


def select_entries(
    ledger: Sequence[Entry], statuses: Sequence[GapStatus], from_s: int | None, now_s: int
) -> list[Entry]:
    """Entries to list: those of the statuses, or what asks for attention when none is named."""
    chosen: list[Entry] = []
    for entry in ledger:
        gap = entry.gap
        end_ms = gap.to_ms
        if statuses and gap.status not in statuses:
            continue
        since_s = from_s
        if not statuses:
            if gap.status not in (GapStatus.OPEN, GapStatus.SOURCE_MISSING):
                continue
            if gap.status is GapStatus.SOURCE_MISSING and since_s is None:
                since_s = now_s - DAY_S
        if since_s is None or end_ms is None or end_ms >= 1000 * since_s:
            chosen.append(entry)
    return chosen


def entry_fields(entry: Entry) -> dict[str, object]:
    """One gap for a script."""
    fields: dict[str, object] = asdict(entry.gap)
    return fields | {"status": entry.gap.status.value, "missing_ids": missing_ids([entry.gap]), "age_s": entry.age_s}


def _show(entries: Sequence[Entry]) -> None:
    if entries:
        table = Table("symbol", "status", "from", "to", "first id", "last id", "missing", "reason", "tries", "age")
        for e in entries:
            g = e.gap
            table.add_row(
                g.symbol, g.status.value, _moment(g.from_ms), _moment(g.to_ms), str(g.from_id),
                "open end" if g.to_id is None else str(g.to_id), str(missing_ids([g])), g.reason, str(g.tries),
                _age(e.age_s),
            )  # fmt: skip
        Console(width=None if sys.stdout.isatty() else 160).print(table)
    counts = Counter(e.gap.status.value for e in entries)
    click.echo(", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no gaps")


def _moment(ms: int | None) -> str:
    return "not known" if ms is None else format_time(ms // 1000)


def _age(age_s: int) -> str:
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if age_s >= 2 * unit_s:
            return f"{age_s // unit_s} {unit}"
    return f"{age_s} s"


async def _repair_all(
    store: Store, wake: Callable[[], None], asker: Asker, symbols: Sequence[str], ages: Ages, again: bool
) -> tuple[Outcome, int]:
    ledger = [e.gap for e in await read_ledger(store, UNPROVEN, symbols)]
    if not ledger:
        return Outcome(), 0
    choices = choose_gaps(ledger, await asker.now_s(), ages, again)
    total, left = Outcome(), 0
    for choice in choices:
        gap = choice.gap
        if choice.why_left:
            left += 1
            click.echo(f"{gap.symbol} {_moment(gap.from_ms)} left alone: {choice.why_left}")
            continue
        if gap not in [e.gap for e in await read_ledger(store, UNPROVEN, [gap.symbol])]:
            left += 1
            click.echo(f"{gap.symbol} {_moment(gap.from_ms)} left alone: it changed since the list was read; run again")
            continue
        click.echo(f"{gap.symbol} {_moment(gap.from_ms)} to {_moment(gap.to_ms)}: {missing_ids([gap])} ids missing")
        try:
            total += await repair_gap(store, asker, gap, _indented)
        except (Refused, BadInput) as error:
            left += 1
            click.echo(f"  left as it is: {error}")
        wake()
    return total, left


def _indented(line: str) -> None:
    click.echo(f"  {line}")


async def _repair(
    dsn: str, rmq_url: str, rest_url: str, symbols: Sequence[str], ages: Ages, again: bool, weight: int, epoch: str
) -> int:
    asker = Asker(rest_url, weight, click.echo)
    try:
        async with open_outlet(dsn, rmq_url, OWNER, epoch, click.echo) as outlet:
            total, left = await _repair_all(outlet.store, outlet.outbox.wake, asker, symbols, ages, again)
        click.echo(
            f"{total.repaired} repaired, {total.still_missing} still missing at the venue, {left} left alone, "
            f"{total.rows} rows changed"
        )
    finally:
        await asker.close()
    store = Store(dsn, OWNER)
    try:
        return int(bool(await read_ledger(store, [GapStatus.OPEN], symbols)))
    finally:
        await store.close()
