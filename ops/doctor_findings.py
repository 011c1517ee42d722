"""What a value seen by `doctor` means: a finding each. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from urllib.parse import urlsplit

import msgspec

from common.settings import ServiceSettings
from ohlcv_ingestor.settings import OhlcvSettings
from registry.schedule import RUN_AGE_MAX_S

POSTGRES_LEAST = 14
"""Multiranges, in which the ledger keeps missing ids."""
POSTGRES_TESTED = 17
TIMESCALE_LEAST = (2, 13)
"""`by_range` in create_hypertable."""
RABBITMQ_LEAST = (3, 13)
SKEW_WARN_S = 1.0
SKEW_FAIL_S = 10.0
WEIGHT_WARN_SHARE = 0.5
WEIGHT_FAIL_SHARE = 0.9
FILES_LEAST = 256
FILES_USUAL = 1024
DISK_WARN_SHARE = 0.2
DISK_FAIL_SHARE = 0.05
CONNECTIONS_WARN_SHARE = 0.8
TABLES_NAMED = 6
_GB = 1e9


class Level(StrEnum):
    """How a finding is meant; only `fail` decides the exit code."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """One line: what was looked at, what was seen, and what to do (empty when nothing is)."""

    name: str
    level: Level
    seen: str
    advice: str = ""


def ok(name: str, seen: str) -> Finding:
    """Nothing to do."""
    return Finding(name, Level.OK, seen)


def warn(name: str, seen: str, advice: str) -> Finding:
    """It works, and will hurt."""
    return Finding(name, Level.WARN, seen, advice)


def fail(name: str, seen: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(name, Level.FAIL, seen, advice)


# ---- settings


def judge_settings(service: str, settings: ServiceSettings) -> list[Finding]:
    """Settings that load and look wrong all the same; one `ok` when none does."""
    name = f"settings {service}"
    odd = [*_doubt_common(name, settings)]
    if isinstance(settings, OhlcvSettings):
        odd += _doubt_ohlcv(name, settings)
    return odd or [ok(name, "loaded, nothing looks wrong")]


def _doubt_common(name: str, settings: ServiceSettings) -> Iterator[Finding]:
    if settings.clock_rate != 1:
        yield warn(name, f"CLOCK_RATE={settings.clock_rate:g}", "only tests and tapes run at another rate than 1")
    if settings.clock_offset_s:
        advice = "set this machine's clock right and drop it"
        yield warn(name, f"CLOCK_OFFSET_S={settings.clock_offset_s:g}", advice)
    if not _is_loopback(settings.http_host):
        advice = "health and metrics are open to that network: a firewall, or 127.0.0.1"
        yield warn(name, f"HTTP_HOST={settings.http_host}", advice)
    if settings.http_port == 0:
        yield warn(
            name, "HTTP_PORT is not set: a free port is taken", "set it, so that `status` and Prometheus find it"
        )
    amqp = urlsplit(settings.rmq_url.get_secret_value())
    if amqp.scheme == "amqp" and not _is_loopback(amqp.hostname):
        yield warn(name, f"RMQ_URL crosses the network to {amqp.hostname} without TLS", "amqps://")
    dsn = urlsplit(settings.ts_dsn.get_secret_value())
    if not _is_loopback(dsn.hostname) and "sslmode=verify-full" not in dsn.query:
        yield warn(name, f"TS_DSN crosses the network to {dsn.hostname} unchecked", "?sslmode=verify-full")


def _doubt_ohlcv(name: str, settings: OhlcvSettings) -> Iterator[Finding]:
    addresses = {
        "AGG_WS_URL": settings.agg_ws_url,
        "BINANCE_REST_URL": settings.binance_rest_url,
        "OKX_WS_URL": settings.okx_ws_url,
        "OKX_REST_URL": settings.okx_rest_url,
    }
    wrong = {variable for variable, url in addresses.items() if not is_address(url, variable)}
    for variable in sorted(wrong):
        yield fail(name, f"{variable}={addresses[variable]} is no address", "like wss://host/path or https://host")
    yield from _doubt_venue(name, settings, {name: url for name, url in addresses.items() if name not in wrong})
    if settings.rest_share * settings.shard.count > 1:
        seen = f"REST_SHARE={settings.rest_share:g} for {settings.shard.count} instances is more than the venue allows"
        yield warn(name, seen, "leave it out: each takes its part")
    if settings.stale_after_s > 30:
        yield warn(name, f"STALE_AFTER_S={settings.stale_after_s:g}", "a dead connection is noticed that late")
    if settings.fallback == "none":
        yield warn(name, "FALLBACK=none", "nobody speaks while Binance delivers nothing; the gap is repaired later")
    odd = [symbol for symbol in settings.symbols if not re.fullmatch(r"[^\W_]{5,}", symbol)]
    if odd:
        yield warn(name, f"SYMBOLS has {', '.join(odd)}", "pairs as the venue writes them, like BTCUSDT")


def _doubt_venue(name: str, settings: OhlcvSettings, addresses: Mapping[str, str]) -> Iterator[Finding]:
    path = urlsplit(settings.agg_ws_url).path
    if path.rstrip("/") != "/stream":
        advice = "the combined endpoint ends in /stream; others send frames of another shape"
        yield fail(name, f"AGG_WS_URL has the path {path or '/'!r}", advice)
    for variable, url in addresses.items():
        parts = urlsplit(url)
        if parts.scheme in ("ws", "http") and not _is_loopback(parts.hostname):
            yield warn(name, f"{variable} is not encrypted", f"{parts.scheme}s://")
        if variable.endswith("_REST_URL") and parts.path.strip("/"):
            advice = "only scheme and host: paths like /api/v3/time are added to it"
            yield fail(name, f"{variable} has the path {parts.path!r}", advice)


def is_address(url: str, variable: str) -> bool:
    """Can this be what the variable, named ..._WS_URL or ..._REST_URL, asks for?"""
    schemes = ("ws", "wss") if variable.endswith("_WS_URL") else ("http", "https")
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or half a bracket
        return False


def _is_loopback(host: str | None) -> bool:
    return host in (None, "localhost", "::1") or str(host).startswith("127.")


# ---- machines


def judge_skew(name: str, ours_s: float, theirs_s: float, round_trip_s: float) -> Finding:
    """Our clock (taken in the middle of the call) against theirs; half the round trip proves nothing."""
    skew_s = ours_s - theirs_s
    sure_s = max(0.0, abs(skew_s) - round_trip_s / 2)
    seen = f"ours is {abs(skew_s):.2f} s {'ahead' if skew_s > 0 else 'behind'} (+- {round_trip_s / 2:.2f} s)"
    if sure_s <= SKEW_WARN_S:
        return ok(name, seen)
    advice = "synchronise clocks (NTP: timedatectl, chronyc tracking)"
    return (fail if sure_s > SKEW_FAIL_S else warn)(name, seen, advice)


def judge_weight(name: str, used: int | None, limit: int) -> Finding:
    """The venue's own count for our address in this minute."""
    if used is None:
        return warn(name, "the venue does not tell its count (X-MBX-USED-WEIGHT-1M)", "is that host the venue's?")
    seen = f"{used} of {limit} a minute used by this address"
    if used <= WEIGHT_WARN_SHARE * limit:
        return ok(name, seen)
    advice = "somebody else uses this address, or a large repair runs; REST_SHARE sets our part"
    return (fail if used > WEIGHT_FAIL_SHARE * limit else warn)(name, seen, advice)


def judge_files(soft: int) -> Finding:
    """The limit of open files of this shell, which a service started from it inherits."""
    name, seen = "open files", "no limit" if soft < 0 else f"limit {soft}"
    if soft < 0 or soft >= FILES_USUAL:
        return ok(name, seen)
    advice = "ulimit -n 65536, or LimitNOFILE= in the unit"
    return (fail if soft < FILES_LEAST else warn)(name, seen, advice)


def judge_disk(name: str, free: int, total: int, needed: int = 0) -> Finding:
    """Bytes free on a server's disk; `needed` is what our settings let it grow by."""
    share = free / total if total else 1.0
    seen = f"{free / _GB:.1f} GB free" + (f" of {total / _GB:.1f} GB" if total else "")
    if share < DISK_FAIL_SHARE:
        return fail(name, seen, "a full disk stops every write: more disk, or a shorter retention")
    if needed > free:
        return warn(name, f"{seen}, {needed / _GB:.1f} GB may be asked for", "smaller BUS_LOG_MAX_BYTES, or more disk")
    if share < DISK_WARN_SHARE:
        return warn(name, seen, "plan for more disk, or a shorter retention")
    return ok(name, seen)


# ---- servers


def read_version(text: str) -> tuple[int, ...]:
    """The numbers a version begins with: "2.19.3+dfsg" -> (2, 19, 3)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def judge_postgres(version: str) -> Finding:
    """PostgreSQL's version."""
    major = (read_version(version) or (0,))[0]
    if major < POSTGRES_LEAST:
        return fail("database version", f"PostgreSQL {version}", f"{POSTGRES_LEAST} or newer is needed")
    if major < POSTGRES_TESTED:
        return warn("database version", f"PostgreSQL {version}", f"tested on {POSTGRES_TESTED}")
    return ok("database version", f"PostgreSQL {version}")


def judge_timescale(installed: str | None, available: str | None, licence: str | None) -> Finding:
    """The extension, and which edition of it: Apache's has no compression and no retention of its own."""
    name = "timescaledb"
    if installed is None:
        if available is None:
            return fail(name, "the server does not have the extension", "install timescaledb there")
        return warn(name, f"{available} is there, not in this database yet", "`trading-bus migrate` creates it")
    edition = {"timescale": "Community edition", "apache": "Apache edition: no compression, retention is a job"}
    seen = f"{installed}, {edition.get(licence or '', f'licence {licence}')}"
    if read_version(installed) < TIMESCALE_LEAST:
        return fail(name, seen, f"{'.'.join(map(str, TIMESCALE_LEAST))} or newer is needed")
    return ok(name, seen)


def judge_schema(pending: Iterable[str]) -> Finding:
    """Migrations that are not applied."""
    names = list(pending)
    if not names:
        return ok("schema", "up to date")
    return fail("schema", f"{len(names)} migrations to apply, first {names[0]}", "`trading-bus migrate`")


def judge_rights(lacking: Iterable[tuple[str, str]], trial: str | None) -> Finding:
    """Rights we do not have (table, right), and what a trial insert, rolled back, was answered (None: it worked)."""
    by_table: dict[str, list[str]] = {}
    for table, right in lacking:
        by_table.setdefault(table, []).append(right)
    if by_table:
        lines = [f"{', '.join(rights)} on {table}" for table, rights in by_table.items()]
        if len(lines) > TABLES_NAMED:
            lines[TABLES_NAMED:] = [f"and on {len(lines) - TABLES_NAMED} more tables"]
        advice = "GRANT trading_writer TO the login of TS_DSN (`trading-bus migrate` sets that role's rights)"
        return fail("database rights", f"missing: {'; '.join(lines)}", advice)
    if trial is not None:
        return fail("database rights", f"a trial write was refused: {trial}", "is it a replica, or read-only?")
    return ok("database rights", "tables can be written (tried and rolled back)")


def judge_registry(run_age_s: float | None) -> Finding:
    """Age of the registry's last written run, whoever started it; None: there was none."""
    if run_age_s is None:
        return ok("registry", "it never ran: ingestors follow SYMBOLS, or rows written by hand")
    seen = f"last run {run_age_s / 3600:.1f} h ago"
    if run_age_s <= RUN_AGE_MAX_S:
        return ok("registry", seen)
    return warn("registry", seen, "`trading-bus registry run` makes up for it, or says why it can not")


def judge_connections(used: int, most: int) -> Finding:
    """Open connections against the server's limit."""
    seen = f"{used} of {most}"
    if used < CONNECTIONS_WARN_SHARE * most:
        return ok("database connections", seen)
    return warn("database connections", seen, "raise max_connections: a service that starts needs three")


def judge_rabbitmq(version: str) -> Finding:
    """RabbitMQ's version: stream queues and quorum queues with a delivery limit."""
    if read_version(version) < RABBITMQ_LEAST:
        least = ".".join(map(str, RABBITMQ_LEAST))
        return fail("broker version", f"RabbitMQ {version}", f"{least} or newer is needed (stream queues)")
    return ok("broker version", f"RabbitMQ {version}, with stream queues")


def judge_plugins(enabled: Iterable[str]) -> Finding:
    """The management plugin answered; Prometheus reads the other one."""
    names = set(enabled)
    if "rabbitmq_prometheus" in names:
        return ok("broker plugins", "management and prometheus")
    return warn("broker plugins", "rabbitmq_prometheus is off", "rabbitmq-plugins enable rabbitmq_prometheus")


def judge_log(arguments: dict[str, object] | None, bytes_max: int) -> Finding:
    """The replay log that exists against the size that the settings ask for; None: not declared yet."""
    name = "broker log"
    if arguments is None:
        return ok(name, "trading.bus.log is not there yet: the first service declares it")
    if arguments.get("x-queue-type") != "stream":
        return fail(name, "trading.bus.log is no stream queue", "delete it; the next service declares it anew")
    size = arguments.get("x-max-length-bytes")
    if size != bytes_max:
        advice = "its size stays until it is deleted, and with it what it holds"
        return warn(name, f"trading.bus.log holds {size} bytes, BUS_LOG_MAX_BYTES asks for {bytes_max}", advice)
    return ok(name, f"trading.bus.log, up to {bytes_max / _GB:.1f} GB")
