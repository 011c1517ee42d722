"""What is wrong, out of one look at the system: facts in, a picture with its verdict out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum

import msgspec
from msgspec.structs import replace

from common.health import Check, Phase
from common.listings import WANTED_STATUSES
from common.topology import EXCHANGE_DEAD, EXCHANGE_UNROUTED
from ops.status_facts import (
    BrokerFacts,
    DatabaseFacts,
    Facts,
    FeedFacts,
    OutboxFacts,
    RegistryFacts,
    ServiceFacts,
    Silent,
    StreamFacts,
)
from ops.status_services import SERVICES, ServiceKind, kind_of
from registry.schedule import RUN_AGE_MAX_S

NAMES_TOLD = 5
DETAIL_CHARS_MAX = 160
_NOT_TOLD = frozenset({"trade_age_s", "watermark_ms"})
"""Details of a check that only a machine reads."""


class StatusLimits(msgspec.Struct, frozen=True):
    """From when on something is wrong.

    `lag_max_s`: a stream's watermark behind its feed's time (or behind now, where no service tells it).
    `gap_open_max_s`: a gap is repaired within seconds; one that is open longer is stuck. `forgotten_s`: a pair that
    neither registry nor any service knows and whose cursor is older than this is history, no fault.
    """

    lag_max_s: float = 15.0
    gap_open_max_s: float = 60.0
    outbox_age_max_s: float = 30.0
    weight_share_max: float = 0.8
    forgotten_s: float = 86_400.0


class State(IntEnum):
    """How a stream stands, the worst first."""

    NEVER_BEGUN = 0
    BEHIND = 1
    GAPS = 2
    WELL = 3
    IDLE = 4


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, where, and what to do."""

    where: str
    what: str
    advice: str


class StreamRow(msgspec.Struct, frozen=True):
    """One stream as it is shown; ages in seconds, None where unknown.

    `lag_s` is how far its watermark is behind venue time now, `behind_feed_s` behind its feed's watermark.
    """

    symbol: str
    venue: str
    state: State
    lag_s: float | None
    behind_feed_s: float | None
    trade_age_s: float | None
    facts: StreamFacts


class Picture(msgspec.Struct, frozen=True):
    """A look, judged: `problems` decide the exit code, `remarks` do not; streams are sorted worst first."""

    problems: tuple[Problem, ...]
    remarks: tuple[Problem, ...]
    streams: tuple[StreamRow, ...]
    facts: Facts

    @property
    def well(self) -> bool:
        """Is nothing wrong?"""
        return not self.problems

    def verdict(self) -> str:
        """The one line on top."""
        if not self.well:
            count = len(self.problems)
            places = ", ".join(dict.fromkeys(it.where.partition(" ")[0] for it in self.problems))
            return f"{_plural(count, 'problem')}: {places}"
        followed = sum(row.state is not State.IDLE for row in self.streams)
        return f"all well: {_plural(followed, 'stream')}, {_plural(len(self.facts.services), 'service')}"


def judge(facts: Facts, limits: StatusLimits | None = None, kinds: Sequence[ServiceKind] = SERVICES) -> Picture:
    """Find everything that is wrong; sources that did not answer come first, then services, streams and messages."""
    limits = limits or StatusLimits()
    facts = replace(facts, services=tuple(it for it in facts.services if not _may_be_away(it)))
    sources: tuple[object, ...] = (facts.database, *facts.brokers, *facts.services)
    problems = [Problem(it.source, it.reason, it.advice) for it in sources if isinstance(it, Silent)]
    remarks: list[Problem] = []
    services = [it for it in facts.services if isinstance(it, ServiceFacts)]
    for service in services:
        problems += _judge_service(service)
        remarks += _remark_service(service, limits)
    problems += _miss_services(facts.services, kinds)
    rows: list[StreamRow] = []
    if isinstance(facts.database, DatabaseFacts):
        rows = sort_streams(judge_streams(facts.database, facts.services, limits))
        problems += _judge_rows(rows, limits)
        remarks += _remark_rows(rows)
        problems += _judge_outbox(facts.database.outbox, limits)
        if facts.database.registry is not None:
            problems += _judge_registry(facts.database.registry)
            remarks += _remark_registry(facts.database.registry)
    # What the management interface counts is some seconds old: where the broker itself answered, its counts hold.
    brokers = sorted((it for it in facts.brokers if isinstance(it, BrokerFacts)), key=lambda it: it.source != "amqp")
    for broker in brokers:
        problems += _judge_broker(broker)
    for broker in brokers[:1]:
        problems += _judge_queues(broker)
        remarks += _remark_queues(broker)
    return Picture(tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(remarks)), tuple(rows), facts)


# ---- services


def _may_be_away(answer: ServiceFacts | Silent) -> bool:
    return isinstance(answer, Silent) and answer.by_timer


def _judge_service(service: ServiceFacts) -> Iterator[Problem]:
    where, kind = f"{service.name} {service.url}", kind_of(service.name)
    for check in service.checks:
        if not check.healthy:
            yield Problem(where, describe_check(check), kind.advise(check.name) if kind else "see the service's log")
    if service.phase is Phase.STARTING:
        yield Problem(where, "is starting: no data yet", "wait some seconds; if it stays so, see its log")
    elif service.phase is Phase.STOPPING:
        yield Problem(where, "is stopping", "its supervisor should start it again")
    elif not service.healthy and all(check.healthy for check in service.checks):
        yield Problem(where, "is not healthy and names no check", "see the service's log")


def describe_check(check: Check) -> str:
    """A failed check in words: its age against what is allowed, else the details that are not zero."""
    told: list[str] = []
    if check.max_age_s is not None:
        age = "no data yet" if check.age_s is None else f"{check.age_s:.0f} s old"
        told.append(f"{age}, allowed {check.max_age_s:g} s")
    details = {name: value for name, value in check.detail.items() if name not in _NOT_TOLD}
    shown = {name: value for name, value in details.items() if value not in (0, "", {})} or details
    told += [f"{name} {value}" for name, value in shown.items()]
    return f"{check.name}: {', '.join(told)}"[:DETAIL_CHARS_MAX]


def _remark_service(service: ServiceFacts, limits: StatusLimits) -> Iterator[Problem]:
    where, meters = f"{service.name} {service.url}", service.meters
    if service.phase is Phase.STANDBY:
        yield Problem(where, "stands by", "nothing: it takes over when the other instance ends")
    for check in service.checks:
        if check.healthy and (remark := check.detail.get("remark")):
            yield Problem(where, f"{remark}"[:DETAIL_CHARS_MAX], "nothing: it works as configured")
    if meters.weight_used is not None and meters.weight_limit:
        share = meters.weight_used / meters.weight_limit
        if share >= limits.weight_share_max:
            yield Problem(where, f"{share:.0%} of the REST budget is spent", "repairs wait until the minute is over")


def _miss_services(answers: Iterable[ServiceFacts | Silent], kinds: Sequence[ServiceKind]) -> Iterator[Problem]:
    """A service of which only stand-by instances answered writes nothing; one that did not answer was told already."""
    answered = [it for it in answers if isinstance(it, ServiceFacts)]
    for kind in kinds:
        mine = [it for it in answered if it.name == kind.name]
        if mine and all(it.phase is Phase.STANDBY for it in mine):
            advice = "name all instances in STATUS_URLS; if one hangs, end it and the other takes over"
            yield Problem(kind.name, "every instance that answered stands by", advice)


# ---- streams


def judge_streams(
    database: DatabaseFacts, answers: Sequence[ServiceFacts | Silent], limits: StatusLimits
) -> list[StreamRow]:
    """One row a stream; lag is measured against its feed's time, against the database's where no feed tells."""
    serving = [it for it in answers if isinstance(it, ServiceFacts) and it.phase is Phase.SERVING]
    feed_of = {(it.name, symbol): feed for it in serving for feed in it.feeds for symbol in feed.trades}
    telling = {it.name for it in serving} if all(isinstance(it, ServiceFacts) for it in answers) else set[str]()
    rows: list[StreamRow] = []
    for facts in database.streams:
        feed = feed_of.get((facts.service, facts.symbol))
        wanted = _is_wanted(facts, feed, facts.service in telling, database.now_s, limits)
        rows.append(_row_of(facts, feed, wanted, database.now_s, limits))
    return rows


def _is_wanted(facts: StreamFacts, feed: FeedFacts | None, telling: bool, now_s: float, limits: StatusLimits) -> bool:
    """Should this stream move? `telling`: every instance answered, so that what none of them follows is not followed.

    A pinned pair (SYMBOLS) is unknown to the registry; then only the services, or a young cursor, can tell.
    """
    if feed is not None:
        return True
    if facts.idle:
        return False
    if facts.status is not None:
        return facts.status in WANTED_STATUSES
    return not telling and facts.cursor_s is not None and now_s - facts.cursor_s <= limits.forgotten_s


def _row_of(facts: StreamFacts, feed: FeedFacts | None, wanted: bool, now_s: float, limits: StatusLimits) -> StreamRow:
    venue_s = feed.venue_now_s() if feed is not None else None
    at_s = now_s if venue_s is None else venue_s
    lag_s = None if facts.cursor_s is None else max(0.0, at_s - facts.cursor_s)
    behind_s = None
    if facts.cursor_s is not None and feed is not None and feed.watermark_ms:
        behind_s = max(0.0, feed.watermark_ms / 1000 - facts.cursor_s)
    trade_s = None if facts.last_trade_s is None else max(0.0, at_s - facts.last_trade_s)
    return StreamRow(
        facts.symbol, facts.venue, _state_of(facts, wanted, lag_s, limits), lag_s, behind_s, trade_s, facts
    )


def _state_of(facts: StreamFacts, wanted: bool, lag_s: float | None, limits: StatusLimits) -> State:
    stuck = facts.gaps_open > 0 and facts.gap_age_s > limits.gap_open_max_s
    if wanted and lag_s is None:
        return State.NEVER_BEGUN
    if wanted and lag_s is not None and lag_s > limits.lag_max_s:
        return State.BEHIND
    if stuck or facts.gaps_parked:
        return State.GAPS
    return State.WELL if wanted else State.IDLE


def sort_streams(rows: Iterable[StreamRow]) -> list[StreamRow]:
    """Worst first: by state, then by lag, then by name."""
    return sorted(rows, key=lambda row: (row.state, -(row.lag_s or 0.0), row.symbol, row.venue))


def _judge_rows(rows: Sequence[StreamRow], limits: StatusLimits) -> Iterator[Problem]:
    if all(row.state is State.IDLE for row in rows):
        yield Problem("streams", "nothing is followed", "name pairs in SYMBOLS, or run the registry")
    never = [row for row in rows if row.state is State.NEVER_BEGUN]
    if never:
        what = f"{_count(never)} wanted and never begun: {_name(never)}"
        yield Problem("streams", what, "is the service running, and does the venue list them?")
    behind = [row for row in rows if row.state is State.BEHIND]
    if behind:
        what = f"{_count(behind)} behind: {_name(behind, lambda row: f' {format_span(row.lag_s or 0)}')}"
        yield Problem("streams", what, "look at the service above; if it is well, `trading-bus doctor`")
    yield from _judge_gaps(rows, limits)


def _judge_gaps(rows: Sequence[StreamRow], limits: StatusLimits) -> Iterator[Problem]:
    stuck = [row for row in rows if row.facts.gaps_open and row.facts.gap_age_s > limits.gap_open_max_s]
    if stuck:
        count, oldest_s = sum(row.facts.gaps_open for row in stuck), max(row.facts.gap_age_s for row in stuck)
        what = f"{count} open in {_name(stuck)}, oldest noticed {format_span(oldest_s)} ago"
        yield Problem("gaps", what, "is the venue's REST answering? `trading-bus gaps` names them")
    parked = [row for row in rows if row.facts.gaps_parked]
    if parked:
        what = f"{sum(row.facts.gaps_parked for row in parked)} too old to be repaired by itself: {_name(parked)}"
        yield Problem("gaps", what, "`trading-bus gaps --repair`")


def _remark_rows(rows: Sequence[StreamRow]) -> Iterator[Problem]:
    missing = [row for row in rows if row.facts.gaps_missing]
    if missing:
        what = f"{sum(row.facts.gaps_missing for row in missing)} given up in the last day: {_name(missing)}"
        yield Problem("gaps", what, "the venue itself did not have these trades; the rows say complete = false")


def _count(rows: Sequence[StreamRow]) -> str:
    return _plural(len(rows), "stream")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _name(rows: Sequence[StreamRow], tell: Callable[[StreamRow], str] = lambda row: "") -> str:
    named = ", ".join(f"{row.symbol}{tell(row)}" for row in rows[:NAMES_TOLD])
    return named + (f" and {len(rows) - NAMES_TOLD} more" if len(rows) > NAMES_TOLD else "")


# ---- messages


def _judge_outbox(outbox: Iterable[OutboxFacts], limits: StatusLimits) -> Iterator[Problem]:
    for it in outbox:
        if it.age_s > limits.outbox_age_max_s:
            what = f"{it.messages} messages of {it.owner} wait, the oldest for {format_span(it.age_s)}"
            advice = "its service publishes them once the broker confirms" if it.alive else "`trading-bus outbox drain`"
            yield Problem("outbox", what if it.alive else f"{what}; their owner is gone", advice)


def _judge_registry(registry: RegistryFacts) -> Iterator[Problem]:
    if registry.run_age_s > RUN_AGE_MAX_S:
        what = f"the last run that was written is {format_span(registry.run_age_s)} old"
        yield Problem("registry", what, "`trading-bus registry run` makes up for it, or says why it can not")


def _remark_registry(registry: RegistryFacts) -> Iterator[Problem]:
    if not registry.sampled:
        what = "no spread was sampled lately: a run takes the spread of its own moment"
        yield Problem("registry", what, "`trading-bus registry sample` every five minutes, or `registry schedule`")


def _judge_broker(broker: BrokerFacts) -> Iterator[Problem]:
    for alarm in broker.alarms:
        yield Problem("broker", f"{alarm} alarm: every publisher is blocked", "free memory or disk on the broker")
    if not broker.declared:
        yield Problem("broker", "the bus is not declared there", "the first service declares it: is the vhost right?")


def _judge_queues(broker: BrokerFacts) -> Iterator[Problem]:
    for queue in broker.queues:
        if queue.name == EXCHANGE_DEAD and queue.messages:
            yield Problem("broker", _plural(queue.messages, "dead letter"), "`trading-bus dead list` says why")


def _remark_queues(broker: BrokerFacts) -> Iterator[Problem]:
    for queue in broker.queues:
        if queue.name == EXCHANGE_UNROUTED and queue.messages:
            what = f"{_plural(queue.messages, 'message')} with a key that nobody binds"
            yield Problem("broker", what, f"look at their keys in the queue {EXCHANGE_UNROUTED}: mistyped?")


def count_states(rows: Iterable[StreamRow]) -> dict[str, int]:
    """How many streams stand how, in words, the worst first."""
    counts = Counter(row.state for row in rows)
    return {state.name.lower().replace("_", " "): counts[state] for state in State if counts[state]}


def format_span(seconds: float) -> str:
    """A duration for a person: seconds below two minutes, then minutes, hours, days."""
    for unit_s, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
