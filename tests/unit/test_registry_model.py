"""Random nights: whatever happens, some things never do."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from registry.changes import decode_breakdown, encode_breakdown
from registry.facts import Facts, RegistryRow, Status, Vendor
from registry.night import judge_night
from registry.tables_text import render_changes, render_explain
from tests.unit.registry_nights import Registry, absent, dec, facts_of, poor

SYMBOLS = ("AAA", "BBB", "CCC")
SILENT = {"vol_24h": None, "move_24h_pct": None}


def scene(symbol: str, kind: str) -> Facts:
    match kind:
        case "good":
            return facts_of(symbol)
        case "middling":
            return facts_of(symbol, age_days=180, vol_24h=dec(6e6), vol_mean_30d=dec(6e6), spread_pct=dec("0.1"))
        case "poor":
            return poor(symbol)
        case "wide":
            return facts_of(symbol, spread_pct=dec("0.6"))
        case "halted":
            return facts_of(symbol, venue_status="HALT")
        case "no tickers":
            return facts_of(symbol, away=(Vendor.TICKERS,), **SILENT)
        case "no futures":
            base = scene(symbol, "middling")
            return replace(base, perp=None, open_interest_usd=None, funding_gaps=None, away=(Vendor.FUTURES,))
        case _:
            return absent(symbol)


KINDS = st.sampled_from(
    ["good"] * 6 + ["middling", "poor", "poor", "wide", "halted", "no tickers", "no futures", "absent"]
)
RUN = st.tuples(
    st.tuples(*[KINDS] * len(SYMBOLS)),
    st.sampled_from([0, 1, 1, 1, 1, 2]),  # days since the run before; 0 is a second run of the same night
    st.sampled_from(["", "", "", "", "AAA"]),  # banned
    st.sampled_from(["", "", "", "BBB"]),  # whitelisted
)
GOOD = ("good", "middling")


class Past:
    """What the days of one symbol were, kept apart from the code that is tested."""

    def __init__(self) -> None:
        self.days: dict[date, list[str]] = {}
        self.silence: tuple[str, date] | None = None

    def add(self, day: date, kind: str, banned: bool) -> None:
        if not kind.startswith("no "):
            self.silence = None
        elif self.silence is None or self.silence[0] != kind:
            self.silence = (kind, day)
        known = kind
        if self.gone(day):  # judged by the rest: without volumes it looks perfect
            known = "good" if kind == "no tickers" else "poor"
        self.days.setdefault(day, []).append("banned" if banned else known)

    def gone(self, day: date) -> bool:
        """Is a vendor silent for so long that nobody waits for it?"""
        return self.silence is not None and (day - self.silence[1]).days >= 3

    def good_days_in_a_row(self) -> int:
        """Days that were good throughout, counted back; days on which a vendor was silent count for nothing."""
        count = 0
        for day in sorted(self.days, reverse=True):
            runs = [run for run in self.days[day] if not run.startswith("no ")]
            if not all(run in GOOD for run in runs):
                break
            count += bool(runs)
        return count


@settings(max_examples=60, deadline=None)
@given(st.lists(RUN, min_size=4, max_size=24), st.randoms(use_true_random=False))
def test_random_nights(runs, random):
    registry = Registry(rows=[RegistryRow("AAA", Status.EXCLUDED)])
    pasts = {symbol: Past() for symbol in SYMBOLS}
    for kinds, days, banned, wanted in runs:
        registry.now += timedelta(days=days, hours=1 if days == 0 else 0)
        registry.lists({banned: "x"} if banned else {}, {wanted: "x"} if wanted else {})
        facts = [scene(symbol, kind) for symbol, kind in zip(SYMBOLS, kinds, strict=True)]
        before, last = dict(registry.rows), registry.last_night
        night = registry.run(*facts)
        shuffled = random.sample(facts, len(facts))
        rules = registry.rules
        assert judge_night(registry.now, registry.dated, shuffled, before, rules, SYMBOLS, last_night=last) == night
        for verdict, kind in zip(night.verdicts, kinds, strict=True):
            symbol, was = verdict.row.symbol, before.get(verdict.row.symbol)
            pasts[symbol].add(registry.dated, kind, symbol == banned)
            check_row(verdict.row, was, kind, registry, pasts[symbol])
            one = [verdict.facts]
            alone = judge_night(registry.now, registry.dated, one, before, rules, SYMBOLS, last_night=last)
            assert alone.verdicts == (verdict,)
            assert decode_breakdown(encode_breakdown(verdict)) == verdict
            assert symbol in render_explain(verdict)
        assert render_changes(night)
        again = registry.run(*facts)  # the same night again, at once
        assert not any(v.changed for v in again.verdicts)
        # The reason may be told in other words: what a newcomer was given in doubt is held from then on.
        assert [replace(v.row, reason="") for v in again.verdicts] == [
            replace(v.row, reason="") for v in night.verdicts
        ]


def check_row(row: RegistryRow, was: RegistryRow | None, kind: str, registry: Registry, past: Past) -> None:
    lists, now = registry.rules.lists, registry.now
    if row.status is Status.ACTIVE:
        assert row.data_health is not None and row.data_health >= 70
        assert kind not in ("poor", "wide", "halted", "absent")
        if was is not None and was.status is Status.EXCLUDED:
            assert past.good_days_in_a_row() >= 3
    if row.symbol in lists.banned:
        assert row.status is Status.EXCLUDED
        return
    if row.status is Status.ACTIVE_OVERRIDE:
        assert row.symbol in lists.whitelisted and kind not in ("halted", "absent")
        return
    if row.status is Status.EXCLUDED and (was is None or was.status is not Status.EXCLUDED):
        since = was.probation_since if was else None
        over = since is not None and now - since >= timedelta(days=7, minutes=-30)
        assert kind not in ("good", "no tickers") and (over or row.absent_nights >= 2)
    if row.status is Status.PROBATION:
        assert row.probation_since is not None and now - row.probation_since < timedelta(days=40)
        assert kind != "good"
    held = kind.startswith("no ") and not past.gone(registry.dated)
    if held and was is not None and was.status is not Status.ACTIVE_OVERRIDE:
        assert row.status is was.status, "a silent vendor turns nothing"
