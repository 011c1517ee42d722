"""One account at Hyperliquid: what a trade does to its positions, and the fill that the venue tells of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Literal, NamedTuple

import msgspec

Wire = dict[str, Any]
"""A fill as it stands in frames and answers, keys in the venue's order."""
ZERO_HASH = "0x" + "0" * 64
DUST = "Spot Dust Conversion"
PERP_FEE, SPOT_FEE = Decimal("0.00035"), Decimal("0.0007")
_FINE = Decimal("0.000001")


class Order(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A trade of one account, filled in `parts` at one time; what is left out is made up.

    `start` is the position that the account has by then, whatever it had before: a move without a fill.
    """

    user: str
    coin: str
    side: Literal["B", "A"]
    sz: Decimal
    px: Decimal | None = None
    parts: int = 1
    time: int | None = None  # epoch ms, may be past; None: when it happens
    after_ms: int = 0
    start: Decimal | None = None
    dir: str | None = None
    liquidated: str | None = None  # address, or "self"
    method: Literal["market", "backstop"] = "market"
    crossed: bool = True
    hash: str | None = None
    tid: int | None = None  # of the first part
    cloid: str | None = None
    streamed: bool = True  # False: REST alone shows it


class Stamp(NamedTuple):
    """What a fill has from the block it is in."""

    time_ms: int
    hash: str
    oid: int
    tid: int


@dataclass
class Position:
    """Signed size and average entry price."""

    size: Decimal = Decimal(0)
    entry: Decimal = Decimal(0)


@dataclass
class Account:
    """Positions and balances by coin; `moves` are transfers as the ledger of non-funding updates shows them."""

    user: str
    leverage: int = 10
    positions: dict[str, Position] = field(default_factory=dict[str, Position])
    realized: Decimal = Decimal(0)
    moves: list[Wire] = field(default_factory=list[Wire])

    def position(self, coin: str) -> Position:
        """The position of a coin, flat at first."""
        return self.positions.setdefault(coin, Position())

    def size(self, coin: str) -> Decimal:
        """Signed size of a position; a balance for spot."""
        return self.position(coin).size


def is_spot(coin: str) -> bool:
    """Whether a coin's name is that of a spot pair."""
    return coin.startswith("@") or "/" in coin


def is_default_dex(coin: str) -> bool:
    """Whether a coin is a perpetual of the venue's own dex."""
    return ":" not in coin and not is_spot(coin)


def number_text(value: Decimal) -> str:
    """A number as the venue writes it: no exponent, no trailing zeros, but at least one decimal."""
    text = format(value, "f")
    whole, _, rest = text.partition(".")
    whole = "0" if whole == "-0" and not rest.strip("0") else whole
    return f"{whole}.{rest.rstrip('0') or '0'}"


def name_direction(coin: str, start: Decimal, delta: Decimal) -> str:
    """The label that the venue shows for a trade of `delta` from a position of `start`."""
    if is_spot(coin):
        return "Buy" if delta > 0 else "Sell"
    if start == 0 or (start > 0) == (delta > 0):
        return "Open Long" if delta > 0 else "Open Short"
    if abs(delta) <= abs(start):
        return "Close Long" if start > 0 else "Close Short"
    return "Long > Short" if start > 0 else "Short > Long"


def fill_order(account: Account, order: Order, size: Decimal, price: Decimal, stamp: Stamp) -> Wire:
    """Carry out one part of an order: the account has it from now on. Returns the fill."""
    coin, position = order.coin, account.position(order.coin)
    start, delta = position.size, size if order.side == "B" else -size
    pnl = _move(position, coin, delta, price)
    account.realized += pnl
    fee, token = _charge(order, size, price)
    if is_spot(coin) and token != "USDC":
        # The fee of a spot purchase is taken from what was bought: balances do not chain.
        position.size -= fee
    fill: Wire = {
        "coin": coin,
        "px": number_text(price),
        "sz": number_text(size),
        "side": order.side,
        "time": stamp.time_ms,
        "startPosition": number_text(start),
        "dir": order.dir or name_direction(coin, start, delta),
        "closedPnl": number_text(pnl),
        "hash": stamp.hash,
        "oid": stamp.oid,
        "crossed": order.crossed,
        "fee": number_text(fee),
        "tid": stamp.tid,
    }
    if order.cloid is not None:
        fill["cloid"] = order.cloid
    if order.liquidated is not None:
        victim = account.user if order.liquidated == "self" else order.liquidated
        fill["liquidation"] = {"liquidatedUser": victim, "markPx": number_text(price), "method": order.method}
    return fill | {"feeToken": token, "twapId": None}


def _move(position: Position, coin: str, delta: Decimal, price: Decimal) -> Decimal:
    """Add a trade to a position; returns the profit of the part that closed."""
    start = position.size
    position.size = start + delta
    if is_spot(coin):
        return Decimal(0)
    if start == 0 or (start > 0) == (delta > 0):
        total = position.entry * abs(start) + price * abs(delta)
        position.entry = (total / abs(position.size)).quantize(_FINE, ROUND_HALF_EVEN)
        return Decimal(0)
    closed = min(abs(delta), abs(start)) * (1 if start > 0 else -1)
    pnl = ((price - position.entry) * closed).quantize(_FINE, ROUND_HALF_EVEN)
    if abs(delta) > abs(start):
        position.entry = price
    return pnl


def _charge(order: Order, size: Decimal, price: Decimal) -> tuple[Decimal, str]:
    if order.dir == DUST:
        return Decimal(0), "USDC"
    if is_spot(order.coin) and order.side == "B":
        token = order.coin.partition("/")[0] if "/" in order.coin else "U" + order.coin[1:]
        return (size * SPOT_FEE).quantize(Decimal("1e-8"), ROUND_HALF_EVEN), token
    rate = SPOT_FEE if is_spot(order.coin) else PERP_FEE
    return (size * price * rate).quantize(_FINE, ROUND_HALF_EVEN), "USDC"
