"""The judge's and the saboteur's endpoints: `/_oracle/...` and `/_fault`; they cost no weight and obey no fault."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from aiohttp import web

from sandbox.faults import Edit, Stage, apply_fault
from sandbox.frames import rest_record
from sandbox.pump import Pump
from sandbox.recount import Recount, bar_row, collect, footprint_row


def _json(value: object) -> web.Response:
    return web.json_response(value)


class Oracle:
    """Answers about all trades of one venue up to venue now, streamed or not. Ranges are half-open, in seconds."""

    def __init__(self, stage: Stage, recount: Recount, pump: Pump, prefix: str = "/_oracle") -> None:
        self._stage = stage
        self._prefix = prefix
        self._recount = recount
        self._pump = pump

    def routes(self) -> list[web.RouteDef]:
        """All endpoints."""
        return [
            web.get(f"{self._prefix}/footprints", self._footprints),
            web.get(f"{self._prefix}/bars", self._bars),
            web.get(f"{self._prefix}/trades", self._trades),
            web.get(f"{self._prefix}/status", self._status),
        ]

    async def footprints(self, symbol: str, from_s: int, to_s: int) -> list[dict[str, object]]:
        """Every second of `[from_s, to_s)` with a trade."""
        now_ms = self._stage.market.clock.now_ms()
        return [footprint_row(span) for span in await collect(self._recount.seconds(symbol, from_s, to_s, now_ms))]

    async def bars(self, symbol: str, from_s: int, to_s: int) -> list[dict[str, object]]:
        """Every minute that opens in `[from_s, to_s)`, empty ones flat, none before the first trade ever."""
        now_ms = self._stage.market.clock.now_ms()
        return [bar_row(span) for span in await self._recount.spans(symbol, 60, from_s, to_s, now_ms)]

    def status(self) -> dict[str, object]:
        """What was sent, held back and spent so far; times in venue milliseconds."""
        market, hub, troubles, budget = self._stage
        return {
            "venue_ms": market.clock.now_ms(),
            "start_ms": market.clock.start_ms,
            "stream_ms": self._pump.position_ms,
            "speed": market.clock.speed,
            "symbols": list(market.symbols),
            "connections": len(hub.connections),
            "connections_accepted": hub.accepted,
            "connections_cut": dict(hub.cut),
            "sent": {symbol: hub.sent_trades[symbol] for symbol in market.symbols},
            "sent_frames": {symbol: hub.sent_frames[symbol] for symbol in market.symbols},
            "streamed_ids": hub.streamed.as_json(),
            "withheld": market.withheld.as_json(),
            "source_missing": market.missing.as_json(),
            "faults_done": dict(troubles.done),
            "first_ms": {symbol: market.source.first_ms(symbol) for symbol in market.symbols},
            "tape_end_ms": market.source.end_ms,
            "tape_done": self._pump.is_done,
            "weight_used": budget.used,
            "weight_used_max": budget.used_max,
            "requests": budget.requests,
            "requests_refused": budget.refused,
        }

    def _range(self, request: web.Request, low: str, high: str) -> tuple[str, int, int]:
        symbol = request.query.get("symbol", "")
        if symbol not in self._stage.market.symbols:
            raise web.HTTPBadRequest(text=f"unknown symbol {symbol!r}")
        try:
            return symbol, int(request.query[low]), int(request.query[high])
        except (KeyError, ValueError):
            raise web.HTTPBadRequest(text=f"{low} and {high} must be whole numbers") from None

    async def _footprints(self, request: web.Request) -> web.Response:
        return _json(await self.footprints(*self._range(request, "from_s", "to_s")))

    async def _bars(self, request: web.Request) -> web.Response:
        return _json(await self.bars(*self._range(request, "from_s", "to_s")))

    async def _trades(self, request: web.Request) -> web.Response:
        """Trades `from_id`..`to_id`, both inclusive, as REST records."""
        symbol, from_id, to_id = self._range(request, "from_id", "to_id")
        market = self._stage.market
        trades = market.from_id(symbol, from_id, max(0, to_id - from_id + 1), market.clock.now_ms())
        rows = ",".join(rest_record(trade) for trade in trades if trade.id <= to_id)
        return web.Response(text=f"[{rows}]", content_type="application/json")

    async def _status(self, request: web.Request) -> web.Response:
        return _json(self.status())


def fault_route(stages: Mapping[str, Stage], edit: Edit) -> web.RouteDef:
    """The saboteur's endpoint, for all venues."""

    async def serve(request: web.Request) -> web.Response:
        try:
            fault = json.loads(await request.text())
            if not isinstance(fault, dict):
                raise ValueError("a fault is a JSON object")
            apply_fault(stages, cast("dict[str, Any]", fault), edit)
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return _json({"ok": True})

    return web.post("/_fault", serve)
