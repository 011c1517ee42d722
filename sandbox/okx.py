"""The second venue: OKX spot, with a market of its own for the same symbols, in the same venue time."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sandbox.clock import VenueClock
from sandbox.config import Config
from sandbox.market import SEEDED_HISTORY_MINUTES, Market
from sandbox.seeded import build_seeded
from sandbox.trades import Source, Trade

SEED_STEP = 7_001
"""Added to the seed: other trades, ids and volumes, so that a row of the wrong venue is seen."""


class OkxSource:
    """A source whose ids are OKX's: a record is known by the last single trade in it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.symbols = source.symbols
        self.lag_ms = source.lag_ms
        self.end_ms = source.end_ms

    def first_ms(self, symbol: str) -> int | None:
        """Time of the first trade ever, or a lower bound of it."""
        return self._source.first_ms(symbol)

    def between(self, symbol: str, from_ms: int, to_ms: int) -> Sequence[Trade]:
        """Trades of `[from_ms, to_ms)`."""
        return _renumber(self._source.between(symbol, from_ms, to_ms))

    def from_id(self, symbol: str, from_id: int, limit: int, until_ms: int) -> Sequence[Trade]:
        """At most `limit` trades with ids from `from_id` on, none later than `until_ms`."""
        start = self._source.from_id(symbol, 0, 1, until_ms)
        if not start:
            return []
        # Every record holds at least one single trade, so ids rise at least as fast as records.
        low, high = start[0].id, start[0].id + max(0, from_id - start[0].last)
        while low < high:
            middle = (low + high) // 2
            found = self._source.from_id(symbol, middle, 1, until_ms)
            if found and found[0].last < from_id:
                low = middle + 1
            else:
                high = middle
        return _renumber(self._source.from_id(symbol, low, limit, until_ms))

    def before(self, symbol: str, time_ms: int, limit: int) -> Sequence[Trade]:
        """The last `limit` trades earlier than `time_ms`."""
        return _renumber(self._source.before(symbol, time_ms, limit))


def _renumber(trades: Sequence[Trade]) -> list[Trade]:
    return [msgspec.structs.replace(trade, id=trade.last) for trade in trades]


def open_okx_market(config: Config, primary: Market) -> Market:
    """A seeded market of the primary's symbols; its prices are near the primary's where that one is seeded too."""
    minutes = SEEDED_HISTORY_MINUTES if config.history_minutes is None else config.history_minutes
    firsts = [] if config.tapes else [primary.source.first_ms(symbol) for symbol in primary.symbols]
    epoch_ms = min((ms for ms in firsts if ms is not None), default=primary.clock.start_ms - minutes * 60_000)
    epoch_s = epoch_ms // 60_000 * 60
    early = config.rate if config.history_rate is None else config.history_rate
    source = build_seeded(
        config.seed + SEED_STEP,
        primary.symbols,
        (early, config.rate, epoch_s + minutes * 60),
        epoch_s,
        rank_power=config.rank_power,
        quiet_every=config.quiet_every,
        qty_decimals=config.qty_decimals,
        price_seed=config.seed,
    )
    return Market(OkxSource(source), VenueClock(primary.clock.start_ms, config.speed, follow=primary.clock))
