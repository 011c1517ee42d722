"""What is wrong with the venue at the moment: the state that faults set and the streams and REST obey."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from sandbox.rest_rules import RestRules
from sandbox.trades import IdRanges, Trade

ANY = "*"
"""In place of a symbol: the next frames of whichever symbol."""


class Troubles:
    """Windows of real time by kind, counters of frames to spoil by symbol, ids never to stream.

    `clock` gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.calm = True  # no fault since the last clear: nothing to look up for each trade
        self.drop_ids = IdRanges()
        self.next: dict[str, Counter[str]] = {kind: Counter() for kind in ("drop", "duplicate", "reorder", "malformed")}
        self.reorder_behind = 1
        self.delay_s: dict[str, float] = {}
        self.dead_streams: set[str] = set()
        self.rest_status = 503
        self.rest_wait_s = 0.0
        self.rest_behind_ms = 0
        self.rest_rules = RestRules(clock)
        self.oversized_bytes = 0
        self.done: Counter[str] = Counter()
        self._until: dict[str, float] = {}
        self._swapped: dict[str, list[tuple[Trade, int]]] = {}
        self._delayed: deque[tuple[float, str, Trade]] = deque()

    def start(self, kind: str, for_s: float) -> None:
        """Open a window of `for_s` real seconds."""
        self._until[kind] = self.clock() + for_s

    def on(self, kind: str) -> bool:
        """Whether a window is open."""
        return kind in self._until and self.clock() < self._until[kind]

    def left_s(self, kind: str) -> float:
        """Real seconds until a window closes."""
        return max(0.0, self._until.get(kind, 0.0) - self.clock())

    def clear(self) -> None:
        """Everything is well again; what is held back is lost to the stream, REST has it."""
        done = self.done
        self.__init__(self.clock)
        self.done = done

    def take(self, kind: str, symbol: str) -> bool:
        """Use up one frame of a counter, the symbol's own first."""
        counter = self.next[kind]
        if not counter:
            return False
        for name in (symbol, ANY):
            if counter[name] > 0:
                counter[name] -= 1
                self.done[kind] += 1
                return True
        return False

    def route(self, symbol: str, trade: Trade) -> Sequence[Trade]:
        """The trades to push now that `trade` is due: itself, nothing, itself twice, or an earlier one after it."""
        if self.calm:
            return (trade,)
        if self.drop_ids.has(symbol, trade.id) or self.on(f"silent_symbol {symbol}") or self.take("drop", symbol):
            return ()
        if self._delay(symbol, trade):
            return ()
        if symbol in self._swapped:
            return self._overtake(symbol, trade)
        if self.take("reorder", symbol):
            self._swapped[symbol] = [(trade, self.reorder_behind)]
            return ()
        return (trade, trade) if self.take("duplicate", symbol) else (trade,)

    def _overtake(self, symbol: str, trade: Trade) -> Sequence[Trade]:
        (held, behind), *_ = self._swapped[symbol]
        if behind > 1:
            self._swapped[symbol] = [(held, behind - 1)]
            return (trade,)
        del self._swapped[symbol]
        return (trade, held)

    def _delay(self, symbol: str, trade: Trade) -> bool:
        for name in (symbol, ANY):
            if self.on(f"stall_symbol {name}"):
                self._delayed.append((self._until[f"stall_symbol {name}"], symbol, trade))
                return True
            if self.on(f"delay {name}"):
                self._delayed.append((self.clock() + self.delay_s[name], symbol, trade))
                return True
        return False

    def released(self) -> list[tuple[str, Trade]]:
        """Delayed trades whose time has come, first in first out."""
        found: list[tuple[str, Trade]] = []
        now = self.clock() if self._delayed else 0.0
        while self._delayed and self._delayed[0][0] <= now:
            _, symbol, trade = self._delayed.popleft()
            found.append((symbol, trade))
        return found
