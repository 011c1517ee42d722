"""Which assets a run looks at, by which pair, and what sort each is. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal

import msgspec

from registry.facts import TRADING, Kind, Offer, RegistryRow, Status
from registry.thresholds import UniverseLimits

_LEVERAGED_ENDS = ("UP", "DOWN", "BULL", "BEAR", "3L", "3S", "5L", "5S")


class Seat(msgspec.Struct, frozen=True):
    """One asset that is judged tonight, and why; `offer` None = no configured pair of it is listed (absent)."""

    symbol: str
    offer: Offer | None
    why: str


def kind_of(
    base: str, leveraged: bool, bases: Collection[str], limits: UniverseLimits,
    stables: Collection[str] = (), wrapped: Collection[str] = (),
) -> Kind:  # fmt: skip
    """Tell what sort of asset a base is.

    `leveraged` is the venue's own mark; by name a token is leveraged when what stands before UP, DOWN, BULL ... is
    itself one of the venue's `bases` (so JUP and SYRUP are not). `stables` and `wrapped` are base assets that
    CoinGecko's categories name.
    """
    if leveraged or any(base.endswith(end) and base[: -len(end)] in bases for end in _LEVERAGED_ENDS):
        return Kind.LEVERAGED
    if base in limits.stablecoins or base in stables:
        return Kind.STABLE
    if base in limits.wrapped or base in wrapped:
        return Kind.WRAPPED
    return Kind.PLAIN


def choose_universe(
    offers: Iterable[Offer], volumes_usd: Mapping[str, Decimal], kinds: Mapping[str, Kind],
    rows: Mapping[str, RegistryRow], whitelist: Collection[str], limits: UniverseLimits, admits: bool = True,
) -> list[Seat]:  # fmt: skip
    """Choose the assets to judge, sorted by symbol: the top by volume, every row not EXCLUDED, and the whitelisted.

    `volumes_usd` is pair -> USD of 24 h; a pair without one is not ranked, so on a night without volumes nobody new
    comes in but the whitelisted; neither when not `admits`, a night on which kinds are in doubt. An EXCLUDED row on
    its way back keeps its seat when only its volume was not told: the bad night is the vendor's. A row is never left
    out because of its kind: a gate deals with that, with its grace.
    """
    by_base = _offers_by_base(offers, limits.quotes)
    chosen = {base: choose_offer(listed, rows.get(base), limits.quotes) for base, listed in by_base.items()}
    seats = {symbol: "a row" for symbol, row in rows.items() if row.status is not Status.EXCLUDED}
    seats |= {symbol: "whitelisted" for symbol in whitelist if symbol in rows or symbol in chosen}
    ranked = sorted(
        (
            (-volumes_usd[offer.pair], base)
            for base, offer in chosen.items()
            if offer.status == TRADING and offer.pair in volumes_usd and kinds.get(base, Kind.PLAIN) is Kind.PLAIN
        ),
    )
    for _, base in ranked[: limits.top]:
        if admits or base in rows:
            seats.setdefault(base, f"among the top {limits.top} by volume")
    for symbol, row in rows.items():
        if row.good_nights and symbol in chosen and chosen[symbol].pair not in volumes_usd:
            seats.setdefault(symbol, "on its way back, its volume not told")
    return [Seat(symbol, chosen.get(symbol), why) for symbol, why in sorted(seats.items())]


def choose_offer(listed: Mapping[str, Offer], row: RegistryRow | None, quotes: Iterable[str]) -> Offer:
    """Choose an asset's pair among those listed, by quote: the first quote that trades.

    The pair of the row is kept while it is listed, halted or not, unless a quote before it trades: a halt must show as
    a halt, and must not make the registry flee to another pair. `listed` is not empty.
    """
    best: Offer | None = None
    for quote in quotes:
        offer = listed.get(quote)
        if offer is None:
            continue
        if offer.status == TRADING or (row is not None and row.pair == offer.pair):
            return offer
        best = best or offer
    assert best is not None, "an asset without an offer"
    return best


def split_bases(offers: Iterable[Offer], quotes: Collection[str]) -> tuple[set[str], set[str]]:
    """The venue's base assets: those with a pair in one of the quotes, and those with pairs in others alone."""
    bases: set[str] = set()
    elsewhere: set[str] = set()
    for offer in offers:
        (bases if offer.quote in quotes else elsewhere).add(offer.base)
    return bases, elsewhere - bases


def _offers_by_base(offers: Iterable[Offer], quotes: Collection[str]) -> dict[str, dict[str, Offer]]:
    found: dict[str, dict[str, Offer]] = {}
    for offer in offers:
        if offer.quote in quotes:
            found.setdefault(offer.base, {})[offer.quote] = offer
    return found
