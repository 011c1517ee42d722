"""Rows of Binance USD-M futures as its REST prints them."""

from __future__ import annotations

from decimal import Decimal

from sandbox.facts import Facts
from sandbox.listing import write_fixed
from sandbox.perps import Perps, Settlement

FAR_MS = 4_133_404_800_000
"""The delivery date of what is never delivered."""
QUARTER_SUFFIX = "_260925"


def plain(number: Decimal) -> str:
    """Text without an exponent."""
    return format(number, "f")


def perp_row(facts: Facts) -> dict[str, object]:
    """One perpetual in exchangeInfo."""
    return _contract_row(facts, str(facts.perp), "PERPETUAL", facts.perp_status, FAR_MS)


def quarter_row(facts: Facts, delivery_ms: int) -> dict[str, object]:
    """A contract with an end, of the same pair."""
    return _contract_row(facts, facts.symbol + QUARTER_SUFFIX, "CURRENT_QUARTER", "TRADING", delivery_ms)


def _contract_row(facts: Facts, symbol: str, kind: str, status: str, delivery_ms: int) -> dict[str, object]:
    tick = plain((facts.tick * facts.multiplier).normalize())
    base = f"1000{facts.base}" if facts.multiplier == 1000 else facts.base
    return {
        "symbol": symbol,
        "pair": str(facts.perp),
        "contractType": kind,
        "deliveryDate": delivery_ms,
        "onboardDate": facts.perp_listed_ms,
        "status": status,
        "baseAsset": base,
        "quoteAsset": facts.quote,
        "marginAsset": facts.quote,
        "pricePrecision": 8,
        "quantityPrecision": 3,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": ["Layer-1"],
        "triggerProtect": "0.0500",
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000000", "stepSize": "0.001"},
        ],
        "orderTypes": ["LIMIT", "MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }


def premium_row(perps: Perps, facts: Facts, at_s: int) -> dict[str, object]:
    """premiumIndex: the running rate, not the settled one."""
    mark = write_fixed(perps.mark(facts, at_s))
    return {
        "symbol": facts.perp,
        "markPrice": mark,
        "indexPrice": write_fixed(perps.index(facts, at_s)),
        "estimatedSettlePrice": mark,
        "lastFundingRate": write_fixed(perps.rate(facts, at_s)),
        "interestRate": "0.00010000",
        "nextFundingTime": perps.next_settlement_ms(facts, at_s * 1000),
        "time": at_s * 1000,
    }


def quarter_premium_row(perps: Perps, facts: Facts, at_s: int) -> dict[str, object]:
    """A contract without funding: its rate is empty and its next time 0."""
    row = premium_row(perps, facts, at_s)
    return row | {
        "symbol": facts.symbol + QUARTER_SUFFIX, "lastFundingRate": "", "interestRate": "", "nextFundingTime": 0
    }  # fmt: skip


def funding_row(facts: Facts, paid: Settlement) -> dict[str, object]:
    """fundingRate: what was settled."""
    return {
        "symbol": facts.perp,
        "fundingRate": write_fixed(paid.rate),
        "fundingTime": paid.time_ms,
        "markPrice": write_fixed(paid.mark),
        "rateType": paid.rate_type,
    }


def funding_info_row(facts: Facts) -> dict[str, object]:
    """FundingInfo of an adjusted contract."""
    return {
        "symbol": facts.perp,
        "adjustedFundingRateCap": "0.02000000",
        "adjustedFundingRateFloor": "-0.02000000",
        "fundingIntervalHours": facts.funding_hours,
        "disclaimer": False,
    }


def open_interest_row(perps: Perps, facts: Facts, at_s: int) -> dict[str, object]:
    """openInterest, of this second."""
    return {"openInterest": plain(perps.open_interest(facts, at_s)), "symbol": facts.perp, "time": at_s * 1000}


def open_interest_hist_row(perps: Perps, facts: Facts, at_s: int) -> dict[str, object]:
    """openInterestHist, of a period's end; the time is text in some answers of the venue, so it is here."""
    held = perps.open_interest(facts, at_s)
    return {
        "symbol": facts.perp,
        "sumOpenInterest": plain(held),
        "sumOpenInterestValue": write_fixed(held * perps.mark(facts, at_s)),
        "CMCCirculatingSupply": "19900000.00000000",
        "timestamp": str(at_s * 1000),
    }
