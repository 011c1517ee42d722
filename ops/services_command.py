"""`trading-bus services`: the two servers for development."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from ops.services import Servers, fetch_servers, find_servers, start_servers, stop_servers

EXAMPLE = "\b\nExample:\n  {}"
STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    help="Folder of an instance other than this clone's own.",
)


@click.group(epilog=EXAMPLE.format('eval "$(trading-bus services up)"'))
def services() -> None:
    """Start, stop and show TimescaleDB and RabbitMQ.

    Servers given in TS_DSN and RMQ_URL are used as they are; else they run in Docker if an engine answers, else as
    private processes out of Debian's packages.
    """


@services.command(epilog=EXAMPLE.format("trading-bus services fetch"))
def fetch() -> None:
    """Fetch what the servers are made of, without starting them."""
    _show_progress(f"servers: ready to start ({fetch_servers(_show_progress)})")


@services.command(epilog=EXAMPLE.format('eval "$(trading-bus services up)"'))
@STATE
def up(state: Path | None) -> None:
    """Start the servers, or find them running, and print their addresses for the shell."""
    _print_exports(start_servers(state, _show_progress))


@services.command(epilog=EXAMPLE.format("trading-bus services down --remove"))
@STATE
@click.option("--remove", is_flag=True, help="Delete the data too.")
def down(state: Path | None, remove: bool) -> None:
    """Stop the servers; their data stays."""
    stopped = stop_servers(state, remove)
    _show_progress("servers: stopped" if stopped else "servers: there were none")


@services.command(epilog=EXAMPLE.format("trading-bus services status"))
@STATE
def status(state: Path | None) -> None:
    """Print the addresses of the servers; exit code 1 when they do not run."""
    servers = find_servers(state)
    if servers is None:
        _show_progress("servers: not running")
        sys.exit(1)
    _print_exports(servers)


def _print_exports(servers: Servers) -> None:
    _show_progress(f"servers: running ({servers.kind})")
    for name, value in (
        ("TS_DSN", servers.ts_dsn),
        ("RMQ_URL", servers.rmq_url),
        ("MANAGEMENT_URL", servers.management_url),
    ):
        if value:
            click.echo(f"export {name}={shlex.quote(value)}")


def _show_progress(line: str) -> None:
    """Progress goes to stderr: stdout is for the shell."""
    click.echo(line, err=True)
