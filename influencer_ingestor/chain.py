"""Continuity of one account's perp position: what may go now, what waits for what is missing before it. Pure.

The venue numbers nothing, but every fill states the position it started from. A fill that does not continue ours shows
a gap. It is held for `gap_hold_ms` from its own arrival, so that the other listener or the info endpoint can bring what
is missing in order; then it goes all the same, because its signal depends on it alone. What is missing comes late then:
its signal is sent, the position is not moved back. A net change of nothing that was missed is invisible here: after an
outage the account's fills are fetched by time.

    chain.add(arrived); chain.release(now) -> what to write, in order; chain.due_ms -> when to call it again
    chain.wanted -> gaps to fetch now; chain.changed -> gaps to write into the ledger
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from common.contracts import GapStatus
from influencer_ingestor.events import Arrived, Fill
from influencer_ingestor.fills_order import follow, is_mirror, order_fills, step
from influencer_ingestor.gaps import TRIES_MAX, Gap
from influencer_ingestor.positions import is_spot

GAP_HOLD_MS = 250
"""Default of `gap_hold_ms`: how long a fill waits for what is missing before it."""

GIVEN_UP_MAX = 8
"""So many given-up gaps of a coin are remembered, while the service runs."""


class Released(msgspec.Struct, frozen=True):
    """A fill to be written now. `moves`: it is the newest, so the stored position becomes `position`.

    Without `moves` it came late: its signal is sent, and the position has been set by fills after it.
    """

    arrived: Arrived
    moves: bool
    position: int


class Chain:
    """The fills of one (account, coin), in order. `position` is None until a fill or a statement of the venue tells it.

    Whoever uses it empties `wanted` (a gap just seen: fetch its times) and `changed` (a gap that outlasted its hold, or
    that was in the ledger and changed: write it).
    """

    def __init__(self, user: str, coin: str, hold_ms: int = GAP_HOLD_MS) -> None:
        self.user = user
        self.coin = coin
        self.position: int | None = None
        self.last_ms = -1
        self.gaps: list[Gap] = []
        self.wanted: list[Gap] = []
        self.changed: list[Gap] = []
        self.hold_ms = hold_ms
        self._continuous = not is_spot(coin)
        self._waiting: list[Arrived] = []
        self._before: Fill | None = None
        self._same: list[Fill] = []
        """What was released of the newest millisecond, which began at `_same_from`."""
        self._same_from: int | None = None
        self._odd = False
        """In it something did not chain when it was released."""
        self._next_id = 0
        self._given_up: deque[Gap] = deque(maxlen=GIVEN_UP_MAX)
        """The venue did not have them when it was asked; it may bring them all the same."""
        self._awaited: tuple[Gap, str] | None = None
        """The gap that is waited for, and the event id of the fill that showed it."""

    def restore(self, position: int, last_ms: int, gaps: list[Gap] | None = None, newest: Iterable[Fill] = ()) -> None:
        """Take over what the tables hold: the position after the newest stored fill, and the gaps still open.

        `newest` are the stored fills of `last_ms`, in any order: others of that time may be missing yet.
        """
        self.position, self.last_ms, self.gaps = position, last_ms, gaps or []
        if same := order_fills(newest):
            self._same, self._same_from = same, same[0].start
            self._odd = follow(same, same[0].start) != position
        self._next_id = max((gap.id + 1 for gap in self.gaps), default=0)

    def add(self, arrived: Arrived) -> None:
        """Take one fill that was not seen before."""
        self._waiting.append(arrived)

    @property
    def due_ms(self) -> int | None:
        """When the first held fill goes, whatever is missing (venue clock); None when nothing is held."""
        first_ms = min((each.received_ms for each in self._waiting), default=None)
        return None if first_ms is None else first_ms + self.hold_ms

    def release(self, now_ms: int) -> list[Released]:
        """What may be written at `now_ms`, in order; the rest is held until `due_ms` or until a fill is added."""
        rejoined = self._rejoin()
        by_id = {each.fill.event_id: each for each in self._waiting}
        late = [each.fill for each in self._waiting if each.fill.time_ms < self.last_ms]
        newer = [each.fill for each in self._waiting if each.fill.time_ms >= self.last_ms]
        ordered = [by_id[fill.event_id] for fill in order_fills(late) + order_fills(newer, self.position)]
        overdue = [at for at, each in enumerate(ordered) if now_ms >= each.received_ms + self.hold_ms]
        forced = overdue[-1] if overdue else -1
        released: list[Released] = []
        for at, each in enumerate(ordered):
            outcome = self._judge(each, at <= forced)
            if outcome is None:
                break
            released.append(outcome)
        self._waiting = ordered[len(released) :]
        return rejoined + released

    def state(self, size: int, as_of_ms: int) -> Gap | None:
        """Take the venue's own statement of the position; answers the gap that it shows.

        Fills up to `as_of_ms` are late from now on, and fill that gap. A statement older than our newest fill says
        nothing, nor does any while fills are held.
        """
        if as_of_ms < self.last_ms or self._waiting or not self._continuous:
            return None
        gap = None
        if self.position is not None and self.position != size:
            gap = self._open(self.position, size, as_of_ms, "position differs")
            gap.recorded = True
            self.changed.append(gap)
        self.position, self.last_ms, self._before = size, as_of_ms, None
        self._same, self._same_from = [], None
        return gap

    def note_try(self, gap: Gap) -> None:
        """Book an answer of the info endpoint that did not fill the gap; the last one gives it up."""
        if gap.status is not GapStatus.OPEN:
            return
        gap.tries += 1
        if gap.tries <= TRIES_MAX:
            self.changed += [gap] if gap.recorded else []
            return
        gap.recorded = True
        self._close(gap, GapStatus.SOURCE_MISSING)
        self._given_up.append(gap)

    def recount(self, gap: Gap, stored: list[Fill]) -> None:
        """Judge a gap by all stored fills of its times: of some the process that wrote them is gone."""
        if gap.status is GapStatus.OPEN and gap.is_bridged(stored):
            self._close(gap, GapStatus.REPAIRED)

    def _rejoin(self) -> list[Released]:
        """Let go what completes the newest millisecond: with it, all its fills chain, whatever their order was so far.

        A size that is reached twice in one millisecond can be left in two ways; only the whole tells which was first.
        """
        same = [each for each in self._waiting if each.fill.time_ms == self.last_ms]
        if not same or self._same_from is None or self.position is None or not self._continuous:
            return []
        fills = [each.fill for each in same]
        if not self._odd and follow(order_fills(fills, self.position), self.position) is not None:
            return []
        whole = order_fills([*self._same, *fills], self._same_from)
        position, complete = follow(whole, whole[0].start), whole[0].start == self._same_from
        if position is None or not (complete or self._odd):
            return []  # nothing says yet that something is missing before it
        self._waiting = [each for each in self._waiting if each.fill.time_ms != self.last_ms]
        self.position, self._same, self._before = position, whole, whole[-1]
        self._close_rejoined(fills, complete)
        self._awaited, self._odd = None, not complete
        return [Released(each, True, position) for each in same]

    def _close_rejoined(self, fills: list[Fill], complete: bool) -> None:
        """End the gaps that the newest millisecond shows no more, now that all its fills chain.

        Not `complete`: before it something is missing still, and the gap that says so only gets what came of it.
        """
        for gap in [gap for gap in self._known() if gap.to_ms >= self.last_ms]:
            gap.fills += [fill for fill in fills if gap.spans(fill)]
            # One that ends later was seen from a position that was none.
            if complete or gap.from_ms == self.last_ms or gap.to_ms > self.last_ms or gap.is_filled():
                self._close(gap, GapStatus.REPAIRED)

    def _judge(self, each: Arrived, forced: bool) -> Released | None:
        """Decide about the next fill in order; None to hold it, and with it what follows."""
        fill = each.fill
        if fill.time_ms < self.last_ms:
            return self._let_late(each)
        if not self._continuous:
            # No fill of a token is held, so the order of its millisecond is told by all that came of it.
            same = self._same if fill.time_ms == self.last_ms else []
            return self._move(each, order_fills([*same, fill], self._same_from if same else None)[-1].end)
        after = step(self._before, self.position, fill)
        if after is not None:
            return self._move(each, after)
        awaited = None if self._awaited is None else self._awaited[0]
        if fill.time_ms == self.last_ms and any(
            gap.spans(fill) and gap.joins(fill) for gap in self._known() if gap is not awaited
        ):
            return self._let_late(each)
        if self._awaited is None:
            assert self.position is not None
            gap = self._open(self.position, fill.start, fill.time_ms, "start differs")
            self._awaited = gap, fill.event_id
        if not forced:
            return None
        released = self._move(each, fill.end)
        self._odd = True
        return released

    def _move(self, each: Arrived, after: int) -> Released:
        """Let the newest fill go: the position follows."""
        fill = each.fill
        if self._awaited is not None and fill.event_id == self._awaited[1]:
            gap, self._awaited = self._awaited[0], None
            if gap.status is GapStatus.OPEN:
                gap.recorded = True
                self.changed.append(gap)
        elif self._awaited is not None:
            # What follows the fill that showed a gap is none of the missing, though of the same millisecond.
            self._fill_gap(fill)
        if fill.time_ms > self.last_ms:
            self._same, self._same_from, self._odd = [], fill.start if self.position is None else self.position, False
        self._same.append(fill)
        paired = self._before is not None and is_mirror(self._before, fill)
        self.position, self.last_ms = after, fill.time_ms
        self._before = None if paired else fill
        return Released(each, True, after)

    def _let_late(self, each: Arrived) -> Released:
        """Let a fill go that newer ones have overtaken."""
        if each.fill.time_ms == self.last_ms:
            self._same.append(each.fill)
            self._odd = True
        self._fill_gap(each.fill)
        return Released(each, False, each.fill.end)

    def _fill_gap(self, fill: Fill) -> None:
        """Put a fill into the gap where it was missing: of several, the one that it continues."""
        known = [gap for gap in self._known() if gap.spans(fill)]
        if not known:
            return
        gap = next((gap for gap in known if gap.joins(fill)), known[0])
        gap.fills.append(fill)
        if gap.is_filled():
            self._close(gap, GapStatus.REPAIRED)

    def _known(self) -> list[Gap]:
        """Gaps that a fill may still fill: those that are open first."""
        return [*self.gaps, *self._given_up]

    def _open(self, expected: int, found: int, to_ms: int, reason: str) -> Gap:
        from_ms = min(max(self.last_ms, 0), to_ms)
        gap = Gap(self.user, self.coin, max(from_ms, self._next_id), from_ms, to_ms, expected, found, reason)
        self._next_id = gap.id + 1
        self.gaps.append(gap)
        self.wanted.append(gap)
        return gap

    def _close(self, gap: Gap, status: GapStatus) -> None:
        gap.status = status
        (self.gaps if gap in self.gaps else self._given_up).remove(gap)
        self.changed += [gap] if gap.recorded else []
