"""A gap: ids of a venue that we do not have, and the span of time that is therefore unproven."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.contracts import GapRow, GapStatus

Run = tuple[int, int]


@dataclass(eq=False, slots=True)
class Gap:
    """One hole in a symbol's ids, from its discovery to its end.

    `from_id` never changes; `to_id` is None while the next trade is unknown (an open end). `from_ms` and `to_ms` are
    the times of the trades around it, or of proven silence; `prev_last` and `next_first` the venue's single-trade ids
    around it: their distance is what must be restored. `probe_ms` is where live coverage began again.

    `due_ms`: the watermark at which it is written to the ledger (None: at once); `silent` gaps, the start of a first
    subscription, never are. `retract`: stored complete rows around it still have to be lowered. `active`: a repair is
    at work; `worked`: one was, so minutes inside hold trades. `parked`: older than what is repaired by itself;
    `narrowed`: its older part was parked. `behind_ms`: the watermark at which REST was found not to have reached its
    end, None where it has. `open_ended`: no trade after it is known, or was when it closed.
    `subsumed`: ledger gaps of an earlier life that lie inside it and end with it.
    """

    from_id: int
    to_id: int | None
    from_ms: int
    to_ms: int | None
    reason: str
    missing: list[Run] = field(default_factory=list[Run])
    status: GapStatus = GapStatus.OPEN
    tries: int = 0
    restored_n: int = 0
    prev_last: int | None = None
    next_first: int | None = None
    due_ms: int | None = None
    probe_ms: int | None = None
    silent: bool = False
    recorded: bool = False
    retract: bool = False
    active: bool = False
    worked: bool = False
    parked: bool = False
    narrowed: bool = False
    behind_ms: int | None = None
    subsumed: list[Gap] = field(default_factory=lambda: list[Gap]())
    open_ended: bool = field(init=False)

    def __post_init__(self) -> None:
        self.open_ended = self.to_id is None

    def has(self, trade_id: int) -> bool:
        """Is this id still missing?"""
        return any(a <= trade_id <= b for a, b in self.missing)

    def take(self, trade_id: int, n: int) -> bool:
        """Strike one id off the missing ones; false if it was not among them."""
        for i, (a, b) in enumerate(self.missing):
            if a <= trade_id <= b:
                rest = [(a, trade_id - 1)] if a < trade_id else []
                if trade_id < b:
                    rest.append((trade_id + 1, b))
                self.missing[i : i + 1] = rest
                self.restored_n += n
                return True
        return False

    def missing_ids(self) -> int:
        """How many ids are still missing (an open end counts nothing)."""
        return sum(b - a + 1 for a, b in self.missing)

    def adds_up(self) -> bool:
        """Are all single trades between its neighbours restored? True where a neighbour is unknown."""
        if self.prev_last is None or self.next_first is None:
            return True
        return self.restored_n == self.next_first - self.prev_last - 1

    def touches(self, from_ms: int, to_ms: int) -> bool:
        """Does it leave the span [from_ms, to_ms) unproven?"""
        return self.from_ms < to_ms and (self.to_ms is None or self.to_ms >= from_ms)


def gap_row(gap: Gap, service: str, venue: str, symbol: str) -> GapRow:
    """Ledger row of a gap."""
    return GapRow(
        service=service, venue=venue, symbol=symbol, from_id=gap.from_id, to_id=gap.to_id, from_ms=gap.from_ms,
        to_ms=gap.to_ms, missing=tuple(gap.missing), status=gap.status, reason=gap.reason, tries=gap.tries,
        restored_n=gap.restored_n,
    )  # fmt: skip


def clip_runs(runs: list[Run], from_id: int, to_id: int) -> list[Run]:
    """The part of closed ranges that lies in [from_id, to_id]."""
    return [(max(a, from_id), min(b, to_id)) for a, b in runs if b >= from_id and a <= to_id]
