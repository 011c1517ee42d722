"""The influencer ingestor in a demo: accounts that trade by a script, and every signal held against a recount."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from common.postgres import Connection, named_errors
from influencer_ingestor.settings import InfluencerSettings
from ops.demo_processes import Child, Http, start_child
from ops.services import Servers

SETTINGS = frozenset(name.upper() for name in InfluencerSettings.model_fields) | {"CREDENTIALS_DIRECTORY"}
OWNER = "influencer/0/1"
ACCOUNTS = {
    "0x" + "a" * 40: ("whale-1", "ETH"),
    "0x" + "b" * 40: ("whale-2", "BTC"),
    "0x" + "c" * 40: ("whale-3", "SOL"),
}
ACTIONS = ("open", "increase", "flip", "decrease", "increase", "close")
BURST_FILLS = 55
TRADE_EVERY_S = 0.5
CUT_AT_STEP = 8
SETTLE_S, POLL_S = 5.0, 0.2
FAULTS_MAX = 5

Told = tuple[str, str, int, str, str, Decimal, Decimal]
"""Influencer, market, time, action, side, size, signed change."""


class InfluencerVerdict(msgspec.Struct):
    """What was compared, and what is wrong."""

    signals: int = 0
    equal: int = 0
    accounts: int = 0
    faults: list[str] = msgspec.field(default_factory=lambda: list[str]())

    def line(self) -> str:
        """For the summary."""
        return (
            f"signals   {self.equal:,} of {self.signals:,} position changes of {self.accounts} accounts equal to the"
            " recount, a listener cut meanwhile"
        )


async def start_influencer(folder: Path, servers: Servers, venue: Child, con: Connection) -> Child:
    """Start the influencer ingestor on the demo's venue with its accounts; raises TryLater when it does not come."""
    with named_errors():
        await con.executemany(
            "INSERT INTO influencers (address, influencer_id) VALUES ($1, $2)",
            [(address, name) for address, (name, _) in ACCOUNTS.items()],
        )
    where = f"127.0.0.1:{venue.port}/hyperliquid"
    env = {"TS_DSN": servers.ts_dsn, "RMQ_URL": servers.rmq_url, "HYPERLIQUID_WS_URL": f"ws://{where}/ws"}
    env["HYPERLIQUID_INFO_URL"] = f"http://{where}/info"
    return await start_child("influencer ingestor", "influencer_ingestor", folder, env, drop=SETTINGS)


async def trade(http: Http, venue: Child) -> None:
    """Have the accounts trade until cancelled: all they do in turn, bursts, and once one listener is cut."""
    step = 0
    while True:
        action = ACTIONS[step % len(ACTIONS)]
        parts = BURST_FILLS if action == "flip" else 3
        steps = [
            {"user": address, "action": action, "coin": coin, "parts": parts} for address, (_, coin) in ACCOUNTS.items()
        ]
        await _fault(http, venue, kind="play", steps=steps)
        step += 1
        if step == CUT_AT_STEP:
            await _fault(http, venue, kind="cut", connection=0)
        await asyncio.sleep(TRADE_EVERY_S)


async def judge_influencer(con: Connection, http: Http, venue: Child, influencer: Child) -> InfluencerVerdict:
    """Every signal against what the accounts did, once the last ones have had time to come; then ends the process."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + SETTLE_S
    while True:
        expected, have = await _recount(con, http, venue), await _read_signals(con)
        with named_errors():
            waiting = await con.fetchval("SELECT count(*) FROM bus_outbox WHERE owner = $1", OWNER)
        if (expected == have and not waiting) or loop.time() > until_s or influencer.has_ended():
            break
        await asyncio.sleep(POLL_S)
    verdict = InfluencerVerdict(expected.total(), (expected & have).total(), len(ACCOUNTS))
    verdict.faults += [f"signal missing: {_describe(one)}" for one in sorted(expected - have)]
    verdict.faults += [f"signal of nothing: {_describe(one)}" for one in sorted(have - expected)]
    del verdict.faults[FAULTS_MAX:]
    if waiting:
        verdict.faults.append("signals were not published")
    if influencer.has_ended() or await influencer.stop() != 0:
        verdict.faults.append("the influencer ingestor did not end in order")
    if not have:
        verdict.faults.append("the influencer ingestor stored no signal")
    return verdict


async def _fault(http: Http, venue: Child, **fields: object) -> None:
    await http.post(venue, "/_fault", {"venue": "hyperliquid", **fields})


async def _read_signals(con: Connection) -> Counter[Told]:
    with named_errors():
        rows = await con.fetch("SELECT *, (extract(epoch FROM time) * 1000)::bigint AS ms FROM influencer_signals")
    return Counter(
        (r["influencer_id"], r["market"], r["ms"], r["action"], r["side"], r["size"], r["delta_size"]) for r in rows
    )


async def _recount(con: Connection, http: Http, venue: Child) -> Counter[Told]:
    with named_errors():
        rows = await con.fetch("SELECT address, (extract(epoch FROM added_at) * 1000)::bigint AS ms FROM influencers")
    added = {row["address"]: row["ms"] for row in rows}
    told: list[Mapping[str, Any]] = await http.get(venue, "/_oracle/hyperliquid/fills")
    return Counter(
        _count(ACCOUNTS[one["user"]][0], one["fill"]) for one in told if one["fill"]["time"] >= added[one["user"]]
    )


def _count(name: str, fill: Mapping[str, Any]) -> Told:
    """What a fill means, by its numbers alone."""
    before, size = Decimal(fill["startPosition"]), Decimal(fill["sz"])
    delta = size if fill["side"] == "B" else -size
    after = before + delta
    if not before:
        action = "OPEN"
    elif not after:
        action = "CLOSE"
    elif before * after < 0:
        action = "FLIP"
    else:
        action = "INCREASE" if abs(after) > abs(before) else "DECREASE"
    side = "LONG" if after > 0 else "SHORT" if after < 0 else "FLAT"
    return name, f"{fill['coin']}-PERP", int(fill["time"]), action, side, abs(after), delta


def _describe(one: Told) -> str:
    return f"{one[0]} {one[1]} {one[3]} {one[6]:f} to {one[4]} {one[5]:f}"
