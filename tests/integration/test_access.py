"""Each role can do its work and nothing else, on real servers; and the commands that make logins."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import asyncpg
import pytest

from common.errors import ConfigError, Refused
from migrations.runner import FOLDER, ROLES_FILE, migrate
from ops import access_database
from ops.access_rules import address_for
from ops.services import Servers
from tests.servers import fresh_database

PASSWORD = "p@ss:w0rd/with %41 and more"
CALL_TIMEOUT_S = 10
CUT_OFF = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What asyncpg makes of a connection that the server ended."""

TABLES = {
    "schema_migrations": "",
    "coin_registry": "INSERT UPDATE",
    "coin_registry_history": "INSERT",
    "book_samples": "INSERT",
    "raw_bars": "INSERT UPDATE",
    "footprint_1s": "INSERT UPDATE DELETE",
    "footprint_deleted": "INSERT UPDATE",
    "feed_gaps": "INSERT UPDATE",
    "ingest_cursors": "INSERT UPDATE",
    "metric_15s": "INSERT UPDATE",
    "funding_settled": "INSERT UPDATE",
    "metric_cvd_day": "",
    "macro_onchain_15m": "INSERT UPDATE",
    "macro_btc_daily": "INSERT UPDATE",
    "macro_readings": "INSERT UPDATE",
    "macro_asks": "INSERT UPDATE",
    "macro_circuits": "INSERT UPDATE",
    "macro_quota": "INSERT UPDATE DELETE",
    "influencers": "INSERT UPDATE DELETE",
    "influencer_positions": "INSERT UPDATE",
    "influencer_raw_events": "INSERT",
    "influencer_signals": "INSERT",
    "bus_outbox": "INSERT DELETE",
}
"""What a writer may do beside reading, as docs/ACCESS.md has it. A new table: a line here, there and in roles.sql."""

FORBIDDEN_TO_ALL = (
    "CREATE TABLE t (a int)",
    "CREATE TEMPORARY TABLE t (a int)",
    "CREATE SCHEMA s",
    "CREATE EXTENSION hstore",
    "CREATE ROLE access_evil",
    "SET ROLE trading_migrator",
    "TRUNCATE raw_bars",
    "DROP TABLE raw_bars",
    "ALTER TABLE raw_bars ADD extra int",
    "ALTER TABLE raw_bars OWNER TO CURRENT_USER",
    "CREATE INDEX ON raw_bars (time)",
    "CREATE TRIGGER t BEFORE INSERT ON raw_bars FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "SELECT drop_chunks('raw_bars', older_than => interval '1 day')",
    "DELETE FROM raw_bars",
    "UPDATE bus_outbox SET lane = 1",
    "INSERT INTO schema_migrations VALUES ('9999_x.sql', '')",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_user_mapping",
    "SELECT pg_read_file('/etc/passwd')",
    "COPY raw_bars TO PROGRAM 'cat'",
    "ALTER SYSTEM SET work_mem = '1GB'",
)
WRITES = (
    "INSERT INTO raw_bars (time, symbol, o, h, l, c, v, quote_vol, source, complete, grade)"
    " VALUES (now(), 'A', 1, 1, 1, 1, 1, 1, 'binance', true, 4)",
    "INSERT INTO raw_bars (time, symbol, o, h, l, c, v, quote_vol, source, complete, grade)"
    " VALUES (now() - interval '30 days', 'A', 1, 1, 1, 1, 1, 1, 'binance', true, 4)",
    "UPDATE raw_bars SET rev = rev + 1",
    "DELETE FROM footprint_1s",
    "INSERT INTO bus_outbox (owner, lane, keys, ids, headers, payloads) VALUES ('o', 0, '{}', '{}', '{}', '{}')",
    "DELETE FROM bus_outbox",
    "UPDATE feed_gaps SET tries = 0",
    "UPDATE ingest_cursors SET last_id = 0",
    "UPDATE coin_registry SET status = 'ACTIVE'",
)


# ---- the database


@pytest.fixture
async def logins(ts_dsn: str) -> AsyncIterator[dict[str, str]]:
    """Role -> address of a login that has it, in a fresh database."""
    names = {role: f"{role}_{uuid4().hex[:8]}" for role in ("writer", "reader", "migrator")}
    for role, name in names.items():
        assert await access_database.create_login(ts_dsn, name, role, PASSWORD)
    yield {role: address_for(ts_dsn, name, PASSWORD) for role, name in names.items()}
    for name in names.values():
        await access_database.drop_login(ts_dsn, name)


@asynccontextmanager
async def login(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    con = await asyncpg.connect(dsn, timeout=CALL_TIMEOUT_S, command_timeout=CALL_TIMEOUT_S)
    try:
        yield con
    finally:
        await con.close()


async def allows(con: asyncpg.Connection, statement: str) -> bool:
    """Does the server let this login do it? Nothing of it stays."""
    transaction = con.transaction()
    await transaction.start()
    try:
        await con.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    finally:
        await transaction.rollback()
    return True


async def test_writer_and_reader_have_their_rights_and_no_more(logins: dict[str, str], ts_dsn: str) -> None:
    async with login(logins["writer"]) as writer, login(logins["reader"]) as reader:
        for statement in WRITES:
            await writer.execute(statement)  # both chunks of raw_bars are made by it
            assert not await allows(reader, statement), statement
        for statement in FORBIDDEN_TO_ALL:
            if not statement.startswith("ALTER SYSTEM"):
                assert not await allows(writer, statement), statement
                assert not await allows(reader, statement), statement
            else:  # refuses to run inside a transaction before it looks at rights
                for con in (writer, reader):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await con.execute(statement)
        assert await reader.fetchval("SELECT count(*) FROM raw_bars") == 2
        # Without the right to pass it on it does nothing, with a warning.
        await writer.execute("GRANT TRUNCATE ON raw_bars TO trading_reader")
        assert not await allows(reader, "TRUNCATE raw_bars")
        # The chunks, too, are the migrator's, with the same rights.
        chunks = await reader.fetch("SELECT show_chunks('raw_bars')::text AS name")
        assert len(chunks) == 2
        for chunk in chunks:
            assert not await allows(writer, f"TRUNCATE {chunk['name']}")
            assert not await allows(reader, f"DELETE FROM {chunk['name']}")


async def test_every_table_is_granted_as_documented(ts_dsn: str) -> None:
    async with login(ts_dsn) as con:
        found = await con.fetch(
            "SELECT relname FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')"
        )
        tables = {r[0] for r in found}
        assert tables == TABLES.keys(), (
            "a table without a line in TABLES, roles.sql and docs/ACCESS.md, or a line too many"
        )
        for table, writes in TABLES.items():
            for role, wanted in (("trading_writer", {"SELECT", *writes.split()}), ("trading_reader", {"SELECT"})):
                granted = await con.fetch(
                    "SELECT privilege_type FROM information_schema.table_privileges"
                    " WHERE table_name = $1 AND grantee = $2",
                    table, role,
                )  # fmt: skip
                assert {r[0] for r in granted} == wanted, (table, role)
            assert not await con.fetch(
                "SELECT FROM information_schema.table_privileges WHERE table_name = $1 AND grantee = 'PUBLIC'", table
            )
            assert (
                await con.fetchval("SELECT relowner::regrole::text FROM pg_class WHERE oid = to_regclass($1)", table)
                == "trading_migrator"
            )
    page = (FOLDER.parent / "docs/ACCESS.md").read_text()
    for table, writes in TABLES.items():
        assert f"| `{table}` | {', '.join(writes.lower().split()) or '-'} |" in page, table


async def test_a_right_that_was_added_by_hand_goes_at_the_next_migrate(ts_dsn: str, logins: dict[str, str]) -> None:
    async with login(ts_dsn) as con, login(logins["writer"]) as writer:
        await con.execute("GRANT TRUNCATE ON raw_bars TO trading_writer")
        await con.execute("GRANT ALL ON raw_bars TO PUBLIC")
        assert await allows(writer, "TRUNCATE raw_bars")
        assert await migrate(ts_dsn) == []
        assert not await allows(writer, "TRUNCATE raw_bars")


async def test_a_migrator_login_migrates(logins: dict[str, str], ts_dsn: str, tmp_path: Path) -> None:
    for path in FOLDER.glob("*.sql"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "9999_more.sql").write_text("CREATE TABLE more (a int); ALTER TABLE raw_bars ADD extra int;")
    roles = tmp_path / ROLES_FILE
    roles.write_text(
        roles.read_text().replace("('schema_migrations', NULL)", "('schema_migrations', NULL), ('more', NULL)")
    )
    told: list[str] = []
    with pytest.raises(ConfigError, match="permission denied"):
        await migrate(logins["writer"], tmp_path, tell=told.append)
    assert await migrate(logins["migrator"], tmp_path, tell=told.append) == ["9999_more.sql"]
    assert told == []
    async with login(logins["writer"]) as writer, login(logins["migrator"]) as migrator:
        await writer.execute(WRITES[1])
        assert len(await migrator.fetch("SELECT drop_chunks('raw_bars', older_than => interval '20 days')")) == 1
    async with login(logins["reader"]) as reader:
        assert await reader.fetch("SELECT * FROM more") == []
        assert await reader.fetchval("SELECT tableowner FROM pg_tables WHERE tablename = 'more'") == "trading_migrator"


async def test_who_may_not_make_roles_still_migrates(servers: Servers) -> None:
    """A managed cloud: the owner of a database who is nothing else."""
    owner = f"owner_{uuid4().hex[:8]}"
    told: list[str] = []
    async with fresh_database(servers.ts_dsn, migrated=False) as dsn:
        async with login(dsn) as con:
            await con.execute(f"CREATE ROLE {owner} LOGIN PASSWORD 'owner-password'")
            await con.execute(f"ALTER DATABASE {urlsplit(dsn).path[1:]} OWNER TO {owner}")
        try:
            theirs = address_for(dsn, owner, "owner-password")
            assert await migrate(theirs, tell=told.append)
            assert len(told) == 1
            assert "this login may not change them" in told[0]
            async with login(theirs) as con:
                for statement in WRITES:
                    await con.execute(statement)
            # Once somebody who may has made them, rights are caught up on.
            assert await migrate(dsn, tell=told.append) == []
            assert len(told) == 1
            async with login(dsn) as con:
                assert await con.fetchval("SELECT has_table_privilege('trading_reader', 'raw_bars', 'SELECT')")
        finally:
            async with login(dsn) as con:
                await con.execute(
                    f"DROP OWNED BY {owner}; ALTER DATABASE {urlsplit(dsn).path[1:]} OWNER TO CURRENT_USER"
                )
                await con.execute(f"DROP ROLE {owner}")


async def test_roles_are_made_once_by_databases_that_migrate_at_once(servers: Servers, tmp_path: Path) -> None:
    """The statements of roles.sql under names of their own: a cluster that has none of the roles yet."""
    unique = f"access_{uuid4().hex[:6]}_"
    text = (FOLDER / ROLES_FILE).read_text().replace("trading_", unique)
    assert text.count(unique) > 10
    (tmp_path / ROLES_FILE).write_text(text)

    async def one() -> None:
        async with fresh_database(servers.ts_dsn, migrated=False) as dsn:
            await barrier.wait()
            await migrate(dsn, tmp_path)
            await barrier.wait()

    barrier = asyncio.Barrier(4)
    await asyncio.gather(*(one() for _ in range(4)))
    async with login(servers.ts_dsn) as con:
        found = await con.fetch("SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1) ORDER BY 1", unique)
        assert [r[0] for r in found] == [unique + kind for kind in ("migrator", "reader", "writer")]
        for r in found:
            await con.execute(f"DROP ROLE {r[0]}")


_POLICY_STUB = """
CREATE FUNCTION add_stub_policy(t regclass, drop_after interval, if_not_exists boolean) RETURNS void
LANGUAGE plpgsql AS $f$
BEGIN
  IF NOT (SELECT rolcanlogin FROM pg_roles JOIN pg_class ON relowner = pg_roles.oid WHERE pg_class.oid = t) THEN
    RAISE EXCEPTION 'hypertable owner must have LOGIN permission to run background tasks';
  END IF;
  INSERT INTO policies SELECT t::text, drop_after, relowner::regrole::text FROM pg_class WHERE oid = t;
END $f$;
CREATE TABLE policies (name text, drop_after interval, owner text);
GRANT INSERT ON policies TO PUBLIC;
"""
"""What TimescaleDB's Community edition asks of a hypertable's owner; the edition itself is not tested here."""


@pytest.mark.parametrize("superuser", [True, False], ids=["superuser", "migrator"])
async def test_policies_come_to_tables_that_were_handed_over(empty_dsn: str, tmp_path: Path, superuser: bool) -> None:
    for path in sorted(FOLDER.glob("00*.sql")):
        if path.name < "0010":
            (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / ROLES_FILE).write_text((FOLDER / ROLES_FILE).read_text())
    assert len(await migrate(empty_dsn, tmp_path)) == 9
    text = (FOLDER / "0010_influencer_retention.sql").read_text()
    stubbed = text.replace("'timescale'", "'apache'").replace("add_retention_policy", "add_stub_policy")
    (tmp_path / "0010_influencer_retention.sql").write_text(stubbed)
    name = f"migrator_{uuid4().hex[:8]}"
    await access_database.create_login(empty_dsn, name, "migrator", PASSWORD)
    owners = "SELECT relname, relowner::regrole::text, relacl::text FROM pg_class WHERE relname LIKE 'influencer\\_%'"
    try:
        async with login(empty_dsn) as con:
            await con.execute(_POLICY_STUB)
            before = await con.fetch(f"{owners} ORDER BY 1")
            assert {r[1] for r in before if r[0] == "influencer_signals"} == {"trading_migrator"}
            dsn = empty_dsn if superuser else address_for(empty_dsn, name, PASSWORD)
            assert await migrate(dsn, tmp_path) == ["0010_influencer_retention.sql"]
            added = await con.fetch("SELECT name, drop_after, owner FROM policies ORDER BY 1")
            assert [(r[0], r[1].days) for r in added] == [("influencer_raw_events", 90), ("influencer_signals", 400)]
            assert await con.fetch(f"{owners} ORDER BY 1") == before, "handed over again, with the rights it had"
    finally:
        await access_database.drop_login(empty_dsn, name)


async def test_a_login_is_made_changed_listed_and_removed(ts_dsn: str) -> None:
    name = f"someone_{uuid4().hex[:8]}"
    assert await access_database.create_login(ts_dsn, name, "writer", PASSWORD)
    address = address_for(ts_dsn, name, PASSWORD)
    async with login(address) as con:
        assert access_database.Login(name, "writer", 1) in await access_database.list_logins(ts_dsn)
        again = [access_database.create_login(ts_dsn, name, "reader", "another-password") for _ in range(4)]
        assert await asyncio.gather(*again) == [False] * 4
        assert not await allows(con, WRITES[0])
        with pytest.raises(asyncpg.InvalidPasswordError):
            async with login(address):
                pass
        assert await access_database.drop_login(ts_dsn, name)
        with pytest.raises(CUT_OFF):
            await con.execute("SELECT 1")
        con.terminate()
    assert not await access_database.drop_login(ts_dsn, name)


async def test_a_role_of_somebody_else_is_left_alone(ts_dsn: str) -> None:
    name = f"somebody_{uuid4().hex[:8]}"
    async with login(ts_dsn) as con:
        await con.execute(f"CREATE ROLE {name} LOGIN")
        try:
            with pytest.raises(Refused, match=name):
                await access_database.create_login(ts_dsn, name, "writer", PASSWORD)
            with pytest.raises(Refused, match=name):
                await access_database.drop_login(ts_dsn, name)
        finally:
            await con.execute(f"DROP ROLE {name}")


# ---- the command


@pytest.fixture
def command(ts_dsn: str, rmq_url: str, management_url: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    env = {**os.environ, "TS_DSN": ts_dsn, "RMQ_URL": rmq_url, "MANAGEMENT_URL": management_url}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        script = "from ops.cli import main; main()"
        return subprocess.run([sys.executable, "-c", script, "access", *words], env=env, capture_output=True, text=True,
                              check=False, timeout=60, stdin=subprocess.DEVNULL)  # fmt: skip

    return run


async def test_addresses_are_handed_over_as_files(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, rmq_url: str
) -> None:
    name = f"command_{uuid4().hex[:8]}"
    dsn_file, url_file = tmp_path / "secrets/ts_dsn", tmp_path / "secrets/rmq_url"
    made = command("database", name, "--role", "writer", "--file", str(dsn_file))
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout == f"database: {name} made, writer, address in {dsn_file}\n"
    address = dsn_file.read_text()
    assert stat.S_IMODE(dsn_file.stat().st_mode) == 0o600
    async with login(address.strip()) as con:
        assert await con.fetchval("SELECT current_user") == name
    assert "updated" in command("database", name, "--role", "writer", "--file", str(dsn_file)).stdout
    assert dsn_file.read_text() == address
    dsn_file.chmod(0o644)
    assert command("database", name, "--role", "writer", "--rotate", "--file", str(dsn_file)).returncode == 0
    assert dsn_file.read_text() != address
    assert stat.S_IMODE(dsn_file.stat().st_mode) == 0o644
    address = dsn_file.read_text()
    (tmp_path / "password").write_text(PASSWORD + "\n")
    made = command("broker", name, "--role", "consumer", "--topics", "price_updates", "--file", str(url_file),
                   "--password-file", str(tmp_path / "password"), "--host", "rabbitmq:5672")  # fmt: skip
    assert made.returncode == 0, made.stderr
    url = urlsplit(url_file.read_text().strip())
    assert (url.hostname, url.port, unquote(url.password or "")) == ("rabbitmq", 5672, PASSWORD)
    shown = command("show")
    assert shown.returncode == 0, shown.stderr
    assert name in shown.stdout
    assert "consumer" in shown.stdout
    assert (urlsplit(address).password or "?") not in shown.stdout
    gone = command("remove", name)
    assert gone.stdout == f"{name}: removed from database and broker\n"
    assert "nothing to do" in command("remove", name).stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("database", "x", "--role", "writer"), "give --file"),
        (("database", "X", "--role", "writer", "--print"), "small letters"),
        (("database", "trading_writer", "--role", "writer", "--print"), "belongs to the servers"),
        (("database", "x", "--role", "writer", "--prompt"), "no terminal"),
        (("database", "x", "--role", "reader", "--password-file", "/nonexistent"), "can not be read"),
        (("broker", "x", "--role", "service", "--topics", "onchain", "--print"), "belong to --role consumer"),
        (("broker", "x", "--role", "consumer", "--topics", "onchian", "--print"), "no topic onchian"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(words: tuple[str, ...], told: str) -> None:
    from click.testing import CliRunner

    from ops.access import access

    env = {
        "TS_DSN": "postgresql://127.0.0.1:1/x",
        "RMQ_URL": "amqp://127.0.0.1:1/",
        "MANAGEMENT_URL": "http://127.0.0.1:1",
    }
    result = CliRunner().invoke(access, list(words), env=env)
    assert isinstance(result.exception, ConfigError), result.output
    assert told in str(result.exception)
    assert "\n" not in str(result.exception)
