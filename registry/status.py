"""The status of a symbol: what it was, tonight's score and facts, the two lists and the time in, a decision out. Pure.

The rules, the first that applies:

1. banned                                        -> EXCLUDED
2. absent from exchangeInfo two nights running   -> EXCLUDED
3. whitelisted, and the venue trades it          -> ACTIVE_OVERRIDE
4. a vendor was away whose answer might turn the verdict (Score.lowest, Score.highest) -> held as it was, as long as
   that vendor is waited for (Facts.awaited)
5. EXCLUDED before                               -> ACTIVE after three good nights in a row, else EXCLUDED
6. 70 or more                                    -> ACTIVE
7. below 70                                      -> PROBATION, after seven days of it EXCLUDED

A night is dated by the pull time it belongs to. A second run of the night that judged the symbol counts none, and a bad
run takes a good night back. A night that is held neither counts nor breaks a row of good ones.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal

import msgspec

from registry.facts import GOOD_SCORE, TRADING, Decision, Facts, RegistryRow, Score, Status
from registry.health import contribution
from registry.lists import Lists
from registry.thresholds import StatusLimits

_REASONS_SHOWN = 3


class _Case(msgspec.Struct, frozen=True):
    """One symbol before its judge; `good` is None when a vendor's answer might turn it."""

    facts: Facts
    score: Score
    row: RegistryRow | None
    limits: StatusLimits
    now: datetime
    night: date
    good: bool | None
    absent_nights: int

    @property
    def new_night(self) -> bool:
        return self.row is None or self.row.judged_on is None or self.night > self.row.judged_on

    @property
    def traded(self) -> bool:
        return self.facts.venue_status == TRADING


def decide_status(
    facts: Facts, score: Score, row: RegistryRow | None, lists: Lists, limits: StatusLimits, now: datetime, night: date
) -> Decision:
    """Decide the status by the rules above; `now` is when the run began, aware UTC, `night` the one it belongs to."""
    case = _Case(facts, score, row, limits, now, night, is_good(score), 0)
    if facts.venue_status is None:
        before = row.absent_nights if row else 0
        case = msgspec.structs.replace(case, absent_nights=before + case.new_night)
    symbol = facts.symbol
    if symbol in lists.banned:
        return _exclude(case, f"banned: {lists.banned[symbol]}")
    if case.absent_nights >= limits.absent_nights_max:
        return _exclude(case, f"absent from exchangeInfo {case.absent_nights} nights running")
    if symbol in lists.whitelisted and case.traded:
        return Decision(Status.ACTIVE_OVERRIDE, f"whitelisted: {lists.whitelisted[symbol]}; {tell_score(score)}")
    if case.good is None and facts.awaited and row is not None and row.status is not Status.ACTIVE_OVERRIDE:
        return _hold(case, row)
    good = (score.total or 0) >= GOOD_SCORE if case.good is None else case.good
    if row is not None and row.status is Status.EXCLUDED:
        return _return_from_excluded(case, row, good)
    if good:
        return Decision(Status.ACTIVE, tell_score(score))
    wanted = "; whitelisted, but the venue does not trade it" if symbol in lists.whitelisted else ""
    return _on_probation(case, wanted)


def is_good(score: Score) -> bool | None:
    """Is tonight a good night? None when that hangs on a vendor's missing answer, or when nothing at all is known."""
    if score.gates:
        return False
    if score.total is None or score.lowest is None or score.highest is None:
        return None
    if score.total >= GOOD_SCORE:
        return True if score.lowest >= GOOD_SCORE else None
    return None if score.highest >= GOOD_SCORE else False


def tell_score(score: Score) -> str:
    """Say a score in words: its gates, or the components that cost most."""
    if score.gates:
        return "; ".join(score.gates)
    if score.total is None:
        return "nothing is known yet"
    if score.total >= GOOD_SCORE:
        return f"score {score.total}"
    lost: list[tuple[Decimal, str]] = []
    known = sum(c.weight for c in score.components if c.value is not None)
    for component in score.components:
        points = contribution(component, score.components)
        if points is not None:
            most = Decimal(100 * component.weight) / known
            lost.append((points - most, f"{component.name} {points:.1f} of {most:.1f}"))
    worst = [text for cost, text in sorted(lost) if cost < 0][:_REASONS_SHOWN]
    return f"score {score.total} < {GOOD_SCORE}: {', '.join(worst)}"


def _exclude(case: _Case, reason: str) -> Decision:
    return Decision(Status.EXCLUDED, reason, excluded_since=_excluded_since(case), absent_nights=case.absent_nights)


def _excluded_since(case: _Case) -> datetime:
    row = case.row
    was_out = row is not None and row.status is Status.EXCLUDED
    return row.excluded_since or case.now if row is not None and was_out else case.now


def _hold(case: _Case, row: RegistryRow) -> Decision:
    away = ", ".join(case.facts.awaited)
    return Decision(
        row.status, f"held as it was: {away} did not answer", row.probation_since, row.excluded_since,
        row.good_nights, case.absent_nights, held=True,
    )  # fmt: skip


def _return_from_excluded(case: _Case, row: RegistryRow, good: bool) -> Decision:
    since, needed = _excluded_since(case), case.limits.good_nights_min
    if not good:
        reason = f"{tell_score(case.score)}; excluded since {since:%Y-%m-%d}"
        return Decision(Status.EXCLUDED, reason, excluded_since=since, absent_nights=case.absent_nights)
    nights = row.good_nights + case.new_night
    if nights >= needed:
        return Decision(Status.ACTIVE, f"{tell_score(case.score)}; back after {nights} good nights in a row")
    reason = f"{tell_score(case.score)}; {nights} of {needed} good nights to come back"
    return Decision(Status.EXCLUDED, reason, excluded_since=since, good_nights=nights)


def _on_probation(case: _Case, wanted: str) -> Decision:
    row, limits = case.row, case.limits
    since = case.now
    if row is not None and row.status is Status.PROBATION and row.probation_since is not None:
        since = row.probation_since
    grace = timedelta(days=limits.probation_days)
    told = tell_score(case.score) + wanted
    if case.now - since >= grace - timedelta(minutes=limits.probation_slack_minutes):
        return _exclude(case, f"{limits.probation_days} days of probation, since {since:%Y-%m-%d}: {told}")
    reason = f"{told}; on probation since {since:%Y-%m-%d}, excluded from {since + grace:%Y-%m-%d}"
    return Decision(Status.PROBATION, reason, probation_since=since, absent_nights=case.absent_nights)
