"""Tables and explanations for people: what a run would change and why, and how one symbol was judged. Pure."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal

from registry.facts import Component, Facts, Night, PastVerdict, RegistryRow, Verdict
from registry.health import contribution, show_number, show_usd

_HEADS = ("SYMBOL", "PAIR", "STATUS", "HEALTH", "CLUSTER", "VOLUME 24 H", "SPREAD %", "WHY")
_RIGHT = frozenset({"HEALTH", "VOLUME 24 H", "SPREAD %"})


def render_changes(night: Night) -> str:
    """Show what a run changes and why, the rest counted; a status written `A > B` changes."""
    changed = [v for v in night.verdicts if v.changed]
    lines: list[str] = []
    if changed:
        lines += render_table(_HEADS, [_change_cells(v) for v in changed], _RIGHT)
        lines.append("")
    counts = Counter(str(v.row.status) for v in night.verdicts)
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no symbol"
    newcomers = sum(v.was is None for v in night.verdicts)
    lines.append(f"{len(night.verdicts)} symbols judged: {told}")
    lines.append(
        f"{len(changed)} with an event: {newcomers} new, {night.status_changes} of {night.judged_existing} existing "
        f"change their status, {len(changed) - newcomers - _moved(changed)} something else"
    )
    away = Counter(vendor for v in night.verdicts for vendor in v.facts.away)
    lines += [f"did not answer: {vendor}, for {count} symbols" for vendor, count in sorted(away.items())]
    lines += [f"warning: {warning}" for warning in night.warnings]
    if night.stop:
        lines.append(f"STOPPED: {night.stop}")
    return "\n".join(lines) + "\n"


def _moved(changed: Iterable[Verdict]) -> int:
    return sum(v.was is not None and v.was is not v.row.status for v in changed)


def _change_cells(verdict: Verdict) -> tuple[str, ...]:
    row, was = verdict.row, verdict.was
    status, why = f"{was or 'new'} > {row.status}", row.reason or ""
    if was is row.status:
        status, why = str(row.status), f"{', '.join(verdict.changed)} changed; {why}"
    return (
        row.symbol,
        row.pair or "-",
        status,
        _or_dash(row.data_health),
        _or_dash(row.liquidity_cluster),
        show_usd(row.vol_24h),
        show_number(row.spread_pct),
        why,
    )


def render_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[str] = frozenset()
) -> list[str]:  # fmt: skip
    """Lay out cells in columns as wide as their widest cell (CJK characters count two); the last is not padded."""
    widths = [max(_width(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines: list[str] = []
    for row in (heads, *rows):
        cells: list[str] = []
        for i, cell in enumerate(row):
            pad = " " * (widths[i] - _width(cell))
            last = i == len(heads) - 1 and heads[i] not in right
            cells.append(pad + cell if heads[i] in right else cell + ("" if last else pad))
        lines.append("  ".join(cells).rstrip())
    return lines


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def render_explain(verdict: Verdict, row: RegistryRow | None = None, history: Sequence[PastVerdict] = ()) -> str:
    """Explain one symbol in plain words: the score with every input, gates, notes, and its past, newest first.

    `row` is the row as it is now (None: the one of the verdict), `history` its runs in any order; runs that said the
    same are told once, with the first day on which it was said.
    """
    row = row or verdict.row
    facts, score = verdict.facts, verdict.score
    names = [row.pair, row.okx_inst_id and f"OKX {row.okx_inst_id}", row.perp and f"perpetual {row.perp}"]
    head = ", ".join(name for name in names if name) or "no pair"
    lines = [
        f"{row.symbol}: {row.status}, health {_or_dash(row.data_health)} of 100, cluster "
        f"{_or_dash(row.liquidity_cluster)}   ({head})",
        f"why: {row.reason or '-'}",
        "",
        f"Score: {_or_dash(score.total)}",
    ]
    lines += _component_lines(score.components)
    lines += _sum_lines(verdict)
    lines += [f"note: {note}" for note in verdict.notes]
    lines.append(f"cluster by: {_tell_features(facts)}")
    lines += _counter_lines(row)
    lines += _history_lines(history)
    return "\n".join(lines) + "\n"


def _component_lines(components: Sequence[Component]) -> list[str]:
    known = sum(c.weight for c in components if c.value is not None)
    rows: list[tuple[str, ...]] = []
    for component in components:
        points = contribution(component, components)
        if points is None:
            rows.append((component.name, str(component.weight), "-", "-", "left out: nothing of it is known"))
        else:
            most = Decimal(100 * component.weight) / known
            rows.append((component.name, f"{most:.1f}", _part(component.value), f"{points:.1f}", ""))
        shares = sum(i.share for i in component.inputs if i.part is not None)
        for one in component.inputs:
            counted = one.part is not None and one.share
            share = f"{Decimal(100 * one.share) / shares:.0f} % of it" if counted else ""
            rows.append((f"  {one.name}", share, _part(one.part), "", one.shown))
    heads = ("COMPONENT", "WEIGHT", "VALUE", "POINTS", "FACTS")
    return render_table(heads, rows, frozenset({"WEIGHT", "VALUE", "POINTS"}))


def _part(part: Decimal | None) -> str:
    return "-" if part is None else f"{part:.4f}"


def _sum_lines(verdict: Verdict) -> list[str]:
    score = verdict.score
    known = sum(c.weight for c in score.components if c.value is not None)
    lines: list[str] = []
    if 0 < known < 100:
        lines.append(f"{known} of 100 points are known; they count as 100, nothing is guessed.")
    lines.append(f"Together {_or_dash(score.raw)}, rounded down.")
    if score.gates and score.raw is not None and score.raw != score.total:
        lines.append(f"Held at {score.total} by: {'; '.join(score.gates)}")
    elif score.gates:
        lines.append(f"Gates shut: {'; '.join(score.gates)}")
    if score.doubtful:
        lines.append(
            f"Vendors that did not answer: {', '.join(verdict.facts.awaited)}; with their answers it would be "
            f"{_or_dash(score.lowest)} to {_or_dash(score.highest)}."
        )
    return lines


def _tell_features(facts: Facts) -> str:
    spread = "-" if facts.spread_pct is None else f"{show_number(facts.spread_pct)} %"
    return f"volume {show_usd(facts.vol_24h)}, spread {spread}, market cap {show_usd(facts.market_cap)}"


def _counter_lines(row: RegistryRow) -> list[str]:
    lines: list[str] = []
    if row.probation_since is not None:
        lines.append(f"on probation since {row.probation_since:%Y-%m-%d %H:%M} UTC")
    if row.excluded_since is not None:
        lines.append(f"excluded since {row.excluded_since:%Y-%m-%d %H:%M} UTC; good nights so far: {row.good_nights}")
    if row.absent_nights:
        lines.append(f"absent from exchangeInfo for {row.absent_nights} nights")
    lines += [f"{vendor} has not answered since {since}" for vendor, since in sorted(row.away_since.items())]
    return lines


def _history_lines(history: Sequence[PastVerdict]) -> list[str]:
    if not history:
        return []
    told: list[PastVerdict] = []
    for past in sorted(history, key=lambda p: p.run_at):
        if not told or _said(told[-1]) != _said(past):
            told.append(past)
    rows = [
        (f"{p.run_at:%Y-%m-%d %H:%M}", p.status, _or_dash(p.data_health), _or_dash(p.liquidity_cluster), p.reason or "")
        for p in reversed(told)
    ]
    return ["", *render_table(("SINCE (UTC)", "STATUS", "HEALTH", "CLUSTER", "WHY"), rows, frozenset({"HEALTH"}))]


def _said(past: PastVerdict) -> tuple[str, str | None]:
    return past.status, past.liquidity_cluster
