"""The worked consumer (`examples/feature_engine.py`) in a demo: what it ended with, held against the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from common.contracts import format_time
from common.numbers import trim_decimal
from common.postgres import Connection, named_errors

SHOWN_MAX = 6

Row = tuple[int, int, str, bool]
"""Time (epoch seconds), rev, a value (close of a bar, buy volume of a second), complete."""


class Known(msgspec.Struct, frozen=True):
    """What a consumer knows of one symbol, and from when on it knows everything."""

    bars_from_s: int
    seconds_from_s: int
    bars: list[Row]
    seconds: list[Row]


class Comparison(msgspec.Struct):
    """Rows compared, and those that the consumer lacks or has otherwise."""

    bars: int = 0
    seconds: int = 0
    faults: list[str] = msgspec.field(default_factory=lambda: list[str]())

    def line(self) -> str:
        """For the summary."""
        verdict = "equal to the tables" if not self.faults else f"{len(self.faults)} differ from the tables"
        return f"features  the feature engine ended with {self.bars:,} bars and {self.seconds:,} seconds, {verdict}"


_BARS = """
SELECT extract(epoch FROM time)::bigint AS time, rev, c::text AS value, complete FROM raw_bars
 WHERE symbol = $1 AND time >= to_timestamp($2)
"""
_SECONDS = """
SELECT extract(epoch FROM time)::bigint AS time, rev, buy_vol::text AS value, complete FROM footprint_1s
 WHERE symbol = $1 AND time >= to_timestamp($2)
"""


def read_known(text: bytes) -> dict[str, Known]:
    """What the engine wrote at its end; raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=dict[str, Known])


async def compare_known(con: Connection, symbols: Sequence[str], known: Mapping[str, Known]) -> Comparison:
    """Hold everything the engine ought to know against the tables; raises TryLater."""
    found = Comparison()
    for symbol in symbols:
        theirs = known.get(symbol)
        if theirs is None:
            found.faults.append(f"feature engine: {symbol} is unknown to it")
            continue
        with named_errors():
            bars = await con.fetch(_BARS, symbol, theirs.bars_from_s)
            seconds = await con.fetch(_SECONDS, symbol, theirs.seconds_from_s)
        for kind, rows, records in (("1m", theirs.bars, bars), ("1s", theirs.seconds, seconds)):
            stored = [(row["time"], row["rev"], trim_decimal(row["value"]), row["complete"]) for row in records]
            found.faults += compare_rows(f"feature engine: {symbol} {kind}", rows, stored)
        found.bars += len(theirs.bars)
        found.seconds += len(theirs.seconds)
    return found


def compare_rows(name: str, known: Sequence[Row], stored: Sequence[Row]) -> list[str]:
    """Rows that are not the same on both sides, one line each."""
    ours = {time: (rev, trim_decimal(value), complete) for time, rev, value, complete in known}
    theirs = {time: (rev, value, complete) for time, rev, value, complete in stored}
    return [
        f"{name} {format_time(time)}: {ours.get(time, 'not known')}, the table has {theirs.get(time, 'no row')}"
        for time in sorted(ours.keys() | theirs.keys())
        if ours.get(time) != theirs.get(time)
    ]
