"""What people read: the table of a run, and the explanation of one symbol."""

from __future__ import annotations

from datetime import timedelta

from registry.facts import PastVerdict, Vendor
from registry.tables_text import render_changes, render_explain, render_table
from tests.unit.registry_nights import FIRST, Registry, absent, dec, facts_of, poor


def test_table_of_changes() -> None:
    registry = Registry()
    first = render_changes(registry.run(facts_of(), facts_of("BTC"), facts_of("ETH", away=(Vendor.CAPS,))))
    assert first.splitlines()[0] == "SYMBOL  PAIR     STATUS        HEALTH  CLUSTER  VOLUME 24 H  SPREAD %  WHY"
    assert "SOL     SOLUSDT  new > ACTIVE     100  H          200 M USD      0.02  score 100" in first
    assert "3 with an event: 3 new, 0 of 0 existing change their status, 0 something else" in first
    assert "did not answer: coingecko markets, for 1 symbols" in first

    registry.now += timedelta(days=1)
    registry.lists(banned={"TYPO": "x"})
    second = registry.run(facts_of(), absent("BTC"), facts_of("ETH", tick_size=dec("0.1")))
    told = render_changes(second)
    assert "BTC     BTCUSDT  ACTIVE > PROBATION" in told and "missing tonight: not in exchangeInfo" in told
    assert "tick_size changed; score 100" in told and "SOLUSDT" not in told
    assert "2 with an event: 0 new, 1 of 3 existing change their status, 1 something else" in told
    assert "warning: unknown to the venue and to the registry, in the ban list: TYPO" in told
    assert "STOPPED: the status of 1 of 3 existing symbols would change, more than 30 %" in told

    registry.now += timedelta(days=1)
    assert render_changes(Registry().run()).startswith("0 symbols judged: no symbol")


def test_wide_characters_keep_the_columns() -> None:
    lines = render_table(("A", "N", "B"), [("币安", "1", "x"), ("abcde", "22", "y")], frozenset({"N"}))
    assert lines == ["A       N  B", "币安    1  x", "abcde  22  y"]


def test_explanation_shows_every_component_with_its_facts() -> None:
    registry = Registry()
    found = registry.night(poor(metric_null_share=dec("0.01"), okx_swap="SOL-USDT-SWAP"))
    history = [
        PastVerdict(FIRST + timedelta(days=i), "ACTIVE" if i < 3 else "PROBATION", 90 - i, "H", f"reason {i}")
        for i in (4, 3, 2, 1, 0)
    ]
    told = render_explain(found, None, history)
    for text in (
        "SOL: PROBATION, health", "why: score", "SOLUSDT, OKX SOL-USDT", "20 days", "1.9 M USD",
        "0.02 % (median of 288 samples)", "none listed", "SOL-USDT-SWAP (shown, not scored)",
        "null metrics", "-2.5 %", "1 times", "no archive",
        "on probation since 2026-11-02 02:00 UTC",
    ):  # fmt: skip
        assert text in told, text
    assert told.splitlines()[-2].split()[:3] == ["2026-11-05", "02:00", "PROBATION"]  # told once, newest first
    assert told.splitlines()[-1].split()[:3] == ["2026-11-02", "02:00", "ACTIVE"]


def test_explanation_tells_what_was_left_out_and_why() -> None:
    registry = Registry()
    registry.night(facts_of())
    silent = facts_of(spread_pct=None, spread_samples=0, away=(Vendor.BOOK,), venue_status="HALT")
    told = render_explain(registry.night(silent))
    assert "85 of 100 points are known; they count as 100, nothing is guessed." in told
    assert "left out: nothing of it is known" in told
    assert "Held at 69 by: halted: the venue says HALT" in told
    assert "Vendors that did not answer: binance bookTicker; with their answers it would be 69 to 69." in told
    assert "note: cluster H kept: binance bookTicker did not answer" in told
    gated = render_explain(registry.night(poor(vol_24h=dec(1e5))))
    assert "Gates shut: volume 100 k USD below the floor" in gated
