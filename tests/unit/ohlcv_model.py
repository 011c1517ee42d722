"""A venue, a database and a driver as plain values, to judge `Series` without any server.

The recount here shares no code with the ingestor: it sorts trades and sums Decimals.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal

from common.batch import Batch
from common.contracts import CursorRow, GapRow
from common.venues.market import Kline, Trade
from ohlcv_ingestor.beginning import Start, begin_symbol
from ohlcv_ingestor.gaps import Gap
from ohlcv_ingestor.repair import PAGE, Answer, Ask, AskTrades, RepairLimits, check_silence, repair_gap
from ohlcv_ingestor.restoring import choose_gaps
from ohlcv_ingestor.rows import Stream
from ohlcv_ingestor.series import Series, SeriesLimits
from ohlcv_ingestor.starts import begin_at, choose_start, restart
from ohlcv_ingestor.stored import Stored, restore_state, spans_to_load

T0 = 1_790_000_040  # a minute's opening, epoch seconds
STREAM = Stream("ohlcv", "binance", "XUSDT", "binance", 8)
UNIT = Decimal(10) ** 8


def make_trades(rng: random.Random, seconds: int, busy: float) -> list[Trade]:
    """A market from T0 - 2 h: ids rise by one, f = previous l + 1, quiet seconds and minutes."""
    trades: list[Trade] = []
    now, trade_id, raw, price = (T0 - 7_200) * 1000, 100, 1_000, 10_000_000_000
    end = (T0 + seconds) * 1000
    while now < end:
        before = now < (T0 - 120) * 1000
        now += int(rng.expovariate(0.02 if before else busy) * 1000) + rng.choice([0, 1, 400])
        if not before and rng.random() < 0.02:
            now += rng.randrange(20_000, 200_000)
        if now >= end:
            break
        n = rng.randrange(1, 4)
        price += rng.randrange(-5, 6) * 1_000_000
        qty = rng.randrange(1, 10**9)
        trades.append(Trade("XUSDT", trade_id, price, qty, raw, raw + n - 1, now, now, rng.random() < 0.5))
        trade_id, raw = trade_id + 1, raw + n
    return trades


def plain(value: Decimal) -> str:
    text = format(value, "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def recount(trades: list[Trade], width: int) -> dict[int, dict[str, str | int]]:
    """Spans of `width` seconds that hold trades, as text."""
    spans: dict[int, list[Trade]] = defaultdict(list)
    for t in trades:
        spans[t.time_ms // 1000 // width * width].append(t)
    rows: dict[int, dict[str, str | int]] = {}
    for start, group in spans.items():
        group.sort(key=lambda t: t.id)
        prices = [Decimal(t.price) / UNIT for t in group]
        sums = {True: Decimal(0), False: Decimal(0)}
        quotes = {True: Decimal(0), False: Decimal(0)}
        for t in group:
            qty = Decimal(t.qty) / UNIT
            sums[t.buy] += qty
            quotes[t.buy] += qty * Decimal(t.price) / UNIT
        rows[start] = {
            "o": plain(prices[0]), "h": plain(max(prices)), "l": plain(min(prices)), "c": plain(prices[-1]),
            "buy": plain(sums[True]), "sell": plain(sums[False]), "v": plain(sums[True] + sums[False]),
            "buy_quote": plain(quotes[True]), "quote": plain(quotes[True] + quotes[False]),
            "n": sum(t.last - t.first + 1 for t in group),
        }  # fmt: skip
    return rows


@dataclass
class Venue:
    """All trades of a symbol, some of which the venue can not serve again."""

    trades: list[Trade]
    lost: set[int] = field(default_factory=set)
    fail: float = 0.0
    behind_ms: int = 0
    """How much later than the stream REST shows things, candles too: the one in which its time lies is not whole."""

    def answer(self, ask: Ask, now_ms: int) -> Answer:
        now_ms -= self.behind_ms
        known = [t for t in self.trades if t.id not in self.lost and t.time_ms <= now_ms]
        if isinstance(ask, AskTrades):
            if ask.from_id is None and ask.start_ms is None:
                return Answer(trades=known[-ask.limit :])
            found = [t for t in known if ask.from_id is None or t.id >= ask.from_id]
            found = [t for t in found if ask.start_ms is None or t.time_ms >= ask.start_ms]
            found = [t for t in found if ask.end_ms is None or t.time_ms <= ask.end_ms]
            return Answer(trades=found[: ask.limit])
        width = 60 if ask.interval == "1m" else 1
        klines: list[Kline] = []
        close: int | None = None
        by_span: dict[int, list[Trade]] = defaultdict(list)
        for t in known:
            by_span[t.time_ms // 1000 // width * width].append(t)
            if t.time_ms < ask.from_s * 1000:
                close = t.price
        for start in range(ask.from_s, min(ask.to_s, now_ms // 1000 + 1, ask.from_s + width * PAGE), width):
            group = by_span.get(start, [])
            if group:
                close = group[-1].price
                buys = [t for t in group if t.buy]
                klines.append(
                    Kline(
                        start, group[0].price, max(t.price for t in group), min(t.price for t in group), close,
                        sum(t.qty for t in group), sum(t.qty * t.price for t in group), sum(t.n for t in group),
                        sum(t.qty for t in buys), sum(t.qty * t.price for t in buys),
                    )
                )  # fmt: skip
            elif close is not None:
                klines.append(Kline(start, close, close, close, close, 0, 0, 0, 0, 0))
        return Answer(klines=klines)


class Tables:
    """The winner rule, retraction and `rev` of the store, on dicts."""

    def __init__(self) -> None:
        self.bars: dict[int, tuple[object, int]] = {}
        self.footprints: dict[int, tuple[object, int]] = {}
        self.gaps: dict[int, GapRow] = {}
        self.cursor: CursorRow | None = None

    def commit(self, batch: Batch) -> None:
        for r in batch.retractions:
            self._lower(self.bars, r.from_s - r.from_s % 60, r.to_s)
            self._lower(self.footprints, r.from_s, r.to_s)
        for table, rows in ((self.bars, batch.bars), (self.footprints, batch.footprints)):
            for (_symbol, time), row in rows.items():
                stored = table.get(time)
                if stored is None:
                    table[time] = (row, 1)
                    continue
                old, rev = stored
                wins = row.grade > old.grade or (row.grade == old.grade and (row.grade >= 3 or row.n >= old.n))
                if wins and row != old:
                    table[time] = (row, rev + 1)
        for gap in batch.gaps.values():
            self.gaps[gap.from_id] = gap
        for cursor in batch.cursors.values():
            if self.cursor is None or (cursor.last_id, cursor.event_s) > (self.cursor.last_id, self.cursor.event_s):
                event_s = max(cursor.event_s, self.cursor.event_s if self.cursor else 0)
                self.cursor = CursorRow(cursor.service, cursor.venue, cursor.symbol, cursor.last_id, event_s)
        batch.clear()

    @staticmethod
    def _lower(table: dict[int, tuple[object, int]], from_s: int, to_s: int) -> None:
        import msgspec

        for time, (row, rev) in table.items():
            if from_s <= time <= to_s and row.complete:
                table[time] = (msgspec.structs.replace(row, complete=False, grade=2), rev + 1)

    def load(self, ring_s: int) -> Stored | None:
        cursor = self.cursor
        if cursor is None:
            return None
        gaps, ring = list(self.gaps.values()), [r for s, (r, _) in self.footprints.items() if s < cursor.event_s]
        spans = spans_to_load(cursor.event_s, gaps, ring_s, max((r.time for r in ring), default=None))
        bars = {m: r for m, (r, _) in self.bars.items() if any(a <= m < b for a, b in spans)}
        for first, _ in spans:
            before = [m for m in self.bars if m < first]
            if before:
                bars[max(before)] = self.bars[max(before)][0]
        footprints = [r for r in ring if any(a <= r.time < b for a, b in spans)]
        return restore_state(cursor, bars.values(), footprints, gaps, 8)


class World:
    """A venue streaming to a series whose rows go to tables; the clock is the venue's."""

    def __init__(self, venue: Venue, limits: SeriesLimits, repair_limits: RepairLimits) -> None:
        self.venue, self.limits, self.repair_limits = venue, limits, repair_limits
        self.tables = Tables()
        self.batch = Batch()
        self.now_ms = T0 * 1000
        self.at = next((i for i, t in enumerate(venue.trades) if t.time_ms >= self.now_ms), len(venue.trades))
        self.live = False
        self.started_s = 0
        self.start_process()

    def start_process(self) -> None:
        self.series = Series(STREAM, self.limits)
        self.batch = Batch()
        stored = self.tables.load(self.limits.ring_s)
        if stored is None:
            self.started_s = 0
        else:
            restart(self.series, stored)
        self.live = False

    def connect(self) -> None:
        if not self.live:
            self.live = True
            self.series.resume(self.now_ms)

    def disconnect(self) -> None:
        if self.live:
            self.live = False
            self.series.lose(self.series.watermark_ms, "cut")

    def crash(self) -> None:
        self.start_process()

    def stream(self, to_ms: int, rng: random.Random, drop: float, delay: float, twice: float) -> None:
        """Venue time goes on to `to_ms`; trades arrive, get lost, late or twice; the watermark follows."""
        held: list[tuple[int, Trade]] = []
        trades = self.venue.trades
        while self.at < len(trades) and trades[self.at].time_ms <= to_ms:
            t = trades[self.at]
            self.at += 1
            self.now_ms = max(self.now_ms, t.time_ms)
            if not self.live:
                continue
            for due, late in [h for h in held if h[0] <= t.time_ms]:
                held.remove((due, late))
                self.series.add(late)
            roll = rng.random()
            if t.id in self.venue.lost or roll < drop:
                continue
            if roll < drop + delay:
                held.append((t.time_ms + rng.choice([1, 300, 3_000, 40_000, 400_000]), t))
                continue
            self.series.add(t)
            if roll > 1 - twice:
                self.series.add(t)
            self.tick(t.time_ms)
        self.now_ms = max(self.now_ms, to_ms)
        if self.live:
            for _, late in held:
                self.series.add(late)
            self.tick(self.now_ms)

    def tick(self, event_ms: int) -> None:
        if self.series.advance(event_ms - 500):
            self.series.drain(self.batch)

    def flush(self) -> None:
        self.series.drain(self.batch)
        self.tables.commit(self.batch)

    def begin(self) -> None:
        from_s = choose_start(self.series)
        if from_s is None:
            return
        seen = self.series.ids.first_seen
        asking = begin_symbol(from_s, self.limits.backfill_s, seen=seen is not None and seen.time_ms >= 1000 * from_s)
        ask = next(asking)
        while True:
            try:
                ask = asking.send(self.venue.answer(ask, self.now_ms))
            except StopIteration as done:
                start = done.value
                break
        if not isinstance(start, Start):
            return
        from ohlcv_ingestor.bars import bar_row, kline_bar

        for k in start.history:
            self.batch.put_bar(bar_row(kline_bar(k), STREAM.symbol, STREAM.source, 8, True, 4))
        self.started_s = self.started_s or start.from_s
        begin_at(self.series, start.first_id, start.from_s, start.close)
        self.series.drain(self.batch)

    def check(self) -> None:
        """What the repairer does for a silent symbol; a stalled stream is subscribed anew."""
        if self.series.silent_ms() <= 60_000:
            return
        asking = check_silence(self.series)
        try:
            ask = next(asking)
            while True:
                ask = asking.send(self.venue.answer(ask, self.now_ms))
        except StopIteration as done:
            if done.value and self.live:
                self.disconnect()
                self.connect()

    def repair(self, rng: random.Random | None = None) -> None:
        """Run every repair that is due; with an rng, answers may stay away half way."""
        self.begin()
        for gap in list(choose_gaps(self.series)):
            gap.active = True
            asking = repair_gap(self.series, gap, self.repair_limits)
            try:
                ask = next(asking)
                while True:
                    if rng is not None and rng.random() < self.venue.fail:
                        break
                    ask = asking.send(self.venue.answer(ask, self.now_ms))
            except StopIteration:
                pass
            gap.active = False
        self.series.drain(self.batch)

    def wind_up(self) -> None:
        """Connect, let everything settle and store it, with a trade after all that may have been lost."""
        quiet = random.Random(0)
        self.venue.behind_ms = 0
        self.connect()
        self.venue.lost -= {t.id for t in self.venue.trades[self.at :]}
        self.stream(self.now_ms + 70_000, quiet, 0, 0, 0)
        if self.at < len(self.venue.trades):  # a lost trade shows at the next one only
            self.stream(self.venue.trades[self.at].time_ms + 1_000, quiet, 0, 0, 0)
        for _ in range(8):
            self.repair()
            self.stream(self.now_ms + 6_000, quiet, 0, 0, 0)
        self.flush()


def touching(gaps: list[Gap], from_s: int, to_s: int) -> bool:
    return any(g.touches(1000 * from_s, 1000 * to_s) for g in gaps)
