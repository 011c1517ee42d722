"""`trading-bus replay`: a recorded market, served as the venue served it."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import click

from common.contracts import format_time
from common.errors import ConfigError
from ops.tail import run_until_stopped
from sandbox.config import Config, parse_tape
from sandbox.venue import Sandbox

_LOOK_EVERY_S = 1.0
_PROGRESS_EVERY_S = 10.0

Start = int | Literal["now", "recorded"]


def _read_start(context: click.Context, option: click.Parameter, text: str) -> Start:
    if text == "now" or text == "recorded":
        return text
    if text.isascii() and text.isdecimal():
        return int(text)
    raise click.BadParameter("recorded, now, or epoch milliseconds")


@click.command(
    epilog="\b\nExamples:\n  trading-bus replay sol-eth.tape.gz\n"
    "  trading-bus replay sol-eth.tape.gz --speed 20 --port 9443\n"
    "  trading-bus replay trades.csv.gz:LTCUSDT --start now"
)
@click.argument("tapes", metavar="TAPE[:SYMBOL]...", nargs=-1, required=True)
@click.option("--speed", type=click.FloatRange(0, 10_000, min_open=True), default=1.0, show_default=True,
              help="Venue seconds per second.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65_535), default=0, show_default=True, help="0: a free one.")
@click.option("--start", default="recorded", show_default=True, callback=_read_start,
              help="Event times: as recorded, shifted to now, or to epoch milliseconds.")  # fmt: skip
@click.option("--hold/--no-hold", default=True, show_default=True, help="Begin at the first subscription to trades.")
@click.option("--for", "for_s", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds.")
@click.option("--ready-file", type=click.Path(path_type=Path), help='Where {"port": ...} is written when it listens.')
def replay(
    tapes: tuple[str, ...],
    speed: float,
    port: int,
    start: Start,
    hold: bool,
    for_s: float | None,
    ready_file: Path | None,
) -> None:
    """Serve tapes as Binance spot on a loopback port, until Ctrl-C, SIGTERM or --for.

    Takes what `record` wrote for binance, and recorded trades (REST records, collector CSV, trade captures); several
    are joined. Clients that subscribe get the recorded trades as frames, in their order and at their pace; REST answers
    from the same trades, and trades that were not recorded are nowhere. Prints what the ingestor needs, ready for
    `export`. After the last trade venue time goes on over a quiet market.
    """
    named = tuple(parse_tape(text) for text in tapes)
    for path, _ in named:
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such file")
    config = Config(port=port, tapes=named, speed=speed, start=start, hold=hold)
    asyncio.run(run_until_stopped(_serve(config, ready_file), for_s))


async def _serve(config: Config, ready_file: Path | None) -> None:
    async with AsyncExitStack() as stack:
        names = ", ".join(path.name for path, _ in config.tapes)
        try:
            venue = await stack.enter_async_context(Sandbox(config))
        except (ValueError, KeyError, EOFError, gzip.BadGzipFile) as error:
            raise ConfigError(f"{names}: not a tape that can be played: {error}") from error
        except OSError as error:
            raise ConfigError(f"port {config.port} can not be had: {error.strerror or error}") from error
        for line in describe_exports(venue, config.speed):
            click.echo(line)
        if ready_file is not None:
            draft = ready_file.with_name(ready_file.name + ".draft")
            draft.write_text(json.dumps({"port": venue.port}) + "\n", encoding="utf-8")
            draft.replace(ready_file)
        showing = asyncio.create_task(_show_progress(venue))
        stack.callback(showing.cancel)
        await venue.wait_failed()


def describe_exports(venue: Sandbox, speed: float) -> list[str]:
    """Settings that point an ingestor at the replayed venue, as shell lines."""
    return [
        f"export AGG_WS_URL={venue.ws_url}",
        f"export BINANCE_REST_URL={venue.rest_url}",
        f"export SYMBOLS={','.join(venue.stage.market.symbols)}",
        f"export CLOCK_RATE={speed:g}",
        "export FALLBACK=none",
    ]


async def _show_progress(venue: Sandbox) -> None:
    """Say where the tape is: each second on a terminal, else now and then; and once when it is over."""
    on_terminal, waited_s, said_end = sys.stderr.isatty(), 0.0, False
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        waited_s += _LOOK_EVERY_S
        line = _describe(venue)
        if on_terminal:
            click.echo(f"\r\x1b[K{line}", nl=False, err=True)
        elif waited_s >= _PROGRESS_EVERY_S:
            waited_s = 0.0
            click.echo(line, err=True)
        if not said_end and venue.oracle.status()["tape_done"]:
            said_end = True
            click.echo(f"{chr(10) if on_terminal else ''}the last trade has been played", err=True)


def _describe(venue: Sandbox) -> str:
    stage = venue.stage
    now_ms, end_ms = stage.market.clock.now_ms(), stage.market.source.end_ms
    left = "" if end_ms is None else f", {max(0, end_ms - now_ms) / 1000:,.0f} s of trades left"
    sent = sum(stage.hub.sent_trades.values())
    clients = len(stage.hub.connections)
    return f"{format_time(now_ms // 1000)}{left}, {clients} connections, {sent:,} trades heard"
