"""Macro vendors over HTTP: `/macro/<vendor>/...` is each vendor's host, with its own paths, keys and errors.

    GET  /_oracle/macro                       calls made, calls beyond a quota, and all that was told, by vendor
    POST /_fault {"kind": "macro", "vendor": "*", "how": "status", "status": 429, "retry_after_s": 5, "for_s": 30}

`how`: status, error and limit (the vendor's own way, mostly inside HTTP 200), garbage, html, cut, empty, stuck, clear;
instead of it `lag_s` (how late it publishes), `quota` (calls in 24 hours) or `forbid` (a metric of Coin Metrics that no
call may name, until clear).
"""

from __future__ import annotations

import json

from aiohttp import web

from sandbox.macro_vendors import Ask, answer_macro
from sandbox.macro_world import VENDORS, MacroWorld


class MacroRest:
    """Routes of all macro vendors."""

    def __init__(self, world: MacroWorld) -> None:
        self.world = world

    def routes(self) -> list[web.RouteDef]:
        """All endpoints."""
        return [
            web.get("/_oracle/macro", self._oracle),
            web.route("*", "/macro/{vendor}", self._serve),
            web.route("*", "/macro/{vendor}/{path:.*}", self._serve),
        ]

    async def _serve(self, request: web.Request) -> web.Response:
        vendor = request.match_info["vendor"]
        if vendor not in VENDORS:
            raise web.HTTPNotFound
        headers = {name.lower(): value for name, value in request.headers.items()}
        text = await request.text()
        path = "/" + request.match_info.get("path", "")
        answer = answer_macro(self.world, vendor, Ask(path, request.query, headers, json.loads(text) if text else None))
        if answer.cut:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=499)
        return web.Response(
            body=answer.body, status=answer.status, headers=dict(answer.headers), content_type="application/json"
        )

    async def _oracle(self, request: web.Request) -> web.Response:
        world = self.world
        told = [
            {"vendor": vendor, "what": what, "time": time_s, "values": sorted(values)}
            for vendor, said in world.told.items()
            for (what, time_s), values in said.items()
        ]
        body = {"calls": dict(world.calls), "beyond_quota": dict(world.beyond_quota), "told": told}
        return web.json_response(body)
