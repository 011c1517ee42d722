"""Question 3: how long after a minute's end does a consumer hold its bar, and how long does a start take?

500 symbols at an ordinary pace through database and broker; the consumer is a plain AMQP client. The clock starts when
the minute is over by venue time and `lateness_ms` has passed; venue time is read from the sandbox on the same machine.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
import time

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from benchmarks.bench import Answer, Child, share_at, show
from benchmarks.ground import Ground, deadline_in, open_ground
from benchmarks.whole import ORDINARY, SYMBOLS, wait_begun

MINUTES = 2
LATENESS_MS = 500
LATEST_MS = 400
START_MAX_S = 1.0
START_SECOND = 35
"""Venue time of the sandbox's start within its minute: so the first minute ends soon after all symbols have begun."""


class Listener:
    """Takes every minute and notes when, in milliseconds after its end."""

    def __init__(self, offset_ms: float) -> None:
        self.delays_ms: dict[str, list[float]] = {}
        self._offset_ms = offset_ms

    async def take(self, message: AbstractIncomingMessage) -> None:
        """The callback."""
        now_ms = time.time() * 1000 + self._offset_ms
        body = json.loads(message.body)
        end_ms = 1000 * (dt.datetime.fromisoformat(body["time"]).timestamp() + 60)
        if body["rev"] == 1 and body["n"] is not None:
            self.delays_ms.setdefault(body["time"], []).append(now_ms - end_ms - LATENESS_MS)


async def _offset_ms(ground: Ground) -> float:
    """Venue time minus ours, by the quickest of several answers."""
    found: list[tuple[float, float]] = []
    for _ in range(7):
        asked = time.time()
        venue_ms = (await ground.venue_status())["venue_ms"]
        found.append((time.time() - asked, venue_ms - 500 * (asked + time.time())))
    return min(found)[1]


async def _first_subscription_s(ground: Ground, ingestor: Child, spawned_s: float) -> float:
    """From the start of the process until its first connection is open and subscribing."""
    while '"connection opened"' not in ingestor.log.read_text():  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.005)
    return time.monotonic() - spawned_s


async def measure() -> list[Answer]:
    """Start, then two minute ends."""
    async with open_ground(SYMBOLS) as ground:
        start_ms = int(time.time()) // 60 * 60_000 + 1000 * START_SECOND
        await ground.start_venue(ORDINARY, "--start", start_ms)
        spawned_s = time.monotonic()
        ingestor = await ground.start_ingestor(wait=False)
        start_s = await _first_subscription_s(ground, ingestor, spawned_s)
        await wait_begun(ground)
        connection = await aio_pika.connect(ground.rmq_url)
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind("trading.bus", "price_updates.*.1m")
            listener = Listener(await _offset_ms(ground))
            begun_s = (await ground.venue_status())["venue_ms"] // 1000
            await queue.consume(listener.take, no_ack=True)
            whole: list[list[float]] = []
            deadline = deadline_in(60 * (MINUTES + 1) + 20)
            while len(whole) < MINUTES and time.monotonic() < deadline:
                await asyncio.sleep(0.5)
                # History of a first subscription comes as bars too, but of minutes that ended before we listened.
                ended = {t: d for t, d in listener.delays_ms.items() if _end_s(t) > begun_s}
                whole = [d for d in ended.values() if len(d) == SYMBOLS]
    delays = [delay for minute in whole for delay in minute]
    if not delays:
        raise RuntimeError("no whole minute arrived")
    figures = f"p50 {share_at(delays, 0.5):.0f}, p99 {share_at(delays, 0.99):.0f}, worst {max(delays):.0f} ms"
    return [
        Answer(f"minute end to a consumer, {SYMBOLS} symbols", figures, f"p99 <= {LATEST_MS} ms"),
        Answer("  bars that arrived", str(len(delays)), str(MINUTES * SYMBOLS), len(delays) == MINUTES * SYMBOLS),
        Answer("process start to first subscription", f"{start_s:.2f} s", f"<= {START_MAX_S:g} s"),
    ]


def _end_s(time_text: str) -> float:
    return dt.datetime.fromisoformat(time_text).timestamp() + 60


if __name__ == "__main__":
    sys.exit(show(asyncio.run(measure())))
