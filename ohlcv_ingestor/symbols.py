"""Which symbols to begin and to end, and on which line each of them travels. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """What to begin and what to end, both sorted."""

    begin: tuple[str, ...]
    end: tuple[str, ...]


def compare_symbols(wanted: Iterable[str], actual: Iterable[str]) -> Change:
    """Difference between the symbols wanted and those followed."""
    wanted, actual = set(wanted), set(actual)
    return Change(tuple(sorted(wanted - actual)), tuple(sorted(actual - wanted)))


def place_symbols(symbols: Iterable[str], load: list[int], room: int) -> dict[str, int]:
    """Give each symbol a line: the first with room, a new one (the next number) when all are full.

    `load` counts the symbols on each line; `room` is what one line takes.
    """
    load = list(load)
    places: dict[str, int] = {}
    for symbol in symbols:
        line = next((i for i, n in enumerate(load) if n < room), len(load))
        if line == len(load):
            load.append(0)
        load[line] += 1
        places[symbol] = line
    return places
