from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from common.errors import ConfigError, TryLater
from migrations.runner import FOLDER, LOCK_NAME, MigrationLimits, migrate

TABLES = {"coin_registry", "raw_bars", "footprint_1s", "feed_gaps", "ingest_cursors", "bus_outbox"}
OURS = [path.name for path in sorted(FOLDER.glob("[0-9]*.sql"))]


async def fetch(dsn: str, sql: str, *args: object) -> list[asyncpg.Record]:
    con = await asyncpg.connect(dsn)
    try:
        return await con.fetch(sql, *args)
    finally:
        await con.close()


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.sql").write_text(text)
    return folder


async def test_three_starters_at_once_apply_each_file_once(empty_dsn: str) -> None:
    answers = await asyncio.gather(*(migrate(empty_dsn) for _ in range(3)))
    assert sorted(answers, key=len) == [[], [], OURS]
    tables = await fetch(empty_dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert {r[0] for r in tables} >= TABLES
    hyper = await fetch(empty_dsn, "SELECT hypertable_name FROM timescaledb_information.hypertables ORDER BY 1")
    assert {r[0] for r in hyper} >= {"footprint_1s", "raw_bars", "metric_15s"}
    assert await migrate(empty_dsn) == []


async def test_extension_is_created_where_it_is_missing(empty_dsn: str) -> None:
    await fetch(empty_dsn, "DROP EXTENSION timescaledb CASCADE")
    assert await migrate(empty_dsn) == OURS


async def test_starters_of_a_concurrent_index_do_not_deadlock(empty_dsn: str, tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        **{
            "0001_things": "CREATE TABLE things (a int, b text);\nINSERT INTO things VALUES (1, '$$ % ;');",
            "0002_things_index": (
                "-- no transaction\nDROP INDEX IF EXISTS things_a;\n-- next\n"
                "CREATE INDEX CONCURRENTLY things_a ON things (a);\n"
            ),
        },
    )
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*(migrate(empty_dsn, folder) for _ in range(3)))
    assert sorted(map(len, answers)) == [0, 0, 2]
    assert await fetch(empty_dsn, "SELECT FROM pg_index i WHERE indexrelid = 'things_a'::regclass AND i.indisvalid")


async def test_failing_file_leaves_nothing_of_itself(empty_dsn: str, tmp_path: Path) -> None:
    folder = write(
        tmp_path, **{"0001_good": "CREATE TABLE a (x int);", "0002_bad": "CREATE TABLE b (x int); SELECT 1/0;"}
    )
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_dsn, folder)
    assert [r[0] for r in await fetch(empty_dsn, "SELECT name FROM schema_migrations")] == ["0001_good.sql"]
    assert await fetch(empty_dsn, "SELECT to_regclass('b') IS NULL AS gone") == [(True,)]
    write(folder, **{"0002_bad": "CREATE TABLE b (x int);"})
    assert await migrate(empty_dsn, folder) == ["0002_bad.sql"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"0001_a": "SELECT 1;"}, {"0001_a": "SELECT 2;"}, "0001_a.sql was edited"),
        ({"0001_a": "SELECT 1;"}, {"0002_b": "SELECT 1;"}, "0001_a.sql was applied"),
        ({}, {"0001_a": "SELECT 1;", "0001_b": "SELECT 1;"}, "same number"),
        ({}, {"1_a": "SELECT 1;"}, "0001_what_it_does.sql"),
        ({"0002_b": "SELECT 1;"}, {"0001_a": "SELECT 1;", "0002_b": "SELECT 1;"}, "comes before"),
    ],
)
async def test_history_and_files_must_agree(
    empty_dsn: str, tmp_path: Path, before: dict[str, str], after: dict[str, str], message: str
) -> None:
    await migrate(empty_dsn, write(tmp_path, **before))
    for path in tmp_path.glob("*.sql"):
        path.unlink()
    with pytest.raises(ConfigError, match=re.escape(message)):
        await migrate(empty_dsn, write(tmp_path, **after))


async def test_starter_that_takes_too_long_is_not_waited_for(empty_dsn: str) -> None:
    con = await asyncpg.connect(empty_dsn)
    try:
        await con.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", LOCK_NAME)
        with pytest.raises(TryLater):
            await migrate(empty_dsn, limits=MigrationLimits(lock_wait_s=0.3))
    finally:
        await con.close()


async def test_server_away_is_try_later() -> None:
    with pytest.raises(TryLater):
        await migrate("postgresql://nobody@127.0.0.1:1/nothing")
