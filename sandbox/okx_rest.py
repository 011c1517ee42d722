"""OKX's REST `/api/v5`, and its WebSocket door `/ws/v5/public`."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from aiohttp import web

from sandbox.config import Config
from sandbox.faults import Stage
from sandbox.okx_frames import dump, inst_id_of
from sandbox.okx_hub import OkxHub
from sandbox.recount import Recount, Span, write_number
from sandbox.sockets import Connection
from sandbox.streams import listen
from sandbox.symbols import split_symbol

WINDOW_S = 2.0
CALLS_MAX = {"/api/v5/public/time": 10, "/api/v5/public/instruments": 20, "/api/v5/market/candles": 40}
CANDLES, CANDLES_MAX, CANDLES_KEPT = 100, 300, 1440
FRAMES_PER_S_MAX = 1000
LISTED_MS = 1_548_133_413_000
Handler = Callable[[web.Request], Awaitable[list[object]]]


class ApiError(Exception):
    """An answer with `code` and `msg`; the venue sends most of them with HTTP 200."""

    def __init__(self, code: str, msg: str, status: int = 200) -> None:
        super().__init__(msg)
        self.status = status
        self.text = dump({"code": code, "msg": msg, "data": []})


def read_ms(request: web.Request, name: str) -> int | None:
    """An optional time parameter."""
    text = request.query.get(name, "")
    if text and not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise ApiError("51000", f"Parameter {name} error")
    return int(text) if text else None


def candle_row(span: Span, seen_ms: int) -> list[str]:
    """A minute as `candles` prints it; on spot the last two volumes are both in the quote coin."""
    quote = write_number(span.buy_quote + span.sell_quote, 16)
    prices = (write_number(price, 8) for price in (span.open, span.high, span.low, span.close))
    confirm = "1" if (span.time + 60) * 1000 <= seen_ms else "0"
    return [str(span.time * 1000), *prices, write_number(span.buy_vol + span.sell_vol, 8), quote, quote, confirm]


def instrument_row(symbol: str) -> dict[str, str]:
    """One entry of `instruments`; what does not apply to spot is empty."""
    base, quote = split_symbol(symbol)
    row = dict.fromkeys(("alias", "category", "ctMult", "ctType", "ctVal", "ctValCcy", "expTime"), "")
    row |= {"instType": "SPOT", "instId": inst_id_of(symbol), "baseCcy": base, "quoteCcy": quote, "settleCcy": ""}
    return row | {
        "tickSz": "0.01", "lotSz": "0.00000001", "minSz": "0.00001", "state": "live", "listTime": str(LISTED_MS)
    }  # fmt: skip


class OkxRest:
    """The endpoints, guarded by faults and by so many calls per endpoint and window; candles come from the recount."""

    def __init__(self, config: Config, stage: Stage, recount: Recount) -> None:
        self._config = config
        self._market, _, self._troubles, self._budget = stage
        self._recount = recount
        self._symbols = {inst_id_of(symbol): symbol for symbol in self._market.symbols}
        self._calls = {path: deque[float](maxlen=most + 1) for path, most in CALLS_MAX.items()}

    def routes(self) -> list[web.RouteDef]:
        """All endpoints."""
        table: dict[str, Handler] = {
            "/api/v5/public/time": self._time,
            "/api/v5/public/instruments": self._instruments,
            "/api/v5/market/candles": self._candles,
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
                self._charge(request.path)
                return _json(dump({"code": "0", "msg": "", "data": await handler(request)}))
            except ApiError as error:
                return _json(error.text, error.status)

        return guarded

    def _charge(self, path: str) -> None:
        """Refuse a call that comes too soon; a refused one counts for nothing."""
        calls, now = self._calls[path], time.monotonic()
        while calls and calls[0] <= now - WINDOW_S:
            calls.popleft()
        status, _ = self._budget.charge(1)
        if status != 200 or len(calls) >= CALLS_MAX[path]:
            raise ApiError("50011", "Too Many Requests", self._config.okx_limit_status)
        calls.append(now)

    def _seen_ms(self) -> int:
        return self._market.clock.now_ms() - self._troubles.rest_behind_ms

    def _symbol(self, request: web.Request) -> str:
        inst_id = request.query.get("instId", "")
        if not inst_id:
            raise ApiError("50014", "Parameter instId can not be empty.", 400)
        if inst_id not in self._symbols:
            raise ApiError("51001", "Instrument ID doesn't exist.")
        return self._symbols[inst_id]

    async def _time(self, request: web.Request) -> list[object]:
        return [{"ts": str(self._market.clock.told_ms())}]

    async def _instruments(self, request: web.Request) -> list[object]:
        kind = request.query.get("instType", "")
        if kind not in ("SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION"):
            raise ApiError("51000", "Parameter instType error", 400)
        if "instId" in request.query:
            return [instrument_row(self._symbol(request))]
        return [instrument_row(symbol) for symbol in self._market.symbols] if kind == "SPOT" else []

    async def _candles(self, request: web.Request) -> list[object]:
        """`after` pages to older candles, `before` to newer ones, both exclusive; the newest come, and come first."""
        symbol, now_ms = self._symbol(request), self._seen_ms()
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
