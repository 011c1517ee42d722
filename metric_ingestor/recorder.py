"""Rows into the table: windows when they are due, and windows that are computed again."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import asyncpg
import msgspec
from msgspec.structs import replace

from common.clock import Clock
from common.contracts import LANE_LIVE, LANE_REPAIR, MetricRow, OutgoingMessage, metric_message
from common.database import Database
from common.errors import TryLater
from common.postgres import Connection
from metric_ingestor import statements as sql
from metric_ingestor.cvd import PRIMARY, Evidence, Flow, judge_flow
from metric_ingestor.dirty import Dirty, Window

log = logging.getLogger(__name__)

RETRY_S = 0.5
BREATH_S = 0.02
"""Between two batches of marked windows: due ones go in between."""
EVIDENCE_FIELDS = len(Evidence.__struct_fields__)
LIVE_AGE_S = 120
"""Messages about windows older than this go into the repair lane."""


class Judged(msgspec.Struct, frozen=True):
    """A window as the tables have it now: its flow, and what is stored of it."""

    evidence: Evidence
    flow: Flow
    stored: bool
    same: bool
    idle: bool


class Recorder:
    """The one writer of `metric_15s`.

    `headers_of` gives a symbol's message headers; `announced` is called after a commit that holds messages. A window
    that nobody wrote gets a row when its flow is known, or if it lies after `fill_from` of its symbol.
    """

    def __init__(
        self, database: Database, clock: Clock, dirty: Dirty, headers_of: Callable[[str], str],
        announced: Callable[[], None], limits: tuple[float, int, int],
    ) -> None:  # fmt: skip
        self._database, self._clock, self._dirty = database, clock, dirty
        self._headers_of, self._announced = headers_of, announced
        self._recompute_every_s, self._batch_max, self._pending_max = limits
        self._pending: deque[dict[Window, MetricRow]] = deque()
        self._wake = asyncio.Event()
        self._failing_since_s: float | None = None
        self.fill_from: dict[str, int] = {}
        self.written = 0
        """End of the newest window that was handed in."""
        self.written_s: float | None = None
        self.rows_total = self.revised_total = self.dropped_total = 0

    def hand_in(self, window: int, rows: Sequence[MetricRow]) -> None:
        """Have the rows of a window that is due written; their flow is judged when they are."""
        self.written = max(self.written, window)
        if rows:
            self._pending.append({(row.symbol, row.time): row for row in rows})
        while len(self._pending) > self._pending_max:
            for symbol, end in self._pending.popleft():
                self.dropped_total += 1
                self._dirty.mark(symbol, end, end)
                self.fill_from[symbol] = min(self.fill_from.get(symbol, end), end)
        self._wake.set()

    def waiting(self) -> int:
        """Rows not written yet."""
        return sum(len(rows) for rows in self._pending)

    def failing_s(self) -> float:
        """For how long nothing could be written; 0 when all is well."""
        return 0.0 if self._failing_since_s is None else self._clock.monotonic_s() - self._failing_since_s

    async def run(self) -> None:
        """Write for ever: due windows first, then marked ones."""
        while True:
            self._wake.clear()
            try:
                await self.step()
                self._failing_since_s = None
            except TryLater as error:
                self._note_failure(error)
                await asyncio.sleep(max(RETRY_S, error.wait_s or 0.0))
                continue
            await self._rest(BREATH_S if len(self._dirty) else self._recompute_every_s)

    async def step(self) -> None:
        """Write what is due, and one batch of what is marked; raises TryLater, and then nothing of it is lost."""
        await self.write_due()
        windows = self._dirty.take(self._batch_max)
        try:
            await self._recompute(windows)
        except TryLater:
            for symbol, end in windows:
                self._dirty.mark(symbol, end, end)
            raise

    async def write_due(self) -> None:
        """Write what is due; raises TryLater."""
        while self._pending:
            rows = self._pending[0]
            await self._write(rows, new=True)
            self.written_s = self._clock.monotonic_s()
            if self._pending and self._pending[0] is rows:  # it may have been pushed out meanwhile
                self._pending.popleft()

    async def _rest(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _note_failure(self, error: TryLater) -> None:
        if self._failing_since_s is None:
            self._failing_since_s = self._clock.monotonic_s()
            log.warning("rows not written", extra={"error": str(error), "waiting": self.waiting()})

    async def _recompute(self, windows: Sequence[Window]) -> None:
        due = [(symbol, end) for symbol, end in windows if end <= self.written]
        if due:
            await self._write({(symbol, end): MetricRow(end, symbol) for symbol, end in due}, new=False)

    async def _write(self, rows: Mapping[Window, MetricRow], *, new: bool) -> None:
        """One transaction: judge by the tables, write what differs, announce what changed."""

        async def write(con: Connection) -> tuple[list[Judged], list[OutgoingMessage]]:
            judged = await _judge(con, list(rows))
            chosen = [
                replace(rows[one.evidence.symbol, one.evidence.window], **_columns_of(one.flow))
                for one in judged
                if new or self._differs(one)
            ]
            changed = await con.fetch(sql.UPSERT, *sql.upsert_arguments(chosen)) if chosen else []
            return judged, [self._message(record) for record in changed]

        judged = await self._database.transact(write)
        for one in judged:
            if one.evidence.cursor_s < one.evidence.window:
                self._dirty.wait(one.evidence.symbol, one.evidence.window)
        self._announced()

    def _differs(self, one: Judged) -> bool:
        if one.stored:
            return not one.same
        if one.flow.value is not None:
            return True
        first = self.fill_from.get(one.evidence.symbol)
        return first is not None and one.evidence.window >= first and not one.idle

    def _message(self, record: asyncpg.Record) -> OutgoingMessage:
        values = dict(record)
        rev = values.pop("rev")
        row = MetricRow(**values)
        self.rows_total += 1
        self.revised_total += rev > 1
        lane = LANE_LIVE if row.time > self.written - LIVE_AGE_S else LANE_REPAIR
        return metric_message(row, rev, lane, self._headers_of(row.symbol))


def _columns_of(flow: Flow) -> dict[str, float | str | None]:
    return {"cvd_delta": flow.value, "cvd_source": flow.source}


async def _judge(con: Connection, windows: Sequence[Window]) -> list[Judged]:
    judged: list[Judged] = []
    for record in await con.fetch(sql.EVIDENCE, *sql.evidence_arguments(windows, PRIMARY)):
        values = tuple(record)
        evidence = Evidence(*values[:EVIDENCE_FIELDS])
        flow, was = judge_flow(evidence), Flow(*values[EVIDENCE_FIELDS:-2])
        judged.append(Judged(evidence, flow, values[-2], flow == was, values[-1]))
    return judged
