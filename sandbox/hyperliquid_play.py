"""Accounts that trade by themselves: which order comes next, from the seed and what the account holds."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from msgspec.structs import replace

from sandbox.draws import draw_between, draw_unit, sway
from sandbox.hyperliquid_ledger import DUST, ZERO_HASH, Account, Order, is_spot


class Coin(NamedTuple):
    """A market: decimals of its size, and a price about which it sways."""

    name: str
    decimals: int
    price: float
    leverage: int = 20


COINS = {
    coin.name: coin
    for coin in (
        Coin("BTC", 5, 91_230.0, 40), Coin("ETH", 4, 3_120.0, 25), Coin("SOL", 2, 151.0), Coin("HYPE", 2, 36.0, 10),
        Coin("kPEPE", 0, 0.0079, 10), Coin("PUMP", 0, 0.002, 5), Coin("xyz:CL", 3, 84.1), Coin("xyz:SP500", 3, 6_610.0),
        Coin("@107", 2, 36.0, 1), Coin("@142", 5, 91_200.0, 1), Coin("PURR/USDC", 0, 0.21, 1),
    )
}  # fmt: skip
PERPS = tuple(name for name in COINS if not is_spot(name))
SPOTS = tuple(name for name in COINS if is_spot(name))
BURST_EVERY, CROSS_EVERY, BURST_FILLS = 61, 23, 55
NOTIONAL = 20_000.0
"""What an order is worth at most, about."""
ACTIONS = {
    "open": 0.0, "increase": 0.36, "decrease": 0.32, "close": 0.1, "flip": 0.12, "liquidate": 0.03, "maker": 0.04,
    "deleverage": 0.02, "settle": 0.01,
}  # fmt: skip
"""What is done with a position, by probability; where it is flat and there is nothing to do it with, it is opened."""
SPOT_ACTIONS = ("buy", "sell", "dust")
GROWING = ("open", "increase", "maker", "buy")
"""What also an account can do that holds nothing."""


def price_of(seed: str, coin: str, time_ms: int) -> Decimal:
    """The price of a coin at a time: five digits that count."""
    known = COINS.get(coin, Coin(coin, 2, 10.0))
    moved = known.price * (1 + 0.01 * sway(time_ms / 1000, 3_600, seed, coin) + 0.002 * sway(time_ms / 1000, 97, coin))
    return Decimal(format(Decimal(f"{moved:.5g}"), "f"))


def decimals_of(coin: str) -> int:
    """How fine the size of a coin is."""
    return COINS[coin].decimals if coin in COINS else 2


def split_size(size: Decimal, parts: int, decimals: int, *words: object) -> list[Decimal]:
    """A size in so many unequal parts, each at least the smallest size; fewer when it is too small for that."""
    unit = Decimal(1).scaleb(-decimals)
    units = int(size / unit)
    if parts <= 1 or units < 2 or units * unit != size:
        return [size]
    parts = min(parts, units)
    shares = [draw_between(0.2, 1.0, "share", i, *words) for i in range(parts)]
    spare, total = units - parts, sum(shares)
    counts = [1 + int(spare * share / total) for share in shares]
    counts[-1] += units - sum(counts)
    return [count * unit for count in counts]


def make_action(account: Account, action: str, coin: str, seed: str, time_ms: int, *words: object) -> Order | None:
    """The order that does `action` with an account's position; None when it holds nothing to do that with.

    Raises ValueError when it is none of the table.
    """
    held = account.size(coin)
    if action not in ACTIONS and action not in SPOT_ACTIONS:
        raise ValueError(f"unknown action {action!r}, known: {', '.join((*ACTIONS, *SPOT_ACTIONS))}")
    if held == 0 and action not in GROWING:
        return None
    if action in SPOT_ACTIONS:
        return _trade_spot(account.user, action, coin, held, seed, time_ms, *words)
    drawn = _draw_size(coin, seed, time_ms, *words)
    if action not in GROWING:
        return _shrink(account, action, coin, drawn, seed, *words)
    side = "B" if held > 0 or (held == 0 and draw_unit("way", seed, *words) < 0.5) else "A"
    order = Order(user=account.user, coin=coin, side=side, sz=drawn)
    if action == "maker":
        # Somebody else is liquidated into this account's resting order.
        return replace(order, crossed=False, liquidated=make_address(seed, "victim", *words))
    return replace(order, parts=1 + int(4 * draw_unit("parts", seed, *words)))


def _shrink(account: Account, action: str, coin: str, drawn: Decimal, seed: str, *words: object) -> Order:
    held = account.size(coin)
    side, size = "A" if held > 0 else "B", abs(held)
    if action == "flip":
        size += drawn
    elif action == "decrease":
        cut = Decimal(str(round(draw_between(0.2, 0.8, "cut", seed, *words), 3)))
        size = min(size, _round(size * cut, coin))
    elif action != "close":
        return _close_by_force(account, action, coin, seed, *words)
    parts = 1 + int(4 * draw_unit("parts", seed, *words))
    return Order(user=account.user, coin=coin, side=side, sz=size, parts=parts)


def _close_by_force(account: Account, action: str, coin: str, seed: str, *words: object) -> Order:
    held = account.size(coin)
    side = "A" if held > 0 else "B"
    whole = Order(user=account.user, coin=coin, side=side, sz=abs(held))
    if action == "settle":
        return replace(whole, dir="Settlement", hash=ZERO_HASH, crossed=False)
    if action == "deleverage":
        return replace(whole, sz=_round(abs(held) / 2, coin), dir="Auto-Deleveraging", hash=ZERO_HASH, crossed=False)
    if draw_unit("backstop", seed, *words) < 0.5:
        label = f"Liquidated Cross {'Long' if held > 0 else 'Short'}"
        return replace(whole, dir=label, liquidated="self", method="backstop", hash=ZERO_HASH)
    return replace(whole, parts=3, liquidated="self")


def _trade_spot(user: str, action: str, coin: str, held: Decimal, seed: str, time_ms: int, *words: object) -> Order:
    if action == "dust":
        return Order(user=user, coin=coin, side="A", sz=held, dir=DUST, hash=ZERO_HASH, tid=0)
    lot = Decimal(1).scaleb(-decimals_of(coin))
    if action == "sell" and held >= lot:
        return Order(user=user, coin=coin, side="A", sz=max(_round(held / 2, coin), lot))
    return Order(user=user, coin=coin, side="B", sz=_draw_size(coin, seed, time_ms, *words))


def _draw_size(coin: str, seed: str, time_ms: int, *words: object) -> Decimal:
    worth = draw_between(NOTIONAL / 20, NOTIONAL, "worth", seed, *words)
    return _round(Decimal(str(round(worth, 2))) / price_of(seed, coin, time_ms), coin)


def _round(size: Decimal, coin: str) -> Decimal:
    unit = Decimal(1).scaleb(-decimals_of(coin))
    return max(size.quantize(unit), unit)


def make_address(*words: object) -> str:
    """A 20-byte address by hash."""
    return "0x" + "".join(f"{int(draw_unit('address', i, *words) * 2**32):08x}" for i in range(5))


class SeededPlay:
    """The made-up market's steps; `next_ms` is when the next one is due."""

    def __init__(self, seed: str, users: Sequence[str], rate: float, epoch_ms: int, transfer_every: int) -> None:
        self._seed = seed
        self._users = users
        self._rate = rate
        self._transfer_every = transfer_every
        self._step = 0
        self._at_ms = float(epoch_ms)

    @property
    def next_ms(self) -> int | None:
        """Epoch milliseconds of the next step; None when nobody trades."""
        return int(self._at_ms) if self._users and self._rate > 0 else None

    def take(self, accounts: dict[str, Account]) -> list[Order]:
        """The orders of the next step, to be carried out together."""
        now_ms, step = int(self._at_ms), self._step
        orders = self._draw(accounts, now_ms, step)
        fills = sum(order.parts for order in orders)
        self._at_ms += 1000 * fills / self._rate * draw_between(0.5, 1.5, "pause", self._seed, step)
        self._step += 1
        return orders

    def _draw(self, accounts: dict[str, Account], now_ms: int, step: int) -> list[Order]:
        seed, users = self._seed, self._users
        account = accounts[users[int(len(users) * draw_unit("who", seed, step))]]
        coins = self._coins(account.user)
        coin = coins[int(len(coins) * draw_unit("coin", seed, step))]
        if is_spot(coin):
            action = SPOT_ACTIONS[int(2.4 * draw_unit("spot", seed, step))]
            return [_make_sure(account, action, coin, seed, now_ms, step)]
        if self._transfer_every and step % self._transfer_every == self._transfer_every - 1:
            moved = _draw_size(coin, seed, now_ms, "transfer", step)
            order = _make_sure(account, "increase", coin, seed, now_ms, step)
            return [replace(order, start=account.size(coin) + moved)]
        if step % BURST_EVERY == BURST_EVERY - 1:
            # Through zero wherever there is a position: decreases, a flip and increases under one timestamp.
            return [replace(_make_sure(account, "flip", coin, seed, now_ms, step), parts=BURST_FILLS)]
        if step % CROSS_EVERY == CROSS_EVERY - 1 and len(users) > 1:
            return self._cross(accounts, account, coin, now_ms, step)
        return [_make_sure(account, _draw_action(seed, step), coin, seed, now_ms, step)]

    def _coins(self, user: str) -> tuple[str, ...]:
        """Four perpetuals and a spot pair of each account."""
        first = int(len(PERPS) * draw_unit("coins", self._seed, user))
        perps = tuple(PERPS[(first + 3 * i) % len(PERPS)] for i in range(4))
        return (*dict.fromkeys(perps), SPOTS[int(len(SPOTS) * draw_unit("pair", user))])

    def _cross(self, accounts: dict[str, Account], account: Account, coin: str, now_ms: int, step: int) -> list[Order]:
        """Two accounts trade with each other: both fills carry the same tid."""
        others = [user for user in self._users if user != account.user]
        other = others[int(len(others) * draw_unit("other", self._seed, step))]
        tid = int(draw_unit("cross", self._seed, step) * 2**50)
        order = replace(_make_sure(account, "increase", coin, self._seed, now_ms, step), parts=1, tid=tid)
        counter = Order(
            user=other, coin=coin, side="A" if order.side == "B" else "B", sz=order.sz, tid=tid, crossed=False
        )
        return [order, counter]


def _make_sure(account: Account, action: str, coin: str, seed: str, time_ms: int, step: int) -> Order:
    """The action, or the growing one where there is nothing to do it with."""
    order = make_action(account, action, coin, seed, time_ms, step)
    while order is None:
        order = make_action(account, "buy" if is_spot(coin) else "open", coin, seed, time_ms, step)
    return order


def _draw_action(seed: str, step: int) -> str:
    left = draw_unit("action", seed, step)
    for action, share in ACTIONS.items():
        left -= share
        if left < 0:
            return action
    return "increase"
