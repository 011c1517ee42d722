"""The ingestor as a whole: accounts come and go, each from where the tables left it."""

from __future__ import annotations

import logging
import re

from common.clock import Clock
from common.database import Database
from common.numbers import parse_scaled
from influencer_ingestor import statements as sql
from influencer_ingestor.baseline import Baselines
from influencer_ingestor.dedup import Dedup
from influencer_ingestor.events import EXCHANGE, SCALE, SERVICE, Account
from influencer_ingestor.fan_in import FanIn
from influencer_ingestor.filling import Filler
from influencer_ingestor.gaps import Gap
from influencer_ingestor.hyperliquid import parse_fill
from influencer_ingestor.listener import Listeners
from influencer_ingestor.polling import Poller
from influencer_ingestor.positions import coin_of
from influencer_ingestor.settings import InfluencerSettings
from influencer_ingestor.signals import Margin
from influencer_ingestor.watched import Watched, start_watching
from influencer_ingestor.writer import Writer

log = logging.getLogger(__name__)

_REASON = re.compile(r"(.*): (-?[0-9.]+) expected, (-?[0-9.]+) found", re.ASCII)


class Ingestor:
    """Holds the accounts that are followed now; `follow` makes them those that the table names."""

    def __init__(
        self, settings: InfluencerSettings, clock: Clock, database: Database, watched: dict[str, Watched],
        dedup: Dedup, fan_in: FanIn, writer: Writer, listeners: Listeners, filler: Filler, baselines: Baselines,
        poller: Poller,
    ) -> None:  # fmt: skip
        self._settings, self._clock, self._database = settings, clock, database
        self.watched, self._dedup, self.fan_in, self._writer = watched, dedup, fan_in, writer
        self.listeners, self.filler, self.baselines, self.poller = listeners, filler, baselines, poller
        self._accounts: list[Account] = []
        self._begun = False

    async def follow(self, accounts: list[Account]) -> None:
        """Watch exactly these; raises TryLater, ConfigError when the very first plan would break a limit."""
        plan = self.listeners.check(accounts) if self._begun else self.listeners.choose(accounts)
        if plan is None:
            return
        self._begun = True
        wanted = {account.address: account for account in accounts}
        for user, watched in list(self.watched.items()):
            account = wanted.get(user)
            if account is None or account.added_ms != watched.account.added_ms:
                # What waits and what is held goes with it, so nothing of it may count as seen.
                del self.watched[user]
                self.fan_in.leave(user)
                log.info("account left", extra={"account": watched.account.influencer_id})
            else:
                watched.account = account
        await self._database.query(sql.CLOSE_LEFT_GAPS, SERVICE, EXCHANGE)
        for user, account in wanted.items():
            if user not in self.watched:
                self.watched[user] = await self._restore(account)
                log.info("account watched", extra={"account": account.influencer_id, "address": user})
        # The venue may have told of a lower limit while the tables were read.
        plan = self.listeners.check(accounts) or plan
        changed = accounts != self._accounts or plan != self.listeners.plan
        self._accounts = accounts
        if not changed:
            return
        self.fan_in.rank({user: account.priority for user, account in wanted.items()})
        await self.listeners.apply(plan)
        self.poller.follow(plan.polled)
        for user, watched in self.watched.items():
            # A subscription that stands may have been acknowledged before the account was taken (again).
            self._match_ears(user, watched)

    async def replan(self) -> None:
        """Place the same accounts again."""
        plan = self.listeners.check(self._accounts)
        if plan is not None and plan != self.listeners.plan:
            await self.listeners.apply(plan)
            self.poller.follow(plan.polled)

    def after_start(self, user: str) -> None:
        """An account's fills since its cursor are stored: ask what it holds, and fill the gaps of the last life."""
        self.baselines.want(user)
        watched = self.watched.get(user)
        if watched is not None:
            for chain in watched.chains.values():
                for gap in chain.gaps:
                    self.filler.want_gap(chain, gap)

    def _match_ears(self, user: str, watched: Watched) -> None:
        for listener, number in enumerate(self.listeners.plan.sockets.get(user, ())):
            socket = self.listeners.sockets[number]
            if socket.hears(user) and not watched.pair.ears[listener].connected:
                watched.connect(listener, True)
                self.filler.want_since(user)

    async def _restore(self, account: Account) -> Watched:
        """What the tables know of an account; raises TryLater."""
        user, settings = account.address, self._settings
        # What the writer holds of a life before comes first: the tables then tell all of it.
        self._writer.wake()
        await self._writer.settled(user)
        rows = await self._database.query(sql.READ_CURSOR, SERVICE, EXCHANGE, user)
        watched = start_watching(
            account, rows[0]["last_id"] if rows else 0, settings.pair_limits(), settings.gap_hold_ms
        )
        keys = await self._database.query(sql.READ_KEYS, user, settings.dedup_keys_max)
        self._dedup.load(user, [row["id"] for row in keys])
        gaps = await self._open_gaps(account)
        rows = await self._database.query(sql.READ_NEWEST_FILLS, user)
        newest = [parse_fill(row["raw"].encode(), user) for row in rows]
        for row in await self._database.query(sql.READ_POSITIONS, user):
            coin = row["coin"]
            watched.margins[coin] = Margin(row["leverage"], row["margin_mode"])
            # What was held before the account was added (anew) was not followed since.
            if row["time_ms"] >= account.added_ms:
                watched.chain(coin).restore(
                    parse_scaled(row["size"], SCALE), row["time_ms"], gaps.get(coin, []),
                    [fill for fill in newest if (fill.coin, fill.time_ms) == (coin, row["time_ms"])],
                )  # fmt: skip
        return watched

    async def _open_gaps(self, account: Account) -> dict[str, list[Gap]]:
        gaps: dict[str, list[Gap]] = {}
        for row in await self._database.query(sql.READ_GAPS, SERVICE, EXCHANGE, account.address):
            told = _REASON.fullmatch(row["reason"])
            if told is None or row["to_ms"] < account.added_ms:
                continue
            coin = coin_of(row["symbol"].partition(":")[2])
            gap = Gap(
                account.address, coin, row["from_id"], row["from_ms"], row["to_ms"], parse_scaled(told[2], SCALE),
                parse_scaled(told[3], SCALE), told[1], tries=row["tries"], recorded=True,
            )  # fmt: skip
            gaps.setdefault(coin, []).append(gap)
        return gaps
