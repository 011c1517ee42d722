"""The calls to vendors: each answer ends as samples, or as a counted failure. Nothing here raises for a vendor."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from common.clock import Clock
from common.errors import BadInput, Refused, TryLater
from common.listings import Listing
from common.rest import RestClient
from common.venues import binance_futures as futures
from common.venues import okx_spot, okx_swap
from common.venues.market import Request, RunningRate
from metric_ingestor.perps import Perp, find_perp, interval_hours
from metric_ingestor.samples import Field, Sample, Samples
from metric_ingestor.venue_time import VenueTime

log = logging.getLogger(__name__)

BINANCE, OKX = "binance", "okx"
INTEREST = "openInterest"
CONTRACTS = "exchangeInfo"
OKX_FUNDING = "okx funding-rate"
PERPETUAL, TRADING = "PERPETUAL", "TRADING"
INTERVALS_AGE_S_MAX = 3 * 3600.0
"""fundingInfo is not believed longer than this: the venue changes intervals."""

_T = TypeVar("_T")


class Clients(NamedTuple):
    """The futures venue's main limit, its pool for settled funding and intervals, and the fallback if there is one."""

    futures: RestClient
    funding: RestClient
    okx: RestClient | None


class Vendors:
    """Binance's futures and OKX's swaps, and what is known of their contracts; `failing` names ill endpoints.

    `heard_ms` tells a venue time that the trades have certainly reached.
    """

    def __init__(
        self, clients: Clients, clock: Clock, time: VenueTime, samples: Samples, heard_ms: Callable[[], float]
    ) -> None:
        self._rest, self._pool, self._okx = clients
        self._clock, self._heard_ms = clock, heard_ms
        self.time, self.samples = time, samples
        self.perps: frozenset[str] = frozenset()
        self._adjusted: dict[str, int] | None = None
        self._adjusted_s = float("-inf")
        self.failures: Counter[str] = Counter()
        self.failing: dict[str, float] = {}
        self.answered_s: dict[str, float] = {}
        self.bad_rows: Counter[str] = Counter()

    def now_ms(self) -> float:
        """Venue time; raises LookupError before anybody told it."""
        return self.time.now_ms(self._clock.monotonic_s())

    def perp_of(self, pair: str) -> Perp | None:
        """The pair's perpetual, as far as the venue's list is known."""
        return find_perp(pair, self.perps)

    async def ask_time(self) -> None:
        """Take the server's time."""
        asked_s = self._clock.monotonic_s()
        server_ms = await self._ask("time", self._rest, futures.time_request(), futures.parse_time)
        if server_ms is not None and not self.time.observe(
            server_ms, asked_s, self._clock.monotonic_s(), self._heard_ms()
        ):
            log.warning("server time doubted", extra={"server_ms": server_ms, "heard_ms": self._heard_ms()})

    async def ask_intervals(self) -> bool:
        """Take the intervals between settlements; false when there was no answer."""
        answer = await self._ask("fundingInfo", self._pool, futures.funding_info_request(), futures.parse_funding_hours)
        if answer is not None:
            self._adjusted, self._adjusted_s = answer, self._clock.monotonic_s()
        return answer is not None

    async def ask_funding(self, window: int, followed: Mapping[str, Listing]) -> None:
        """Take running rates for this window; from the fallback for those that the primary did not tell."""
        answer = await self._ask(
            "premiumIndex", self._rest, futures.premium_index_request(), futures.parse_premium_index
        )
        if answer is not None:
            self._count_bad("premiumIndex", answer.bad)
            self._take_primary(window, followed, answer)
        await self._keep_contracts()
        lacking = {
            symbol: listing
            for symbol, listing in followed.items()
            if self.samples.read(symbol, Field.FUNDING, window, (BINANCE,)) is None
            and (not self.perps or self.perp_of(symbol) is not None)
        }
        if lacking and self._okx is not None:
            await self._ask_fallback(self._okx, window, lacking)
        else:
            self._let_be(OKX_FUNDING)

    async def ask_interest(self, window: int, symbol: str, perp: Perp) -> bool:
        """Take the open interest of one pair for this window; false when there was no answer."""
        request = futures.open_interest_request(perp.symbol)
        answer = await self._ask(INTEREST, self._rest, request, futures.parse_open_interest, alone=False)
        if answer is None:
            return False
        if answer.symbol != perp.symbol:
            self._count_bad(INTEREST, 1)
            return False
        sample = Sample(float(answer.units * perp.multiple), answer.time_ms, BINANCE)
        self.samples.offer(symbol, Field.OPEN_INTEREST, sample, window, self.now_ms())
        return True

    def end_interest(self, answers: int, failures: int) -> None:
        """Judge the endpoint by a whole window's calls: one contract that is refused is no failure of it."""
        if answers:
            self._note_answer(INTEREST)
        elif failures:
            self._note_failure(INTEREST, f"{failures} calls, no answer")

    async def ask_settled(self, start_ms: int) -> futures.SettledPage | None:
        """One page of settlements of all perpetuals from `start_ms` on; None when there was no answer."""
        request = futures.all_funding_rates_request(start_ms)
        page = await self._ask("fundingRate", self._pool, request, futures.parse_settled_page)
        self._count_bad("fundingRate", page.bad if page else 0)
        return page

    # ---- inside

    async def _keep_contracts(self) -> None:
        """Running rates name the contracts too; another list is read while they never came."""
        if self.perps:
            return self._let_be(CONTRACTS)
        contracts = await self._ask(CONTRACTS, self._rest, futures.exchange_info_request(), futures.parse_exchange_info)
        if contracts is not None:
            self.perps = frozenset(c.symbol for c in contracts if (c.kind, c.status) == (PERPETUAL, TRADING))
        return None

    def _take_primary(self, window: int, followed: Mapping[str, Listing], index: futures.PremiumIndex) -> None:
        self.perps = index.listed
        known = self._adjusted if self._clock.monotonic_s() - self._adjusted_s <= INTERVALS_AGE_S_MAX else None
        now_ms = self.now_ms()
        for symbol in followed:
            perp = self.perp_of(symbol)
            rate = index.rates.get(perp.symbol) if perp else None
            if rate is not None:
                hours = interval_hours(rate.symbol, known, rate.time_ms, rate.next_ms)
                self.samples.offer(symbol, Field.FUNDING, _sample(rate, BINANCE, hours), window, now_ms)

    async def _ask_fallback(self, okx: RestClient, window: int, lacking: Mapping[str, Listing]) -> None:
        answer = await self._ask(OKX_FUNDING, okx, okx_swap.funding_request(), okx_swap.parse_funding)
        if answer is None:
            return
        self._count_bad(OKX_FUNDING, answer[1])
        rates = {rate.symbol: rate for rate in answer[0]}
        now_ms = self.now_ms()
        for symbol, listing in lacking.items():
            inst_id = listing.okx_inst_id or okx_spot.inst_id_of(symbol)
            rate = rates.get(okx_swap.swap_of(inst_id)) if inst_id else None
            if rate is not None:
                self.samples.offer(symbol, Field.FUNDING, _sample(rate, OKX, rate.hours), window, now_ms)

    async def _ask(
        self, name: str, rest: RestClient, request: Request, parse: Callable[[bytes], _T], *, alone: bool = True
    ) -> _T | None:
        """The answer, read; None when there is none, which is counted. `alone`: this call speaks for its endpoint."""
        try:
            answer = parse(await rest.fetch(request))
        except (TryLater, Refused, BadInput) as error:
            self.failures[name] += 1
            if alone:
                self._note_failure(name, str(error))
            return None
        if alone:
            self._note_answer(name)
        return answer

    def _note_failure(self, name: str, error: str) -> None:
        if name not in self.failing:
            log.warning("vendor does not answer", extra={"endpoint": name, "error": error})
        self.failing.setdefault(name, self._clock.monotonic_s())

    def _let_be(self, name: str) -> None:
        """Nobody needs this endpoint now: its last failure is none any more."""
        self.failing.pop(name, None)

    def _note_answer(self, name: str) -> None:
        now_s = self._clock.monotonic_s()
        since_s = self.failing.pop(name, None)
        if since_s is not None:
            log.info("vendor answers again", extra={"endpoint": name, "after_s": round(now_s - since_s, 1)})
        self.answered_s[name] = now_s

    def _count_bad(self, name: str, rows: int) -> None:
        if rows:
            self.bad_rows[name] += rows


def _sample(rate: RunningRate, source: str, hours: int | None) -> Sample:
    return Sample(float(rate.rate), rate.time_ms, source, hours)
