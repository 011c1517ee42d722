"""`trading-bus doctor`: would it work from here, and if not, why."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Awaitable, Callable, Sequence

import click
import msgspec
from pydantic import SecretStr, ValidationError
from rich.console import Console
from rich.text import Text

from common.errors import ConfigError
from common.redact import Mask, dsn_secrets, redact_dsn
from common.settings import POSTGRES, RABBITMQ, ServiceSettings, load_settings
from ohlcv_ingestor.settings import OhlcvSettings
from ops.doctor_findings import Finding, Level, fail, judge_files, judge_settings, warn
from ops.doctor_servers import UNREACHABLE, check_broker, check_database, check_management
from ops.doctor_venues import check_rest, check_stream, probes_of
from ops.services import find_servers
from ops.status import HTTP, check_address, quiet_logs
from ops.status_ask import words_of
from ops.status_services import SERVICES, ServiceKind, needed_rights

TIMEOUT_S = 5.0
PLAIN_WIDTH = 200
_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
_EPILOG = """\b
Examples:
  trading-bus doctor
  trading-bus doctor --offline
  trading-bus doctor --json | jq '.[] | select(.level == "fail")'
"""
_HELP = """Check from here, with this environment, whether the services would work.

Settings of every service, both servers (version, schema, rights, clock, disk, room), the venues (REST, stream, clock,
what is left of the REST budget) and this machine; everything at once, each within --timeout. A line each: ok, warn or
fail, what was seen, what to do. Passwords are never printed. Nothing is left behind: trial writes are rolled back.

\b
Exit code:
  0  nothing failed (there may be warnings)
  1  something failed
  2  wrong use
"""


class Check(msgspec.Struct, frozen=True):
    """One thing to ask: its name, who asks, and what to do when there is no answer."""

    name: str
    ask: Callable[[], Awaitable[list[Finding]]]
    advice: str


class Servers(msgspec.Struct, frozen=True):
    """Addresses of the servers; None where nothing names one."""

    ts_dsn: str | None
    rmq_url: str | None
    management_url: str | None

    def secrets(self) -> set[str]:
        """Passwords inside them."""
        urls = (self.ts_dsn, self.rmq_url, self.management_url)
        return {secret for url in urls if url for secret in dsn_secrets(url)}


@click.command(help=_HELP, epilog=_EPILOG)
@click.option("--dsn", envvar="TS_DSN", show_envvar=True, help="Database; the one of `services up` if none is given.")
@click.option("--rmq-url", envvar="RMQ_URL", show_envvar=True, help="Broker.")
@click.option("--management-url", envvar="MANAGEMENT_URL", show_envvar=True, help="RabbitMQ's management API.")
@click.option("--offline", is_flag=True, help="Leave the venues out.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0.1, 60), default=TIMEOUT_S, show_default=True,
    help="Seconds that each check has.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="A list of findings as JSON.")
def doctor(
    dsn: str | None, rmq_url: str | None, management_url: str | None, offline: bool, timeout_s: float, as_json: bool
) -> None:
    """See _HELP."""
    with quiet_logs("common"):
        findings = _examine(dsn, rmq_url, management_url, offline, timeout_s, as_json)
    sys.exit(1 if any(it.level is Level.FAIL for it in findings) else 0)


def _examine(
    dsn: str | None, rmq_url: str | None, management_url: str | None, offline: bool, timeout_s: float, as_json: bool
) -> list[Finding]:
    servers, findings = choose_servers(dsn, rmq_url, management_url)
    of_settings, ohlcv = check_settings(SERVICES, servers)
    findings += of_settings
    findings.append(judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
    checks = [*server_checks(servers, ohlcv, timeout_s), *([] if offline else venue_checks(ohlcv, timeout_s))]
    if not offline and ohlcv is None:
        findings.append(warn("venues", "not asked, because the settings do not load", "mend the settings first"))
    # Shown before the loop is closed: closing waits for name lookups that hang.
    with asyncio.Runner() as runner:
        findings += runner.run(run_checks(checks, servers.secrets(), timeout_s))
        _print(findings, as_json)
    return findings


def choose_servers(dsn: str | None, rmq_url: str | None, management_url: str | None) -> tuple[Servers, list[Finding]]:
    """Addresses as given, else those of `services up`; what can not be an address is left out, and a finding."""
    if dsn is None and rmq_url is None and (found := find_servers()) is not None:
        dsn, rmq_url, management_url = found.ts_dsn, found.rmq_url, management_url or found.management_url
    good: list[str | None] = []
    findings: list[Finding] = []
    for name, value, kind in (
        ("TS_DSN", dsn, POSTGRES), ("RMQ_URL", rmq_url, RABBITMQ), ("MANAGEMENT_URL", management_url, HTTP),
    ):  # fmt: skip
        try:
            if value is not None:
                check_address(name, value, kind)
            good.append(value)
        except ConfigError as error:
            good.append(None)
            findings.append(fail("servers", str(error), f"like {kind.example}"))
    if dsn is None or rmq_url is None:
        seen = " and ".join(name for name, url in (("TS_DSN", dsn), ("RMQ_URL", rmq_url)) if url is None)
        findings.append(fail("servers", f"{seen} not given: not asked", "--dsn, --rmq-url, or `services up`"))
    return Servers(*good), findings


def check_settings(kinds: Sequence[ServiceKind], servers: Servers) -> tuple[list[Finding], OhlcvSettings | None]:
    """Load every service's settings, all problems at once; also those of the OHLCV ingestor, which names the venues.

    Where only the servers' addresses are missing, the settings are loaded with the ones we found, so that all the rest
    can be checked too.
    """
    findings: list[Finding] = []
    ohlcv: OhlcvSettings | None = None
    for kind in kinds:
        settings: ServiceSettings | None
        try:
            settings = load_settings(kind.settings)
        except ConfigError as error:
            advice = "set it in the environment, or as a credential file"
            findings += [fail(f"settings {kind.name}", line, advice) for line in str(error).splitlines()]
            settings = _load_beside(kind, servers)
        if settings is not None:
            odd = judge_settings(kind.name, settings)
            findings += (
                odd
                if not any(it.name == f"settings {kind.name}" for it in findings)
                else [it for it in odd if it.level is not Level.OK]
            )
        ohlcv = settings if isinstance(settings, OhlcvSettings) else ohlcv
    return findings, ohlcv


def _load_beside(kind: ServiceKind, servers: Servers) -> ServiceSettings | None:
    if servers.ts_dsn is None or servers.rmq_url is None:
        return None
    try:
        return kind.settings(ts_dsn=SecretStr(servers.ts_dsn), rmq_url=SecretStr(servers.rmq_url))
    except (ValidationError, ValueError):
        return None


def server_checks(servers: Servers, ohlcv: OhlcvSettings | None, timeout_s: float) -> list[Check]:
    """Checks of the servers whose address is known."""
    checks: list[Check] = []
    needs = needed_rights(SERVICES)
    size = (ohlcv or OhlcvSettings.model_construct()).bus_log_max_bytes
    dsn, url, management = servers.ts_dsn, servers.rmq_url, servers.management_url
    if dsn:
        name = f"database {redact_dsn(dsn)}"
        checks.append(Check(name, lambda: check_database(dsn, needs, timeout_s), "is it running, and TS_DSN right?"))
    if url:
        name = f"broker {redact_dsn(url)}"
        checks.append(Check(name, lambda: check_broker(url, timeout_s), "is it running, and RMQ_URL right?"))
    if management:
        name, advice = f"broker management {redact_dsn(management)}", "is the plugin on, and MANAGEMENT_URL right?"
        checks.append(Check(name, lambda: check_management(management, url, size, timeout_s), advice))
    return checks


def venue_checks(ohlcv: OhlcvSettings | None, timeout_s: float) -> list[Check]:
    """REST and stream of every venue that the settings name."""
    checks: list[Check] = []
    advice = "is it blocked from here (firewall, proxy, country), or is the address wrong?"
    for probe in probes_of(ohlcv) if ohlcv is not None else []:
        checks.append(Check(f"{probe.name} REST", lambda probe=probe: check_rest(probe, timeout_s), advice))
        checks.append(Check(f"{probe.name} stream", lambda probe=probe: check_stream(probe, timeout_s), advice))
    return checks


async def run_checks(checks: Sequence[Check], secrets: set[str], timeout_s: float) -> list[Finding]:
    """Run all of them at once; one that can not ask is itself a finding."""
    mask = Mask(secrets)

    async def run(check: Check) -> list[Finding]:
        try:
            async with asyncio.timeout(timeout_s + 1):  # each is bounded by itself; this is for what forgets it
                return await check.ask()
        except UNREACHABLE as error:
            slow = isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError)
            words = f"no answer within {timeout_s:g} s" if slow else words_of(error)
            return [fail(check.name, mask.hide(" ".join(words.split())), check.advice)]

    return [finding for found in await asyncio.gather(*map(run, checks)) for finding in found]


def _print(findings: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(findings))
        return
    width = Console().width if Console().is_terminal else PLAIN_WIDTH
    console, room = Console(width=width), max(len(it.name) for it in findings)
    for it in findings:
        line = Text.assemble((f"{it.level:<5}", _STYLES[it.level]), f"{it.name:<{room}}  {it.seen}")
        console.print(line)
        if it.advice:
            console.print(Text(f"{'':<{room + 7}}-> {it.advice}", style="dim"))
    counts = {level: sum(it.level is level for it in findings) for level in Level}
    bad = counts[Level.FAIL]
    console.print(Text(", ".join(f"{counts[level]} {level}" for level in Level), style="bold red" if bad else "bold"))
