"""Files of trades and candles as they were saved from a venue; plain or .gz."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

import msgspec

from common.errors import BadInput, Refused
from common.numbers import format_scaled, parse_scaled
from common.venues import binance_spot
from common.venues.market import Trade

CSV_HEAD = "timestamp,price,quantity,side,tradeId"
SHORT_FIELDS = ("o", "h", "l", "c", "v")

_SCALE = binance_spot.SCALE


class VenueBar(msgspec.Struct, frozen=True):
    """One minute as the venue tells it: opening second, and the fields its file has, in canonical text."""

    minute: int
    fields: dict[str, str | int]


def read_trades(path: Path, symbol: str) -> list[Trade]:
    """Trades of a file, by id: one REST aggTrades record a line, or a collector's CSV (see CSV_HEAD).

    The same trade twice counts once. Raises Refused naming the file and the line that can not be read.
    """
    found: dict[int, Trade] = {}
    parse: Callable[[str, str], Trade] = _parse_record
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if number == 1 and line.strip() == CSV_HEAD:
            parse = _parse_csv
        elif line.strip():
            try:
                trade = parse(line, symbol)
            except (BadInput, ValueError) as error:
                raise Refused(f"{path}, line {number}: {error}") from error
            if found.setdefault(trade.id, trade) != trade:
                raise Refused(f"{path}, line {number}: trade {trade.id} is there twice, with different contents")
    if not found:
        raise Refused(f"{path}, line 1: no trades in it")
    return [found[id_] for id_ in sorted(found)]


def read_klines(path: Path) -> list[VenueBar]:
    """Candles of a file, by time: a JSON list of the venue's 12-column rows or of [open ms, o, h, l, c, volume].

    Raises Refused naming the file and the line that can not be read.
    """
    found: dict[int, VenueBar] = {}
    for number, text in _cut_rows(path, _read_text(path)):
        try:
            bar = _parse_kline(text)
        except (BadInput, ValueError, TypeError, InvalidOperation) as error:
            raise Refused(f"{path}, line {number}: not a candle: {error}") from error
        if bar.minute % 60:
            raise Refused(f"{path}, line {number}: the candle does not open at a whole minute")
        if found.setdefault(bar.minute, bar) != bar:
            raise Refused(f"{path}, line {number}: a minute is there twice, with different contents")
    if not found:
        raise Refused(f"{path}, line 1: no candles in it")
    return [found[minute] for minute in sorted(found)]


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise Refused(f"{path}: can not be read: {reason}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise Refused(f"{path}, line {line}: not UTF-8 text") from error


def _parse_record(line: str, symbol: str) -> Trade:
    (trade,) = binance_spot.parse_agg_trades(f"[{line}]".encode(), symbol)
    return trade


def _parse_csv(line: str, symbol: str) -> Trade:
    columns = line.strip().split(",")
    if len(columns) != 5 or columns[3] not in ("buy", "sell"):
        raise BadInput(f"{line[:80]!r} is not {CSV_HEAD}")
    time_ms, price, qty, side, id_ = columns
    record = {
        "a": int(id_), "p": price, "q": qty, "f": int(id_), "l": int(id_), "T": int(time_ms), "m": side == "sell"
    }  # fmt: skip
    return _parse_record(json.dumps(record), symbol)


def _cut_rows(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Text of every element of a JSON list, with the line it begins on."""
    # Numbers stay text: a float would not be the number that was written.
    decoder = json.JSONDecoder(parse_float=str, parse_int=str)
    at, line, counted = _skip_space(text, 0), 1, 0
    if text[at : at + 1] != "[":
        raise Refused(f"{path}, line 1: not a JSON list")
    at = _skip_space(text, at + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise Refused(f"{path}, line {line}: {error}") from error
        yield line, text[at:end]
        at = _skip_space(text, end)
        if text[at : at + 1] not in (",", "]"):
            raise Refused(f"{path}, line {line}: the list goes on with {text[at : at + 20]!r}")
        if text[at] == ",":
            at = _skip_space(text, at + 1)
    if text[at + 1 :].strip():
        raise Refused(f"{path}, line {line}: something follows the list")


def _skip_space(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _parse_kline(text: str) -> VenueBar:
    row = json.loads(text, parse_float=str, parse_int=str)
    if not isinstance(row, list):
        raise BadInput("it is not a list")
    columns = cast("list[Any]", row)
    if len(columns) == 6:
        open_s, rest_ms = divmod(int(columns[0]), 1000)
        if rest_ms:
            raise BadInput(f"it opens at {columns[0]} ms, inside a second")
        # A JSON number may be written 1e-05, which venue text never is.
        prices = (format_scaled(parse_scaled(format(Decimal(it), "f"), _SCALE), _SCALE) for it in columns[1:])
        return VenueBar(open_s, dict(zip(SHORT_FIELDS, prices, strict=True)))
    (k,) = binance_spot.parse_klines(f"[{text}]".encode())
    return VenueBar(
        k.open_s,
        {
            "o": format_scaled(k.open, _SCALE), "h": format_scaled(k.high, _SCALE),
            "l": format_scaled(k.low, _SCALE), "c": format_scaled(k.close, _SCALE),
            "v": format_scaled(k.vol, _SCALE), "n": k.n, "quote_vol": format_scaled(k.quote_vol, 2 * _SCALE),
            "buy_vol": format_scaled(k.buy_vol, _SCALE), "buy_quote_vol": format_scaled(k.buy_quote_vol, 2 * _SCALE),
        },
    )  # fmt: skip
