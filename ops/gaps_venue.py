"""The venue's REST side for the operator's commands: asks what a generator wants to know, within a weight budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TypeVar

from common.errors import TryLater
from common.rest import RestClient, RestLimits, WeightBudget
from common.venues.binance_spot import (
    agg_trades_request,
    klines_request,
    parse_agg_trades,
    parse_klines,
    parse_time,
    time_request,
)
from common.venues.market import Request
from ohlcv_ingestor.repair import Answer, Ask, AskTrades
from ops.gaps_options import HOST_WEIGHT_PER_MIN

_T = TypeVar("_T")
Say = Callable[[str], None]


class Asker:
    """Drives generators of questions about one venue. Raises TryLater when it stays away for `tries_max` calls."""

    tries_max = 5
    away_s = 2.0

    def __init__(self, rest_url: str, weight_per_min: int, say: Say) -> None:
        budget = WeightBudget(HOST_WEIGHT_PER_MIN, weight_per_min / HOST_WEIGHT_PER_MIN)
        self._rest = RestClient(rest_url, budget, RestLimits(budget_wait_max_s=90.0))
        self._say = say

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def now_s(self) -> int:
        """The venue's time, in epoch seconds."""
        return parse_time(await self._fetch(time_request())) // 1000

    async def drive(self, symbol: str, asking: Generator[Ask, Answer, _T]) -> _T:
        """Answer a generator until it returns; closed spans only, so that the last candle counts."""
        try:
            ask = next(asking)
            while True:
                ask = asking.send(await self._answer(symbol, ask))
        except StopIteration as done:
            return done.value
        finally:
            asking.close()

    async def _answer(self, symbol: str, ask: Ask) -> Answer:
        if isinstance(ask, AskTrades):
            request = agg_trades_request(
                symbol, from_id=ask.from_id, start_ms=ask.start_ms, end_ms=ask.end_ms, limit=ask.limit
            )
            return Answer(trades=parse_agg_trades(await self._fetch(request), symbol))
        request = klines_request(symbol, ask.interval, 1000 * ask.from_s, 1000 * ask.to_s - 1)
        return Answer(klines=parse_klines(await self._fetch(request), 1000 * ask.to_s))

    async def _fetch(self, request: Request) -> bytes:
        for attempt in range(1, self.tries_max + 1):
            try:
                return await self._rest.fetch(request)
            except TryLater as error:
                if attempt == self.tries_max:
                    raise
                wait_s = max(self.away_s, error.wait_s or 0.0)
                self._say(f"venue: {error}; asked again in {wait_s:.0f} s")
                await asyncio.sleep(wait_s)
        raise AssertionError("the last try returns or raises")
