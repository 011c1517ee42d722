"""The door before every vendor's REST: latency, single endpoints that are ill, and a count of what was asked."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from aiohttp.typedefs import Middleware

from sandbox.faults import Stage
from sandbox.guard import BEHIND_KEY
from sandbox.rest_rules import Rule, rewrite

PREFIXES = (
    ("/api/v3/coins", "coingecko"), ("/api/v3", "binance"), ("/api/v5", "okx"), ("/fapi", "futures"),
    ("/futures", "futures"),
)  # fmt: skip
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def vendor_of(path: str) -> str | None:
    """Whose endpoint a path is; None for streams, the judge and the saboteur."""
    return next((vendor for prefix, vendor in PREFIXES if path.startswith(prefix)), None)


class RestDoor:
    """A middleware; `latency_ms` can be changed at any time."""

    def __init__(self, stages: Mapping[str, Stage], latency_ms: int) -> None:
        self._stages = stages
        self.latency_ms = latency_ms
        self.asked: Counter[tuple[str, str, int]] = Counter()
        self.in_flight: Counter[str] = Counter()
        self.in_flight_max: Counter[str] = Counter()

    def as_json(self) -> list[dict[str, object]]:
        """How often each endpoint gave each status, and the most calls at once."""
        return [
            {"venue": venue, "path": path, "status": status, "count": count}
            for (venue, path, status), count in sorted(self.asked.items())
        ]

    def middleware(self) -> Middleware:
        """For `web.Application(middlewares=...)`."""

        @web.middleware
        async def pass_door(request: web.Request, handler: Handler) -> web.StreamResponse:
            venue = vendor_of(request.path)
            if venue is None or venue not in self._stages:
                return await handler(request)
            self.in_flight[venue] += 1
            self.in_flight_max[venue] = max(self.in_flight_max[venue], self.in_flight[venue])
            try:
                response = await self._serve(venue, request, handler)
            finally:
                self.in_flight[venue] -= 1
            self.asked[venue, request.path, response.status] += 1
            return response

        return pass_door

    async def _serve(self, venue: str, request: web.Request, handler: Handler) -> web.StreamResponse:
        symbol = request.query.get("symbol") or request.query.get("instId")
        rules = self._stages[venue].troubles.rest_rules.take(request.path, symbol)
        wait_s = self.latency_ms / 1000 + sum(rule.by_s for rule in rules if rule.answer == "slow")
        if wait_s:
            await asyncio.sleep(wait_s)
        for rule in rules:
            early = _answer_early(rule, venue, request)
            if early is not None:
                return early
        request[BEHIND_KEY] = sum(rule.by_ms for rule in rules if rule.answer == "old")
        response = await handler(request)
        if isinstance(response, web.Response) and response.status == 200:
            for rule in rules:
                response.text = rewrite(rule, response.text or "")
        return response


def _answer_early(rule: Rule, venue: str, request: web.Request) -> web.Response | None:
    """The answer of a rule that does not ask the endpoint."""
    if rule.answer == "html":
        return web.Response(text="<html>Please wait</html>", content_type="text/html")
    if rule.answer == "cut":
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=499)
    headers = {} if rule.retry_after_s is None else {"Retry-After": str(rule.retry_after_s)}
    if rule.answer == "error":
        body = {"code": rule.code, "msg": rule.msg}
        if venue == "okx":
            return _json({**body, "code": str(rule.code), "data": []}, 200, headers)
        return _json(body, 400, headers)
    if rule.answer != "status":
        return None
    if rule.status in (418, 429) and venue in ("binance", "futures"):
        return _json({"code": -1003, "msg": "Too many requests."}, rule.status, headers)
    if rule.status == 429 and venue == "okx":
        return _json({"code": "50011", "msg": "Too Many Requests", "data": []}, rule.status, headers)
    return web.Response(status=rule.status, text="<html>Unavailable</html>", content_type="text/html", headers=headers)


def _json(body: object, status: int, headers: Mapping[str, str]) -> web.Response:
    text = json.dumps(body, separators=(",", ":"))
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")
