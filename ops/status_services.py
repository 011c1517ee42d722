"""The services that the operator's commands know: a value each. A new service is one more row of `SERVICES`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from common.settings import ServiceSettings
from influencer_ingestor.settings import InfluencerSettings
from macro_ingestor.settings import MacroSettings
from metric_ingestor.settings import MetricSettings
from ohlcv_ingestor.settings import OhlcvSettings
from registry.settings import RegistrySettings

_OHLCV_STREAMS = """
SELECT c.venue, c.symbol, extract(epoch FROM c.event_time)::float8 AS cursor_s,
       extract(epoch FROM last.time)::float8 AS last_trade_s, coalesce(recent.n, 0)::float8 / 60 AS trades_per_s
  FROM ingest_cursors c
  LEFT JOIN LATERAL (SELECT f.time FROM footprint_1s f
                      WHERE f.symbol = c.symbol AND f.time < c.event_time AND f.time >= c.event_time - interval '1 day'
                      ORDER BY f.time DESC LIMIT 1) last ON true
  LEFT JOIN LATERAL (SELECT sum(f.n) AS n FROM footprint_1s f
                      WHERE f.symbol = c.symbol AND f.time < c.event_time
                        AND f.time >= c.event_time - interval '60 seconds') recent ON true
 WHERE c.service = $1
"""
"""By symbol, because (symbol, time) is the only index: by time alone it would read a whole day."""


class ServiceKind(msgspec.Struct, frozen=True):
    """One service: its name in `/healthz` and in `ingest_cursors`, and how to look at it.

    `port` is where `status` looks for it when no address is given. `settings` is the class that `doctor` loads.
    `streams_sql` ($1 is the name) lists its streams: venue, symbol, cursor_s, last_trade_s, trades_per_s. `advice`
    says what to do when a check of that name (or of a name that begins so) fails. With `follows_registry` every
    wanted pair of coin_registry has to have a stream. `writes` names its tables and the rights that it needs on each.
    One that timers may run instead (`by_timer`) is not missed when nobody answers on its port.
    """

    name: str
    port: int
    settings: type[ServiceSettings]
    advice: Mapping[str, str]
    writes: Mapping[str, str] = {}
    streams_sql: str | None = None
    follows_registry: bool = False
    by_timer: bool = False

    def advise(self, check: str) -> str:
        """What to do when this check fails."""
        return next((text for name, text in self.advice.items() if check.startswith(name)), "see the service's log")


SERVICES: tuple[ServiceKind, ...] = (
    ServiceKind(
        "ohlcv",
        8101,
        OhlcvSettings,
        {
            "ohlcv-": "the venue delivers nothing: `trading-bus doctor` asks it from here; repair follows by itself",
            "symbols": "`trading-bus gaps` lists what waits; a repair waits while the venue's REST does not answer",
            "writing": "the database does not take rows: `trading-bus doctor`, then the service's log",
            "publishing": "the broker does not confirm: look at its alarms and disk; nothing is lost meanwhile",
        },
        {
            "coin_registry": "SELECT",
            "raw_bars": "SELECT, INSERT, UPDATE",
            "footprint_1s": "SELECT, INSERT, UPDATE, DELETE",
            "footprint_deleted": "SELECT, INSERT, UPDATE",
            "feed_gaps": "SELECT, INSERT, UPDATE",
            "ingest_cursors": "SELECT, INSERT, UPDATE",
            "bus_outbox": "SELECT, INSERT, DELETE",
        },
        _OHLCV_STREAMS,
        follows_registry=True,
    ),
    ServiceKind(
        "metric",
        8102,
        MetricSettings,
        {
            "rows": "no window was written: the service's log; without venue time (vendor time, trades) there is none",
            "vendor": "the futures venue does not answer: its columns are null meanwhile; the service's log",
            "trades": "the trades' service is behind: look at `ohlcv` first; cvd_delta is null until it has caught up",
            "writing": "the database does not take rows: `trading-bus doctor`, then the service's log",
            "publishing": "the broker does not confirm: look at its alarms and disk; nothing is lost meanwhile",
        },
        {
            "coin_registry": "SELECT",
            "raw_bars": "SELECT",
            "footprint_1s": "SELECT",
            "feed_gaps": "SELECT",
            "ingest_cursors": "SELECT",
            "metric_15s": "SELECT, INSERT, UPDATE",
            "funding_settled": "SELECT, INSERT, UPDATE",
            "bus_outbox": "SELECT, INSERT, DELETE",
        },
    ),
    ServiceKind(
        "registry",
        8105,
        RegistrySettings,
        {
            "run": "the last nights' runs failed: the service's log, then `trading-bus registry run --dry-run`",
            "samples": "spreads are not sampled: does Binance's REST answer? `trading-bus registry sample` says why",
        },
        {
            "coin_registry": "SELECT, INSERT, UPDATE",
            "coin_registry_history": "SELECT, INSERT",
            "book_samples": "SELECT, INSERT",
            "raw_bars": "SELECT",
            "feed_gaps": "SELECT",
            "metric_15s": "SELECT",
            "bus_outbox": "SELECT, INSERT, DELETE",
        },
        by_timer=True,
    ),
    ServiceKind(
        "macro",
        8103,
        MacroSettings,
        {
            "pulls": "no pull was stored for two quarters of an hour: the service's log",
            "columns": "nobody tells a column: `trading-bus macro check` asks every vendor from here",
            "writing": "the database does not take rows: `trading-bus doctor`, then the service's log",
            "publishing": "the broker does not confirm: look at its alarms and disk; nothing is lost meanwhile",
        },
        {
            "macro_onchain_15m": "SELECT, INSERT, UPDATE",
            "macro_btc_daily": "SELECT, INSERT, UPDATE",
            "macro_readings": "SELECT, INSERT, UPDATE",
            "macro_asks": "SELECT, INSERT, UPDATE",
            "macro_circuits": "SELECT, INSERT, UPDATE",
            "macro_quota": "SELECT, INSERT, UPDATE, DELETE",
            "bus_outbox": "SELECT, INSERT, DELETE",
        },
    ),
    ServiceKind(
        "influencer",
        8104,
        InfluencerSettings,
        {
            "listener": "one listener is away, the other one feeds: its reason stands beside it; it connects by itself",
            "accounts": "accounts nobody hears, or polled too late: their fills are fetched when the venue answers",
            "configuration": "the table influencers can not be read or followed: `refused` says why, with the numbers",
            "writing": "the database does not take rows: `trading-bus doctor`, then the service's log",
            "publishing": "the broker does not confirm: look at its alarms and disk; nothing is lost meanwhile",
        },
        {
            "influencers": "SELECT",
            "influencer_positions": "SELECT, INSERT, UPDATE",
            "influencer_raw_events": "SELECT, INSERT",
            "influencer_signals": "SELECT, INSERT",
            "feed_gaps": "SELECT, INSERT, UPDATE",
            "ingest_cursors": "SELECT, INSERT, UPDATE",
            "bus_outbox": "SELECT, INSERT, DELETE",
        },
    ),
)
"""Long-running services only: what only runs once and ends has no address to ask."""


SERVICE_LOGINS = frozenset(kind.name for kind in SERVICES)
"""Logins of the broker that are taken for a service's by their names: no consumer may be called so."""


def needed_rights(kinds: Iterable[ServiceKind]) -> list[tuple[str, str]]:
    """All rights that these services need together, as pairs of table and right; what two need is named once."""
    pairs = ((t, right.strip()) for kind in kinds for t, rights in kind.writes.items() for right in rights.split(","))
    return list(dict.fromkeys(pairs))


def kind_of(name: str) -> ServiceKind | None:
    """The service of this name, None for one that this table does not know."""
    return next((kind for kind in SERVICES if kind.name == name), None)
