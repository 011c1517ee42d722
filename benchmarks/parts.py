"""Question 4: what do the parts cost, each alone? Figures to see where a change went, not to gate on."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

import uvloop

from benchmarks.bench import Answer, show, symbol_names
from benchmarks.ground import open_ground
from benchmarks.saturated import RATE, SYMBOLS, begin
from benchmarks.source import EPOCH_S, first_ids, venue_frames
from common.batch import Batch
from common.bus import Bus
from common.contracts import CursorRow, OutgoingMessage, footprint_message
from common.feed_events import Subscribed
from common.outbox import Outbox
from common.publisher import AmqpPublisher
from common.store import Store
from common.venues.binance_spot import MARKET, parse
from common.venues.market import Message
from ohlcv_ingestor.line import Line, LineLimits, Outlet
from ohlcv_ingestor.series import Series

FRAMES = 60_000
BATCH = 300
FLUSHES = 20
FLUSH_ROWS = 500
ROUNDS = 3


def _best_us(work: Callable[[], object], count: int) -> float:
    """Microseconds a piece, the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        work()
        best = min(best, time.process_time() - begun)
    return 1e6 * best / count


def _payload(frame: bytes) -> bytes:
    return frame[4:] if frame[1] == 126 else frame[2:]


def _open_line(ids: dict[str, int]) -> Line[Series]:
    line: Line[Series] = Line(Outlet(), {MARKET.stream_of(name): name for name in ids}.get, LineLimits())
    for name, first_id in ids.items():
        begin(line, name, first_id)
    line.take([(1, Subscribed(frozenset(MARKET.stream_of(name) for name in ids)))], 0.0)
    return line


def _take(line: Line[Series], messages: list[Message]) -> None:
    arrivals = [(1, message) for message in messages]
    for start in range(0, len(arrivals), BATCH):
        line.take(arrivals[start : start + BATCH], 0.0)


def _close(line: Line[Series], rows: Batch) -> int:
    """Close the next minute of every symbol, empty as it is; returns rows."""
    line.outlet.batch = rows
    for series in line.series.values():
        series.advance(series.watermark_ms + 60_000)
        series.drain(rows)
    return len(rows.bars)


def measure_core() -> tuple[list[Answer], Batch]:
    """Parsing, folding and closing; also the rows that came out."""
    frames = [_payload(frame) for frame in venue_frames(symbol_names(SYMBOLS), RATE, FRAMES)]
    ids = first_ids(symbol_names(SYMBOLS), RATE)
    messages = [parse(frame) for frame in frames]
    lines = [_open_line(ids) for _ in range(ROUNDS)]
    left, closing = list(lines), list(lines)
    parsing = _best_us(lambda: [parse(frame) for frame in frames], len(frames))
    taking = _best_us(lambda: _take(left.pop(), messages), len(frames))
    rows = lines[0].outlet.batch
    minute = _best_us(lambda: _close(closing.pop(), Batch()), SYMBOLS)
    return [
        Answer("parse a frame", f"{parsing:.2f} us"),
        Answer("a trade into its series, closing of seconds included", f"{taking:.2f} us"),
        Answer("close a minute of a symbol", f"{minute:.0f} us"),
    ], rows


async def measure_edge(rows: Batch) -> list[Answer]:
    """CPU of ours beside the database and the broker; a flush is by the clock."""
    template = list(rows.footprints.values())[:FLUSH_ROWS]
    async with open_ground(1) as ground:
        store, bus = Store(ground.dsn, "bench/0/1"), Bus(ground.rmq_url, "bench/state")
        publisher = AmqpPublisher(ground.rmq_url, "bench", prepare=bus.declare)
        await store.acquire()
        took: list[float] = []
        begun = time.process_time()
        for second in range(FLUSHES):
            batch = Batch()
            for at, row in enumerate(template):
                batch.put_footprint(type(row)(EPOCH_S + second, f"S{at:03d}USDT", *_rest(row)))
                batch.put_cursor(CursorRow("ohlcv", "binance", f"S{at:03d}USDT", second, EPOCH_S + second))
            at_s = time.monotonic()
            await store.commit(batch)
            took.append(time.monotonic() - at_s)
        storing = 1e6 * (time.process_time() - begun) / (FLUSHES * len(template))
        outbox = Outbox(store.query, "bench/0/1", publisher)
        await publisher.publish([_message(rows)])
        begun = time.process_time()
        running = asyncio.create_task(outbox.run())
        outbox.wake()
        await outbox.drained()
        publishing = 1e6 * (time.process_time() - begun) / outbox.confirmed_total
        running.cancel()
        await asyncio.wait({running})
        for part in (publisher, bus, store):
            await part.close()
    middle_ms = 1000 * sorted(took)[len(took) // 2]
    return [
        Answer(f"commit {len(template)} seconds and cursors", f"{storing:.0f} us a row, {middle_ms:.0f} ms a flush"),
        Answer("outbox to broker, confirmed", f"{publishing:.0f} us a message"),
    ]


def _rest(row: object) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in row.__struct_fields__[2:])


def _message(rows: Batch) -> OutgoingMessage:
    return footprint_message(next(iter(rows.footprints.values())), 1)


async def measure() -> list[Answer]:
    """All parts."""
    answers, rows = measure_core()
    return answers + await measure_edge(rows)


if __name__ == "__main__":
    sys.exit(show(uvloop.run(measure())))
