"""A whole run, decided: facts, rows and rules in; rows to write, reasons and warnings out. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime

import msgspec
from msgspec.structs import replace

from registry.changes import changed_columns
from registry.facts import GOOD_SCORE, Decision, Facts, Night, RegistryRow, Score, Status, Vendor, Verdict
from registry.health import CAP, score_facts
from registry.liquidity import Centroids, place_symbol
from registry.lists import Lists, find_list_problems
from registry.status import decide_status
from registry.thresholds import StatusLimits, Thresholds


class Rules(msgspec.Struct, frozen=True):
    """Everything a run decides by that is not a fact."""

    thresholds: Thresholds
    lists: Lists
    centroids: Centroids


def judge_night(
    now: datetime, night: date, facts: Iterable[Facts], rows: Mapping[str, RegistryRow], rules: Rules,
    known: Collection[str], elsewhere: Collection[str] = (), last_night: date | None = None,
) -> Night:  # fmt: skip
    """Judge every symbol of the universe; the order of `facts` does not matter.

    `now` is when the run began (aware UTC), `night` the one it belongs to, `rows` the whole table by symbol. `known`
    are the venue's base assets in the quotes of the universe and `elsewhere` those in others alone, to tell symbols of
    the lists that nobody judges. `last_night` is that of the last run: a silence goes on from it, or begins anew. An
    EXCLUDED row outside the universe loses its good nights, and who was waited for: its row is broken.
    """
    verdicts = tuple(
        judge_symbol(one, rows.get(one.symbol), rules, now, night, last_night)
        for one in sorted(facts, key=lambda f: f.symbol)
    )
    judged = {verdict.row.symbol for verdict in verdicts}
    idle = tuple(
        replace(row, good_nights=0, away_since={})
        for symbol, row in sorted(rows.items())
        if symbol not in judged and (row.good_nights or row.away_since)
    )
    existing = sum(v.was is not None for v in verdicts)
    changes = sum(v.was is not None and v.was is not v.row.status for v in verdicts)
    return Night(
        run_at=now,
        verdicts=verdicts,
        idle=idle,
        warnings=tuple(find_list_problems(rules.lists, {*known, *rows}, elsewhere, rules.thresholds.universe.quotes)),
        judged_existing=existing,
        status_changes=changes,
        stop=check_changes(changes, existing, rules.thresholds.status),
    )


def check_changes(changes: int, existing: int, limits: StatusLimits) -> str:
    """Say why a run must not be written without `--force`, "" when it may.

    Counted are the rows that were there and were judged: EXCLUDED ones outside the universe can not change, and would
    only hide how much of the rest does. A first run has none and is not hindered.
    """
    if changes <= existing * limits.changed_share_max:
        return ""
    return (
        f"the status of {changes} of {existing} existing symbols would change, more than "
        f"{100 * limits.changed_share_max:.0f} %: nothing is written; look at the reasons, then repeat with --force"
    )


def judge_symbol(
    facts: Facts, row: RegistryRow | None, rules: Rules, now: datetime, night: date, last_night: date | None = None
) -> Verdict:
    """Judge one symbol: score, status, cluster, and the row to write."""
    away_since = find_silences(facts, row, night, last_night)
    facts = replace(facts, gone=_find_gone(away_since, night, rules.thresholds.status))
    score = score_facts(facts, rules.thresholds)
    decision = decide_status(facts, score, row, rules.lists, rules.thresholds.status, now, night)
    placement = place_symbol(facts, row, rules.centroids)
    health = choose_health(score, decision, row)
    new = RegistryRow(
        symbol=facts.symbol,
        status=decision.status,
        data_health=health,
        liquidity_cluster=placement.cluster,
        age_days=facts.age_days if facts.age_days is not None or row is None else row.age_days,
        vol_24h=facts.vol_24h,
        spread_pct=facts.spread_pct,
        pair=facts.pair or (row.pair if row else None),
        okx_inst_id=_keep(facts.okx_inst_id, row and row.okx_inst_id, Vendor.OKX, facts),
        tick_size=facts.tick_size if facts.tick_size is not None or row is None else row.tick_size,
        reason=decision.reason,
        perp=_keep(facts.perp, row and row.perp, Vendor.FUTURES, facts),
        listed_on=facts.listed_on or (row.listed_on if row else None),
        probation_since=decision.probation_since,
        excluded_since=decision.excluded_since,
        good_nights=decision.good_nights,
        absent_nights=decision.absent_nights,
        # A night that was held may still be judged by a second run of it.
        judged_on=row.judged_on if decision.held and row else _later(night, row),
        away_since=away_since,
    )
    notes = (_health_note(score, health), placement.note, _gone_note(facts))
    was = row.status if row else None
    return Verdict(new, facts, score, tuple(note for note in notes if note), was, changed_columns(row, new))


def find_silences(facts: Facts, row: RegistryRow | None, night: date, last_night: date | None) -> dict[Vendor, date]:
    """Since which night each vendor that is away tonight has not answered; a second run of a night changes nothing.

    Nights without a run say nothing of a vendor: after one the silence begins tonight.
    """
    if row is None or last_night is None or (night - last_night).days > 1:
        return dict.fromkeys(facts.away, night)
    return {vendor: min(night, row.away_since.get(vendor, night)) for vendor in facts.away}


def _find_gone(away_since: Mapping[Vendor, date], night: date, limits: StatusLimits) -> tuple[Vendor, ...]:
    return tuple(v for v, since in away_since.items() if (night - since).days >= limits.held_nights_max)


def choose_health(score: Score, decision: Decision, row: RegistryRow | None) -> int | None:
    """Choose the health to write: tonight's total, or the row's while a vendor is waited for and the status stays.

    So an outage that turns no status tells no event either. Nothing known: the row's, under 70 behind a gate.
    """
    before = row.data_health if row is not None else None
    if decision.held:
        return before
    stays = row is not None and row.status is decision.status and score.doubtful
    if stays and before is not None and (decision.status is not Status.ACTIVE or before >= GOOD_SCORE):
        return before
    if score.total is not None:
        return score.total
    return min(before, CAP) if before is not None and score.gates else before


def _health_note(score: Score, health: int | None) -> str:
    if health == score.total:
        return ""
    tonight = "not known" if score.total is None else f"{score.total} without the vendors that did not answer"
    return f"health {'-' if health is None else health} kept; tonight's is {tonight}"


def _gone_note(facts: Facts) -> str:
    return f"waited for no longer: {', '.join(facts.gone)}; what is known decides" if facts.gone else ""


def _keep(told: str | None, before: str | None, vendor: Vendor, facts: Facts) -> str | None:
    """What a vendor tells; what it told before when it did not answer, or was not asked for an absent symbol."""
    unasked = vendor in facts.away or facts.venue_status is None
    return before if told is None and unasked else told


def _later(night: date, row: RegistryRow | None) -> date:
    return max(night, row.judged_on) if row is not None and row.judged_on is not None else night
