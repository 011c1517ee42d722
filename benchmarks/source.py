"""A venue that sends as fast as it is read: frames made ahead from the sandbox's seeded market, event time at its pace.

`python -m benchmarks.source --symbols N --rate R --frames M --ready-file F` listens on loopback, prints nothing, and
serves every connection the same frames from the first, after its first control frame was acknowledged. Frames have
Binance's combined-stream shape; the cadence stream ticks at each second of venue time.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import click
import uvloop
from aiohttp import WSMsgType, web

from benchmarks.bench import symbol_names
from sandbox import frames
from sandbox.seeded import SeededSource, build_seeded

EPOCH_S = 1_760_000_040
"""A whole minute; the frames are the same on every start."""
CHUNK_FRAMES = 256
BUFFER_BYTES = 1 << 20


def open_market(symbols: tuple[str, ...], rate: float) -> SeededSource:
    """Activity by power law, no symbol left out."""
    return build_seeded(1, symbols, (rate, rate, EPOCH_S), EPOCH_S, rank_power=1.0, quiet_every=0)


def first_ids(symbols: tuple[str, ...], rate: float) -> dict[str, int]:
    """The id each symbol's trades begin with."""
    market = open_market(symbols, rate)
    return {s: market.from_id(s, 0, 1, 1000 * (EPOCH_S + 3600))[0].id for s in symbols}


def venue_frames(symbols: tuple[str, ...], rate: float, wanted: int) -> Iterator[bytes]:
    """Packed frames of whole venue seconds, in order of time, until at least `wanted` trades were among them."""
    market = open_market(symbols, rate)
    ticker, made, second = frames.DayTicker(), 0, EPOCH_S
    # A reader takes no trade before the venue's time is known.
    yield frames.pack(frames.combined("btcusdt@miniTicker", ticker.data("BTCUSDT", 1000 * second)).encode())
    while made < wanted:
        trades = [(t, s) for s in symbols for t in market.between(s, 1000 * second, 1000 * second + 1000)]
        for trade, symbol in sorted(trades, key=lambda item: item[0].time_ms):
            data = frames.agg_trade_data(symbol, trade, trade.time_ms + market.lag_ms)
            yield frames.pack(frames.combined(f"{symbol.lower()}@aggTrade", data).encode())
        made += len(trades)
        second += 1
        data = ticker.data("BTCUSDT", 1000 * second)
        yield frames.pack(frames.combined("btcusdt@miniTicker", data).encode())


class Source:
    """The frames, joined in chunks, and who gets them."""

    def __init__(self, made: list[bytes]) -> None:
        self._chunks = [b"".join(made[i : i + CHUNK_FRAMES]) for i in range(0, len(made), CHUNK_FRAMES)]

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """One connection: acknowledge what it asks for, then send everything and wait until it goes."""
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        sending: asyncio.Task[None] | None = None
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(json.dumps({"result": None, "id": json.loads(message.data)["id"]}))
                sending = sending or asyncio.create_task(self._send(request))
        if sending is not None:
            sending.cancel()
            await asyncio.wait({sending})
        return socket

    async def _send(self, request: web.Request) -> None:
        transport = request.transport
        for chunk in self._chunks:
            while transport is not None and transport.get_write_buffer_size() > BUFFER_BYTES:  # noqa: ASYNC110
                await asyncio.sleep(0.001)  # the transport belongs to aiohttp, which has no event for it
            if transport is None or transport.is_closing():
                return
            transport.write(chunk)
            await asyncio.sleep(0)


async def _run(made: list[bytes], ready_file: Path) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    app = web.Application()
    app.router.add_get("/stream", Source(made).serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    draft = ready_file.with_name(ready_file.name + ".draft")
    draft.write_text(json.dumps({"port": runner.addresses[0][1], "frames": len(made)}))
    draft.replace(ready_file)
    await stop.wait()
    await runner.cleanup()


@click.command()
@click.option("--symbols", default=200)
@click.option("--rate", default=13_000.0, help="trades per second of venue time")
@click.option("--frames", "wanted", default=200_000)
@click.option("--ready-file", type=click.Path(path_type=Path), required=True)
def main(symbols: int, rate: float, wanted: int, ready_file: Path) -> None:
    """Make the frames, then serve until SIGTERM."""
    made = list(venue_frames(symbol_names(symbols), rate, wanted))
    uvloop.run(_run(made, ready_file))


if __name__ == "__main__":
    main()
