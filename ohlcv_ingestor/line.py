"""One line to the venue: what its connections deliver, handed to the series of its symbols. Pure; time is given.

A symbol is covered by a connection from the first cadence frame after its subscription was acknowledged. The
watermark of a connection is its highest event time minus the lateness allowed. A symbol that no connection covers is
blind from its own watermark on.

A connection's time is what its cadence frames tell. Before the first of them no trade is taken: it could not be judged,
and the gap before the coverage has it. After it, a trade far off that time is bad input, and its id comes back as a
gap. A cadence frame far off what is known is believed only when the next one agrees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from common.batch import Batch
from common.contracts import OutgoingMessage
from common.feed_events import BadFrame, Event, Lost, Subscribed, Unsubscribed
from common.venues.market import Cadence, Trade
from ohlcv_ingestor.beats import beats_of
from ohlcv_ingestor.continuity import AHEAD_MAX_MS
from ohlcv_ingestor.follower import Follower


@dataclass(frozen=True)
class LineLimits:
    """`blind_after_s` is real time without a watermark; the others are venue time.

    A trade's own time is at most `late_max_ms` before, and `ahead_max_ms` after, the time of its connection.
    """

    lateness_ms: int = 500
    blind_after_s: float = 5.0
    beat_after_ms: int = 2_000
    late_max_ms: int = 6_000_000
    ahead_max_ms: int = AHEAD_MAX_MS


@dataclass(slots=True)
class Flow:
    """One connection: its highest event time, and which symbols it covers or soon will.

    Trades are taken from `earliest_ms` to `latest_ms`, none before it told its time; `doubted_ms` is what a cadence
    frame told that has yet to be confirmed.
    """

    event_ms: int = 0
    earliest_ms: int = 1
    latest_ms: int = 0
    doubted_ms: int = 0
    next_close_ms: int = 0
    awaited: set[str] = field(default_factory=lambda: set[str]())
    covered: set[str] = field(default_factory=lambda: set[str]())


@dataclass
class Outlet:
    """What the lines of a service hand on: rows to store, beats to publish, bad input."""

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
        self.refused_total = 0
        self.early_total = 0
        self._symbol_of = symbol_of
        self.limits = limits
        self._stalled_beat_s = 0

    def adopt(self, series: FollowerT) -> None:
        """Add a series, or put a new one in the place of one that has to begin anew."""
        symbol = series.stream.symbol
        self.series[symbol] = series
        covering = [f for f in self.flows.values() if symbol in f.covered]
        if covering:
            series.resume(max(f.event_ms for f in covering) + self.limits.lateness_ms)

    def drop(self, symbol: str) -> FollowerT | None:
        """Take a series off the line; what its connection covers is the venue's word, and stays until it says so."""
        return self.series.pop(symbol, None)

    def covers(self, symbol: str) -> bool:
        """Does a live connection cover the symbol?"""
        return any(symbol in f.covered for f in self.flows.values())

    def take(self, arrivals: list[tuple[int, Event]], now_s: float) -> None:
        """Hand on what arrived; `now_s` is our monotonic clock."""
        series_of, lateness_ms, rare = self.series, self.limits.lateness_ms, 0
        at, flow, earliest_ms, latest_ms = -1, None, 0, 0
        for number, event in arrivals:
            if type(event) is not Trade:
                self._take_rare(number, event, now_s)
                flow, rare = None, rare + 1  # its connection may be gone now
                continue
            if flow is None or number != at:
                at, flow = number, self._flow(number)
                earliest_ms, latest_ms = flow.earliest_ms, flow.latest_ms  # only cadence frames move them
            event_ms = event.event_ms
            if event_ms > latest_ms or not earliest_ms <= event.time_ms <= latest_ms:
                self._refuse(flow, event)
                continue
            series = series_of.get(event.symbol)
            if series is None:
                self.strays_total += 1
            else:
                series.add(event)
            if event_ms > flow.event_ms:
                flow.event_ms = event_ms
                if event_ms - lateness_ms >= flow.next_close_ms and flow.covered:
                    self._advance(flow, now_s)
        self.trades_total += len(arrivals) - rare

    def stall(self, now_s: float, rate: float, relieved: frozenset[str] = frozenset()) -> None:
        """While no watermark moves, spans end by our own clock, `blind_after_s` later, and beats say `live` false.

        `relieved` symbols have a fallback venue that speaks for them meanwhile.
        """
        waited_s = self.still_s(now_s)
        if not self.watermark_ms or waited_s <= self.limits.blind_after_s:
            return
        guess_ms = self.watermark_ms + int(1000 * rate * waited_s)
        for symbol, series in self.series.items():
            if symbol not in relieved and not self.covers(symbol):
                self._close(series, guess_ms - int(1000 * rate * self.limits.blind_after_s))
        second = guess_ms // 1000 - 1
        if second > self._stalled_beat_s:
            self._stalled_beat_s = second
            for symbol, series in self.series.items():
                if symbol not in relieved:
                    beats = beats_of(series, second, second + 1, self.limits.beat_after_ms, live=False)
                    self.outlet.beats.extend(beats)

    def blind(self, now_s: float) -> bool:
        """Has no watermark moved for longer than allowed?"""
        return self.still_s(now_s) > self.limits.blind_after_s

    def still_s(self, now_s: float) -> float:
        """Our time since the watermark last moved; before it first did, since the line was made."""
        return now_s - self.moved_s

    def _take_rare(self, number: int, event: Event, now_s: float) -> None:
        flow = self._flow(number)
        if isinstance(event, Cadence):
            if self._believes(flow, event.event_ms):
                self._tell_time(flow, event.event_ms, now_s)
        elif isinstance(event, Subscribed):
            flow.awaited |= self._symbols(event.streams)
        elif isinstance(event, Unsubscribed):
            self._uncover(flow, self._symbols(event.streams), "unsubscribed")
        elif isinstance(event, Lost):
            del self.flows[number]
            # Also what it had only begun to deliver: a trade before the coverage proves none.
            self._uncover(flow, set(self.series), event.reason)
        elif isinstance(event, BadFrame):
            self.outlet.bad.append(event)

    def _believes(self, flow: Flow, event_ms: int) -> bool:
        """Does a cadence frame tell the venue's time? A real jump, or a first word, is told again a second later."""
        limit_ms = self.limits.ahead_max_ms
        known_ms = flow.event_ms or self.watermark_ms or self._stored_ms()
        confirmed = flow.doubted_ms > 0 and abs(event_ms - flow.doubted_ms) <= limit_ms
        if flow.doubted_ms and not confirmed:
            self._put_bad(Cadence(flow.doubted_ms), "a cadence frame whose time no other one tells")
        believed = confirmed or abs(event_ms - known_ms) <= limit_ms
        flow.doubted_ms = 0 if believed else event_ms
        return believed

    def _stored_ms(self) -> int:
        """Where the newest of its series went on from, before anything was heard."""
        return 1000 * max((series.closed_s for series in self.series.values()), default=0)

    def _tell_time(self, flow: Flow, event_ms: int, now_s: float) -> None:
        flow.event_ms = max(flow.event_ms, event_ms)
        flow.earliest_ms = flow.event_ms - self.limits.late_max_ms
        flow.latest_ms = flow.event_ms + self.limits.ahead_max_ms
        if flow.awaited:
            self._cover(flow)
        if flow.event_ms - self.limits.lateness_ms >= flow.next_close_ms:
            self._advance(flow, now_s)

    def _refuse(self, flow: Flow, t: Trade) -> None:
        if not flow.latest_ms:
            self.early_total += 1  # nothing is wrong with it: its connection has not told its time yet
            return
        self.refused_total += 1
        off_ms = (t.time_ms if t.time_ms < flow.earliest_ms else max(t.time_ms, t.event_ms)) - flow.event_ms
        self._put_bad(t, f"trade {t.id} of {t.symbol} is {off_ms:+} ms off the time of its connection")

    def _put_bad(self, message: Trade | Cadence, reason: str) -> None:
        self.outlet.bad.append(BadFrame(msgspec.json.encode(message), reason))

    def _flow(self, number: int) -> Flow:
        flow = self.flows.get(number)
        if flow is None:
            flow = self.flows[number] = Flow()
        return flow

    def _symbols(self, streams: frozenset[str]) -> set[str]:
        return {symbol for stream in streams if (symbol := self._symbol_of(stream)) is not None}

    def _cover(self, flow: Flow) -> None:
        from_ms = flow.event_ms + self.limits.lateness_ms
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
        to_ms = flow.event_ms - self.limits.lateness_ms
        flow.next_close_ms = (to_ms // 1000 + 1) * 1000
        if to_ms > self.watermark_ms:
            self.watermark_ms, self.moved_s = to_ms, now_s
        for symbol in flow.covered:
            series = self.series.get(symbol)
            if series is not None:
                from_s = series.closed_s
                self._close(series, to_ms)
                if not series.young:
                    beats = beats_of(series, from_s, series.closed_s, self.limits.beat_after_ms, live=True)
                    self.outlet.beats.extend(beats)

    def _close(self, series: FollowerT, to_ms: int) -> None:
        before_s = series.closed_s
        if series.advance(to_ms):
            series.drain(self.outlet.batch)
            if series.closed_s // 60 > before_s // 60:
                self.outlet.minute_closed = True
