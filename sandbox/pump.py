"""Moves trades from the market to the connections, in venue time and in one order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sandbox.config import Config
from sandbox.market import Market
from sandbox.sockets import Sockets
from sandbox.trades import Trade
from sandbox.troubles import Troubles

STEP_FRAMES = 2_000
"""Trades pushed between two looks at the readers."""


class Pump:
    """Everything due by venue now, second by second; it lags behind rather than skip a trade.

    Trades and cadence share the one order, so no cadence frame tells a time whose trades are still unsent.
    """

    def __init__(self, config: Config, market: Market, hub: Sockets, troubles: Troubles) -> None:
        self._market = market
        self._hub = hub
        self._troubles = troubles
        self._tick_s = config.tick_ms / 1000
        self._second = market.clock.start_ms // 1000
        self._batch: list[tuple[int, str, Trade]] = []
        self._next = 0
        self._ahead: list[tuple[int, str, Trade]] = []
        self._ahead_symbols = 0
        self._start_ms = market.clock.start_ms
        self._mark_ms = (self._start_ms // hub.cadence_ms + 1) * hub.cadence_ms
        # The coming second is made ready in pieces, so that no tick has to make it all.
        self._piece = max(1, round(len(market.symbols) * config.tick_ms * config.speed / 700))
        self._load()

    @property
    def position_ms(self) -> int:
        """Venue time up to which everything has been pushed."""
        return self._batch[self._next][0] if self._next < len(self._batch) else (self._second + 1) * 1000

    @property
    def is_done(self) -> bool:
        """Whether a tape has been played to its end."""
        end_ms = self._market.source.end_ms
        return end_ms is not None and self.position_ms > end_ms

    async def run(self) -> None:
        """Push for ever."""
        while True:
            left = self._step(self._market.clock.now_ms())
            self._hub.flush()
            await self._hub.wait_for_readers()
            if left:
                await asyncio.sleep(0)
            else:
                self._prepare(self._piece)
                await asyncio.sleep(self._tick_s)

    def _step(self, now_ms: int) -> bool:
        """Gather what is due; True when there is more of it."""
        for symbol, trade in self._troubles.released():
            self._hub.push_trade(symbol, trade, self._event_ms(trade.time_ms))
        if self._troubles.oversized_bytes:
            self._hub.push_filler(self._troubles.oversized_bytes)
            self._troubles.oversized_bytes = 0
        lag_ms = self._market.source.lag_ms
        for _ in range(STEP_FRAMES):
            if self._next < len(self._batch) and self._batch[self._next][0] < self._mark_ms:
                time_ms, symbol, trade = self._batch[self._next]
                if time_ms + lag_ms > now_ms:
                    return False
                self._next += 1
                self._push(symbol, trade)
            else:
                if self._mark_ms > now_ms:
                    return False
                self._hub.push_cadence(self._mark_ms + self._market.clock.skew_ms)
                self._mark_ms += self._hub.cadence_ms
                if self._mark_ms > (self._second + 1) * 1000:
                    self._second += 1
                    self._load()
        return True

    def _event_ms(self, time_ms: int) -> int:
        return time_ms + self._market.source.lag_ms + self._market.clock.skew_ms

    def _push(self, symbol: str, trade: Trade) -> None:
        market, troubles = self._market, self._troubles
        if market.withheld.has(symbol, trade.id) or market.missing.has(symbol, trade.id):
            return
        # Frames that nobody hears use up no fault.
        routed: Sequence[Trade] = troubles.route(symbol, trade) if self._hub.is_heard(symbol) else (trade,)
        for due in routed:
            event_ms = self._event_ms(due.time_ms)
            if self._hub.push_trade(symbol, due, event_ms) and troubles.take("malformed", symbol):
                self._hub.push_broken(symbol, due, event_ms)

    def _prepare(self, symbols: int) -> None:
        """Draw the coming second's trades of the next few symbols."""
        source, begin_ms = self._market.source, (self._second + 1) * 1000
        for symbol in source.symbols[self._ahead_symbols : self._ahead_symbols + symbols]:
            self._ahead += [(t.time_ms, symbol, t) for t in source.between(symbol, begin_ms, begin_ms + 1000)]
        self._ahead_symbols += symbols

    def _load(self) -> None:
        """Make the second at `self._second` the current one."""
        self._second -= 1
        self._prepare(len(self._market.symbols))
        self._second += 1
        # By time only: a symbol's trades are in id order already, and the sort keeps it.
        self._ahead.sort(key=_by_time)
        self._batch, self._next = self._ahead, 0
        self._ahead, self._ahead_symbols = [], 0
        if self._second * 1000 < self._start_ms:
            self._batch = [item for item in self._batch if item[0] >= self._start_ms]


def _by_time(item: tuple[int, str, Trade]) -> int:
    return item[0]
