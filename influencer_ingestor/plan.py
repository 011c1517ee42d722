"""Which account is heard on which sockets, and which is polled: within the venue's limits, or refused. Pure.

Sockets are numbered: listener 0 has 0 .. n - 1, listener 1 has n .. 2n - 1, so an account's two listeners never share
one. The limits hold per IP address; other processes on it take their part (`Limits` are our share).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from common.errors import ConfigError
from influencer_ingestor import hyperliquid as venue
from influencer_ingestor.events import Account


class Limits(msgspec.Struct, frozen=True):
    """Our share of the venue's limits, and what we make of it."""

    sockets_max: int = venue.SOCKETS_MAX
    users_max: int = venue.USERS_MAX
    subscriptions_max: int = venue.SUBSCRIPTIONS_MAX
    connects_per_min: int = venue.CONNECTS_MAX
    weight_per_min: int = venue.REST_LIMIT
    sockets_per_listener: int = 2
    feeds: tuple[str, ...] = ("userFills",)
    """What both listeners subscribe for every account; each names its user."""
    poll_share: float = 0.5
    """Of the weight, for accounts that are polled all the time; the rest is for gaps, starts and shed accounts."""
    poll_items: int = 100
    """Fills that a poll is taken to bring: each 20 cost one more."""
    poll_every_max_s: float = 60.0
    """No polled account may wait longer than this for its turn."""


class Plan(msgspec.Struct, frozen=True):
    """Where every enabled account is followed: `sockets` gives the two of each heard one, `polled` the others."""

    sockets: dict[str, tuple[int, int]]
    polled: tuple[str, ...]

    def users_on(self, socket: int) -> list[str]:
        """The accounts of one socket."""
        return [user for user, pair in self.sockets.items() if socket in pair]


def make_plan(accounts: Iterable[Account], limits: Limits, current: Plan | None = None) -> Plan:
    """Place the enabled accounts, the most important first; nobody moves who can stay.

    Raises ConfigError with the arithmetic when a limit would be broken.
    """
    check_limits(limits)
    wanted = sorted((each for each in accounts if each.enabled), key=lambda each: (-each.priority, each.address))
    heard = [each.address for each in wanted[: limits.users_max]]
    polled = tuple(each.address for each in wanted[len(heard) :])
    check_polling(len(polled), limits)
    n = limits.sockets_per_listener
    known = set(heard)
    sockets = {
        user: pair
        for user, pair in (current.sockets if current else {}).items()
        if user in known and pair[0] < n <= pair[1] < 2 * n
    }
    for user in heard:
        if user not in sockets:
            sockets[user] = (_emptiest(sockets, range(n)), _emptiest(sockets, range(n, 2 * n)))
    return Plan({user: sockets[user] for user in heard}, polled)


def check_limits(limits: Limits) -> None:
    """Raise ConfigError, with the arithmetic, for settings that can not be kept within the venue's limits."""
    n = limits.sockets_per_listener
    if n < 1:
        raise ConfigError("sockets_per_listener must be at least 1")
    if 2 * n > limits.sockets_max:
        raise ConfigError(f"2 listeners x {n} sockets = {2 * n} connections, above the limit of {limits.sockets_max}")
    if 2 * n > limits.connects_per_min:
        raise ConfigError(
            f"2 listeners x {n} sockets = {2 * n} new connections at start, above {limits.connects_per_min} a minute"
        )
    needed = 2 * len(limits.feeds) * limits.users_max
    if needed > limits.subscriptions_max:
        raise ConfigError(
            f"{limits.users_max} users x {len(limits.feeds)} feeds x 2 listeners = {needed} subscriptions, above "
            f"{limits.subscriptions_max}"
        )


def check_polling(polled: int, limits: Limits) -> None:
    """Raise ConfigError, with the arithmetic, when so many accounts can not be polled often enough."""
    budget = limits.weight_per_min * limits.poll_share
    cost = venue.fills_weight(limits.poll_items)
    round_s = polled * cost / budget * 60 if budget > 0 else math.inf
    if polled and round_s > limits.poll_every_max_s:
        raise ConfigError(
            f"{polled} accounts beyond the {limits.users_max} users are polled: {polled} x weight {cost} = "
            f"{polled * cost} a round, of {budget:g} a minute ({limits.poll_share:g} of {limits.weight_per_min}) that "
            f"takes {round_s:.0f} s, above poll_every_max_s {limits.poll_every_max_s:g}"
        )


def learn_users_max(limits: Limits, told: int, asked: int) -> Limits:
    """Take the venue's "Cannot track more than `told` total users", said when we asked for `asked` users.

    Where we asked for no more than it says, it counts otherwise than we: a user on two sockets twice, so half of it;
    if that was kept too, somebody else on our address has users there: one less than we asked for.
    """
    users_max = told
    if asked <= told:
        users_max = told // 2 if asked > told // 2 else asked - 1
    return msgspec.structs.replace(limits, users_max=max(0, users_max))


def _emptiest(sockets: dict[str, tuple[int, int]], among: range) -> int:
    used = [socket for pair in sockets.values() for socket in pair]
    return min(among, key=lambda socket: (used.count(socket), socket))


class Asking:
    """One socket's subscriptions on their way: who is accepted, and who was refused by errors that name nobody.

    The venue answers every request with one acknowledgement or one error. Once all are answered, whoever was not
    acknowledged was refused.
    """

    def __init__(self) -> None:
        self.accepted: set[tuple[str, str]] = set()
        self._asked: dict[tuple[str, str], None] = {}
        self._errors = 0

    def ask(self, type_: str, user: str) -> None:
        """Book a subscribe frame that was sent."""
        self._asked[type_, user] = None

    def acked(self, type_: str, user: str | None) -> bool:
        """Book an acknowledgement; False when it was not asked for."""
        if user is None or (type_, user) not in self._asked:
            return False
        del self._asked[type_, user]
        self.accepted.add((type_, user))
        return True

    def failed(self) -> None:
        """Book an error."""
        self._errors += 1

    def refused(self) -> list[tuple[str, str]]:
        """Who was refused, once every request is answered; empty before."""
        if not self._errors or self._errors < len(self._asked):
            return []
        refused = list(self._asked)
        self._asked.clear()
        self._errors = 0
        return refused
