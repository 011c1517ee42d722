"""What one client address may use at Hyperliquid: sockets, subscriptions, users, frames, REST weight."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

from sandbox.hyperliquid_config import HyperliquidConfig

MINUTE_S = 60.0
LIGHT = ("l2Book", "allMids", "clearinghouseState", "orderStatus", "spotClearinghouseState", "exchangeStatus")
LIGHT_WEIGHT, ROLE_WEIGHT, PLAIN_WEIGHT, ROWS_PER_WEIGHT = 2, 60, 20, 20
SURCHARGED = ("userFills", "userFillsByTime", "userFunding", "userNonFundingLedgerUpdates")


def weigh(kind: str, rows: int = 0) -> int:
    """The weight of an info request that returned so many rows."""
    if kind == "userRole":
        return ROLE_WEIGHT
    if kind in LIGHT:
        return LIGHT_WEIGHT
    return PLAIN_WEIGHT + (rows // ROWS_PER_WEIGHT if kind in SURCHARGED else 0)


class Minute:
    """The sum of what was used in the last 60 seconds; `most` is its highest value ever."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._uses: deque[tuple[float, int]] = deque()
        self._sum = 0
        self.most = 0

    def used(self) -> int:
        """What was used in the last 60 seconds."""
        now = self._clock()
        while self._uses and now - self._uses[0][0] >= MINUTE_S:
            self._sum -= self._uses.popleft()[1]
        return self._sum

    def add(self, amount: int) -> None:
        """Use so much."""
        self._uses.append((self._clock(), amount))
        self._sum += amount
        self.most = max(self.most, self.used())


class Allowance:
    """One address's use; refusals are counted by reason. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.connections = 0
        self.connections_most = 0
        self.connects = Minute(clock)
        self.messages = Minute(clock)
        self.weight = Minute(clock)
        self.subscriptions = 0
        self.subscriptions_most = 0
        self.users: Counter[str] = Counter()
        self.users_most = 0
        self.refused: Counter[str] = Counter()

    def connect(self, config: HyperliquidConfig) -> str | None:
        """Take a socket in; the reason when it is one too many."""
        why = None
        if self.connections >= config.connections_max:
            why = "connections"
        elif self.connects.used() >= config.connects_per_min:
            why = "new connections"
        if why is not None:
            self.refused[why] += 1
            return why
        self.connects.add(1)
        self.connections += 1
        self.connections_most = max(self.connections_most, self.connections)
        return None

    def disconnect(self) -> None:
        """A socket is gone."""
        self.connections -= 1

    def hear(self, config: HyperliquidConfig) -> bool:
        """Count a frame of the client; False when it is one too many."""
        self.messages.add(1)
        if self.messages.used() <= config.messages_per_min:
            return True
        self.refused["messages"] += 1
        return False

    def subscribe(self, user: str | None, config: HyperliquidConfig) -> str | None:
        """Take a subscription; the text of the venue's error when it is one too many."""
        if self.subscriptions >= config.subscriptions_max:
            self.refused["subscriptions"] += 1
            return f"Cannot track more than {config.subscriptions_max} total subscriptions."
        if user is not None and user not in self.users and len(self.users) >= config.users_max:
            self.refused["users"] += 1
            return f"Cannot track more than {config.users_max} total users."
        self.subscriptions += 1
        self.subscriptions_most = max(self.subscriptions_most, self.subscriptions)
        if user is not None:
            self.users[user] += 1
            self.users_most = max(self.users_most, len(self.users))
        return None

    def unsubscribe(self, user: str | None) -> None:
        """Give a subscription back."""
        self.subscriptions -= 1
        if user is not None:
            self.users[user] -= 1
            if not self.users[user]:
                del self.users[user]

    def may_ask(self, config: HyperliquidConfig, weight: int) -> bool:
        """Whether REST answers; surcharges of earlier answers count."""
        if self.weight.used() + weight <= config.weight_per_min:
            return True
        self.refused["weight"] += 1
        return False

    def as_json(self) -> dict[str, object]:
        """What is used now, the most that ever was, and what was refused."""
        return {
            "connections": self.connections,
            "connections_most": self.connections_most,
            "connects_last_minute": self.connects.used(),
            "connects_most": self.connects.most,
            "subscriptions": self.subscriptions,
            "subscriptions_most": self.subscriptions_most,
            "users": sorted(self.users),
            "users_most": self.users_most,
            "messages_most": self.messages.most,
            "weight_used": self.weight.used(),
            "weight_most": self.weight.most,
            "refused": dict(self.refused),
        }
