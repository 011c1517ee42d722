"""What a demo stands on: running servers, and a database and a vhost that are its own and new at each start."""

from __future__ import annotations

import asyncio
import urllib.error
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from urllib.parse import quote, urlsplit

import asyncpg

from common.errors import ConfigError, Refused
from common.postgres import Connection, connect, named_errors
from migrations.runner import migrate
from ops.private_tree import Say
from ops.rabbitmq_probe import call_management
from ops.services import Servers, find_servers, start_servers, stop_servers

NAME = "trading_bus_demo"
"""Of the database and of the vhost; what is in them is gone at the next start."""

_TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))"


@contextmanager
def running_servers(say: Say) -> Generator[Servers]:
    """Servers that run; stopped at the end if they were started for this, their data stays."""
    found = find_servers()
    try:
        yield start_servers(say=say)
    finally:
        if found is None and stop_servers():
            say("servers: stopped")


@asynccontextmanager
async def own_ground(servers: Servers) -> AsyncGenerator[Servers]:
    """Addresses of an empty, migrated database and an empty vhost of the demo's own on these servers.

    Raises Refused while another demo runs on them, ConfigError when they can not be had.
    """
    if servers.management_url is None:
        raise ConfigError("the demo makes a vhost of its own: give MANAGEMENT_URL beside RMQ_URL")
    keeper = await connect(servers.ts_dsn, "trading-bus/demo")
    try:
        with named_errors():
            if not await keeper.fetchval(_TRY_LOCK, NAME):
                raise Refused("another demo runs on these servers: end it first")
        await _renew_database(keeper)
        await asyncio.to_thread(_renew_vhost, servers.rmq_url, servers.management_url)
        dsn = urlsplit(servers.ts_dsn)._replace(path=f"/{NAME}").geturl()
        await migrate(dsn)
        yield replace(servers, ts_dsn=dsn, rmq_url=urlsplit(servers.rmq_url)._replace(path=f"/{NAME}").geturl())
    finally:
        keeper.terminate()


async def _renew_database(con: Connection) -> None:
    try:
        with named_errors():
            await con.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
            await con.execute(f"CREATE DATABASE {NAME}")
    except asyncpg.PostgresError as error:
        raise ConfigError(f"the demo makes a database of its own, and the server refuses: {error}") from error


def _renew_vhost(rmq_url: str, management_url: str) -> None:
    user = quote(urlsplit(rmq_url).username or "guest")
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    try:
        call_management(management_url, "DELETE", f"vhosts/{NAME}")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
    call_management(management_url, "PUT", f"vhosts/{NAME}", {})
    call_management(management_url, "PUT", f"permissions/{NAME}/{user}", rights)
