"""Recognisable passwords go into a real ingestor and the commands; no output shows them in any spelling."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus, urlsplit
from uuid import uuid4

import pytest

from ops import access_broker, access_database
from ops.access_rules import address_for, operator_rights
from ops.cli import COMMANDS
from tests.stage import Process, Stage, open_stage

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
MARKET = ("--symbols", ",".join(SYMBOLS), "--rate", "20", "--history", "110", "--speed", "10")
CORES = {"database": "SekretDbKern4711", "broker": "SekretMqKern4712"}
"""The part of each password that needs no escaping: it must not be seen even where a password is cut in pieces."""
PASSWORDS = {kind: f"p@ss:w/rd %41+'{core}'\\x" for kind, core in CORES.items()}
COMMANDS_TIMEOUT_S = 60
CALLS = {
    "migrate": ["migrate"],
    "access": ["access", "show"],
    "status": ["status"],
    "doctor": ["doctor", "--offline"],
    "gaps": ["gaps"],
    "dead": ["dead", "list"],
    "retain": ["retain", "--dry-run"],
    "outbox": ["outbox", "status"],
    "tail": ["tail", "price_updates.#", "--count", "1", "--for", "1"],
}
"""Commands that look at both servers; those that there are not yet are left out."""
RUN = """
import json, sys, traceback
from ops import cli
for words in json.loads(sys.argv[1]):
    print("===", *words, flush=True)
    sys.argv = ["trading-bus", *words]
    try:
        cli.main()
    except SystemExit as end:
        print("=== exit", end.code, flush=True)
    except BaseException:
        traceback.print_exc()
"""


def pieces(core: str) -> Iterator[str]:
    """What base64 makes of a text, wherever in a longer one it stands: the parts that no neighbour changes."""
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + core.encode()).decode().rstrip("=")
        yield whole[4 if shift else 0 : -2]


def needles() -> set[str]:
    found: set[str] = set()
    for kind, password in PASSWORDS.items():
        found |= {password, quote(password, safe=""), quote(password), quote_plus(password)}
        found |= {CORES[kind], CORES[kind].encode().hex(), *pieces(CORES[kind])}
    return found


def leaks(text: str) -> list[str]:
    return sorted(needle for needle in needles() if needle in text)


def test_the_search_finds_what_it_is_meant_to_find() -> None:
    for password in PASSWORDS.values():
        for shown in (
            f"x {password} y",
            quote(f"//u:{password}@h"),
            repr(password),
            json.dumps(password),
            password[8:40],
        ):
            assert leaks(shown), shown
        for before in ("u:", "\0u\0", "user:", "trading_bus:"):
            assert leaks(base64.b64encode((before + password).encode()).decode())
    assert not leaks("a log line without any")


class Addresses:
    """The stage's servers under the recognisable login."""

    def __init__(self, stage: Stage, management_url: str, name: str) -> None:
        self.name = name
        self.dsn = address_for(stage.dsn, name, PASSWORDS["database"])
        self.url = address_for(stage.rmq_url, name, PASSWORDS["broker"])
        self.management = address_for(management_url, name, PASSWORDS["broker"])

    def env(self) -> dict[str, str]:
        return {"TS_DSN": self.dsn, "RMQ_URL": self.url, "MANAGEMENT_URL": self.management}

    def spoilt(self) -> dict[str, str]:
        """The same logins with passwords that are wrong, and as recognisable."""
        return {key: value.replace("Kern", "WrongKern") for key, value in self.env().items()}

    def gone(self) -> dict[str, str]:
        """Nothing listens there."""
        return {
            key: urlsplit(value)._replace(netloc=urlsplit(value).netloc.rpartition(":")[0] + ":1").geturl()
            for key, value in self.env().items()
        }


@pytest.fixture
async def given(
    tmp_path: Path, ts_dsn: str, rmq_url: str, management_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Stage, Addresses]]:
    """A stage, and logins on its servers that have the recognisable passwords."""
    name = f"secret_{uuid4().hex[:8]}"
    await access_database.create_login(ts_dsn, name, "writer", PASSWORDS["database"])
    # An operator: what a service may do, and the management API for `status` and `access show`.
    vhost = access_broker.vhost_of(rmq_url)
    access_broker.create_user(management_url, vhost, name, operator_rights(), PASSWORDS["broker"])
    for variable in ("TS_DSN", "RMQ_URL", "MANAGEMENT_URL"):
        monkeypatch.delenv(variable, raising=False)
    try:
        async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
            await stage.start_venue(*MARKET)
            yield stage, Addresses(stage, management_url, name)
    finally:
        await access_database.drop_login(ts_dsn, name)
        access_broker.drop_user(management_url, name)


async def run_commands(env: dict[str, str], url: str) -> str:
    """Output of every command of the table that looks at servers."""
    calls = [words for command, words in CALLS.items() if command in COMMANDS]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, json.dumps(calls),
        env={**os.environ, **env, "STATUS_URLS": url, "NO_COLOR": "1"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), COMMANDS_TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode(errors="replace")
    assert text.count("=== ") >= len(calls), text
    return text


async def pages(stage: Stage, process: Process) -> str:
    port = int((stage.folder / f"{process.name}.port").read_text())
    answers = [await stage.http.get(f"http://127.0.0.1:{port}/{page}") for page in ("healthz", "readyz", "metrics")]
    return "\n".join(f"{answer.headers}\n{answer.text}" for answer in answers)


async def test_nothing_shows_a_secret(given: tuple[Stage, Addresses]) -> None:
    stage, servers = given
    assert leaks(servers.dsn)
    assert leaks(servers.url)
    common = {"symbols": ",".join(SYMBOLS), "clock_rate": 10, "log_level": "DEBUG"}
    right, wrong, gone = servers.env(), servers.spoilt(), servers.gone()
    # Secrets in files: the environment, too, shows none.
    (stage.folder / "dsn").write_text(servers.dsn + "\n")
    files = stage.folder / "credentials"
    files.mkdir()
    (files / "rmq_url").write_text(servers.url + "\n")
    normal = await stage.start_ingestor(
        "normal", ts_dsn="", rmq_url="", ts_dsn_file=stage.folder / "dsn", credentials_directory=files, **common
    )
    refused = await stage.start_ingestor("refused", ts_dsn=wrong["TS_DSN"], **common)
    absurd = await stage.start_ingestor(
        "absurd", ts_dsn=servers.dsn.replace("postgresql:", "mysql:"), rmq_url=servers.url.replace("@127", "@x:x127")
    )
    away = await stage.start_ingestor("away", ts_dsn=gone["TS_DSN"], rmq_url=servers.url, **common)
    await stage.settle(SYMBOLS, await stage.venue_s() + 20)
    assert normal.process is not None
    for file in ("cmdline", "environ"):
        assert not leaks(Path(f"/proc/{normal.process.pid}/{file}").read_bytes().decode())
    await stage.until(lambda: "database is away" in away.log.read_text(), 20, "the absent database was noticed")
    for process in (normal, away):
        assert not leaks(await pages(stage, process))
    await away.kill()
    for process in (refused, absurd):
        assert process.process is not None
        assert await asyncio.wait_for(process.process.wait(), 20) == 2
    assert "InvalidPassword" in refused.log.read_text()

    status_url = f"http://127.0.0.1:{int((stage.folder / 'normal.port').read_text())}"
    for env, output in zip(
        ("right", "wrong", "gone"),
        await asyncio.gather(*(run_commands(env, status_url) for env in (right, wrong, gone))),
        strict=True,
    ):
        assert servers.name in output or env != "right"
        assert not leaks(output), f"commands, {env}: {leaks(output)}\n{output}"
    await stage.con.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", servers.name)
    await stage.until(lambda: normal.log.read_text().count("write lock taken") > 1, 20, "the cut was felt")
    assert await normal.stop() == 0

    # The right to write is free: now a broker that refuses the login, and none at all.
    last = [
        await stage.start_ingestor(f"broker-{kind}", ts_dsn=servers.dsn, rmq_url=env["RMQ_URL"], shard=shard, **common)
        for kind, env, shard in (("refuses", wrong, "0/1"), ("gone", gone, "1/2"))
    ]
    for process in last:
        await stage.until(lambda log=process.log: "broker: " in log.read_text(), 20, "the broker was missed")
        assert not leaks(await pages(stage, process))
    for process in stage.ingestors:
        await process.kill()
        text = process.log.read_text()
        assert "\n" in text
        assert not leaks(text), f"{process.name}: {leaks(text)}\n{text}"
