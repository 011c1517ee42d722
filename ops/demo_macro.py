"""The macro ingestor in a demo: made-up vendors, and every stored value held against what they told."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from common.postgres import Connection, named_errors
from macro_ingestor.settings import MacroSettings
from ops.demo_processes import Child, Http, start_child
from ops.services import Servers

SETTINGS = frozenset(name.upper() for name in MacroSettings.model_fields) | {"CREDENTIALS_DIRECTORY"}
VENDORS = ("glassnode", "coinmetrics", "bgeometrics", "etherscan", "dune", "goldrush", "bitquery")
KEY = "demo"
SLOT_COLUMNS = ("btc_ex_netflow", "btc_ex_reserve_pct", "eth_ex_netflow", "eth_gas_price", "stbl_cex_netflow")
DAY_COLUMNS = ("mvrv", "asopr_7d", "nupl")
DAY_S = 86_400
_DIGITS = Decimal("1e-10")

Told = Mapping[tuple[str, str], Mapping[int, Collection[Decimal]]]
"""(vendor, what) -> every value that was told, by its time."""


class MacroVerdict(msgspec.Struct):
    """What was compared, and what is wrong."""

    values: int = 0
    slots: int = 0
    days: int = 0
    faults: list[str] = msgspec.field(default_factory=lambda: list[str]())

    def line(self) -> str:
        """For the summary."""
        return (
            f"macro     {self.values - len(self.faults):,} of {self.values:,} values equal to what vendors told, in"
            f" {self.slots} quarters of an hour and {self.days} days"
        )


async def start_macro(folder: Path, servers: Servers, venue: Child) -> Child:
    """Start the macro ingestor on the made-up vendors; raises TryLater when it does not come."""
    base = f"http://127.0.0.1:{venue.port}/macro"
    env = {f"{name.upper()}_URL": f"{base}/{name}" for name in VENDORS}
    env |= {"TS_DSN": servers.ts_dsn, "RMQ_URL": servers.rmq_url, "ETHERSCAN_API_KEY": KEY, "DUNE_API_KEY": KEY}
    env |= {"DUNE_QUERIES": "stbl_cex_netflow=1001", "ETH_RPC_URL": f"{base}/jsonrpc"}
    return await start_child("macro ingestor", "macro_ingestor", folder, env, drop=SETTINGS)


async def judge_macro(con: Connection, http: Http, venue: Child, macro: Child) -> MacroVerdict:
    """Every value of both tables against what its source told about that time."""
    verdict = MacroVerdict()
    if macro.has_ended() or await macro.stop() != 0:
        verdict.faults.append("the macro ingestor did not end in order")
    told = read_told(await http.get(venue, "/_oracle/macro"))
    with named_errors():
        slots = await con.fetch("SELECT * FROM macro_onchain_15m")
        days = await con.fetch("SELECT * FROM macro_btc_daily")
    verdict.slots, verdict.days = len(slots), len(days)
    for rows, columns in ((slots, SLOT_COLUMNS), (days, DAY_COLUMNS)):
        for row in rows:
            as_of, source = json.loads(row["as_of"]), json.loads(row["source"])
            for column in columns:
                if row[column] is not None:
                    verdict.values += 1
                    time_s = _epoch(as_of[column])
                    if row[column] not in expect(told, column, source[column].partition(":")[0], time_s):
                        verdict.faults.append(f"macro {column} {as_of[column]}: {row[column]} was not told")
    if not slots or not days:
        verdict.faults.append("the macro ingestor stored nothing")
    return verdict


def read_told(body: Any) -> Told:
    """The oracle's answer."""
    told: dict[tuple[str, str], dict[int, set[Decimal]]] = {}
    for entry in body["told"]:
        days = told.setdefault((entry["vendor"], entry["what"]), {})
        days[int(entry["time"])] = {Decimal(value) for value in entry["values"]}
    return told


def expect(told: Told, column: str, vendor: str, time_s: int) -> set[Decimal]:
    """What a column may be, by what its vendor told about that time."""

    def of(what: str, at_s: int = time_s) -> Collection[Decimal]:
        return told.get((vendor, what), {}).get(at_s, ())

    if column == "eth_gas_price":
        prices = told.get((vendor, "gas"), {})
        # Etherscan names no time, so any price it told may be this one.
        return {price for at_s, known in prices.items() if vendor == "etherscan" or at_s == time_s for price in known}
    if column == "btc_ex_reserve_pct":
        return {(100 * share).quantize(_DIGITS) for share in of("reserve")}
    if column == "stbl_cex_netflow":
        return {usdt + usdc for usdt in of("USDT_netflow") for usdc in of("USDC_netflow")}
    if column == "asopr_7d":
        week = [of("asopr", time_s - back * DAY_S) for back in range(7)]
        return {(sum(map(max, week), Decimal(0)) / 7).quantize(_DIGITS)} if all(week) else set()
    if column == "nupl":
        return {(1 - 1 / mvrv).quantize(_DIGITS) for mvrv in of("mvrv")}
    if column == "mvrv":
        return set(of("mvrv"))
    asset = column[:3]
    return {into - out for into in of(f"{asset}_in") for out in of(f"{asset}_out")}


def _epoch(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp())
