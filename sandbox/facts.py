"""What is true of one listed pair at every vendor, and how a script changes it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from sandbox.symbols import split_symbol

DAY_MS = 86_400_000


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """One pair. Percentages are of the price, volumes in the quote coin per 24 h, times epoch milliseconds.

    `traded` pairs take their prices from the sandbox's own trades; None means "as those trades say". `scripted` facts
    are exact, made-up ones vary a little from day to day.
    """

    symbol: str
    base: str
    quote: str
    traded: bool = False
    scripted: bool = False
    # Binance spot
    listed: bool = True
    status: str = "TRADING"
    spot: bool = True
    permissions: tuple[str, ...] = ("SPOT", "MARGIN")
    listed_ms: int
    price: Decimal = Decimal(1)
    tick: Decimal = Decimal("0.0001")
    spread_pct: Decimal | None = None
    volume: Decimal | None = None
    move_pct: Decimal | None = None
    # Binance USD-M perpetual
    perp: str | None = None
    perp_status: str = "TRADING"
    perp_listed_ms: int
    open_interest: Decimal = Decimal(0)  # in the perpetual's own units, around which it moves
    funding_hours: int = 8
    funding_missing: tuple[int, ...] = ()  # settlements that the venue does not show
    special_funding: bool = False
    # OKX
    okx: bool = False
    okx_state: str = "live"
    okx_tick: Decimal | None = None
    okx_swap: bool = False
    # CoinGecko: None, and the coin is not there
    coin: str | None = None
    coin_name: str = ""
    mcap: int | None = None
    categories: tuple[str, ...] = ()

    @property
    def multiplier(self) -> int:
        """How many base coins one unit of the perpetual is: 1000 for 1000PEPEUSDT beside PEPEUSDT."""
        return 1000 if self.perp == f"1000{self.symbol}" else 1


_FIELDS = {field.name: field.type for field in msgspec.structs.fields(Facts)}
_FIXED = ("symbol", "base", "quote", "traded", "scripted", "listed_ms", "perp_listed_ms")
SETTABLE = (*(name for name in _FIELDS if name not in _FIXED), "age_days", "perp_age_days")


def new_facts(symbol: str, now_ms: int) -> Facts:
    """A pair listed by a script: middling facts, on Binance spot and CoinGecko only."""
    base, quote = split_symbol(symbol)
    listed_ms = (now_ms // DAY_MS - 400) * DAY_MS
    return Facts(
        symbol=symbol, base=base, quote=quote, scripted=True, listed_ms=listed_ms, perp_listed_ms=listed_ms,
        spread_pct=Decimal("0.05"), volume=Decimal(20_000_000), move_pct=Decimal(1),
        open_interest=Decimal(5_000_000), coin=base.lower(), coin_name=base.title(), mcap=100_000_000,
    )  # fmt: skip


def _read_value(name: str, value: object, facts: Facts) -> tuple[str, object]:
    if name == "perp" and isinstance(value, bool):
        return name, facts.symbol if value else None
    if name == "coin" and isinstance(value, bool):
        return name, (facts.coin or facts.base.lower()) if value else None
    return name, msgspec.convert(value, _FIELDS[name], strict=False)


def change_facts(facts: Facts, changes: dict[str, Any], now_ms: int) -> Facts:
    """The facts after a script's word; days are counted from `now_ms`. Raises ValueError for what does not fit."""
    unknown = [name for name in changes if name not in SETTABLE]
    if unknown:
        raise ValueError(f"unknown fact {unknown[0]!r}, known: {', '.join(SETTABLE)}")
    if facts.traded and {"price", "tick"} & changes.keys():
        raise ValueError(f"the trades say the price of {facts.symbol}")
    patch: dict[str, Any] = {"scripted": True}
    try:
        for name, value in changes.items():
            if name in ("age_days", "perp_age_days"):
                day = (now_ms // DAY_MS - int(value)) * DAY_MS
                patch["listed_ms" if name == "age_days" else "perp_listed_ms"] = day
            else:
                key, read = _read_value(name, value, facts)
                patch[key] = read
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise ValueError(f"fact {error}") from error
    return msgspec.structs.replace(facts, **patch)
