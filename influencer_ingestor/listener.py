"""The two listeners of every account: who is heard on which sockets, who leads, and who is connected anew."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable

from common.backoff import AttemptBudget
from common.clock import Clock
from common.errors import ConfigError
from influencer_ingestor import hyperliquid as venue
from influencer_ingestor.events import Account
from influencer_ingestor.intake import Intake
from influencer_ingestor.plan import Limits, Plan, learn_users_max, make_plan
from influencer_ingestor.settings import InfluencerSettings
from influencer_ingestor.sockets import ORDERS, Feed, Socket, SocketLimits
from influencer_ingestor.watched import Watched

log = logging.getLogger(__name__)

FRAMES_SHARE = 0.9
UNSUBSCRIBE_WAIT_S = 5.0
UNSUBSCRIBE_POLL_S = 0.02
PLANS_KEPT = 20


class Listeners:
    """Every socket, and the plan they follow. `covered` is called with an account when a listener begins to hear it.

    `replanned` is called when the venue allows fewer users than we took.
    """

    def __init__(
        self, settings: InfluencerSettings, clock: Clock, watched: dict[str, Watched], intake: Intake,
        covered: Callable[[str], None], replanned: Callable[[], None],
    ) -> None:  # fmt: skip
        self._settings, self._clock, self._watched = settings, clock, watched
        self._covered, self._replanned = covered, replanned
        self.limits: Limits = settings.limits()
        self.plan = Plan({}, ())
        self.refusal: str | None = None
        """Why the last configuration could not be followed; None when it is."""
        self.rotations: Counter[str] = Counter()
        """By reason."""
        self.deaf_total: Counter[str] = Counter()
        budgets = (
            AttemptBudget(settings.connects_per_min, venue.CONNECTS_WINDOW_S),
            AttemptBudget(int(venue.SENT_MAX * FRAMES_SHARE), venue.SENT_WINDOW_S),
        )
        n = settings.sockets_per_listener
        limits = SocketLimits(
            open_timeout_s=settings.open_timeout_s, ack_timeout_s=settings.ack_timeout_s,
            ping_every_s=settings.ping_every_s, pong_timeout_s=settings.pong_timeout_s,
            retry_first_s=settings.retry_first_s, retry_max_s=settings.retry_max_s,
            frame_bytes_max=settings.frame_bytes_max,
        )  # fmt: skip
        self.sockets = [
            Socket(
                number, number // n, settings.hyperliquid_ws_url, limits, clock, intake, budgets, self._connect,
                self._refused,
            )
            for number in range(2 * n)
        ]  # fmt: skip
        self._turn = asyncio.Lock()
        self._planned: deque[tuple[float, int]] = deque(maxlen=PLANS_KEPT)
        """How many users the plans before had, and when they were given up."""

    async def run(self) -> None:
        """Keep the sockets connected and judge the listeners, for ever."""
        async with asyncio.TaskGroup() as group:
            for socket in self.sockets:
                group.create_task(socket.run(), name=f"socket-{socket.number}")
            group.create_task(self._probe(), name="probe")

    def choose(self, accounts: Iterable[Account]) -> Plan:
        """Where these accounts are to be followed; raises ConfigError with the arithmetic."""
        return make_plan(accounts, self.limits, self.plan)

    async def apply(self, plan: Plan) -> None:
        """Follow a plan: what ends is ended first, because the venue counts users until it said so."""
        async with self._turn:
            self._planned.append((self._clock.monotonic_s(), len(self.plan.sockets)))
            self.plan = plan
            feeds = [self._feeds_of(socket.number, plan) for socket in self.sockets]
            pairs = list(zip(self.sockets, feeds, strict=True))
            for socket, wanted in pairs if any(s.would_leave(f) for s, f in pairs) else ():
                have = {feed: None for feed in wanted if feed[1] in socket.users}
                socket.want(have, self._backoff_of(socket.number, plan))
            deadline_s = self._clock.monotonic_s() + UNSUBSCRIBE_WAIT_S
            while any(s.leaving for s in self.sockets) and self._clock.monotonic_s() < deadline_s:  # noqa: ASYNC110
                await asyncio.sleep(UNSUBSCRIBE_POLL_S)
            for socket, wanted in zip(self.sockets, feeds, strict=True):
                socket.want(wanted, self._backoff_of(socket.number, plan))

    def _feeds_of(self, number: int, plan: Plan) -> dict[Feed, None]:
        users = plan.users_on(number)
        feeds: dict[Feed, None] = {(kind, user): None for user in users for kind in self.limits.feeds}
        if self._settings.watch_orders and users:
            feeds[ORDERS, users[0]] = None
        return feeds

    def _backoff_of(self, number: int, plan: Plan) -> tuple[float, float]:
        """Accounts share a socket: the most impatient of them decides."""
        accounts = [self._watched[user].account for user in plan.users_on(number) if user in self._watched]
        first = [each.backoff_first_s for each in accounts if each.backoff_first_s is not None]
        most = [each.backoff_max_s for each in accounts if each.backoff_max_s is not None]
        first_s = min([*first, self._settings.retry_first_s])
        return first_s, max(first_s, min([*most, self._settings.retry_max_s]))

    def _connect(self, listener: int, user: str, connected: bool) -> None:
        watched = self._watched.get(user)
        if watched is None:
            return
        watched.connect(listener, connected)
        if connected and not watched.covered:
            self._covered(user)

    def _refused(self, users_max: int | None) -> None:
        """The venue counts users otherwise than we: fewer are heard, the others are polled."""
        if users_max is None:
            return
        asked = len(set[str]().union(*(socket.users for socket in self.sockets)))
        # A refusal may come after the plan that asked for too many was given up.
        since_s = self._clock.monotonic_s() - self._settings.ack_timeout_s
        asked = max([asked, *(users for at_s, users in self._planned if at_s >= since_s)])
        learned = learn_users_max(self.limits, users_max, asked)
        if learned.users_max < self.limits.users_max:
            self.limits = learned
            log.warning("fewer users than planned", extra={"told": users_max, "users_max": learned.users_max})
        if len(self.plan.sockets) > self.limits.users_max:
            self._replanned()

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(self._settings.probe_every_s)
            now_ms = self._clock.wall_ms()
            for user, sockets in self.plan.sockets.items():
                watched = self._watched.get(user)
                if watched is None or watched.polled:
                    continue
                if (rotation := watched.pair.probe(now_ms)) is not None:
                    self.rotations[rotation.reason] += 1
                    extra = {"account": watched.account.influencer_id, "reason": rotation.reason}
                    log.info("primary rotated", extra={**extra, "primary": rotation.primary})
                for listener in watched.pair.deaf():
                    reason = f"deaf: missed what the other listener brought of {user}"
                    self.deaf_total[str(listener)] += self.sockets[sockets[listener]].drop(reason)

    def check(self, accounts: Iterable[Account]) -> Plan | None:
        """The plan for these accounts, None (and why, in `refusal`) when it would break a limit."""
        try:
            plan = self.choose(accounts)
        except ConfigError as error:
            if str(error) != self.refusal:
                log.error("configuration can not be followed", extra={"reason": str(error)})
            self.refusal = str(error)
            return None
        self.refusal = None
        return plan
