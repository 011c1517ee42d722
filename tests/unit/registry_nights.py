"""A registry in memory: symbols with facts, nights that follow each other, and rows that are kept between them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from msgspec.structs import replace

from registry.defaults import load_rules
from registry.facts import Facts, Night, RegistryRow, Verdict
from registry.lists import Lists
from registry.night import Rules, judge_night
from registry.schedule import night_of

RULES = load_rules()
FIRST = datetime(2026, 11, 2, 2, 0, tzinfo=UTC)
PULL_TIME = time(2, 0, tzinfo=UTC)


def dec(number: float | str) -> Decimal:
    return Decimal(str(number))


def facts_of(symbol: str = "SOL", **changes: Any) -> Facts:
    """A healthy coin: old, liquid, tight, with a perpetual."""
    healthy = Facts(
        symbol=symbol, pair=f"{symbol}USDT", quote="USDT", venue_status="TRADING", okx_inst_id=f"{symbol}-USDT",
        tick_size=dec("0.01"), listed_on=date(2020, 8, 11), age_days=2000, vol_24h=dec(2e8), spread_pct=dec("0.02"),
        spread_samples=288, move_24h_pct=dec("-2.5"), vol_mean_30d=dec(1.8e8), perp=f"{symbol}USDT",
        open_interest_usd=dec(5e8), funding_gaps=0, market_cap=dec(7e10),
    )  # fmt: skip
    return replace(healthy, **changes)


def poor(symbol: str = "SOL", **changes: Any) -> Facts:
    """Scores below 70 without any gate."""
    return facts_of(
        symbol, **{"age_days": 20, "vol_24h": dec(1.9e6), "vol_mean_30d": dec(1.9e6), "perp": None} | changes
    )


def absent(symbol: str = "SOL") -> Facts:
    return Facts(symbol=symbol, pair=f"{symbol}USDT", listed_on=date(2020, 8, 11), age_days=2000)


class Registry:
    """Keeps what each night wrote, as the table does."""

    def __init__(self, lists: Lists | None = None, rows: Iterable[RegistryRow] = ()) -> None:
        self.rules = Rules(RULES.thresholds, lists or Lists(), RULES.centroids)
        self.rows = {row.symbol: row for row in rows}
        self.now, self.pull_time = FIRST, PULL_TIME
        self.last_night: date | None = None

    @property
    def dated(self) -> date:
        """The night that a run of now belongs to."""
        return night_of(self.now, self.pull_time)

    def lists(self, banned: dict[str, str] | None = None, whitelisted: dict[str, str] | None = None) -> None:
        self.rules = replace(self.rules, lists=Lists(banned or {}, whitelisted or {}))

    def run(self, *facts: Facts, elsewhere: Collection[str] = ()) -> Night:
        night = judge_night(
            self.now, self.dated, facts, self.rows, self.rules, {f.symbol for f in facts}, elsewhere, self.last_night
        )
        self.last_night = self.dated
        for row in (*(v.row for v in night.verdicts), *night.idle):
            self.rows[row.symbol] = row
        return night

    def night(self, *facts: Facts, days: float = 1) -> Verdict:
        """Run once, then let a night pass; the first symbol's verdict."""
        found = self.run(*facts).verdicts
        self.now += timedelta(days=days)
        return next(v for v in found if v.row.symbol == facts[0].symbol)
