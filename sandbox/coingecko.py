"""CoinGecko's `/api/v3/coins/markets`: coins by market cap, several to a ticker, with categories only as a filter."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec
from aiohttp import web

from sandbox.clock import VenueClock
from sandbox.config import Config
from sandbox.facts import Facts
from sandbox.futures_rest import CallPool
from sandbox.guard import behind_ms
from sandbox.listing import Listing
from sandbox.made_up import Coin
from sandbox.spot_listing import SpotListing
from sandbox.troubles import Troubles
from sandbox.weights import Budget

PER_PAGE, PER_PAGE_MAX, IDS_MAX = 100, 250, 250
MINUTE_S = 60.0
CATEGORIES = (
    "stablecoins", "wrapped-tokens", "leveraged-token", "liquid-staking-tokens", "meme-token", "tokenized-gold"
)  # fmt: skip
ORDERS = ("market_cap_desc", "market_cap_asc", "volume_desc", "volume_asc", "id_asc", "id_desc")
_encode = msgspec.json.Encoder(decimal_format="number").encode


class Row(NamedTuple):
    """A coin with its figures of now."""

    coin: Coin
    move_pct: Decimal
    rank: int | None


class Refusal(Exception):
    """An answer that is not a list of coins."""

    def __init__(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body
        self.headers = headers or {}


def _status_error(status: int, code: int, message: str, headers: Mapping[str, str] | None = None) -> Refusal:
    return Refusal(status, {"status": {"error_code": code, "error_message": message}}, headers)


def read_page(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole positive parameter, at most so much; what is no number counts as not given."""
    text = request.query.get(name, "")
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else default
    return max(1, min(value, most))


def rank_coins(coins: list[tuple[Coin, Decimal]]) -> list[Row]:
    """By market cap, the unknown and the worthless last and without a rank; ties by id."""
    ordered = sorted(coins, key=lambda one: (-(one[0].mcap or 0), one[0].id))
    return [Row(coin, move, i + 1 if coin.mcap else None) for i, (coin, move) in enumerate(ordered)]


def choose(rows: list[Row], query: Mapping[str, str]) -> list[Row]:
    """The coins that `ids`, `symbols` or `category` ask for, in the wanted order. Raises Refusal."""
    if "ids" in query:
        wanted = query["ids"].split(",")[:IDS_MAX]
        rows = [row for row in rows if row.coin.id in wanted]
    elif "symbols" in query:
        names = query["symbols"].lower().split(",")
        rows = [row for row in rows if row.coin.symbol in names]
        if query.get("include_tokens", "top") != "all":
            rows = list({row.coin.symbol: row for row in reversed(rows)}.values())[::-1]
    if query.get("category"):
        slug = query["category"]
        slug = slug if slug in CATEGORIES else slug.removesuffix("s")
        if slug not in CATEGORIES:
            raise Refusal(404, {"error": "category not found"})
        rows = [row for row in rows if slug in row.coin.categories]
    order = query.get("order", "market_cap_desc")
    name, _, way = (order if order in ORDERS else "market_cap_desc").rpartition("_")
    if name == "id":
        rows = sorted(rows, key=lambda row: row.coin.id, reverse=way == "desc")
    elif name == "volume":
        rows = sorted(rows, key=lambda row: row.coin.volume or 0, reverse=way == "desc")
    elif way == "asc":
        rows = rows[::-1]
    return rows


def coin_row(row: Row, now_ms: int) -> dict[str, object]:
    """One coin; a dead one has nulls."""
    coin, move = row.coin, row.move_pct
    updated = datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.123Z")
    supply = None if coin.mcap is None or not coin.price else round(Decimal(coin.mcap) / coin.price)
    price = coin.price
    moved = None if price is None else (price - price / (1 + move / 100)).quantize(Decimal("1e-8"))
    return {
        "id": coin.id,
        "symbol": coin.symbol,
        "name": coin.name,
        "image": f"https://example.invalid/{coin.id}.png",
        "current_price": price,
        "market_cap": coin.mcap,
        "market_cap_rank": row.rank,
        "fully_diluted_valuation": coin.mcap,
        "total_volume": coin.volume,
        "high_24h": None if price is None else price * Decimal("1.01"),
        "low_24h": None if price is None else price * Decimal("0.99"),
        "price_change_24h": moved,
        "price_change_percentage_24h": None if price is None else move,
        "market_cap_change_24h": None,
        "market_cap_change_percentage_24h": None,
        "circulating_supply": supply,
        "total_supply": supply,
        "max_supply": None,
        "ath": None if price is None else price * 3,
        "ath_change_percentage": None if price is None else Decimal("-66.6"),
        "ath_date": "2025-10-06T18:57:42.558Z",
        "atl": None if price is None else price / 100,
        "atl_change_percentage": None if price is None else Decimal("9900.1"),
        "atl_date": "2019-07-06T00:00:00.000Z",
        "roi": None,
        "last_updated": updated,
    }


class CoinGecko:
    """The endpoint, with a limit of calls in any minute and, if configured, a demo key."""

    def __init__(
        self,
        config: Config,
        clock: VenueClock,
        listing: Listing,
        pairs: SpotListing,
        budget: Budget,
        troubles: Troubles,
    ) -> None:
        self._config = config
        self._clock = clock
        self._listing = listing
        self._pairs = pairs
        self._budget = budget
        self._troubles = troubles
        self._calls = CallPool(config.coingecko_calls_per_min, MINUTE_S)

    def routes(self) -> list[web.RouteDef]:
        """The one endpoint."""
        return [web.get("/api/v3/coins/markets", self._serve)]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        troubles = self._troubles
        if troubles.on("rest_slow"):
            await asyncio.sleep(troubles.rest_wait_s)
        if troubles.on("rest_down"):
            return web.Response(status=troubles.rest_status, text="<html>Service Unavailable</html>")
        try:
            self._admit(request)
            status, headers, body = 200, {}, await self._markets(request)
        except Refusal as refusal:
            status, headers, body = refusal.status, refusal.headers, refusal.body
        return web.Response(
            body=_encode(body), status=status, headers=headers, content_type="application/json", charset="utf-8"
        )

    def _admit(self, request: web.Request) -> None:
        status, ban_s = self._budget.charge(1)
        wait_s = ban_s if status != 200 else self._calls.take()
        if wait_s:
            raise _status_error(429, 429, "You've exceeded the Rate Limit.", {"Retry-After": str(int(wait_s) + 1)})
        if "x-cg-pro-api-key" in request.headers or "x_cg_pro_api_key" in request.query:
            raise _status_error(400, 10011, "A Demo API key belongs to this root URL.")
        key = request.headers.get("x-cg-demo-api-key") or request.query.get("x_cg_demo_api_key")
        if self._config.coingecko_key is not None and key != self._config.coingecko_key:
            raise _status_error(401, 10002, "API Key Missing")

    async def _markets(self, request: web.Request) -> list[dict[str, object]]:
        if request.query.get("vs_currency") != "usd":
            raise Refusal(422, {"error": "Missing parameter vs_currency"})
        now_ms = self._listing.told_ms(self._clock) - behind_ms(request)
        coins = [(coin, Decimal("0.5")) for coin in self._listing.other_coins()]
        coins += [await self._coin(facts, now_ms) for facts in self._listing.all() if facts.coin]
        rows = choose(rank_coins(coins), request.query)
        per_page = read_page(request, "per_page", PER_PAGE, PER_PAGE_MAX)
        first = (read_page(request, "page", 1, 1 << 30) - 1) * per_page
        return [coin_row(row, now_ms) for row in rows[first : first + per_page]]

    async def _coin(self, facts: Facts, now_ms: int) -> tuple[Coin, Decimal]:
        """A pair's coin; its volume is that of all markets, somewhat more than Binance's."""
        day = await self._pairs.day_of(facts, now_ms)
        move = ((day.last - day.open) / day.open * 100).quantize(Decimal("1e-5"))
        volume = int(day.quote_volume * Decimal("2.5"))
        name = facts.coin_name or facts.base
        coin = Coin(str(facts.coin), facts.base.lower(), name, facts.mcap, volume, day.last, facts.categories)
        return coin, move
