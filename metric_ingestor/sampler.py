"""When each vendor is asked: open interest spread over the window, funding and the time shortly before its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from common.clock import Clock
from common.listings import Listing
from metric_ingestor.perps import Perp
from metric_ingestor.rotation import choose_asked, window_capacity
from metric_ingestor.settings import MetricSettings
from metric_ingestor.vendors import Vendors
from metric_ingestor.windows import WINDOW_S, window_of

log = logging.getLogger(__name__)

TIME_RETRY_S = 0.5
INTERVALS_RETRY_S = 30.0
SPREAD_END_MS = 2_000
"""No call for a window is begun later before its end: an answer that comes after it is of no use."""
FAR_MS = 2_000 * WINDOW_S
"""A moment farther off than this is none of ours: a wrong time had been believed, and was corrected."""
OTHER_WEIGHT_PER_MIN = 60
"""premiumIndex (10) and time (1) in each window, and what is asked once in a while."""


class Sampler:
    """Asks for the symbols in `followed`; `ranked` puts the most liquid first."""

    def __init__(self, settings: MetricSettings, clock: Clock, vendors: Vendors, weight_per_min: int) -> None:
        self._settings, self._clock, self._vendors = settings, clock, vendors
        self._capacity = window_capacity(weight_per_min, OTHER_WEIGHT_PER_MIN)
        self._calls = asyncio.Semaphore(settings.calls_at_once)
        self.followed: Mapping[str, Listing] = {}
        self.ranked: Sequence[str] = ()
        self.asked_of = (0, 0)
        """Symbols asked for open interest in the last window, and symbols with a perpetual."""

    async def run(self) -> None:
        """Sample window after window for ever."""
        await self._learn_time()
        done = 0
        while True:
            window = window_of(int(self._vendors.now_ms()) // 1000)
            if window == done:  # a sleep may end a moment too soon
                window += WINDOW_S
            done = window
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sample_interest(window))
                group.create_task(self._sample_funding(window))
            await self._sleep_until(1000 * window)

    async def keep_intervals(self) -> None:
        """Ask for the intervals between settlements again and again."""
        while True:
            good = await self._vendors.ask_intervals()
            await asyncio.sleep(self._settings.intervals_every_s if good else INTERVALS_RETRY_S)

    async def _learn_time(self) -> None:
        await self._vendors.ask_time()
        while not self._vendors.time.known:  # the server is away: the trades' watermark may tell it meanwhile
            await asyncio.sleep(TIME_RETRY_S)
            await self._vendors.ask_time()
        if not self._vendors.perps and self.followed:
            await self._vendors.ask_funding(window_of(int(self._vendors.now_ms()) // 1000), self.followed)

    async def _sample_funding(self, window: int) -> None:
        if not await self._sleep_until(1000 * window - self._settings.funding_lead_ms):
            return
        await self._vendors.ask_time()
        if self.followed:
            await self._vendors.ask_funding(window, self.followed)

    async def _sample_interest(self, window: int) -> None:
        perps = {symbol: perp for symbol in self.ranked if (perp := self._vendors.perp_of(symbol)) is not None}
        asked = choose_asked(list(perps), self._capacity, window // WINDOW_S)
        self.asked_of = (len(asked), len(perps))
        if not asked:
            return
        begin_ms, end_ms = self._vendors.now_ms(), 1000 * window - SPREAD_END_MS
        answers: list[bool] = []
        async with asyncio.TaskGroup() as group:
            for number, symbol in enumerate(asked):
                if not await self._sleep_until(begin_ms + (end_ms - begin_ms) * number / len(asked)):
                    break
                await self._calls.acquire()
                if self._vendors.now_ms() >= end_ms:
                    self._calls.release()
                    break
                group.create_task(self._ask_interest(window, symbol, perps[symbol], answers))
        self._vendors.end_interest(sum(answers), len(answers) - sum(answers))

    async def _ask_interest(self, window: int, symbol: str, perp: Perp, answers: list[bool]) -> None:
        try:
            answers.append(await self._vendors.ask_interest(window, symbol, perp))
        finally:
            self._calls.release()

    async def _sleep_until(self, venue_ms: float) -> bool:
        """False when that is far off: the window is to be left."""
        while (left_ms := venue_ms - self._vendors.now_ms()) > 0:
            if left_ms > FAR_MS:
                return False
            await asyncio.sleep(self._clock.real_s(min(left_ms / 1000, WINDOW_S)))
        return True
