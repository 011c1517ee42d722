"""The judge of listings, futures and REST: `/_oracle/listing`, `/_oracle/perps`, `/_oracle/rest`."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from sandbox.facts import Facts
from sandbox.guard import answer_json
from sandbox.listing import Listing, write_fixed
from sandbox.market import Market
from sandbox.perps import Perps
from sandbox.rest_door import RestDoor
from sandbox.spot_listing import SpotListing, facts_row

ROWS_MAX = 20_000


class ListingOracle:
    """The truth beside which every illness of an endpoint is none; times in epoch milliseconds of the venue.

    `perps` are by venue name: "futures" is Binance's, "okx" OKX's.
    """

    def __init__(
        self, market: Market, listing: Listing, pairs: SpotListing, perps: Mapping[str, Perps], door: RestDoor
    ) -> None:
        self._market = market
        self._listing = listing
        self._pairs = pairs
        self._perps = perps
        self._door = door

    def routes(self) -> list[web.RouteDef]:
        """All endpoints."""
        return [
            web.get("/_oracle/listing", self._list),
            web.get("/_oracle/perps", self._values),
            web.get("/_oracle/funding", self._funding),
            web.get("/_oracle/rest", self._rest),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        """Every fact of every pair, with its price, best bid and ask and 24 hours of now."""
        now_ms = self._listing.told_ms(self._market.clock)
        rows: list[dict[str, object]] = []
        for facts in self._listing.all():
            quote, day = self._listing.quote(facts, now_ms), await self._pairs.day_of(facts, now_ms)
            now = {
                "bid": write_fixed(quote.bid), "ask": write_fixed(quote.ask), "last": write_fixed(day.last),
                "quote_volume": write_fixed(day.quote_volume),
            }  # fmt: skip
            rows.append({**facts_row(facts), "now": now})
        return answer_json({"now_ms": now_ms, "pairs": rows})

    async def _values(self, request: web.Request) -> web.Response:
        """The values of `[from_ms, to_ms)`, one each `step_ms` (whole seconds), of the perpetual of `symbol`."""
        perps, facts, from_ms, to_ms = self._read(request)
        step_ms = int(request.query.get("step_ms", "1000"))
        if step_ms < 1000 or (to_ms - from_ms) // step_ms > ROWS_MAX:
            raise web.HTTPBadRequest(text=f"step_ms is at least 1000, and there are at most {ROWS_MAX} rows")
        rows = [
            {
                "time": at_s * 1000,
                "funding": write_fixed(perps.rate(facts, at_s)),
                "next_funding_time": perps.next_settlement_ms(facts, at_s * 1000),
                "open_interest": format(perps.open_interest(facts, at_s), "f"),
                "mark": write_fixed(perps.mark(facts, at_s)),
            }
            for at_s in range(-(-from_ms // 1000), -(-to_ms // 1000), step_ms // 1000)
        ]
        return answer_json(rows)

    async def _funding(self, request: web.Request) -> web.Response:
        """Settlements of `[from_ms, to_ms)` that the venue shows, and the scheduled hours that it lost."""
        perps, facts, from_ms, to_ms = self._read(request)
        paid = [
            {"time": one.time_ms, "rate": write_fixed(one.rate), "type": one.rate_type}
            for one in perps.settlements(facts, from_ms, to_ms)
        ]
        lost = [ms for ms in perps.settlement_hours(facts, from_ms, to_ms) if ms in facts.funding_missing]
        return answer_json({"settled": paid, "lost": lost})

    async def _rest(self, request: web.Request) -> web.Response:
        """Which endpoints were asked how often, with which status; the most calls under way at once by venue."""
        return answer_json({"asked": self._door.as_json(), "in_flight_max": dict(self._door.in_flight_max)})

    def _read(self, request: web.Request) -> tuple[Perps, Facts, int, int]:
        query = request.query
        perps, facts = self._perps.get(query.get("venue", "futures")), self._listing.get(query.get("symbol", ""))
        if perps is None or facts is None:
            raise web.HTTPBadRequest(text="unknown venue or symbol")
        try:
            return perps, facts, int(query["from_ms"]), int(query["to_ms"])
        except (KeyError, ValueError):
            raise web.HTTPBadRequest(text="from_ms and to_ms must be whole numbers") from None
