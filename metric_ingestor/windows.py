"""Windows of 15 seconds of venue time: which one a second belongs to, and when its row is due. Pure.

A window is named by its end, in epoch seconds: :00, :15, :30 or :45. It holds the seconds [end - 15, end).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

WINDOW_S = 15
MINUTE_S = 60


def window_of(second: int) -> int:
    """End of the window that holds this second."""
    return second // WINDOW_S * WINDOW_S + WINDOW_S


def latest_ended(now_ms: float) -> int:
    """End of the newest window that is over."""
    return int(now_ms) // 1000 // WINDOW_S * WINDOW_S


def windows_touched(from_s: float, to_s: float) -> tuple[int, int]:
    """First and last window that share an instant with [from_s, to_s].

    An end counts also where it is the very beginning of a window: the ledger's spans end with a trade that was seen.
    """
    return window_of(int(from_s)), window_of(int(to_s))


def is_due(end: int, now_ms: float, cursors: Mapping[str, int], symbols: Iterable[str], wait_max_ms: float) -> bool:
    """Is it time to write the rows of this window?

    Yes once every symbol's watermark (`cursors`, seconds) has passed its end, at the latest `wait_max_ms` after it.
    """
    if now_ms < 1000 * end:
        return False
    return now_ms >= 1000 * end + wait_max_ms or all(cursors.get(symbol, 0) >= end for symbol in symbols)
