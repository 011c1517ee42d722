"""Options that the commands about stored rows share, and how a moment is written on the command line."""

from __future__ import annotations

import datetime as dt
import re

import click

from common.errors import ConfigError
from ops.services import Servers, find_servers

HOST_WEIGHT_PER_MIN = 6_000
"""REST weight the venue allows an address in a minute."""

dsn_option = click.option(
    "--dsn", envvar="TS_DSN", show_envvar=True, help="Database; the one of `services up` if none is given."
)
rmq_option = click.option(
    "--rmq-url", envvar="RMQ_URL", show_envvar=True, help="Broker; the one of `services up` if none is given."
)
rest_option = click.option(
    "--rest-url", envvar="BINANCE_REST_URL", show_envvar=True, default="https://api.binance.com", show_default=True,
    help="The venue's REST address.",
)  # fmt: skip
weight_option = click.option(
    "--weight-per-min", type=click.IntRange(20, HOST_WEIGHT_PER_MIN), default=600, show_default=True,
    help=f"REST weight to spend in a minute; the venue allows {HOST_WEIGHT_PER_MIN} to all of us together.",
)  # fmt: skip
epoch_option = click.option(
    "--bus-epoch", envvar="BUS_EPOCH", show_envvar=True, default="", help="As the services have it."
)

FOREVER_S = 32_503_680_000
"""The year 3000."""

_SPAN = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def find_dsn(given: str | None) -> str:
    """The database given, or that of `services up`; raises ConfigError when there is neither."""
    return given or _find("--dsn or TS_DSN").ts_dsn


def find_rmq_url(given: str | None) -> str:
    """The broker given, or that of `services up`; raises ConfigError when there is neither."""
    return given or _find("--rmq-url or RMQ_URL").rmq_url


def _find(how: str) -> Servers:
    servers = find_servers()
    if servers is None:
        raise ConfigError(f"no server: give {how}, or run `trading-bus services up`")
    return servers


def read_moment(text: str, now_s: int, option: str) -> int:
    """Epoch seconds of "2h" (before now; s, m, h, d) or of an ISO time, UTC where it names no zone.

    Raises ConfigError that names the option, also for a moment before 1970 or after the year 2999.
    """
    moment_s = _read_moment(text, now_s, option)
    if not 0 <= moment_s < FOREVER_S:
        raise ConfigError(f"{option}: {text!r} lies before 1970 or after 2999")
    return moment_s


def _read_moment(text: str, now_s: int, option: str) -> int:
    span = _SPAN.fullmatch(text.strip())
    if span is not None:
        return now_s - int(span[1]) * _UNITS_S[span[2]]
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} is neither a span like 2h nor a time like 2026-09-21T14:00Z") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp())
