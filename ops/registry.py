"""`trading-bus registry`: the registry's own commands, on the servers of `services up` where none are given."""

from __future__ import annotations

import os

import click

from ops.services import find_servers
from registry.command import registry as commands

__all__ = ["registry"]


@click.pass_context
def _find_servers(context: click.Context) -> None:
    """Fill in the addresses that the environment leaves out; what is missing then, the settings say."""
    if context.resilient_parsing or context.invoked_subcommand is None or os.environ.get("TS_DSN"):
        return
    servers = find_servers()
    if servers is not None:
        os.environ["TS_DSN"] = servers.ts_dsn
        os.environ.setdefault("RMQ_URL", servers.rmq_url)


registry = click.Group(
    "registry",
    commands.commands,
    callback=_find_servers,
    help=commands.help,
    epilog=commands.epilog,
)
