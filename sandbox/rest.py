"""REST `/api/v3`: what the venue serves again, never later than venue now."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable

from aiohttp import web

from sandbox.frames import rest_record
from sandbox.market import Market
from sandbox.recount import Recount, kline_row
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
LIMIT, LIMIT_MAX = 500, 1000
QUOTES = ("FDUSD", "USDT", "USDC", "TUSD", "EUR", "TRY", "BTC", "ETH", "BNB")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(Exception):
    """An answer with `code` and `msg`."""

    def __init__(self, code: int, msg: str, status: int = 400, wait_s: float | None = None) -> None:
        super().__init__(msg)
        self.status = status
        self.text = json.dumps({"code": code, "msg": msg}, separators=(",", ":"))
        self.headers = {} if wait_s is None else {"Retry-After": str(math.ceil(wait_s))}


def _json(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")


def read_integer(request: web.Request, name: str) -> int | None:
    """An optional whole parameter; ApiError -1100 when it is something else."""
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise ApiError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)


def read_limit(request: web.Request) -> int:
    """How many records at most: 500 by default, 1000 whatever is asked above it."""
    limit = read_integer(request, "limit")
    if limit == 0:
        raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")
    return LIMIT if limit is None else min(limit, LIMIT_MAX)


def split_symbol(symbol: str) -> tuple[str, str]:
    """Base and quote asset by the usual endings."""
    for quote in QUOTES:
        if symbol.endswith(quote) and symbol != quote:
            return symbol[: -len(quote)], quote
    return symbol[:-3], symbol[-3:]


def describe_symbol(symbol: str) -> dict[str, object]:
    """One entry of exchangeInfo."""
    base, quote = split_symbol(symbol)
    tick = "0.01000000" if quote in {"USDT", "USDC", "FDUSD", "EUR"} else "0.00000001"
    return {
        "symbol": symbol,
        "status": "TRADING",
        "baseAsset": base,
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": "0.00000001", "maxQty": "9000.00000000", "stepSize": "0.00000001"},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
    }


class Rest:
    """The endpoints; klines come from the recount."""

    def __init__(self, market: Market, recount: Recount, budget: Budget, troubles: Troubles) -> None:
        self._market = market
        self._recount = recount
        self._budget = budget
        self._troubles = troubles

    def routes(self) -> list[web.RouteDef]:
        """All endpoints, guarded by weight, faults and error shape."""
        table: dict[str, Handler] = {
            "/api/v3/ping": self._ping,
            "/api/v3/time": self._time,
            "/api/v3/exchangeInfo": self._exchange_info,
            "/api/v3/aggTrades": self._agg_trades,
            "/api/v3/klines": self._klines,
        }
        return [web.get(path, self._guard(handler)) for path, handler in table.items()]

    def _guard(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            troubles = self._troubles
            if troubles.on("rest_slow"):
                await asyncio.sleep(troubles.rest_wait_s)
            if troubles.on("rest_down"):
                return web.Response(status=troubles.rest_status, text="<html>Service Unavailable</html>")
            try:
                self._charge(WEIGHTS[request.path])
                response = await handler(request)
            except ApiError as error:
                response = web.Response(
                    status=error.status, text=error.text, content_type="application/json", headers=error.headers
                )
            response.headers["X-MBX-USED-WEIGHT-1M"] = str(self._budget.used)
            return response

        return guarded

    def _charge(self, weight: int) -> None:
        status, wait_s = self._budget.charge(weight)
        if status == 429:
            raise ApiError(-1003, "Too much request weight used; current limit is exceeded.", 429, wait_s)
        if status == 418:
            until_ms = self._market.clock.told_ms() + int(wait_s * 1000)
            raise ApiError(-1003, f"Way too much request weight used; IP banned until {until_ms}.", 418, wait_s)

    def _seen_ms(self) -> int:
        return self._market.clock.now_ms() - self._troubles.rest_behind_ms

    def _symbol(self, request: web.Request) -> str:
        symbol = request.query.get("symbol")
        if not symbol:
            raise ApiError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        if symbol not in self._market.symbols:
            raise ApiError(-1121, "Invalid symbol.")
        return symbol

    async def _ping(self, request: web.Request) -> web.StreamResponse:
        return _json("{}")

    async def _time(self, request: web.Request) -> web.StreamResponse:
        return _json(f'{{"serverTime":{self._market.clock.told_ms()}}}')

    async def _exchange_info(self, request: web.Request) -> web.StreamResponse:
        wanted = list(self._market.symbols)
        try:
            if "symbols" in request.query:
                wanted = [str(name) for name in json.loads(request.query["symbols"])]
        except (ValueError, TypeError):
            raise ApiError(-1100, "Illegal characters found in parameter 'symbols'.") from None
        if "symbol" in request.query:
            wanted = [request.query["symbol"]]
        if any(name not in self._market.symbols for name in wanted):
            raise ApiError(-1121, "Invalid symbol.")
        weight = {
            "rateLimitType": "REQUEST_WEIGHT",
            "interval": "MINUTE",
            "intervalNum": 1,
            "limit": self._budget.limit,
        }
        body = {
            "timezone": "UTC",
            "serverTime": self._market.clock.told_ms(),
            "rateLimits": [weight],
            "exchangeFilters": [],
            "symbols": [describe_symbol(name) for name in wanted],
        }
        return _json(json.dumps(body, separators=(",", ":")))

    async def _agg_trades(self, request: web.Request) -> web.StreamResponse:
        symbol, limit, now_ms = self._symbol(request), read_limit(request), self._seen_ms()
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
        return _json(f"[{','.join(rest_record(trade) for trade in trades)}]")

    async def _klines(self, request: web.Request) -> web.StreamResponse:
        symbol, limit, now_ms = self._symbol(request), read_limit(request), self._seen_ms()
        length_s = INTERVALS_S.get(request.query.get("interval", ""))
        if length_s is None:
            raise ApiError(-1120, "Invalid interval.")
        start_ms, end_ms = read_integer(request, "startTime"), read_integer(request, "endTime")
        last_ms = now_ms if end_ms is None else min(end_ms, now_ms)
        latest_s = (last_ms // 1000 // length_s - limit + 1) * length_s
        start_s = latest_s if start_ms is None else -(-start_ms // 1000)
        spans = await self._recount.spans(symbol, length_s, start_s, last_ms // 1000 + 1, now_ms, limit)
        return _json(json.dumps([kline_row(span, length_s) for span in spans], separators=(",", ":")))
