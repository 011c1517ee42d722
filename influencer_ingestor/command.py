"""`influencer ...`: whom to watch, and signals made again from raw events."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import click
import msgspec
import yaml

from common.contracts import format_time_ms
from common.errors import BadInput, ConfigError, Refused
from common.postgres import Connection, connect, named_errors
from influencer_ingestor.configuration import market_of_name
from influencer_ingestor.hyperliquid import read_address

T = TypeVar("T")

IMPORT_MAX = 10_000
FILE_BYTES_MAX = 5_000_000

_DSN = click.option("--dsn", envvar="TS_DSN", show_envvar=True, required=True, help="The database.")

_UPSERT = """
INSERT INTO influencers AS i (address, influencer_id, label, priority, markets, backoff_first_s, backoff_max_s, enabled)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (address) DO UPDATE
   SET influencer_id = excluded.influencer_id, label = excluded.label, priority = excluded.priority,
       markets = excluded.markets, backoff_first_s = excluded.backoff_first_s, backoff_max_s = excluded.backoff_max_s,
       enabled = excluded.enabled
RETURNING xmax = 0 AS is_new
"""
_LIST = """
SELECT i.*,
       (SELECT count(*) FROM influencer_positions p WHERE p.address = i.address AND p.size <> 0) AS held,
       (SELECT max(s.time) FROM influencer_signals s WHERE s.influencer_id = i.influencer_id) AS last
  FROM influencers i ORDER BY priority DESC, influencer_id
"""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One account of an import file; only `address` and `id` are needed."""

    address: str
    id: str
    label: str = ""
    priority: int = 0
    markets: list[str] | None = None
    backoff_first_s: float | None = None
    backoff_max_s: float | None = None
    enabled: bool = True


@click.group(
    epilog="\b\nExamples:\n  trading-bus influencer add 0x5078c2fbea2b2ad61bc840bc023e35fce56bedb6 --id whale-1\n"
    "  trading-bus influencer list"
)
def influencer() -> None:
    """Say whose positions on Hyperliquid are followed; a running service takes changes at once."""


@influencer.command(
    epilog="\b\nExample:\n  trading-bus influencer add 0x5078c2fbea2b2ad61bc840bc023e35fce56bedb6 --id whale-1 "
    "--market ETH-PERP --market BTC-PERP"
)
@click.argument("address")
@click.option("--id", "influencer_id", required=True, help="Internal id: the influencerId of its signals.")
@click.option("--label", default="", help="For people.")
@click.option("--priority", default=0, show_default=True, help="Larger is heard first, and polled more often.")
@click.option("--market", "markets", multiple=True, help="Only signals of this market; several times for more.")
@click.option("--backoff-first-s", type=click.FloatRange(min=0.01), help="First wait before connecting again.")
@click.option("--backoff-max-s", type=click.FloatRange(min=0.01), help="Longest wait before connecting again.")
@click.option("--disabled", is_flag=True, help="Only write it down.")
@_DSN
def add(address: str, influencer_id: str, markets: tuple[str, ...], disabled: bool, dsn: str, **others: Any) -> None:
    """Watch an account, or change what is written of it.

    Its signals begin now: what it did before is stored, never signalled. An account that is enabled again begins anew.
    """
    entry = Entry(
        address, influencer_id, others["label"], others["priority"], list(markets) or None,
        others["backoff_first_s"], others["backoff_max_s"], not disabled,
    )  # fmt: skip
    new, changed = _run(dsn, lambda con: write_entries(con, [entry]))
    click.echo(f"{influencer_id}: {'added' if new else 'changed' if changed else 'unchanged'}")


@influencer.command("list", epilog="\b\nExample:\n  trading-bus influencer list --json")
@click.option("--json", "as_json", is_flag=True, help="A list as JSON.")
@_DSN
def list_accounts(as_json: bool, dsn: str) -> None:
    """List the accounts; whether each is heard or polled says `trading-bus status`."""
    rows = _run(dsn, lambda con: con.fetch(_LIST))
    if as_json:
        click.echo(msgspec.json.encode([dict(row) for row in rows]))
        return
    if not rows:
        click.echo("nobody is watched: trading-bus influencer add ADDRESS --id NAME")
        return
    click.echo(
        f"{'id':<20}  {'address':<42}  {'prio':>4}  {'state':<8}  {'since':<20}  {'held':>4}  {'last signal':<20}"
    )
    for row in rows:
        last = "-" if row["last"] is None else f"{row['last']:%Y-%m-%dT%H:%M:%SZ}"
        state = "enabled" if row["enabled"] else "disabled"
        markets = "" if row["markets"] is None else "  only " + " ".join(row["markets"])
        click.echo(
            f"{row['influencer_id']:<20}  {row['address']}  {row['priority']:>4}  {state:<8}  "
            f"{row['added_at']:%Y-%m-%dT%H:%M:%SZ}  {row['held']:>4}  {last:<20}{markets}"
        )


@influencer.command(epilog="\b\nExample:\n  trading-bus influencer remove whale-1")
@click.argument("name")
@_DSN
def remove(name: str, dsn: str) -> None:
    """Watch an account (its id or its address) no more; what is stored of it stays."""
    gone = _run(
        dsn,
        lambda con: con.fetchval(
            "DELETE FROM influencers WHERE address = lower($1) OR influencer_id = $1 RETURNING influencer_id", name
        ),
    )
    if gone is None:
        raise Refused(f"{name} is not watched: `trading-bus influencer list` names all")
    click.echo(f"{gone}: removed")


@influencer.command(
    "import",
    epilog="\b\nExample of a file:\n  - address: '0x5078c2fbea2b2ad61bc840bc023e35fce56bedb6'\n    id: whale-1\n"
    "    priority: 10\n    markets: [ETH-PERP, BTC-PERP]\n\b\nExample:\n  trading-bus influencer import whales.yml",
)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--exact", is_flag=True, help="Remove accounts that the file does not name.")
@_DSN
def import_file(file: Path, exact: bool, dsn: str) -> None:
    """Add or change the accounts of a YAML file: all of them, or with one wrong line none."""
    entries = read_entries(file)
    new, changed = _run(dsn, lambda con: write_entries(con, entries, exact=exact))
    click.echo(f"{len(entries)} accounts: {new} added, {changed} changed, {len(entries) - new - changed} unchanged")


@influencer.command(epilog="\b\nExample:\n  trading-bus influencer replay --since 2026-11-01T00:00:00Z --write")
@click.option("--since", required=True, help="From this time of the venue on, RFC 3339.")
@click.option("--id", "only", multiple=True, help="Only this influencer; several times for more.")
@click.option("--write", is_flag=True, help="Store and publish signals that are missing; without it only count.")
@_DSN
def replay(since: str, only: tuple[str, ...], write: bool, dsn: str) -> None:
    """Make signals again from the raw events: the same fills give the same ids.

    Prints how many of them are stored. With --write those that are not are written, and left for a running service to
    publish (`trading-bus outbox drain` does it too). Fills from before an account was added give none. Exit code 1 when
    some are missing and nothing was written.
    """
    from influencer_ingestor.replay import replay_all

    try:
        moment = dt.datetime.fromisoformat(since)
    except ValueError as error:
        raise ConfigError(f"--since: {since!r} is not a time such as 2026-11-01T00:00:00Z") from error
    if moment.tzinfo is None:
        raise ConfigError("--since: say the zone, such as Z")
    totals = asyncio.run(replay_all(dsn, int(moment.timestamp() * 1000), frozenset(only), write, click.echo))
    click.echo(
        f"{totals.fills} fills since {format_time_ms(int(moment.timestamp() * 1000))}: {totals.signals} signals, "
        f"{totals.stored} stored, {totals.missing} missing{', now written' if write and totals.missing else ''}"
    )
    if totals.missing and not write:
        raise Refused(f"{totals.missing} signals are missing: --write stores and publishes them")


def read_entries(file: Path) -> list[Entry]:
    """The accounts of a file; raises ConfigError with the first line that is wrong."""
    if file.stat().st_size > FILE_BYTES_MAX:
        raise ConfigError(f"{file}: larger than {FILE_BYTES_MAX} bytes")
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from error
    told = told.get("influencers") if isinstance(told, Mapping) else told  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    try:
        entries = msgspec.convert(told, list[Entry])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {error} (an address is quoted: YAML takes 0x.. for a number)") from error
    if len(entries) > IMPORT_MAX:
        raise ConfigError(f"{file}: {len(entries)} accounts, at most {IMPORT_MAX}")
    try:
        entries = [msgspec.structs.replace(entry, address=read_address(entry.address)) for entry in entries]
    except BadInput as error:
        raise ConfigError(f"{file}: {error}") from error
    for kind, names in (("address", [e.address for e in entries]), ("id", [e.id for e in entries])):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"{file}: {kind} {twice[0]} stands there twice")
    return entries


async def write_entries(con: Connection, entries: list[Entry], *, exact: bool = False) -> tuple[int, int]:
    """Write accounts in one transaction; returns how many are new and how many changed. Raises ConfigError."""
    new = changed = 0
    try:
        async with con.transaction():
            if exact:
                # First, so that who goes leaves its id to who comes.
                await con.execute(
                    "DELETE FROM influencers WHERE address <> ALL($1::text[])", [e.address for e in entries]
                )
            for entry in entries:
                values = _values(entry)
                before = await con.fetchrow("SELECT * FROM influencers WHERE address = $1", values[0])
                if before is not None and _same(before, values):
                    continue
                is_new = await con.fetchval(_UPSERT, *values)
                new, changed = new + is_new, changed + (not is_new)
    except asyncpg.UniqueViolationError as error:
        raise ConfigError(f"an id belongs to one account: {error.detail}") from error
    except asyncpg.CheckViolationError as error:
        raise ConfigError(f"{error.constraint_name}: an id has 1 to 64 characters, backoffs are positive") from error
    return new, changed


def _values(entry: Entry) -> tuple[object, ...]:
    try:
        address = read_address(entry.address)
    except BadInput as error:
        raise ConfigError(str(error)) from error
    if not entry.id.isprintable() or not entry.id.strip():
        raise ConfigError(f"{entry.id!r} is not an id: give some printable characters")
    if not -(2**31) <= entry.priority < 2**31:
        raise ConfigError(f"{entry.id}: priority {entry.priority} is out of range")
    markets = None if entry.markets is None else sorted({market_of_name(market) for market in entry.markets})
    return (
        address, entry.id, entry.label, entry.priority, markets, entry.backoff_first_s, entry.backoff_max_s,
        entry.enabled,
    )  # fmt: skip


def _same(before: asyncpg.Record, values: tuple[object, ...]) -> bool:
    names = (
        "address", "influencer_id", "label", "priority", "markets", "backoff_first_s", "backoff_max_s", "enabled",
    )  # fmt: skip
    return tuple(before[name] for name in names) == values


def _run(dsn: str, act: Callable[[Connection], Awaitable[T]]) -> T:
    async def work() -> T:
        con = await connect(dsn, "trading-bus/influencer")
        try:
            with named_errors():
                return await act(con)
        finally:
            con.terminate()

    return asyncio.run(work())
