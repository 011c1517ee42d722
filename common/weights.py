"""How much of a venue's REST budget may be spent now; pure, the time is given (monotonic seconds)."""

from __future__ import annotations

from collections import deque


class WeightBudget:
    """Our share of a host's weight per window, and the circuit that a refusal opens; one per host, for all callers.

    The last `window_s` seconds are counted (Binance: 60), whenever the venue's own window starts: two of our windows
    can then never fall into one of the venue's. The venue's count (`observe`) covers everybody on our address, so it
    is held against the whole limit, ours against our share. Background calls leave the part above `background_share`
    to live ones. A pool of calls that the venue's count does not tell of is not held against it (`counted_by_venue`).
    """

    def __init__(
        self, limit: int = 6000, share: float = 1.0, background_share: float = 0.5, window_s: float = 60.0,
        *, counted_by_venue: bool = True,
    ) -> None:  # fmt: skip
        if not 0 < share <= 1 or not 0 < background_share <= 1 or limit < 1 or window_s <= 0:
            raise ValueError("shares lie in (0, 1], a limit and its window are positive")
        self.window_s = window_s
        self.limit = max(1, int(limit * share))
        self.background_limit = max(1, int(self.limit * background_share))
        self.open_until_s = float("-inf")
        self._host_limit = limit
        self.calls_total = self.weight_total = 0
        self._counted_by_venue = counted_by_venue
        self._spent: deque[tuple[float, int]] = deque()
        self._spent_sum = 0
        self._others = 0
        self._others_until_s = float("-inf")

    def used(self, now_s: float) -> int:
        """Weight we spent in the last window."""
        while self._spent and self._spent[0][0] <= now_s - self.window_s:
            self._spent_sum -= self._spent.popleft()[1]
        return self._spent_sum

    def spend(self, weight: int, now_s: float) -> None:
        """Book a call, before it is made."""
        self._spent.append((now_s, weight))
        self._spent_sum += weight
        self.calls_total += 1
        self.weight_total += weight

    def observe(self, used_by_all: int, now_s: float) -> None:
        """Take the venue's own count (X-MBX-USED-WEIGHT-1M) from an answer: what exceeds ours is other processes'."""
        if not self._counted_by_venue:
            return
        self._others = max(0, used_by_all - self.used(now_s))
        self._others_until_s = now_s + self.window_s

    def open_circuit(self, until_s: float) -> None:
        """No call before `until_s`: the venue said so."""
        self.open_until_s = max(self.open_until_s, until_s)

    def blocked_s(self, now_s: float) -> float:
        """Seconds until the circuit closes; 0 when it is closed."""
        return max(0.0, self.open_until_s - now_s)

    def wait_s(self, weight: int, now_s: float, background: bool = False) -> float:
        """Seconds until a call of this weight may be made; 0 when it may now.

        A call heavier than the whole share is let through alone: otherwise it could never be made.
        """
        blocked_s = self.blocked_s(now_s)
        if blocked_s > 0:
            return blocked_s
        used = self.used(now_s)
        limit = self.background_limit if background else self.limit
        return max(self._own_wait_s(used + weight - limit, now_s), self._others_wait_s(used + weight, now_s))

    def _own_wait_s(self, excess: int, now_s: float) -> float:
        """Seconds until `excess` has left the window; at most until the window is empty."""
        wait_s = 0.0
        for at_s, weight in self._spent:
            if excess <= 0:
                break
            excess -= weight
            wait_s = at_s + self.window_s - now_s
        return wait_s

    def _others_wait_s(self, ours: int, now_s: float) -> float:
        if now_s >= self._others_until_s or self._others == 0 or self._others + ours <= self._host_limit:
            return 0.0
        return self._others_until_s - now_s
