"""`trading-bus macro`: ask the macro vendors from here."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence

import click
import msgspec

from common.clock import Clock
from common.contracts import format_time
from common.database import Database
from common.errors import Refused, TradingBusError
from common.redact import Mask
from common.settings import load_settings, secret_values
from macro_ingestor.configured import Cast, Configured, configure
from macro_ingestor.door import Door
from macro_ingestor.ledger import read_left, take_call
from macro_ingestor.readings import Reading
from macro_ingestor.service import limits_of
from macro_ingestor.settings import MacroSettings
from macro_ingestor.standing import is_settled
from ops.status import quiet_logs

_EPILOG = "\b\nExamples:\n  trading-bus macro check\n  trading-bus macro check --provider etherscan --json"
_WIDTHS = (12, 19, 24, 21, 22, 9)
_Said = tuple[Reading | None, float, str]
"""The newest reading, how long it took, and what went wrong."""


class Line(msgspec.Struct, frozen=True):
    """What one provider said of one column; `calls_left` None where nothing limits them."""

    provider: str
    column: str
    value: str | None
    as_of: str | None
    source: str | None
    latency_s: float
    calls_left: int | None
    error: str = ""


@click.group(epilog="\b\nExample:\n  trading-bus macro check")
def macro() -> None:
    """Ask the vendors of macro data."""


@macro.command(epilog=_EPILOG)
@click.option("--provider", "only", multiple=True, help="Only this one; may be given several times.")
@click.option("--json", "as_json", is_flag=True, help="A list as JSON.")
def check(only: tuple[str, ...], as_json: bool) -> None:
    """Call every configured provider once, with the environment of the macro ingestor, and print what it says.

    As the service does, it asks a vendor that refuses several columns at once for each of them alone.
    A line per column: value, the vendor's own time, source, how long it took, and how many calls are left. The calls
    count against the same quotas as the service's; nothing is written but that. Exit code 1 when a provider fails.
    """
    settings = load_settings(MacroSettings)
    cast = configure(settings)
    unknown = [name for name in only if name not in cast.on]
    if unknown:
        known = ", ".join(cast.on) or "none"
        raise click.UsageError(f"{', '.join(unknown)} is not configured; these are: {known}")
    with quiet_logs("common", "macro_ingestor"):
        lines = asyncio.run(_check(settings, cast, [cast.on[name] for name in only] or list(cast.on.values()), as_json))
    if as_json:
        click.echo(msgspec.json.encode(lines))
    else:
        for one in cast.off:
            click.echo(f"{one.name:<{_WIDTHS[0]}}  off: {one.reason}")
    sys.exit(1 if any(line.error for line in lines) else 0)


async def _check(settings: MacroSettings, cast: Cast, chosen: Sequence[Configured], as_json: bool) -> list[Line]:
    clock = Clock(offset_s=settings.clock_offset_s)
    database = Database(settings.ts_dsn.get_secret_value(), f"macro-check/{os.getpid()}")
    mask = Mask(secret_values(settings))

    async def ask(one: Configured) -> list[Line]:
        lines = await _ask(one, settings, database, clock, mask)
        if not as_json:
            for line in lines:
                click.echo(_row(line))
        return lines

    try:
        if not as_json:
            heads = ("provider", "column", "value", "as of", "source", "latency")
            click.echo(
                "  ".join(f"{head:<{width}}" for head, width in zip(heads, _WIDTHS, strict=True)) + "  calls left"
            )
        return [line for lines in await asyncio.gather(*map(ask, chosen)) for line in lines]
    finally:
        await database.close()


async def _ask(one: Configured, settings: MacroSettings, database: Database, clock: Clock, mask: Mask) -> list[Line]:
    async def take(configured: Configured) -> bool:
        return await take_call(database, configured, clock.wall_ms() // 1000)

    door = Door(one, take, clock, limits_of(settings))
    door.is_on_trial = True
    name, now_s = one.provider.name, clock.wall_ms() // 1000
    columns = [offer.column for offer in one.offers]
    groups = [columns] if one.provider.together else [[column] for column in columns]
    found: dict[str, _Said] = {}
    try:
        while groups:
            group = groups.pop(0)
            try:
                found |= await _ask_group(one, door, group, now_s, mask)
            except Refused:
                groups = [[column] for column in group]  # one forbidden metric fails the whole request
        left = (await read_left(database, [one], clock.wall_ms() // 1000))[name]
    finally:
        await door.close()
    return [_line(name, column, *found[column], left) for column in columns]


async def _ask_group(one: Configured, door: Door, group: Sequence[str], now_s: int, mask: Mask) -> dict[str, _Said]:
    """What a call for these columns tells of each; raises Refused where asking each alone may tell more."""
    offers = [offer for offer in one.offers if offer.column in group]
    began_s = time.monotonic()
    readings: list[Reading] = []
    error = ""
    try:
        readings = await one.provider.fetch(door, group, min(offer.since_s(now_s) for offer in offers))
    except TradingBusError as failure:
        if isinstance(failure, Refused) and len(group) > 1:
            raise
        error = mask.hide(" ".join(str(failure).split()))
    took_s = time.monotonic() - began_s
    found: dict[str, _Said] = {}
    for offer in offers:
        mine = [r for r in readings if r.column == offer.column and is_settled(r, offer, now_s + 1)]
        newest = max(mine, key=lambda r: r.as_of, default=None)
        found[offer.column] = (newest, took_s, error or ("" if newest else "no value"))
    return found


def _line(name: str, column: str, reading: Reading | None, took_s: float, error: str, left: int | None) -> Line:
    if reading is None:
        return Line(name, column, None, None, None, round(took_s, 3), left, error)
    as_of = format_time(reading.as_of)
    return Line(name, column, reading.value, as_of, reading.source, round(took_s, 3), left, error)


def _row(line: Line) -> str:
    left = "no limit" if line.calls_left is None else str(line.calls_left)
    words = (line.provider, line.column, line.value or "-", line.as_of or "-", line.source or "-")
    words += (f"{1000 * line.latency_s:.0f} ms",)
    text = "  ".join(f"{word:<{width}}" for word, width in zip(words, _WIDTHS, strict=True))
    return f"{text}  {left}" + (f"  {line.error}" if line.error else "")
