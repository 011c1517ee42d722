"""REST of Binance USD-M futures: `/fapi/v1` and `/futures/data`, with weights and pools of calls of their own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable

from aiohttp import web

from sandbox.clock import VenueClock
from sandbox.facts import DAY_MS, Facts
from sandbox.futures_rows import (
    funding_info_row,
    funding_row,
    open_interest_hist_row,
    open_interest_row,
    perp_row,
    premium_row,
    quarter_premium_row,
    quarter_row,
)
from sandbox.guard import ApiError, Guard, answer_json, behind_ms, read_integer, read_limit
from sandbox.listing import Listing
from sandbox.perps import HOUR_MS, Perps
from sandbox.troubles import Troubles
from sandbox.weights import Budget

POOL_S = 300.0
FUNDING_CALLS_MAX, DATA_CALLS_MAX = 500, 1000
FUNDING_LIMIT, FUNDING_LIMIT_MAX, FUNDING_LATEST = 100, 1000, 200
HIST_LIMIT, HIST_LIMIT_MAX, HIST_KEPT_MS = 30, 500, 30 * DAY_MS
PERIODS_S = {
    "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "2h": 7200, "4h": 14_400, "6h": 21_600, "12h": 43_200, "1d": 86_400
}  # fmt: skip
Answer = Callable[[web.Request], Awaitable[object]]


class CallPool:
    """So many calls in any `window_s` of real time; `clock` gives monotonic seconds."""

    def __init__(self, most: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._window_s = window_s
        self._clock = clock
        self._calls = deque[float](maxlen=most)

    def take(self) -> float:
        """Count a call; the seconds to wait when it comes too soon and does not count."""
        now = self._clock()
        if len(self._calls) == self._most and now - self._calls[0] < self._window_s:
            return self._window_s - (now - self._calls[0])
        self._calls.append(now)
        return 0.0


class Futures:
    """The endpoints; every value is the venue's at a whole second of what it tells as now."""

    def __init__(self, clock: VenueClock, listing: Listing, perps: Perps, budget: Budget, troubles: Troubles) -> None:
        self._clock = clock
        self._listing = listing
        self._perps = perps
        self._guard = Guard(lambda: listing.told_ms(clock), budget, troubles)
        self._funding_calls = CallPool(FUNDING_CALLS_MAX, POOL_S)
        self._data_calls = CallPool(DATA_CALLS_MAX, POOL_S)

    def routes(self) -> list[web.RouteDef]:
        """All endpoints with their weights."""
        table: dict[str, tuple[Answer, int]] = {
            "/fapi/v1/ping": (self._ping, 1),
            "/fapi/v1/time": (self._time, 1),
            "/fapi/v1/exchangeInfo": (self._exchange_info, 1),
            "/fapi/v1/premiumIndex": (self._premium_index, 10),
            "/fapi/v1/fundingRate": (self._funding_rate, 0),
            "/fapi/v1/fundingInfo": (self._funding_info, 0),
            "/fapi/v1/openInterest": (self._open_interest, 1),
            "/futures/data/openInterestHist": (self._open_interest_hist, 0),
        }
        return [self._route(path, answer, weight) for path, (answer, weight) in table.items()]

    def _route(self, path: str, answer: Answer, weight: int) -> web.RouteDef:
        async def handler(request: web.Request) -> web.StreamResponse:
            return answer_json(await answer(request))

        def weigh(request: web.Request) -> int:
            return min(weight, 1) if "symbol" in request.query else weight

        return web.get(path, self._guard.wrap(handler, weigh))

    def _now_ms(self, request: web.Request) -> int:
        return self._listing.told_ms(self._clock) - behind_ms(request)

    def _find(self, request: web.Request) -> Facts:
        name = request.query.get("symbol")
        if not name:
            raise ApiError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        for facts in self._listing.perps():
            if facts.perp == name:
                return facts
        raise ApiError(-1121, "Invalid symbol.")

    @staticmethod
    def _take(pool: CallPool) -> None:
        wait_s = pool.take()
        if wait_s:
            raise ApiError(-1003, "Too many requests; current limit of IP is exceeded.", 429, wait_s)

    async def _ping(self, request: web.Request) -> object:
        return {}

    async def _time(self, request: web.Request) -> object:
        return {"serverTime": self._now_ms(request)}

    async def _exchange_info(self, request: web.Request) -> object:
        now_ms = self._now_ms(request)
        found = self._listing.perps()
        weight = {
            "rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": self._guard.budget.limit
        }  # fmt: skip
        rows = [perp_row(facts) for facts in found]
        rows += [quarter_row(facts, now_ms // DAY_MS * DAY_MS + 90 * DAY_MS) for facts in found[:1]]
        head = {"timezone": "UTC", "serverTime": now_ms, "futuresType": "U_MARGINED", "rateLimits": [weight]}
        return {**head, "exchangeFilters": [], "assets": [], "symbols": rows}

    async def _premium_index(self, request: web.Request) -> object:
        at_s = self._now_ms(request) // 1000
        if "symbol" in request.query:
            return premium_row(self._perps, self._find(request), at_s)
        found = self._listing.perps()
        rows = [premium_row(self._perps, facts, at_s) for facts in found]
        return rows + [quarter_premium_row(self._perps, facts, at_s) for facts in found[:1]]

    async def _funding_rate(self, request: web.Request) -> object:
        """By time, the oldest first from `startTime`, the latest without one."""
        self._take(self._funding_calls)
        limit = read_limit(request, FUNDING_LIMIT, FUNDING_LIMIT_MAX)
        start_ms, end_ms = read_integer(request, "startTime"), read_integer(request, "endTime")
        now_ms = self._now_ms(request)
        until_ms = now_ms if end_ms is None else min(end_ms, now_ms)
        if start_ms is not None and end_ms is not None and start_ms > end_ms:
            raise ApiError(-4053, "startTime must be smaller than endTime.")
        if start_ms is None and end_ms is None and "limit" not in request.query:
            limit = FUNDING_LATEST
        asked = [self._find(request)] if "symbol" in request.query else self._listing.perps()
        rows: list[tuple[int, dict[str, object]]] = []
        for facts in asked:
            # Far enough back, or on, that the rows of all together are more than asked for.
            steps = limit // len(asked) + 2 + len(facts.funding_missing)
            reach_ms = steps * (8 if len(asked) > 1 else facts.funding_hours) * HOUR_MS
            from_ms = until_ms - reach_ms if start_ms is None else start_ms
            to_ms = until_ms + 1 if start_ms is None else min(until_ms + 1, start_ms + reach_ms)
            paid = self._perps.settlements(facts, from_ms, to_ms)
            rows += [(one.time_ms, funding_row(facts, one)) for one in paid]
        rows.sort(key=lambda row: row[0])
        return [row for _, row in (rows[-limit:] if start_ms is None else rows[:limit])]

    async def _funding_info(self, request: web.Request) -> object:
        self._take(self._funding_calls)
        return [funding_info_row(facts) for facts in self._listing.perps() if facts.funding_hours != 8]

    async def _open_interest(self, request: web.Request) -> object:
        facts = self._find(request)
        if facts.perp_status != "TRADING":
            raise ApiError(-4108, "Symbol is on delivering or delivered or settling or closed or pre-trading.")
        return open_interest_row(self._perps, facts, self._now_ms(request) // 1000)

    async def _open_interest_hist(self, request: web.Request) -> object:
        self._take(self._data_calls)
        facts = self._find(request)
        step_s = PERIODS_S.get(request.query.get("period", ""))
        if step_s is None:
            raise ApiError(-1130, "Data sent for parameter 'period' is not valid.")
        limit = read_limit(request, HIST_LIMIT, HIST_LIMIT_MAX)
        start_ms, end_ms = read_integer(request, "startTime"), read_integer(request, "endTime")
        now_ms = self._now_ms(request)
        if start_ms is not None and start_ms < now_ms - HIST_KEPT_MS:
            raise ApiError(-1130, "parameter 'startTime' is invalid.")
        first = max(facts.perp_listed_ms, now_ms - HIST_KEPT_MS if start_ms is None else start_ms)
        last = now_ms if end_ms is None else min(end_ms, now_ms)
        seconds = range(-(-first // 1000 // step_s) * step_s, last // 1000 + 1, step_s)
        chosen = seconds[-limit:] if start_ms is None else seconds[:limit]
        return [open_interest_hist_row(self._perps, facts, second) for second in chosen]
