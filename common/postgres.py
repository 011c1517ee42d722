"""PostgreSQL connections that notice a dead peer, and errors named by what to do about them."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from common.errors import ConfigError, Reconnect, TryLater
from common.settings import POSTGRES

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

_DOUBTFUL = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    OSError,
    TimeoutError,
)
_WRONG_SETUP = (
    asyncpg.ClientConfigurationError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InsufficientPrivilegeError,
)
_TRANSACTION_TIMEOUT = "25P04"


class PostgresLimits(msgspec.Struct, frozen=True):
    """Bounds of one connection."""

    connect_timeout_s: float = 10.0
    statement_timeout_s: float = 10.0
    idle_in_transaction_ms: int = 2_000
    """A writer that freezes inside a transaction loses it, and with it every lock on rows."""
    transaction_timeout_ms: int = 30_000
    keepalive_idle_s: int = 10
    keepalive_interval_s: int = 5
    keepalive_count: int = 3
    peer_timeout_ms: int = 20_000
    """The server gives a vanished client up after this long, and frees its advisory lock."""


def _named(error: Exception) -> Exception | None:
    """The project's name for a driver error; None for what can only be a bug."""
    text = f"database: {type(error).__name__}: {error}"
    if isinstance(error, asyncpg.InsufficientResourcesError):
        return TryLater(text)
    if isinstance(error, _WRONG_SETUP):
        return ConfigError(text)
    # asyncpg's own DataError is an InterfaceError too: a value that does not fit its parameter, so a bug of ours.
    if isinstance(error, _DOUBTFUL) and not isinstance(error, ValueError):
        return Reconnect(text)
    if getattr(error, "sqlstate", None) == _TRANSACTION_TIMEOUT:
        return Reconnect(text)
    return None


@contextmanager
def named_errors() -> Generator[None]:
    """Raise TryLater, Reconnect or ConfigError in place of the driver's errors; a bug passes unchanged."""
    try:
        yield
    except Exception as error:
        named = _named(error)
        if named is None:
            raise
        raise named from error


async def connect(dsn: str, name: str, limits: PostgresLimits | None = None) -> Connection:
    """Open one connection whose server gives a vanished client up within seconds.

    `name` is what pg_stat_activity shows. Raises Reconnect while the server is away, TryLater when it has no room,
    ConfigError when it refuses the login, the database does not exist, or this is no address.
    """
    limits = limits or PostgresLimits()
    POSTGRES.require(dsn, "database (TS_DSN)")
    with named_errors():
        async with asyncio.timeout(limits.connect_timeout_s):
            con = await asyncpg.connect(
                dsn,
                timeout=limits.connect_timeout_s,
                command_timeout=limits.statement_timeout_s,
                server_settings={
                    "application_name": name,
                    "client_min_messages": "warning",
                    # A flush is a few milliseconds; compiling its plan would cost a hundred.
                    "jit": "off",
                    "idle_in_transaction_session_timeout": str(limits.idle_in_transaction_ms),
                    "tcp_keepalives_idle": str(limits.keepalive_idle_s),
                    "tcp_keepalives_interval": str(limits.keepalive_interval_s),
                    "tcp_keepalives_count": str(limits.keepalive_count),
                    "tcp_user_timeout": str(limits.peer_timeout_ms),
                },
            )
        # Servers older than 17 do not know the setting and would refuse the connection.
        if con.get_server_version() >= (17,):
            try:
                await con.execute(f"SET transaction_timeout = {limits.transaction_timeout_ms:d}")
            except BaseException:
                con.terminate()
                raise
        return con
