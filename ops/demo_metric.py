"""The metric ingestor in a demo: every window against the venue's recount, samples against its values."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from common.postgres import Connection, named_errors
from metric_ingestor.settings import MetricSettings
from metric_ingestor.windows import WINDOW_S, window_of
from ops.demo_processes import Child, Http, start_child
from ops.services import Servers

SETTINGS = frozenset(name.upper() for name in MetricSettings.model_fields) | {"CREDENTIALS_DIRECTORY"}
SETTLE_S, POLL_S = 3.0, 0.25
FAULTS_MAX = 5


class MetricVerdict(msgspec.Struct):
    """What was compared, and what is wrong."""

    rows: int = 0
    windows: int = 0
    flows: int = 0
    samples: int = 0
    faults: list[str] = msgspec.field(default_factory=lambda: list[str]())

    def line(self) -> str:
        """For the summary."""
        return (
            f"metrics   {self.flows:,} of {self.windows:,} windows of {WINDOW_S} s equal to the"
            f" recount, {self.samples:,} rates and open interests equal to the venue's"
        )


async def start_metric(folder: Path, servers: Servers, venue: Child) -> Child:
    """Start the metric ingestor on the demo's venue; raises TryLater when it does not come."""
    where = f"http://127.0.0.1:{venue.port}"
    env = {"TS_DSN": servers.ts_dsn, "RMQ_URL": servers.rmq_url}
    env |= dict.fromkeys(("BINANCE_FUTURES_REST_URL", "OKX_REST_URL"), where)
    return await start_child("metric ingestor", "metric_ingestor", folder, env, drop=SETTINGS)


async def judge_metric(
    con: Connection, http: Http, venue: Child, metric: Child, symbols: Sequence[str], start_s: int
) -> MetricVerdict:
    """Every window since the demo began, once the last revisions have had time to come; then ends the process."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + SETTLE_S
    while True:
        verdict = MetricVerdict()
        for symbol in symbols:
            await _judge_symbol(con, http, venue, symbol, start_s, verdict)
        if not verdict.faults or loop.time() > until_s or metric.has_ended():
            break
        await asyncio.sleep(POLL_S)
    if metric.has_ended() or await metric.stop() != 0:
        verdict.faults.append("the metric ingestor did not end in order")
    if not verdict.rows:
        verdict.faults.append("the metric ingestor stored nothing")
    del verdict.faults[FAULTS_MAX:]
    return verdict


async def _judge_symbol(
    con: Connection, http: Http, venue: Child, symbol: str, start_s: int, verdict: MetricVerdict
) -> None:
    with named_errors():
        records = await con.fetch(
            "SELECT *, extract(epoch FROM time)::bigint AS s FROM metric_15s WHERE symbol = $1 AND time > $2",
            symbol, dt.datetime.fromtimestamp(start_s, dt.UTC),
        )  # fmt: skip
        cursor_s = await con.fetchval(
            "SELECT extract(epoch FROM event_time)::bigint FROM ingest_cursors WHERE symbol = $1", symbol
        )
    rows = {record["s"]: record for record in records}
    sampled = [end for end, row in rows.items() if row["funding"] is not None]
    verdict.rows += len(rows)
    # Before the first sample the service was starting.
    first, last = min(sampled, default=0), int(cursor_s or 0) // WINDOW_S * WINDOW_S
    if not sampled or last < first:
        return
    seconds = await http.get(venue, "/_oracle/footprints", symbol=symbol, from_s=first - WINDOW_S, to_s=last)
    flows = recount(seconds)
    for end in range(first, last + 1, WINDOW_S):
        verdict.windows += 1
        row, flow = rows.get(end), float(flows.get(end, Decimal(0)))
        if row is None or row["cvd_delta"] != flow:
            told = "no row" if row is None else row["cvd_delta"]
            verdict.faults.append(
                f"metric {symbol} window to {dt.datetime.fromtimestamp(end, dt.UTC):%X}: {told}, not {flow}"
            )
        else:
            verdict.flows += 1
    await _judge_samples(http, venue, symbol, {end: row for end, row in rows.items() if first <= end <= last}, verdict)


async def _judge_samples(
    http: Http, venue: Child, symbol: str, rows: Mapping[int, asyncpg.Record], verdict: MetricVerdict
) -> None:
    span = {"from_ms": 1000 * (min(rows) - 60), "to_ms": 1000 * (max(rows) + 1), "symbol": symbol}
    for source in ("futures", "okx"):
        values = {row["time"]: row for row in await http.get(venue, "/_oracle/perps", venue=source, **span)}
        for row in rows.values():
            for name, at, whose in (
                ("funding", row["funding_time"], row["funding_source"]),
                ("open_interest", row["oi_time"], row["oi_source"]),
            ):
                if row[name] is None or (whose == "okx") != (source == "okx"):
                    continue
                verdict.samples += 1
                told: Any = values.get(round(at.timestamp() * 1000), {}).get(name)
                if told is None or float(told) != row[name]:
                    verdict.faults.append(f"metric {symbol} {name} of {at:%X}: {row[name]}, not {told}")


def recount(seconds: Sequence[Mapping[str, Any]]) -> dict[int, Decimal]:
    """Signed volume by window end, of the venue's own seconds."""
    flows: dict[int, Decimal] = {}
    for row in seconds:
        end = window_of(row["time"])
        flows[end] = flows.get(end, Decimal(0)) + Decimal(str(row["buy_vol"])) - Decimal(str(row["sell_vol"]))
    return flows
