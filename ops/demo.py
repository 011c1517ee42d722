"""`trading-bus demo` and `trading-bus run`: everything at once, with a view, and a summary at the end."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import click

from common.errors import TradingBusError
from migrations.runner import migrate
from ops.demo_ground import own_ground, running_servers
from ops.demo_play import Outcome, Plan, Play
from ops.services import Servers

DEMO_SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT", "LTCUSDT")
LIVE_SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT", "DOGEUSDT")
EXIT_INTERRUPTED = 130

_SECONDS = click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    envvar="DEMO_SECONDS",
    show_envvar=True,
    help="End by itself after so long; else Ctrl-C ends it, with the same summary.",
)


@click.command(epilog="\b\nExamples:\n  trading-bus demo\n  DEMO_SECONDS=90 trading-bus demo")
@_SECONDS
def demo(seconds: float | None) -> None:
    """Run everything against loopback venues, cut the primary, and check every row.

    The markets are made up. After about 15 s the primary venue cuts all connections for 6 s, so that a gap, its repair
    and revised bars can be seen; after about a minute for 20 s, so that the fallback venue speaks and its bars are
    replaced (only if the demo lasts 84 s or more). At the end all that is stored is compared with the venue's own
    recount: exit code 0 only if it is equal. Works in a database and a vhost of its own (trading_bus_demo), which each
    start empties.
    """
    sys.exit(_play(Plan(DEMO_SYMBOLS, loopback=True, seconds=seconds)))


@click.command(epilog="\b\nExample:\n  trading-bus run --symbols BTCUSDT,ETHUSDT")
@_SECONDS
@click.option(
    "--symbols", envvar="SYMBOLS", show_envvar=True, default=",".join(LIVE_SYMBOLS), show_default=True, help="Pairs."
)
def run(seconds: float | None, symbols: str) -> None:
    """Run the servers and the ingestor against the live venues, with the same view as the demo.

    AGG_WS_URL and BINANCE_REST_URL name other endpoints; all settings of the ingestor hold. What is stored stays.
    """
    pairs = tuple(dict.fromkeys(filter(None, (word.strip().upper() for word in symbols.split(",")))))
    if not pairs:
        raise click.UsageError("SYMBOLS names no pair")
    sys.exit(_play(Plan(pairs, loopback=False, seconds=seconds)))


def _play(plan: Plan) -> int:
    """Play it on servers that run, say how it went; answers the exit code."""
    # `timeout` and service managers end us this way: nothing that was started may stay behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="trading-bus-demo-"))
    good = False
    try:
        with running_servers(click.echo) as servers:
            outcome = asyncio.run(_play_on(servers, plan, folder))
        good = not outcome.faults
        return 0 if good else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted", err=True)
        good = True
        return EXIT_INTERRUPTED
    finally:
        if good or not any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            click.echo(f"logs are kept in {folder}", err=True)


async def _play_on(servers: Servers, plan: Plan, folder: Path) -> Outcome:
    plays: list[Play] = []
    # Before anything is waited for: an interrupt raised in the middle of a callback may be swallowed by it.
    _catch_signals(plays)
    async with AsyncExitStack() as stack:
        if plan.loopback:
            servers = await stack.enter_async_context(own_ground(servers))
        else:
            await migrate(servers.ts_dsn)
        play = Play(plan, servers, folder)
        plays.append(play)
        try:
            outcome = await play.run()
        except TradingBusError:
            _tell_last_words(play)
            raise
        _tell(outcome, play)
        return outcome


def _catch_signals(plays: Sequence[Play]) -> None:
    """The first signal asks for the summary, a second one (or one too early for a summary) ends it at once."""
    task = asyncio.current_task()
    assert task is not None

    def end() -> None:
        if not any(play.finish() for play in plays):
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)


def _tell(outcome: Outcome, play: Play) -> None:
    click.echo("")
    for line in outcome.lines:
        click.echo(line)
    for line in outcome.faults:
        click.echo(line, err=True)
    if outcome.faults:
        _tell_last_words(play)


def _tell_last_words(play: Play) -> None:
    if words := play.last_words():
        click.echo(words, err=True)
