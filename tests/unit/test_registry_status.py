"""Statuses night by night: what the first specification wants to see, and what must not fool the registry."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from registry.changes import EVENT_COLUMNS, symbol_event
from registry.facts import Kind, RegistryRow, Status, Vendor
from tests.unit.registry_nights import FIRST, Registry, absent, dec, facts_of, poor

ACTIVE, PROBATION, EXCLUDED, OVERRIDE = Status.ACTIVE, Status.PROBATION, Status.EXCLUDED, Status.ACTIVE_OVERRIDE


def test_spread_of_half_a_percent_flips_to_probation_and_tells() -> None:
    registry = Registry()
    assert registry.night(facts_of()).row.status is ACTIVE
    found = registry.night(facts_of(spread_pct=dec("0.5"), spread_samples=288))
    assert (found.was, found.row.status, found.row.data_health) == (ACTIVE, PROBATION, 69)
    assert (found.row.reason or "").startswith("spread 0.5 % >= 0.5 %")
    assert {"status", "data_health"} <= set(found.changed)
    event = symbol_event(found)
    assert (event.symbol, event.status, event.health, event.pair) == ("SOL", "PROBATION", 69, "SOLUSDT")
    assert registry.night(facts_of()).row.status is ACTIVE  # one good night is enough while it lasts
    assert registry.rows["SOL"].probation_since is None


def test_whitelisted_young_coin_is_overridden_with_a_cluster() -> None:
    young = facts_of("NEW", age_days=3, market_cap=None, perp=None, okx_inst_id=None)
    assert Registry().night(young).row.status is PROBATION
    registry = Registry()
    registry.lists(whitelisted={"NEW": "wanted by the desk"})
    found = registry.night(young).row
    assert found.status is OVERRIDE
    assert found.liquidity_cluster in {"M", "H"}
    assert (found.reason or "").startswith("whitelisted: wanted by the desk; score ")
    assert found.data_health is not None and found.data_health < 70


def test_seven_days_of_probation_exclude() -> None:
    registry = Registry()
    seen = [registry.night(poor()).row.status for _ in range(8)]
    assert seen == [PROBATION] * 7 + [EXCLUDED]
    row = registry.rows["SOL"]
    assert row.excluded_since == FIRST + timedelta(days=7) and row.probation_since is None
    assert (row.reason or "").startswith("7 days of probation, since 2026-11-02: score ")


@pytest.mark.parametrize(("early", "status"), [(timedelta(minutes=5), EXCLUDED), (timedelta(hours=1), PROBATION)])
def test_a_run_that_begins_some_minutes_early_still_counts_its_day(early: timedelta, status: Status) -> None:
    registry = Registry()
    registry.night(poor(), days=7)
    registry.now -= early
    assert registry.night(poor()).row.status is status


def test_back_from_excluded_after_three_good_nights_in_a_row() -> None:
    registry = Registry(rows=[RegistryRow("SOL", EXCLUDED, excluded_since=FIRST - timedelta(days=30))])
    assert [registry.night(facts_of()).row.status for _ in range(2)] == [EXCLUDED, EXCLUDED]
    assert registry.night(poor()).row.good_nights == 0
    back = [registry.night(facts_of()).row for _ in range(3)]
    assert [row.status for row in back] == [EXCLUDED, EXCLUDED, ACTIVE]
    assert [row.good_nights for row in back] == [1, 2, 0]
    assert back[0].excluded_since == FIRST - timedelta(days=30) and back[2].excluded_since is None
    assert "1 of 3 good nights" in (back[0].reason or "")


def test_a_second_run_of_the_same_night_counts_none() -> None:
    registry = Registry(rows=[RegistryRow("SOL", EXCLUDED)])
    for _ in range(5):
        assert registry.run(facts_of()).verdicts[0].row.good_nights == 1
        registry.now += timedelta(hours=1)
    registry.run(poor())  # a bad run takes the night back, and a third does not give it again
    assert registry.run(facts_of()).verdicts[0].row.good_nights == 0

    registry = Registry()
    registry.night(facts_of())
    for _ in range(5):
        found = registry.run(absent()).verdicts[0].row
        assert (found.status, found.absent_nights) == (PROBATION, 1)
        registry.now += timedelta(hours=1)


def test_runs_on_both_sides_of_midnight_are_one_night() -> None:
    registry = Registry()
    registry.night(facts_of(), days=1)
    registry.now = registry.now.replace(hour=23, minute=55)
    for _ in range(2):
        found = registry.run(absent()).verdicts[0].row
        assert found.status is PROBATION
        registry.now += timedelta(minutes=10)
    registry.now = FIRST + timedelta(days=2)
    assert registry.run(absent()).verdicts[0].row.status is EXCLUDED


def test_a_run_that_begins_after_midnight_is_of_the_night_it_is_late_for() -> None:
    registry = Registry(rows=[RegistryRow("SOL", EXCLUDED)])
    registry.pull_time = time(23, 59, tzinfo=UTC)
    first = datetime.combine(FIRST.date(), registry.pull_time)
    for day, late, nights in ((0, 0, 1), (1, 15, 2), (2, 0, 0)):
        registry.now = first + timedelta(days=day, minutes=late)
        assert registry.run(facts_of()).verdicts[0].row.good_nights == nights
    assert registry.rows["SOL"].status is ACTIVE


def test_a_good_night_outside_the_universe_breaks_the_row() -> None:
    registry = Registry(rows=[RegistryRow("SOL", EXCLUDED)])
    registry.night(facts_of())
    registry.night(facts_of())
    night = registry.run(facts_of("BTC"))
    assert [row.symbol for row in night.idle] == ["SOL"]
    registry.now += timedelta(days=1)
    assert registry.night(facts_of()).row.good_nights == 1


def test_ban_beats_everything_and_a_lifted_ban_takes_three_nights() -> None:
    registry = Registry()
    registry.night(facts_of())
    registry.lists(banned={"SOL": "sanctions"}, whitelisted={"SOL": "wanted"})
    night = registry.run(facts_of())
    assert night.verdicts[0].row.status is EXCLUDED and night.verdicts[0].row.reason == "banned: sanctions"
    assert night.warnings == ("banned and whitelisted, the ban counts: SOL",)
    since = registry.rows["SOL"].excluded_since
    registry.now += timedelta(days=1)
    assert registry.night(facts_of()).row.excluded_since == since
    registry.lists()
    assert [registry.night(facts_of()).row.status for _ in range(3)] == [EXCLUDED, EXCLUDED, ACTIVE]


def test_delisted_is_on_probation_first_and_excluded_the_second_night() -> None:
    registry = Registry()
    registry.night(facts_of())
    first = registry.night(absent())
    assert (first.row.status, first.row.absent_nights) == (PROBATION, 1)
    assert (first.row.reason or "").startswith("missing tonight")
    # What the venue did not tell of an absent symbol is kept.
    assert (first.row.pair, first.row.okx_inst_id, first.row.perp) == ("SOLUSDT", "SOL-USDT", "SOLUSDT")
    assert first.row.tick_size == dec("0.01") and first.row.liquidity_cluster == "H"
    assert first.row.data_health == 69
    second = registry.night(absent())
    assert (second.row.status, second.row.reason) == (EXCLUDED, "absent from exchangeInfo 2 nights running")


def test_absent_one_night_is_forgiven() -> None:
    registry = Registry()
    registry.night(facts_of())
    registry.night(absent())
    back = registry.night(facts_of())
    assert (back.row.status, back.row.absent_nights) == (ACTIVE, 0)
    assert registry.night(absent()).row.status is PROBATION


def test_halt_is_probation_with_that_reason_and_seven_days_of_it_exclude() -> None:
    registry = Registry()
    registry.night(facts_of())
    halted = facts_of(venue_status="HALT", vol_24h=None, spread_pct=None, move_24h_pct=None)
    found = [registry.night(halted) for _ in range(8)]
    assert [v.row.status for v in found] == [PROBATION] * 7 + [EXCLUDED]
    assert (found[0].row.reason or "").startswith("halted: the venue says HALT")


def test_the_whitelist_overrides_a_score_but_not_a_venue() -> None:
    registry = Registry()
    registry.lists(whitelisted={"SOL": "wanted"})
    assert registry.night(facts_of(spread_pct=dec(3))).row.status is OVERRIDE
    assert registry.night(facts_of(kind=Kind.STABLE)).row.status is OVERRIDE
    halted = registry.night(facts_of(venue_status="HALT")).row
    assert halted.status is PROBATION and "whitelisted, but the venue does not trade it" in (halted.reason or "")
    registry.night(absent())
    assert registry.night(absent()).row.status is EXCLUDED
    assert registry.night(facts_of()).row.status is OVERRIDE  # the desk wants it at once
    registry.lists()
    assert registry.night(poor()).row.status is PROBATION  # and no longer: the score decides


SILENT = {
    Vendor.TICKERS: {"vol_24h": None, "move_24h_pct": None},
    Vendor.BOOK: {"spread_pct": None, "spread_samples": 0},
    Vendor.KLINES: {"age_days": None, "vol_mean_30d": None},
    Vendor.FUTURES: {"perp": None, "open_interest_usd": None, "funding_gaps": None},
    Vendor.OPEN_INTEREST: {"open_interest_usd": None},
    Vendor.FUNDING: {"funding_gaps": None},
    Vendor.OKX: {"okx_inst_id": None},
    Vendor.CAPS: {"market_cap": None},
}


@pytest.mark.parametrize("vendor", list(Vendor))
def test_no_vendors_bad_nights_change_anything(vendor: Vendor) -> None:
    """Not one event in three nights of silence, whatever the status was."""
    good, middling, bad = facts_of("AAA"), facts_of("MID", age_days=150, vol_24h=dec(4e6)), poor("ZZZ")
    registry = Registry(rows=[RegistryRow("OUT", EXCLUDED)])
    out = facts_of("OUT")
    registry.run(good, middling, bad, out)
    before = {s: (r.status, r.data_health, r.liquidity_cluster, r.okx_inst_id) for s, r in registry.rows.items()}
    for _ in range(3):
        registry.now += timedelta(days=1)
        night = registry.run(*(replace(f, away=(vendor,), **SILENT[vendor]) for f in (good, middling, bad)))
        assert not any(v.changed for v in night.verdicts)
    after = {s: (r.status, r.data_health, r.liquidity_cluster, r.okx_inst_id) for s, r in registry.rows.items()}
    assert after == before


def test_a_verdict_that_hangs_on_a_silent_vendor_is_held() -> None:
    thin = facts_of(age_days=180, vol_24h=dec(6e6), vol_mean_30d=dec(6e6), spread_pct=dec("0.1"))
    registry = Registry()
    registry.now -= timedelta(days=7)
    was = registry.night(thin).row
    assert was.status is ACTIVE
    quiet = replace(thin, away=(Vendor.FUTURES,), **SILENT[Vendor.FUTURES])
    found = registry.night(quiet)
    assert found.score.total is not None and found.score.total < 70
    assert (found.row.status, found.row.data_health, found.changed) == (ACTIVE, was.data_health, ())
    assert found.row.reason == "held as it was: binance futures exchangeInfo did not answer"
    assert "without the vendors that did not answer" in found.notes[0]
    # As a newcomer there is nothing to hold: what is known decides, the rest is left out.
    assert Registry().night(quiet).row.status is PROBATION


THIN: dict[str, Any] = {
    "age_days": 190, "vol_24h": dec(6e6), "vol_mean_30d": dec(6e6), "spread_pct": dec("0.12")
}  # fmt: skip
"""Good with its perpetual, and not without."""
NO_FUTURES: dict[str, Any] = {
    **SILENT[Vendor.FUTURES], "away": (Vendor.FUNDING, Vendor.FUTURES, Vendor.OPEN_INTEREST)
}  # fmt: skip


def test_a_vendor_that_stays_away_is_waited_for_three_nights() -> None:
    registry = Registry()
    was = registry.night(facts_of("OLD", **THIN)).row
    assert was.status is ACTIVE
    registry.now += timedelta(days=1)
    old, new = facts_of("OLD", **THIN, **NO_FUTURES), facts_of("NEW", **THIN, **NO_FUTURES)
    for night in range(12):
        row = registry.night(old, new).row
        held = night < 3
        assert row.away_since == dict.fromkeys(NO_FUTURES["away"], (FIRST + timedelta(days=2)).date())
        assert (row.status is ACTIVE) == held == (row.data_health == was.data_health)
    # What is known decides from then on, and is the same for two that are the same; a perpetual that was there stays.
    verdicts = registry.run(old, new).verdicts
    assert {v.row.status for v in verdicts} == {EXCLUDED}
    assert len({(v.score.total, v.row.data_health) for v in verdicts}) == 1
    assert verdicts[0].score.total == verdicts[0].row.data_health == verdicts[0].score.lowest
    assert "waited for no longer: binance futures fundingRate" in verdicts[0].notes[-1]
    assert registry.rows["OLD"].perp == "OLDUSDT"
    # Its return makes good nights.
    registry.now += timedelta(days=1)
    back = [registry.night(facts_of("OLD", **THIN)).row for _ in range(3)]
    assert [row.status for row in back] == [EXCLUDED, EXCLUDED, ACTIVE] and not back[0].away_since


def test_a_vendor_that_is_gone_takes_no_patience_from_the_others() -> None:
    registry = Registry()
    for _ in range(6):
        was = registry.night(facts_of(**NO_FUTURES)).row
    away = (*NO_FUTURES["away"], Vendor.TICKERS)
    found = registry.night(facts_of(**{**NO_FUTURES, **SILENT[Vendor.TICKERS], "away": away})).row
    assert (found.status, found.data_health) == (ACTIVE, was.data_health)
    assert found.reason == "held as it was: binance ticker/24hr did not answer"


def test_a_second_run_of_a_night_waits_no_shorter() -> None:
    registry = Registry()
    registry.night(facts_of("OLD", **THIN))
    for _ in range(5):
        assert registry.run(facts_of("OLD", **THIN, **NO_FUTURES)).verdicts[0].row.status is ACTIVE
        registry.now += timedelta(hours=1)


def test_the_cluster_waits_no_longer_than_the_score() -> None:
    registry = Registry()
    wide: dict[str, Any] = {"vol_24h": dec(1e7), "spread_pct": dec("0.2"), "market_cap": dec(1e12)}
    told = registry.night(facts_of(**wide)).row.liquidity_cluster
    silent = facts_of(**{**wide, "market_cap": None, "away": (Vendor.CAPS,)})
    found = [registry.night(silent).row.liquidity_cluster for _ in range(4)]
    assert found == [told] * 3 + [Registry().night(silent).row.liquidity_cluster] and found[-1] != told


def test_nights_without_a_run_say_nothing_of_a_vendor() -> None:
    registry = Registry()
    registry.night(facts_of("OLD", **THIN))
    silent = facts_of("OLD", **THIN, **NO_FUTURES)
    registry.night(silent)
    registry.now += timedelta(days=3)
    night = registry.dated
    row = registry.night(silent).row
    assert (row.status, row.away_since) == (ACTIVE, dict.fromkeys(NO_FUTURES["away"], night))
    registry.night(facts_of("OTHER"))  # out of the universe nobody is waited for
    assert registry.rows["OLD"].away_since == {}


def test_a_silent_vendor_makes_nobody_good() -> None:
    """Without volumes an illiquid coin looks perfect; neither does it come back from EXCLUDED nor leave probation."""
    silent = replace(facts_of(), away=(Vendor.TICKERS,), **SILENT[Vendor.TICKERS])
    for status in (EXCLUDED, PROBATION):
        registry = Registry(rows=[RegistryRow("SOL", status, 40, probation_since=FIRST, good_nights=1)])
        found = [registry.night(silent).row for _ in range(3)]
        assert {(row.status, row.good_nights, row.data_health) for row in found} == {(status, 1, 40)}


def test_an_override_does_not_outlive_the_whitelist_on_a_silent_night() -> None:
    silent = replace(facts_of(), away=(Vendor.TICKERS,), **SILENT[Vendor.TICKERS])
    registry = Registry(rows=[RegistryRow("SOL", OVERRIDE, 95), RegistryRow("BY-HAND", ACTIVE)])
    assert registry.night(silent).row.status is ACTIVE  # held it would be what nobody wants any more
    assert registry.night(replace(silent, symbol="BY-HAND")).row.data_health is None  # never judged, still not


def test_a_clock_that_went_back_counts_no_night() -> None:
    registry = Registry(rows=[RegistryRow("SOL", EXCLUDED)])
    registry.night(facts_of())
    registry.now -= timedelta(days=5)
    assert registry.night(facts_of()).row.good_nights == 1
    assert registry.rows["SOL"].judged_on == FIRST.date()


def test_a_held_night_is_judged_by_the_second_run_of_the_day() -> None:
    registry = Registry(rows=[RegistryRow("SOL", EXCLUDED, judged_on=(FIRST - timedelta(days=1)).date())])
    registry.run(replace(facts_of(), away=(Vendor.TICKERS,), **SILENT[Vendor.TICKERS]))
    registry.now += timedelta(hours=1)
    assert registry.run(facts_of()).verdicts[0].row.good_nights == 1


def test_events_are_for_six_columns_only() -> None:
    registry = Registry()
    assert registry.night(facts_of()).changed == EVENT_COLUMNS
    assert registry.night(facts_of(vol_24h=dec(2.01e8), spread_pct=dec("0.0199"), age_days=2001)).changed == ()
    assert registry.night(facts_of(tick_size=dec("0.0100"))).changed == ()
    assert registry.night(facts_of(tick_size=dec("0.001"))).changed == ("tick_size",)
    assert registry.night(facts_of(okx_inst_id=None)).changed == ("okx_inst_id", "tick_size")
    assert registry.night(facts_of(okx_inst_id=None, pair="SOLUSDC")).changed == ("pair",)


def test_the_guard_counts_existing_rows_only() -> None:
    registry = Registry()
    coins = [f"C{i}" for i in range(10)]
    assert registry.run(*(poor(c) for c in coins)).stop == ""  # the first run is not hindered
    registry = Registry()
    registry.run(*(facts_of(c) for c in coins))
    registry.now += timedelta(days=1)
    newcomers = [poor(f"N{i}") for i in range(50)]
    three = registry.run(*newcomers, *(poor(c) if c in coins[:3] else facts_of(c) for c in coins))
    assert (three.stop, three.status_changes, three.judged_existing) == ("", 3, 10)

    registry = Registry(rows=[RegistryRow(c, ACTIVE, 100) for c in coins])
    registry.rows |= {f"OLD{i}": RegistryRow(f"OLD{i}", EXCLUDED) for i in range(100)}  # hide nothing
    four = registry.run(*(poor(c) if c in coins[:4] else facts_of(c) for c in coins))
    assert four.stop.startswith("the status of 4 of 10 existing symbols would change, more than 30 %")
    assert "--force" in four.stop


def test_unknown_symbols_of_the_lists_are_named() -> None:
    registry = Registry(rows=[RegistryRow("GONE", EXCLUDED)])
    registry.lists(banned={"TYPO": "x", "GONE": "x"}, whitelisted={"SOLL": "x", "SOL": "x"})
    assert registry.run(facts_of()).warnings == (
        "unknown to the venue and to the registry, in the ban list: TYPO",
        "unknown to the venue and to the registry, in the whitelist: SOLL",
    )
    # Those that the venue has in other quotes alone are judged no more than those.
    registry.lists(banned={"GONE": "x", "ODD": "x"}, whitelisted={"SOLL": "x", "ODDER": "x"})
    assert registry.run(facts_of(), elsewhere={"ODD", "ODDER", "GONE"}).warnings == (
        "not traded in USDT, FDUSD, USDC, in the ban list: ODD",
        "not traded in USDT, FDUSD, USDC, in the whitelist: ODDER",
        "unknown to the venue and to the registry, in the whitelist: SOLL",
    )


def test_an_asset_that_nobody_knows_anything_of() -> None:
    registry = Registry(rows=[RegistryRow("SOL", ACTIVE, 90, "H")])
    nothing = replace(absent(), venue_status="TRADING", age_days=None, away=(Vendor.FUTURES,))
    held = registry.night(nothing).row
    assert (held.status, held.data_health, held.liquidity_cluster) == (ACTIVE, 90, "H")
    new = Registry().night(nothing).row
    assert (new.status, new.data_health, new.liquidity_cluster) == (PROBATION, None, None)
