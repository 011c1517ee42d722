"""Recorded fills played again, each wallet an account; times are moved to now, and squeezed when wanted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from sandbox.draws import draw_unit
from sandbox.hyperliquid_ledger import Wire


class Recorded(NamedTuple):
    """A recorded fill of an account, as it was sent."""

    user: str
    fill: Wire


def _wallet(*words: object) -> str:
    return "0x" + "".join(f"{int(draw_unit('wallet', i, *words) * 2**32):08x}" for i in range(5))


def read_tape(path: Path) -> list[Recorded]:
    """The fills of a file, oldest first: a list of one wallet, or answers under `queries`, one wallet each.

    Wallets without an address get one from the file's name and their place in it. Raises ValueError.
    """
    body: Any = json.loads(path.read_text(encoding="utf-8"))
    queries = cast("list[dict[str, Any]]", body["queries"] if isinstance(body, dict) else [{"fills": body}])
    found: list[Recorded] = []
    for place, query in enumerate(queries):
        user = str(query.get("user") or _wallet(path.stem, place)).lower()
        fills: list[Wire] = query["fills"]
        if not all({"coin", "time"} <= set(fill) for fill in fills):
            raise ValueError(f"{path.name} holds no fills")
        # Stable: fills of one time stay in the order in which they were told.
        found += [Recorded(user, fill) for fill in sorted(fills, key=lambda fill: fill["time"])]
    return sorted(found, key=lambda one: one.fill["time"])


class TapePlay:
    """Recorded fills by time; those of one time stay at one time, different times stay different."""

    def __init__(self, recorded: Sequence[Recorded], speed: float, start_ms: int) -> None:
        self._due: list[tuple[int, Recorded]] = []
        self._next = 0
        ordered = sorted(recorded, key=lambda one: one.fill["time"])
        before_ms, last_ms = -1, start_ms - 1
        for one in ordered:
            if one.fill["time"] != before_ms:
                before_ms = one.fill["time"]
                last_ms = max(last_ms + 1, start_ms + int((before_ms - ordered[0].fill["time"]) / speed))
            self._due.append((last_ms, Recorded(one.user, one.fill | {"time": last_ms})))

    @property
    def users(self) -> list[str]:
        """The wallets, in the order of their first fills."""
        return list(dict.fromkeys(one.user for _, one in self._due))

    @property
    def next_ms(self) -> int | None:
        """When the next fill is due; None at the end."""
        return self._due[self._next][0] if self._next < len(self._due) else None

    def take(self) -> list[Recorded]:
        """The fills of the next time."""
        now_ms, first = self.next_ms, self._next
        while self._next < len(self._due) and self._due[self._next][0] == now_ms:
            self._next += 1
        return [one for _, one in self._due[first : self._next]]
