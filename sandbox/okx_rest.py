"""OKX's REST `/api/v5`, and its WebSocket door `/ws/v5/public`."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable

from aiohttp import web

from sandbox.config import Config
from sandbox.faults import Stage
from sandbox.guard import behind_ms
from sandbox.listing import Listing
from sandbox.okx_answers import ApiError, read_ms
from sandbox.okx_frames import dump, inst_id_of
from sandbox.okx_hub import OkxHub
from sandbox.okx_swap import Handler, OkxSwaps
from sandbox.perps import Perps
from sandbox.recount import Recount, Span, write_number
from sandbox.sockets import Connection
from sandbox.streams import listen

WINDOW_S = 2.0
CALLS_MAX = {
    "/api/v5/public/time": 10, "/api/v5/public/instruments": 20, "/api/v5/market/candles": 40,
    "/api/v5/public/funding-rate": 10, "/api/v5/public/funding-rate-history": 10, "/api/v5/public/open-interest": 20,
}  # fmt: skip
COUNTED_BY = {
    "/api/v5/public/instruments": "instType", "/api/v5/public/funding-rate": "instId",
    "/api/v5/public/funding-rate-history": "instId", "/api/v5/public/open-interest": "instId",
}  # fmt: skip
"""Endpoints whose calls are counted for each value of a parameter."""
CANDLES, CANDLES_MAX, CANDLES_KEPT = 100, 300, 1440
FRAMES_PER_S_MAX = 1000


def candle_row(span: Span, seen_ms: int) -> list[str]:
    """A minute as `candles` prints it; on spot the last two volumes are both in the quote coin."""
    quote = write_number(span.buy_quote + span.sell_quote, 16)
    prices = (write_number(price, 8) for price in (span.open, span.high, span.low, span.close))
    confirm = "1" if (span.time + 60) * 1000 <= seen_ms else "0"
    return [str(span.time * 1000), *prices, write_number(span.buy_vol + span.sell_vol, 8), quote, quote, confirm]


class OkxRest:
    """The endpoints, guarded by faults and by so many calls per endpoint and window; candles come from the recount."""

    def __init__(self, config: Config, stage: Stage, recount: Recount, listing: Listing, perps: Perps) -> None:
        self._config = config
        self._market, _, self._troubles, self._budget = stage
        self._recount = recount
        self._listing = listing
        self._swaps = OkxSwaps(self._told_ms, listing, perps)
        self._symbols = {inst_id_of(symbol): symbol for symbol in self._market.symbols}
        self._calls = defaultdict[tuple[str, str], deque[float]](deque)

    def routes(self) -> list[web.RouteDef]:
        """All endpoints."""
        table: dict[str, Handler] = {
            "/api/v5/public/time": self._time,
            "/api/v5/market/candles": self._candles,
            **self._swaps.handlers(),
        }
        return [web.get(path, self._guard(handler)) for path, handler in table.items()]

    def _guard(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            troubles = self._troubles
            if troubles.on("rest_slow"):
                await asyncio.sleep(troubles.rest_wait_s)
            if troubles.on("rest_down"):
                return web.Response(status=troubles.rest_status, text="<html>Service Unavailable</html>")
            try:
                self._charge(request)
                return _json(dump({"code": "0", "msg": "", "data": await handler(request)}))
            except ApiError as error:
                return _json(error.text, error.status)

        return guarded

    def _charge(self, request: web.Request) -> None:
        """Refuse a call that comes too soon; a refused one counts for nothing."""
        path, now = request.path, time.monotonic()
        calls = self._calls[path, request.query.get(COUNTED_BY.get(path, ""), "")]
        while calls and calls[0] <= now - WINDOW_S:
            calls.popleft()
        status, _ = self._budget.charge(1)
        if status != 200 or len(calls) >= CALLS_MAX[path]:
            raise ApiError("50011", "Too Many Requests", self._config.okx_limit_status)
        calls.append(now)

    def _seen_ms(self, request: web.Request) -> int:
        return self._market.clock.now_ms() - self._troubles.rest_behind_ms - behind_ms(request)

    def _told_ms(self) -> int:
        return self._listing.told_ms(self._market.clock)

    def _symbol(self, request: web.Request) -> str:
        inst_id = request.query.get("instId", "")
        if not inst_id:
            raise ApiError("50014", "Parameter instId can not be empty.", 400)
        facts = self._listing.get(self._symbols.get(inst_id, ""))
        if facts is None or not facts.okx:
            raise ApiError("51001", "Instrument ID doesn't exist.")
        return self._symbols[inst_id]

    async def _time(self, request: web.Request) -> list[object]:
        return [{"ts": str(self._told_ms() - behind_ms(request))}]

    async def _candles(self, request: web.Request) -> list[object]:
        """`after` pages to older candles, `before` to newer ones, both exclusive; the newest come, and come first."""
        symbol, now_ms = self._symbol(request), self._seen_ms(request)
        if request.query.get("bar", "1m") != "1m":
            raise ApiError("51000", "Parameter bar error")
        limit = min(read_ms(request, "limit") or CANDLES, CANDLES_MAX)
        after_ms, before_ms = read_ms(request, "after"), read_ms(request, "before")
        oldest_s = now_ms // 60_000 * 60 - (CANDLES_KEPT - 1) * 60
        from_s = oldest_s if before_ms is None else max(oldest_s, before_ms // 1000 + 1)
        to_s = now_ms // 1000 + 1 if after_ms is None else min(now_ms // 1000 + 1, -(-after_ms // 1000))
        from_s = max(from_s, -(-to_s // 60) * 60 - limit * 60)
        spans = await self._recount.spans(symbol, 60, from_s, to_s, now_ms)
        return [candle_row(span, now_ms) for span in reversed(spans)]


def _json(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="application/json")


class OkxDoor:
    """Lets clients in, so many a second."""

    def __init__(self, config: Config, hub: OkxHub, stage: Stage) -> None:
        self._config = config
        self._hub = hub
        self._troubles = stage.troubles
        self._opened = deque[float](maxlen=config.okx_connects_per_s + 1)

    def routes(self) -> list[web.RouteDef]:
        """The public endpoint."""
        return [web.get("/ws/v5/public", self.serve)]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One connection's life."""
        if self._troubles.on("refuse"):
            raise web.HTTPServiceUnavailable
        self._opened.append(time.monotonic())
        if len(self._opened) == self._opened.maxlen and self._opened[-1] - self._opened[0] < 1.0:
            raise web.HTTPTooManyRequests
        socket = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=1 << 20)
        await socket.prepare(request)
        if request.transport is None:
            return socket
        connection = Connection(request.transport, False, FRAMES_PER_S_MAX, self._config.connection_life_s)
        self._hub.add(connection, ())
        try:
            await listen(socket, connection, self._hub, self._troubles)
        finally:
            self._hub.remove(connection)
        return socket
