"""`registry ...`: the nightly run by hand, by a timer, or by its own schedule; and why a symbol is what it is."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from common.clock import Clock
from common.errors import BadInput, ConfigError, Refused, TradingBusError
from common.logs import configure_logging
from common.redact import redact_text
from common.service import run as live
from common.settings import load_settings, secret_values
from registry import run as nightly
from registry.facts import Facts
from registry.samples import moment_of, take_samples
from registry.settings import LookSettings, RegistrySettings
from registry.tables import read_population, read_rows, read_verdict
from registry.tables_text import render_changes, render_explain

T = TypeVar("T")
SettingsT = TypeVar("SettingsT", bound=RegistrySettings)

POPULATION_DAYS = 30


@click.group(epilog="\b\nExamples:\n  trading-bus registry run --dry-run\n  trading-bus registry explain SOL")
def registry() -> None:
    """Decide which symbols everything else listens to, every night, with reasons.

    Settings come from the environment: TS_DSN, RMQ_URL, and those of registry/settings.py.
    """


@registry.command(epilog="\b\nExamples:\n  trading-bus registry run --dry-run\n  trading-bus registry run")
@click.option("--dry-run", is_flag=True, help="Only print what would change and why; needs no broker.")
@click.option("--force", is_flag=True, help="Write even when the status of very many symbols changes.")
def run(dry_run: bool, force: bool) -> None:
    """Ask the vendors, judge every symbol, write coin_registry and publish what changed.

    Takes about a minute for 200 symbols. Without exchangeInfo, or while another run is at work, nothing changes and the
    exit code is 1. A run that would change the status of more than 30 % of the rows (symbol_registry.toml) stops and
    asks for --force.
    """
    click.echo("registry: asking the vendors ...", err=True)
    if dry_run:
        settings = _load(LookSettings)
        report = _await(_look(settings))
    else:
        settings = _load(RegistrySettings)
        report = _await(nightly.run(settings, force=force))
    click.echo(render_changes(report.night), nl=False)
    spent = ", ".join(f"{one.vendor} {one.calls} calls (weight {one.weight})" for one in report.spent)
    click.echo(f"took {report.seconds:.1f} s; {spent}")
    if not dry_run:
        rest = f", {report.waiting} of all wait for the broker" if report.waiting else ""
        click.echo(f"written at {report.night.run_at:%Y-%m-%dT%H:%M:%SZ}; {report.events} events{rest}")


@registry.command(epilog="\b\nFrom cron, every 5 minutes:\n  trading-bus registry sample")
def sample() -> None:
    """Store best bid and ask of now: a day of these is what a spread is the median of.

    Of every pair in the quotes of symbol_registry.toml for which both sides are offered.
    """
    settings = _load(LookSettings)
    limits = nightly.load_rules_of(settings).thresholds.universe
    click.echo(f"{_await(take_samples(settings, limits))} pairs sampled")


@registry.command(
    short_help="Tell why a symbol is what it is.", epilog="\b\nExample:\n  trading-bus registry explain SOL"
)
@click.argument("symbol")
def explain(symbol: str) -> None:
    """Tell why a symbol (base asset, e.g. SOL) is what it is: every component with its inputs, gates, its past."""
    settings = _load(LookSettings)
    click.echo(_await(_explain(settings, symbol.upper())), nl=False)


@registry.command(epilog="\b\nExample:\n  trading-bus registry train --output /etc/trading-bus/centroids.json")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), envvar="CENTROIDS_PATH", show_envvar=True,
    help="File to write; a run reads the one that CENTROIDS_PATH names.",
)  # fmt: skip
@click.option(
    "--days", type=click.IntRange(1, 3650), default=POPULATION_DAYS, show_default=True,
    help="Learn from symbols judged in so many days, each with its newest facts.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only print sizes and silhouette.")
def train(output: Path | None, days: int, dry_run: bool) -> None:
    """Fit new liquidity clusters to coin_registry_history, print sizes and silhouette, and write the file."""
    settings = _load(LookSettings)
    if output is None and not dry_run:
        raise ConfigError("registry train: give --output or CENTROIDS_PATH, the file to write; or --dry-run")
    from registry.liquidity import features_of, write_centroids
    from registry.training import render_training, train_centroids  # scikit-learn takes seconds to import

    population = _await(_read_population(settings, days))
    now = moment_of(_clock(settings))
    told = f"coin_registry_history, {len(population)} symbols of the {days} days before {now:%Y-%m-%d}"
    training = train_centroids([features_of(facts) for facts in population], told, now)
    click.echo(render_training(training), nl=False)
    if output is not None and not dry_run:
        draft = output.with_name(output.name + ".draft")
        draft.write_text(write_centroids(training.centroids), encoding="utf-8")
        draft.replace(output)
        click.echo(f"written to {output}")


@registry.command(epilog="\b\nExample:\n  REGISTRY_PULL_TIME=02:00:00Z trading-bus registry schedule")
def schedule() -> None:
    """Stay, run every night at REGISTRY_PULL_TIME and sample every 5 minutes.

    A night that was missed is made up for at the start. A service like the others: /healthz, /readyz, /metrics.
    """
    from registry.service import NAME, main

    sys.exit(live(NAME, RegistrySettings, main))


def _load(kind: type[SettingsT]) -> SettingsT:
    settings = load_settings(kind)
    configure_logging("registry", settings.log_level, secret_values(settings))
    return settings


def _await(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _clock(settings: RegistrySettings) -> Clock:
    return Clock(settings.clock_rate, settings.clock_offset_s)


async def _look(settings: RegistrySettings) -> nightly.Report:
    database = nightly.open_database(settings)
    try:
        return await nightly.look(settings, database.query)
    finally:
        await database.close()


async def _explain(settings: RegistrySettings, symbol: str) -> str:
    database = nightly.open_database(settings)
    try:
        found = await read_verdict(database.query, symbol)
        if found is None:
            raise Refused(f"{symbol} was never judged; symbols are base assets, like SOL")
        verdict, history = found
        return render_explain(verdict, (await read_rows(database.query)).get(symbol), history)
    finally:
        await database.close()


async def _read_population(settings: RegistrySettings, days: int) -> list[Facts]:
    database = nightly.open_database(settings)
    try:
        return await read_population(database.query, dt.datetime.now(dt.UTC), days)
    finally:
        await database.close()


def main() -> NoReturn:
    """Run as a program; an expected error is one line on stderr and exit code 1, 2 when settings are wrong."""
    try:
        registry(prog_name="registry")
    except ConfigError as error:
        _fail(str(error), 2)
    except (TradingBusError, BadInput, OSError) as error:
        _fail(str(error), 1)
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    told = "; ".join(" ".join(line.split()) for line in message.splitlines())
    click.echo(redact_text(f"registry: {told}"), err=True)
    sys.exit(code)
