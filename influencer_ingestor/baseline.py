"""What the venue says an account holds: the first position of every coin, and a check of ours ever after."""

from __future__ import annotations

import asyncio
import logging

from common.clock import Clock
from common.errors import BadInput, Refused, TryLater
from influencer_ingestor import hyperliquid as venue
from influencer_ingestor.events import EventType, PositionSnapshot, Source
from influencer_ingestor.filling import Filler, Info
from influencer_ingestor.intake import state_event
from influencer_ingestor.positions import Position, is_spot
from influencer_ingestor.settings import InfluencerSettings
from influencer_ingestor.statements import PositionRow, RawRow
from influencer_ingestor.watched import Watched, dex_of
from influencer_ingestor.writer import Writer

log = logging.getLogger(__name__)

IDLE_POLL_S = 0.5


class Baselines:
    """Asks for every account once its fills since the cursor are stored, and again every `state_every_s`."""

    def __init__(
        self, settings: InfluencerSettings, clock: Clock, info: Info, watched: dict[str, Watched], writer: Writer,
        filler: Filler,
    ) -> None:  # fmt: skip
        self._settings, self._clock, self._info, self._watched = settings, clock, info, watched
        self._writer, self._filler = writer, filler
        self._due_s: dict[str, float] = {}
        self._woken = asyncio.Event()
        self.differences_total = 0

    def want(self, user: str) -> None:
        """Ask for an account now."""
        self._due_s[user] = 0.0
        self._woken.set()

    async def run(self) -> None:
        """Ask for whoever is due, one after the other, for ever."""
        while True:
            now_s = self._clock.monotonic_s()
            self._due_s = {user: at_s for user, at_s in self._due_s.items() if user in self._watched}
            for user in [user for user, at_s in self._due_s.items() if at_s <= now_s]:
                self._due_s[user] = self._clock.monotonic_s() + self._settings.state_every_s
                try:
                    await self._check(self._watched[user])
                except (TryLater, Refused, BadInput) as error:
                    log.warning("positions not told", extra={"account": user, "error": str(error)})
                except KeyError:  # removed while others were asked for
                    continue
            self._woken.clear()
            wait_s = min([at_s - self._clock.monotonic_s() for at_s in self._due_s.values()], default=IDLE_POLL_S)
            try:
                async with asyncio.timeout(max(0.0, min(wait_s, self._settings.state_every_s))):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _check(self, watched: Watched) -> None:
        for dex in ["", *sorted({dex_of(coin) for coin in watched.chains if not is_spot(coin)} - {""})]:
            state = await self._ask(watched, dex)
            if state is None or state.time_ms is None:
                continue
            # A polled account is always some polls behind: with a baseline, its next fill tells what it missed.
            behind = watched.polled and dex in watched.baselines
            before = {} if behind else self._differing(watched, state)
            if before:
                # Its last fills may be on their way: only what still differs after they came, without another fill in
                # between, is a difference.
                await asyncio.sleep(self._settings.audit_lag_ms / 1000)
                await self._filler.fetch_since(watched.account.address, int(self._settings.overlap_s * 1000))
                state = await self._ask(watched, dex)
                if state is None or state.time_ms is None:
                    continue
            after = self._differing(watched, state)
            self._apply(watched, state, state.time_ms, before.items() & after.items())

    async def _ask(self, watched: Watched, dex: str) -> PositionSnapshot | None:
        user = watched.account.address
        body = await self._info.ask(venue.state_request(user, dex), venue.STATE_WEIGHT, "background")
        if self._watched.get(user) is not watched:
            return None
        return venue.parse_state(body, user, dex)

    def _differing(self, watched: Watched, state: PositionSnapshot) -> dict[str, tuple[int, int]]:
        """Coins whose position the venue states otherwise than we have it: the size it states, and our newest fill."""
        return {
            coin: (size, chain.last_ms)
            for coin, size in _sizes(watched, state).items()
            if (chain := watched.chains.get(coin)) is not None
            and chain.position is not None
            and chain.position != size
            and chain.last_ms <= (state.time_ms or 0)
        }

    def _apply(
        self, watched: Watched, state: PositionSnapshot, as_of_ms: int, differing: set[tuple[str, tuple[int, int]]]
    ) -> None:
        user = watched.account.address
        watched.learn_margins(state)
        if state.dex not in watched.baselines or watched.is_news(state):
            watched.stated[state.dex] = state
            event = state_event(state, EventType.POSITION_SNAPSHOT, self._clock)
            self._writer.keep(RawRow(event, Source.REPAIR, None, self._clock.wall_ms()))
        margins = {held.coin: held for held in state.held}
        wrong = {coin for coin, _ in differing}
        for coin, size in _sizes(watched, state).items():
            chain = watched.chain(coin)
            known = chain.position is not None
            if chain.due_ms is not None or as_of_ms < chain.last_ms or (known and coin not in wrong):
                continue
            gap = chain.state(size, as_of_ms)
            if gap is not None:
                self.differences_total += 1
                log.warning("position differs", extra={"account": watched.account.influencer_id, "coin": coin})
            self._writer.touch(user, chain)
            held = margins.get(coin)
            position = Position(user, coin, size, as_of_ms)
            leverage, mode = (held.leverage, held.margin_mode) if held else (None, None)
            self._writer.state(PositionRow(position, leverage, mode))
        # Only now: until then a coin without a chain is unknown, from then on it is flat.
        watched.baselines.setdefault(state.dex, as_of_ms)


def _sizes(watched: Watched, state: PositionSnapshot) -> dict[str, int]:
    """What is held by coin: as stated, and zero for every coin of the dex that is not named."""
    ours = {coin: 0 for coin in watched.chains if not is_spot(coin) and dex_of(coin) == state.dex}
    return ours | {held.coin: held.size for held in state.held}
