"""What a demo knows at a moment, built from bus messages and table rows. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from common.contracts import BarMessage, BeatMessage, FootprintMessage, GapStatus, format_time
from common.errors import BadInput
from common.health import Report
from common.venues.binance_spot import MARKET

PRIMARY = MARKET.source
"""Whose rows stay; what another venue told is replaced when the primary is back."""
RATE_WINDOW_S = 10
EVENTS_MAX = 200
IDS_MAX = 300_000
"""Message ids kept to tell repetitions; a demo that runs for days stops telling them."""

_KINDS: dict[str, type[BarMessage | FootprintMessage | BeatMessage]] = {
    "1m": BarMessage,
    "1s": FootprintMessage,
    "beat": BeatMessage,
}


class SymbolPicture:
    """One symbol as the viewer sees it; times are venue seconds."""

    def __init__(self) -> None:
        self.price: Decimal | None = None
        self.speaker = ""
        self.bar: BarMessage | None = None
        self.heard_to_s = 0
        self.cursor_s = 0
        self.messages = 0
        self.revised = 0
        self.gaps_open = 0
        self.gaps_repaired = 0
        self._counts: dict[int, int] = {}

    def count_second(self, second: int, n: int) -> None:
        """Note how many trades a second had; a revision replaces what was noted."""
        self._counts[second] = n
        while len(self._counts) > 2 * RATE_WINDOW_S:
            del self._counts[min(self._counts)]

    def rate(self, now_s: float) -> float:
        """Trades per second over the last whole seconds."""
        low = now_s - RATE_WINDOW_S
        return sum(n for second, n in self._counts.items() if second >= low) / RATE_WINDOW_S


class Speech(msgspec.Struct, frozen=True):
    """Which venue speaks for a feed, and how often the fallback had to."""

    speaker: str
    failovers: int


class Gap(msgspec.Struct, frozen=True):
    """One row of the gap ledger, as far as it is shown."""

    symbol: str
    from_id: int
    to_id: int | None
    status: GapStatus
    reason: str
    tries: int
    restored_n: int


class Picture:
    """Everything shown and summed up. `ids_max` bounds the ids kept, 0 keeps none."""

    def __init__(self, symbols: Iterable[str], ids_max: int = IDS_MAX) -> None:
        self.symbols = {symbol: SymbolPicture() for symbol in symbols}
        self.kinds = Counter[str]()
        self.unreadable = 0
        self.repeated = 0
        self.ids: set[str] = set()
        self.ids_max = ids_max
        self.outbox = 0
        self.gaps: dict[tuple[str, int], Gap] = {}
        self.speeches: dict[str, Speech] = {}
        self.fallback_bars: set[tuple[str, int]] = set()
        """(symbol, minute) of every bar that was told by another venue than the primary."""
        self.state = "starting"
        self.events: deque[tuple[int, str]] = deque(maxlen=EVENTS_MAX)
        self._told: Callable[[int, str], None] | None = None

    def listen(self, tell: Callable[[int, str], None]) -> None:
        """Have every further event told as it happens."""
        self._told = tell

    def note(self, now_s: float, text: str) -> None:
        """Something happened."""
        self.events.append((int(now_s), text))
        if self._told is not None:
            self._told(int(now_s), text)

    @property
    def tells_repeats(self) -> bool:
        """Whether every message id so far was kept."""
        return len(self.ids) < self.ids_max

    def see_message(self, now_s: float, key: str, message_id: str, body: bytes) -> None:
        """Take in one message of `price_updates.<SYM>.<kind>`; raises BadInput when it is not what it should be."""
        kind = key.rpartition(".")[2]
        try:
            message = msgspec.json.decode(body, type=_KINDS[kind])
        except (KeyError, msgspec.DecodeError) as error:
            self.unreadable += 1
            raise BadInput(f"{key}: {error}") from error
        self.kinds[kind] += 1
        # A beat is made anew after a reconnect; it is no row, so it has no identity to repeat.
        if kind != "beat" and self.tells_repeats:
            self.repeated += message_id in self.ids
            self.ids.add(message_id)
        symbol = self.symbols.setdefault(message.symbol, SymbolPicture())
        symbol.messages += 1
        self._see(now_s, symbol, message)

    def _see(self, now_s: float, symbol: SymbolPicture, message: BarMessage | FootprintMessage | BeatMessage) -> None:
        second = int(message.time.timestamp())
        if isinstance(message, BarMessage):
            self._see_bar(now_s, symbol, message, second)
            return
        if isinstance(message, FootprintMessage):
            symbol.count_second(second, message.n)
            symbol.speaker = message.source if second + 1 >= symbol.heard_to_s else symbol.speaker
        elif not message.live:
            return
        if second + 1 >= symbol.heard_to_s:
            symbol.heard_to_s, symbol.price = second + 1, message.close

    def _see_bar(self, now_s: float, symbol: SymbolPicture, bar: BarMessage, second: int) -> None:
        if symbol.bar is None or bar.time >= symbol.bar.time:
            symbol.bar = bar
            symbol.price = bar.c if second + 60 >= symbol.heard_to_s else symbol.price
        whole = "complete" if bar.complete else "not complete"
        name = f"{bar.symbol}: bar of {clock_text(second)}"
        if bar.source != PRIMARY:
            self.fallback_bars.add((bar.symbol, second))
            self.note(now_s, f"{name} told by {bar.source} (rev {bar.rev}, {whole})")
        elif bar.rev > 1:
            replacing = ", replaces the fallback's" if (bar.symbol, second) in self.fallback_bars else ""
            self.note(now_s, f"{name} revised (rev {bar.rev}, {whole}){replacing}")
        symbol.revised += bar.rev > 1

    def see_speeches(self, now_s: float, speeches: Mapping[str, Speech]) -> None:
        """Take in who speaks for each feed now."""
        for feed, speech in speeches.items():
            before = self.speeches.get(feed)
            if (before.speaker if before else PRIMARY) != speech.speaker:
                again = " again" if speech.speaker == PRIMARY else ": the primary delivers nothing"
                self.note(now_s, f"{feed}: {speech.speaker} speaks{again}")
        self.speeches.update(speeches)

    @property
    def speaker(self) -> str:
        """Who speaks: one venue, or several where feeds differ."""
        return "/".join(sorted({speech.speaker for speech in self.speeches.values()})) or "none"

    @property
    def failovers(self) -> int:
        """How often the fallback had to speak, all feeds."""
        return sum(speech.failovers for speech in self.speeches.values())

    def see_gaps(self, now_s: float, gaps: Iterable[Gap]) -> None:
        """Take in the ledger as it stands now."""
        for gap in gaps:
            before = self.gaps.get((gap.symbol, gap.from_id))
            self.gaps[gap.symbol, gap.from_id] = gap
            # A gap in which nothing was traded leaves its first id to the next one.
            if before is None or (gap.status is GapStatus.OPEN and before.status is not GapStatus.OPEN):
                self.note(now_s, f"{gap.symbol}: gap opened after trade {gap.from_id - 1} ({gap.reason})")
            if gap.status is not GapStatus.OPEN and (before is None or before.status is GapStatus.OPEN):
                self.note(now_s, f"{gap.symbol}: gap {_describe_end(gap)}")
        for name, symbol in self.symbols.items():
            own = [gap for gap in self.gaps.values() if gap.symbol == name]
            symbol.gaps_open = sum(gap.status is GapStatus.OPEN for gap in own)
            symbol.gaps_repaired = sum(gap.status is GapStatus.REPAIRED for gap in own)

    def see_cursors(self, cursors: Mapping[str, int]) -> None:
        """Take in the ends of the last closed seconds."""
        for name, second in cursors.items():
            self.symbols.setdefault(name, SymbolPicture()).cursor_s = second

    def count_gaps(self, *statuses: GapStatus) -> int:
        """How many gaps stand in one of these statuses, in any when none is given."""
        return sum(not statuses or gap.status in statuses for gap in self.gaps.values())


def speeches_of(report: Report) -> dict[str, Speech]:
    """Who speaks for each feed, as the ingestor tells it."""
    return {check.name: msgspec.convert(check.detail, Speech) for check in report.checks if "speaker" in check.detail}


def gap_of(record: Mapping[str, Any]) -> Gap:
    """A ledger row as it came from the database."""
    return msgspec.convert(record, Gap)


def clock_text(second: int) -> str:
    """Time of day of a venue second, UTC."""
    return format_time(second)[11:19]


def _describe_end(gap: Gap) -> str:
    if gap.status is GapStatus.REPAIRED and gap.to_id is not None:
        if gap.to_id < gap.from_id:
            return "closed: nothing had been traded in it"
        return f"repaired: ids {gap.from_id} to {gap.to_id}, {gap.restored_n} single trades restored"
    return {GapStatus.SOURCE_MISSING: "given up: the venue does not have those trades"}.get(gap.status, gap.status)
