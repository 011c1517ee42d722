"""The market that the sandbox shows: a source, minus what the venue itself never had, in venue time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sandbox.clock import VenueClock
from sandbox.config import Config
from sandbox.seeded import build_seeded
from sandbox.tape import TapeSource, read_tapes
from sandbox.trades import IdRanges, Source, Trade

SEEDED_HISTORY_MINUTES = 180


class Market:
    """Trades by symbol and time.

    `missing` ids exist nowhere (not streamed, not in REST, not recounted); `withheld` ids are only never streamed.
    `version` changes when the past may have changed.
    """

    def __init__(self, source: Source, clock: VenueClock) -> None:
        self.source = source
        self.clock = clock
        self.symbols = source.symbols
        self.missing = IdRanges()
        self.withheld = IdRanges()
        self.version = 0

    def lose(self, symbol: str, from_id: int, to_id: int) -> None:
        """Make the venue itself forget ids."""
        self.missing.add(symbol, from_id, to_id)
        self.version += 1

    def between(self, symbol: str, from_ms: int, to_ms: int) -> Sequence[Trade]:
        """Trades of `[from_ms, to_ms)`, the future included."""
        return self.missing.without(symbol, self.source.between(symbol, from_ms, to_ms))

    def from_id(self, symbol: str, from_id: int, limit: int, until_ms: int) -> Sequence[Trade]:
        """At most `limit` trades with ids from `from_id` on, none later than `until_ms`."""
        found: list[Trade] = []
        while len(found) < limit:
            page = self.source.from_id(symbol, from_id, limit - len(found), until_ms)
            if not page:
                break
            found += self.missing.without(symbol, page)
            from_id = page[-1].id + 1
        return found

    def before(self, symbol: str, time_ms: int, limit: int) -> Sequence[Trade]:
        """The last `limit` trades earlier than `time_ms`; fewer where the venue lost some."""
        wanted = limit
        while True:
            page = self.source.before(symbol, time_ms, wanted)
            found = self.missing.without(symbol, page)
            if len(found) >= limit or len(page) < wanted:
                return found[-limit:]
            wanted *= 2


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _open_tape(config: Config) -> tuple[TapeSource, int]:
    trades = read_tapes(config.tapes, config.tape_limit)
    first_ms = min(rows[0].time_ms for rows in trades.values() if rows)
    lead_ms = int(config.lead_s * 1000 * config.speed) - (config.history_minutes or 0) * 60_000
    if config.start == "recorded":
        return TapeSource(trades, 0), first_ms - lead_ms
    start_ms = _wall_ms() if config.start == "now" else config.start
    anchor_ms = start_ms + lead_ms if config.epoch_ms is None else config.epoch_ms
    # Whole seconds, rounded up, so that every trade stays in a second of its own company.
    offset_ms = -((first_ms - anchor_ms) // 1000) * 1000
    return TapeSource(trades, offset_ms), start_ms


def _open_seeded(config: Config) -> tuple[Source, int]:
    start_ms = _wall_ms() if isinstance(config.start, str) else config.start
    minutes = SEEDED_HISTORY_MINUTES if config.history_minutes is None else config.history_minutes
    epoch_ms = start_ms - minutes * 60_000 if config.epoch_ms is None else config.epoch_ms
    epoch_s = epoch_ms // 60_000 * 60
    early = config.rate if config.history_rate is None else config.history_rate
    source = build_seeded(
        config.seed,
        config.symbols,
        (early, config.rate, epoch_s + minutes * 60),
        epoch_s,
        rank_power=config.rank_power,
        quiet_every=config.quiet_every,
        qty_decimals=config.qty_decimals,
    )
    # Making the market takes a moment, and "now" means the moment after it.
    return source, _wall_ms() if isinstance(config.start, str) else config.start


def open_market(config: Config) -> Market:
    """The market that a configuration asks for, with its clock started (or held)."""
    source, start_ms = _open_tape(config) if config.tapes else _open_seeded(config)
    market = Market(source, VenueClock(start_ms, config.speed, config.hold))
    for symbol, from_id, to_id in config.withhold:
        market.withheld.add(symbol, from_id, to_id)
    return market
