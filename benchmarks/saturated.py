"""Question 1: what do exact bars and footprints cost beside the floor, when the socket never runs dry?

Feed, line and series of 200 symbols as the service runs them; the rows that come out are dropped. Reader and floor
take turns, each in a process of its own, on the same frames. Every row is counted against what the venue sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time

import click
import uvloop
from msgspec.structs import replace

from benchmarks.bench import SECONDS, Answer, middle, open_stage, show, symbol_names
from benchmarks.floor import cost_of
from benchmarks.source import EPOCH_S, first_ids
from common.batch import Batch
from common.clock import Clock
from common.feed import Feed, FeedLimits
from common.venues.binance_spot import MARKET
from ohlcv_ingestor.line import Line, LineLimits, Outlet
from ohlcv_ingestor.rows import Stream
from ohlcv_ingestor.series import Series, SeriesLimits
from ohlcv_ingestor.starts import begin_at

SYMBOLS = 200
RATE = 13_000
RATIO_MAX = 1.8
ROUNDS = 3
QUESTION = f"saturated socket to bars and footprints, {SYMBOLS} symbols"


class Sink:
    """Takes what the line hands on, counts it and drops it."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self.n = self.footprints = self.bars = 0

    def empty(self) -> None:
        """Count and drop."""
        batch, self.outlet.batch = self.outlet.batch, Batch()
        self.outlet.beats.clear()
        self.footprints += len(batch.footprints)
        self.bars += len(batch.bars)
        self.n += sum(row.n for row in batch.footprints.values())


def begin(line: Line[Series], name: str, first_id: int) -> None:
    """A series that follows its symbol from the first trade on."""
    series = Series(Stream("ohlcv", "binance", name, MARKET.source, MARKET.scale), SeriesLimits())
    begin_at(series, first_id, EPOCH_S, None)
    line.adopt(series)


async def _read(url: str, frames: int) -> dict[str, float]:
    names = symbol_names(SYMBOLS)
    clock, outlet = Clock(), Outlet()
    market = replace(MARKET, streams_per_connection=SYMBOLS + 1)
    line: Line[Series] = Line(outlet, {MARKET.stream_of(name): name for name in names}.get, LineLimits())
    sink = Sink(outlet)
    for name, first_id in first_ids(names, RATE).items():
        begin(line, name, first_id)
    feed = Feed(market, url, FeedLimits(), clock, "bench")
    feed.want(frozenset(MARKET.stream_of(name) for name in names))
    begun, begun_s, flushed_s = 0.0, 0.0, 0.0
    async with contextlib.aclosing(feed.events()) as batches:
        async for arrivals in batches:
            now_s = clock.monotonic_s()
            line.take(arrivals, now_s)
            if not begun and line.trades_total:
                begun, begun_s, first = time.process_time(), now_s, line.trades_total
            if now_s - flushed_s > 0.1:
                flushed_s = now_s
                sink.empty()
            if line.trades_total >= frames:
                break
        spent_s, wall_s = time.process_time() - begun, time.monotonic() - begun_s
    sink.empty()
    return {
        "frames": line.trades_total - first, "cpu_s": spent_s, "wall_s": wall_s,
        "rows": sink.footprints, "bars": sink.bars, "bad": feed.bad_total, "strays": line.strays_total,
        "holes": sum(len(s.ids.gaps) for s in line.series.values()),
    }  # fmt: skip


async def measure() -> list[Answer]:
    """Floor and reader in turns on the same frames."""
    wanted = int(7_500 * SECONDS)
    floors: list[float] = []
    ours: list[float] = []
    async with open_stage() as stage:
        ready = stage.folder / "source.json"
        flags = ["--symbols", SYMBOLS, "--rate", RATE, "--frames", wanted, "--ready-file", ready]
        source = await stage.start("source", ["benchmarks.source", *flags])
        port = (await stage.told(source, ready))["port"]
        for _ in range(ROUNDS):
            floors.append(await cost_of(stage, "benchmarks.floor", port, wanted))
            ours.append(await cost_of(stage, "benchmarks.saturated", port, wanted))
    ratios = [b / a for a, b in zip(floors, ours, strict=True)]
    told = f"{middle(ratios):.2f} x ({' '.join(f'{r:.2f}' for r in ratios)})"
    costs = f"{middle(ours):.1f} us over {middle(floors):.1f} us a frame"
    return [
        Answer(QUESTION, told, f"<= {RATIO_MAX} x", middle(ratios) <= RATIO_MAX),
        Answer("  CPU, ours over a loop that drops frames", costs),
    ]


@click.command()
@click.option("--url", default="")
@click.option("--frames", default=0)
def main(url: str, frames: int) -> None:
    """Measure, or be what is measured."""
    if not url:
        sys.exit(show(asyncio.run(measure())))
    click.echo(json.dumps(uvloop.run(_read(url, frames))))


if __name__ == "__main__":
    main()
