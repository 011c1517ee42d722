"""The venue's REST budget: request weight per minute of real time, 429 above it, 418 for those who do not listen."""

from __future__ import annotations

import time
from collections.abc import Callable

WEIGHTS = {
    "/api/v3/ping": 1,
    "/api/v3/time": 1,
    "/api/v3/exchangeInfo": 20,
    "/api/v3/aggTrades": 4,
    "/api/v3/klines": 2,
}


class Budget:
    """Weight used in the running minute; `clock` gives monotonic seconds."""

    def __init__(self, limit: int, ban_after: int, ban_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.used = 0
        self.used_max = 0
        self.requests = 0
        self.refused = 0
        self._ban_after = ban_after
        self._ban_s = ban_s
        self._clock = clock
        self._window: int = int(clock() // 60)
        self._deaf = 0
        self._banned_until = 0.0

    def ban(self, for_s: float) -> None:
        """Answer 418 for a while."""
        self._banned_until = self._clock() + for_s

    def charge(self, weight: int) -> tuple[int, float]:
        """Take a request's weight; returns (status, seconds to wait): 200, 429 or 418."""
        now = self._clock()
        window = int(now // 60)
        if window != self._window:
            self._window, self.used, self._deaf = window, 0, 0
        self.requests += 1
        if now < self._banned_until:
            self.refused += 1
            return 418, self._banned_until - now
        if self.used + weight > self.limit:
            self.refused += 1
            self._deaf += 1
            if self._deaf > self._ban_after:
                self.ban(self._ban_s)
                return 418, self._ban_s
            return 429, 60 - now % 60
        self.used += weight
        self.used_max = max(self.used_max, self.used)
        return 200, 0.0
