"""Rows of `macro_onchain_15m` from readings. Pure; times in epoch seconds."""

from __future__ import annotations

from collections.abc import Mapping

from common.contracts import MacroSlotRow, format_time
from macro_ingestor.readings import SLOT_COLUMNS, SLOT_S, Reading


def slot_of(now_s: int) -> int:
    """The opening of the quarter of an hour."""
    return now_s - now_s % SLOT_S


def build_slot(slot_s: int, readings: Mapping[str, Reading | None]) -> MacroSlotRow | None:
    """The row of a slot; None when nothing is known, because then there is no row."""
    known = {column: reading for column in SLOT_COLUMNS if (reading := readings.get(column)) is not None}
    if not known:
        return None
    return MacroSlotRow(
        slot_s,
        {column: reading.value for column, reading in known.items()},
        {column: format_time(reading.as_of) for column, reading in known.items()},
        {column: reading.source for column, reading in known.items()},
    )
