"""What `doctor` makes of what it sees."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from common.errors import TryLater
from ohlcv_ingestor.settings import OhlcvSettings
from ops import doctor_findings as judge
from ops.doctor import Check, Servers, check_settings, choose_servers, doctor, run_checks
from ops.doctor_findings import Finding, Level, ok
from ops.doctor_venues import probes_of
from ops.server_state import REPOSITORY
from ops.status_services import SERVICES, ServiceKind, needed_rights

HERE = {"ts_dsn": "postgresql://w:s3cr3t-pw@127.0.0.1/x", "rmq_url": "amqp://w:s3cr3t-pw@127.0.0.1/", "http_port": 1}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TS_DSN", "RMQ_URL", "MANAGEMENT_URL", "CREDENTIALS_DIRECTORY", "TS_DSN_FILE", "RMQ_URL_FILE"):
        monkeypatch.delenv(name, raising=False)


def settings(**changes: object) -> OhlcvSettings:
    return OhlcvSettings(**{**HERE, **changes})  # type: ignore[arg-type]


def levels(findings: list[Finding]) -> list[str]:
    return [it.level for it in findings]


def test_rights_of_all_services_are_asked_for_together() -> None:
    needed = needed_rights(SERVICES)
    assert len(set(needed)) == len(needed)
    for kind in SERVICES:
        for table, rights in kind.writes.items():
            assert {(table, right) for right in rights.split(", ")} <= set(needed), kind.name


def test_missing_rights_are_told_by_table() -> None:
    lacking = [(f"t{i}", right) for i in range(8) for right in ("INSERT", "UPDATE")]
    seen = judge.judge_rights(lacking, None).seen
    assert seen.startswith("missing: INSERT, UPDATE on t0; INSERT, UPDATE on t1;")
    assert seen.endswith("on t5; and on 2 more tables")


def test_good_settings_are_one_line() -> None:
    assert judge.judge_settings("ohlcv", settings()) == [
        ok("settings ohlcv", "loaded, nothing looks wrong"),
    ]


@pytest.mark.parametrize(
    ("changes", "level", "word"),
    [
        ({"agg_ws_url": "wss://h/ws"}, "fail", "/stream"),
        ({"agg_ws_url": "wss://h"}, "fail", "/stream"),
        ({"agg_ws_url": "ws://stream.h/stream"}, "warn", "AGG_WS_URL is not encrypted"),
        ({"binance_rest_url": "https://h/api/v3"}, "fail", "/api/v3"),
        ({"okx_rest_url": "wss://h"}, "fail", "OKX_REST_URL"),
        ({"okx_ws_url": "ws://h:99999"}, "fail", "OKX_WS_URL"),
        ({"binance_rest_url": "http://["}, "fail", "BINANCE_REST_URL"),
        ({"clock_rate": 10}, "warn", "CLOCK_RATE=10"),
        ({"clock_offset_s": -3}, "warn", "CLOCK_OFFSET_S=-3"),
        ({"http_host": "0.0.0.0"}, "warn", "HTTP_HOST"),
        ({"http_port": 0}, "warn", "HTTP_PORT"),
        ({"rmq_url": "amqp://w:s3cr3t-pw@mq/"}, "warn", "without TLS"),
        ({"ts_dsn": "postgresql://w:s3cr3t-pw@db/x"}, "warn", "unchecked"),
        ({"rest_share": 0.6, "shard": "0/2"}, "warn", "REST_SHARE"),
        ({"stale_after_s": 60}, "warn", "STALE_AFTER_S"),
        ({"fallback": "none"}, "warn", "FALLBACK"),
        ({"symbols": "BTC/USDT"}, "warn", "BTC/USDT"),
    ],
)
def test_settings_that_look_wrong(changes: dict, level: str, word: str) -> None:
    found = judge.judge_settings("ohlcv", settings(**changes))
    assert levels(found) == [level], found
    assert word in f"{found[0].seen} {found[0].advice}"
    assert found[0].advice
    assert "s3cr3t" not in repr(found)


def test_remote_servers_with_tls_are_fine() -> None:
    given_ = {"rmq_url": "amqps://w:p@mq/", "ts_dsn": "postgresql://w:p@db/x?sslmode=verify-full"}
    assert levels(judge.judge_settings("ohlcv", settings(**given_))) == ["ok"]


def test_all_problems_of_the_settings_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARD", "3/2")
    monkeypatch.setenv("HTTP_PORT", "99999")
    found, ohlcv = check_settings(SERVICES[:1], Servers(HERE["ts_dsn"], HERE["rmq_url"], None))
    assert {it.seen.partition(":")[0] for it in found} == {"TS_DSN", "RMQ_URL", "SHARD", "HTTP_PORT"}
    assert levels(found) == ["fail"] * 4
    assert ohlcv is None


def test_only_addresses_missing_leaves_the_rest_to_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGG_WS_URL", "ws://127.0.0.1/ws")
    monkeypatch.setenv("HTTP_PORT", "8101")
    found, ohlcv = check_settings(SERVICES[:1], Servers(HERE["ts_dsn"], HERE["rmq_url"], None))
    assert [it.seen.partition(" ")[0] for it in found] == ["TS_DSN:", "RMQ_URL:", "AGG_WS_URL"]
    assert ohlcv is not None
    assert [probe.name for probe in probes_of(ohlcv)] == ["binance", "okx"]
    assert [probe.name for probe in probes_of(settings(fallback="none"))] == ["binance"]


def test_addresses_that_are_none() -> None:
    servers, found = choose_servers("mysql://w:s3cr3t-pw@h", "amqp://w:s3cr3t-pw@h", "h:1")
    assert servers == Servers(None, "amqp://w:s3cr3t-pw@h", None)
    assert [it.seen.partition(":")[0] for it in found] == ["TS_DSN", "MANAGEMENT_URL"]
    assert "s3cr3t" not in repr(found)
    assert servers.secrets() == {"s3cr3t-pw"}


@given(st.floats(-1e5, 1e5), st.floats(0, 10))
def test_skew_is_judged_by_what_is_proven(skew_s: float, round_trip_s: float) -> None:
    found = judge.judge_skew("clock", 1e9 + skew_s, 1e9, round_trip_s)
    if abs(skew_s) <= 0.999:
        assert found.level is Level.OK
    if abs(skew_s) > 10.001 + round_trip_s / 2:
        assert found.level is Level.FAIL
        assert ("ahead" if skew_s > 0 else "behind") in found.seen
    assert (found.level is Level.OK) == (found.advice == "")


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (judge.judge_weight("b", 3000, 6000), "ok"),
        (judge.judge_weight("b", 3001, 6000), "warn"),
        (judge.judge_weight("b", 5401, 6000), "fail"),
        (judge.judge_weight("b", None, 6000), "warn"),
        (judge.judge_files(-1), "ok"),
        (judge.judge_files(1024), "ok"),
        (judge.judge_files(1023), "warn"),
        (judge.judge_files(255), "fail"),
        (judge.judge_disk("d", 50, 100), "ok"),
        (judge.judge_disk("d", 19, 100), "warn"),
        (judge.judge_disk("d", 4, 100), "fail"),
        (judge.judge_disk("d", 50, 0, needed=51), "warn"),
        (judge.judge_postgres("17.11 (Debian)"), "ok"),
        (judge.judge_postgres("15.3"), "warn"),
        (judge.judge_postgres("13.3"), "fail"),
        (judge.judge_timescale("2.19.3+dfsg", "2.19.3", "apache"), "ok"),
        (judge.judge_timescale("2.9.0", "2.9.0", "timescale"), "fail"),
        (judge.judge_timescale(None, "2.19.3", None), "warn"),
        (judge.judge_timescale(None, None, None), "fail"),
        (judge.judge_schema([]), "ok"),
        (judge.judge_schema(["0001_a.sql"]), "fail"),
        (judge.judge_registry(None), "ok"),
        (judge.judge_registry(25 * 3600), "ok"),
        (judge.judge_registry(27 * 3600), "warn"),
        (judge.judge_rights([], None), "ok"),
        (judge.judge_rights([("raw_bars", "INSERT")], None), "fail"),
        (judge.judge_rights([], "cannot execute INSERT in a read-only transaction"), "fail"),
        (judge.judge_connections(79, 100), "ok"),
        (judge.judge_connections(80, 100), "warn"),
        (judge.judge_rabbitmq("4.0.5"), "ok"),
        (judge.judge_rabbitmq("3.12.1"), "fail"),
        (judge.judge_rabbitmq("unknown"), "fail"),
        (judge.judge_plugins(["rabbitmq_prometheus"]), "ok"),
        (judge.judge_plugins(["rabbitmq_management"]), "warn"),
        (judge.judge_log(None, 5), "ok"),
        (judge.judge_log({"x-queue-type": "stream", "x-max-length-bytes": 5}, 5), "ok"),
        (judge.judge_log({"x-queue-type": "stream", "x-max-length-bytes": 5}, 6), "warn"),
        (judge.judge_log({"x-queue-type": "classic"}, 6), "fail"),
    ],
)
def test_levels(found: Finding, level: str) -> None:
    assert found.level == level, found
    assert (found.advice == "") == (level == "ok")


async def test_a_check_that_can_not_ask_is_a_finding() -> None:
    async def refuse() -> list[Finding]:
        raise TryLater("postgresql://w:s3cr3t-pw@h said s3cr3t-pw")

    async def slow() -> list[Finding]:
        raise httpx.ConnectTimeout("") from TimeoutError()

    async def good() -> list[Finding]:
        return [ok("good", "yes")]

    checks = [Check("one", refuse, "mend it"), Check("two", slow, "mend it"), Check("three", good, "")]
    found = await run_checks(checks, {"s3cr3t-pw"}, 1.0)
    assert levels(found) == ["fail", "fail", "ok"]
    assert found[0].seen == "postgresql://w:***@h said ***"
    assert found[1].seen == "no answer within 1 s"


async def test_a_bug_is_not_taken_for_an_answer() -> None:
    async def broken() -> list[Finding]:
        raise AttributeError("x")

    with pytest.raises(AttributeError):
        await run_checks([Check("it", broken, "")], set(), 1.0)


def test_help_and_json() -> None:
    told = CliRunner().invoke(doctor, ["--help"]).output
    assert "Exit code:" in told and "trading-bus doctor --offline" in told
    closed = {"TS_DSN": "postgresql://w:s3cr3t-pw@127.0.0.1:1/x", "RMQ_URL": "amqp://w:s3cr3t-pw@127.0.0.1:1/"}
    result = CliRunner().invoke(doctor, ["--offline", "--json"], env=closed)
    found = {it["name"]: it["level"] for it in json.loads(result.output)}
    assert result.exit_code == 1
    assert [level for name, level in found.items() if name.startswith(("database", "broker"))] == ["fail", "fail"]
    assert "s3cr3t" not in result.output


_STATEMENTS = {
    "ohlcv": ["ohlcv_ingestor", "common/statements.py", "common/registry_follower.py"],
    "metric": ["metric_ingestor", "common/registry_follower.py"],
    "registry": ["registry"],
    "macro": ["macro_ingestor"],
    "influencer": ["influencer_ingestor"],
}
_OPERATORS = {"influencer_ingestor/command.py"}
"""Run under an operator's login."""
_USES = (
    ("DELETE", r"DELETE FROM (\w+)"),
    ("SELECT", r"(?<!DELETE )(?:FROM|JOIN) (\w+)"),
    ("INSERT", r"INSERT INTO (\w+)"),
    ("UPDATE", r"(?<!DO )UPDATE (\w+) AS"),
    ("UPDATE", r"INSERT INTO (\w+)(?:(?!INSERT INTO).)*?DO UPDATE"),
)


@pytest.mark.parametrize("kind", SERVICES, ids=[kind.name for kind in SERVICES])
def test_every_right_that_a_statement_needs_is_asked_for(kind: ServiceKind) -> None:
    """Or a right that was taken away is noticed by the service alone, at its next write."""
    places = [REPOSITORY / place for place in _STATEMENTS[kind.name]]
    files = [file for place in places for file in ([place] if place.suffix else sorted(place.glob("**/*.py")))]
    texts = [f.read_text() for f in files if str(f.relative_to(REPOSITORY)) not in _OPERATORS]
    statements = [each for text in texts for each in re.findall(r'"""(.*?)"""|"([A-Z][^"\n]*)"', text, re.S)]
    tables = set(re.findall(r"^    \('(\w+)',", (REPOSITORY / "migrations/roles.sql").read_text(), re.M))
    used = {
        (table, right)
        for statement in statements for right, pattern in _USES
        for table in re.findall(pattern, " ".join("".join(statement).split()), re.S) if table in tables
    }  # fmt: skip
    assert used
    assert used <= set(needed_rights([kind]))
