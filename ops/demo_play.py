"""What happens in a demo, in order: prepare, watch (and cut), settle, judge."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import msgspec

from common.clock import Clock
from common.contracts import GapStatus
from common.postgres import Connection, connect
from ops.demo_cast import Cast
from ops.demo_cuts import Cut, choose_cuts, plan_cut, plan_start
from ops.demo_judge import Verdict, ask_venue, count_fallback_rows, name_faults, read_stored, summarize
from ops.demo_picture import IDS_MAX, PRIMARY, Picture, speeches_of
from ops.demo_processes import Child, Http, start_ingestor, start_venue
from ops.demo_registry import run_registry
from ops.demo_view import View, open_view
from ops.demo_watch import LOG_BYTES_MAX, POLL_S, Listener, look_at_tables
from ops.services import Servers

BACKFILL_MINUTES = 100
SETTLE_TIMEOUT_S = 20.0
SETTLED_AGE_S = 4.0
PREPARE_MS = 7_000
"""Between the start of the venue and that of everything else; half of it where nothing else runs."""
QUIET_S, QUIET_TIMEOUT_S = 1.0, 10.0


class Plan(msgspec.Struct, frozen=True):
    """A demo (loopback venue, judged at the end) or a run against the live venues; without `seconds` until stopped.

    A demo has the cuts that fit, unless others are given.
    """

    symbols: tuple[str, ...]
    loopback: bool
    seconds: float | None = None
    given_cuts: tuple[Cut, ...] = ()

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """When the primary is cut, in order; there is always one."""
        return self.given_cuts or choose_cuts(self.seconds)


class Outcome(msgspec.Struct, frozen=True):
    """Lines of the summary, and what is wrong."""

    lines: list[str]
    faults: list[str]


class Play:
    """One demo; `finish` ends it with its summary. The servers' addresses are its own to write to."""

    def __init__(self, plan: Plan, servers: Servers, folder: Path) -> None:
        self.is_watching = False
        self._plan, self._servers, self._folder = plan, servers, folder
        self._finish = asyncio.Event()
        self._picture = Picture(plan.symbols, IDS_MAX if plan.loopback else 0)
        self._clock = Clock()
        self._http = Http()
        self._since_s = self._clock.wall_ms() / 1000
        self._venue: Child | None = None
        self._ingestor: Child | None = None
        self._cast: Cast | None = None
        self._cuts = deque[tuple[int, Cut]]()
        self._cut_until_s = 0.0
        self._start_s = 0
        self._began_s = 0.0
        self._faults: list[str] = []

    def finish(self) -> bool:
        """Go on to the summary; False when it is asked for already, or there is nothing yet to sum up."""
        if not self.is_watching or self._finish.is_set():
            return False
        self._finish.set()
        return True

    def last_words(self) -> str:
        """End of the ingestor's log, if it was started."""
        return self._ingestor.last_words() if self._ingestor else ""

    async def run(self) -> Outcome:
        """Play it all; everything started is stopped at the end. Raises TryLater, ConfigError."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._http.close)
            con = await connect(self._servers.ts_dsn, "trading-bus/demo")
            stack.callback(con.terminate)
            if self._plan.loopback:
                await self._open_venue(stack)
            listener = await self._listen(stack)
            registered = asyncio.create_task(self._register())
            stack.callback(registered.cancel)
            if self._venue is not None:
                self._cast = Cast(self._http, self._servers, self._folder, self._venue, stack)
                await self._cast.start_consumer()
            told, *_ = await asyncio.gather(registered, self._start_ingestor(stack), self._start_others(con))
            with open_view(self._picture) as view:
                self.is_watching = True
                if told:
                    self._picture.note(self._now_s(), f"registry: {told}")
                await self._watch(con, listener, view)
                await self._settle(con, listener, view)
            await self._end_ingestor()
            await self._hear_out(con, listener)
            return await self._sum_up(con, listener)

    # ---- prepare

    async def _open_venue(self, stack: AsyncExitStack) -> None:
        start_ms = plan_start(self._clock.wall_ms(), self._plan.cuts[0], PREPARE_MS)
        venue = self._venue = await start_venue(self._folder, self._plan.symbols, start_ms)
        stack.push_async_callback(venue.stop)
        told = await self._http.get(venue, "/_oracle/status")
        self._clock = Clock(offset_s=(told["venue_ms"] - self._clock.wall_ms()) / 1000)

    async def _register(self) -> str:
        """Let a nightly run decide what is followed, as it does in real life; answers what it says."""
        if self._venue is None:
            return ""
        offset_s = self._clock.wall_ms() / 1000 - Clock().wall_ms() / 1000
        pairs = self._plan.symbols
        return await run_registry(self._http, self._venue, self._servers, self._folder, pairs, offset_s)

    async def _listen(self, stack: AsyncExitStack) -> Listener:
        own_bytes_max = LOG_BYTES_MAX if self._plan.loopback else None
        listener = Listener(self._servers.rmq_url, self._picture, self._now_s, own_bytes_max)
        stack.push_async_callback(listener.close)
        await listener.start()
        return listener

    async def _start_ingestor(self, stack: AsyncExitStack) -> None:
        env = {"TS_DSN": self._servers.ts_dsn, "RMQ_URL": self._servers.rmq_url}
        if self._venue is None:
            env["SYMBOLS"] = ",".join(self._plan.symbols)
        else:
            where = f"127.0.0.1:{self._venue.port}"
            env |= {"AGG_WS_URL": f"ws://{where}/stream", "BINANCE_REST_URL": f"http://{where}"}
            env |= {"BACKFILL_MINUTES": str(BACKFILL_MINUTES), "BUS_LOG_MAX_BYTES": str(LOG_BYTES_MAX)}
            env |= {"OKX_WS_URL": f"ws://{where}/ws/v5/public", "OKX_REST_URL": f"http://{where}", "FALLBACK": "okx"}
        self._start_s = int(self._now_s())
        self._ingestor = await start_ingestor(self._folder, env, clean=self._venue is not None)
        stack.push_async_callback(self._ingestor.stop)

    async def _start_others(self, con: Connection) -> None:
        if self._cast is not None:
            await self._cast.start_services(con)

    # ---- watch

    def _now_s(self) -> float:
        return self._clock.wall_ms() / 1000

    def _passed_s(self) -> float:
        return self._clock.monotonic_s() - self._began_s

    async def _watch(self, con: Connection, listener: Listener, view: View) -> None:
        plan = self._plan
        self._began_s = self._clock.monotonic_s()
        if self._venue is not None:
            began_ms = self._clock.wall_ms()
            self._cuts.extend((plan_cut(began_ms, cut), cut) for cut in plan.cuts)
        while not self._finish.is_set() and not self._has_died():
            if plan.seconds is not None and self._passed_s() >= plan.seconds:
                break
            if self._cuts and self._clock.wall_ms() >= self._cuts[0][0]:
                await self._cut_venue(self._cuts.popleft()[1])
            await self._look(con, listener)
            view.show(self._picture, self._now_s(), self._passed_s())
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._finish.wait()

    async def _cut_venue(self, cut: Cut) -> None:
        assert self._venue is not None
        await self._http.post(self._venue, "/_fault", {"kind": "cut", "for_s": cut.for_s})
        self._cut_until_s = self._now_s() + cut.for_s
        self._picture.note(self._now_s(), f"{PRIMARY}: every connection cut, none accepted for {cut.for_s:g} s")

    async def _look(self, con: Connection, listener: Listener) -> None:
        assert self._ingestor is not None
        listener.check()
        await look_at_tables(con, self._picture, self._now_s(), self._since_s)
        report = await self._http.ask_health(self._ingestor)
        state = "not ready"
        if report is not None:
            self._picture.see_speeches(self._now_s(), speeches_of(report))
            if report.ready:
                state = "ready" if report.healthy else "unhealthy"
        if state != self._picture.state:
            self._picture.state = state
            self._picture.note(self._now_s(), f"ingestor: {state}")

    def _has_died(self) -> bool:
        assert self._ingestor is not None
        return self._ingestor.has_ended()

    # ---- end

    async def _settle(self, con: Connection, listener: Listener, view: View) -> None:
        """End a cut, wait until repairs are done and the outbox is empty; at most SETTLE_TIMEOUT_S."""
        if self._venue is None or self._has_died():
            return
        if self._cast is not None:
            self._cast.rest()
        if self._now_s() < self._cut_until_s:
            await self._http.post(self._venue, "/_fault", {"kind": "clear"})
            self._cut_until_s = self._now_s()
        self._picture.note(self._now_s(), "ending: waiting for repairs and the outbox")
        end_s = self._clock.monotonic_s() + SETTLE_TIMEOUT_S
        while not self._is_settled() and not self._has_died():
            if self._clock.monotonic_s() >= end_s:
                self._faults.append(f"repairs or outbox not done within {SETTLE_TIMEOUT_S:g} s of waiting")
                return
            await asyncio.sleep(POLL_S / 5)
            await self._look(con, listener)
            view.show(self._picture, self._now_s(), self._passed_s())

    def _is_settled(self) -> bool:
        picture, now_s = self._picture, self._now_s()
        newest_s = max(symbol.cursor_s for symbol in picture.symbols.values())
        is_live = now_s - newest_s < SETTLED_AGE_S and picture.speaker == PRIMARY
        # Right after a cut the cursors are still young, and no gap is known yet.
        is_past_cut = now_s >= self._cut_until_s + SETTLED_AGE_S
        return is_live and is_past_cut and not picture.outbox and not picture.count_gaps(GapStatus.OPEN)

    async def _end_ingestor(self) -> None:
        assert self._ingestor is not None
        if self._has_died():
            self._faults.append("the ingestor ended by itself")
        elif await self._ingestor.stop() != 0:
            self._faults.append("the ingestor did not stop in order")

    async def _hear_out(self, con: Connection, listener: Listener) -> None:
        await listener.wait_quiet(QUIET_S, QUIET_TIMEOUT_S)
        await look_at_tables(con, self._picture, self._now_s(), self._since_s)

    async def _sum_up(self, con: Connection, listener: Listener) -> Outcome:
        verdict = None
        if self._venue is not None:
            verdict = await self._judge(con, self._venue, listener)
            self._faults += name_faults(self._picture, verdict)
        lines = summarize(self._picture, verdict)
        if self._cast is not None:
            judged = await self._cast.judge(con, self._plan.symbols, self._start_s)
            lines += [one.line() for one in judged]
            self._faults += [fault for one in judged for fault in one.faults]
        if listener.joins > 1:
            lines.append(
                f"note      the demo's own consumer was cut off {listener.joins - 1} times and missed messages"
            )
        return Outcome(lines, self._faults)

    async def _judge(self, con: Connection, venue: Child, listener: Listener) -> Verdict:
        """Every symbol against the venue's recount, while the venue still answers."""
        status = await self._http.get(venue, "/_oracle/status")
        verdict = Verdict()
        may_lack = self._picture.count_gaps() > self._picture.count_gaps(GapStatus.REPAIRED)
        for symbol in self._plan.symbols:
            ours = await read_stored(con, symbol)
            theirs = await ask_venue(
                partial(self._http.get, venue),
                symbol,
                ours,
                self._start_s,
                BACKFILL_MINUTES,
                status["streamed_ids"].get(symbol, []),
            )
            verdict.add(symbol, ours, theirs, self._start_s, may_lack)
            if listener.joins == 1 and self._picture.tells_repeats:
                verdict.count_unannounced(symbol, ours, self._picture.ids)
        verdict.fallback_bars, verdict.fallback_seconds = await count_fallback_rows(con)
        return verdict
