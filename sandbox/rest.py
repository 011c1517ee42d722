"""REST `/api/v3`: what the venue serves again, never later than venue now."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from sandbox.frames import rest_record
from sandbox.guard import ApiError, Guard, Handler, answer_json, behind_ms, read_integer, read_limit
from sandbox.listing import Listing
from sandbox.market import Market
from sandbox.recount import Recount, kline_row
from sandbox.spot_listing import SpotListing, weigh_24hr, weigh_book
from sandbox.troubles import Troubles
from sandbox.weights import WEIGHTS, Budget

INTERVALS_S = {
    "1s": 1,
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1800,
    "1h": 3600,
    "4h": 14400,
    "1d": 86400,
}


class Rest:
    """The endpoints; klines come from the recount, the list of pairs from the listing."""

    def __init__(self, market: Market, recount: Recount, budget: Budget, troubles: Troubles, listing: Listing) -> None:
        self._market = market
        self._recount = recount
        self._troubles = troubles
        self.pairs = SpotListing(market, recount, listing, budget.limit)
        self._guard = Guard(market.clock.told_ms, budget, troubles)

    def routes(self) -> list[web.RouteDef]:
        """All endpoints, guarded by weight, faults and error shape."""
        table: dict[str, Handler] = {
            "/api/v3/ping": self._ping,
            "/api/v3/time": self._time,
            "/api/v3/exchangeInfo": self.pairs.exchange_info,
            "/api/v3/aggTrades": self._agg_trades,
            "/api/v3/klines": self._klines,
            "/api/v3/ticker/24hr": self.pairs.ticker_24hr,
            "/api/v3/ticker/bookTicker": self.pairs.book_ticker,
        }
        weighed: dict[str, Callable[[web.Request], int]] = {
            "/api/v3/ticker/24hr": weigh_24hr,
            "/api/v3/ticker/bookTicker": weigh_book,
        }
        return [
            web.get(path, self._guard.wrap(handler, weighed.get(path, lambda request: WEIGHTS[request.path])))
            for path, handler in table.items()
        ]

    def _seen_ms(self, request: web.Request) -> int:
        return self._market.clock.now_ms() - self._troubles.rest_behind_ms - behind_ms(request)

    async def _ping(self, request: web.Request) -> web.StreamResponse:
        return answer_json("{}")

    async def _time(self, request: web.Request) -> web.StreamResponse:
        return answer_json(f'{{"serverTime":{self.pairs.now_ms(request)}}}')

    async def _agg_trades(self, request: web.Request) -> web.StreamResponse:
        facts = self.pairs.find(request.query.get("symbol"))
        symbol, limit, now_ms = facts.symbol, read_limit(request), self._seen_ms(request)
        if not facts.traded:
            return answer_json("[]")
        from_id = read_integer(request, "fromId")
        start_ms, end_ms = read_integer(request, "startTime"), read_integer(request, "endTime")
        last_ms = now_ms if end_ms is None else min(end_ms, now_ms)
        if from_id is not None:
            if start_ms is not None or end_ms is not None:
                raise ApiError(-1128, "Combination of optional parameters invalid.")
            trades = self._market.from_id(symbol, from_id, limit, now_ms)
        elif start_ms is not None:
            if end_ms is not None and end_ms < start_ms:
                raise ApiError(-1128, "Combination of optional parameters invalid.")
            earlier = self._market.before(symbol, min(start_ms, now_ms + 1), 1)
            trades = self._market.from_id(symbol, earlier[-1].id + 1 if earlier else 0, limit, last_ms)
        else:
            trades = self._market.before(symbol, last_ms + 1, limit)
        return answer_json(f"[{','.join(rest_record(trade) for trade in trades)}]")

    async def _klines(self, request: web.Request) -> web.StreamResponse:
        facts = self.pairs.find(request.query.get("symbol"))
        limit, now_ms = read_limit(request), self._seen_ms(request)
        length_s = INTERVALS_S.get(request.query.get("interval", ""))
        if length_s is None:
            raise ApiError(-1120, "Invalid interval.")
        start_ms, end_ms = read_integer(request, "startTime"), read_integer(request, "endTime")
        if length_s == 86400:
            return answer_json(await self.pairs.daily_klines(facts, start_ms, end_ms, limit))
        if not facts.traded:
            return answer_json("[]")
        last_ms = now_ms if end_ms is None else min(end_ms, now_ms)
        latest_s = (last_ms // 1000 // length_s - limit + 1) * length_s
        start_s = latest_s if start_ms is None else -(-start_ms // 1000)
        spans = await self._recount.spans(facts.symbol, length_s, start_s, last_ms // 1000 + 1, now_ms, limit)
        return answer_json([kline_row(span, length_s) for span in spans])
