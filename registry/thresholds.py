"""The numbers that the registry judges by: `symbol_registry.toml`, read and checked whole. Pure."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from typing import Any

import msgspec

from common.errors import ConfigError

_ZERO, _ONE = Decimal(0), Decimal(1)
POINTS = 100


class Ramp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Worth 0 at `zero` and beyond, 1 at `full` and beyond; `share` is its weight inside its component."""

    zero: Decimal
    full: Decimal
    share: int

    def part(self, value: Decimal) -> Decimal:
        """Where a value lies on the straight line from zero to full: 0..1."""
        return min(_ONE, max(_ZERO, (value - self.zero) / (self.full - self.zero)))

    def log_part(self, value: Decimal) -> Decimal:
        """The same by the logarithm of the value; nothing and less is worth 0."""
        if value <= 0:
            return _ZERO if self.zero < self.full else _ONE
        low, high = self.zero.log10(), self.full.log10()
        return min(_ONE, max(_ZERO, (value.log10() - low) / (high - low)))


class UniverseLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which assets are looked at; see the comments of the file."""

    top: int
    quotes: tuple[str, ...]
    stablecoins: frozenset[str]
    wrapped: frozenset[str]
    stable_categories: tuple[str, ...]
    wrapped_categories: tuple[str, ...]


class Gates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds a score under 70: spread in percent at or above, volume in USD a day below."""

    spread_pct_max: Decimal
    volume_floor_usd: Decimal


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Points of the five components, 100 together."""

    history: int
    liquidity: int
    derivatives: int
    stability: int
    pump: int


class HistoryRamps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Age in days; share of our own minutes."""

    age_days: Ramp
    bar_coverage: Ramp


class LiquidityRamps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Volume in USD a day (log); spread in percent."""

    volume_usd: Ramp
    spread_pct: Ramp


class DerivativesRamps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Having a perpetual; its open interest in USD (log); settlements missing."""

    perp_share: int
    open_interest_usd: Ramp
    funding_gaps: Ramp


class StabilityRamps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares 0..1 of our metric rows."""

    null_share: Ramp
    outlier_share: Ramp


class PumpRamps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Move of the price in percent; volume in multiples of its mean."""

    move_pct: Ramp
    volume_ratio: Ramp


class StatusLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Days, minutes and nights of the status rules, and the share of rows that may change at once."""

    probation_days: int
    probation_slack_minutes: int
    absent_nights_max: int
    good_nights_min: int
    changed_share_max: Decimal
    held_nights_max: int = 3


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file, table by table."""

    universe: UniverseLimits
    gates: Gates
    weights: Weights
    history: HistoryRamps
    liquidity: LiquidityRamps
    derivatives: DerivativesRamps
    stability: StabilityRamps
    pump: PumpRamps
    status: StatusLimits


_LOG_RAMPS = frozenset({"liquidity.volume_usd", "derivatives.open_interest_usd"})


def parse_thresholds(text: str, source: str) -> Thresholds:
    """Read `symbol_registry.toml`; raises ConfigError, a line for each problem."""
    try:
        found = msgspec.convert(tomllib.loads(text, parse_float=Decimal), Thresholds)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{source}: {error}") from error
    if problems := _problems(found):
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))
    return found


def _problems(found: Thresholds) -> list[str]:
    weights: dict[str, int] = msgspec.structs.asdict(found.weights)
    problems = [f"weights.{name} is below 0" for name, points in weights.items() if points < 0]
    if sum(weights.values()) != POINTS:
        problems.append(f"the weights add up to {sum(weights.values())}, not {POINTS}")
    for table in ("history", "liquidity", "derivatives", "stability", "pump"):
        entries: dict[str, Any] = msgspec.structs.asdict(getattr(found, table))
        for name, entry in entries.items():
            problems += _entry_problems(f"{table}.{name}", entry)
    limits = found.status
    lone = (found.gates.spread_pct_max, found.gates.volume_floor_usd, limits.changed_share_max)
    if not all(number.is_finite() for number in lone):
        return [*problems, "gates and changed_share_max are finite numbers"]
    if not found.universe.quotes or found.universe.top < 0:
        problems.append("universe: at least one quote, and a top of 0 or more")
    if min(limits.probation_days, limits.absent_nights_max, limits.good_nights_min) < 1:
        problems.append("status: days and nights are 1 or more")
    if limits.held_nights_max < 0:
        problems.append("status: held_nights_max is 0 or more")
    if limits.probation_slack_minutes < 0 or not 0 <= limits.changed_share_max <= 1:
        problems.append("status: the slack is 0 or more, changed_share_max lies in 0..1")
    if found.gates.spread_pct_max <= 0 or found.gates.volume_floor_usd < 0:
        problems.append("gates: spread_pct_max is above 0, volume_floor_usd is 0 or more")
    return problems


def _entry_problems(name: str, entry: Any) -> list[str]:
    share = entry.share if isinstance(entry, Ramp) else entry
    problems = [f"{name}: a share is 1 or more"] if share < 1 else []
    if isinstance(entry, Ramp):
        if not (entry.zero.is_finite() and entry.full.is_finite()) or entry.zero == entry.full:
            problems.append(f"{name}: zero and full are two different numbers")
        elif name in _LOG_RAMPS and min(entry.zero, entry.full) <= 0:
            problems.append(f"{name}: runs by the logarithm, zero and full are above 0")
    return problems
