"""Apply the numbered SQL files of this folder, each once, whoever else starts at the same time."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import asyncpg
import msgspec

from common.errors import ConfigError, TryLater
from common.postgres import Connection, PostgresLimits, connect, named_errors

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
LOCK_NAME = "trading-bus/migrations"
NO_TRANSACTION = "-- no transaction"
NEXT_PART = "-- next"
ROLES_FILE = "roles.sql"
"""Not numbered: applied at the end of every run, because roles live outside the database."""

_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
  name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())
"""
_TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))"
_POLICY = re.compile(r"add_\w*policy\(\s*'(\w+)'")
_OWNERS = """
SELECT c.oid::regclass::text AS name, quote_ident(o.rolname) AS owner
  FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner
 WHERE c.oid IN (SELECT to_regclass(n) FROM unnest($1::text[]) AS n) AND NOT o.rolcanlogin
   AND pg_has_role(o.oid, 'SET')
"""
"""Tables that roles.sql handed over to a role that nobody logs in as, where this login may take them back."""
_CROWDED = (asyncpg.UniqueViolationError, asyncpg.DuplicateObjectError, asyncpg.InternalServerError)
"""What another database of the cluster that makes the same roles at this moment does to us."""
_ENTRY = "INSERT INTO schema_migrations (name, sha256) VALUES ($1, $2)"


class MigrationLimits(msgspec.Struct, frozen=True):
    """How long to wait for another starter, and for one statement."""

    lock_wait_s: float = 120.0
    lock_poll_s: float = 0.1
    statement_timeout_s: float = 600.0
    roles_tries_max: int = 20
    roles_retry_s: float = 0.05


class Step(msgspec.Struct, frozen=True):
    """One file; `parts` has several elements only where a file runs without a transaction."""

    name: str
    sha256: str
    parts: tuple[str, ...]
    in_transaction: bool


def read_step(name: str, text: str) -> Step:
    """Cut a file into what is sent to the server at once."""
    first, _, _ = text.partition("\n")
    alone = first.strip() == NO_TRANSACTION
    pieces = re.split(rf"(?m)^{NEXT_PART}\s*$", text) if alone else [text]
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Step(name, digest, tuple(p for p in pieces if p.strip()), in_transaction=not alone)


def read_steps(folder: Path) -> list[Step]:
    """Every migration of a folder in order; raises ConfigError for a bad name or a number used twice."""
    steps: list[Step] = []
    seen: dict[str, str] = {}
    for path in sorted(path for path in folder.glob("*.sql") if path.name != ROLES_FILE):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise ConfigError(f"migration {path.name}: a name looks like 0001_what_it_does.sql")
        if (other := seen.setdefault(match[1], path.name)) != path.name:
            raise ConfigError(f"migrations {other} and {path.name} have the same number")
        steps.append(read_step(path.name, path.read_text(encoding="utf-8")))
    return steps


def plan(steps: Sequence[Step], applied: dict[str, str]) -> list[Step]:
    """The steps still to run; raises ConfigError when history and files do not agree."""
    known = {step.name: step for step in steps}
    for name, digest in applied.items():
        if name not in known:
            raise ConfigError(f"migration {name} was applied to this database, but its file is missing")
        if known[name].sha256 != digest:
            raise ConfigError(f"migration {name} was edited after it was applied: write a new one instead")
    last = max(applied, default="")
    pending = [step for step in steps if step.name not in applied]
    for step in pending:
        if step.name < last:
            raise ConfigError(f"migration {step.name} comes before {last}, which is applied already: renumber it")
    return pending


def policy_tables(step: Step) -> set[str]:
    """Tables to which a file gives a policy, in whatever edition."""
    return {table for part in step.parts for table in _POLICY.findall(part)}


async def migrate(
    dsn: str,
    folder: Path = FOLDER,
    limits: MigrationLimits | None = None,
    tell: Callable[[str], None] = log.warning,
) -> list[str]:
    """Bring a database and its rights to this version; returns the names applied now, [] when there was nothing to do.

    Safe when several starters run it at once: one applies, the others wait and then find nothing to do. `tell` hears
    it when this login may not make roles. Raises ConfigError when files and history disagree or the login may not
    change the schema, TryLater when the server is away or another starter takes too long.
    """
    limits = limits or MigrationLimits()
    steps = read_steps(folder)
    # DDL may wait long for a lock, so the bounds of ordinary connections do not fit; the lock poll is idle in between.
    bounds = PostgresLimits(
        statement_timeout_s=limits.statement_timeout_s, transaction_timeout_ms=int(limits.statement_timeout_s * 1000)
    )
    con = await connect(dsn, "trading-bus/migrate", bounds)
    try:
        with named_errors():
            await _lock(con, limits)
            await _ensure_extension(con)
            await con.execute(_TABLE)
            applied = {r["name"]: r["sha256"] for r in await con.fetch("SELECT name, sha256 FROM schema_migrations")}
            pending = plan(steps, applied)
            for step in pending:
                await _apply(con, step)
            if (folder / ROLES_FILE).exists():
                await _set_rights(con, (folder / ROLES_FILE).read_text(encoding="utf-8"), limits, tell)
            return [step.name for step in pending]
    finally:
        con.terminate()


async def _lock(con: Connection, limits: MigrationLimits) -> None:
    # Polled: a session that waits inside pg_advisory_lock holds a snapshot, and CREATE INDEX CONCURRENTLY of the one
    # that has the lock waits for that snapshot: a deadlock.
    try:
        async with asyncio.timeout(limits.lock_wait_s):
            while not await con.fetchval(_TRY_LOCK, LOCK_NAME):  # noqa: ASYNC110
                await asyncio.sleep(limits.lock_poll_s)
    except TimeoutError as error:
        raise TryLater(f"another migration has been running for {limits.lock_wait_s:g} s") from error


async def _ensure_extension(con: Connection) -> None:
    try:
        await con.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    except (asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFileError, asyncpg.InsufficientPrivilegeError) as error:
        raise ConfigError(f"the timescaledb extension is not there and can not be created: {error}") from error


async def _apply(con: Connection, step: Step) -> None:
    if step.in_transaction:
        async with con.transaction():
            # A policy's job runs as the table's owner of that moment, and TimescaleDB refuses one that can not log in.
            taken = await con.fetch(_OWNERS, sorted(policy_tables(step)))
            for table in taken:
                await con.execute(f"ALTER TABLE {table['name']} OWNER TO CURRENT_USER")
            for part in step.parts:
                await con.execute(part)
            for table in taken:
                await con.execute(f"ALTER TABLE {table['name']} OWNER TO {table['owner']}")
            await con.execute(_ENTRY, step.name, step.sha256)
    else:
        # Parts are written so that they can be repeated: a starter killed half-way begins the file again.
        for part in step.parts:
            await con.execute(part)
        await con.execute(_ENTRY, step.name, step.sha256)
    log.info("migration applied", extra={"migration": step.name})


async def _set_rights(con: Connection, text: str, limits: MigrationLimits, tell: Callable[[str], None]) -> None:
    """Make the roles and grant them their tables; without the right to do so everything works, under one login."""
    for tries in range(1, limits.roles_tries_max + 1):
        try:
            async with con.transaction():
                await con.execute(text)
        except asyncpg.InsufficientPrivilegeError as error:
            tell(f"roles and rights are left as they are, this login may not change them: {error}")
        except _CROWDED:
            if tries == limits.roles_tries_max:
                raise
            await asyncio.sleep(limits.roles_retry_s * tries)
            continue
        return
