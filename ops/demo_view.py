"""Show a demo: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.contracts import GapStatus
from ops.demo_picture import PRIMARY, Picture, SymbolPicture, clock_text

LINE_EVERY_S = 5.0
EVENTS_SHOWN = 10


class View(Protocol):
    """What shows a picture."""

    def show(self, picture: Picture, now_s: float, passed_s: float) -> None:
        """Show it as it is at this venue time; `passed_s` is how long the demo runs."""
        ...


@contextmanager
def open_view(picture: Picture) -> Generator[View]:
    """The view that fits the output; events of the picture are shown as they happen."""
    if sys.stdout.isatty():
        with Live(console=Console(), auto_refresh=False) as live:
            yield LiveView(live)
    else:
        picture.listen(lambda second, text: click.echo(f"{clock_text(second)} {text}"))
        yield PlainView()


class PlainView:
    """One status line every few seconds."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def show(self, picture: Picture, now_s: float, passed_s: float) -> None:
        """Print a line when it is time."""
        if passed_s >= self._next_s:
            self._next_s = passed_s + LINE_EVERY_S
            click.echo(f"{clock_text(int(now_s))} {status_line(picture, now_s)}")


class LiveView:
    """A table that is drawn anew."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, picture: Picture, now_s: float, passed_s: float) -> None:
        """Draw it."""
        head = Text(f"{clock_text(int(now_s))} venue time, {passed_s:.0f} s, {status_line(picture, now_s)}")
        events = [
            Text(f"{clock_text(second)} {text}", style="dim") for second, text in list(picture.events)[-EVENTS_SHOWN:]
        ]
        self._live.update(Group(head, draw_table(picture, now_s), *events), refresh=True)


def status_line(picture: Picture, now_s: float) -> str:
    """Everything in one line."""
    symbols = picture.symbols.values()
    rate = sum(symbol.rate(now_s) for symbol in symbols)
    ages = [now_s - symbol.heard_to_s for symbol in symbols if symbol.heard_to_s]
    messages = ", ".join(f"{kind} {picture.kinds[kind]}" for kind in ("1m", "1s", "beat"))
    opened, repaired = picture.count_gaps(), picture.count_gaps(GapStatus.REPAIRED)
    age = f"oldest {max(ages):.1f} s" if ages else "no data yet"
    return (
        f"{picture.state} | speaker: {picture.speaker} | {rate:.1f} trades/s, {age} | messages {messages} | "
        f"gaps {opened}, repaired {repaired} | outbox {picture.outbox}"
    )


def draw_table(picture: Picture, now_s: float) -> Table:
    """One row a symbol."""
    table = Table("symbol", box=None, pad_edge=False)
    for name in ("speaker", "price", "trades/s", "age s", "lag s", "last bar", "c", "v", "n"):
        table.add_column(name, justify="right")
    for name in ("whole", "source", "revised", "gaps", "repaired", "messages"):
        table.add_column(name, justify="right")
    for name, symbol in picture.symbols.items():
        table.add_row(name, *_cells(symbol, now_s))
    return table


def _cells(symbol: SymbolPicture, now_s: float) -> list[str | Text]:
    bar = symbol.bar
    age = f"{now_s - symbol.heard_to_s:.1f}" if symbol.heard_to_s else "-"
    lag = f"{now_s - symbol.cursor_s:.1f}" if symbol.cursor_s else "-"
    closed: list[str | Text] = ["-", "-", "-", "-", "-", "-"]
    if bar is not None:
        whole = Text("yes", style="green") if bar.complete else Text("no", style="yellow")
        trades = "-" if bar.n is None else str(bar.n)
        source = _venue(bar.source)
        closed = [bar.time.strftime("%H:%M"), f"{bar.c:f}", f"{bar.v:f}", trades, whole, source]
    price = "-" if symbol.price is None else f"{symbol.price:f}"
    gaps = Text(str(symbol.gaps_open), style="red" if symbol.gaps_open else "")
    counts = [str(symbol.revised), gaps, str(symbol.gaps_repaired), str(symbol.messages)]
    return [_venue(symbol.speaker or "-"), price, f"{symbol.rate(now_s):.1f}", age, lag, *closed, *counts]


def _venue(name: str) -> Text:
    return Text(name, style="" if name in (PRIMARY, "-") else "yellow")
