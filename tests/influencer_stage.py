"""The influencer ingestor as a real process on the sandbox's Hyperliquid, and the judge of its signals.

The judge recounts from the fills that the sandbox made; it shares no code with the ingestor.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg

from common.bus import Bus, read_log
from common.consuming import BusLimits
from common.topology import TopologyLimits
from tests.servers import service_address
from tests.stage import Process, Stage, open_stage
from tests.unit.influencer_world import recount

LOG_BYTES_MAX = 100_000_000
ANN, BEN = "0x" + "a" * 40, "0x" + "b" * 40
NAMES = {ANN: "ann", BEN: "ben"}

Told = tuple[Any, ...]
"""What a signal says: influencer, market, time, action, side, size, delta, price."""


def address(n: int) -> str:
    """The n-th of many accounts."""
    return f"0x{n:040x}"


class InfluencerStage:
    """A stage with accounts: their table, the venue's scripts and faults, and the judge."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.con = stage, stage.con
        self.names: dict[str, str] = {}
        self.messages: list[dict[str, Any]] = []

    async def open_venue(self, *flags: str) -> None:
        await self.stage.start_venue("--hyperliquid", "--hyperliquid-accounts", "0", *flags)

    async def listen(self) -> None:
        """Hear all signals from now on; the service declares the exchange only when it has something to publish."""
        sizes = TopologyLimits(log_bytes_max=LOG_BYTES_MAX, log_segment_bytes=LOG_BYTES_MAX // 4)
        bus = Bus(self.stage.rmq_url, "test/listen", topology=sizes, limits=BusLimits())
        await bus.declare()
        await bus.close()
        self.messages = await self.stage.collect("influencer_signals.#")

    async def watch(self, *users: str, ago_s: float = 0.0, priority: int = 0) -> None:
        for user in users:
            self.names[user] = NAMES.get(user, f"w{int(user, 16)}")
            await self.con.execute(
                "INSERT INTO influencers (address, influencer_id, priority, added_at)"
                " VALUES ($1, $2, $3, now() - make_interval(secs => $4))",
                user, self.names[user], priority, ago_s,
            )  # fmt: skip

    async def start(self, name: str = "influencer", **env: object) -> Process:
        stage = self.stage
        where = f"127.0.0.1:{stage.port}/hyperliquid"
        variables = {
            "TS_DSN": service_address(stage.dsn), "RMQ_URL": service_address(stage.rmq_url),
            "HTTP_PORT_FILE": str(stage.folder / f"{name}.port"), "BUS_LOG_MAX_BYTES": str(LOG_BYTES_MAX),
            "HYPERLIQUID_WS_URL": f"ws://{where}/ws", "HYPERLIQUID_INFO_URL": f"http://{where}/info",
            "RETRY_MAX_S": "0.5", "PROBE_EVERY_S": "0.1",
        }  # fmt: skip
        variables |= {key.upper(): str(value) for key, value in env.items()}
        process = Process(stage.folder, name, ["-m", "influencer_ingestor"], variables)
        await process.start()
        stage.ingestors.append(process)
        return process

    async def health(self, name: str = "influencer") -> dict[str, Any]:
        port_file = self.stage.folder / f"{name}.port"
        if not port_file.exists():
            return {}
        try:
            return (await self.stage.http.get(f"http://127.0.0.1:{port_file.read_text().strip()}/healthz")).json()
        except OSError:
            return {}

    async def check(self, check: str) -> dict[str, Any]:
        report = await self.health()
        return next((c for c in report.get("checks", []) if c["name"] == check), {})

    async def metric(self, name: str, **labels: str) -> float:
        port = (self.stage.folder / "influencer.port").read_text().strip()
        text = (await self.stage.http.get(f"http://127.0.0.1:{port}/metrics")).text
        total = 0.0
        for line in text.splitlines():
            if line.startswith((f"{name} ", f"{name}{{")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    async def live(self, accounts: int, within_s: float = 15.0) -> None:
        """Wait until both listeners hear so many accounts, and their fills since the cursor are stored."""

        async def ready() -> bool:
            newest = self.stage.ingestors[-1]
            assert newest.alive(), newest.tail()
            if not (self.stage.folder / "influencer.port").exists():
                return False
            try:
                heard = await self.metric("trading_bus_influencer_listener_connected")
                rest = await self.metric("trading_bus_influencer_uncovered")
            except OSError:
                return False
            return heard == 2 * accounts and rest == 0

        await self.stage.until(ready, within_s, f"both listeners hear {accounts} accounts", 0.05)

    async def play(self, *steps: dict[str, Any]) -> list[dict[str, Any]]:
        answer = await self.stage.http.post(f"http://127.0.0.1:{self.stage.port}/_play", json=list(steps))
        answer.raise_for_status()
        return answer.json()

    async def fault(self, kind: str, **fields: object) -> None:
        await self.stage.fault(kind, venue="hyperliquid", **fields)

    async def clear(self) -> None:
        await self.fault("clear")

    async def expected(self, since_ms: dict[str, int] | None = None) -> Counter[Told]:
        """The recount of every fill the venue made of the watched accounts, not before they were added."""
        told: Counter[Told] = Counter()
        rows = await self.con.fetch("SELECT address, (extract(epoch FROM added_at) * 1000)::bigint ms FROM influencers")
        added = {r["address"]: r["ms"] for r in rows} | (since_ms or {})
        for one in await self.stage.oracle("hyperliquid/fills"):
            fill, user = one["fill"], one["user"]
            if user not in self.names or fill["time"] < added[user]:
                continue
            signal = recount(fill)
            if signal is not None:
                told[
                    self.names[user], market_of(fill["coin"]), fill["time"], signal["action"], signal["side"],
                    signal["size"], signal["deltaSize"], signal["price"],
                ] += 1  # fmt: skip
        return told

    async def stored(self) -> Counter[Told]:
        rows = await self.con.fetch(
            "SELECT *, (extract(epoch FROM time) * 1000)::bigint AS ms FROM influencer_signals ORDER BY time"
        )
        return Counter(
            (r["influencer_id"], r["market"], r["ms"], r["action"], r["side"], r["size"], r["delta_size"], r["price"])
            for r in rows
        )

    async def judge(self, within_s: float = 15.0, *, by_log: bool = False) -> int:
        """Signals equal the recount, each was delivered with its own id; returns how many.

        `by_log`: what was delivered is read from the log, because a consumer of ours would have been cut off.
        """
        expected = await self.expected()

        async def complete() -> bool:
            have = await self.stored()
            return have.total() >= expected.total() and await self.stage.count("bus_outbox") == 0

        try:
            await self.stage.until(complete, within_s, f"{expected.total()} signals", 0.05)
        except AssertionError as error:
            have = await self.stored()
            raise AssertionError(f"missing {expected - have}, too many {have - expected}\n{error}") from error
        have = await self.stored()
        assert have == expected, f"missing {expected - have}, too many {have - expected}"
        rows = {r["signal_id"]: r for r in await self.con.fetch("SELECT * FROM influencer_signals")}
        if by_log:
            log = read_log(self.stage.rmq_url, idle_s=1.5)
            self.messages = [json.loads(m.body, parse_float=Decimal) async for m in log]
        await self.stage.until(
            lambda: rows.keys() <= {m["signalId"] for m in self.messages}, 10, "every signal was delivered"
        )
        for body in self.messages:
            row = rows[body["signalId"]]
            assert (body["action"], body["market"], body["side"]) == (row["action"], row["market"], row["side"])
            assert (body["size"], body["deltaSize"]) == (row["size"], row["delta_size"])
            assert Decimal(body["price"]) == row["price"] and body["influencerId"] == row["influencer_id"]
            assert json.loads(row["metadata"])["tid"] == body["metadata"]["tid"]
        return len(rows)

    async def reconnect(self) -> None:
        """To a database that came back."""
        self.con.terminate()
        self.stage.con = self.con = await asyncpg.connect(self.stage.dsn)

    async def gaps(self) -> dict[str, int]:
        rows = await self.con.fetch("SELECT status, count(*) AS n FROM feed_gaps GROUP BY 1")
        return {r["status"]: r["n"] for r in rows}

    async def asked(self, kind: str) -> int:
        status = await self.stage.oracle("hyperliquid/status")
        return sum(one["count"] for one in status["asked"] if one["type"] == kind)


def market_of(coin: str) -> str:
    return coin if coin[0] in "@#" or "/" in coin else f"{coin}-PERP"


def trades(user: str, actions: Iterable[str], coin: str = "ETH", **fields: Any) -> list[dict[str, Any]]:
    """Steps of one account: open, increase, ..."""
    return [{"user": user, "action": action, "coin": coin, **fields} for action in actions]


@asynccontextmanager
async def open_influencer_stage(folder: Path, dsn: str, rmq_url: str) -> AsyncIterator[InfluencerStage]:
    async with open_stage(folder, dsn, rmq_url) as stage:
        yield InfluencerStage(stage)
