"""Ask the two servers for what `doctor` judges: versions, rights, schema, clock, disk."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

import aio_pika
import asyncpg
import httpx
from aio_pika.abc import AbstractConnection

from common.amqp import named_failures
from common.consuming import BusLimits, close_bus, connect_bus
from common.errors import BadInput, ConfigError, Refused, TradingBusError, TryLater
from common.postgres import Connection, PostgresLimits, connect, named_errors
from common.redact import redact_dsn
from common.topology import EXCHANGE, QUEUE_LOG
from migrations.runner import FOLDER, plan, read_steps
from ops import doctor_findings as judge
from ops.doctor_findings import Finding, fail, ok, warn

NAME = "trading-bus/doctor"
HEARTBEAT_S = 10

_VERSIONS = """
SELECT current_setting('server_version') AS server,
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS installed,
       (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb') AS available,
       current_setting('timescaledb.license', true) AS licence,
       (SELECT count(*) FROM pg_stat_activity)::int AS used, current_setting('max_connections')::int AS most,
       pg_database_size(current_database()) AS size
"""
_LACKING = """
SELECT name, "right" FROM unnest($1::text[], $2::text[]) AS needed(name, "right")
 WHERE to_regclass(name) IS NOT NULL AND NOT has_table_privilege(to_regclass(name)::oid, "right")
"""
_TRIAL = """
INSERT INTO ingest_cursors (service, venue, symbol, last_id, event_time) VALUES ('doctor', '', '', 0, now())
"""
_RUN_AGE = "SELECT extract(epoch FROM now() - max(run_at))::float8 FROM coin_registry_history"
_DATA_FOLDER = "SELECT setting FROM pg_settings WHERE name = 'data_directory'"


# ---- database


async def check_database(dsn: str, needs: Sequence[tuple[str, str]], timeout_s: float) -> list[Finding]:
    """Everything about the database; raises TryLater or ConfigError when it can not be reached at all.

    `needs` are pairs of a table and one right that is needed on it.
    """
    con = await connect(dsn, NAME, PostgresLimits(connect_timeout_s=timeout_s, statement_timeout_s=timeout_s))
    try:
        with named_errors():
            seen = await con.fetchrow(_VERSIONS)
            if seen is None:
                raise TryLater("the database answers nothing")
            pending = await _check_schema(con)
            findings = [
                ok("database", redact_dsn(dsn)),
                judge.judge_postgres(seen["server"]),
                judge.judge_timescale(seen["installed"], seen["available"], seen["licence"]),
                pending,
                judge.judge_connections(seen["used"], seen["most"]),
                await _check_clock(con),
                await _check_disk(con, dsn, seen["size"]),
            ]
            if pending.level is judge.Level.OK:
                findings.append(await _check_rights(con, needs))
                findings += await _check_registry(con)
            return findings
    finally:
        con.terminate()


async def _check_schema(con: Connection) -> Finding:
    try:
        rows = await con.fetch("SELECT name, sha256 FROM schema_migrations")
    except asyncpg.UndefinedTableError:
        rows = []
    except asyncpg.InsufficientPrivilegeError:
        return fail("schema", "this login may not read schema_migrations", "GRANT trading_writer or trading_reader")
    try:
        return judge.judge_schema(
            step.name for step in plan(read_steps(FOLDER), {r["name"]: r["sha256"] for r in rows})
        )
    except ConfigError as error:
        return fail("schema", str(error), "run the version of trading-bus that this database was migrated with")


async def _check_rights(con: Connection, needs: Sequence[tuple[str, str]]) -> Finding:
    lacking = await con.fetch(_LACKING, [table for table, _ in needs], [right for _, right in needs])
    trial: str | None = None
    if not lacking:
        attempt = con.transaction()
        await attempt.start()
        try:
            await con.execute(_TRIAL)
        except asyncpg.PostgresError as error:
            trial = str(error)
        finally:
            await attempt.rollback()
    return judge.judge_rights([(r["name"], r["right"]) for r in lacking], trial)


async def _check_registry(con: Connection) -> list[Finding]:
    try:
        return [judge.judge_registry(await con.fetchval(_RUN_AGE))]
    except asyncpg.InsufficientPrivilegeError:
        return []  # told among the rights


async def _check_clock(con: Connection) -> Finding:
    before_s = time.time()
    theirs_s = await con.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    after_s = time.time()
    return judge.judge_skew("clock database", (before_s + after_s) / 2, theirs_s, after_s - before_s)


async def _check_disk(con: Connection, dsn: str, size: int) -> Finding:
    """SQL can not tell what is free; where the server runs on this machine, its data folder can."""
    name = "database disk"
    folder = await con.fetchval(_DATA_FOLDER)  # only for who may read every setting
    if folder and urlsplit(dsn).hostname in ("localhost", "127.0.0.1", "::1", None):
        try:
            usage = await asyncio.to_thread(shutil.disk_usage, folder)
            return judge.judge_disk(name, usage.free, usage.total)
        except OSError:
            pass  # in a container, or not for us to see: said below
    return ok(name, f"the database takes {size / 1e9:.2f} GB; what is free can not be seen from here")


# ---- broker


async def check_broker(url: str, timeout_s: float) -> list[Finding]:
    """Version and rights over AMQP; raises TryLater when it can not be reached."""
    limits = BusLimits(connect_timeout_s=timeout_s, call_timeout_s=timeout_s, heartbeat_s=HEARTBEAT_S)
    connection = await connect_bus(url, NAME, limits)
    try:
        version = await _read_version(connection)
        return [
            ok("broker", redact_dsn(url)),
            judge.judge_rabbitmq(version),
            await _check_declaring(connection, timeout_s),
            await _check_publishing(connection, timeout_s),
        ]
    finally:
        await close_bus(connection, limits)


async def _read_version(connection: AbstractConnection) -> str:
    properties: Any = getattr(connection.transport and connection.transport.connection, "server_properties", None) or {}
    version = properties.get("version", "unknown")
    return version.decode() if isinstance(version, bytes) else str(version)


async def _check_declaring(connection: AbstractConnection, timeout_s: float) -> Finding:
    """A queue with a name like ours that lives as long as this connection."""
    name = f"{EXCHANGE}.doctor.{uuid4().hex[:8]}"
    try:
        with named_failures():
            async with asyncio.timeout(timeout_s):
                channel = await connection.channel()
                await channel.declare_queue(name, exclusive=True, auto_delete=True)
                await channel.close()
    except TryLater as error:
        return fail("broker rights", f"no queue can be declared: {error}", _permit("configure"))
    return ok("broker rights", "queues can be declared")


async def _check_publishing(connection: AbstractConnection, timeout_s: float) -> Finding:
    """A message inside a transaction that is rolled back: the right is checked, and nobody ever sees it."""
    name = "broker publish"
    try:
        with named_failures():
            async with asyncio.timeout(timeout_s):
                channel = await connection.channel(publisher_confirms=False)
                exchange = await channel.get_exchange(EXCHANGE, ensure=True)
                transaction = channel.transaction()
                await transaction.select()
                await exchange.publish(aio_pika.Message(b""), "doctor")
                await transaction.rollback()
                await channel.close()
    except TryLater as error:
        if "NOT_FOUND" in str(error):
            return warn(name, f"{EXCHANGE} is not there yet", "the first service declares it")
        return fail(name, f"{EXCHANGE} refuses: {error}", _permit("write"))
    return ok(name, f"{EXCHANGE} takes messages (tried and rolled back)")


def _permit(right: str) -> str:
    return f"rabbitmqctl set_permissions: the login of RMQ_URL needs {right} on trading.bus.*"


async def check_management(url: str, rmq_url: str | None, log_bytes_max: int, timeout_s: float) -> list[Finding]:
    """What only the management API knows: plugins, alarms, disk, the log's arguments. Raises Refused or BadInput."""
    vhost = unquote(urlsplit(rmq_url or "").path.removeprefix("/")) or "/"
    async with httpx.AsyncClient(base_url=url, timeout=timeout_s, trust_env=False) as http:
        nodes, log = await asyncio.gather(
            http.get("/api/nodes"), http.get(f"/api/queues/{quote(vhost, safe='')}/{QUEUE_LOG}")
        )
    if nodes.status_code != 200:
        raise Refused(f"answers {nodes.status_code} {nodes.reason_phrase}")
    try:
        listed: list[dict[str, Any]] = nodes.json()
        arguments = log.json()["arguments"] if log.status_code == 200 else None
        held = log.json().get("message_bytes", 0) if log.status_code == 200 else 0
        findings = [ok("broker management", redact_dsn(url)), judge.judge_log(arguments, log_bytes_max)]
        for node in listed:
            findings += _judge_node(node, max(0, log_bytes_max - held))
        return findings
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput("answers, but not like RabbitMQ's management") from error


def _judge_node(node: Mapping[str, Any], needed: int) -> list[Finding]:
    findings = [judge.judge_plugins(node["enabled_plugins"])]
    for what in ("mem", "disk_free"):
        if node.get(f"{what}_alarm"):
            findings.append(fail("broker alarm", f"{what} on {node['name']}", "every publisher is blocked: free some"))
    free = node.get("disk_free")
    if isinstance(free, int):
        limit = int(node.get("disk_free_limit") or 0)
        findings.append(judge.judge_disk("broker disk", max(0, free - limit), 0, needed))
    return findings


UNREACHABLE = (TradingBusError, asyncpg.PostgresError, httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError)
"""What a check raises instead of findings."""
