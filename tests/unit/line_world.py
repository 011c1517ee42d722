"""A venue, its connections, a writer and a repairer around one `Line`, as plain values: what can interleave, does."""

from __future__ import annotations

import heapq
import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from common.batch import Batch
from common.contracts import GapRow
from common.feed_events import Event, Lost, Opened, Subscribed, Unsubscribed
from common.venues.market import Cadence, Trade
from ohlcv_ingestor.bars import bar_row, kline_bar
from ohlcv_ingestor.beginning import Start, begin_symbol
from ohlcv_ingestor.gaps import Gap
from ohlcv_ingestor.line import Line, LineLimits, Outlet
from ohlcv_ingestor.repair import Answer, RepairLimits, repair_gap
from ohlcv_ingestor.restoring import choose_gaps
from ohlcv_ingestor.series import Series, SeriesLimits
from ohlcv_ingestor.starts import begin_at, choose_start, inherit, restart
from ohlcv_ingestor.stored import gap_of_row
from tests.unit.ohlcv_model import STREAM, T0, Tables, Venue, recount

SYMBOL = STREAM.symbol
NAMES = frozenset({"xusdt@aggTrade", "cadence"})


class LedgerTables(Tables):
    """Tables that also tell the time in which the symbol was not wanted."""

    def idle(self) -> list[Gap]:
        return [gap_of_row(g) for g in self.gaps.values() if g.status == "not_subscribed" and g.to_id is None]


@dataclass
class Socket:
    """One connection: how late it delivers, and how much it loses."""

    lag_ms: int
    drop: float
    delay: float
    subscribed: bool = False


@dataclass
class Knobs:
    """How bad the world is."""

    drop: float = 0.0
    delay: float = 0.0
    rest_fail: float = 0.0
    rest_lag_ms: int = 0
    pump: float = 0.5
    wild: float = 0.0
    """Share of frames that tell an absurd time."""


@dataclass
class Job:
    """A repair that waits for an answer."""

    series: Series
    gap: Gap | None
    asking: Generator[Any, Answer, Any]
    ask: Any = None


@dataclass
class LineWorld:
    """Venue time moves in `stream`; everything else happens between or inside its ticks."""

    venue: Venue
    limits: SeriesLimits
    repair_limits: RepairLimits
    rng: random.Random
    knobs: Knobs = field(default_factory=Knobs)

    def __post_init__(self) -> None:
        self.tables = LedgerTables()
        self.now_ms = T0 * 1000
        trades = self.venue.trades
        self.at = next((i for i, t in enumerate(trades) if t.time_ms >= self.now_ms), len(trades))
        self.sockets: dict[int, Socket] = {}
        self.queue: list[tuple[int, int, int, Event]] = []
        self.seq = self.number = 0
        self.wanted = True
        self.db_away = False
        self.starts: list[tuple[int, int]] = []
        self.fresh_starts: list[tuple[int, int]] = []
        self.start_process()

    # ---- process

    def start_process(self) -> None:
        self.sockets.clear()
        self.queue.clear()
        self.outlet, self.waiting = Outlet(), Batch()
        self.fresh_starts.clear()
        names = {"xusdt@aggTrade": SYMBOL}
        self.line = Line(self.outlet, names.get, LineLimits())
        self.line.moved_s = self.now_ms / 1000
        self.jobs: list[Job] = []
        self.due: dict[int, int] = {}
        if self.wanted:
            self.load()

    def load(self) -> None:
        series, idle = Series(STREAM, self.limits), self.tables.idle()
        stored = self.tables.load(self.limits.ring_s)
        if stored is not None and idle:
            inherit(series, stored, idle)
        elif stored is not None:
            restart(series, stored)
        self.line.adopt(series)

    @property
    def series(self) -> Series:
        return self.line.series[SYMBOL]

    # ---- connections

    def deliver(self, number: int, event: Event, at_ms: int) -> None:
        self.seq += 1
        heapq.heappush(self.queue, (at_ms, self.seq, number, event))

    def open(self, lag_ms: int = 0, drop: float | None = None) -> None:
        if len(self.sockets) >= 2:
            return
        self.number += 1
        knobs = self.knobs
        self.sockets[self.number] = Socket(lag_ms, knobs.drop if drop is None else drop, knobs.delay)
        self.line.take([(self.number, Opened())], self.now_ms / 1000)
        if self.wanted:
            self.subscribe(self.number)

    def subscribe(self, number: int) -> None:
        self.sockets[number].subscribed = True
        self.deliver(number, Subscribed(NAMES), self.now_ms + self.rng.choice([0, 100, 1_500]))

    def lose(self) -> None:
        if self.sockets:
            number = self.rng.choice(sorted(self.sockets))
            del self.sockets[number]
            self.queue = [e for e in self.queue if e[2] != number]
            heapq.heapify(self.queue)
            self.line.take([(number, Lost("cut", planned=False))], self.now_ms / 1000)

    def unsubscribe(self) -> None:
        if not self.wanted:
            return
        if self.sockets and self.at < len(self.venue.trades):
            # What the stream lost after its last trade shows at the next one only: let it come first.
            for socket in self.sockets.values():
                socket.drop = socket.delay = 0.0
            self.venue.lost.discard(self.venue.trades[self.at].id)
            self.stream(self.venue.trades[self.at].time_ms + self.rng.choice([0, 600, 3_000]))
        next_id = self.series.ids.next_id
        if next_id is not None and any(t.id >= next_id for t in self.venue.trades[: self.at]):
            return  # something was lost that nobody can notice once the symbol is off
        self.wanted = False
        series = self.line.drop(SYMBOL)
        if series is not None:
            series.retire(self.outlet.batch)
        for number, socket in self.sockets.items():
            socket.subscribed = False
            self.deliver(number, Unsubscribed(frozenset({"xusdt@aggTrade"})), self.now_ms + 200)
        self.flush()

    def subscribe_again(self) -> None:
        if not self.wanted and not self.db_away and not self.queue_holds(Unsubscribed):
            self.wanted = True
            self.load()
            for number in self.sockets:
                self.subscribe(number)

    def queue_holds(self, kind: type) -> bool:
        return any(isinstance(e[3], kind) for e in self.queue)

    # ---- time

    def stream(self, to_ms: int) -> None:
        trades = self.venue.trades
        tick = (self.now_ms // 500 + 1) * 500
        while True:
            trade_ms = trades[self.at].time_ms if self.at < len(trades) else to_ms + 1
            event_ms = self.queue[0][0] if self.queue else to_ms + 1
            at_ms = min(trade_ms, event_ms, tick)
            if at_ms > to_ms:
                break
            self.now_ms = max(self.now_ms, at_ms)
            if at_ms == trade_ms:
                self.send(trades[self.at])
                self.at += 1
            elif at_ms == event_ms:
                _, _, number, event = heapq.heappop(self.queue)
                if number in self.sockets:
                    self.line.take([(number, event)], self.now_ms / 1000)
            else:
                self.tick(tick)
                tick += 500
        self.now_ms = max(self.now_ms, to_ms)

    def send(self, t: Trade) -> None:
        for number, socket in self.sockets.items():
            if not socket.subscribed or t.id in self.venue.lost or self.rng.random() < socket.drop:
                continue
            extra = self.rng.choice([1, 300, 3_000, 40_000]) if self.rng.random() < socket.delay else 0
            told = self.distort(t) if self.knobs.wild and self.rng.random() < self.knobs.wild else t
            self.deliver(number, told, t.time_ms + socket.lag_ms + extra)

    def absurd_ms(self) -> int:
        limits = self.line.limits
        ahead = self.rng.randrange(limits.ahead_max_ms + 60_000, 10**11)
        return self.now_ms + ahead if self.rng.random() < 0.7 else self.rng.randrange(0, 10**9)

    def distort(self, t: Trade) -> Trade:
        """A frame whose times, one or both, can not be right."""
        wrong_ms = self.absurd_ms()
        which = self.rng.choice(["trade", "event", "both"])
        if which == "event":
            return msgspec.structs.replace(t, event_ms=max(wrong_ms, t.event_ms))
        return msgspec.structs.replace(t, time_ms=wrong_ms, event_ms=wrong_ms if which == "both" else t.event_ms)

    def tick(self, at_ms: int) -> None:
        if at_ms % 1000 == 0:
            for number, socket in self.sockets.items():
                wild = self.knobs.wild and self.rng.random() < self.knobs.wild
                self.deliver(number, Cadence(self.absurd_ms() if wild else at_ms), at_ms + socket.lag_ms)
        self.line.stall(at_ms / 1000, 1.0)
        self.pump()

    # ---- repairs

    def pump(self) -> None:
        """Begin what is due, and let some of the waiting repairs have their answer."""
        series = self.line.series.get(SYMBOL)
        if series is not None:
            busy = [j.gap for j in self.jobs if j.series is series]
            start = choose_start(series)
            if start is not None and not busy:
                first = series.ids.first_seen
                seen = first is not None and first.time_ms >= 1000 * start
                self.jobs.append(Job(series, None, begin_symbol(start, self.limits.backfill_s, seen=seen)))
            for gap in choose_gaps(series):
                if gap not in busy and self.due.get(id(gap), 0) <= self.now_ms:
                    gap.active = True
                    self.jobs.append(Job(series, gap, repair_gap(series, gap, self.repair_limits)))
        for job in list(self.jobs):
            if job in self.jobs and self.rng.random() < self.knobs.pump:
                self.answer(job)

    def answer(self, job: Job) -> None:
        try:
            if job.ask is None:
                job.ask = next(job.asking)
            elif self.rng.random() < self.knobs.rest_fail:
                self.end(job, 2_000)
            else:
                reply = self.venue.answer(job.ask, self.now_ms - self.knobs.rest_lag_ms)
                job.ask = job.asking.send(reply)
        except StopIteration as done:
            self.end(job, 0 if done.value or job.gap is None else (1_000, 3_000, 9_000)[min(job.gap.tries, 3) - 1])
            if isinstance(done.value, Start) and self.line.series.get(SYMBOL) is job.series:
                for k in done.value.history:
                    row = bar_row(kline_bar(k), SYMBOL, STREAM.source, 8, True, 4)
                    self.outlet.batch.put_bar(row)
                self.fresh_starts.append((done.value.from_s, done.value.first_id))
                begin_at(job.series, done.value.first_id, done.value.from_s, done.value.close)
            if self.line.series.get(SYMBOL) is job.series:
                job.series.drain(self.outlet.batch)

    def end(self, job: Job, wait_ms: int) -> None:
        job.asking.close()
        self.jobs.remove(job)
        if job.gap is not None:
            job.gap.active = False
            self.due[id(job.gap)] = self.now_ms + wait_ms
            self.keep_alive = [*getattr(self, "keep_alive", []), job.gap]  # so that no id comes twice

    # ---- writer

    def flush(self, unknown: bool = False) -> None:
        fresh, self.outlet.batch = self.outlet.batch, Batch()
        if self.waiting:
            self.waiting.absorb(fresh)
        else:
            self.waiting = fresh
        if self.db_away:
            return
        kept = Batch()
        kept.absorb(self.waiting)
        self.tables.commit(self.waiting)
        self.starts += self.fresh_starts
        self.fresh_starts.clear()
        self.waiting = kept if unknown else Batch()

    def overflow(self) -> None:
        """The buffer was thrown away; what the sockets carry goes on."""
        self.waiting, self.outlet.batch = Batch(), Batch()
        self.fresh_starts.clear()
        self.db_away = False
        if self.wanted:
            self.line.series.clear()
            self.load()

    # ---- the end

    def wind_up(self) -> None:
        self.db_away = False
        self.knobs = Knobs(pump=1.0)
        self.venue.lost -= {t.id for t in self.venue.trades[self.at :]}
        for socket in self.sockets.values():
            socket.drop = socket.delay = 0.0
        self.stream(self.now_ms + 1_000)
        self.flush()
        self.subscribe_again()
        if not self.sockets:
            self.open()
        self.stream(self.now_ms + 70_000)
        if self.at < len(self.venue.trades):  # a lost trade shows at the next one only
            self.stream(self.venue.trades[self.at].time_ms + 2_000)
        self.stream(self.now_ms + 90_000)
        self.flush()


def open_gaps(world: LineWorld) -> list[Gap]:
    return [g for g in world.series.ids.gaps if not g.parked]


def spans(world: LineWorld, *statuses: str) -> list[Gap]:
    return [gap_of_row(g) for g in world.tables.gaps.values() if g.status in statuses]


def touched(gaps: list[Gap], from_s: int, width: int) -> bool:
    return any(g.touches(1000 * from_s, 1000 * (from_s + width)) for g in gaps)


def before_start(world: LineWorld, t: Trade) -> bool:
    """Lost by the venue itself ahead of the first trade it had to offer: nobody can know of it."""
    return t.id in world.venue.lost and any(
        1000 * from_s <= t.time_ms and t.id < first_id for from_s, first_id in world.starts
    )


def judge(world: LineWorld) -> None:
    """No complete row is wrong; what is not complete is in the ledger; where nothing is in the ledger, all is there."""
    assert not open_gaps(world), f"left open: {open_gaps(world)}"
    ledger: list[GapRow] = list(world.tables.gaps.values())
    for g in ledger:
        if g.status == "repaired":
            assert not g.missing, f"repaired, but ids are missing: {g}"
        if g.status == "source_missing":
            ids = {i for a, b in g.missing for i in range(a, b + 1)}
            assert ids <= world.venue.lost, f"the venue has them: {g}"
    assert world.tables.cursor is not None
    assert world.tables.cursor.event_s == world.series.closed_s
    first_s, end_s = min(world.starts)[0], world.series.closed_s
    bad, idle = spans(world, "open", "source_missing"), spans(world, "not_subscribed")
    for width, table, from_s in (
        (1, world.tables.footprints, first_s),
        (60, world.tables.bars, min(world.tables.bars)),
    ):
        truth = recount([t for t in world.venue.trades if not before_start(world, t)], width)
        served = recount([t for t in world.venue.trades if t.id not in world.venue.lost], width)
        for s, (row, _) in sorted(table.items()):
            if s < from_s or s + width > end_s:
                continue
            close = row.close if width == 1 else row.c
            if row.complete:
                history = any(start - world.limits.backfill_s <= s < start for start, _ in world.starts)
                want = (served if history else truth).get(s)
                got_n = 0 if want is None else want["n"]
                assert row.n == got_n, f"{width} s at {s}: complete with n={row.n}, not {got_n}"
                if want is not None:
                    high, low, open_ = (row.high, row.low, row.open) if width == 1 else (row.h, row.l, row.o)
                    assert (open_, high, low, close) == (want["o"], want["h"], want["l"], want["c"]), s
                    assert row.buy_vol == want["buy"], s
                assert history or not touched(bad, s, width), f"{width} s at {s}: complete inside {bad}"
            else:
                assert touched(bad + idle, s, width), f"{width} s at {s}: incomplete, and the ledger does not say why"
        for s in truth:
            if from_s <= s and s + width <= end_s and s not in table:
                assert touched(bad + idle, s, width), f"{width} s at {s}: no row, and the ledger does not say why"
    judge_flat(world, bad + idle, end_s)


def judge_flat(world: LineWorld, unknown: list[Gap], end_s: int) -> None:
    """A minute without a trade stands at the close before it."""
    truth = recount([t for t in world.venue.trades if t.id not in world.venue.lost], 60)
    first = min(world.tables.bars)
    for m in range(first, end_s - 59, 60):
        before = max((s for s in truth if s < m), default=None)
        if m in truth or before is None or touched(unknown, before, m + 60 - before):
            continue
        row = world.tables.bars.get(m)
        assert row is not None, f"no flat bar at {m}"
        assert (row[0].c, row[0].o, row[0].v) == (truth[before]["c"], truth[before]["c"], "0"), f"flat bar at {m}"
