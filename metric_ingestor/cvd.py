"""Signed volume of a window: what takers bought less what they sold, or null where that is not proven. Pure.

What is judged here is one read of the tables: seconds, ledger, cursor and the minute's bar as they were at one moment.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from common.contracts import GRADE_EXACT, GRADE_FALLBACK

PRIMARY = "binance"
FALLBACK = "okx"


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """What the tables say of a window and of the minute around it; times in epoch seconds.

    net               sum of buy_vol - sell_vol over the window's seconds, "" when there is none
    sources           first and last by name of the window's seconds, lowest grade among them
    cursor_s          how far the primary is stored
    touched           an unsettled gap of the ledger touches the window; `minute_touched`: the minute
    minute_*          the same of all seconds of the minute, and the venue's single trades in them
    bar_*             the minute's bar, None where there is none yet
    """

    symbol: str
    window: int
    net: str = ""
    source_min: str | None = None
    source_max: str | None = None
    grade_min: int | None = None
    cursor_s: int = 0
    touched: bool = False
    minute_touched: bool = False
    minute_n: int = 0
    minute_source_min: str | None = None
    minute_source_max: str | None = None
    bar_source: str | None = None
    bar_grade: int | None = None
    bar_n: int | None = None

    @property
    def minute_s(self) -> int:
        """Opening of the minute that holds the window."""
        return (self.window - 1) // 60 * 60


class Flow(msgspec.Struct, frozen=True, gc=False):
    """A window's signed volume and whose trades it is of; both None when it is not known."""

    value: float | None = None
    source: str | None = None


UNKNOWN = Flow()


def judge_flow(evidence: Evidence) -> Flow:
    """The signed volume of a window: 0 when the market was quiet, unknown when not one source covers it whole."""
    for source, covers in ((PRIMARY, _primary_covers), (FALLBACK, _fallback_covers)):
        if covers(evidence):
            return Flow(float(Decimal(evidence.net or "0")), source)
    return UNKNOWN


def _primary_covers(e: Evidence) -> bool:
    """All of it is stored, nothing is missing, and all that is there is the primary's and exact."""
    if e.cursor_s < e.window or e.touched:
        return False
    if e.net and not (e.source_min == e.source_max == PRIMARY and e.grade_min == GRADE_EXACT):
        return False
    if e.cursor_s < e.minute_s + 60 or e.minute_touched:
        return True
    # Before a first subscription there are bars and no seconds: only the number of trades tells that from a quiet one.
    return e.bar_source == PRIMARY and e.bar_n is not None and e.bar_n == e.minute_n


def _fallback_covers(e: Evidence) -> bool:
    """The fallback told the whole minute, trade by trade: it speaks in whole minutes, and its cursor is not kept."""
    if e.bar_source != FALLBACK or e.bar_grade != GRADE_FALLBACK or e.bar_n is None or e.bar_n != e.minute_n:
        return False
    if e.minute_n and not e.minute_source_min == e.minute_source_max == FALLBACK:
        return False
    return not e.net or e.grade_min == GRADE_FALLBACK
