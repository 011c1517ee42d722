"""The metric ingestor itself: which symbols, when a window is due, and everything that marks windows dirty."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Mapping
from urllib.parse import unquote

from common.clock import Clock
from common.consuming import BusMessage
from common.contracts import MetricRow
from common.database import Database
from common.errors import BadInput, TryLater
from common.listings import Listing
from metric_ingestor import statements as sql
from metric_ingestor.cvd import PRIMARY
from metric_ingestor.dirty import Dirty
from metric_ingestor.recorder import Recorder
from metric_ingestor.sampler import Sampler
from metric_ingestor.samples import Field
from metric_ingestor.settings import MetricSettings
from metric_ingestor.vendors import BINANCE, OKX, Vendors
from metric_ingestor.windows import MINUTE_S, WINDOW_S, is_due, latest_ended, window_of, windows_touched

log = logging.getLogger(__name__)

BINDINGS = ("price_updates.*.1s", "price_updates.*.1m")
AUDIT_S = 360
"""Each load of the state queue looks again at so much before the last one: a ring of the trades' service and a bit."""
LEDGER_MARGIN_S = 60
"""Longer than a transaction may last: a gap's `updated_at` is when its transaction began."""
LEDGER_BACKLOG_S = 6 * 3600
"""What the last life marked so long before its last row it may not have computed."""
LEDGER_SEEN_MAX = 10_000
SET_BACK_WINDOWS = 4
"""While a wrong time was believed: so many answers, one a window, correct it."""
CURSORS_TIMEOUT_S = 0.5
DAY_S = 86_400


class MetricIngestor:
    """Wires pure marks to the edge; `cursors` is how far each symbol's trades are stored, by the last look."""

    def __init__(
        self, settings: MetricSettings, clock: Clock, database: Database, dirty: Dirty,
        vendors: Vendors, sampler: Sampler,
    ) -> None:  # fmt: skip
        self._settings, self._clock, self._database, self._dirty = settings, clock, database, dirty
        self._vendors, self._sampler = vendors, sampler
        self.recorder: Recorder
        self.followed: dict[str, Listing] = {}
        self.cursors: dict[str, int] = {}
        self.late_total = 0
        self.marks_total = 0
        self._following = asyncio.Lock()
        self._new: dict[str, tuple[int, dt.datetime] | None] = {}
        self._window: int | None = None
        self._loaded_s: int | None = None
        self._ledger_since: dt.datetime | None = None
        self._ledger_seen: dict[tuple[str, int], dt.datetime] = {}

    def heard_ms(self) -> float:
        """Venue time that the trades have certainly reached."""
        return 1000.0 * max(self.cursors.values(), default=0)

    def dirty_windows(self) -> int:
        """Windows that wait to be computed again."""
        return len(self._dirty)

    async def follow(self, listings: Mapping[str, Listing]) -> None:
        """Take the symbols that are wanted now; raises TryLater."""
        async with self._following:
            await self._follow(listings)

    async def _follow(self, listings: Mapping[str, Listing]) -> None:
        gone, new = self.followed.keys() - listings.keys(), listings.keys() - self.followed.keys()
        volumes = {r["pair"]: r["volume"] for r in await self._database.query(sql.LIQUIDITY, list(listings))}
        # Asked before anything of this life can be written: the newest row is the end of the last one.
        rows = await self._database.query(sql.LAST_ROWS, list(new)) if new else []
        last = {row["symbol"]: (row["time"], row["updated_at"]) for row in rows}
        self.followed = dict(listings)
        self._new |= {symbol: last.get(symbol) for symbol in new}
        for symbol in gone:
            self._new.pop(symbol, None)
        for row in rows:
            for told in Field:
                self._vendors.samples.remember(row["symbol"], told, row[told.value])
        self._dirty.forget(gone)
        self._vendors.samples.forget(gone)
        for symbol in gone:
            self.recorder.fill_from.pop(symbol, None)
        self._sampler.followed = self.followed
        self._sampler.ranked = sorted(self.followed, key=lambda symbol: (-volumes.get(symbol, 0.0), symbol))
        if gone or new:
            log.info("symbols", extra={"followed": len(self.followed), "new": len(new), "gone": len(gone)})

    # ---- due windows

    async def keep_time(self, serving: Callable[[], None]) -> None:
        """Hand in the rows of each window when it is due, for ever; `serving` is called after the first."""
        while not self._vendors.time.known:
            await self._look_at_cursors()
            await asyncio.sleep(self._settings.cursors_every_ms / 1000)
        window = window_of(int(self._vendors.now_ms()) // 1000)
        self.recorder.written = window - WINDOW_S
        while True:
            self._window = window
            if not await self._wait_until_due(window):
                window = window_of(int(self._vendors.now_ms()) // 1000)
                self._skip(window - SET_BACK_WINDOWS * WINDOW_S, window)
                continue
            self._hand_in(window)
            serving()
            window += WINDOW_S
            newest = latest_ended(self._vendors.now_ms())
            if window < newest - WINDOW_S:  # we were stopped for a while: there was no sample
                self._skip(window, newest)
                window = newest

    async def hand_in_last(self) -> None:
        """At the stop, after `keep_time`: hand in the window that has ended, when it is due."""
        window, self._window = self._window, None
        if window is not None and self._vendors.now_ms() >= 1000 * window:
            await self._wait_until_due(window)
            self._hand_in(window)

    def _hand_in(self, window: int) -> None:
        self.recorder.hand_in(window, [self._sampled_row(symbol, window) for symbol in self.followed])
        self._window = None

    async def _wait_until_due(self, window: int) -> bool:
        """False when the window is not near: a wrong time had been believed, and was corrected."""
        while (left_ms := 1000 * window - self._vendors.now_ms()) > 0:
            if left_ms > 2_000 * WINDOW_S:
                return False
            await asyncio.sleep(self._clock.real_s(left_ms / 1000))
        while True:
            await self._look_at_cursors()
            now_ms = self._vendors.now_ms()
            if is_due(window, now_ms, self.cursors, self.followed, self._settings.write_wait_ms):
                break
            await asyncio.sleep(self._settings.cursors_every_ms / 1000)
        self.late_total += sum(self.cursors.get(symbol, 0) < window for symbol in self.followed)
        return True

    def _skip(self, first: int, newest: int) -> None:
        log.warning("windows without samples", extra={"windows": (newest - first) // WINDOW_S})
        self.recorder.written = newest - WINDOW_S
        oldest = self._oldest_filled()
        first = max(first, oldest)
        for symbol in self.followed:
            # Where the last life ended may have been judged by a time that was too old.
            fill_from = max(oldest, self.recorder.fill_from.get(symbol, first))
            self.recorder.fill_from[symbol] = min(fill_from, first)
            self._dirty.mark(symbol, first, newest - WINDOW_S)

    def _oldest_filled(self) -> int:
        """Windows before this one that nobody wrote stay without a row."""
        return self.recorder.written - 3600 * self._settings.fill_hours_max

    def _sampled_row(self, symbol: str, window: int) -> MetricRow:
        samples = self._vendors.samples
        funding = samples.read(symbol, Field.FUNDING, window, (BINANCE, OKX))
        interest = samples.read(symbol, Field.OPEN_INTEREST, window, (BINANCE,))
        return MetricRow(
            window, symbol,
            funding=funding.value if funding else None,
            open_interest=interest.value if interest else None,
            funding_interval_h=funding.hours if funding else None,
            funding_source=funding.source if funding else None,
            oi_source=interest.source if interest else None,
            funding_ms=funding.time_ms if funding else None,
            oi_ms=interest.time_ms if interest else None,
        )  # fmt: skip

    async def _look_at_cursors(self) -> None:
        try:
            rows = await self._database.query(
                sql.CURSORS, sql.SERVICE_OF_TRADES, PRIMARY, list(self.followed), timeout_s=CURSORS_TIMEOUT_S
            )
        except TryLater:
            return  # rows are due all the same; the recorder tells that the database is away
        before, self.cursors = self.cursors, {row["symbol"]: row["cursor_s"] for row in rows}
        # Only one that moves tells the time: one that is merely stored may be a week old.
        moved_s = max((s for symbol, s in self.cursors.items() if s > before.get(symbol, s)), default=None)
        if moved_s is not None:
            self._vendors.time.assume(1000.0 * moved_s, self._clock.monotonic_s())
        self._dirty.advance(self.cursors, self.recorder.written)

    # ---- marks

    async def note(self, message: BusMessage) -> None:
        """A second or minute was published: its windows, if they are written, are looked at again."""
        words = message.key.split(".")
        symbol = unquote(words[1])
        if symbol not in self.followed:
            return
        try:
            second = round(dt.datetime.fromisoformat(message.message_id.partition("@")[2][:20]).timestamp())
        except ValueError as error:
            raise BadInput(f"{message.message_id!r} has no time in it") from error
        first = window_of(second)
        last = first if words[2] == "1s" else window_of(second + MINUTE_S - 1)
        if first <= self.recorder.written:
            self.marks_total += 1
            self._dirty.mark(symbol, first, min(last, self.recorder.written))

    async def load(self) -> None:
        """Look again at what may have changed unheard: since the last load, at first the last 100 minutes."""
        written = self.recorder.written
        if not written:
            return
        reach_s = 60 * self._settings.recompute_minutes
        from_s = written - reach_s
        if self._loaded_s is not None:
            from_s = max(from_s, self._loaded_s - AUDIT_S)
        for symbol in self.followed:
            self._dirty.mark(symbol, window_of(from_s), written)
        self._loaded_s = written

    async def keep_marks(self) -> None:
        """Mark what new symbols missed, and what the ledger says, for ever."""
        while True:
            try:
                await self.mark_unheard()
            except TryLater as error:
                log.debug("marks wait", extra={"error": str(error)})
            await asyncio.sleep(self._settings.ledger_every_ms / 1000)

    async def mark_unheard(self) -> None:
        """Mark what no message tells of; raises TryLater."""
        if self.recorder.written:
            self._begin_new()
            await self._look_at_ledger()

    def _begin_new(self) -> None:
        """Where the last life of this service ended, its rows go on; a symbol without rows gets what is proven."""
        written = self.recorder.written
        for symbol, last in self._new.items():
            self._dirty.mark(symbol, written - 60 * self._settings.recompute_minutes, written)
            if last is not None:
                self._go_on(symbol, *last)
        self._new.clear()

    def _go_on(self, symbol: str, last: int, updated: dt.datetime) -> None:
        written = self.recorder.written
        fill_from = max(last + WINDOW_S, self._oldest_filled())
        self.recorder.fill_from[symbol] = fill_from
        self._dirty.mark(symbol, fill_from, written)
        # Its last windows may have been revised without a gap after it had ended.
        oldest = window_of(written - self._settings.recompute_days_max * DAY_S)
        self._dirty.mark(symbol, max(window_of(last - AUDIT_S), oldest), min(last, written))
        since = updated - dt.timedelta(seconds=LEDGER_BACKLOG_S)
        self._ledger_since = min(self._ledger_since or since, since)

    async def _look_at_ledger(self) -> None:
        rows = await self._database.query(
            sql.LEDGER, list(sql.REVISERS), PRIMARY, list(self.followed), self._ledger_since, LEDGER_MARGIN_S
        )
        written = self.recorder.written
        oldest = written - self._settings.recompute_days_max * DAY_S
        for row in rows:
            key = (row["symbol"], row["from_id"])
            if self._ledger_seen.get(key) == row["updated_at"]:
                continue
            self._ledger_seen[key] = row["updated_at"]
            to_s = written if row["to_s"] is None else row["to_s"]
            first, last = windows_touched(row["from_s"], to_s)
            self._dirty.mark(row["symbol"], max(first, window_of(oldest)), min(last, written))
        self._ledger_since = rows[0]["now"] if rows else (await self._database.query(sql.DATABASE_NOW))[0]["now"]
        while len(self._ledger_seen) > LEDGER_SEEN_MAX:
            del self._ledger_seen[next(iter(self._ledger_seen))]
