"""Logins of the database: made, listed and removed. What they may do stands in migrations/roles.sql."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import msgspec

from common.errors import ConfigError, Refused
from common.postgres import Connection, connect, named_errors
from ops.access_rules import DATABASE_ROLES, GROUP_PREFIX, DatabaseRole, check_name, check_password, scram_verifier

NAME = "trading-bus/access"
SALT_BYTES = 16
CROWDED_TRIES_MAX = 20
CROWDED_RETRY_S = 0.05
READER_IDLE_IN_TRANSACTION_S = 60
"""A reader's forgotten transaction keeps every dead row of the outbox: ten minutes of it cost 100 MB and slow reads."""

_GROUPS = [GROUP_PREFIX + role for role in DATABASE_ROLES]
_CROWDED = (asyncpg.UniqueViolationError, asyncpg.DuplicateObjectError, asyncpg.InternalServerError)
"""What another session that changes the same role at this moment does to us."""

_READY = "SELECT bool_and(to_regrole(name) IS NOT NULL) FROM unnest($1::text[]) AS name"
_FIND = """
SELECT r.rolsuper OR r.rolcreaterole OR NOT r.rolcanlogin
       OR NOT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                       WHERE m.member = r.oid AND g.rolname = ANY($2::text[])) AS foreign
  FROM pg_roles r WHERE r.rolname = $1
"""
_LIST = """
SELECT r.rolname AS name, g.rolname AS role,
       (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid)::int AS connections
  FROM pg_roles r JOIN pg_auth_members m ON m.member = r.oid JOIN pg_roles g ON g.oid = m.roleid
 WHERE g.rolname = ANY($1::text[]) AND r.rolcanlogin AND NOT r.rolsuper ORDER BY g.rolname, r.rolname
"""


class Login(msgspec.Struct, frozen=True):
    """A login and what it may do; `connections` that it has open now, in all databases of the cluster."""

    name: str
    role: str
    connections: int


async def create_login(dsn: str, name: str, role: DatabaseRole, password: str) -> bool:
    """Make a login, or give one of ours this role and password; True when it is new.

    The server gets the password's verifier only. Raises Refused for a login that is not ours, ConfigError when the
    roles are missing or this login may not make others, TryLater while the server is away.
    """
    check_name(name)
    verifier = scram_verifier(check_password(password), secrets.token_bytes(SALT_BYTES))
    async with _open(dsn) as con:
        if not await con.fetchval(_READY, _GROUPS):
            raise ConfigError("the database has no trading_* roles: run `trading-bus migrate` with a login that may")
        for tries in range(1, CROWDED_TRIES_MAX + 1):
            try:
                async with con.transaction():
                    return await _write_login(con, name, role, verifier)
            except _CROWDED:
                if tries == CROWDED_TRIES_MAX:
                    raise
                await asyncio.sleep(CROWDED_RETRY_S * tries)
    raise AssertionError("unreachable")


async def drop_login(dsn: str, name: str) -> bool:
    """Remove a login of ours and cut its connections; False when there is none. Raises like `create_login`."""
    check_name(name)
    async with _open(dsn) as con:
        if not await _is_ours(con, name):
            return False
        # In this order: who is cut off must not come back, and a dropped role's sessions can not be found any more.
        await con.execute(f'ALTER ROLE "{name}" NOLOGIN')
        await con.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", name)
        try:
            await con.execute(f'DROP ROLE "{name}"')
        except asyncpg.DependentObjectsStillExistError as error:
            raise Refused(f"{name} can not log in any more, but owns something: {error}") from error
    return True


async def list_logins(dsn: str) -> list[Login]:
    """Every login of ours in the cluster; raises TryLater, ConfigError."""
    async with _open(dsn) as con:
        rows = await con.fetch(_LIST, _GROUPS)
    return [Login(r["name"], r["role"].removeprefix(GROUP_PREFIX), r["connections"]) for r in rows]


async def _write_login(con: Connection, name: str, role: DatabaseRole, verifier: str) -> bool:
    known = await _is_ours(con, name)
    # Names are checked and a verifier is base64: utility statements take no parameters.
    await con.execute(f"{'ALTER' if known else 'CREATE'} ROLE \"{name}\" LOGIN INHERIT PASSWORD '{verifier}'")
    for group in _GROUPS:
        if group != GROUP_PREFIX + role:
            await con.execute(f'REVOKE {group} FROM "{name}"')
    await con.execute(f'GRANT {GROUP_PREFIX}{role} TO "{name}"')
    limit = f"'{READER_IDLE_IN_TRANSACTION_S}s'" if role == "reader" else "DEFAULT"
    await con.execute(f'ALTER ROLE "{name}" SET idle_in_transaction_session_timeout TO {limit}')
    return not known


async def _is_ours(con: Connection, name: str) -> bool:
    """Whether a login of ours has this name; raises Refused when it is somebody else's."""
    found = await con.fetchrow(_FIND, name, _GROUPS)
    if found is not None and found["foreign"]:
        raise Refused(f"the database has a role {name} that is not of trading-bus: choose another name")
    return found is not None


@asynccontextmanager
async def _open(dsn: str) -> AsyncGenerator[Connection]:
    con = await connect(dsn, NAME)
    try:
        with named_errors():
            yield con
    finally:
        con.terminate()
