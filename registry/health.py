"""Data health: what a symbol scores of 100, component by component, with the facts behind each shown. Pure.

A component's value is the mean of its known inputs by their shares; the total is the mean of the known components by
their weights, rounded down, so that 69.99 is not 70. What is not known is left out, at both levels; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal

from msgspec.structs import replace

from registry.facts import GOOD_SCORE, TRADING, Component, Facts, Input, Kind, Score, Vendor
from registry.thresholds import Gates, Ramp, Thresholds

CAP = GOOD_SCORE - 1
"""What a gate leaves of a score at most."""

_PLACES = Decimal("0.0001")
_ZERO, _ONE = Decimal(0), Decimal(1)
_POINTS = Decimal(100)


def score_facts(facts: Facts, thresholds: Thresholds) -> Score:
    """Score one symbol; gates cap the total under 70, each with its reason."""
    components = (
        _history(facts, thresholds),
        _liquidity(facts, thresholds),
        _derivatives(facts, thresholds),
        _stability(facts, thresholds),
        _pump(facts, thresholds),
    )
    gates = find_gates(facts, thresholds.gates)
    raw = total_of(components)
    lowest, highest = total_of(_suppose(components, _ZERO)), total_of(_suppose(components, _ONE))
    if not _gates_known(facts) and lowest is not None:
        lowest = min(lowest, CAP)  # the answer might have shut a gate
    if not gates:
        return Score(raw, raw, lowest, highest, components)
    return Score(_capped(raw), raw, _capped(lowest), _capped(highest), components, gates)


def find_gates(facts: Facts, gates: Gates) -> tuple[str, ...]:
    """Reasons that hold a symbol under 70; absent or halted first."""
    reasons: list[str] = []
    if facts.venue_status is None:
        reasons.append("missing tonight: not in exchangeInfo")
    elif facts.venue_status != TRADING:
        reasons.append(f"halted: the venue says {facts.venue_status}")
    if facts.spread_pct is not None and facts.spread_pct >= gates.spread_pct_max:
        reasons.append(f"spread {show_number(facts.spread_pct)} % >= {show_number(gates.spread_pct_max)} %")
    if facts.vol_24h is not None and facts.vol_24h < gates.volume_floor_usd:
        reasons.append(f"volume {show_usd(facts.vol_24h)} below the floor of {show_usd(gates.volume_floor_usd)}")
    if facts.kind is not Kind.PLAIN:
        reasons.append(f"a {facts.kind} asset")
    return tuple(reasons)


def total_of(components: Iterable[Component]) -> int | None:
    """Add the known components up to 100 points, rounded down; None when none is known."""
    known = [(c.weight, c.value) for c in components if c.value is not None and c.weight]
    if not known:
        return None
    points = sum((weight * value for weight, value in known), _ZERO)
    return int((_POINTS * points / sum(weight for weight, _ in known)).to_integral_value(ROUND_DOWN))


def contribution(component: Component, components: Sequence[Component]) -> Decimal | None:
    """Points of 100 that a component gives, after what is not known was left out."""
    known = sum(c.weight for c in components if c.value is not None)
    if component.value is None or not known:
        return None
    return _POINTS * component.weight * component.value / known


def _suppose(components: Iterable[Component], part: Decimal) -> list[Component]:
    """The components as if every vendor that is waited for had told a fact worth `part`."""
    supposed: list[Component] = []
    for component in components:
        inputs = tuple(replace(i, part=part) if i.away else i for i in component.inputs)
        supposed.append(replace(component, value=_value_of(inputs)))
    return supposed


def _value_of(inputs: Iterable[Input]) -> Decimal | None:
    known = [(i.share, i.part) for i in inputs if i.part is not None and i.share]
    if not known:
        return None
    mean = sum((share * part for share, part in known), _ZERO) / sum(share for share, _ in known)
    return mean.quantize(_PLACES, ROUND_HALF_EVEN)


def _capped(total: int | None) -> int | None:
    return None if total is None else min(total, CAP)


def _gates_known(facts: Facts) -> bool:
    """Is none of the vendors waited for that a gate depends on?"""
    unknown_spread = facts.spread_pct is None and Vendor.BOOK in facts.awaited
    return not unknown_spread and not (facts.vol_24h is None and Vendor.TICKERS in facts.awaited)


def _component(name: str, weight: int, *inputs: Input) -> Component:
    return Component(name, weight, _value_of(inputs), inputs)


def _unknown(away: bool) -> str:
    return "the vendor did not answer" if away else "not known"


def _input(name: str, value: Decimal | None, shown: str, ramp: Ramp, away: bool = False, log: bool = False) -> Input:
    if value is None:
        return Input(name, _unknown(away), None, ramp.share, away)
    part = (ramp.log_part(value) if log else ramp.part(value)).quantize(_PLACES, ROUND_HALF_EVEN)
    return Input(name, shown, part, ramp.share)


def _history(facts: Facts, thresholds: Thresholds) -> Component:
    ramps = thresholds.history
    age = None if facts.age_days is None else Decimal(facts.age_days)
    return _component(
        "history",
        thresholds.weights.history,
        _input("age", age, f"{facts.age_days} days", ramps.age_days, Vendor.KLINES in facts.awaited),
        _input("our bars, 24 h", facts.bar_coverage, show_share(facts.bar_coverage), ramps.bar_coverage),
    )


def _liquidity(facts: Facts, thresholds: Thresholds) -> Component:
    ramps, away = thresholds.liquidity, facts.awaited
    told = f"median of {facts.spread_samples} samples" if facts.spread_samples else "tonight's snapshot alone"
    spread = f"{show_number(facts.spread_pct)} % ({told})"
    depth = "no archive" if facts.depth_l10_usd is None else f"{show_usd(facts.depth_l10_usd)} (shown, not scored)"
    return _component(
        "liquidity",
        thresholds.weights.liquidity,
        _input("volume, 24 h", facts.vol_24h, show_usd(facts.vol_24h), ramps.volume_usd, Vendor.TICKERS in away, True),
        _input("spread", facts.spread_pct, spread, ramps.spread_pct, Vendor.BOOK in away),
        Input("depth of ten levels", depth),
    )


def _derivatives(facts: Facts, thresholds: Thresholds) -> Component:
    ramps, weight = thresholds.derivatives, thresholds.weights.derivatives
    swap = Input("swap at OKX", f"{facts.okx_swap} (shown, not scored)" if facts.okx_swap else "none known")
    if facts.perp is None and facts.perp_known:
        return _component("derivatives", weight, Input("perpetual", "none listed", _ZERO, ramps.perp_share), swap)
    futures_away = facts.perp is None and Vendor.FUTURES in facts.awaited
    if facts.perp is None:
        perp = Input("perpetual", _unknown(futures_away), None, ramps.perp_share, futures_away)
    else:
        perp = Input("perpetual", facts.perp, _ONE, ramps.perp_share)
    interest, gaps = facts.open_interest_usd, facts.funding_gaps
    return _component(
        "derivatives",
        weight,
        perp,
        _input(
            "open interest", interest, show_usd(interest), ramps.open_interest_usd,
            futures_away or Vendor.OPEN_INTEREST in facts.awaited, True,
        ),
        _input(
            "funding gaps, 30 d", None if gaps is None else Decimal(gaps), f"{gaps} settlements", ramps.funding_gaps,
            futures_away or Vendor.FUNDING in facts.awaited,
        ),
        swap,
    )  # fmt: skip


def _stability(facts: Facts, thresholds: Thresholds) -> Component:
    ramps, nulls, outliers = thresholds.stability, facts.metric_null_share, facts.metric_outlier_share
    return _component(
        "stability",
        thresholds.weights.stability,
        _input("null metrics", nulls, show_share(nulls), ramps.null_share),
        _input("outliers", outliers, show_share(outliers), ramps.outlier_share),
    )


def _pump(facts: Facts, thresholds: Thresholds) -> Component:
    ramps, away, ratio = thresholds.pump, facts.awaited, None
    if facts.vol_24h is not None and facts.vol_mean_30d is not None and facts.vol_mean_30d > 0:
        ratio = facts.vol_24h / facts.vol_mean_30d
    ratio_away = (facts.vol_24h is None and Vendor.TICKERS in away) or (
        facts.vol_mean_30d is None and Vendor.KLINES in away
    )
    move = None if facts.move_24h_pct is None else abs(facts.move_24h_pct)
    return _component(
        "pump",
        thresholds.weights.pump,
        _input("move, 24 h", move, f"{show_number(facts.move_24h_pct)} %", ramps.move_pct, Vendor.TICKERS in away),
        _input("volume / 30 d mean", ratio, f"{show_number(ratio)} times", ramps.volume_ratio, ratio_away),
    )


def show_number(number: Decimal | None, digits: int = 4) -> str:
    """Plain text with so many significant digits behind the point at most, no exponent: 0.0213, 12.5, 250."""
    if number is None:
        return "-"
    places = digits if number == 0 else max(0, min(8, digits - 1 - number.adjusted()))
    text = format(number.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def show_usd(number: Decimal | None) -> str:
    """Money for people: 950 USD, 12.3 k USD, 4.56 M USD, 1.2 bn USD."""
    if number is None:
        return "-"
    for power, name in ((9, "bn "), (6, "M "), (3, "k ")):
        if number >= Decimal(1).scaleb(power):
            return f"{show_number(number.scaleb(-power), 3)} {name}USD"
    return f"{show_number(number, 3)} USD"


def show_share(share: Decimal | None) -> str:
    """A share 0..1 in percent."""
    return "-" if share is None else f"{show_number(share * 100, 3)} %"
