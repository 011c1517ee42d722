"""Question 6: how long from a fill's frame to a consumer's callback, and what ten accounts on two listeners cost.

The sandbox's accounts trade 200 times a second; the consumer is a plain AMQP client. A frame's time is the one that the
ingestor wrote beside the raw event (`received_at`); all clocks are this machine's. Signals are compared with a recount.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack

import aio_pika
import asyncpg
import httpx
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from benchmarks.bench import SECONDS, Answer, Reading, open_stage, read_usage, share_at, show
from benchmarks.ground import deadline_in
from common.bus import Bus
from common.consuming import BusLimits
from ops.demo_ground import running_servers
from tests.servers import fresh_database, fresh_vhost

ACCOUNTS = 10
FILLS_PER_S = 200
LATEST_MS = 50
SETTLE_S = 30


class Listener:
    """Notes when each signal came."""

    def __init__(self) -> None:
        self.came_ms: dict[tuple[str, str], float] = {}
        self.deliveries = 0

    async def take(self, message: AbstractIncomingMessage) -> None:
        """The callback."""
        now_ms = time.time() * 1000
        body = json.loads(message.body)
        self.deliveries += 1
        self.came_ms.setdefault((body["influencerId"], body["sourceEventId"]), now_ms)


async def measure() -> list[Answer]:
    """One paced run."""
    async with AsyncExitStack() as stack:
        servers = stack.enter_context(running_servers(lambda text: None))
        dsn = await stack.enter_async_context(fresh_database(servers.ts_dsn))
        assert servers.management_url is not None
        rmq_url = stack.enter_context(fresh_vhost(servers.rmq_url, servers.management_url))
        stage = await stack.enter_async_context(open_stage())
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=20))
        con = await asyncpg.connect(dsn)
        stack.push_async_callback(con.close)
        ready = stage.folder / "venue.ready"
        venue = await stage.start(
            "venue",
            [
                "sandbox", "--ready-file", ready, "--port", 0, "--hyperliquid", "--hyperliquid-accounts", ACCOUNTS,
                "--hyperliquid-rate", FILLS_PER_S, "--hyperliquid-history-s", 1,
            ],
        )  # fmt: skip
        told = await stage.told(venue, ready)
        users = told["hyperliquid_accounts"]
        await con.executemany(
            "INSERT INTO influencers (address, influencer_id) VALUES ($1, $2)",
            [(user, f"w{n}") for n, user in enumerate(users)],
        )
        bus = Bus(rmq_url, "bench/declare", limits=BusLimits())
        await bus.declare()
        await bus.close()
        connection = await stack.enter_async_context(await aio_pika.connect(rmq_url))
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind("trading.bus", "influencer_signals.#")
        listener = Listener()
        await queue.consume(listener.take, no_ack=True)
        port_file = stage.folder / "port"
        where = f"127.0.0.1:{told['port']}/hyperliquid"
        ingestor = await stage.start(
            "influencer", ["influencer_ingestor"],
            {
                "TS_DSN": dsn, "RMQ_URL": rmq_url, "HTTP_PORT_FILE": port_file,
                "HYPERLIQUID_WS_URL": f"ws://{where}/ws", "HYPERLIQUID_INFO_URL": f"http://{where}/info",
            },
        )  # fmt: skip
        while not listener.deliveries:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
        await asyncio.sleep(2)
        before, from_ms = read_usage(ingestor.pid), time.time() * 1000
        await asyncio.sleep(SECONDS)
        after, to_ms = read_usage(ingestor.pid), time.time() * 1000
        return await _judge(con, http, told["port"], users, listener, (from_ms, to_ms)) + _costs(before, after)


async def _judge(
    con: asyncpg.Connection, http: httpx.AsyncClient, port: int, users: list[str], listener: Listener,
    span: tuple[float, float],
) -> list[Answer]:  # fmt: skip
    names = {user: f"w{n}" for n, user in enumerate(users)}
    made = (await http.get(f"http://127.0.0.1:{port}/_oracle/hyperliquid/fills")).json()
    inside = [one for one in made if span[0] <= one["fill"]["time"] <= span[1]]
    due = {
        (names[one["user"]], f"{one['fill']['time']}:{one['fill']['coin']}:{one['fill']['tid']}")
        for one in inside
        if one["fill"]["tid"] and one["fill"]["dir"] != "Spot Dust Conversion" and float(one["fill"]["sz"])
    }
    deadline = deadline_in(SETTLE_S)
    while not due <= listener.came_ms.keys() and time.monotonic() < deadline:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.1)
    rows = await con.fetch(
        "SELECT influencer_address, id, extract(epoch FROM received_at) * 1000 AS ms, source FROM influencer_raw_events"
        " WHERE event_type = 'FILL'"
    )
    received = {(names[r["influencer_address"]], r["id"]): (float(r["ms"]), r["source"]) for r in rows}
    delays = [listener.came_ms[key] - received[key][0] for key in due if key in listener.came_ms]
    whole = [listener.came_ms[key] - float(key[1].split(":")[0]) for key in due if key in listener.came_ms]
    repaired = sum(received[key][1] == "repair" for key in due if key in received)
    figures = f"p50 {share_at(delays, 0.5):.1f}, p99 {share_at(delays, 0.99):.1f}, worst {max(delays):.1f} ms"
    pace = len(inside) / ((span[1] - span[0]) / 1000)
    return [
        Answer(
            f"fill's frame to a consumer, {ACCOUNTS} accounts, {pace:.0f} fills/s", figures, f"p99 <= {LATEST_MS} ms"
        ),
        Answer("  the same from its execution", f"p50 {share_at(whole, 0.5):.1f}, p99 {share_at(whole, 0.99):.1f} ms"),
        Answer("  signals that arrived", str(len(delays)), str(len(due)), len(delays) == len(due)),
        Answer("  of them not by a stream", str(repaired), "0"),
    ]  # fmt: skip


def _costs(before: Reading, after: Reading) -> list[Answer]:
    span_s = after.wall_s - before.wall_s
    share = (after.cpu_s - before.cpu_s) / span_s
    text = f"{100 * share:.0f} % of a core, {after.rss_mb:.0f} MB"
    return [Answer(f"  {ACCOUNTS} accounts x 2 listeners cost", text)]


if __name__ == "__main__":
    sys.exit(show(uvloop.run(measure())))
