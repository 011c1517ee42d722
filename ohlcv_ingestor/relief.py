"""Relief: while a line's primary is blind, the fallback venue's feed, and the candles of the minutes it came into."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from common.backoff import AttemptBudget
from common.clock import Clock
from common.errors import BadInput, Refused, TryLater
from common.feed import Feed, FeedLimits
from common.rest import RestClient
from common.venues.market import Market
from common.venues.okx_spot import candles_request, instruments_request, parse_candles, parse_instruments
from ohlcv_ingestor.failover import Failover, Speaker
from ohlcv_ingestor.fallback import FallbackSeries, Primary
from ohlcv_ingestor.line import Line, LineLimits, Outlet
from ohlcv_ingestor.rows import Stream

log = logging.getLogger(__name__)


class Relief:
    """The fallback side of one line. `watch` keeps judging, `run` reads the fallback while it speaks.

    `native` turns a pair into the fallback's own symbol, None where it has none; `primary` gives the primary's series
    of a pair.
    """

    candles_every_s = 0.5
    away_s = 2.0
    listed_every_s = 6 * 3600.0
    listed_again_s = 60.0
    listed_within_s = 1.0

    def __init__(
        self, name: str, market: Market, url: str, rest: RestClient, clock: Clock, outlet: Outlet,
        native: Callable[[str], str | None], limits: tuple[FeedLimits, LineLimits, int], failover: Failover,
        attempts: AttemptBudget, primary: Callable[[str], Primary | None],
    ) -> None:  # fmt: skip
        self.name, self.failover = name, failover
        self.line: Line[FallbackSeries] | None = None
        self.feed: Feed | None = None
        self._market, self._url, self._rest, self._clock = market, url, rest, clock
        self._outlet, self._native, self._attempts = outlet, native, attempts
        self._primary = primary
        self._feed_limits, self._line_limits, self._settle_s = limits
        self._lost_s: dict[str, int | None] = {}
        self._called, self._released = asyncio.Event(), asyncio.Event()
        self._listed: frozenset[str] | None = None
        self._list_told = asyncio.Event()

    def judge(self, silent_s: float, lost_s: Mapping[str, int | None]) -> None:
        """Take how long the primary has been silent, and for each pair the second up to which it was heard."""
        if not self.failover.judge(silent_s):
            return
        log.warning(
            "speaker changed", extra={"feed": self.name, "speaker": self.failover.speaker, "pairs": len(lost_s)}
        )
        if self.failover.speaker is Speaker.FALLBACK:
            self._lost_s = dict(lost_s)
            self._released.clear()
            self._called.set()
        else:
            self._called.clear()
            self._released.set()

    def relieved(self, now_s: float) -> frozenset[str]:
        """Pairs that the fallback speaks for now: it covers them and its watermark moves."""
        line = self.line
        if line is None or self.failover.speaker is Speaker.PRIMARY or not line.watermark_ms or line.blind(now_s):
            return frozenset()
        return frozenset(s.stream.symbol for native, s in line.series.items() if line.covers(native))

    async def run(self, hand_on: Callable[[], None]) -> None:
        """Read the fallback whenever it is called, until it is released."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_listed())
            group.create_task(self._relieve(hand_on))

    async def _relieve(self, hand_on: Callable[[], None]) -> None:
        while True:
            await self._called.wait()
            series = await self._choose(self._lost_s)
            if not series:
                await self._released.wait()
                continue
            await self._speak(series, hand_on)

    async def _speak(self, series: Mapping[str, FallbackSeries], hand_on: Callable[[], None]) -> None:
        names = {self._market.stream_of(native): native for native in series}
        line = Line[FallbackSeries](self._outlet, names.get, self._line_limits)
        line.moved_s = self._clock.monotonic_s()
        for native, one in series.items():
            line.series[native] = one
        feed = Feed(self._market, self._url, self._feed_limits, self._clock, self.name, self._attempts)
        feed.want(frozenset(names))
        self.line, self.feed = line, feed
        try:
            async with asyncio.TaskGroup() as group:
                candles = group.create_task(self._fetch_candles(series.values(), hand_on))
                reading = group.create_task(self._read(feed, line, hand_on))
                await self._released.wait()
                candles.cancel()
                await feed.close()
                await reading
        finally:
            self.line = self.feed = None

    async def _read(self, feed: Feed, line: Line[FallbackSeries], hand_on: Callable[[], None]) -> None:
        async with contextlib.aclosing(feed.events()) as batches:
            async for arrivals in batches:
                if self.failover.speaker is Speaker.FALLBACK:
                    line.take(arrivals, self._clock.monotonic_s())
                    hand_on()

    async def _choose(self, lost_s: Mapping[str, int | None]) -> dict[str, FallbackSeries]:
        """Series of the pairs that the fallback lists, by its own symbol."""
        # Who is called in need does not wait for a list: a pair that is not there is refused, and costs nothing more.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.listed_within_s):
                await self._list_told.wait()
        result: dict[str, FallbackSeries] = {}
        for pair, second in lost_s.items():
            native = self._native(pair)
            if native is None or (self._listed is not None and native not in self._listed):
                continue
            stream = Stream("ohlcv", self._market.source, pair, self._market.source, self._market.scale)
            result[native] = FallbackSeries(stream, second, partial(self._primary, pair))
        return result

    async def _keep_listed(self) -> None:
        """Know, before it matters, which pairs the fallback lists; what was known stays while it does not answer."""
        failing = False
        while True:
            try:
                listed = parse_instruments(await self._rest.fetch(instruments_request("SPOT")))
                self._listed, failing = frozenset(i.inst_id for i in listed if i.state == "live"), False
            except (TryLater, Refused, BadInput) as error:
                if not failing:
                    log.warning("instruments unknown", extra={"feed": self.name, "error": str(error)})
                failing = True
            self._list_told.set()
            await asyncio.sleep(self.listed_again_s if failing else self.listed_every_s)

    async def _fetch_candles(self, all_series: Iterable[FallbackSeries], hand_on: Callable[[], None]) -> None:
        while True:
            for series in all_series:
                native = self._native(series.stream.symbol)
                for minute in series.wanted_minutes(self._settle_s):
                    if native is not None and not await self._fetch_candle(series, native, minute):
                        break
            hand_on()
            await asyncio.sleep(self.candles_every_s)

    async def _fetch_candle(self, series: FallbackSeries, native: str, minute: int) -> bool:
        try:
            raw = await self._rest.fetch(candles_request(native, 1000 * (minute + 60), 1000 * minute - 1, 1))
            candles = [c for c in parse_candles(raw) if c.open_s == minute]
        except TryLater as error:
            await asyncio.sleep(max(self.away_s, error.wait_s or 0.0))
            return False
        except (Refused, BadInput) as error:
            log.error("candle of no use", extra={"symbol": native, "minute": minute, "error": str(error)})
            series.forget_candle(minute)
            return True
        for candle in candles:
            series.take_candle(candle)
        series.drain(self._outlet.batch)
        return bool(candles)
