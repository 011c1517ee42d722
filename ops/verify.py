"""`trading-bus verify`: what we make of trades, held against what the venue made of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import click
import msgspec

from common.contracts import GRADE_EXACT, format_time
from common.venues.binance_spot import MARKET
from common.venues.market import Trade
from ohlcv_ingestor.bars import Bar, bar_row, flat_bar, fold_bricks
from ohlcv_ingestor.bricks import Brick, add_trade, start_brick
from ohlcv_ingestor.ring import minute_of
from ops.compare import Difference, Fields, compare_row, list_lines
from ops.market_files import VenueBar, read_klines, read_trades
from ops.verify_live import live

_QUOTE_STEP = 10**MARKET.scale
"""One unit of the venue's printed quote volumes (8 decimals), in our units (twice the scale)."""

_FILE = click.Path(path_type=Path)
_EXAMPLE = "\b\nExample:\n  trading-bus verify bars --trades XRPETH-aggTrades.jsonl --klines XRPETH-1m.json"


class Verdict(msgspec.Struct, frozen=True):
    """How many minutes were compared and equal, what differs, and minutes with trades that the venue's file lacks."""

    minutes: int
    equal: int
    differences: list[Difference]
    not_compared: list[int]


@click.group(epilog=_EXAMPLE)
def verify() -> None:
    """Compare what we make of trades with what the venue says."""


@verify.command(epilog=f"{_EXAMPLE} --symbol XRPETH")
@click.option("--trades", type=_FILE, required=True, help="REST aggTrades records, one a line, or CSV; may be .gz.")
@click.option("--klines", type=_FILE, required=True, help="JSON list of 1 m candles, 6 or 12 columns; may be .gz.")
@click.option("--symbol", default="", help="Name to show.")
def bars(trades: Path, klines: Path, symbol: str) -> None:
    """Build the bars of a file of trades and compare each minute and field with a file of candles.

    Runs the ingestor's own code. Exit code 1 when a field differs or a file can not be read.
    """
    verdict = compare_bars(read_trades(trades, symbol), read_klines(klines), symbol)
    for line in list_lines(verdict.differences):
        click.echo(line)
    if verdict.not_compared:
        first = format_time(verdict.not_compared[0])
        click.echo(f"not compared: {len(verdict.not_compared)} minutes with trades have no candle, first {first}")
    click.echo(f"{verdict.equal} of {verdict.minutes} minutes equal")
    sys.exit(1 if verdict.differences else 0)


verify.add_command(live)


def compare_bars(trades: Sequence[Trade], theirs: Iterable[VenueBar], symbol: str) -> Verdict:
    """Hold every minute of the venue's against ours; minutes without a trade must be flat at the close before."""
    bricks = build_bricks(trades)
    slack = _quote_slacks(trades)
    compared, equal, found = set[int](), 0, list[Difference]()
    closes = {minute: fold_bricks(minute, held).c for minute, held in bricks.items()}
    earlier = sorted(closes)
    at, close = 0, None
    for row in theirs:
        while at < len(earlier) and earlier[at] < row.minute:
            close, at = closes[earlier[at]], at + 1
        differences = compare_row(
            symbol, row.minute, _bar_fields(row.minute, bricks, close), row.fields, slack.get(row.minute, Decimal(0))
        )
        compared.add(row.minute)
        equal += not differences
        found += differences
    return Verdict(len(compared), equal, found, [minute for minute in earlier if minute not in compared])


def build_bricks(trades: Iterable[Trade]) -> dict[int, dict[int, Brick]]:
    """Bricks of distinct trades by minute and second."""
    minutes: dict[int, dict[int, Brick]] = {}
    for trade in trades:
        second = trade.time_ms // 1000
        held = minutes.setdefault(minute_of(second), {})
        brick = held.get(second)
        if brick is None:
            held[second] = start_brick(trade)
        else:
            add_trade(brick, trade)
    return minutes


def _bar_fields(minute: int, bricks: Mapping[int, Mapping[int, Brick]], close: int | None) -> Fields | None:
    held = bricks.get(minute)
    bar: Bar
    if held is not None:
        bar = fold_bricks(minute, held)
    elif close is not None:
        bar = flat_bar(minute, close)
    else:
        return None
    return msgspec.structs.asdict(bar_row(bar, "", MARKET.source, MARKET.scale, True, GRADE_EXACT))


def _quote_slacks(trades: Iterable[Trade]) -> dict[int, Decimal]:
    """How far a minute's quote volumes may lie apart: 1e-8 for each trade that is finer than the venue prints."""
    rounded: dict[int, int] = {}
    for trade in trades:
        if trade.price * trade.qty % _QUOTE_STEP:
            minute = minute_of(trade.time_ms // 1000)
            rounded[minute] = rounded.get(minute, 0) + trade.n
    return {minute: Decimal(n) / _QUOTE_STEP for minute, n in rounded.items()}
