"""What the vendors and our own tables told, put together into the facts of each symbol. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal

import msgspec

from common.venues.binance_futures import Contract, OpenInterest
from common.venues.binance_spot_listing import BookTop, DayTicker, SpotListing, SpotPair
from common.venues.market import Instrument
from registry.coingecko import Coin
from registry.facts import TRADING, Facts, Kind, Offer, RegistryRow, Vendor
from registry.thresholds import UniverseLimits
from registry.universe import Seat, kind_of

NOT_SPOT = "NO_SPOT_TRADING"
"""Our word for a pair that the venue calls TRADING, and not on the spot market."""
PERPETUAL = "PERPETUAL"
OKX_LIVE = "live"
SPREAD_DIGITS = 8
_MULTIPLE = re.compile(r"(1000000|1000|1M)(?=[A-Z])", re.ASCII)
_MULTIPLES = {"1000": 1000, "1000000": 1_000_000, "1M": 1_000_000}


class Caps(msgspec.Struct, frozen=True):
    """Coins by ticker; `whole` is False when a page is missing: a coin not found may stand there.

    `kinds_whole` is False when a category is missing too: an asset in none of them may still belong to one.
    """

    coins: Mapping[str, Coin] = {}
    stables: frozenset[str] = frozenset()
    wrapped: frozenset[str] = frozenset()
    whole: bool = True
    kinds_whole: bool = True


class Told(msgspec.Struct, frozen=True):
    """Answers about everything at once; None where the vendor is away. `funding_hours` of perpetuals off the usual."""

    listing: SpotListing
    tickers: Mapping[str, DayTicker] | None = None
    books: Mapping[str, BookTop] | None = None
    contracts: list[Contract] | None = None
    funding_hours: Mapping[str, int] | None = None
    instruments: list[Instrument] | None = None
    swaps: list[Instrument] | None = None
    caps: Caps | None = None


class Close(msgspec.Struct, frozen=True):
    """Answers about one symbol; `vol_mean` in the quote coin a day. `away` did not answer."""

    listed_on: date | None = None
    vol_mean: Decimal | None = None
    open_interest: OpenInterest | None = None
    funding_gaps: int | None = None
    away: frozenset[Vendor] = frozenset()


class Own(msgspec.Struct, frozen=True):
    """What our tables say of one pair in the last 24 h; shares 0..1."""

    spread_pct: Decimal | None = None
    spread_samples: int = 0
    bar_coverage: Decimal | None = None
    null_share: Decimal | None = None
    outlier_share: Decimal | None = None


def list_offers(pairs: Iterable[SpotPair]) -> list[Offer]:
    """The venue's pairs as offers."""
    return [Offer(p.symbol, p.base, p.quote, _status_of(p), p.tick_size, p.leveraged) for p in pairs]


def _status_of(pair: SpotPair) -> str:
    return pair.status if pair.spot or pair.status != TRADING else NOT_SPOT


def value_volumes(
    pairs: Iterable[SpotPair], tickers: Mapping[str, DayTicker], limits: UniverseLimits
) -> dict[str, Decimal]:
    """USD of 24 h by pair, for pairs whose quote coin can be valued."""
    found: dict[str, Decimal] = {}
    for pair in pairs:
        ticker = tickers.get(pair.symbol)
        usd = usd_of(pair.quote, tickers, limits)
        if ticker is not None and ticker.quote_volume is not None and usd is not None:
            found[pair.symbol] = ticker.quote_volume * usd
    return found


def usd_of(quote: str, tickers: Mapping[str, DayTicker], limits: UniverseLimits) -> Decimal | None:
    """What one quote coin is worth: a dollar coin 1, another one its price against the first quote of the universe."""
    if quote.startswith("USD") or quote in ("FDUSD", "TUSD", "BUSD", "DAI"):
        return Decimal(1)
    ticker = tickers.get(f"{quote}{limits.quotes[0]}")
    return ticker.last if ticker is not None else None


def judge_kinds(offers: Iterable[Offer], caps: Caps | None, limits: UniverseLimits) -> dict[str, Kind]:
    """What sort of asset each base is."""
    leveraged: dict[str, bool] = {}
    for offer in offers:
        leveraged[offer.base] = leveraged.get(offer.base, False) or offer.leveraged
    told = caps or Caps()
    return {
        base: kind_of(base, mark, leveraged, limits, told.stables, told.wrapped) for base, mark in leveraged.items()
    }


def recall_kinds(kinds: Mapping[str, Kind], before: Mapping[str, Kind]) -> dict[str, Kind]:
    """Kinds on a night without all categories: an asset that nothing else speaks against is what it was before."""
    return {base: before.get(base, kind) if kind is Kind.PLAIN else kind for base, kind in kinds.items()}


def choose_perps(contracts: Iterable[Contract], quotes: Collection[str]) -> dict[str, Contract]:
    """The perpetual of each base asset: a live one, in the first of the quotes; "1000SHIB" counts as SHIB's.

    It counts as that of 1000SHIB too: some assets have the number in their own name on the spot market (1000SATS). One
    of the asset itself goes before one of a thousand of it.
    """
    order = {quote: i for i, quote in enumerate(quotes)}
    found: dict[str, tuple[tuple[bool, int], Contract]] = {}
    for contract in contracts:
        if contract.kind != PERPETUAL or contract.status != TRADING or contract.quote not in order:
            continue
        head = _MULTIPLE.match(contract.base)
        for base in {contract.base, contract.base[head.end() :] if head else contract.base}:
            rank = (base != contract.base, order[contract.quote])
            if base not in found or rank < found[base][0]:
                found[base] = (rank, contract)
    return {base: contract for base, (_, contract) in found.items()}


def multiple_of(contract: Contract, base: str) -> int:
    """How many coins of this asset one unit of its contract is."""
    head = _MULTIPLE.match(contract.base)
    return _MULTIPLES[head[1]] if head and contract.base != base else 1


def spread_of(top: BookTop | None) -> Decimal | None:
    """Spread in percent of the middle; None where a side is missing or the book is crossed."""
    if top is None or top.bid is None or top.ask is None or top.ask < top.bid:
        return None
    spread = (top.ask - top.bid) * 200 / (top.ask + top.bid)
    return round(spread, SPREAD_DIGITS)


def make_facts(
    seat: Seat, told: Told, perp: Contract | None, close: Close, own: Own, row: RegistryRow | None,
    kind: Kind, limits: UniverseLimits, now: datetime,
) -> Facts:  # fmt: skip
    """All that is known tonight of one seat of the universe; an absent one has what our tables know."""
    offer = seat.offer
    away: set[Vendor] = set(close.away)
    listed_on = (row.listed_on if row else None) or close.listed_on
    facts = Facts(
        symbol=seat.symbol, pair=offer.pair if offer else (row.pair if row else None), listed_on=listed_on,
        age_days=None if listed_on is None else max(0, (now.date() - listed_on).days),
        spread_pct=own.spread_pct, spread_samples=own.spread_samples, bar_coverage=own.bar_coverage,
        metric_null_share=own.null_share, metric_outlier_share=own.outlier_share, kind=kind,
        kinds_told=told.caps is not None and told.caps.kinds_whole,
    )  # fmt: skip
    if offer is None:
        return facts
    more: dict[str, object] = {
        "quote": offer.quote, "venue_status": offer.status, "tick_size": offer.tick_size,
        "okx_swap": _swap_of(offer, told.swaps),
        "okx_inst_id": _okx_of(offer, told.instruments, away), "market_cap": _cap_of(offer.base, told.caps, away),
        **_market_facts(offer, told, close, own, limits, away),
        **_perp_facts(offer, told, perp, close, away),
    }  # fmt: skip
    return msgspec.structs.replace(facts, **more, away=tuple(sorted(away)))


def _market_facts(
    offer: Offer, told: Told, close: Close, own: Own, limits: UniverseLimits, away: set[Vendor]
) -> dict[str, object]:
    tickers = told.tickers or {}
    ticker = tickers.get(offer.pair)
    usd = usd_of(offer.quote, tickers, limits)
    if ticker is None:
        away.add(Vendor.TICKERS)
    facts: dict[str, object] = {}
    if ticker is not None:
        facts["move_24h_pct"] = ticker.move_pct
        facts["vol_24h"] = None if ticker.quote_volume is None or usd is None else ticker.quote_volume * usd
    if close.vol_mean is not None and usd is not None:
        facts["vol_mean_30d"] = close.vol_mean * usd
    if not own.spread_samples:
        facts["spread_pct"] = spread_of((told.books or {}).get(offer.pair))
        if told.books is None or offer.pair not in told.books:
            away.add(Vendor.BOOK)
    return facts


def _perp_facts(offer: Offer, told: Told, perp: Contract | None, close: Close, away: set[Vendor]) -> dict[str, object]:
    if told.contracts is None:
        away.update((Vendor.FUTURES, Vendor.OPEN_INTEREST, Vendor.FUNDING))
        return {}
    if perp is None:
        return {}
    price = price_of(offer.pair, told)
    held = close.open_interest
    usd = None if held is None or price is None else held.units * price * multiple_of(perp, offer.base)
    if usd is None:
        away.add(Vendor.OPEN_INTEREST)
    return {"perp": perp.symbol, "open_interest_usd": usd, "funding_gaps": close.funding_gaps}


def price_of(pair: str, told: Told) -> Decimal | None:
    """Last price of a pair, or the middle of its book; in its quote coin, which is a dollar coin."""
    ticker = (told.tickers or {}).get(pair)
    if ticker is not None and ticker.last is not None:
        return ticker.last
    top = (told.books or {}).get(pair)
    return (top.bid + top.ask) / 2 if top is not None and top.bid is not None and top.ask is not None else None


def _okx_of(offer: Offer, instruments: list[Instrument] | None, away: set[Vendor]) -> str | None:
    if instruments is None:
        away.add(Vendor.OKX)
        return None
    named = (i.inst_id for i in instruments if (i.base, i.quote) == (offer.base, offer.quote) and i.state == OKX_LIVE)
    return next(named, None)


def _swap_of(offer: Offer, swaps: list[Instrument] | None) -> str | None:
    """A swap's row names neither coin: its name does."""
    name = f"{offer.base}-{offer.quote}-SWAP"
    return name if any(i.inst_id == name and i.state == OKX_LIVE for i in swaps or ()) else None


def _cap_of(base: str, caps: Caps | None, away: set[Vendor]) -> Decimal | None:
    coin = caps.coins.get(base) if caps else None
    if coin is None and (caps is None or not caps.whole):
        away.add(Vendor.CAPS)
    return coin.market_cap if coin else None
