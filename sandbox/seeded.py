"""A made-up market whose every trade is a pure function of (seed, symbol, time).

The same seed and epoch give the same ids, prices and times on every start, in any order of asking, because nothing
is drawn from a running generator: each minute and each second is hashed on its own.
"""

from __future__ import annotations

import hashlib
import math
import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence

from sandbox.trades import Trade

TICK = 10**6  # a price step of 0.01, in units of 1e-8
QUIET_MINUTES = 90  # of 256 minutes, those in which a quiet symbol trades at all
QUIET_RATE = 0.05
KNOWN_PRICES = {"BTCUSDT": 6_400_000, "ETHUSDT": 320_000, "SOLUSDT": 15_000, "BNBUSDT": 60_000}  # in ticks
_DRAW = struct.Struct("<HBBI")  # one trade: moment in the second, price noise, side, quantity


def poisson_steps(mean: float) -> list[float]:
    """Cumulative Poisson probabilities, for turning a uniform draw into a count by bisection."""
    steps: list[float] = []
    total = 0.0
    for count in range(int(mean + 12 * math.sqrt(mean)) + 40):
        # By logarithms: e**-mean alone is zero for a busy symbol.
        total += math.exp(count * math.log(mean) - mean - math.lgamma(count + 1)) if mean else 1.0
        steps.append(total)
    return steps


class SeededSymbol:
    """One symbol: how many trades each second holds, and what they are."""

    def __init__(
        self,
        key: str,
        epoch_s: int,
        rates: tuple[float, float, int],  # until that second / from that second on
        quiet: bool,
        qty_decimals: tuple[int, int],
        price_key: str | None = None,  # another book's key: prices then move around the same middle as there
    ) -> None:
        self.epoch_s = epoch_s
        self._key = key
        self._quiet = quiet
        early, late, self._switch_s = rates
        # One second in sixteen stays empty whatever the rate, so the others make up for it.
        self._early, self._late = poisson_steps(early * 16 / 15), poisson_steps(late * 16 / 15)
        traits = hashlib.blake2b(key.encode(), digest_size=64).digest()
        symbol = key.partition("|")[2]
        course = traits if price_key is None else hashlib.blake2b(price_key.encode(), digest_size=64).digest()
        self._base = KNOWN_PRICES.get(symbol) or int(10 ** (3 + 3 * course[0] / 256))
        self._phases = [2 * math.pi * byte / 256 for byte in course[1:4]]
        low, high = qty_decimals
        self._qty_step = 10 ** (8 - (low + traits[4] % (high - low + 1)))
        self.first_id = 1000 + int.from_bytes(traits[5:8], "little")
        self._first_raw = 5000 + int.from_bytes(traits[8:11], "little")
        # How many single trades each aggTrade holds repeats every 48: so the sum before any trade needs no walk.
        self._sizes = [1, 1, *(1 + byte % 4 for byte in traits[16:62])]
        self._before = [sum(self._sizes[:i]) for i in range(len(self._sizes))]
        self._counts: list[array[int]] = []
        self._totals = [0]

    def _draw_minute(self, minute: int) -> array[int]:
        start = self.epoch_s + 60 * minute
        draws = hashlib.shake_128(f"{self._key}|m{start}".encode()).digest(244)
        if self._quiet and draws[240] >= QUIET_MINUTES:
            return array("I", bytes(240))
        steps = self._early if start < self._switch_s else self._late
        return array(
            "I",
            [
                0
                if draws[i] < 16
                else min(bisect_right(steps, int.from_bytes(draws[i + 1 : i + 4], "little") / 2**24), len(steps))
                for i in range(0, 240, 4)
            ],
        )

    def _grow(self, minute: int) -> None:
        while len(self._counts) <= minute:
            counts = self._draw_minute(len(self._counts))
            self._counts.append(counts)
            self._totals.append(self._totals[-1] + sum(counts))

    def index_at(self, second: int) -> int:
        """How many trades came before a second."""
        if second <= self.epoch_s:
            return 0
        minute, inside = divmod(second - self.epoch_s, 60)
        self._grow(minute)
        return self._totals[minute] + sum(self._counts[minute][:inside])

    def second_of(self, index: int, until_s: int) -> int | None:
        """The second that holds trade number `index`; None when it comes after `until_s`."""
        if until_s < self.epoch_s or index >= self.index_at(until_s + 1):
            return None
        minute = bisect_right(self._totals, index) - 1
        left = index - self._totals[minute]
        for inside, count in enumerate(self._counts[minute]):
            if left < count:
                return self.epoch_s + 60 * minute + inside
            left -= count
        raise AssertionError("a minute's seconds add up to its total")

    def count_in(self, second: int) -> int:
        """How many trades a second holds."""
        if second < self.epoch_s:
            return 0
        minute, inside = divmod(second - self.epoch_s, 60)
        self._grow(minute)
        return self._counts[minute][inside]

    def _mid(self, second: int) -> int:
        slow, middle, fast = self._phases
        sway = (
            0.010 * math.sin(2 * math.pi * second / 3600 + slow)
            + 0.004 * math.sin(2 * math.pi * second / 613 + middle)
            + 0.001 * math.sin(2 * math.pi * second / 47 + fast)
        )
        return int(self._base * (1 + sway))

    def trades_in(self, second: int) -> list[Trade]:
        """All trades of one second, by id."""
        count = self.count_in(second)
        if not count:
            return []
        index, mid = self.index_at(second), self._mid(second)
        sizes, before, step = self._sizes, self._before, self._qty_step
        round_size = before[-1] + sizes[-1]
        trades: list[Trade] = []
        draws = hashlib.shake_128(f"{self._key}|s{second}".encode()).digest(_DRAW.size * count)
        for moment, noise, side, size in sorted(_DRAW.iter_unpack(draws)):
            rounds, place = divmod(index, len(sizes))
            first = self._first_raw + rounds * round_size + before[place]
            price = max(1, mid + noise % 5 - 2 + (side & 1)) * TICK
            qty = (1 + (size & 0xFFFF) % 5000) * step << (size >> 16) % 6
            trades.append(
                Trade(
                    self.first_id + index,
                    price,
                    qty,
                    first,
                    first + sizes[place] - 1,
                    second * 1000 + moment * 1000 // 65536,
                    not side & 1,
                )
            )
            index += 1
        return trades


class SeededSource:
    """The made-up market of many symbols; it begins at `epoch_ms` (whole minutes) and never ends."""

    lag_ms = 1
    end_ms = None

    def __init__(self, symbols: dict[str, SeededSymbol]) -> None:
        self._books = symbols
        self.symbols = tuple(symbols)

    def first_ms(self, symbol: str) -> int | None:
        """The epoch: no trade is earlier."""
        return self._books[symbol].epoch_s * 1000

    def between(self, symbol: str, from_ms: int, to_ms: int) -> Sequence[Trade]:
        """Trades of `[from_ms, to_ms)`."""
        book, found = self._books[symbol], list[Trade]()
        for second in range(max(from_ms // 1000, book.epoch_s), -(-to_ms // 1000)):
            found += book.trades_in(second)
        if from_ms % 1000 or to_ms % 1000:
            return [trade for trade in found if from_ms <= trade.time_ms < to_ms]
        return found

    def from_id(self, symbol: str, from_id: int, limit: int, until_ms: int) -> Sequence[Trade]:
        """At most `limit` trades with ids from `from_id` on, none later than `until_ms`."""
        book, found = self._books[symbol], list[Trade]()
        second = book.second_of(max(0, from_id - book.first_id), until_ms // 1000)
        while second is not None and second <= until_ms // 1000 and len(found) < limit:
            found += [t for t in book.trades_in(second) if t.id >= from_id and t.time_ms <= until_ms]
            second += 1
        return found[:limit]

    def before(self, symbol: str, time_ms: int, limit: int) -> Sequence[Trade]:
        """The last `limit` trades earlier than `time_ms`."""
        book = self._books[symbol]
        here = [trade for trade in book.trades_in(time_ms // 1000) if trade.time_ms < time_ms]
        above = book.index_at(time_ms // 1000) + len(here)
        low = book.first_id + max(0, above - limit)
        return self.from_id(symbol, low, min(limit, above), time_ms - 1)


def share_rates(total: float, symbols: Sequence[str], power: float, quiet_every: int) -> dict[str, float]:
    """Trades per second of each symbol: busy ones share `total` by rank, every `quiet_every`-th one is quiet."""
    quiet = {name for i, name in enumerate(symbols) if quiet_every and i % quiet_every == quiet_every - 1}
    busy = [name for name in symbols if name not in quiet]
    weights = {name: 1 / (i + 1) ** power for i, name in enumerate(busy)}
    whole = sum(weights.values())
    return {name: QUIET_RATE if name in quiet else total * weights[name] / whole for name in symbols}


def build_seeded(
    seed: int,
    symbols: Sequence[str],
    rates: tuple[float, float, int],
    epoch_s: int,
    *,
    rank_power: float = 0.0,
    quiet_every: int = 4,
    qty_decimals: tuple[int, int] = (5, 6),
    price_seed: int | None = None,
) -> SeededSource:
    """A market of `symbols`; `rates` are trades per second in total before and from a second on.

    With `price_seed` its prices stay near those of the market with that seed.
    """
    early = share_rates(rates[0], symbols, rank_power, quiet_every)
    late = share_rates(rates[1], symbols, rank_power, quiet_every)
    return SeededSource(
        {
            name: SeededSymbol(
                f"{seed}|{name}",
                epoch_s,
                (early[name], late[name], rates[2]),
                bool(quiet_every) and i % quiet_every == quiet_every - 1,
                qty_decimals,
                None if price_seed is None else f"{price_seed}|{name}",
            )
            for i, name in enumerate(symbols)
        }
    )
