"""CoinGecko's `/coins/markets`: market caps, and which coins a category holds. Pure.

Rules come from docs.coingecko.com. A ticker is not unique there, so coins are told apart by id: a ticker stands for the
coin with the highest market cap that bears it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import Annotated

import msgspec

from common.errors import BadInput
from common.venues.market import Request

ROWS_PER_PAGE = 250
ROOT_PATH = "/api/v3"
PRO_HOST = "pro-api.coingecko.com"
CALLS_WINDOW_S = 60.0


class Coin(msgspec.Struct, frozen=True):
    """One coin; `symbol` in capitals, `market_cap` in USD, None where CoinGecko has none."""

    id: str
    symbol: str
    market_cap: Decimal | None


class _Row(msgspec.Struct, gc=False):
    """{"id":"bitcoin","symbol":"btc","market_cap":1815000000000,..}: numbers may be null, or have an exponent."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    symbol: Annotated[str, msgspec.Meta(max_length=256)]
    market_cap: Decimal | None = None


_decode = msgspec.json.Decoder(list[_Row], strict=False).decode


def markets_request(page: int, category: str | None = None) -> Request:
    """One page by falling market cap, of all coins or of a category."""
    shown = (("order", "market_cap_desc"), ("per_page", str(ROWS_PER_PAGE)), ("page", str(page)))
    named = (("category", category),) if category else ()
    return Request(f"{ROOT_PATH}/coins/markets", (("vs_currency", "usd"), *named, *shown), 1)


def key_headers(host: str, key: str | None) -> dict[str, str]:
    """Headers that carry an API key: which one depends on the plan, and the plan on the host."""
    if not key:
        return {}
    return {"x-cg-pro-api-key" if host == PRO_HOST else "x-cg-demo-api-key": key}


def parse_markets(raw: bytes) -> list[Coin]:
    """Read one page; a short one is the last. Raises BadInput when it can not be read."""
    try:
        rows = _decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadInput(f"not the answer we asked for: {error}") from error
    return [Coin(row.id, row.symbol.upper(), _cap(row.market_cap)) for row in rows]


def coins_by_symbol(coins: Iterable[Coin]) -> dict[str, Coin]:
    """The coin that each ticker stands for: the one with the highest market cap."""
    found: dict[str, Coin] = {}
    for coin in coins:
        known = found.get(coin.symbol)
        if known is None or (coin.market_cap or 0) > (known.market_cap or 0):
            found[coin.symbol] = coin
    return found


def members(coins: dict[str, Coin], ids: Collection[str]) -> frozenset[str]:
    """Tickers whose coin is one of these: a wrapped coin that bears another's ticker makes that one no wrapped coin."""
    return frozenset(symbol for symbol, coin in coins.items() if coin.id in ids)


def _cap(value: Decimal | None) -> Decimal | None:
    """CoinGecko writes 0 for a coin whose supply it does not know."""
    return value if value is not None and value.is_finite() and value > 0 else None
