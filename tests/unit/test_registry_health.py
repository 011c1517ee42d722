"""The score: every component by hand, what is not known, gates, and the bounds that a silent vendor leaves."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.facts import Facts, Kind, Score, Vendor
from registry.health import contribution, score_facts, show_number, show_usd
from tests.unit.registry_nights import RULES, dec, facts_of, poor

T = RULES.thresholds


def score(facts: Facts) -> Score:
    return score_facts(facts, T)


def value(facts: Facts, component: str) -> Decimal | None:
    return next(c.value for c in score(facts).components if c.name == component)


@pytest.mark.parametrize(
    ("component", "facts", "expected"),
    [
        ("history", {"age_days": 365}, "1"),
        ("history", {"age_days": 0}, "0"),
        ("history", {"age_days": 73}, "0.2"),
        ("history", {"age_days": 365, "bar_coverage": dec("0.5")}, "0.85"),  # shares 7 and 3
        ("history", {"age_days": None, "bar_coverage": dec("0.5")}, "0.5"),
        ("liquidity", {"vol_24h": dec(1e8), "spread_pct": dec("0.02")}, "1"),
        ("liquidity", {"vol_24h": dec(1e5), "spread_pct": dec("0.5")}, "0"),
        ("liquidity", {"vol_24h": dec(1e4), "spread_pct": dec("0.9")}, "0"),
        ("liquidity", {"vol_24h": dec(0), "spread_pct": dec("0.26")}, "0.25"),
        ("liquidity", {"vol_24h": dec(10) ** 6, "spread_pct": None}, "0.3333"),
        ("liquidity", {"vol_24h": None, "spread_pct": None}, None),
        ("liquidity", {"vol_24h": None, "spread_pct": None, "depth_l10_usd": dec(5e5)}, None),  # shown, not scored
        ("derivatives", {"open_interest_usd": dec(1e8), "funding_gaps": 0}, "1"),
        ("derivatives", {"open_interest_usd": dec(1e5), "funding_gaps": 9}, "0.4"),
        ("derivatives", {"open_interest_usd": dec(1e5), "funding_gaps": 3}, "0.5333"),
        ("derivatives", {"open_interest_usd": None, "funding_gaps": None}, "1"),
        ("derivatives", {"perp": None}, "0"),
        (
            "derivatives",
            {"perp": None, "away": (Vendor.FUTURES,), "open_interest_usd": None, "funding_gaps": None},
            None,
        ),
        ("derivatives", {"perp": None, "venue_status": None, "open_interest_usd": None, "funding_gaps": None}, None),
        ("stability", {}, None),
        ("stability", {"metric_null_share": dec(0), "metric_outlier_share": dec("0.05")}, "0.5"),
        ("stability", {"metric_null_share": dec("0.1")}, "0.5"),
        ("pump", {"move_24h_pct": dec(10), "vol_mean_30d": dec(2e8)}, "1"),
        ("pump", {"move_24h_pct": dec(-30), "vol_mean_30d": None}, "0.5"),
        ("pump", {"move_24h_pct": dec(70), "vol_mean_30d": dec(2e7)}, "0"),
        ("pump", {"move_24h_pct": None, "vol_mean_30d": dec(0)}, None),
    ],
)
def test_component(component: str, facts: dict[str, Any], expected: str | None) -> None:
    assert value(facts_of(**facts), component) == (None if expected is None else Decimal(expected))


def test_unknown_is_left_out_and_the_rest_rescaled() -> None:
    # history 0.2 of 35, liquidity 1 of 25, derivatives 0 of 15, stability unknown, pump 1 of 10: 42 of 85.
    facts = facts_of(age_days=73, perp=None)
    assert score(facts).total == 49  # 49.41
    # Known and worth nothing is not unknown: 42 of 100.
    known = facts_of(age_days=73, perp=None, metric_null_share=dec(1), metric_outlier_share=dec(1))
    assert score(known).total == 42
    assert score(Facts(symbol="X", venue_status="TRADING", away=(Vendor.FUTURES,))).total is None


def test_rounded_down_not_up() -> None:
    # 0.9997 of history in 85 points: 99.98 is not 100.
    assert score(facts_of(age_days=364, bar_coverage=dec(1))).total == 99


def test_contributions_add_up() -> None:
    found = score(poor())
    points = [contribution(c, found.components) for c in found.components]
    assert points[3] is None
    assert int(sum(p for p in points if p is not None)) == found.raw


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"spread_pct": dec("0.5")}, "spread 0.5 % >= 0.5 %"),
        ({"vol_24h": dec(499_999)}, "volume 500 k USD below the floor of 500 k USD"),
        ({"venue_status": "HALT"}, "halted: the venue says HALT"),
        ({"venue_status": "CANCEL_ONLY"}, "halted: the venue says CANCEL_ONLY"),
        ({"venue_status": None}, "missing tonight: not in exchangeInfo"),
        ({"kind": Kind.STABLE}, "a stable asset"),
    ],
)
def test_gates_cap_under_70(facts: dict[str, Any], reason: str) -> None:
    found = score(facts_of(**facts))
    assert found.gates == (reason,)
    assert found.total == 69
    assert found.raw is not None and found.raw > 69


def test_gates_stop_at_their_edge_and_tell_the_halt_first() -> None:
    assert score(facts_of(spread_pct=dec("0.4999"), vol_24h=dec(500_000))).gates == ()
    both = score(facts_of(venue_status=None, spread_pct=dec(2), vol_24h=dec(1)))
    assert both.gates[0].startswith("missing") and len(both.gates) == 3
    assert score(facts_of(vol_24h=None, spread_pct=None)).gates == ()  # not known shuts no gate


def test_a_silent_vendor_leaves_bounds() -> None:
    away = facts_of(
        perp=None, open_interest_usd=None, funding_gaps=None, away=(Vendor.FUTURES,), age_days=200
    )  # fmt: skip
    found = score(away)
    assert found.doubtful
    assert found.lowest == score(facts_of(perp=None, age_days=200)).total
    assert found.highest == score(facts_of(age_days=200)).total
    # A volume that nobody told might be below the floor.
    silent = score(facts_of(vol_24h=None, move_24h_pct=None, away=(Vendor.TICKERS,)))
    assert (silent.lowest, silent.highest) == (69, 100)
    # A spread known from samples does not need tonight's answer; CoinGecko tells nothing that is scored.
    assert not score(facts_of(away=(Vendor.BOOK, Vendor.CAPS, Vendor.OKX))).doubtful


shares = st.none() | st.decimals(0, 1, places=3)
money = st.none() | st.decimals(0, 10**12, places=2)


@given(
    age=st.none() | st.integers(0, 6000), vol=money, mean=money, oi=money, cap=money, cover=shares, nulls=shares,
    outliers=shares, spread=st.none() | st.decimals(0, 50, places=6), move=st.none() | st.decimals(-100, 900, places=3),
    gaps=st.none() | st.integers(0, 720), perp=st.sampled_from([None, "XUSDT"]),
    status=st.sampled_from([None, "TRADING", "BREAK"]), away=st.frozensets(st.sampled_from(list(Vendor))),
)  # fmt: skip
def test_any_facts_have_a_score_within_its_bounds(
    age, vol, mean, oi, cap, cover, nulls, outliers, spread, move, gaps, perp, status, away
):  # fmt: skip
    found = score(
        Facts(
            symbol="X", pair="XUSDT", venue_status=status, age_days=age, vol_24h=vol, vol_mean_30d=mean,
            open_interest_usd=oi, market_cap=cap, bar_coverage=cover, metric_null_share=nulls,
            metric_outlier_share=outliers, spread_pct=spread, move_24h_pct=move, funding_gaps=gaps, perp=perp,
            away=tuple(sorted(away)),
        )
    )  # fmt: skip
    if found.total is not None:
        assert found.lowest is not None and found.highest is not None
        assert 0 <= found.lowest <= found.total <= found.highest <= 100
        assert not found.gates or found.highest < 70
        if not found.doubtful:
            assert found.lowest == found.total == found.highest


def test_numbers_for_people() -> None:
    assert [show_number(dec(x)) for x in ("0.02130", "12.5", "250", "0", "0.0000001")] == [
        "0.0213", "12.5", "250", "0", "0.0000001",
    ]  # fmt: skip
    assert [show_usd(dec(x)) for x in (950, 12300, 4.56e6, 1.2e9)] == [
        "950 USD",
        "12.3 k USD",
        "4.56 M USD",
        "1.2 bn USD",
    ]
