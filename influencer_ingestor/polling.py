"""Accounts that no listener hears, asked of the info endpoint in rotation; and a look after those that are heard."""

from __future__ import annotations

import asyncio
import logging

from common.clock import Clock
from common.errors import BadInput, Refused, TryLater
from influencer_ingestor.fan_in import FanIn
from influencer_ingestor.filling import Filler
from influencer_ingestor.hyperliquid import fills_weight
from influencer_ingestor.rotation import PollRotation
from influencer_ingestor.settings import InfluencerSettings
from influencer_ingestor.watched import Watched

log = logging.getLogger(__name__)

POLL_OVERLAP_MS = 5_000
AUDIT_OVERLAP_MS = 5_000
IDLE_S = 0.5


class Poller:
    """Follows polled accounts, takes shed ones back, and audits heard ones: what nobody streamed is found here."""

    def __init__(
        self, settings: InfluencerSettings, clock: Clock, watched: dict[str, Watched], fan_in: FanIn, filler: Filler
    ) -> None:
        self._settings, self._clock, self._watched = settings, clock, watched
        self._fan_in, self._filler = fan_in, filler
        self._per_s = settings.weight_per_min * settings.poll_share / 60
        turn_ms = 1000 * fills_weight(settings.poll_items) / self._per_s
        self._rotation = PollRotation(settings.poll_every_min_ms, int(settings.poll_every_max_s * 1000), turn_ms)
        self._audits = PollRotation(int(settings.audit_every_s * 1000))
        self._planned: set[str] = set()
        self._woken = asyncio.Event()
        self.polls_total = self.audits_total = self.failures_total = 0
        self._audited: dict[str, int] = {}
        """Up to when (ms) an account was audited last."""

    def follow(self, polled: tuple[str, ...]) -> None:
        """Take the accounts that the plan leaves to polling."""
        self._planned = set(polled)
        self.rank()

    def rank(self) -> None:
        """Sort out anew who is polled and who is audited."""
        now_s = self._clock.monotonic_s()
        polled = self._planned | (self._fan_in.shed & self._watched.keys())
        for user, watched in self._watched.items():
            if watched.polled != (user in polled):
                watched.polled = user in polled
                watched.lose_cover()
                if not watched.polled and watched.heard:
                    self._filler.want_since(user)
        priorities = {user: each.account.priority for user, each in self._watched.items()}
        self._rotation.rank({user: priorities[user] for user in polled if user in priorities})
        # Not before an audit's time has passed since the account came: its start fetches all by itself.
        now_ms = int(now_s * 1000)
        heard = {user: priority for user, priority in priorities.items() if user not in polled}
        self._audits.rank(heard)
        for user in heard:
            # What was before, its start fetches.
            self._audited.setdefault(user, self._clock.wall_ms())
            if self._audits.age_ms(user, now_ms) is None:
                self._audits.asked(user, now_ms, 0)
        self._audited = {user: at_ms for user, at_ms in self._audited.items() if user in heard}
        self._woken.set()

    def ages_s(self) -> dict[str, float | None]:
        """Seconds since each polled account was asked; None before."""
        now_ms = int(self._clock.monotonic_s() * 1000)
        ages = {user: self._rotation.age_ms(user, now_ms) for user, each in self._watched.items() if each.polled}
        return {user: None if age is None else age / 1000 for user, age in ages.items()}

    async def run(self) -> None:
        """Poll and audit for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._poll(), name="poll")
            group.create_task(self._audit(), name="audit")
            group.create_task(self._readmit(), name="readmit")

    async def _poll(self) -> None:
        while True:
            self._woken.clear()
            now_ms = int(self._clock.monotonic_s() * 1000)
            turn = self._rotation.next_turn(now_ms)
            if turn is None:
                await self._rest(self._rotation.wait_ms(now_ms))
                continue
            self.polls_total += 1
            begun_s = self._clock.monotonic_s()
            found = await self._ask(turn.user, POLL_OVERLAP_MS, None)
            items = found or 0
            if found is not None and (watched := self._watched.get(turn.user)) is not None and not watched.baselines:
                # Nobody subscribes for it, so nothing else begins it.
                self._filler.after_start(turn.user)
            self._rotation.asked(turn.user, int(self._clock.monotonic_s() * 1000), items)
            # Evenly: a budget that is spent at once leaves everybody waiting for the rest of the minute.
            await asyncio.sleep(max(0.0, fills_weight(items) / self._per_s - (self._clock.monotonic_s() - begun_s)))

    async def _audit(self) -> None:
        while True:
            turn = self._audits.next_turn(int(self._clock.monotonic_s() * 1000))
            if turn is None:
                await asyncio.sleep(IDLE_S)
                continue
            watched = self._watched.get(turn.user)
            items = 0
            if watched is not None and watched.covered:
                self.audits_total += 1
                until_ms = self._clock.wall_ms() - self._settings.audit_lag_ms
                start_ms = self._audited[turn.user]
                found = await self._ask(turn.user, 0, (start_ms - AUDIT_OVERLAP_MS, until_ms))
                if found is not None:
                    self._audited[turn.user] = until_ms
                items = found or 0
            self._audits.asked(turn.user, int(self._clock.monotonic_s() * 1000), items)

    async def _readmit(self) -> None:
        while True:
            await asyncio.sleep(IDLE_S)
            if (user := self._fan_in.readmit()) is not None:
                log.info("account is heard again", extra={"account": user})
                self.rank()

    async def _ask(self, user: str, overlap_ms: int, span: tuple[int, int] | None) -> int | None:
        try:
            return await self._filler.fetch_since(user, overlap_ms, "background", span)
        except TryLater as error:
            self.failures_total += 1
            log.warning("account not polled", extra={"account": user, "error": str(error)})
            await asyncio.sleep(min(5.0, max(IDLE_S, error.wait_s or 0.0)))
        except (Refused, BadInput) as error:
            self.failures_total += 1
            log.error("the info endpoint refuses", extra={"account": user, "error": str(error)})
        return None

    async def _rest(self, wait_ms: int | None) -> None:
        try:
            async with asyncio.timeout(None if wait_ms is None else wait_ms / 1000 + 0.001):
                await self._woken.wait()
        except TimeoutError:
            return
