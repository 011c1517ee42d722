"""Rows to write: everything given a value, so that a test names only what it is about."""

from __future__ import annotations

from common.contracts import BarRow, CursorRow, FootprintRow, GapRow, GapStatus

T0 = 1_700_000_040
"""A full minute (14 Nov 2023, 22:14)."""


def make_bar(
    time: int = T0,
    symbol: str = "SOLUSDT",
    *,
    c: str = "64500.1",
    n: int = 10,
    grade: int = 4,
    source: str = "binance",
) -> BarRow:
    return BarRow(
        time, symbol, "64500", "64501.25", "64499", c, "1.5", n, "96750.15", "1", "64500", source, grade == 4, grade
    )


def make_second(
    time: int = T0,
    symbol: str = "SOLUSDT",
    *,
    close: str = "100.5",
    n: int = 3,
    grade: int = 4,
    source: str = "binance",
    ids: tuple[int, int] | None = (7, 9),
) -> FootprintRow:
    first, last = ids or (None, None)
    return FootprintRow(
        time,
        symbol,
        "100",
        "101",
        "99.00000001",
        close,
        "0.5",
        "0.25",
        "50",
        "25",
        n,
        first,
        last,
        source,
        grade == 4,
        grade,
    )


def make_cursor(last_id: int, event_s: int, symbol: str = "SOLUSDT") -> CursorRow:
    return CursorRow("ohlcv", "binance", symbol, last_id, event_s)


def make_gap(from_id: int = 100, status: GapStatus = GapStatus.OPEN, **changes: object) -> GapRow:
    values: dict[str, object] = {
        "service": "ohlcv",
        "venue": "binance",
        "symbol": "SOLUSDT",
        "from_id": from_id,
        "to_id": from_id + 9,
        "from_ms": T0 * 1000 + 123,
        "to_ms": T0 * 1000 + 4567,
        "missing": ((from_id, from_id + 3), (from_id + 9, from_id + 9)),
        "status": status,
        "reason": "ids jumped",
        "tries": 0,
        "restored_n": 5,
    }
    return GapRow(**{**values, **changes})  # type: ignore[arg-type]
