"""Hyperliquid's info endpoint: one path, the type of the request in its body, weight by what is returned."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web

from sandbox.hyperliquid_frames import clearinghouse_state, is_address, to_text
from sandbox.hyperliquid_hub import HyperliquidHub
from sandbox.hyperliquid_ledger import is_spot, number_text
from sandbox.hyperliquid_limits import weigh
from sandbox.hyperliquid_market import HyperliquidMarket
from sandbox.hyperliquid_play import COINS, price_of
from sandbox.hyperliquid_rules import Rules

PAGE_FILLS = 2000
DEXES = ("", *sorted({name.partition(":")[0] for name in COINS if ":" in name}))
UNREADABLE = "Failed to deserialize the JSON body into the target type"
Asked = dict[str, Any]
Answer = tuple[object, int]
"""A body, and how many rows of it cost."""


class UnreadableError(Exception):
    """A body that the venue can not make sense of: HTTP 422."""


class HyperliquidInfo:
    """Answers; `asked` counts them by type and status."""

    def __init__(
        self, seed: str, market: HyperliquidMarket, hub: HyperliquidHub, rules: Rules, now_ms: Callable[[], int]
    ) -> None:
        self._seed = seed
        self._market = market
        self._hub = hub
        self._rules = rules
        self._now_ms = now_ms
        self.latency_ms = 0
        self.asked: Counter[tuple[str, int]] = Counter()
        self._table: dict[str, Callable[[Asked], Answer]] = {
            "userFills": self._user_fills,
            "userFillsByTime": self._user_fills_by_time,
            "userNonFundingLedgerUpdates": self._ledger,
            "clearinghouseState": self._state,
            "spotClearinghouseState": self._spot_state,
            "userRole": self._role,
            "meta": self._meta,
            "perpDexs": lambda asked: ([{"name": name} if name else None for name in DEXES], 0),
            "allMids": self._mids,
        }

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        kind, asked = _read(await request.read())
        user = asked.get("user")
        response = await self._respond(request, kind, asked, user.lower() if isinstance(user, str) else None)
        self.asked[kind, response.status] += 1
        return response

    async def _respond(self, request: web.Request, kind: str, asked: Asked, user: str | None) -> web.Response:
        slow = self._rules.take_rest("rest_slow", kind, user)
        wait_s = self.latency_ms / 1000 + (slow.by_s if slow else 0.0)
        if wait_s:
            await asyncio.sleep(wait_s)
        if self._rules.take_rest("rest_cut", kind, user) is not None and request.transport is not None:
            request.transport.abort()
            return web.Response(status=499)
        down = self._rules.take_rest("rest_down", kind, user)
        if down is not None:
            return web.Response(status=down.status, text="<html>Unavailable</html>", content_type="text/html")
        allowance = self._hub.allowances[request.remote or ""]
        weight = weigh(kind)
        refused = self._rules.take_rest("rest_429", kind, user) is not None
        if refused or not allowance.may_ask(self._hub.config, weight):
            return _json("null", 429)
        made_up = self._rules.take_rest("rest_body", kind, user)
        if made_up is not None:
            return _json(made_up.body, 200)
        allowance.weight.add(weight)
        try:
            body, rows = self._answer(kind, asked)
        except UnreadableError:
            return web.Response(status=422, text=UNREADABLE)
        except LookupError:
            return _json("null", 500)
        allowance.weight.add(weigh(kind, rows) - weight)
        return _json(to_text(body), 200)

    def _answer(self, kind: str, asked: Asked) -> Answer:
        if kind not in self._table:
            raise UnreadableError
        return self._table[kind](asked)

    # The types

    def _until_ms(self, kind: str, user: str) -> int | None:
        """What REST shows was known by then; None for all."""
        behind = self._rules.take_rest("rest_behind", kind, user)
        return None if behind is None else self._now_ms() - behind.by_ms

    def _user_fills(self, asked: Asked) -> Answer:
        """The latest, newest block first; fills of one time stay in their order."""
        user = _read_user(asked)
        made = self._market.seen(user, self._until_ms("userFills", user))[-PAGE_FILLS:]
        fills = [one.fill for one in sorted(made, key=lambda one: -one.time_ms)]
        return fills, len(fills)

    def _user_fills_by_time(self, asked: Asked) -> Answer:
        """Both times inclusive, oldest first, a page at most."""
        user, from_ms = _read_user(asked), _read_ms(asked, "startTime")
        to_ms = (
            self._now_ms() + abs(self._market.skew_ms) if asked.get("endTime") is None else _read_ms(asked, "endTime")
        )
        made = self._market.between(user, from_ms, to_ms, self._until_ms("userFillsByTime", user))[:PAGE_FILLS]
        return [one.fill for one in made], len(made)

    def _ledger(self, asked: Asked) -> Answer:
        user, from_ms = _read_user(asked), _read_ms(asked, "startTime")
        moves = self._market.accounts[user].moves if self._market.has(user) else []
        rows = [move for move in moves if move["time"] >= from_ms][:500]
        return rows, len(rows)

    def _state(self, asked: Asked) -> Answer:
        user, dex = _read_user(asked), str(asked.get("dex") or "")
        if dex not in DEXES:
            raise LookupError(dex)
        return clearinghouse_state(self._market.look(user), dex, self._now_ms() + self._market.skew_ms), 0

    def _spot_state(self, asked: Asked) -> Answer:
        account = self._market.look(_read_user(asked))
        rows = [
            {"coin": coin, "token": place, "total": number_text(position.size), "hold": "0.0", "entryNtl": "0.0"}
            for place, (coin, position) in enumerate(account.positions.items())
            if is_spot(coin) and position.size
        ]
        return {"balances": rows}, 0

    def _role(self, asked: Asked) -> Answer:
        return {"role": "user" if self._market.has(_read_user(asked)) else "missing"}, 0

    def _meta(self, asked: Asked) -> Answer:
        dex = str(asked.get("dex") or "")
        if dex not in DEXES:
            raise LookupError(dex)
        rows = [
            {"szDecimals": coin.decimals, "name": coin.name, "maxLeverage": coin.leverage, "marginTableId": 50}
            for coin in COINS.values()
            if not is_spot(coin.name) and coin.name.rpartition(":")[0] == dex
        ]
        return {"universe": rows, "marginTables": [], "collateralToken": 0}, 0

    def _mids(self, asked: Asked) -> Answer:
        return {coin: number_text(price_of(self._seed, coin, self._now_ms())) for coin in COINS}, 0


def _read(raw: bytes) -> tuple[str, Asked]:
    """Type and body of a request; an empty type for what is no request."""
    try:
        body: object = json.loads(raw)
    except ValueError:
        return "", {}
    if not isinstance(body, dict):
        return "", {}
    asked = cast("Asked", body)
    return str(asked.get("type", "")), asked


def _read_user(asked: Asked) -> str:
    user = asked.get("user")
    if not is_address(user):
        raise UnreadableError
    return str(user).lower()


def _read_ms(asked: Asked, name: str) -> int:
    value = asked.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UnreadableError
    return value


def _json(text: str, status: int) -> web.Response:
    return web.Response(text=text, status=status, content_type="application/json")
