"""Recorded trades: reads the formats that recordings come in, and serves them as a source."""

from __future__ import annotations

import gzip
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from sandbox.trades import UNIT, Trade

_GZIP = b"\x1f\x8b"


def units_of(text: str) -> int:
    """Decimal text in units of 1e-8; ValueError when it is finer."""
    value = Decimal(text) * UNIT
    if value != int(value):
        raise ValueError(f"{text!r} is finer than 8 decimals")
    return int(value)


def _read_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as raw:
        packed = raw.read(len(_GZIP)) == _GZIP
        raw.seek(0)
        with gzip.open(raw) if packed else raw as lines:
            for line in lines:
                yield line.decode()


def _from_collector_csv(lines: Iterable[str]) -> Iterator[tuple[str | None, Trade]]:
    """`timestamp,price,quantity,side,tradeId`: the side is the taker's, the id an aggTrade id, counts are lost."""
    for line in lines:
        stamp, price, qty, side, number = line.strip().split(",")
        if stamp != "timestamp":
            key = int(number)
            yield None, Trade(key, units_of(price), units_of(qty), key, key, int(stamp), side == "sell")


def _from_records(lines: Iterable[str]) -> Iterator[tuple[str | None, Trade]]:
    """One REST aggTrades record a line; an `s` field, if there is one, names the symbol."""
    for line in lines:
        row: dict[str, Any] = json.loads(line)
        yield (
            row.get("s"),
            Trade(row["a"], units_of(row["p"]), units_of(row["q"]), row["f"], row["l"], row["T"], row["m"]),
        )


def _from_capture(lines: Iterable[str]) -> Iterator[tuple[str | None, Trade]]:
    """`<receive time, ns> <combined frame>`: single `@trade` events become aggTrades of one trade each."""
    for line in lines:
        if '@trade"' in line:
            row: dict[str, Any] = json.loads(line.partition(" ")[2])["data"]
            key: int = row["t"]
            yield row["s"], Trade(key, units_of(row["p"]), units_of(row["q"]), key, key, row["T"], row["m"])


def _from_frames(lines: Iterable[str]) -> Iterator[tuple[str | None, Trade]]:
    """`trading-bus record`: a header, then `{"t":..,"c":..,"f":"<frame>"}` and marks, one a line.

    Only the trades in it are read. A recorder that was killed leaves an archive without an end: what is there counts.
    """
    with suppress(EOFError):
        for number, line in enumerate(lines):
            if not line.endswith("\n"):
                return  # cut off in the middle
            row: dict[str, Any] = json.loads(line)
            if number == 0 and row["venue"] != "binance":
                raise ValueError(f"a tape of {row['venue']}: only binance can be played")
            if '"aggTrade"' in row.get("f", ""):
                yield from _trade_in(row["f"])


def _trade_in(frame: str) -> Iterator[tuple[str, Trade]]:
    """The trade of an aggTrade frame; nothing of a frame that the venue itself broke."""
    with suppress(ValueError, KeyError, TypeError):
        row: dict[str, Any] = json.loads(frame)
        row = row.get("data", row)
        if row["e"] == "aggTrade":
            prices = (units_of(row["p"]), units_of(row["q"]))
            yield row["s"], Trade(row["a"], *prices, row["f"], row["l"], row["T"], row["m"])


def _reader_of(first_line: str) -> Callable[[Iterable[str]], Iterator[tuple[str | None, Trade]]]:
    if first_line.startswith("timestamp,"):
        return _from_collector_csv
    if first_line.startswith('{"tape":'):
        return _from_frames
    if first_line.startswith("{"):
        return _from_records
    if re.match(r"\d+ \{", first_line):
        return _from_capture
    raise ValueError(f"not a known tape format: {first_line[:60]!r}")


def read_tape(path: Path, symbol: str | None = None) -> dict[str, list[Trade]]:
    """Trades of one file by symbol, as written; the symbol comes from the argument, the record, or the file's name."""
    named = re.search(r"(?<![A-Z0-9])[A-Z0-9]{5,}(?![A-Z0-9])", path.name)
    fallback = named.group() if named else None
    reader = _reader_of(next(_read_lines(path), ""))
    found: dict[str, list[Trade]] = {}
    for told, trade in reader(_read_lines(path)):
        name = symbol or told or fallback
        if name is None:
            raise ValueError(f"{path.name} does not tell its symbol: write FILE:SYMBOL")
        found.setdefault(name, []).append(trade)
    return found


def read_tapes(tapes: Iterable[tuple[Path, str | None]], limit: int | None = None) -> dict[str, list[Trade]]:
    """Trades of all files by symbol, sorted by id, each id once, at most `limit` per symbol.

    Raises ValueError when time goes back from one id to the next: such a tape has no order to replay; also when there
    is no trade at all.
    """
    joined: dict[str, dict[int, Trade]] = {}
    for path, symbol in tapes:
        for name, trades in read_tape(path, symbol).items():
            joined.setdefault(name, {}).update((trade.id, trade) for trade in trades)
    ordered = {name: [by_id[key] for key in sorted(by_id)][:limit] for name, by_id in joined.items()}
    if not any(ordered.values()):
        raise ValueError("there is no trade in it")
    for name, trades in ordered.items():
        for earlier, later in pairwise(trades):
            if later.time_ms < earlier.time_ms:
                raise ValueError(f"{name}: time goes back at id {later.id}")
    return ordered


class TapeSource:
    """Recorded trades, shifted by `offset_ms`."""

    lag_ms = 0

    def __init__(self, trades: dict[str, list[Trade]], offset_ms: int) -> None:
        self.symbols = tuple(trades)
        self._trades = {
            name: [msgspec.structs.replace(trade, time_ms=trade.time_ms + offset_ms) for trade in rows]
            for name, rows in trades.items()
        }
        self._ids = {name: [trade.id for trade in rows] for name, rows in self._trades.items()}
        self._times = {name: [trade.time_ms for trade in rows] for name, rows in self._trades.items()}
        self.end_ms = max((times[-1] for times in self._times.values() if times), default=None)

    def first_ms(self, symbol: str) -> int | None:
        """Time of the first trade."""
        times = self._times[symbol]
        return times[0] if times else None

    def between(self, symbol: str, from_ms: int, to_ms: int) -> Sequence[Trade]:
        """Trades of `[from_ms, to_ms)`."""
        times = self._times[symbol]
        return self._trades[symbol][bisect_left(times, from_ms) : bisect_left(times, to_ms)]

    def from_id(self, symbol: str, from_id: int, limit: int, until_ms: int) -> Sequence[Trade]:
        """At most `limit` trades with ids from `from_id` on, none later than `until_ms`."""
        low = bisect_left(self._ids[symbol], from_id)
        high = bisect_left(self._times[symbol], until_ms + 1)
        return self._trades[symbol][low : min(low + limit, max(low, high))]

    def before(self, symbol: str, time_ms: int, limit: int) -> Sequence[Trade]:
        """The last `limit` trades earlier than `time_ms`."""
        high = bisect_left(self._times[symbol], time_ms)
        return self._trades[symbol][max(0, high - limit) : high]
