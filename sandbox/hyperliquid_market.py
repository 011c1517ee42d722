"""All accounts and every fill ever made: what is due, what REST may show, what the judge is told."""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from sandbox.draws import draw_unit
from sandbox.hyperliquid_ledger import Account, Order, Position, Stamp, Wire, fill_order, number_text
from sandbox.hyperliquid_play import SeededPlay, decimals_of, make_action, make_address, price_of, split_size
from sandbox.hyperliquid_tape import Recorded, TapePlay

KEPT_FILLS = 10_000
"""REST knows no more than so many latest fills of a user."""
FIRST_OID = 500_000_000_000
AHEAD_MAX = 100_000
"""Steps that scripts may have waiting."""


class Move(NamedTuple):
    """A position changes without a fill."""

    user: str
    coin: str
    size: Decimal


class Act(NamedTuple):
    """Something done with whatever the account has by then."""

    user: str
    action: str
    coin: str
    changes: dict[str, Any]


Step = Order | Move | Act | Recorded


class Made(NamedTuple):
    """A fill that has happened; `start` and `end` are the account's position before and after it."""

    time_ms: int
    seq: int
    user: str
    fill: Wire
    made_ms: int
    streamed: bool
    start: Decimal
    end: Decimal

    def as_json(self) -> dict[str, object]:
        """What the judge is told."""
        return {
            "seq": self.seq,
            "user": self.user,
            "made_ms": self.made_ms,
            "streamed": self.streamed,
            "start": number_text(self.start),
            "end": number_text(self.end),
            "fill": self.fill,
        }


class HyperliquidMarket:
    """Steps by time, from a seed, a tape and scripts; `advance` carries out those that are due."""

    def __init__(self, seed: str, users: Sequence[str], seeded: SeededPlay, tape: TapePlay | None) -> None:
        self.accounts = {user: Account(user) for user in (*users, *(tape.users if tape else ()))}
        self.made: list[Made] = []
        self.skew_ms = 0  # told beside the time at which a fill happens
        self._seed = seed
        self._seeded = seeded
        self._tape = tape
        self._by_user: dict[str, list[Made]] = {}
        self._ahead: list[tuple[int, int, Step]] = []
        self._count = itertools.count()
        self._blocks = 0
        self._oids = itertools.count(FIRST_OID)

    # What happens

    def account(self, user: str) -> Account:
        """An account, new and empty when nobody knew it."""
        return self.accounts.setdefault(user.lower(), Account(user.lower()))

    def plan(self, steps: Sequence[dict[str, Any]], now_ms: int) -> None:
        """Take the steps of a script. Raises ValueError, and then takes none of them.

        A step has `user` and one of: `fill` (a whole fill, told as it is), `transfer` {coin, szi}, `action` (and
        `coin`; see hyperliquid_play; fields of an Order beside it win; nothing happens where the account holds nothing
        to close), or the fields of an Order.
        """
        read = [read_step(step) for step in steps]
        if len(self._ahead) + len(read) > AHEAD_MAX:
            raise ValueError(f"more than {AHEAD_MAX} steps wait")
        for step, raw in zip(read, steps, strict=True):
            heapq.heappush(self._ahead, (now_ms + int(raw.get("after_ms", 0)), next(self._count), step))

    def next_ms(self) -> int | None:
        """When something is due next."""
        times = [self._seeded.next_ms, self._tape.next_ms if self._tape else None]
        times += [self._ahead[0][0]] if self._ahead else []
        return min((ms for ms in times if ms is not None), default=None)

    def advance(self, now_ms: int) -> list[Made]:
        """Carry out what is due; returns the new fills in order."""
        found: list[Made] = []
        while (due := self.next_ms()) is not None and due <= now_ms:
            found += self._advance_one(due)
        return found

    def _advance_one(self, due: int) -> list[Made]:
        steps: Sequence[Step]
        if self._ahead and self._ahead[0][0] == due:
            steps = [heapq.heappop(self._ahead)[2]]
        elif self._tape is not None and self._tape.next_ms == due:
            steps = self._tape.take()
        else:
            steps = self._seeded.take(self.accounts)
        self._blocks += 1
        return [made for step in steps for made in self._carry_out(step, due)]

    def _carry_out(self, step: Step, now_ms: int) -> list[Made]:
        account = self.account(step.user)
        if isinstance(step, Move):
            self._move(account, step.coin, step.size, now_ms)
            return []
        if isinstance(step, Recorded):
            return [self._tell(account, step.fill, now_ms)]
        if isinstance(step, Act):
            order = make_action(account, step.action, step.coin, self._seed, now_ms, self._blocks)
            if order is None:
                return []
            step = msgspec.structs.replace(order, **step.changes)
        if step.start is not None:
            self._move(account, step.coin, step.start, now_ms)
        return self._fill(account, step, now_ms)

    def _fill(self, account: Account, order: Order, now_ms: int) -> list[Made]:
        time_ms = now_ms + self.skew_ms if order.time is None else order.time
        oid, block_hash = next(self._oids), order.hash or self._draw_hash()
        price = order.px if order.px is not None else price_of(self._seed, order.coin, time_ms)
        found: list[Made] = []
        for i, size in enumerate(split_size(order.sz, order.parts, decimals_of(order.coin), self._seed, oid)):
            drawn = int(draw_unit("tid", self._seed, oid, i) * 2**50)
            tid = drawn if order.tid is None or i else order.tid
            start = account.size(order.coin)
            fill = fill_order(account, order, size, price, Stamp(time_ms, block_hash, oid, tid))
            found.append(self._keep(account, fill, now_ms, order.streamed, start, account.size(order.coin)))
        return found

    def _tell(self, account: Account, fill: Wire, now_ms: int) -> Made:
        """A fill as it is: the account's position is what it says."""
        start = Decimal(fill["startPosition"])
        end = start + Decimal(fill["sz"]) * (1 if fill["side"] == "B" else -1)
        position = account.position(fill["coin"])
        position.size, position.entry = end, Decimal(fill["px"])
        return self._keep(account, fill, now_ms, True, start, end)

    def _move(self, account: Account, coin: str, size: Decimal, now_ms: int) -> None:
        was = account.size(coin)
        account.positions[coin] = Position(size, price_of(self._seed, coin, now_ms))
        delta = {"type": "subAccountTransfer", "coin": coin, "szi": number_text(size - was)}
        account.moves.append({"time": now_ms, "hash": self._draw_hash(), "delta": delta})

    def _draw_hash(self) -> str:
        return make_address(self._seed, "hash", self._blocks) + make_address(self._seed, self._blocks)[2:26]

    def _keep(
        self, account: Account, fill: Wire, now_ms: int, streamed: bool, start: Decimal, end: Decimal
    ) -> Made:  # fmt: skip
        made = Made(int(fill["time"]), len(self.made), account.user, fill, now_ms, streamed, start, end)
        self.made.append(made)
        insort(self._by_user.setdefault(account.user, []), made, key=_by_time)
        return made

    # What is asked

    def fills(self, user: str) -> list[Made]:
        """Every fill of a user in the order in which it happened."""
        return sorted(self._by_user.get(user, []), key=lambda made: made.seq)

    def seen(self, user: str, until_ms: int | None = None) -> list[Made]:
        """What REST knows of a user, by time; `until_ms`: as of then."""
        known = self._by_user.get(user, [])
        if until_ms is not None:
            known = [made for made in known if made.made_ms <= until_ms]
        return known[-KEPT_FILLS:]

    def between(self, user: str, from_ms: int, to_ms: int, until_ms: int | None) -> list[Made]:
        """What REST knows of a user's fills of `[from_ms, to_ms]`, by time."""
        known = self.seen(user, until_ms)
        low, high = bisect_left(known, from_ms, key=_by_time), bisect_right(known, to_ms, key=_by_time)
        return known[low:high]

    def look(self, user: str) -> Account:
        """An account as it is; an empty one for an unknown user, who stays unknown."""
        return self.accounts.get(user) or Account(user)

    def has(self, user: str) -> bool:
        """Whether the venue knows a user at all."""
        return user in self.accounts


_by_time: Callable[[Made], int] = lambda made: made.time_ms  # noqa: E731


def read_step(raw: dict[str, Any]) -> Step:
    """One step of a script. Raises ValueError."""
    try:
        user = str(raw["user"]).lower()
        if "fill" in raw:
            fill: Wire = raw["fill"]
            numbers = [Decimal(fill[name]) for name in ("sz", "px", "startPosition")]
            if not all(number.is_finite() for number in numbers) or fill["side"] not in ("A", "B"):
                raise ValueError("fill: wrong number or side")
            return Recorded(user, fill | {"time": int(fill["time"]), "coin": str(fill["coin"])})
        if "transfer" in raw:
            return Move(user, str(raw["transfer"]["coin"]), Decimal(str(raw["transfer"]["szi"])))
        order = {"side": "B", "sz": "1"} | {k: v for k, v in raw.items() if k != "action"} | {"user": user}
        read = msgspec.convert(order, Order, strict=False)
        if not 0 < read.sz < 10**15 or read.parts < 1 or (read.px is not None and not 0 < read.px < 10**15):
            raise ValueError(f"step {raw}: sz, px and parts must be positive")
    except (KeyError, ArithmeticError, TypeError, msgspec.ValidationError) as error:
        raise ValueError(f"step {raw}: {error!r}") from error
    if "action" not in raw:
        if "side" not in raw or "sz" not in raw:
            raise ValueError(f"step {raw}: side and sz, an action, a transfer or a fill")
        return read
    changes = {name: getattr(read, name) for name in raw if name not in ("action", "user", "coin")}
    # An unknown action fails here, not when it is due.
    make_action(Account(user), str(raw["action"]), read.coin, "", 0)
    return Act(user, str(raw["action"]), read.coin, changes)
