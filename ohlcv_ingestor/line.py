"""One line to the venue: what its connections deliver, handed to the series of its symbols. Pure; time is given.

A symbol is covered by a connection from the first cadence frame after its subscription was acknowledged. The
watermark of a connection is its highest event time minus the lateness allowed. A symbol that no connection covers is
blind from its own watermark on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from common.batch import Batch
from common.contracts import OutgoingMessage
from common.feed_events import BadFrame, Event, Lost, Subscribed, Unsubscribed
from common.venues.market import Cadence, Trade
from ohlcv_ingestor.beats import beats_of
from ohlcv_ingestor.follower import Follower


@dataclass(frozen=True)
class LineLimits:
    """`lateness_ms` venue time; `blind_after_s` real time without a watermark; `beat_after_ms` venue time."""

    lateness_ms: int = 500
    blind_after_s: float = 5.0
    beat_after_ms: int = 2_000


@dataclass(slots=True)
class Flow:
    """One connection: its highest event time, and which symbols it covers or soon will."""

    event_ms: int = 0
    next_close_ms: int = 0
    awaited: set[str] = field(default_factory=lambda: set[str]())
    covered: set[str] = field(default_factory=lambda: set[str]())


@dataclass
class Outlet:
    """What the lines of a service hand on: rows to store, beats to publish, frames that could not be read."""

    batch: Batch = field(default_factory=Batch)
    beats: list[OutgoingMessage] = field(default_factory=lambda: list[OutgoingMessage]())
    bad: list[BadFrame] = field(default_factory=lambda: list[BadFrame]())
    minute_closed: bool = False


FollowerT = TypeVar("FollowerT", bound=Follower)


class Line(Generic[FollowerT]):
    """The series of one feed. `symbol_of` turns a stream name into its symbol, None for the cadence stream."""

    def __init__(self, outlet: Outlet, symbol_of: Callable[[str], str | None], limits: LineLimits) -> None:
        self.outlet = outlet
        self.series: dict[str, FollowerT] = {}
        self.flows: dict[int, Flow] = {}
        self.watermark_ms = 0
        self.moved_s = 0.0
        self.trades_total = 0
        self.strays_total = 0
        self._symbol_of = symbol_of
        self._limits = limits
        self._stalled_beat_s = 0

    def adopt(self, series: FollowerT) -> None:
        """Add a series, or put a new one in the place of one that has to begin anew."""
        symbol = series.stream.symbol
        self.series[symbol] = series
        covering = [f for f in self.flows.values() if symbol in f.covered]
        if covering:
            series.resume(max(f.event_ms for f in covering) + self._limits.lateness_ms)

    def drop(self, symbol: str) -> FollowerT | None:
        """Take a series off the line; what its connection covers is the venue's word, and stays until it says so."""
        return self.series.pop(symbol, None)

    def covers(self, symbol: str) -> bool:
        """Does a live connection cover the symbol?"""
        return any(symbol in f.covered for f in self.flows.values())

    def take(self, arrivals: list[tuple[int, Event]], now_s: float) -> None:
        """Hand on what arrived; `now_s` is our monotonic clock."""
        series_of, lateness_ms, rare = self.series, self._limits.lateness_ms, 0
        at, flow = -1, None
        for number, event in arrivals:
            if type(event) is not Trade:
                self._take_rare(number, event, now_s)
                flow, rare = None, rare + 1  # its connection may be gone now
                continue
            if flow is None or number != at:
                at, flow = number, self._flow(number)
            series = series_of.get(event.symbol)
            if series is None:
                self.strays_total += 1
            else:
                series.add(event)
            event_ms = event.event_ms
            if event_ms > flow.event_ms:
                flow.event_ms = event_ms
                if event_ms - lateness_ms >= flow.next_close_ms and flow.covered:
                    self._advance(flow, now_s)
        self.trades_total += len(arrivals) - rare

    def stall(self, now_s: float, rate: float, relieved: frozenset[str] = frozenset()) -> None:
        """While no watermark moves, spans end by our own clock, `blind_after_s` later, and beats say `live` false.

        `relieved` symbols have a fallback venue that speaks for them meanwhile.
        """
        waited_s = now_s - self.moved_s
        if not self.watermark_ms or waited_s <= self._limits.blind_after_s:
            return
        guess_ms = self.watermark_ms + int(1000 * rate * waited_s)
        for symbol, series in self.series.items():
            if symbol not in relieved and not self.covers(symbol):
                self._close(series, guess_ms - int(1000 * rate * self._limits.blind_after_s))
        second = guess_ms // 1000 - 1
        if second > self._stalled_beat_s:
            self._stalled_beat_s = second
            for symbol, series in self.series.items():
                if symbol not in relieved:
                    beats = beats_of(series, second, second + 1, self._limits.beat_after_ms, live=False)
                    self.outlet.beats.extend(beats)

    def blind(self, now_s: float) -> bool:
        """Has no watermark moved for longer than allowed?"""
        return now_s - self.moved_s > self._limits.blind_after_s

    def _take_rare(self, number: int, event: Event, now_s: float) -> None:
        flow = self._flow(number)
        if isinstance(event, Cadence):
            flow.event_ms = max(flow.event_ms, event.event_ms)
            if flow.awaited:
                self._cover(flow)
            if flow.event_ms - self._limits.lateness_ms >= flow.next_close_ms:
                self._advance(flow, now_s)
        elif isinstance(event, Subscribed):
            flow.awaited |= self._symbols(event.streams)
        elif isinstance(event, Unsubscribed):
            self._uncover(flow, self._symbols(event.streams), "unsubscribed")
        elif isinstance(event, Lost):
            del self.flows[number]
            # Also what it had only begun to deliver: a trade before the first cadence frame proves no coverage.
            self._uncover(flow, set(self.series), event.reason)
        elif isinstance(event, BadFrame):
            self.outlet.bad.append(event)

    def _flow(self, number: int) -> Flow:
        flow = self.flows.get(number)
        if flow is None:
            flow = self.flows[number] = Flow()
        return flow

    def _symbols(self, streams: frozenset[str]) -> set[str]:
        return {symbol for stream in streams if (symbol := self._symbol_of(stream)) is not None}

    def _cover(self, flow: Flow) -> None:
        from_ms = flow.event_ms + self._limits.lateness_ms
        for symbol in flow.awaited:
            series = self.series.get(symbol)
            if series is not None and not self.covers(symbol):
                series.resume(from_ms)
        flow.covered |= flow.awaited
        flow.awaited.clear()

    def _uncover(self, flow: Flow, symbols: set[str], reason: str) -> None:
        flow.covered -= symbols
        flow.awaited -= symbols
        for symbol in symbols:
            series = self.series.get(symbol)
            if series is not None and not self.covers(symbol):
                series.lose(series.watermark_ms, reason)
                series.drain(self.outlet.batch)

    def _advance(self, flow: Flow, now_s: float) -> None:
        to_ms = flow.event_ms - self._limits.lateness_ms
        flow.next_close_ms = (to_ms // 1000 + 1) * 1000
        if to_ms > self.watermark_ms:
            self.watermark_ms, self.moved_s = to_ms, now_s
        for symbol in flow.covered:
            series = self.series.get(symbol)
            if series is not None:
                from_s = series.closed_s
                self._close(series, to_ms)
                if not series.young:
                    beats = beats_of(series, from_s, series.closed_s, self._limits.beat_after_ms, live=True)
                    self.outlet.beats.extend(beats)

    def _close(self, series: FollowerT, to_ms: int) -> None:
        before_s = series.closed_s
        if series.advance(to_ms):
            series.drain(self.outlet.batch)
            if series.closed_s // 60 > before_s // 60:
                self.outlet.minute_closed = True
