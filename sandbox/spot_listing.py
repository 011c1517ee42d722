"""Binance spot's list of pairs and their 24 hours: exchangeInfo, ticker/24hr, ticker/bookTicker, daily klines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

import msgspec
from aiohttp import web

from sandbox.draws import draw_between
from sandbox.facts import DAY_MS, Facts
from sandbox.guard import ApiError, answer_json, behind_ms, read_names
from sandbox.listing import Day, Listing, write_fixed
from sandbox.market import Market
from sandbox.recount import Recount, Span, kline_row

MINUTES_A_DAY = 1440
_BASE, _QUOTE = Decimal(10**8), Decimal(10**16)


def describe_pair(facts: Facts) -> dict[str, object]:
    """One entry of exchangeInfo; it tells no listing date."""
    tick = write_fixed(facts.tick)
    step = "0.00000001"
    return {
        "symbol": facts.symbol,
        "status": facts.status,
        "baseAsset": facts.base,
        "baseAssetPrecision": 8,
        "quoteAsset": facts.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "isSpotTradingAllowed": facts.spot,
        "isMarginTradingAllowed": "MARGIN" in facts.permissions,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "9000.00000000", "stepSize": step},
        ],
        "permissions": [],
        "permissionSets": [list(facts.permissions)] if facts.permissions else [],
    }


def weigh_24hr(request: web.Request) -> int:
    """2 for one pair and up to 20, 40 up to 100, 80 above that and for all."""
    names = read_names(request)
    if names is None or len(names) > 100:
        return 80
    return 2 if len(names) <= 20 else 40


def weigh_book(request: web.Request) -> int:
    """2 for one pair, 4 for many or all."""
    return 2 if "symbol" in request.query else 4


class DayFigures:
    """24 hours of the traded pairs, counted from their trades; closed minutes are counted once."""

    def __init__(self, market: Market, recount: Recount) -> None:
        self._market = market
        self._recount = recount
        self._version = market.version
        self._minutes: dict[str, list[Span]] = {}

    async def of(self, symbol: str, now_ms: int) -> list[Span]:
        """The minutes of the last 24 hours, the running one included; none before the first trade ever."""
        if self._version != self._market.version:
            self._minutes.clear()
            self._version = self._market.version
        kept = self._minutes.setdefault(symbol, [])
        closed_s = now_ms // 60_000 * 60
        from_s = closed_s - (MINUTES_A_DAY - 1) * 60
        next_s = max(from_s, kept[-1].time + 60) if kept else from_s
        fresh = await self._recount.spans(symbol, 60, next_s, now_ms // 1000 + 1, now_ms)
        # Another call may have been here while this one was counting.
        kept += [span for span in fresh if span.time < closed_s and (not kept or span.time > kept[-1].time)]
        kept[:] = [span for span in kept if span.time >= from_s]
        return [*kept, *(span for span in fresh if span.time >= closed_s)]


def fold_day(minutes: Sequence[Span], last: Decimal, facts: Facts) -> Day:
    """The day of a traded pair; volume and move as scripted, where they are."""
    traded = [span for span in minutes if span.n]
    price = last if not minutes else Decimal(minutes[-1].close) / _BASE
    opened = price if not minutes else Decimal(minutes[0].open) / _BASE
    if facts.move_pct is not None:
        opened = (price / (1 + facts.move_pct / 100)).quantize(facts.tick)
    volume = sum((Decimal(span.buy_vol + span.sell_vol) / _BASE for span in traded), Decimal(0))
    quote_volume = sum((Decimal(span.buy_quote + span.sell_quote) / _QUOTE for span in traded), Decimal(0))
    if facts.volume is not None:
        volume, quote_volume = facts.volume / price, facts.volume
    high = max((Decimal(span.high) / _BASE for span in minutes), default=price)
    low = min((Decimal(span.low) / _BASE for span in minutes), default=price)
    ids = (traded[0].first_id, traded[-1].last_id) if traded else (-1, -1)
    return Day(
        opened, max(high, opened), min(low, opened), price, volume, quote_volume, sum(span.n for span in traded), *ids
    )


class SpotListing:
    """Handlers of the list endpoints, without guard; times are what the venue's REST tells."""

    def __init__(self, market: Market, recount: Recount, listing: Listing, limit: int) -> None:
        self._market = market
        self._listing = listing
        self._recount = recount
        self._figures = DayFigures(market, recount)
        self._limit = limit

    def now_ms(self, request: web.Request) -> int:
        """Now, or as long ago as the answer shall be."""
        return self._listing.told_ms(self._market.clock) - behind_ms(request)

    def find(self, symbol: str | None) -> Facts:
        """A listed pair. Raises ApiError."""
        if not symbol:
            raise ApiError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        facts = self._listing.get(symbol)
        if facts is None or not facts.listed:
            raise ApiError(-1121, "Invalid symbol.")
        return facts

    def _asked(self, request: web.Request) -> list[Facts]:
        names = read_names(request)
        return self._listing.spot() if names is None else [self.find(name) for name in names]

    async def exchange_info(self, request: web.Request) -> web.StreamResponse:
        """All pairs, or those of `symbol`, `symbols`, `permissions` or `symbolStatus`."""
        query = request.query
        found = self._asked(request)
        if "symbolStatus" in query:
            if "symbol" in query or "symbols" in query:
                raise ApiError(-1128, "Combination of optional parameters invalid.")
            found = [facts for facts in found if facts.status == query["symbolStatus"]]
        if "permissions" in query:
            found = [facts for facts in found if query["permissions"].strip('[]"') in facts.permissions]
        rows = [describe_pair(facts) for facts in found]
        if query.get("showPermissionSets") == "false":
            rows = [{name: value for name, value in row.items() if name != "permissionSets"} for row in rows]
        weight = {
            "rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": self._limit
        }  # fmt: skip
        head = {"timezone": "UTC", "serverTime": self.now_ms(request), "rateLimits": [weight], "exchangeFilters": []}
        return answer_json({**head, "symbols": rows})

    async def book_ticker(self, request: web.Request) -> web.StreamResponse:
        """Best bid and ask; it tells no time."""
        now_ms = self.now_ms(request)
        rows = [self._book_row(facts, now_ms) for facts in self._asked(request)]
        return answer_json(rows[0] if "symbol" in request.query else rows)

    def _book_row(self, facts: Facts, now_ms: int) -> dict[str, object]:
        quote = self._listing.quote(facts, now_ms)
        size = Decimal(f"{draw_between(50, 5000, facts.symbol, now_ms // 1000):.3f}") / (quote.ask or 1)
        size_text = write_fixed(size if quote.ask else Decimal(0))
        return {
            "symbol": facts.symbol, "bidPrice": write_fixed(quote.bid), "bidQty": size_text,
            "askPrice": write_fixed(quote.ask), "askQty": size_text,
        }  # fmt: skip

    async def ticker_24hr(self, request: web.Request) -> web.StreamResponse:
        """The last 24 hours, FULL or MINI."""
        kind = request.query.get("type", "FULL")
        if kind not in ("FULL", "MINI"):
            raise ApiError(-1130, "Data sent for parameter 'type' is not valid.")
        now_ms = self.now_ms(request)
        rows = [await self._day_row(facts, now_ms, kind == "FULL") for facts in self._asked(request)]
        return answer_json(rows[0] if "symbol" in request.query else rows)

    async def day_of(self, facts: Facts, now_ms: int) -> Day:
        """The 24 hours of a pair, traded here or not."""
        if not facts.traded:
            return self._listing.day(facts, now_ms)
        minutes = await self._figures.of(facts.symbol, min(now_ms, self._market.clock.now_ms()))
        return fold_day(minutes, self._listing.price(facts, now_ms), facts)

    async def _day_row(self, facts: Facts, now_ms: int, full: bool) -> dict[str, object]:
        day = await self.day_of(facts, now_ms)
        tail: dict[str, object] = {
            "openPrice": write_fixed(day.open), "highPrice": write_fixed(day.high), "lowPrice": write_fixed(day.low),
        }  # fmt: skip
        volumes = {"volume": write_fixed(day.volume), "quoteVolume": write_fixed(day.quote_volume)}
        times = {
            "openTime": now_ms - DAY_MS, "closeTime": now_ms, "firstId": day.first_id, "lastId": day.last_id,
            "count": day.trades,
        }  # fmt: skip
        if not full:
            return {"symbol": facts.symbol, **tail, "lastPrice": write_fixed(day.last), **volumes, **times}
        change = day.last - day.open
        average = day.quote_volume / day.volume if day.volume else Decimal(0)
        book = self._book_row(facts, now_ms)
        return {
            "symbol": facts.symbol, "priceChange": write_fixed(change),
            "priceChangePercent": write_fixed(change / day.open * 100, 3), "weightedAvgPrice": write_fixed(average),
            "prevClosePrice": write_fixed(day.open), "lastPrice": write_fixed(day.last),
            "lastQty": book["bidQty"], **book, **tail, **volumes, **times,
        }  # fmt: skip

    async def daily_klines(
        self, facts: Facts, start_ms: int | None, end_ms: int | None, limit: int
    ) -> list[list[object]]:
        """Days from the listing on: those before the first trade are made up, then the trades' own."""
        clock = self._market.clock
        now_ms = self._listing.told_ms(clock)
        last = min(now_ms if end_ms is None else end_ms, now_ms) // DAY_MS
        first = facts.listed_ms // DAY_MS
        if start_ms is None:
            first = max(first, last - limit + 1)
        else:
            first = max(first, -(-start_ms // DAY_MS))
            last = min(last, first + limit - 1)
        spans = await self._traded_days(facts, first, last)
        days: Iterable[int] = range(first, last + 1)
        return [kline_row(spans[day], DAY_MS // 1000) if day in spans else self._day_kline(facts, day) for day in days]

    async def _traded_days(self, facts: Facts, first: int, last: int) -> dict[int, Span]:
        began_ms = self._market.source.first_ms(facts.symbol) if facts.traded else None
        if began_ms is None or last < began_ms // DAY_MS:
            return {}
        now_ms = self._market.clock.now_ms()
        from_s = max(first, began_ms // DAY_MS) * DAY_MS // 1000
        spans = await self._recount.spans(
            facts.symbol, DAY_MS // 1000, from_s, (last + 1) * DAY_MS // 1000, now_ms
        )  # fmt: skip
        return {span.time * 1000 // DAY_MS: span for span in spans}

    def _day_kline(self, facts: Facts, day: int) -> list[object]:
        found = self._listing.made_up_day(facts, day)
        half = found.volume / 2, found.quote_volume / 2
        prices = (write_fixed(price) for price in (found.open, found.high, found.low, found.last))
        return [
            day * DAY_MS, *prices, write_fixed(found.volume), (day + 1) * DAY_MS - 1, write_fixed(found.quote_volume),
            found.trades, write_fixed(half[0]), write_fixed(half[1]), "0",
        ]  # fmt: skip


def facts_row(facts: Facts) -> dict[str, object]:
    """A pair as the oracle tells it: every fact, numbers as text."""
    row: dict[str, object] = msgspec.to_builtins(facts)
    return row
