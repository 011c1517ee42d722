"""`trading-bus record`: what a venue sends, frame by frame, with the time it came."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import click
import msgspec

from common.backoff import AttemptBudget
from common.clock import Clock
from common.errors import ConfigError
from common.feed import BadFrame, Event, Feed, FeedLimits, Lost, Opened, Subscribed, Unsubscribed, stream_url
from common.redact import redact_text
from common.venues.market import Market, Message, Several, Trade
from ops.record_tape import Tape, frame_line, header_line, mark_line
from ops.record_venues import VENUES, Venue
from ops.tail import run_until_stopped

FLUSH_EVERY_S = 1.0
SYMBOLS_MAX = 2_000
_PROGRESS_EVERY_S = 10.0
"""Where stderr is no terminal; on one the line is drawn anew each second."""
_REDRAW = "\r\x1b[K"

Now = Callable[[], int]


@click.command(
    epilog="\b\nExamples:\n  trading-bus record binance --symbols SOLUSDT,ETHUSDT --out sol-eth.tape.gz\n"
    "  trading-bus record okx --symbols SOL-USDT --out okx.tape.gz --for 3600\n"
    "  trading-bus replay sol-eth.tape.gz"
)
@click.argument("venue", type=click.Choice(sorted(VENUES)))
@click.option("--symbols", required=True, help="Pairs, or the venue's own names, with commas between.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A new file (gzip).")
@click.option("--for", "for_s", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds.")
@click.option("--url", help="Another endpoint; also AGG_WS_URL (binance), OKX_WS_URL (okx).")
def record(venue: str, symbols: str, out: Path, for_s: float | None, url: str | None) -> None:
    """Record the trades of VENUE, raw, until Ctrl-C, SIGTERM or --for.

    Every frame is kept as it came, with its receive time (ns) and its connection; connects, subscriptions and losses
    are marked lines between them. A lost connection is opened again for ever. The file is flushed every second: after
    a crash it is readable up to there. Format: ops/record_tape.py; `replay` plays it.
    """
    product = VENUES[venue]
    names = tuple(dict.fromkeys(product.name_of(word.strip()) for word in symbols.split(",") if word.strip()))
    if not 0 < len(names) <= SYMBOLS_MAX:
        raise ConfigError(f"--symbols names {len(names)} symbols: 1 to {SYMBOLS_MAX} can be recorded")
    address = stream_url(url or os.environ.get(product.variable) or product.url)
    tape = Tape(out)
    recorder = Recorder(product, address, names, tape, time.time_ns)
    try:
        asyncio.run(run_until_stopped(recorder.run(), for_s))
        recorder.finish()
    finally:
        tape.close()
    click.echo(f"{_REDRAW if sys.stderr.isatty() else ''}{out}: {recorder.describe()}", err=True)
    if recorder.silent:
        click.echo(f"no trade came of {', '.join(sorted(recorder.silent))}", err=True)


class Recorder:
    """Feeds whose frames go onto a tape before anything reads them."""

    def __init__(self, venue: Venue, url: str, names: tuple[str, ...], tape: Tape, now_ns: Now) -> None:
        self._venue, self._url, self._tape, self._now_ns = venue, url, tape, now_ns
        self._began_ns = now_ns()
        self._connections = 0
        self._numbers: dict[tuple[int, int], int] = {}
        self._feeds: list[Feed] = []
        self.frames_total = 0
        self.trades_total = 0
        self.opened_total = 0
        self.losses_total = 0
        self.silent = set(names)
        market = venue.market
        self._streams = [market.stream_of(name) for name in names]
        listed = [market.cadence_stream, *self._streams]
        tape.write(header_line(market.source, redact_text(url), names, listed, self._began_ns))

    async def run(self) -> None:
        """Record until cancelled; raises OSError when the disk does not take it."""
        reports = _Reports(self._report)
        logger = logging.getLogger("common.feed_socket")
        logger.addHandler(reports)
        try:
            await self._run()
        finally:
            logger.removeHandler(reports)

    async def _run(self) -> None:
        self._feeds = self._make_feeds()
        tasks = [asyncio.create_task(self._follow(place, feed)) for place, feed in enumerate(self._feeds)]
        tasks.append(asyncio.create_task(self._keep_flushing()))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            tasks[-1].cancel()
            # Each feed parts from its venue, and its reader marks that before it ends.
            await asyncio.gather(*(feed.close() for feed in self._feeds))
            await asyncio.gather(*tasks, return_exceptions=True)

    def finish(self) -> None:
        """Write down that all that came is on the tape."""
        self._mark(0, "end", frames=self.frames_total)
        self._tape.flush()

    def describe(self) -> str:
        """Count what there is so far."""
        seconds = (self._now_ns() - self._began_ns) / 1e9
        return (
            f"{seconds:.0f} s, {self.frames_total:,} frames, {self.trades_total:,} trades, "
            f"{self.opened_total} connections opened, {self.losses_total} lost, {self._tape.size_bytes:,} bytes"
        )

    def describe_state(self) -> str:
        """Tell how fresh the data is, the oldest of all connections."""
        if not all(feed.connected for feed in self._feeds):
            return "not connected"
        return f"data {max(feed.data_age_s() for feed in self._feeds):.1f} s ago"

    def _make_feeds(self) -> list[Feed]:
        market, limits = self._venue.market, FeedLimits(rest_s=0.0)  # a rest would make receive times later
        attempts = AttemptBudget(*self._venue.attempts)
        places = market.streams_per_connection - 1
        feeds: list[Feed] = []
        for start in range(0, len(self._streams), places):
            feed = Feed(
                market, self._url, limits, Clock(), f"record-{len(feeds)}", attempts,
                market_for=self._taps(len(feeds)),
            )  # fmt: skip
            feed.want(frozenset(self._streams[start : start + places]))
            feeds.append(feed)
        return feeds

    def _taps(self, place: int) -> Callable[[int], Market]:
        """Markets whose reader and writer put what they see onto the tape, one for each connection of a feed."""
        market = self._venue.market

        def tapped(number: int) -> Market:
            self._connections += 1
            connection = self._numbers[place, number] = self._connections

            def parse(raw: bytes | str) -> Message:
                self._take(connection, raw.encode() if isinstance(raw, str) else raw)
                message = market.parse(raw)
                self._count(message)
                return message

            def note_sent(build: Callable[[list[str], int], str]) -> Callable[[list[str], int], str]:
                def build_and_note(streams: list[str], id_: int) -> str:
                    text = build(streams, id_)
                    self._mark(connection, "sent", text=text)
                    return text

                return build_and_note

            return msgspec.structs.replace(
                market,
                parse=parse,
                subscribe_frame=note_sent(market.subscribe_frame),
                unsubscribe_frame=note_sent(market.unsubscribe_frame),
            )

        return tapped

    def _take(self, connection: int, raw: bytes) -> None:
        self.frames_total += 1
        self._tape.write(frame_line(self._now_ns(), connection, raw))

    def _count(self, message: Message) -> None:
        trades = message.trades if isinstance(message, Several) else (message,) if isinstance(message, Trade) else ()
        self.trades_total += len(trades)
        if self.silent:
            self.silent.difference_update(trade.symbol for trade in trades)

    def _mark(self, connection: int, mark: str, **facts: object) -> None:
        self._tape.write(mark_line(self._now_ns(), connection, mark, **facts))

    async def _follow(self, place: int, feed: Feed) -> None:
        async with aclosing(feed.events()) as batches:
            async for batch in batches:
                for number, event in batch:
                    self._note(self._numbers[place, number], event)

    def _note(self, connection: int, event: Event) -> None:
        match event:
            case Opened():
                self.opened_total += 1
                self._mark(connection, "opened")
            case Subscribed(streams=streams):
                self._mark(connection, "subscribed", streams=sorted(streams))
            case Unsubscribed(streams=streams):
                self._mark(connection, "unsubscribed", streams=sorted(streams))
            case BadFrame(reason=reason):
                self._mark(connection, "unreadable", reason=reason)
            case Lost(reason=reason, planned=planned):
                self.losses_total += not planned
                self._mark(connection, "lost", reason=reason, planned=planned)
            case _:
                pass

    def _report(self, what: str, reason: str) -> None:
        """Tell the operator at once; what no event tells becomes a mark here."""
        click.echo(f"{_REDRAW if sys.stderr.isatty() else ''}{what}: {reason}", err=True)
        mark = {"connection not opened": "not_opened", "stream refused": "refused"}.get(what)
        if mark is not None:
            self._mark(0, mark, reason=reason)

    async def _keep_flushing(self) -> None:
        """Flush every second, and say how far we are."""
        on_terminal = sys.stderr.isatty()
        said_s = time.monotonic()
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            self._tape.flush()
            line = f"{self.describe()}, {self.describe_state()}"
            if on_terminal:
                click.echo(_REDRAW + line, nl=False, err=True)
            elif time.monotonic() - said_s >= _PROGRESS_EVERY_S:
                said_s = time.monotonic()
                click.echo(line, err=True)


class _Reports(logging.Handler):
    """Warnings of the connections, which would go into a service's log."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        fields = record.__dict__
        reason = str(fields.get("reason", ""))
        self._tell(record.getMessage(), f"{fields['stream']}: {reason}" if "stream" in fields else reason)
