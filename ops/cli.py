"""The operator's command line: one table of commands, each imported only when it is called."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NoReturn, cast

import click

from common.errors import ConfigError, TradingBusError
from common.redact import redact_text
from common.secret_files import fill_from_files

SECRETS = ("TS_DSN", "RMQ_URL", "MANAGEMENT_URL")
"""Addresses that hold passwords; like a service's, they may stand in files (docs/ACCESS.md)."""

# name -> (module:attribute, what it does)
COMMANDS = {
    "services": ("ops.services_command:services", "Start, stop and show TimescaleDB and RabbitMQ."),
    "migrate": ("ops.migrate:migrate", "Bring the database schema up to date."),
    "access": ("ops.access:access", "Make logins of the database and the broker with the rights they need."),
    "status": ("ops.status:status", "Show what is wrong: streams, services, messages."),
    "doctor": ("ops.doctor:doctor", "Check settings, servers, rights, clocks and venues from here."),
    "demo": ("ops.demo:demo", "Run everything against loopback venues and check the result."),
    "run": ("ops.demo:run", "Run everything against the live venues."),
    "registry": ("ops.registry:registry", "Decide which symbols are followed: run, sample, explain, train, schedule."),
    "verify": ("ops.verify:verify", "Compare what is stored with what the venue says."),
    "contracts": ("ops.contracts_doc:contracts", "Write or check the AsyncAPI document, schemas and field tables."),
    "outbox": ("ops.outbox:outbox", "Show and drain messages that wait for the broker."),
    "retain": ("ops.retain:retain", "Drop rows that are older than they must be kept."),
    "gaps": ("ops.gaps:gaps", "List what is missing, and repair by hand what no ingestor repairs."),
    "influencer": ("ops.influencer:influencer", "Say whose positions are followed; make their signals again."),
    "macro": ("ops.macro:macro", "Ask the vendors of macro data."),
    "dead": ("ops.dead:dead", "Look at dead letters, send them again, or throw them away."),
    "record": ("ops.record:record", "Record what a venue sends, frame by frame."),
    "replay": ("ops.replay:replay", "Serve a recorded market as the venue served it."),
    "tail": ("ops.tail:tail", "Print messages of the bus, or of its log, as they come."),
}


class Commands(click.Group):
    """The table as a click group."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return cast("click.Command", getattr(import_module(module), attribute))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.command(cls=Commands, epilog="\b\nExample:\n  trading-bus services up\n  trading-bus COMMAND --help")
@click.version_option(package_name="trading-bus")
def cli() -> None:
    """Operate trading-bus."""


def main() -> NoReturn:
    """Run the command line; an expected error is one line on stderr and exit code 1, 2 when settings are wrong."""
    try:
        fill_from_files(SECRETS, os.environ)
        cli(prog_name="trading-bus")
    except ConfigError as error:
        _fail(str(error), 2)
    except (TradingBusError, OSError) as error:
        _fail(str(error), 1)
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(redact_text(f"trading-bus: {' '.join(message.split())}"), err=True)
    sys.exit(code)
