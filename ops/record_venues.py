"""What can be recorded: a venue's market, where it answers, and what it calls a symbol."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from common.errors import ConfigError
from common.venues import binance_spot, okx_spot
from common.venues.market import Market
from ohlcv_ingestor.settings import OhlcvSettings


class Venue(msgspec.Struct, frozen=True):
    """One venue product; `variable` is the setting that names another endpoint, `name_of` raises ConfigError."""

    market: Market
    variable: str
    url: str
    name_of: Callable[[str], str]
    attempts: tuple[int, float] = (300, 300.0)
    """At most so many connections in so many seconds."""


def _binance_name(symbol: str) -> str:
    if not symbol.isalnum():
        raise ConfigError(f"{symbol!r} is not a pair like SOLUSDT")
    return symbol.upper()


def _okx_name(symbol: str) -> str:
    upper = symbol.upper()
    name = upper if "-" in upper else okx_spot.inst_id_of(upper)
    if name is None:
        raise ConfigError(f"{symbol!r} is neither a pair nor an instrument of OKX like SOL-USDT")
    return name


def _default(field: str) -> str:
    return str(OhlcvSettings.model_fields[field].default)


VENUES = {
    "binance": Venue(binance_spot.MARKET, "AGG_WS_URL", _default("agg_ws_url"), _binance_name),
    "okx": Venue(
        okx_spot.MARKET,
        "OKX_WS_URL",
        _default("okx_ws_url"),
        _okx_name,
        (okx_spot.CONNECTS_MAX, okx_spot.CONNECTS_WINDOW_S),
    ),
}
