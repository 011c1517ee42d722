"""Every command of the documents, typed for real beside a running system; and the columns that the documents name."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from common.contract_notes import column_notes
from ops.server_state import REPOSITORY
from tests.fences import Fence, all_fences, words_of
from tests.stage import Stage, open_stage

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
SPEED = 5
AT_ONCE = 4
LIMIT_S = 40.0
LIVES_FOR_S = 4.0
VERDICTS = ("status", "doctor", "verify", "contracts")
"""Commands whose exit code 1 is an answer."""
LOGINS = ("features",)
"""What the documents' commands make on the servers."""
OWN_TABLES = "schema_migrations"


@dataclass(frozen=True)
class Typed:
    """A command as it was run."""

    where: str
    command: str
    code: int
    output: str
    took_s: float

    def fault(self) -> str | None:
        """What is wrong with it, None when nothing is."""
        good = {0}
        words = words_of(self.command)
        if Path(words[0]).name == "trading-bus" and words[1] in VERDICTS:
            good.add(1)
        if self.command.startswith("timeout "):
            good.add(124)
        if lives(self.command):
            good |= {130, -signal.SIGINT}
        if self.code in good and "Traceback" not in self.output:
            return None
        return f"{self.where}: {self.command}\n  exit code {self.code}: {self.output[-600:]}"


def lives(command: str) -> bool:
    """Whether it goes on until somebody ends it."""
    words = words_of(command)
    program, rest = Path(words[0]).name, words[1:]
    if program == "trading-bus":
        bounded = any(word in rest for word in ("--for", "--count", "--idle", "--seconds"))
        return (rest[0] in ("run", "demo", "replay", "record", "tail") or "--watch" in rest) and not bounded
    return program.startswith("python") and rest[:1] == ["-m"] and rest[1].endswith("_ingestor")


def is_run(command: str) -> bool:
    """`make` is checked by name only, and exported addresses are the stage's."""
    return words_of(command)[:1] not in ([], ["make"], ["export"], ["git"], ["cd"])


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        await stage.start_venue(
            "--symbols", ",".join(SYMBOLS), "--rate", "20", "--quiet-every", "2", "--okx", "--speed", str(SPEED)
        )
        await stage.start_ingestor(symbols=",".join(SYMBOLS), clock_rate=SPEED)
        await stage.settle(SYMBOLS, await stage.venue_s())
        yield stage


async def test_every_command_does_what_a_reader_expects(stage: Stage, management_url: str) -> None:
    env, folder = prepare(stage, management_url)
    seen: set[str] = set()
    turns = asyncio.Semaphore(AT_ONCE)
    try:
        played = await asyncio.gather(*(play(fence, folder, env, turns, seen) for fence in all_fences()))
    finally:
        for name in LOGINS:
            await run(f"trading-bus access remove {name}", folder, env)
    typed = [command for fence in played for command in fence]
    for command in sorted(typed, key=lambda one: -one.took_s):
        print(f"{command.took_s:5.1f} s  {command.code:4}  {command.command}")
    assert len(typed) >= 15
    assert [fault for command in typed if (fault := command.fault())] == []


def prepare(stage: Stage, management_url: str) -> tuple[dict[str, str], Path]:
    """What a reader has: a clone to stand in, programs by name, and the addresses of everything."""
    folder = stage.folder / "clone"
    folder.mkdir()
    for entry in REPOSITORY.iterdir():
        if not entry.name.startswith(".") or entry.name == ".venv":
            (folder / entry.name).symlink_to(entry)
    where = f"127.0.0.1:{stage.port}"
    env = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "TS_DSN": stage.dsn,
        "RMQ_URL": stage.rmq_url,
        "MANAGEMENT_URL": management_url,
        "AGG_WS_URL": f"ws://{where}/stream",
        "BINANCE_REST_URL": f"http://{where}",
        "OKX_WS_URL": f"ws://{where}/ws/v5/public",
        "OKX_REST_URL": f"http://{where}",
        "STATUS_URLS": f"http://127.0.0.1:{(stage.folder / 'ingestor.port').read_text().strip()}",
        "BUS_LOG_MAX_BYTES": "100000000",
        "NO_PROXY": "127.0.0.1",
    }
    return {**os.environ, **env}, folder


async def play(
    fence: Fence, folder: Path, env: dict[str, str], turns: asyncio.Semaphore, seen: set[str]
) -> list[Typed]:
    """The commands of a block, one after the other; what another block has typed already is not typed again."""
    typed: list[Typed] = []
    for command in fence.commands:
        if fence.norun or command in seen or not is_run(command):
            continue
        seen.add(command)
        async with turns:
            began = time.monotonic()
            code, output = await run(command, folder, env)
        typed.append(Typed(fence.where, command, code, output, time.monotonic() - began))
    return typed


async def run(command: str, folder: Path, env: dict[str, str]) -> tuple[int, str]:
    """Exit code and output; what lives until it is ended is ended by Ctrl-C, what does not end in time is killed."""
    process = await asyncio.create_subprocess_shell(
        f"exec env {command}" if lives(command) else command,
        cwd=folder,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    reading = asyncio.create_task(process.communicate())
    await asyncio.wait([reading], timeout=LIVES_FOR_S if lives(command) else LIMIT_S)
    if not reading.done():
        os.killpg(process.pid, signal.SIGINT if lives(command) else signal.SIGKILL)
    await asyncio.wait([reading], timeout=LIMIT_S)
    if not reading.done():
        os.killpg(process.pid, signal.SIGKILL)
    output, _ = await reading
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


async def test_every_column_of_every_table_has_a_note(ts_dsn: str) -> None:
    con = await asyncpg.connect(ts_dsn)
    rows = await con.fetch(
        "SELECT table_name, column_name FROM information_schema.columns JOIN information_schema.tables"
        " USING (table_schema, table_name) WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
    )
    await con.close()
    stored: dict[str, set[str]] = {}
    for row in rows:
        stored.setdefault(row["table_name"], set()).add(row["column_name"])
    del stored[OWN_TABLES]
    # common/contract_notes.py names them, `trading-bus contracts write` takes them into docs/SEMANTICS.md.
    notes = {table: set(columns) for table, columns in column_notes().items()}
    missing = {table: sorted(columns - notes.get(table, set())) for table, columns in stored.items()}
    assert {table: columns for table, columns in missing.items() if columns} == {}
    for table, columns in stored.items():
        extra = notes[table] - columns
        assert not extra, f"{table}: no column {sorted(extra)}"
