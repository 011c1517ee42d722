"""`trading-bus access`: logins with least rights on both servers, handed over as files."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from rich.console import Console
from rich.table import Table

from common.errors import ConfigError
from ops import access_broker, access_database
from ops.access_rules import (
    BROKER_ROLES,
    DATABASE_ROLES,
    TOPICS,
    BrokerRole,
    DatabaseRole,
    Rights,
    address_for,
    consumer_rights,
    operator_rights,
    service_rights,
)
from ops.access_secrets import Source, choose_password, write_address
from ops.services import find_servers
from ops.status_services import SERVICE_LOGINS

Fn = TypeVar("Fn", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path, dir_okay=False)

_DSN = click.option(
    "--dsn",
    envvar="TS_DSN",
    show_envvar=True,
    help="Database, as an administrator; that of `services up` if not given.",
)
_RMQ_URL = click.option(
    "--rmq-url", envvar="RMQ_URL", show_envvar=True, help="Broker and vhost; that of `services up` if not given."
)
_MANAGEMENT_URL = click.option(
    "--management-url",
    envvar="MANAGEMENT_URL",
    show_envvar=True,
    help="http://user:password@host:15672, as an administrator; that of `services up` if not given.",
)


def _password_options(command: Fn) -> Fn:
    """Add where the password comes from and where the address goes."""
    options = (
        click.option("--file", type=_PATH, help="Where the whole address goes, mode 600; its password is kept."),
        click.option("--host", help="HOST[:PORT] to write, where clients see the server under another name."),
        click.option("--password-file", type=_PATH, help="Take the password from this file's first line."),
        click.option("--prompt", is_flag=True, help="Ask for the password."),
        click.option("--rotate", is_flag=True, help="A new password, also where --file holds one."),
        click.option("--print", "show", is_flag=True, help="Print the address, password included."),
    )
    return functools.reduce(lambda it, option: option(it), reversed(options), command)


@click.group(
    epilog="\b\nExamples:\n  trading-bus access database ohlcv --role writer --file secrets/ts_dsn\n"
    "  trading-bus access broker ohlcv --role service --file secrets/rmq_url\n  trading-bus access show"
)
def access() -> None:
    """Make logins of the database and the broker with the rights they need, and no more.

    A password is generated, read from a file or asked for; it goes into a file, and on the screen only with --print.
    Everything may be said twice. docs/ACCESS.md says what each role may do.
    """


@access.command(epilog="\b\nExample:\n  trading-bus access database ohlcv --role writer --file secrets/ts_dsn")
@click.argument("name")
@click.option("--role", required=True, type=click.Choice(DATABASE_ROLES))
@_DSN
@_password_options
def database(name: str, role: DatabaseRole, dsn: str | None, **given: Any) -> None:
    """Make the login NAME of the database: a writer for each service, readers for who looks, a migrator."""
    dsn = dsn or _find("ts_dsn", "--dsn or TS_DSN")
    password = _password(name, given)
    new = asyncio.run(access_database.create_login(dsn, name, role, password))
    _hand_over("database", name, role, new, address_for(dsn, name, password, given["host"]), given)


@access.command(
    epilog="\b\nExamples:\n  trading-bus access broker ohlcv --role service --file secrets/rmq_url\n"
    "  trading-bus access broker features --role consumer --topics price_updates --file features.url"
)
@click.argument("name")
@click.option("--role", required=True, type=click.Choice(BROKER_ROLES))
@click.option(
    "--topics", help=f"Of a consumer: only these of {', '.join(TOPICS)}, and no replay log; all if not given."
)
@click.option("--dead-letters", is_flag=True, help="Of a consumer: its queues may hand messages to trading.bus.dead.")
@_RMQ_URL
@_MANAGEMENT_URL
@_password_options
def broker(
    name: str, role: BrokerRole, topics: str | None, dead_letters: bool,
    rmq_url: str | None, management_url: str | None, **given: Any,
) -> None:  # fmt: skip
    """Make the user NAME of the broker, with permissions in the vhost of --rmq-url.

    A consumer's durable queues are called consumer.NAME or consumer.NAME.something.
    """
    rights = _rights_of(name, role, topics, dead_letters)
    rmq_url = rmq_url or _find("rmq_url", "--rmq-url or RMQ_URL")
    management_url = management_url or _find("management_url", "--management-url or MANAGEMENT_URL")
    password = _password(name, given)
    new = access_broker.create_user(management_url, access_broker.vhost_of(rmq_url), name, rights, password)
    _hand_over("broker", name, role, new, address_for(rmq_url, name, password, given["host"]), given)


@access.command(epilog="\b\nExample:\n  trading-bus access show")
@_DSN
@_MANAGEMENT_URL
def show(dsn: str | None, management_url: str | None) -> None:
    """List who may log in, and as what; passwords are known to nobody."""
    logins = asyncio.run(access_database.list_logins(dsn or _find("ts_dsn", "--dsn or TS_DSN")))
    table = Table("database login", "role", "connections")
    for login in logins:
        table.add_row(login.name, login.role, str(login.connections))
    console = Console()
    console.print(table)
    management_url = management_url or _found("management_url")
    if management_url is None:
        click.echo("broker: not asked, MANAGEMENT_URL is not set")
        return
    users = access_broker.list_users(management_url)
    table = Table("broker user", "role", "vhosts")
    for user in users.ours:
        table.add_row(user.name, user.role, ", ".join(user.vhosts))
    console.print(table)
    if users.others:
        click.echo(f"users of the broker that trading-bus did not make: {', '.join(users.others)}")


@access.command(epilog="\b\nExample:\n  trading-bus access remove features")
@click.argument("name")
@_DSN
@_MANAGEMENT_URL
def remove(name: str, dsn: str | None, management_url: str | None) -> None:
    """Take NAME away from both servers and cut its connections."""
    gone: list[str] = []
    if asyncio.run(access_database.drop_login(dsn or _find("ts_dsn", "--dsn or TS_DSN"), name)):
        gone.append("database")
    management_url = management_url or _found("management_url")
    if management_url is None:
        click.echo("broker: not asked, MANAGEMENT_URL is not set")
    elif access_broker.drop_user(management_url, name):
        gone.append("broker")
    click.echo(f"{name}: removed from {' and '.join(gone)}" if gone else f"nothing to do: there is no {name}")


def _rights_of(name: str, role: BrokerRole, topics: str | None, dead_letters: bool) -> Rights:
    if role != "consumer" and (topics or dead_letters):
        raise ConfigError("--topics and --dead-letters belong to --role consumer")
    if role == "consumer" and name in SERVICE_LOGINS:
        raise ConfigError(f"name {name!r} is a service's: what its login dead-letters is trusted (`dead replay --all`)")
    words = [word.strip() for word in (topics or "").split(",") if word.strip()]
    roles: dict[BrokerRole, Callable[[], Rights]] = {
        "service": service_rights,
        "operator": operator_rights,
        "consumer": lambda: consumer_rights(name, words, dead_letters=dead_letters),
    }
    return roles[role]()


def _password(name: str, given: dict[str, Any]) -> str:
    if given["password_file"] is not None and given["prompt"]:
        raise ConfigError("--password-file and --prompt: give one of them")
    if not (given["file"] or given["show"] or given["password_file"] or given["prompt"]):
        raise ConfigError("a generated password has to go somewhere: give --file (or --print)")
    return choose_password(Source(given["file"], given["password_file"], given["prompt"], given["rotate"]), name)


def _hand_over(server: str, name: str, role: str, new: bool, address: str, given: dict[str, Any]) -> None:
    path: Path | None = given["file"]
    if path is not None:
        write_address(path, address)
    click.echo(f"{server}: {name} {'made' if new else 'updated'}, {role}" + (f", address in {path}" if path else ""))
    if given["show"]:
        click.echo(address)


def _found(field: str) -> str | None:
    try:
        servers = find_servers()
    except ConfigError:  # half an environment: what is missing is asked for by name
        servers = None
    return None if servers is None else cast("str | None", getattr(servers, field))


def _find(field: str, how: str) -> str:
    found = _found(field)
    if found is None:
        raise ConfigError(f"no server: give {how}, or run `trading-bus services up`")
    return found
