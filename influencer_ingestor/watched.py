"""One watched account while the service runs: what is known of it, and whether its stream can be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field

from influencer_ingestor.chain import GAP_HOLD_MS, Chain
from influencer_ingestor.events import Account, Fill, PositionSnapshot
from influencer_ingestor.fan_in import Pair, PairLimits
from influencer_ingestor.positions import is_spot
from influencer_ingestor.signals import Margin

LONG_KNOWN_DAYS = 30
"""So far behind the cursor every fill was stored once: one that the tables lack was dropped by age, not missed.

`trading-bus retain` keeps raw events and signals longer than this. Without the rule a quiet account's snapshot would
bring its dropped fills again, and have them signalled a second time.
"""


@dataclass
class Watched:
    """An account with its listeners and its positions; times are venue milliseconds.

    `cursor_ms`: all its fills up to there are stored. It moves with the stream only while `covered`: since a complete
    fetch that began on a subscription, at least one listener has been connected without a break. `breaks` counts those.
    """

    account: Account
    cursor_ms: int
    pair: Pair
    hold_ms: int = GAP_HOLD_MS
    covered: bool = False
    breaks: int = 0
    polled: bool = False
    chains: dict[str, Chain] = field(default_factory=dict[str, Chain])
    margins: dict[str, Margin] = field(default_factory=dict[str, Margin])
    stated: dict[str, PositionSnapshot] = field(default_factory=dict[str, PositionSnapshot])
    """The last statement of every dex that is stored raw."""
    baselines: dict[str, int] = field(default_factory=dict[str, int])
    """By dex: when the venue first told us what is held; what it did not name is flat since then."""

    @property
    def heard(self) -> bool:
        """Is a listener connected?"""
        return any(ear.connected for ear in self.pair.ears)

    def chain(self, coin: str) -> Chain:
        """The fills of one coin, in order."""
        if (chain := self.chains.get(coin)) is None:
            chain = self.chains[coin] = Chain(self.account.address, coin, self.hold_ms)
            if not is_spot(coin) and (since_ms := self.baselines.get(dex_of(coin))) is not None:
                chain.restore(0, since_ms)
        return chain

    def long_knows(self, fill: Fill) -> bool:
        """Say whether a fill lies so far behind the cursor that the tables may have had and dropped it."""
        return fill.time_ms < self.cursor_ms - LONG_KNOWN_DAYS * 86_400_000

    def connect(self, listener: int, connected: bool) -> None:
        """A listener's subscription was acknowledged, or its connection is gone."""
        self.pair.connect(listener, connected)
        if not self.heard:
            self.lose_cover()

    def lose_cover(self) -> None:
        """Something may have passed unheard: the cursor stands until the account's fills were fetched."""
        self.covered = False
        self.breaks += 1

    def learn_margins(self, state: PositionSnapshot) -> None:
        """Take leverage and margin mode of what is held."""
        for held in state.held:
            self.margins[held.coin] = Margin(held.leverage, held.margin_mode)

    def is_news(self, state: PositionSnapshot) -> bool:
        """Say whether a statement tells another holding than the last one of its dex; prices move all the time."""
        before = self.stated.get(state.dex)
        return before is None or _holding(before) != _holding(state)


def dex_of(coin: str) -> str:
    """The dex of a perp: "xyz" of "xyz:CL", "" for the venue's own."""
    return coin.partition(":")[0] if ":" in coin else ""


def start_watching(account: Account, cursor_ms: int, limits: PairLimits, hold_ms: int) -> Watched:
    """An account of which nothing is known yet."""
    return Watched(account, max(cursor_ms, account.added_ms), Pair(limits), hold_ms)


def _holding(state: PositionSnapshot) -> set[tuple[str, int, int | None, str | None]]:
    return {(held.coin, held.size, held.leverage, held.margin_mode) for held in state.held}
