"""The ingestor: lines to the venue, the symbols on them, and what keeps both in step with the registry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from common.backoff import AttemptBudget
from common.clock import Clock
from common.contracts import GRADE_EXACT, GRADE_PART, LANE_REPAIR
from common.errors import TryLater
from common.feed import Feed
from common.listings import Listing
from common.publisher import Publisher, publish_dead
from common.venues.market import Market
from ohlcv_ingestor.bars import bar_row, kline_bar
from ohlcv_ingestor.beginning import Start
from ohlcv_ingestor.line import Line, Outlet
from ohlcv_ingestor.loading import Origin, Query, load_known, load_ledger
from ohlcv_ingestor.parked import follow_ledger, parked_gaps
from ohlcv_ingestor.relief import Relief
from ohlcv_ingestor.rows import Stream
from ohlcv_ingestor.series import Series
from ohlcv_ingestor.settings import OhlcvSettings
from ohlcv_ingestor.starts import begin_at, inherit, keep_history, ledger_touches, restart
from ohlcv_ingestor.symbols import compare_symbols, place_symbols
from ohlcv_ingestor.writer import Writer

log = logging.getLogger(__name__)

SERVICE = "ohlcv"
VENUE = "binance"

ReliefMaker = Callable[[str, Outlet, Callable[[str], Series | None]], Relief | None]
"""Gives a line its fallback: its name, where its rows go, and the primary's series of a pair."""


@dataclass
class Track:
    """One feed with its line, the symbols that travel on it, and who speaks for them while it is blind."""

    feed: Feed
    line: Line[Series]
    relief: Relief | None = None
    symbols: set[str] = field(default_factory=lambda: set[str]())
    renewing: set[str] = field(default_factory=lambda: set[str]())


class Ingestor:
    """Everything between the venue's frames and the outlet that the writer empties.

    `listings` is kept up to date: what the registry says of each pair. `make_relief` gives a line its fallback,
    `spawn_reader` runs `read` (and the fallback's `run`) for a new track.
    """

    stall_every_s = 0.25
    reload_pause_s = 1.0
    parked_every_s = 60.0

    def __init__(
        self, settings: OhlcvSettings, market: Market, clock: Clock, query: Query, publisher: Publisher,
        listings: dict[str, Listing], make_relief: ReliefMaker,
        spawn_reader: Callable[[str, Track], None],
    ) -> None:  # fmt: skip
        self.outlet = Outlet()
        self.tracks: list[Track] = []
        self.listings = listings
        self.writer: Writer | None = None
        self._settings, self._market, self._clock = settings, market, clock
        self._query, self._publisher = query, publisher
        self._make_relief, self._spawn_reader = make_relief, spawn_reader
        self._origin = Origin(SERVICE, VENUE, market.source, market.scale, settings.ring_s)
        self._symbol_of: dict[str, str] = {}
        self._attempts = AttemptBudget(settings.feed_limits().attempts_max, settings.feed_limits().attempts_window_s)
        self._turn = asyncio.Lock()

    def all_series(self) -> Iterable[Series]:
        """Every series followed now."""
        return [series for track in self.tracks for series in track.line.series.values()]

    # ---- symbols

    async def follow(self, wanted: Mapping[str, Listing]) -> None:
        """Follow exactly these pairs; raises TryLater while the database is away."""
        async with self._turn:
            self.listings.clear()
            self.listings.update(wanted)
            change = compare_symbols(wanted, [s for track in self.tracks for s in track.symbols])
            for symbol in change.end:
                self._end(symbol)
            try:
                if change.begin:
                    if self.writer is not None:
                        await self.writer.flush()  # what is loaded must be what the last subscription left
                    self._place(await self._load(change.begin))
            finally:
                self._update_feeds()
            if change.begin or change.end:
                log.info("symbols changed", extra={"begun": len(change.begin), "ended": len(change.end)})

    async def rebuild(self) -> None:
        """Begin every series anew from what is stored: after the buffer was thrown away."""
        async with self._turn:
            wanted_s = {series.stream.symbol: series.wanted_s for series in self.all_series() if series.young}
            for track in self.tracks:
                track.line.series.clear()
            if self.writer is not None:
                self.writer.throw_away()
            symbols = tuple(sorted(s for track in self.tracks for s in track.symbols))
            while True:
                try:
                    series = await self._load(symbols)
                    break
                except TryLater as error:
                    await asyncio.sleep(max(self.reload_pause_s, error.wait_s or 0.0))
            for track in self.tracks:
                for symbol in track.symbols:
                    series[symbol].wanted_s = wanted_s.get(symbol, series[symbol].wanted_s)
                    track.line.adopt(series[symbol])

    def begin(self, series: Series, start: Start) -> None:
        """A first subscription has its start: hand on its history, then its own rows."""
        stream = series.stream
        if not any(track.line.series.get(stream.symbol) is series for track in self.tracks):
            return
        begin_at(series, start.first_id, start.from_s, start.close)
        for kline in start.history:
            complete = not ledger_touches(series, 1000 * kline.open_s, 1000 * (kline.open_s + 60))
            grade = GRADE_EXACT if complete else GRADE_PART
            row = bar_row(kline_bar(kline), stream.symbol, stream.source, stream.scale, complete, grade)
            self.outlet.batch.put_bar(row, LANE_REPAIR)
        keep_history(series, start.history)
        series.drain(self.outlet.batch)

    def drain(self, series: Series) -> None:
        """Hand on what a repair changed, unless the series was replaced meanwhile."""
        if any(track.line.series.get(series.stream.symbol) is series for track in self.tracks):
            series.drain(self.outlet.batch)

    def renew(self, series: Series) -> None:
        """A stream stopped on a healthy connection: take it off the connection and put it on again."""
        symbol = series.stream.symbol
        series.drain(self.outlet.batch)
        for track in self.tracks:
            if symbol in track.symbols:
                track.renewing.add(symbol)
        self._update_feeds()

    def retire_all(self) -> None:
        """At stop: hand on the last closed rows; what comes after the cursor is the next start's gap."""
        for series in self.all_series():
            series.drain(self.outlet.batch)

    async def watch_parked(self) -> None:
        """Let go, now and then, of parked gaps that an operator has repaired."""
        while True:
            await asyncio.sleep(max(1.0, self._clock.real_s(self.parked_every_s)))
            try:
                await self._look_at_parked()
            except TryLater as error:
                log.info("ledger not read", extra={"error": str(error)})

    async def _look_at_parked(self) -> None:
        if self.writer is None or not any(parked_gaps(series) for series in self.all_series()):
            return
        await self.writer.flush()  # what the ledger says must not be older than what we say
        asked = [(one.stream.symbol, gap) for one in self.all_series() for gap in parked_gaps(one)]
        told = await load_ledger(self._query, self._origin, asked)
        rows = {gap: found for (_, gap), found in zip(asked, told, strict=True)}
        for series in self.all_series():
            for gap in follow_ledger(series, rows):
                fields = {"symbol": series.stream.symbol, "from_id": gap.from_id, "to_id": gap.to_id}
                log.info("parked gap repaired by an operator", extra=fields)

    # ---- streams

    async def read(self, track: Track, on_data: Callable[[], None]) -> None:
        """Read one feed for ever; awaits nothing but its next frames."""
        told = False
        async with contextlib.aclosing(track.feed.events()) as batches:
            async for arrivals in batches:
                track.line.take(arrivals, self._clock.monotonic_s())
                if track.renewing:
                    self._put_on_again(track)
                self.hand_on()
                if not told and track.line.watermark_ms:
                    told = True
                    on_data()

    async def watch_stalls(self) -> None:
        """Close spans and beat by our own clock while no watermark moves."""
        while True:
            await asyncio.sleep(self.stall_every_s)
            for track in self.tracks:
                self._watch(track, self._clock.monotonic_s())
            self.hand_on()

    def _watch(self, track: Track, now_s: float) -> None:
        line, relief = track.line, track.relief
        if relief is None:
            return line.stall(now_s, self._clock.rate)
        # Trades without a watermark make no rows: what counts is the older of the two.
        silent_s = max(track.feed.data_age_s(), line.still_s(now_s))
        relief.judge(silent_s, {symbol: one.closed_s or None for symbol, one in line.series.items()})
        return line.stall(now_s, self._clock.rate, relief.relieved(now_s))

    def hand_on(self) -> None:
        """Send beats and dead letters on, and hurry the writer when a minute closed."""
        outlet = self.outlet
        if outlet.beats:
            for beat in outlet.beats:
                self._publisher.publish_transient(beat)
            outlet.beats.clear()
        if outlet.bad:
            for frame in outlet.bad:
                publish_dead(self._publisher, frame.raw, frame.reason, f"{SERVICE}.frames")
            outlet.bad.clear()
        if outlet.minute_closed:
            outlet.minute_closed = False
            if self.writer is not None:
                self.writer.hurry()

    # ---- inside

    async def _load(self, symbols: tuple[str, ...]) -> dict[str, Series]:
        known = await load_known(self._query, self._origin, symbols)
        result: dict[str, Series] = {}
        for symbol in symbols:
            stream = Stream(SERVICE, VENUE, symbol, self._market.source, self._market.scale)
            series = result[symbol] = Series(stream, self._settings.series_limits(), self._clock.monotonic_s())
            stored, idle = known.states.get(symbol), known.idle.get(symbol)
            if stored is not None and idle:
                inherit(series, stored, idle)
            elif stored is not None:
                restart(series, stored)
        return result

    def _place(self, fresh: Mapping[str, Series]) -> None:
        room = self._settings.streams_per_connection - 1  # one place is the cadence stream's
        places = place_symbols(fresh, [len(track.symbols) for track in self.tracks], room)
        for symbol, number in places.items():
            while number >= len(self.tracks):
                self._add_track()
            self._symbol_of[self._market.stream_of(symbol)] = symbol
            self.tracks[number].symbols.add(symbol)
            self.tracks[number].line.adopt(fresh[symbol])

    def _end(self, symbol: str) -> None:
        for track in self.tracks:
            if symbol in track.symbols:
                track.symbols.discard(symbol)
                series = track.line.drop(symbol)
                if series is None:
                    continue
                if track.line.blind(self._clock.monotonic_s()):
                    series.lose(series.watermark_ms, "unsubscribed")  # wanted until now, and unknown since then
                series.retire(self.outlet.batch)

    def _add_track(self) -> None:
        settings = self._settings
        name = f"{SERVICE}-{len(self.tracks)}"
        market = replace(self._market, streams_per_connection=settings.streams_per_connection)
        feed = Feed(market, settings.agg_ws_url, settings.feed_limits(), self._clock, name, self._attempts)
        line: Line[Series] = Line(self.outlet, self._symbol_of.get, settings.line_limits())
        line.moved_s = self._clock.monotonic_s()
        track = Track(feed, line, self._make_relief(f"{name}-fallback", self.outlet, line.series.get))
        self.tracks.append(track)
        self._spawn_reader(name, track)

    def _update_feeds(self) -> None:
        for track in self.tracks:
            wanted = track.symbols - track.renewing
            track.feed.want(frozenset(self._market.stream_of(symbol) for symbol in wanted))

    def _put_on_again(self, track: Track) -> None:
        """Streams to be renewed go on again once the venue has acknowledged that they ended."""
        ended = {symbol for symbol in track.renewing if not track.line.covers(symbol)}
        if ended:
            track.renewing -= ended
            self._update_feeds()
