"""OKX's list of spot pairs and swaps, and its swaps' funding and open interest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal

from aiohttp import web

from sandbox.facts import DAY_MS, Facts
from sandbox.guard import behind_ms
from sandbox.listing import Listing
from sandbox.okx_answers import ApiError, read_ms
from sandbox.perps import HOUR_MS, Perps, Settlement
from sandbox.recount import write_number

HISTORY_MAX, HISTORY_KEPT_MS = 400, 90 * DAY_MS
LISTED_LATER_MS = 30 * DAY_MS
"""A pair comes to OKX so much later than to Binance."""
PROCESSING_S = 10
Handler = Callable[[web.Request], Awaitable[list[object]]]


def plain(number: Decimal) -> str:
    """The shortest text without an exponent."""
    return write_number(int(number * 10**8), 8)


def swap_id(facts: Facts) -> str:
    """The instId of a pair's swap."""
    return f"{facts.base}-{facts.quote}-SWAP"


def spot_row(facts: Facts) -> dict[str, str]:
    """One spot entry of `instruments`; what does not apply to spot is empty."""
    row = dict.fromkeys(("alias", "category", "ctMult", "ctType", "ctVal", "ctValCcy", "expTime"), "")
    return row | {
        "instType": "SPOT", "instId": f"{facts.base}-{facts.quote}", "baseCcy": facts.base, "quoteCcy": facts.quote,
        "settleCcy": "", "tickSz": plain(facts.okx_tick or facts.tick), "lotSz": "0.00000001", "minSz": "0.00001",
        "state": facts.okx_state, "listTime": str(facts.listed_ms + LISTED_LATER_MS),
    }  # fmt: skip


def swap_row(facts: Facts, contract: Decimal) -> dict[str, str]:
    """One swap entry of `instruments`; base and quote coin are empty, the contract holds `contract` base coins."""
    family = f"{facts.base}-{facts.quote}"
    return {
        "instType": "SWAP", "instId": swap_id(facts), "uly": family, "instFamily": family, "baseCcy": "",
        "quoteCcy": "", "settleCcy": facts.quote, "ctVal": plain(contract), "ctMult": "1", "ctValCcy": facts.base,
        "ctType": "linear", "tickSz": plain(facts.okx_tick or facts.tick), "lotSz": "0.01", "minSz": "0.01",
        "state": facts.okx_state, "listTime": str(facts.perp_listed_ms + LISTED_LATER_MS), "expTime": "", "alias": "",
    }  # fmt: skip


def history_row(facts: Facts, paid: Settlement) -> dict[str, str]:
    """One settled funding."""
    return {
        "instId": swap_id(facts), "instType": "SWAP", "fundingRate": plain(paid.rate), "realizedRate": plain(paid.rate),
        "fundingTime": str(paid.time_ms), "method": "current_period", "formulaType": "noRate",
    }  # fmt: skip


class OkxSwaps:
    """Handlers without guard; `now_ms` is what the venue tells as now, values are those of its whole second."""

    def __init__(self, now_ms: Callable[[], int], listing: Listing, perps: Perps) -> None:
        self._now_ms = now_ms
        self._listing = listing
        self._perps = perps

    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {
            "/api/v5/public/instruments": self._instruments,
            "/api/v5/public/funding-rate": self._funding_rate,
            "/api/v5/public/funding-rate-history": self._history,
            "/api/v5/public/open-interest": self._open_interest,
        }

    def _swaps(self) -> list[Facts]:
        return [facts for facts in self._listing.all() if facts.okx_swap]

    def _find_swap(self, request: web.Request) -> Facts:
        inst_id = request.query.get("instId", "")
        if not inst_id:
            raise ApiError("50014", "Parameter instId can not be empty.", 400)
        return self._pick(inst_id, self._swaps(), swap_id)

    @staticmethod
    def _pick(inst_id: str, among: list[Facts], name: Callable[[Facts], str]) -> Facts:
        for facts in among:
            if name(facts) == inst_id:
                return facts
        raise ApiError("51001", "Instrument ID doesn't exist.")

    def _seen_ms(self, request: web.Request) -> int:
        return self._now_ms() - behind_ms(request)

    def contract(self, facts: Facts) -> Decimal:
        """Base coins in one contract: a power of ten that makes it worth some hundred."""
        return Decimal(1).scaleb(max(-6, 2 - self._listing.price(facts, 0).adjusted()))

    async def _instruments(self, request: web.Request) -> list[object]:
        kind, inst_id = request.query.get("instType", ""), request.query.get("instId")
        if kind not in ("SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION"):
            raise ApiError("51000", "Parameter instType error", 400)
        if kind == "SWAP":
            swaps = self._swaps() if inst_id is None else [self._pick(inst_id, self._swaps(), swap_id)]
            return [swap_row(facts, self.contract(facts)) for facts in swaps]
        pairs = [facts for facts in self._listing.all() if facts.okx]
        if inst_id is not None:
            pairs = [self._pick(inst_id, pairs, lambda facts: f"{facts.base}-{facts.quote}")]
        return [spot_row(facts) for facts in pairs] if kind == "SPOT" else []

    async def _funding_rate(self, request: web.Request) -> list[object]:
        """The forecast of one swap, or of all with instId=ANY."""
        now_ms = self._seen_ms(request)
        if request.query.get("instId") == "ANY":
            return [self._funding_row(facts, now_ms) for facts in self._swaps()]
        return [self._funding_row(self._find_swap(request), now_ms)]

    def _funding_row(self, facts: Facts, now_ms: int) -> dict[str, str]:
        step, at_s = facts.funding_hours * HOUR_MS, now_ms // 1000
        next_ms = self._perps.next_settlement_ms(facts, at_s * 1000)
        settled = self._perps.settlements(facts, next_ms - step, next_ms)
        rate = plain(self._perps.rate(facts, at_s))
        is_new = at_s * 1000 - (next_ms - step) < PROCESSING_S * 1000
        return {
            "instId": swap_id(facts), "instType": "SWAP", "fundingRate": rate, "fundingTime": str(next_ms),
            "nextFundingTime": str(next_ms + step), "nextFundingRate": "",
            "settFundingRate": plain(settled[-1].rate) if settled else "",
            "settState": "processing" if is_new else "settled", "premium": rate, "minFundingRate": "-0.00375",
            "maxFundingRate": "0.00375", "method": "current_period", "formulaType": "noRate", "ts": str(at_s * 1000),
        }  # fmt: skip

    async def _history(self, request: web.Request) -> list[object]:
        """Newest first; `after` pages to older ones, `before` to newer ones, both exclusive."""
        facts, now_ms = self._find_swap(request), self._seen_ms(request)
        limit = min(read_ms(request, "limit") or HISTORY_MAX, HISTORY_MAX)
        after_ms, before_ms = read_ms(request, "after"), read_ms(request, "before")
        to_ms = now_ms + 1 if after_ms is None else min(after_ms, now_ms + 1)
        from_ms = max(now_ms - HISTORY_KEPT_MS, -1 if before_ms is None else before_ms + 1)
        from_ms = max(from_ms, to_ms - (limit + 1) * facts.funding_hours * HOUR_MS)
        paid = self._perps.settlements(facts, from_ms, to_ms)
        return [history_row(facts, one) for one in reversed(paid[-limit:])]

    async def _open_interest(self, request: web.Request) -> list[object]:
        kind = request.query.get("instType", "")
        if kind not in ("SWAP", "FUTURES", "OPTION"):
            raise ApiError("51000", "Parameter instType error", 400)
        if kind != "SWAP":
            return []
        swaps = [self._find_swap(request)] if "instId" in request.query else self._swaps()
        family = request.query.get("instFamily")
        at_s = self._seen_ms(request) // 1000
        return [
            self._open_interest_row(facts, at_s) for facts in swaps if family in (None, f"{facts.base}-{facts.quote}")
        ]

    def _open_interest_row(self, facts: Facts, at_s: int) -> dict[str, str]:
        coins = self._perps.open_interest(facts, at_s)
        return {
            "instType": "SWAP", "instId": swap_id(facts), "oi": plain(coins / self.contract(facts)),
            "oiCcy": plain(coins), "oiUsd": plain(coins * self._perps.mark(facts, at_s)), "ts": str(at_s * 1000),
        }  # fmt: skip
