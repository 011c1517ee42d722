"""`trading-bus migrate`: the schema, brought up to date."""

from __future__ import annotations

import asyncio

import click

from common.errors import ConfigError
from migrations.runner import migrate as apply_migrations
from ops.services import find_servers


@click.command(epilog="\b\nExample:\n  trading-bus migrate --dsn postgresql://user@localhost/trading_bus")
@click.option("--dsn", envvar="TS_DSN", show_envvar=True, help="Database; the one of `services up` if none is given.")
def migrate(dsn: str | None) -> None:
    """Bring the database schema, its roles and their rights up to date, and print what was applied.

    The login needs the right to create tables; to make roles, CREATEROLE or a superuser. Without it everything works
    under the one login, and a note says so (docs/ACCESS.md).
    """
    if dsn is None:
        servers = find_servers()
        if servers is None:
            raise ConfigError("no database: give --dsn or TS_DSN, or run `trading-bus services up`")
        dsn = servers.ts_dsn
    applied = asyncio.run(apply_migrations(dsn, tell=_note))
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("nothing to do: the schema is up to date")


def _note(text: str) -> None:
    click.echo(f"note: {text}", err=True)
