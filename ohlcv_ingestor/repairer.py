"""The repairer: does the REST calls that gaps and first subscriptions ask for, a few at once, within the budget."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TypeVar

from common.clock import Clock
from common.contracts import GapStatus
from common.errors import BadInput, Refused, TryLater
from common.rest import RestClient
from common.venues.binance_spot import agg_trades_request, klines_request, parse_agg_trades, parse_klines
from ohlcv_ingestor.beginning import NoStart, Start, begin_symbol
from ohlcv_ingestor.gaps import Gap
from ohlcv_ingestor.repair import Answer, Ask, AskTrades, RepairLimits, check_silence, repair_gap
from ohlcv_ingestor.restoring import choose_gaps
from ohlcv_ingestor.series import Series
from ohlcv_ingestor.starts import choose_start

log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Repairer:
    """Looks for work `every_s`, runs at most `at_once` repairs, and tries again 1, 3 and 9 s after an answer
    that did not fill a gap. A venue that does not answer costs no try: it is asked again later. Neither does one whose
    REST side has not reached the end of a gap: it is asked after `behind_s`, then ever more seldom. A symbol that is
    silent for `silence_s` of venue time is asked for by id: `stalled` is called when its stream had stopped.
    """

    every_s = 0.1
    again_s = (1.0, 3.0, 9.0)
    away_s = 2.0
    behind_s, behind_max_s = 1.0, 10.0
    forget_behind_s = 3600.0
    refused_s = 60.0
    no_trade_yet_s = 10.0

    def __init__(
        self, rest: RestClient, clock: Clock, limits: RepairLimits, at_once: int,
        series: Callable[[], Iterable[Series]], begin: Callable[[Series, Start], None], ended: Callable[[Series], None],
        silence_s: float, stalled: Callable[[Series], None], has_room: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.repaired_total = 0
        self.failures_total = 0
        self.stalled_total = 0
        self._silence_s, self._stalled, self._has_room = silence_s, stalled, has_room
        self._rest, self._clock, self._limits = rest, clock, limits
        self._series, self._begin, self._ended = series, begin, ended
        self._places = asyncio.Semaphore(at_once)
        # Long repairs never hold all places: a small gap must not wait behind an outage's.
        self._long_places = asyncio.Semaphore(max(1, at_once // 2))
        self._answering = True
        self._due: dict[Gap | Series, float] = {}
        self._busy: set[Gap | Series] = set()
        self._untraded: set[Series] = set()
        self._behind: dict[Gap | Series, float] = {}

    async def run(self) -> None:
        """Repair for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                now_s = self._clock.monotonic_s()
                self._due = {job: due_s for job, due_s in self._due.items() if due_s > now_s}
                self._behind = {job: s for job, s in self._behind.items() if now_s - s < self.forget_behind_s}
                for series in list(self._series()):
                    for job in self._jobs(series):
                        if job in self._busy or (job in self._due and not self._first_trade_came(job)):
                            continue
                        self._busy.add(job)
                        group.create_task(self._work(series, job))
                await asyncio.sleep(self.every_s)

    def open_repairs(self) -> int:
        """Repairs at work or waiting for a place."""
        return len(self._busy)

    def _jobs(self, series: Series) -> list[Gap | Series]:
        if series.young:
            return [] if choose_start(series) is None else [series]
        # Asked of every symbol many times a second, and nearly none has a gap.
        jobs: list[Gap | Series] = list(choose_gaps(series)) if series.ids.gaps else []
        if series.silent_ms() > 1000 * self._silence_s:
            jobs.append(series)
        return jobs

    async def _work(self, series: Series, job: Gap | Series) -> None:
        wait_s = 0.0
        try:
            async with self._places_for(job):
                if isinstance(job, Gap):
                    wait_s = await self._repair(series, job)
                elif series.young:
                    wait_s = await self._start(series)
                else:
                    await self._check(series)
        except TryLater as error:
            self.failures_total += 1
            wait_s = max(self.away_s, error.wait_s or 0.0)
            if self._answering:
                log.warning("venue does not answer", extra={"symbol": series.stream.symbol, "error": str(error)})
            self._answering = False
        except (Refused, BadInput) as error:
            self.failures_total += 1
            wait_s = self.refused_s
            log.error("venue's answer is of no use", extra={"symbol": series.stream.symbol, "error": str(error)})
        finally:
            self._busy.discard(job)
            if wait_s:
                self._due[job] = self._clock.monotonic_s() + wait_s
            else:
                self._behind.pop(job, None)

    def _places_for(self, job: Gap | Series) -> asyncio.Semaphore:
        long = isinstance(job, Gap) and job.missing_ids() > self._limits.repair_ids_max
        return self._long_places if long else self._places

    def _first_trade_came(self, job: Gap | Series) -> bool:
        """A symbol that had never been traded waits for its first trade, not for its next turn."""
        return isinstance(job, Series) and job.young and job.ids.first_seen is not None and job in self._untraded

    async def _repair(self, series: Series, gap: Gap) -> float:
        """Returns how long to wait before the next try, 0 when there is none."""
        gap.active, known_behind = True, gap.behind_ms is not None
        try:
            over = await self._drive(series, repair_gap(series, gap, self._limits))
        finally:
            gap.active = False
        self._ended(series)
        fields = {
            "symbol": series.stream.symbol, "reason": gap.reason, "from_id": gap.from_id, "to_id": gap.to_id,
            "status": gap.status, "tries": gap.tries, "restored": gap.restored_n, "missing": gap.missing_ids(),
        }  # fmt: skip
        if not over and gap.behind_ms is not None:
            return self._wait_behind(gap, None if known_behind else fields)
        if not over:
            log.info("gap not filled yet", extra=fields)
            return self.again_s[min(gap.tries, len(self.again_s)) - 1]
        self.repaired_total += gap.status is GapStatus.REPAIRED
        log.info("gap settled", extra=fields)
        return 0.0

    async def _check(self, series: Series) -> None:
        if await self._drive(series, check_silence(series)):
            self.stalled_total += 1
            log.warning("stream stalled", extra={"symbol": series.stream.symbol, "from_id": series.ids.next_id})
            self._stalled(series)

    async def _start(self, series: Series) -> float:
        self._untraded.discard(series)
        waited_s = self._clock.venue_s(self._clock.monotonic_s() - series.wanted_s)
        from_s = choose_start(series, waited_s) or 0
        seen, behind_ms = series.ids.first_seen, series.behind_ms
        asking = begin_symbol(
            from_s, series.limits.backfill_s, seen=seen is not None and seen.time_ms >= 1000 * from_s,
            behind_s=0.0 if behind_ms is None else (series.watermark_ms - behind_ms) / 1000,
        )  # fmt: skip
        start = await self._drive(series, asking)
        if start is NoStart.UNTRADED:
            self._untraded.add(series)
            return self.no_trade_yet_s
        if start is NoStart.BEHIND:
            series.behind_ms = series.watermark_ms if behind_ms is None else behind_ms
            fields = {"symbol": series.stream.symbol, "from_s": from_s}
            return self._wait_behind(series, fields if behind_ms is None else None)
        self._begin(series, start)
        log.info("symbol begun", extra={"symbol": series.stream.symbol, "from_id": start.first_id})
        return 0.0

    def _wait_behind(self, job: Gap | Series, fields: Mapping[str, object] | None) -> float:
        """How long to wait for a REST side that is behind the stream: as long again; `fields`: to be told.

        By our own clock: the watermark stands while the fallback speaks.
        """
        if fields is not None:
            log.warning("venue's REST side is behind its stream", extra=fields)
        now_s = self._clock.monotonic_s()
        return min(max(self.behind_s, now_s - self._behind.setdefault(job, now_s)), self.behind_max_s)

    async def _drive(self, series: Series, asking: Generator[Ask, Answer, _T]) -> _T:
        try:
            ask = next(asking)
            while True:
                # What is restored must not push itself out of the write buffer.
                while not self._has_room():  # noqa: ASYNC110 - the buffer has no event
                    await asyncio.sleep(self.every_s)
                answer = await self._fetch(series, ask)
                if not self._answering:
                    self._answering = True
                    log.info("venue answers again")
                ask = asking.send(answer)
        except StopIteration as done:
            return done.value
        finally:
            asking.close()

    async def _fetch(self, series: Series, ask: Ask) -> Answer:
        symbol = series.stream.symbol
        if isinstance(ask, AskTrades):
            request = agg_trades_request(
                symbol, from_id=ask.from_id, start_ms=ask.start_ms, end_ms=ask.end_ms, limit=ask.limit
            )
            return Answer(trades=parse_agg_trades(await self._rest.fetch(request), symbol))
        if ask.to_s <= ask.from_s:
            return Answer()
        request = klines_request(symbol, ask.interval, 1000 * ask.from_s, 1000 * ask.to_s - 1, ask.limit)
        raw = await self._rest.fetch(request, "background" if ask.background else "live")
        return Answer(klines=parse_klines(raw))
