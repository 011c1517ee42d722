"""Where the facts come from: every vendor asked once a night, all at the same time, each within its own limits.

Without exchangeInfo there is no run. Whatever else does not answer is away: its facts are unknown, told in one warning.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Awaitable, Sequence
from decimal import Decimal
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from common.clock import Clock
from common.errors import BadInput, Refused, TryLater
from common.rest import RestClient, RestLimits
from common.venues import binance_futures, binance_spot, binance_spot_listing, okx_spot
from common.weights import WeightBudget
from registry.caller import Caller
from registry.coingecko import (
    CALLS_WINDOW_S,
    ROWS_PER_PAGE,
    Coin,
    coins_by_symbol,
    key_headers,
    markets_request,
    members,
    parse_markets,
)
from registry.facts import Vendor
from registry.funding import count_funding_gaps
from registry.gathered import Caps, Close, Told
from registry.settings import RegistrySettings
from registry.thresholds import UniverseLimits

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_PAUSES_S = (0.1, 1.0, 3.0)
DAY_MS = 86_400_000
MEAN_DAYS = 30
FUNDING_DAYS = 30
FUNDING_SHARE = 0.9
"""Of the funding pool: nothing of ours asks it much else."""
FUNDING_SLACK_MS = 15 * 60_000
"""A settlement shows a little after its hour."""
FUNDING_LATE_MS = 60_000
"""And its time is a few ms past the hour: the last one must not fall out of what is asked for."""
_VOLUME_UNIT = Decimal(1).scaleb(-2 * binance_spot.SCALE)
_AWAY = (TryLater, Refused, BadInput)


class Ask(msgspec.Struct, frozen=True):
    """What to ask about one symbol: its pair, whether its listing day is still unknown, its perpetual if it has one."""

    symbol: str
    pair: str
    needs_day: bool
    perp: binance_futures.Contract | None = None
    funding_hours: int = binance_futures.DEFAULT_FUNDING_HOURS


class Spent(msgspec.Struct, frozen=True):
    """Calls made to one vendor in a run, and their weight."""

    vendor: str
    calls: int
    weight: int


class Sources:
    """The vendors of one run; close it. `away` has the first reason of each vendor that did not answer."""

    def __init__(self, settings: RegistrySettings, clock: Clock, limits: UniverseLimits) -> None:
        self.away: dict[Vendor, str] = {}
        self._settings, self._clock, self._limits = settings, clock, limits
        share = settings.rest_share
        futures = settings.binance_futures_rest_url
        key = settings.coingecko_api_key.get_secret_value() if settings.coingecko_api_key else None
        self._spot = self._call("binance", settings.binance_rest_url, settings.rest_weight_per_min)
        self._futures = self._call("binance futures", futures, settings.futures_weight_per_min)
        pool = WeightBudget(
            binance_futures.FUNDING_CALLS, FUNDING_SHARE, window_s=binance_futures.FUNDING_WINDOW_S,
            counted_by_venue=False,
        )  # fmt: skip
        self._funding = self._call("binance futures funding", futures, budget=pool)
        okx = WeightBudget(okx_spot.REST_LIMIT, share, window_s=okx_spot.REST_WINDOW_S)
        self._okx = self._call("okx", settings.okx_rest_url, budget=okx)
        gecko = WeightBudget(settings.coingecko_calls_per_min, window_s=CALLS_WINDOW_S)
        host = urlsplit(settings.coingecko_url).hostname or ""
        self._gecko = self._call("coingecko", settings.coingecko_url, budget=gecko, headers=key_headers(host, key))

    def spent(self) -> list[Spent]:
        """What the run took of each vendor's limits so far."""
        return [Spent(c.name, c.calls, c.weight) for c in self._callers()]

    async def close(self) -> None:
        """Close every connection."""
        for caller in self._callers():
            await caller.close()

    async def pull_books(self) -> dict[str, binance_spot_listing.BookTop]:
        """Best bid and ask of every pair, now; raises TryLater, Refused or BadInput."""
        return await self._spot.ask(binance_spot_listing.book_tops_request(), binance_spot_listing.parse_book_tops)

    async def pull_all(self) -> Told:
        """Ask everything that one call answers for all symbols.

        Raises TryLater, Refused or BadInput when exchangeInfo can not be had.
        """
        spot, futures = binance_spot_listing, binance_futures
        rest = asyncio.gather(
            self._or_away(Vendor.TICKERS, self._spot.ask(spot.day_tickers_request(), spot.parse_day_tickers)),
            self._or_away(Vendor.BOOK, self.pull_books()),
            self._or_away(
                Vendor.FUTURES, self._futures.ask(futures.exchange_info_request(), futures.parse_exchange_info)
            ),
            self._or_away(
                Vendor.FUNDING, self._funding.ask(futures.funding_info_request(), futures.parse_funding_hours)
            ),
            self._or_away(Vendor.OKX, self._okx.ask(okx_spot.instruments_request("SPOT"), okx_spot.parse_instruments)),
            self._or_away(Vendor.OKX, self._okx.ask(okx_spot.instruments_request("SWAP"), okx_spot.parse_instruments)),
            self._or_away(Vendor.CAPS, self._pull_caps()),
        )
        try:
            listing = await self._spot.ask(spot.listing_request(), spot.parse_listing)
        except BaseException:
            rest.cancel()
            await asyncio.gather(rest, return_exceptions=True)
            raise
        return Told(listing, *await rest)

    async def pull_each(self, asks: Sequence[Ask], now_ms: int) -> dict[str, Close]:
        """Ask what is asked symbol by symbol; whoever does not answer in time is away for that symbol."""
        found = await asyncio.gather(*(self._pull_one(ask, now_ms) for ask in asks))
        return dict(zip((ask.symbol for ask in asks), found, strict=True))

    async def _pull_one(self, ask: Ask, now_ms: int) -> Close:
        parts = await asyncio.gather(
            self._or_away(Vendor.KLINES, self._pull_mean(ask.pair, now_ms)),
            self._or_away(Vendor.KLINES, self._pull_day(ask.pair, now_ms)) if ask.needs_day else _nothing(),
            self._or_away(Vendor.OPEN_INTEREST, self._pull_interest(ask.perp)) if ask.perp else _nothing(),
            self._or_away(Vendor.FUNDING, self._pull_gaps(ask, ask.perp, now_ms)) if ask.perp else _nothing(),
        )
        mean, day, interest, gaps = parts
        missing = (
            (Vendor.KLINES, mean is None or (ask.needs_day and day is None)),
            (Vendor.OPEN_INTEREST, ask.perp is not None and interest is None),
            (Vendor.FUNDING, ask.perp is not None and gaps is None),
        )
        away = frozenset(vendor for vendor, is_missing in missing if is_missing)
        return Close(day.day if day else None, mean.volume if mean else None, interest, gaps, away)

    async def _pull_mean(self, pair: str, now_ms: int) -> _Mean:
        """Mean volume a day, in the quote coin, of the closed days of the last month."""
        today_ms = now_ms - now_ms % DAY_MS
        request = binance_spot.klines_request(pair, "1d", today_ms - MEAN_DAYS * DAY_MS, today_ms - 1, MEAN_DAYS)
        rows = await self._spot.ask(request, lambda raw: binance_spot.parse_klines(raw, now_ms))
        total = sum(row.quote_vol for row in rows)
        return _Mean(total * _VOLUME_UNIT / len(rows) if rows else None)

    async def _pull_day(self, pair: str, now_ms: int) -> _Day:
        request = binance_spot.klines_request(pair, "1d", 0, now_ms, 1)
        rows = await self._spot.ask(request, binance_spot.parse_klines)
        return _Day(dt.datetime.fromtimestamp(rows[0].open_s, dt.UTC).date() if rows else None)

    async def _pull_interest(self, perp: binance_futures.Contract) -> binance_futures.OpenInterest:
        request = binance_futures.open_interest_request(perp.symbol)
        return await self._futures.ask(request, binance_futures.parse_open_interest)

    async def _pull_gaps(self, ask: Ask, perp: binance_futures.Contract | None, now_ms: int) -> int:
        assert perp is not None
        # The first settlement of a young one comes an interval after its listing.
        from_ms = max(now_ms - FUNDING_DAYS * DAY_MS, (perp.listed_ms or 0) + ask.funding_hours * 3_600_000)
        to_ms = now_ms - FUNDING_SLACK_MS
        if from_ms >= to_ms:
            return 0
        request = binance_futures.funding_rate_request(perp.symbol, from_ms, to_ms + FUNDING_LATE_MS)
        paid = await self._funding.ask(request, binance_futures.parse_funding_rates)
        return count_funding_gaps((s.time_ms for s in paid if s.regular), ask.funding_hours, from_ms, to_ms)

    async def _pull_caps(self) -> Caps:
        """Market caps and categories; what failed after the first page leaves the rest incomplete, not unknown."""
        coins: list[Coin] = []
        ids: dict[str, frozenset[str]] = {}
        for page in range(1, self._settings.coingecko_pages + 1):
            try:
                rows = await self._gecko.ask(markets_request(page), parse_markets)
                coins += rows
            except _AWAY as error:
                if not coins:
                    raise
                self._note(Vendor.CAPS, str(error))
                return self._caps(coins, ids, whole=False)
            if len(rows) < ROWS_PER_PAGE:
                break
        if not coins:
            raise BadInput("coins/markets tells of no coin")
        whole = True
        for category in (*self._limits.stable_categories, *self._limits.wrapped_categories):
            try:
                rows = await self._gecko.ask(markets_request(1, category), parse_markets)
                ids[category] = frozenset(coin.id for coin in rows)
            except _AWAY as error:
                self._note(Vendor.CAPS, f"category {category}: {error}")
        return self._caps(coins, ids, whole)

    def _caps(self, coins: list[Coin], ids: dict[str, frozenset[str]], whole: bool) -> Caps:
        found = coins_by_symbol(coins)
        limits = self._limits
        known = whole and ids.keys() >= {*limits.stable_categories, *limits.wrapped_categories}
        stables = [ids.get(name, frozenset()) for name in limits.stable_categories]
        wrapped = [ids.get(name, frozenset()) for name in limits.wrapped_categories]
        none: frozenset[str] = frozenset()
        return Caps(found, members(found, none.union(*stables)), members(found, none.union(*wrapped)), whole, known)

    async def _or_away(self, vendor: Vendor, call: Awaitable[T]) -> T | None:
        try:
            async with asyncio.timeout(self._settings.pull_timeout_s):
                return await call
        except _AWAY as error:
            self._note(vendor, str(error))
        except TimeoutError:
            self._note(vendor, f"not all answers within {self._settings.pull_timeout_s:g} s")
        return None

    def _note(self, vendor: Vendor, reason: str) -> None:
        """Remember the first reason: a vendor that is away for 200 symbols is one warning."""
        if vendor not in self.away:
            self.away[vendor] = reason
            log.warning("vendor away", extra={"vendor": vendor, "error": reason})

    def _callers(self) -> tuple[Caller, ...]:
        return (self._spot, self._futures, self._funding, self._okx, self._gecko)

    def _call(
        self, name: str, url: str, weight: int = 0, budget: WeightBudget | None = None,
        headers: dict[str, str] | None = None,
    ) -> Caller:  # fmt: skip
        settings = self._settings
        limits = RestLimits(
            connect_timeout_s=min(5.0, settings.call_timeout_s), read_timeout_s=settings.call_timeout_s,
            call_timeout_s=settings.call_timeout_s, retry_pauses_s=RETRY_PAUSES_S,
            connections_max=settings.calls_at_once,
        )  # fmt: skip
        budget = budget or WeightBudget(weight, settings.rest_share)
        client = RestClient(url, budget, limits, self._clock, headers=headers)
        return Caller(name, client, settings.calls_at_once, settings.retry_after_max_s)


class _Mean(msgspec.Struct, frozen=True):
    volume: Decimal | None


class _Day(msgspec.Struct, frozen=True):
    day: dt.date | None


async def _nothing() -> None:
    return None
