"""`trading-bus influencer`: the service's own commands, on the servers of `services up` where none are given."""

from __future__ import annotations

import os

import click

from influencer_ingestor.command import influencer as commands
from ops.services import find_servers

__all__ = ["influencer"]


@click.pass_context
def _find_servers(context: click.Context) -> None:
    """Fill in the database that the environment leaves out; what is missing then, the command says."""
    if context.resilient_parsing or context.invoked_subcommand is None or os.environ.get("TS_DSN"):
        return
    servers = find_servers()
    if servers is not None:
        os.environ["TS_DSN"] = servers.ts_dsn


influencer = click.Group(
    "influencer",
    commands.commands,
    callback=_find_servers,
    help=commands.help,
    epilog=commands.epilog,
)
