"""The floor: a bare `websockets` loop that drops every frame. What an ingestor costs beyond it is ours.

`python -m benchmarks.floor` saturates it and prints its cost; with `--url` it reads that venue and writes how many
frames came and what they cost, from the first to the last of them, as JSON lines on standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import click
import uvloop
from websockets.asyncio.client import connect

from benchmarks.bench import SECONDS, Answer, Stage, middle, open_stage, show, symbol_names

STREAMS_MAX = 1024


async def _read(url: str, streams: list[str], frames: int) -> dict[str, float]:
    async with connect(url, compression=None, ping_interval=None, max_queue=1024) as socket:
        await socket.send(json.dumps({"method": "SUBSCRIBE", "params": streams, "id": 1}))
        recv = socket.recv
        await recv(False)
        await recv(False)
        begun, begun_s = time.process_time(), time.monotonic()
        for _ in range(frames):
            await recv(False)
        return {"frames": frames, "cpu_s": time.process_time() - begun, "wall_s": time.monotonic() - begun_s}


async def _read_for_ever(url: str, streams: list[str]) -> None:
    async with connect(url, compression=None, ping_interval=None, max_queue=1024) as socket:
        await socket.send(json.dumps({"method": "SUBSCRIBE", "params": streams, "id": 1}))
        while True:
            await socket.recv(False)


async def _pace(url: str, names: tuple[str, ...], per_socket: int) -> None:
    """Drop frames on as many sockets as an ingestor would have, until terminated."""
    room = per_socket - 1
    parts = [names[i : i + room] for i in range(0, len(names), room)]
    streams = [["btcusdt@miniTicker", *(f"{name.lower()}@aggTrade" for name in part)] for part in parts]
    await asyncio.gather(*(_read_for_ever(url, part) for part in streams))


async def measure() -> list[Answer]:
    """Saturate the floor alone."""
    async with open_stage() as stage:
        ready = stage.folder / "source.json"
        wanted = int(10_000 * SECONDS)
        source = await stage.start("source", ["benchmarks.source", "--frames", wanted, "--ready-file", ready])
        port = (await stage.told(source, ready))["port"]
        costs = [await cost_of(stage, "benchmarks.floor", port, wanted) for _ in range(3)]
    return [Answer("bare websockets loop, saturated", f"{middle(costs):.2f} us a frame")]


async def cost_of(stage: Stage, module: str, port: int, frames: int) -> float:
    """CPU microseconds per frame of a reader in a process of its own."""
    child = await stage.start(module, [module, "--url", f"ws://127.0.0.1:{port}/stream", "--frames", frames])
    if await child.process.wait():
        raise RuntimeError(child.last_words())
    told = json.loads(child.log.read_text().splitlines()[-1])
    return 1e6 * told["cpu_s"] / told["frames"]


@click.command()
@click.option("--url", default="")
@click.option("--symbols", default=200)
@click.option("--frames", default=0, help="0: until terminated, on sockets of --per-socket streams")
@click.option("--per-socket", default=200)
def main(url: str, symbols: int, frames: int, per_socket: int) -> None:
    """Measure, or be what is measured."""
    if not url:
        sys.exit(show(asyncio.run(measure())))
    names = symbol_names(symbols)
    if not frames:
        uvloop.run(_pace(url, names, per_socket))
        return
    streams = ["btcusdt@miniTicker", *(f"{name.lower()}@aggTrade" for name in names)]
    click.echo(json.dumps(uvloop.run(_read(url, streams, frames - 2))))


if __name__ == "__main__":
    main()
