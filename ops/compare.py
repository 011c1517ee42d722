"""Compare rows field by field and name what differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import msgspec

from common.contracts import format_time

LINES_MAX = 20
QUOTE_FIELDS = frozenset(("quote_vol", "buy_quote_vol", "buy_quote", "sell_quote"))

Value = str | int | None
Fields = Mapping[str, Value]
"""Column to value; decimals in their canonical text, so that equal numbers are equal texts."""


class Difference(msgspec.Struct, frozen=True):
    """One field of one row that is not what it should be; `time` is the row's, in epoch seconds."""

    symbol: str
    time: int
    field: str
    ours: str
    theirs: str

    def __str__(self) -> str:
        """One line: symbol (where known), time, field, both values."""
        name = f"{self.symbol} " if self.symbol else ""
        return f"{name}{format_time(self.time)} {self.field}: ours {self.ours}, theirs {self.theirs}"


def compare_row(
    symbol: str, time: int, ours: Fields | None, theirs: Fields, quote_slack: Decimal = Decimal(0)
) -> list[Difference]:
    """Differences in every field that `theirs` has; a row that we lack differs as a whole.

    `quote_slack` is how far quote volumes may lie apart, for a venue that rounds each of its trades.
    """
    if ours is None:
        return [Difference(symbol, time, "row", "none", "there is one")]
    return [
        Difference(symbol, time, name, str(ours[name]), str(value))
        for name, value in theirs.items()
        if ours[name] != value and not (name in QUOTE_FIELDS and _is_near(ours[name], value, quote_slack))
    ]


def compare_tables(
    symbol: str, ours: Mapping[int, Fields], theirs: Mapping[int, Fields]
) -> tuple[int, list[Difference]]:
    """How many of their rows (by time) are equal to ours, and what differs; a row that only we have differs too."""
    equal, found = 0, list[Difference]()
    for time in sorted(ours.keys() | theirs.keys()):
        row = theirs.get(time)
        if row is None:
            found.append(Difference(symbol, time, "row", "there is one", "none"))
            continue
        differences = compare_row(symbol, time, ours.get(time), row)
        equal += not differences
        found += differences
    return equal, found


def list_lines(differences: Sequence[object], lines_max: int = LINES_MAX) -> Iterable[str]:
    """The first differences as lines, then how many more there are."""
    yield from map(str, differences[:lines_max])
    if len(differences) > lines_max:
        yield f"... and {len(differences) - lines_max} more differences"


def _is_near(ours: Value, theirs: Value, slack: Decimal) -> bool:
    return bool(slack) and abs(Decimal(str(ours)) - Decimal(str(theirs))) <= slack
