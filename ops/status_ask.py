"""Ask every source at once, each within its time: the database, the services' HTTP, the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import asyncpg
import httpx
import msgspec

from common import statements as sql
from common.amqp import FAILURES, named_failures, open_link
from common.errors import BadInput, ConfigError, TradingBusError, TryLater
from common.health import Check, Report
from common.listings import WANTED_STATUSES
from common.postgres import Connection, PostgresLimits, connect, named_errors
from common.redact import Mask, dsn_secrets, redact_dsn
from common.topology import EXCHANGE_DEAD, EXCHANGE_UNROUTED, QUEUE_LOG
from ops.status_facts import (
    BrokerFacts,
    DatabaseFacts,
    Facts,
    FeedFacts,
    OutboxFacts,
    QueueFacts,
    RegistryFacts,
    ServiceFacts,
    Silent,
    StreamFacts,
)
from ops.status_metrics import parse_meters
from ops.status_services import SERVICES, ServiceKind

NAME = "trading-bus/status"
ANSWER_BYTES_MAX = 16 * 2**20
HEARTBEAT_S = 10
GOODBYE_TIMEOUT_S = 0.3
NEVER_BEGUN_GRACE_S = 60
NOBODY_THERE = "nothing listens there"

_GAPS = """
SELECT service, venue, symbol,
       count(*) FILTER (WHERE status = 'open' AND NOT old)::int AS gaps_open,
       count(*) FILTER (WHERE status = 'open' AND old)::int AS gaps_parked,
       count(*) FILTER (WHERE status = 'source_missing')::int AS gaps_missing,
       coalesce(extract(epoch FROM now() - min(opened_at) FILTER (WHERE status = 'open' AND NOT old)), 0)::float8
         AS gap_age_s,
       bool_or(status = 'not_subscribed') AS idle
  FROM (SELECT *, service = ANY($2::text[]) AND coalesce(to_time < now() - $1 * interval '1 minute', false) AS old
          FROM feed_gaps) g
 WHERE status = 'open' OR (status = 'source_missing' AND updated_at > now() - interval '1 day')
    OR (status = 'not_subscribed' AND to_id IS NULL)
 GROUP BY service, venue, symbol
"""
"""A gap that ended before the backfill span is parked, where a service ($2) leaves such to an operator."""

_LISTINGS = """
SELECT pair, status, updated_at < now() - $1 * interval '1 second' AS settled
  FROM coin_registry WHERE pair IS NOT NULL
"""

SAMPLED_MINUTES = 20
"""Spreads come every five."""
_REGISTRY = """
SELECT extract(epoch FROM now() - max(run_at))::float8 AS run_age_s,
       EXISTS (SELECT FROM book_samples WHERE time > now() - $1 * interval '1 minute') AS sampled
  FROM coin_registry_history
"""

_T = TypeVar("_T")


class Addresses(msgspec.Struct, frozen=True):
    """Whom to ask; a broker address that is None is not asked."""

    ts_dsn: str
    service_urls: tuple[str, ...]
    rmq_url: str | None = None
    management_url: str | None = None


class AskLimits(msgspec.Struct, frozen=True):
    """`timeout_s` bounds each source; `backfill_minutes` is what the ingestors repair by themselves."""

    timeout_s: float = 2.0
    backfill_minutes: int = 100


async def look(addresses: Addresses, limits: AskLimits, kinds: Sequence[ServiceKind] = SERVICES) -> Facts:
    """Ask all sources concurrently; never raises for one that is away: it is a `Silent` among the answers."""
    broker = _brokers_of(addresses, limits)
    database, services, brokers = await asyncio.gather(
        _ask_database(addresses.ts_dsn, limits, kinds),
        asyncio.gather(*(_ask_service(url, limits) for url in addresses.service_urls)),
        asyncio.gather(*broker),
    )
    return Facts(database, tuple(services), tuple(brokers))


def _brokers_of(addresses: Addresses, limits: AskLimits) -> list[Awaitable[BrokerFacts | Silent]]:
    asked: list[Awaitable[BrokerFacts | Silent]] = []
    if addresses.rmq_url is not None:
        asked.append(_ask_broker(addresses.rmq_url, limits))
    if addresses.management_url is not None:
        asked.append(_ask_management(addresses.management_url, _vhost_of(addresses.rmq_url), limits))
    return asked


async def _within(asking: Awaitable[_T], silent: tuple[str, str], secrets: set[str], timeout_s: float) -> _T | Silent:
    """Its answer, or a line that says why there is none; `silent` is the source and what to do about it."""
    source, advice = silent
    try:
        async with asyncio.timeout(timeout_s):
            return await asking
    except TimeoutError:
        return Silent(source, f"no answer within {timeout_s:g} s", advice)
    except (TradingBusError, OSError, httpx.HTTPError) as error:
        # A connect that ran into its own bound arrives as TryLater.
        slow = isinstance(error.__cause__, TimeoutError) or isinstance(error, httpx.TimeoutException)
        words = f"no answer within {timeout_s:g} s" if slow else words_of(error)
        return Silent(source, Mask(secrets).hide(" ".join(words.split())), advice)


def words_of(error: Exception) -> str:
    """Why a source did not answer, in words; unmasked."""
    if isinstance(error, httpx.ConnectError):
        return NOBODY_THERE
    if isinstance(error.__cause__, asyncpg.UndefinedTableError):
        return f"the schema is not there ({error.__cause__}): `trading-bus migrate`"
    # What the source is stands before it already.
    return str(error).removeprefix("database: ").removeprefix("broker: ") or type(error).__name__


# ---- database


async def _ask_database(dsn: str, limits: AskLimits, kinds: Sequence[ServiceKind]) -> DatabaseFacts | Silent:
    source = f"database {redact_dsn(dsn)}"
    advice = "is it running and TS_DSN right? `trading-bus doctor` tells more; ingestors keep rows while it is away"
    return await _within(_read_database(dsn, limits, kinds), (source, advice), dsn_secrets(dsn), limits.timeout_s)


async def _read_database(dsn: str, limits: AskLimits, kinds: Sequence[ServiceKind]) -> DatabaseFacts:
    bounds = PostgresLimits(connect_timeout_s=limits.timeout_s, statement_timeout_s=limits.timeout_s)
    con = await connect(dsn, NAME, bounds)
    try:
        with named_errors():
            now_s = await con.fetchval("SELECT extract(epoch FROM now())::float8")
            streams = await _read_streams(con, limits, kinds)
            outbox = await con.fetch(sql.OWNERS)
            last = await con.fetchrow(_REGISTRY, SAMPLED_MINUTES)
    finally:
        con.terminate()
    waiting = tuple(
        OutboxFacts(r["owner"], "repair" if r["lane"] else "live", r["messages"], r["age_s"], r["alive"])
        for r in outbox
    )
    ran = None if last is None or last["run_age_s"] is None else msgspec.convert(dict(last), RegistryFacts)
    return DatabaseFacts(now_s, streams, waiting, ran)


async def _read_streams(con: Connection, limits: AskLimits, kinds: Sequence[ServiceKind]) -> tuple[StreamFacts, ...]:
    parking = [kind.name for kind in kinds if kind.streams_sql is not None]
    found = await con.fetch(_GAPS, limits.backfill_minutes, parking)
    gaps = {(r["service"], r["venue"], r["symbol"]): dict(r) for r in found}
    listings = await con.fetch(_LISTINGS, NEVER_BEGUN_GRACE_S)
    status = {r["pair"]: r["status"] for r in listings}
    streams: list[StreamFacts] = []
    for kind in (kind for kind in kinds if kind.streams_sql is not None):
        begun: set[str] = set()
        for r in await con.fetch(kind.streams_sql or "", kind.name):
            key = (kind.name, r["venue"], r["symbol"])
            own = {"service": kind.name, "status": status.get(r["symbol"])}
            streams.append(msgspec.convert({**dict(r), **gaps.pop(key, {}), **own}, StreamFacts))
            begun.add(r["symbol"])
        without = [key for key, row in gaps.items() if key[0] == kind.name and _has_gaps(row)]
        for key in without:
            own = {"status": status.get(key[2])}
            streams.append(msgspec.convert({**gaps.pop(key), **own}, StreamFacts))
            begun.add(key[2])
        if kind.follows_registry:
            # One that became wanted a moment ago is not missed yet.
            late = {r["pair"] for r in listings if r["settled"] and r["status"] in WANTED_STATUSES} - begun
            streams += [StreamFacts(kind.name, "", pair, status=status[pair]) for pair in sorted(late)]
    # Of services whose streams are not looked at, what their ledger says is all there is to see.
    streams += [msgspec.convert(row, StreamFacts) for row in gaps.values() if _has_gaps(row)]
    return tuple(streams)


def _has_gaps(row: Mapping[str, Any]) -> bool:
    return bool(row["gaps_open"] or row["gaps_parked"] or row["gaps_missing"])


# ---- services


async def _ask_service(url: str, limits: AskLimits) -> ServiceFacts | Silent:
    kind = next((kind for kind in SERVICES if urlsplit(url).port == kind.port), None)
    source = f"{kind.name} {redact_dsn(url)}" if kind else f"service {redact_dsn(url)}"
    advice = "is it running, with that HTTP_PORT? addresses: --url or STATUS_URLS"
    answer = await _within(_read_service(url, limits), (source, advice), dsn_secrets(url), limits.timeout_s)
    if isinstance(answer, Silent) and kind is not None and kind.by_timer and answer.reason == NOBODY_THERE:
        return msgspec.structs.replace(answer, advice="nothing, where timers run it", by_timer=True)
    return answer


async def _read_service(url: str, limits: AskLimits) -> ServiceFacts:
    # Past any proxy that the environment names: these are addresses of our own hosts.
    async with httpx.AsyncClient(base_url=url, timeout=limits.timeout_s, trust_env=False) as http:
        health, metrics = await asyncio.gather(http.get("/healthz"), http.get("/metrics"))
    try:
        report = msgspec.json.decode(health.content, type=Report)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadInput(f"answers {health.status_code}, but not like one of our services") from error
    feeds = tuple(_feed_of(check) for check in report.checks if "trade_age_s" in check.detail)
    meters = parse_meters(metrics.text)
    return ServiceFacts(redact_dsn(url), report.service, report.phase, report.healthy, report.checks, feeds, meters)


def _feed_of(check: Check) -> FeedFacts:
    detail: dict[str, Any] = check.detail
    return FeedFacts(
        check.name, check.healthy, check.age_s, int(detail.get("watermark_ms") or 0),
        float(detail.get("watermark_age_s") or 0.0), str(detail.get("speaker", "")), int(detail.get("failovers", 0)),
        dict(detail["trade_age_s"]),
    )  # fmt: skip


# ---- broker


def _vhost_of(rmq_url: str | None) -> str:
    """The vhost an AMQP address names; "/" when it names none."""
    return unquote(urlsplit(rmq_url).path.removeprefix("/")) or "/" if rmq_url else "/"


async def _ask_broker(url: str, limits: AskLimits) -> BrokerFacts | Silent:
    silent = (
        f"broker {redact_dsn(url)}",
        "is it running and RMQ_URL right? messages wait in the outbox meanwhile, nothing is lost",
    )
    return await _within(_read_broker(url, limits), silent, dsn_secrets(url), limits.timeout_s)


async def _read_broker(url: str, limits: AskLimits) -> BrokerFacts:
    link = await open_link(url, NAME, heartbeat_s=HEARTBEAT_S, timeout_s=limits.timeout_s)
    try:
        queues: list[QueueFacts] = []
        with named_failures():
            # The log first: it is a stream, whose depth this call can not tell, but it shows that the bus is there.
            for name in (QUEUE_LOG, EXCHANGE_DEAD, EXCHANGE_UNROUTED):
                declared = await link.channel.queue_declare(name, passive=True)
                if name != QUEUE_LOG:
                    queues.append(QueueFacts(name, declared.message_count or 0))
        return BrokerFacts("amqp", queues=tuple(queues))
    except TryLater as error:
        if _is_absent(error):
            return BrokerFacts("amqp", declared=False)
        raise
    finally:
        await link.close(GOODBYE_TIMEOUT_S)


def _is_absent(error: TryLater) -> bool:
    return isinstance(error.__cause__, FAILURES) and "NOT_FOUND" in str(error)


async def _ask_management(url: str, vhost: str, limits: AskLimits) -> BrokerFacts | Silent:
    source = f"broker management {redact_dsn(url)}"
    advice = "is the management plugin on and MANAGEMENT_URL right? only its alarms and queue counts are missing here"
    return await _within(_read_management(url, vhost, limits), (source, advice), dsn_secrets(url), limits.timeout_s)


_OUR_QUEUES = r"page=1&page_size=100&name=^trading\.bus&use_regex=true&columns=name,messages,consumers"
"""By name, so that a broker with many queues counts only ours; the cheaper totals know nothing of stream queues."""


async def _read_management(url: str, vhost: str, limits: AskLimits) -> BrokerFacts:
    async with httpx.AsyncClient(base_url=url, timeout=limits.timeout_s, trust_env=False) as http:
        listed, nodes = await asyncio.gather(
            http.get(f"/api/queues/{quote(vhost, safe='')}?{_OUR_QUEUES}"),
            http.get("/api/nodes"),
        )
    for answer in (listed, nodes):
        if answer.status_code != 200:
            raise ConfigError(f"{answer.url.path} answers {answer.status_code} {answer.reason_phrase}")
    try:
        queues = tuple(QueueFacts(q["name"], q.get("messages", 0), q.get("consumers")) for q in listed.json()["items"])
        alarms = {what: f"{what}_alarm" for what in ("mem", "disk_free")}
        raised = tuple(what for node in nodes.json() for what, field in alarms.items() if node.get(field))
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput("answers, but not like RabbitMQ's management") from error
    ours = tuple(q for q in queues if q.name.startswith("trading.bus"))
    return BrokerFacts("management", any(q.name == QUEUE_LOG for q in queues), ours, raised)
