"""`python -m sandbox`: loopback venues for demos, tests and benchmarks: Binance, CoinGecko and, on demand, OKX.

On one port it serves the market streams (`/stream`, `/ws`; aggTrade, trade, miniTicker), REST of Binance spot
(`/api/v3`: ping, time, exchangeInfo, aggTrades, klines, ticker/24hr, ticker/bookTicker), of USD-M futures (`/fapi/v1`:
time, exchangeInfo, premiumIndex, fundingRate, fundingInfo, openInterest; `/futures/data/openInterestHist`), of
CoinGecko (`/api/v3/coins/markets`) and the judge:

    GET  /_oracle/footprints?symbol=&from_s=&to_s=   seconds with trades, recounted from every trade of the venue
    GET  /_oracle/bars?symbol=&from_s=&to_s=         every minute; ranges are half-open
    GET  /_oracle/trades?symbol=&from_id=&to_id=     REST records, both ids inclusive
    GET  /_oracle/status                             venue time, connections, what was sent, weights
    GET  /_oracle/listing                            every fact of every pair, at every vendor
    GET  /_oracle/perps?symbol=&from_ms=&to_ms=      funding, open interest, mark price; also step_ms=, venue=okx
    GET  /_oracle/funding?symbol=&from_ms=&to_ms=    settlements, and those that the venue lost
    GET  /_oracle/rest                               which endpoint was asked how often, and with which status
    POST /_fault {"kind": ...}                       faults and changes, see sandbox/{faults,listing_faults}.py

Beside the traded symbols, --listing 300 lists so many made-up pairs that never trade, and odd ones with them.
With --okx the same port serves a second venue: `/ws/v5/public` (trades, tickers), `/api/v5` (candles, instruments,
time, and swaps' funding-rate, funding-rate-history, open-interest), /_oracle/okx/... as above, and faults with
"venue": "okx". It trades the same symbols at about the same prices, and everything else differs. With --hyperliquid
there is a third: `/hyperliquid/ws` and `/hyperliquid/info`, accounts that trade by themselves or by script; see
sandbox/hyperliquid.py and sandbox/hyperliquid_faults.py.

When it listens it prints one JSON line {"port": ...} (with --hyperliquid also the accounts' addresses) and writes it to
--ready-file. The market is made up from --seed (the same seed and --epoch-ms give the same trades on every start), or
recorded (--tape). Flags are the fields of sandbox/config.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from pathlib import Path
from typing import Any, Literal

import click
import uvloop

from sandbox.config import Config, parse_tape, parse_withhold
from sandbox.hyperliquid_config import hyperliquid_options, take_hyperliquid
from sandbox.venue import Sandbox


def _read_start(context: click.Context, option: click.Parameter, text: str) -> int | Literal["now", "recorded"]:
    if text == "now" or text == "recorded":
        return text
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter("now, recorded, or epoch milliseconds") from None


def _read_withhold(context: click.Context, option: click.Parameter, text: str) -> tuple[tuple[str, int, int], ...]:
    try:
        return parse_withhold(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _read_tapes(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[Path, str | None], ...]:
    return tuple(parse_tape(text) for text in texts)


def _read_symbols(context: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _write_whole(path: Path, text: str) -> None:
    """Write a file that nobody can see half-written."""
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


async def _serve(config: Config, ready_file: Path | None) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with Sandbox(config) as venue:
        accounts = {"hyperliquid_accounts": venue.hyperliquid.accounts} if venue.hyperliquid else {}
        line = json.dumps({"port": venue.port, **accounts})
        if ready_file:
            _write_whole(ready_file, line + "\n")
        click.echo(line)
        waits = [asyncio.create_task(stop.wait()), asyncio.create_task(venue.wait_failed())]
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()


# The mark keeps click from joining the lines of the list.
_HELP = (__doc__ or "").replace("judge:\n\n", "judge:\n\n\b\n")


@click.command(help=_HELP, context_settings={"show_default": True})
@click.option("--host", default=Config.host)
@click.option("--port", default=Config.port, help="0: a free one")
@click.option("--ready-file", type=click.Path(path_type=Path), default=None)
@click.option("--seed", default=Config.seed)
@click.option("--symbols", default=",".join(Config.symbols), callback=_read_symbols)
@click.option("--rate", default=Config.rate, help="trades per venue second, all busy symbols together")
@click.option("--history-rate", type=float, default=None, help="the same, before epoch + history")
@click.option("--rank-power", default=Config.rank_power, help="how unequal symbols are: the i-th has rate 1/i**power")
@click.option("--quiet-every", default=Config.quiet_every, help="every so many-th symbol trades rarely; 0: none")
@click.option("--qty-decimals", type=(int, int), default=Config.qty_decimals)
@click.option("--tape", "tapes", multiple=True, callback=_read_tapes, help="FILE[:SYMBOL], several are joined")
@click.option("--tape-limit", type=int, default=None, help="the first so many trades per symbol")
@click.option("--withhold", default="", callback=_read_withhold, help="SYMBOL:FROM-TO,... ids never streamed")
@click.option("--speed", default=Config.speed, help="venue seconds per real second")
@click.option("--start", default="now", callback=_read_start, help="EPOCH_MS, now or recorded: venue time at the start")
@click.option("--epoch-ms", type=int, default=None, help="venue time of the first trade")
@click.option("--history", "history_minutes", type=int, default=None, help="minutes REST reaches back at the start")
@click.option("--lead-s", default=Config.lead_s, help="real seconds until a tape's first trade")
@click.option("--hold", is_flag=True, help="venue time stands until the first aggTrade subscription")
@click.option("--ping-every-s", default=Config.ping_every_s)
@click.option("--pong-timeout-s", default=Config.pong_timeout_s)
@click.option("--incoming-per-s", default=Config.incoming_per_s)
@click.option("--streams-max", default=Config.streams_max)
@click.option("--connections-max", default=Config.connections_max)
@click.option("--connection-life", "connection_life_s", default=Config.connection_life_s)
@click.option("--shutdown-notice", "shutdown_notice_s", default=Config.shutdown_notice_s)
@click.option("--tick-ms", default=Config.tick_ms)
@click.option("--buffer-bytes", default=Config.buffer_bytes)
@click.option("--stuck-s", default=Config.stuck_s)
@click.option("--weight-limit", default=Config.weight_limit)
@click.option("--ban-after", default=Config.ban_after)
@click.option("--ban-s", default=Config.ban_s)
@click.option("--rest-latency-ms", default=Config.rest_latency_ms, help="added to every REST answer")
@click.option("--listing", default=Config.listing, help="so many made-up pairs beside the traded ones, and odd ones")
@click.option("--futures-weight-limit", default=Config.futures_weight_limit)
@click.option("--coingecko-calls-per-min", default=Config.coingecko_calls_per_min)
@click.option("--coingecko-key", default=None, help="CoinGecko then refuses calls without it")
@click.option("--okx", is_flag=True, help="a second venue, OKX spot, with other trades of the same symbols")
@click.option("--okx-idle-s", default=Config.okx_idle_s)
@click.option("--okx-connects-per-s", default=Config.okx_connects_per_s)
@click.option("--okx-control-per-hour", default=Config.okx_control_per_hour)
@click.option("--okx-trades-per-frame", default=Config.okx_trades_per_frame)
@click.option("--okx-old-first/--no-okx-old-first", default=Config.okx_old_first)
@click.option("--okx-limit-status", default=Config.okx_limit_status, help="HTTP status of too many requests")
@hyperliquid_options
@click.option("--script", type=click.Path(path_type=Path, exists=True), default=None, help="faults by time, JSON")
def main(ready_file: Path | None, **settings: Any) -> None:
    """Run until SIGINT or SIGTERM."""
    logging.basicConfig(level=logging.WARNING)
    uvloop.run(_serve(Config(hyperliquid=take_hyperliquid(settings), **settings), ready_file))


if __name__ == "__main__":
    main()
