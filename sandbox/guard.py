"""What stands before a Binance REST endpoint: weight, the venue's faults, and the shape of its errors."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web

from sandbox.troubles import Troubles
from sandbox.weights import Budget

LIMIT, LIMIT_MAX = 500, 1000
BEHIND_KEY = web.RequestKey("behind_ms", int)
"""Request key under which the door (sandbox/rest_door.py) says how old the answer shall be."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(Exception):
    """An answer with `code` and `msg`."""

    def __init__(self, code: int, msg: str, status: int = 400, wait_s: float | None = None) -> None:
        super().__init__(msg)
        self.status = status
        self.text = json.dumps({"code": code, "msg": msg}, separators=(",", ":"))
        self.headers = {} if wait_s is None else {"Retry-After": str(math.ceil(wait_s))}


def answer_json(body: object) -> web.Response:
    """JSON without blanks; text is taken as it is."""
    text = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return web.Response(text=text, content_type="application/json")


def read_integer(request: web.Request, name: str) -> int | None:
    """An optional whole parameter; ApiError -1100 when it is something else."""
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise ApiError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)


def read_limit(request: web.Request, default: int = LIMIT, most: int = LIMIT_MAX) -> int:
    """How many records at most: 500 by default, 1000 whatever is asked above it."""
    limit = read_integer(request, "limit")
    if limit == 0:
        raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")
    return default if limit is None else min(limit, most)


def read_names(request: web.Request) -> list[str] | None:
    """The pairs asked for with `symbol` or `symbols`; None for all. Raises ApiError for both or nonsense."""
    if "symbol" in request.query:
        if "symbols" in request.query:
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        return [request.query["symbol"]]
    if "symbols" not in request.query:
        return None
    try:
        names = json.loads(request.query["symbols"])
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise ApiError(-1100, "Illegal characters found in parameter 'symbols'.")
    return [str(name) for name in cast("list[object]", names)]


def behind_ms(request: web.Request) -> int:
    """How much older than now the answer shall be."""
    return request.get(BEHIND_KEY, 0)


class Guard:
    """Wraps handlers; `told_ms` is the time that the venue names in the text of a ban."""

    def __init__(self, told_ms: Callable[[], int], budget: Budget, troubles: Troubles) -> None:
        self.budget = budget
        self._told_ms = told_ms
        self._troubles = troubles

    def wrap(self, handler: Handler, weigh: Callable[[web.Request], int]) -> Handler:
        """The handler behind slowness, outage, weight and error shape."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            troubles = self._troubles
            if troubles.on("rest_slow"):
                await asyncio.sleep(troubles.rest_wait_s)
            if troubles.on("rest_down"):
                return web.Response(status=troubles.rest_status, text="<html>Service Unavailable</html>")
            try:
                self._charge(weigh(request))
                response = await handler(request)
            except ApiError as error:
                response = web.Response(
                    status=error.status, text=error.text, content_type="application/json", headers=error.headers
                )
            response.headers["X-MBX-USED-WEIGHT-1M"] = str(self.budget.used)
            return response

        return guarded

    def _charge(self, weight: int) -> None:
        status, wait_s = self.budget.charge(weight)
        if status == 429:
            raise ApiError(-1003, "Too much request weight used; current limit is exceeded.", 429, wait_s)
        if status == 418:
            until_ms = self._told_ms() + int(wait_s * 1000)
            raise ApiError(-1003, f"Way too much request weight used; IP banned until {until_ms}.", 418, wait_s)
