"""Every pair that the vendors list, with its prices by time: made up from the seed, changed by scripts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, NamedTuple

from sandbox.clock import VenueClock
from sandbox.draws import draw_between, draw_unit, sway
from sandbox.facts import DAY_MS, Facts, change_facts, new_facts
from sandbox.made_up import OTHER_COINS, Coin, describe_odd, describe_rank, describe_traded
from sandbox.market import Market

SPREAD_STEP_MS = 300_000
_EIGHT = Decimal("1e-8")
_UNITS = Decimal(10**8)


class Quote(NamedTuple):
    """The best bid and ask; both zero where nothing is offered."""

    bid: Decimal
    ask: Decimal


class Day(NamedTuple):
    """24 hours of one pair; volumes in base and quote coin, ids -1 where nothing was traded."""

    open: Decimal
    high: Decimal
    low: Decimal
    last: Decimal
    volume: Decimal
    quote_volume: Decimal
    trades: int
    first_id: int = -1
    last_id: int = -1


def write_fixed(number: Decimal, places: int = 8) -> str:
    """Text with so many decimals, as Binance prints prices and volumes."""
    return format(number.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN), "f")


def _to_tick(price: Decimal, tick: Decimal) -> Decimal:
    return max(tick, (price / tick).quantize(Decimal(1), ROUND_HALF_EVEN) * tick)


class Listing:
    """Pairs by symbol. `night_ms` moves what REST calls "now" ahead of the trades, to play nights.

    Ages are counted back from `day_ms`: pin it, and a restarted sandbox agrees with itself.
    """

    def __init__(self, seed: int, market: Market, extra: int, day_ms: int | None = None) -> None:
        self.seed = seed
        self.night_ms = 0
        self._market = market
        start_ms = market.clock.start_ms if day_ms is None else day_ms
        found = [describe_traded(seed, i, symbol, start_ms) for i, symbol in enumerate(market.symbols)]
        if extra:
            found += [describe_rank(seed, rank, start_ms) for rank in range(extra)]
            found += describe_odd(seed, start_ms)
        self._seeded: dict[str, Facts] = {}
        for facts in found:
            self._seeded.setdefault(facts.symbol, facts)
        self._now = dict(self._seeded)
        self._other_coins: tuple[Coin, ...] = OTHER_COINS if extra else ()

    # What is listed

    def all(self) -> Iterator[Facts]:
        """Every pair known, also one that Binance spot does not list."""
        return iter(tuple(self._now.values()))

    def spot(self) -> list[Facts]:
        """The pairs in Binance's exchangeInfo."""
        return [facts for facts in self._now.values() if facts.listed]

    def perps(self) -> list[Facts]:
        """The pairs with a perpetual at Binance."""
        return [facts for facts in self._now.values() if facts.perp is not None]

    def get(self, symbol: str) -> Facts | None:
        """A pair, listed or not."""
        return self._now.get(symbol)

    def other_coins(self) -> tuple[Coin, ...]:
        """Coins without a pair."""
        return self._other_coins

    def told_ms(self, clock: VenueClock) -> int:
        """What a vendor's REST tells as now."""
        return clock.told_ms() + self.night_ms

    # What scripts do

    def change(self, symbol: str, changes: dict[str, Any], now_ms: int) -> None:
        """Set facts; a symbol not yet known is listed. Raises ValueError when they do not fit."""
        self._now[symbol] = change_facts(self._now.get(symbol) or new_facts(symbol, now_ms), changes, now_ms)

    def restore(self, symbol: str | None) -> None:
        """One pair, or all, as they were made up."""
        if symbol is None:
            self._now = dict(self._seeded)
        elif symbol in self._seeded:
            self._now[symbol] = self._seeded[symbol]
        else:
            self._now.pop(symbol, None)

    # Prices

    def price(self, facts: Facts, at_ms: int) -> Decimal:
        """The last price at a moment; of a traded pair its last trade's, of others a slow sway around the middle."""
        if facts.traded:
            return self._traded_price(facts.symbol, at_ms)
        at_s = at_ms / 1000
        swing = 0.006 * sway(at_s, 5400, self.seed, facts.symbol) + 0.0015 * sway(at_s, 411, facts.symbol, self.seed)
        return _to_tick(facts.price * (1 + Decimal(round(swing * 10**8)) / _UNITS), facts.tick)

    def _traded_price(self, symbol: str, at_ms: int) -> Decimal:
        market = self._market
        found = market.before(symbol, min(at_ms, market.clock.now_ms()) + 1, 1)
        found = found or market.from_id(symbol, 0, 1, market.clock.now_ms())
        return Decimal(found[-1].price) / _UNITS if found else Decimal(1)

    def quote(self, facts: Facts, at_ms: int) -> Quote:
        """The best bid and ask at a moment; a pair that does not trade has none."""
        if facts.status != "TRADING":
            return Quote(Decimal(0), Decimal(0))
        price, tick = self.price(facts, at_ms), facts.tick
        if facts.spread_pct is None:
            return Quote(max(tick, price - tick), max(2 * tick, price))
        spread = price * facts.spread_pct / 100
        if not facts.scripted:
            jitter = draw_between(0.8, 1.2, self.seed, facts.symbol, "spread", at_ms // SPREAD_STEP_MS)
            spread *= Decimal(f"{jitter:.4f}")
        bid = _to_tick(price - spread / 2, tick)
        return Quote(bid, max(bid + tick, _to_tick(price + spread / 2, tick)))

    def day(self, facts: Facts, at_ms: int) -> Day:
        """The 24 hours before a moment, of a pair whose trades the sandbox does not have."""
        last = self.price(facts, at_ms)
        wobble = Decimal(1)
        if not facts.scripted:
            wobble = Decimal(f"{draw_between(0.9, 1.1, self.seed, facts.symbol, at_ms // DAY_MS):.4f}")
        opened = _to_tick(last / (1 + (facts.move_pct or Decimal(0)) / 100), facts.tick)
        high, low = max(opened, last) * Decimal("1.004"), min(opened, last) * Decimal("0.996")
        quote_volume = (facts.volume or Decimal(0)) * wobble
        if facts.status == "BREAK":
            return Day(last, last, last, last, Decimal(0), Decimal(0), 0)
        count = int(quote_volume / 400) + 1
        first_id = 1000 + at_ms // DAY_MS * 7919
        return Day(
            opened, _to_tick(high, facts.tick), _to_tick(low, facts.tick), last, (quote_volume / last).quantize(_EIGHT),
            quote_volume, count, first_id, first_id + count - 1,
        )  # fmt: skip

    def made_up_day(self, facts: Facts, day: int) -> Day:
        """The daily candle of a day (counted from 1970) that the trades do not cover."""
        middle = self.price(facts, 0) if facts.traded else facts.price

        def close(number: int) -> Decimal:
            swing = 0.25 * math.sin(number / 41 + 6 * draw_unit(self.seed, facts.symbol, "days"))
            return _to_tick(middle * (1 + Decimal(round(swing * 10**6)) / 10**6), facts.tick)

        opened, last = close(day - 1), close(day)
        quote_volume = facts.volume or Decimal(50_000_000)
        return Day(
            opened, max(opened, last), min(opened, last), last, (quote_volume / last).quantize(_EIGHT), quote_volume,
            int(quote_volume / 400) + 1,
        )  # fmt: skip
