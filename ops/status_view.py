"""Show a judged look: for a person at night, or as one JSON object for scripts. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops.status_facts import BrokerFacts, DatabaseFacts, FeedFacts, Meters, ServiceFacts
from ops.status_judge import Picture, Problem, State, StreamRow, count_states, format_span

WORST_SHOWN = 20
_STYLES = {State.NEVER_BEGUN: "red", State.BEHIND: "red", State.GAPS: "yellow", State.WELL: "", State.IDLE: "dim"}


def show(picture: Picture, all_streams: bool = False) -> Group:
    """Everything on one screen: the verdict, what to do, then services, streams and queues."""
    parts: list[RenderableType] = [Text(picture.verdict(), style="bold green" if picture.well else "bold red")]
    parts += [_tell(problem, "✗", "red") for problem in picture.problems]
    parts += [_tell(remark, "·", "yellow") for remark in picture.remarks]
    services = [it for it in picture.facts.services if isinstance(it, ServiceFacts)]
    if services:
        parts += [Text(), _draw_services(services)]
    if picture.streams:
        shown = picture.streams if all_streams else picture.streams[:WORST_SHOWN]
        counts = ", ".join(f"{count} {name}" for name, count in count_states(picture.streams).items())
        hidden = len(picture.streams) - len(shown)
        more = f"; the worst {len(shown)} (--all shows {hidden} more)" if hidden else ""
        parts += [Text(), Text(f"streams: {counts}{more}", style="bold"), _draw_streams(shown)]
    parts += [Text(), *(Text(line) for line in _tell_messages(picture))]
    return Group(*parts)


def _tell(problem: Problem, mark: str, style: str) -> Text:
    return Text.assemble((f"  {mark} {problem.where}: ", style), problem.what, ("\n      -> " + problem.advice, "dim"))


def _table(first: str, *columns: str) -> Table:
    """A table whose cells are never cut: a long line is better than half a number."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, no_wrap=True, overflow="ignore")
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ignore", justify="left" if name in _WORDS else "right")
    return table


_WORDS = frozenset({"state", "at", "phase", "healthy", "feeds (data age, speaker)", "watermark"})


def _draw_services(services: Sequence[ServiceFacts]) -> Table:
    columns = ("at", "phase", "healthy", "feeds (data age, speaker)", "outbox", "REST", "reconnects", "memory")
    table = _table("service", *columns)
    for it in services:
        healthy = Text("yes", style="green") if it.healthy else Text("no", style="red")
        feeds = "\n".join(_tell_feed(feed) for feed in it.feeds) or "-"
        table.add_row(it.name, it.url, it.phase.value, healthy, feeds, *_tell_meters(it.meters))
    return table


def _tell_feed(feed: FeedFacts) -> str:
    age = "no data yet" if feed.data_age_s is None else format_span(feed.data_age_s)
    return f"{feed.name} {age} {feed.speaker}, {len(feed.trades)} symbols"


def _tell_meters(meters: Meters) -> Iterator[str]:
    waiting = meters.outbox_messages
    yield "-" if waiting is None else f"{waiting:.0f}, {format_span(meters.outbox_age_s or 0)}"
    used, limit = meters.weight_used, meters.weight_limit
    yield "-" if used is None or limit is None else f"{used:.0f}/{limit:.0f}"
    yield "-" if meters.reconnects is None else f"{meters.reconnects:.0f}"
    yield "-" if meters.memory_bytes is None else f"{meters.memory_bytes / 2**20:.0f} MB"


def _draw_streams(rows: Sequence[StreamRow]) -> Table:
    table = _table(
        "symbol", "state", "lag", "behind feed", "last trade", "trades/s", "watermark", "gaps", "parked", "given up"
    )
    for row in rows:
        facts = row.facts
        table.add_row(
            row.symbol, Text(row.state.name.lower().replace("_", " "), style=_STYLES[row.state]), _span(row.lag_s),
            _span(row.behind_feed_s), _span(row.trade_age_s), f"{facts.trades_per_s:.2f}", _clock(facts.cursor_s),
            str(facts.gaps_open), str(facts.gaps_parked), str(facts.gaps_missing),
        )  # fmt: skip
    return table


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else format_span(seconds)


def _clock(epoch_s: float | None) -> str:
    return "-" if epoch_s is None else dt.datetime.fromtimestamp(epoch_s, dt.UTC).strftime("%m-%d %H:%M:%S")


def _tell_messages(picture: Picture) -> Iterator[str]:
    if isinstance(picture.facts.database, DatabaseFacts):
        outbox = picture.facts.database.outbox
        waiting = sum(it.messages for it in outbox)
        oldest_s = max((it.age_s for it in outbox), default=0.0)
        yield f"outbox: {waiting} messages, oldest {format_span(oldest_s)}" if waiting else "outbox: nothing waits"
        if (registry := picture.facts.database.registry) is not None:
            yield f"registry: last run {format_span(registry.run_age_s)} ago"
    if not picture.facts.brokers:
        yield "broker: not asked (RMQ_URL, MANAGEMENT_URL)"
    for broker in picture.facts.brokers:
        if isinstance(broker, BrokerFacts):
            queues = ", ".join(f"{queue.name} {queue.messages}" for queue in broker.queues) or "no queues of ours"
            yield f"broker ({broker.source}): {queues}"


def encode(picture: Picture) -> bytes:
    """One JSON object: verdict, problems, remarks, streams (all of them), services, brokers, outbox, registry."""
    facts = picture.facts
    database = facts.database if isinstance(facts.database, DatabaseFacts) else DatabaseFacts(0.0)
    body: dict[str, Any] = {
        "well": picture.well,
        "verdict": picture.verdict(),
        "problems": picture.problems,
        "remarks": picture.remarks,
        "streams": [_plain_row(row) for row in picture.streams],
        "services": [it for it in facts.services if isinstance(it, ServiceFacts)],
        "brokers": [it for it in facts.brokers if isinstance(it, BrokerFacts)],
        "outbox": database.outbox,
        "registry": database.registry,
    }
    return msgspec.json.encode(body, enc_hook=str)


def _plain_row(row: StreamRow) -> dict[str, Any]:
    own: dict[str, Any] = {
        "symbol": row.symbol,
        "venue": row.venue,
        "state": row.state.name.lower(),
        "lag_s": row.lag_s,
        "behind_feed_s": row.behind_feed_s,
        "trade_age_s": row.trade_age_s,
    }
    return {**msgspec.to_builtins(row.facts), **own}
