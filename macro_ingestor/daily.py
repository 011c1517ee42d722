"""Rows of `macro_btc_daily` from readings of single days. Pure; times in epoch seconds."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from common.contracts import MacroDayRow, format_time
from macro_ingestor.answers import add_exact, divide, write_decimal
from macro_ingestor.chains import Chains
from macro_ingestor.readings import DAY_S, Reading

MEAN_DAYS = 7
NUPL_HOW = "1-1/mvrv"
"""Behind the provider's name in the source of a NUPL that was derived."""

History = Mapping[tuple[str, str], Mapping[int, Reading]]
"""(column, provider) -> reading by its time."""


def derive_nupl(mvrv: Decimal) -> Decimal | None:
    """Net unrealized profit and loss by its definition (MC - RC) / MC = 1 - 1 / MVRV; None where MVRV can not be."""
    return divide(add_exact((mvrv, Decimal(-1))), mvrv) if mvrv > 0 else None


def mean_asopr(days: Mapping[int, Reading], day_s: int) -> Reading | None:
    """The mean of the seven days up to and with `day_s`, all told by one provider; None when one is missing."""
    wanted = [days.get(day_s - back * DAY_S) for back in range(MEAN_DAYS)]
    known = [reading for reading in wanted if reading is not None]
    if len(known) < MEAN_DAYS:
        return None
    mean = divide(add_exact(Decimal(reading.value) for reading in known), MEAN_DAYS)
    return Reading("asopr_7d", write_decimal(mean), day_s, known[0].source)


def build_day(day_s: int, history: History, chains: Chains) -> MacroDayRow | None:
    """The row of a day: per column the first provider of the chain that knows it; None when nothing is known."""
    found: dict[str, Reading] = {}
    for column, name in (("mvrv", "mvrv"), ("asopr", "asopr_7d"), ("nupl", "nupl")):
        for provider in chains.get(column, ()):
            days = history.get((column, provider), {})
            reading = mean_asopr(days, day_s) if column == "asopr" else days.get(day_s)
            if reading is not None:
                found[name] = reading
                break
    if not found:
        return None
    return MacroDayRow(
        day_s,
        {name: reading.value for name, reading in found.items()},
        {name: format_time(reading.as_of) for name, reading in found.items()},
        {name: reading.source for name, reading in found.items()},
    )


def build_days(history: History, chains: Chains, from_s: int) -> list[MacroDayRow]:
    """Rows of every day since `from_s` of which something is known, in order."""
    days = {as_of for known in history.values() for as_of in known if as_of >= from_s and as_of % DAY_S == 0}
    return [row for day_s in sorted(days) if (row := build_day(day_s, history, chains)) is not None]
