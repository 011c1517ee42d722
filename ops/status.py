"""`trading-bus status`: what is wrong, in ten seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Generator
from urllib.parse import urlsplit

import click
from pydantic import SecretStr
from rich.console import Console
from rich.live import Live

from common.errors import ConfigError
from common.settings import POSTGRES, RABBITMQ, Dsn
from ops.services import find_servers
from ops.status_ask import Addresses, AskLimits, look
from ops.status_judge import Picture, judge
from ops.status_services import SERVICES
from ops.status_view import encode, show

WATCH_EVERY_S = 2.0
PLAIN_WIDTH = 200
"""Width where the output is no terminal: nothing is cut."""

HTTP = Dsn("http://127.0.0.1:8101", ("http", "https"))

_HELP = f"""Show what is wrong: streams, services, messages; the worst first.

Asks the database (TS_DSN), the HTTP address of every service, and the broker, all at once; what does not answer
within --timeout is a line of its own. Without --url and STATUS_URLS it looks for
{", ".join(f"{kind.name} on port {kind.port}" for kind in SERVICES)} of this host.

\b
Exit code:
  0  all well
  1  something is wrong
  2  wrong use or settings
"""
_EPILOG = """\b
Examples:
  trading-bus status
  trading-bus status --watch
  trading-bus status --url http://127.0.0.1:8101 --url http://10.0.0.2:8101 --all
  trading-bus status --json | jq .problems
"""


@click.command(help=_HELP, epilog=_EPILOG)
@click.option("--dsn", envvar="TS_DSN", show_envvar=True, help="Database; the one of `services up` if none is given.")
@click.option("--rmq-url", envvar="RMQ_URL", show_envvar=True, help="Broker.")
@click.option("--management-url", envvar="MANAGEMENT_URL", show_envvar=True, help="RabbitMQ's management API.")
@click.option(
    "--url", "urls", multiple=True, envvar="STATUS_URLS", show_envvar=True,
    help="HTTP address of a service instance; repeated, or several in the variable, divided by blanks.",
)  # fmt: skip
@click.option(
    "--backfill-minutes", type=click.IntRange(1), default=AskLimits().backfill_minutes, envvar="BACKFILL_MINUTES",
    show_envvar=True, show_default=True, help="What ingestors repair by themselves; older gaps wait for an operator.",
)  # fmt: skip
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0.1, 60), default=AskLimits().timeout_s, show_default=True,
    help="Seconds that each source has to answer.",
)  # fmt: skip
@click.option("--all", "all_streams", is_flag=True, help="Show every stream, not only the worst.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with every stream; with --watch one a line.")
@click.option(
    "--watch", "watch_s", type=click.FloatRange(0.2, 3600), is_flag=False, flag_value=WATCH_EVERY_S, default=None,
    metavar="[SECONDS]", help=f"Look again and again, every {WATCH_EVERY_S:g} seconds or as given; Ctrl-C ends it.",
)  # fmt: skip
def status(
    dsn: str | None, rmq_url: str | None, management_url: str | None, urls: tuple[str, ...], backfill_minutes: int,
    timeout_s: float, all_streams: bool, as_json: bool, watch_s: float | None,
) -> None:  # fmt: skip
    """See _HELP."""
    addresses = choose_addresses(dsn, rmq_url, management_url, urls)
    limits = AskLimits(timeout_s, backfill_minutes)
    # Shown before the loop is closed: closing waits for name lookups that hang.
    with quiet_logs(), asyncio.Runner() as runner:
        if watch_s is not None:
            code = _watch(runner, addresses, limits, watch_s, all_streams, as_json)
        else:
            picture = judge(runner.run(look(addresses, limits)))
            _print(picture, all_streams, as_json)
            code = 0 if picture.well else 1
    sys.exit(code)


def choose_addresses(
    dsn: str | None, rmq_url: str | None, management_url: str | None, urls: tuple[str, ...]
) -> Addresses:
    """Addresses as given, else those of `services up` and the services' own ports; ConfigError names a wrong one."""
    if dsn is None:
        servers = find_servers()
        if servers is None:
            raise ConfigError("no database: give --dsn or TS_DSN, or run `trading-bus services up`")
        dsn = servers.ts_dsn
        rmq_url, management_url = rmq_url or servers.rmq_url, management_url or servers.management_url
    check_address("--dsn, TS_DSN", dsn, POSTGRES)
    if rmq_url is not None:
        check_address("--rmq-url, RMQ_URL", rmq_url, RABBITMQ)
    if management_url is not None:
        check_address("--management-url, MANAGEMENT_URL", management_url, HTTP)
    for url in urls:
        check_address("--url, STATUS_URLS", url, HTTP)
    urls = urls or tuple(f"http://127.0.0.1:{kind.port}" for kind in SERVICES)
    return Addresses(dsn, tuple(dict.fromkeys(url.rstrip("/") for url in urls)), rmq_url, management_url)


@contextlib.contextmanager
def quiet_logs(*names: str) -> Generator[None]:
    """Keep the broker's library, and loggers of these names, quiet: what they would log is told in a line of ours."""
    loggers = [logging.getLogger(name) for name in ("aiormq", "aio_pika", *names)]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def check_address(name: str, value: str, kind: Dsn) -> None:
    """Raise ConfigError, which names the option and quotes no password, when it can not be an address."""
    try:
        kind.check(SecretStr(value))
        if not urlsplit(value).hostname:
            raise ValueError(f"is not an address like {kind.example}")
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error


def _print(picture: Picture, all_streams: bool, as_json: bool) -> None:
    if as_json:
        click.echo(encode(picture))
        return
    console = Console()
    width = console.width if console.is_terminal else PLAIN_WIDTH
    Console(width=width).print(show(picture, all_streams))


def _watch(
    runner: asyncio.Runner, addresses: Addresses, limits: AskLimits, every_s: float, all_streams: bool, as_json: bool
) -> int:
    """Draw again until Ctrl-C; the last verdict is the exit code."""
    code = 1
    live = None if as_json or not sys.stdout.isatty() else Live(console=Console(), auto_refresh=False, screen=True)
    try:
        with live or contextlib.nullcontext():
            while True:
                picture = judge(runner.run(look(addresses, limits)))
                code = 0 if picture.well else 1
                if live is None:
                    _print(picture, all_streams, as_json)
                else:
                    live.update(show(picture, all_streams), refresh=True)
                time.sleep(every_s)
    except KeyboardInterrupt:
        return code
