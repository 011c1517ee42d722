"""What is done at a quarter and once a day: pull, build rows, commit; one pass at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from common.clock import Clock
from common.contracts import MacroDayRow, MacroSlotRow, format_time
from common.database import Database
from macro_ingestor.daily import build_days
from macro_ingestor.desk import Desk
from macro_ingestor.ledger import Written, commit, persevere
from macro_ingestor.pulling import Puller
from macro_ingestor.readings import DAY_COLUMNS, SLOT_COLUMNS
from macro_ingestor.slots import build_slot, slot_of

log = logging.getLogger(__name__)


class Passes:
    """`run` waits for `ask_quarter` and `ask_day`, which may come at any time; both are asked for at the start."""

    def __init__(
        self, desk: Desk, puller: Puller, database: Database, clock: Clock, on_committed: Callable[[Written], None]
    ) -> None:
        self._desk, self._puller, self._database, self._clock = desk, puller, database, clock
        self._on_committed = on_committed
        self._quarter = self._day = True
        self._asked = asyncio.Event()
        self._asked.set()
        self.slots_total = self.days_total = 0
        self.ended_s: float | None = None
        """Monotonic seconds of the last pass that was committed."""
        self.waiting_s: float | None = None
        """Monotonic seconds since when a commit waits for the database."""

    def ask_quarter(self) -> None:
        """Do a quarter's pass as soon as nothing else is done."""
        self._quarter = True
        self._asked.set()

    def ask_day(self) -> None:
        """Do the daily pass as soon as nothing else is done."""
        self._day = True
        self._asked.set()

    async def run(self) -> None:
        """For ever; raises Superseded when another process writes."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            quarter, day, self._quarter, self._day = self._quarter, self._day, False, False
            await self.play(quarter, day)

    async def play(self, quarter: bool, day: bool) -> Written:
        """One pass now; daily columns are pulled with a quarter, too, as soon as their next value is due."""
        slots = (await self._play_quarter()).slots if quarter else 0
        now_s = self._clock.wall_ms() // 1000
        asked = await self._puller.pull(DAY_COLUMNS, now_s)
        if not day and not asked:
            return Written(slots)
        known = self._desk.known
        days = build_days(known.history, self._desk.chains, self._desk.days_from(now_s, DAY_COLUMNS))
        return Written(slots, (await self._commit(None, days)).days)

    async def _play_quarter(self) -> Written:
        """Stored before the daily columns are asked for: their vendors' slowness must not keep the row."""
        await self._puller.pull(SLOT_COLUMNS, self._clock.wall_ms() // 1000)
        # Not when it was begun: a pull that had to wait for the database must not tell later readings as earlier.
        now_s = self._clock.wall_ms() // 1000
        spent = self._puller.spent
        slot = build_slot(slot_of(now_s), {c: self._desk.pick(c, now_s, spent) for c in SLOT_COLUMNS})
        return await self._commit(slot, ())

    async def _commit(self, slot: MacroSlotRow | None, days: Sequence[MacroDayRow]) -> Written:
        changes, known = self._desk.hand_out(), self._desk.known
        self.waiting_s = self._clock.monotonic_s()
        written = await persevere(lambda: commit(self._database, changes, known, slot, days))
        self.waiting_s = None
        self.slots_total += written.slots
        self.days_total += written.days
        self.ended_s = self._clock.monotonic_s()
        if slot is not None:
            log.info("pull stored", extra={"slot": format_time(slot.time), "columns": len(slot.values)})
        if written.days:
            log.info("days stored", extra={"days": written.days})
        self._on_committed(written)
        return written
