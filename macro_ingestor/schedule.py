"""When to pull: at every quarter of an hour, and once a day; APScheduler keeps the time, and runs nothing itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Any, cast

from apscheduler.schedulers.asyncio import AsyncIOScheduler  # pyright: ignore[reportMissingTypeStubs]
from apscheduler.triggers.base import BaseTrigger  # pyright: ignore[reportMissingTypeStubs]
from apscheduler.triggers.cron import CronTrigger  # pyright: ignore[reportMissingTypeStubs]

from common.clock import Clock

QUARTERS = "0,15,30,45"


class CorrectedTrigger(BaseTrigger):
    """A trigger by our clock, which is `ahead` of the machine's, for a scheduler that knows only the machine's."""

    def __init__(self, trigger: Any, ahead: dt.timedelta) -> None:
        self._trigger, self._ahead = trigger, ahead

    def get_next_fire_time(  # pyright: ignore[reportIncompatibleMethodOverride] - the base has no annotations
        self, previous_fire_time: dt.datetime | None, now: dt.datetime
    ) -> dt.datetime | None:
        """When to fire, by the machine's clock."""
        previous = None if previous_fire_time is None else previous_fire_time + self._ahead
        fire = cast("dt.datetime | None", self._trigger.get_next_fire_time(previous, now + self._ahead))
        return None if fire is None else fire - self._ahead


def plan_triggers(daily_at: str, clock: Clock) -> dict[str, Any]:
    """Triggers by name: every quarter of an hour, and daily at "HH:MM", UTC, by our clock."""
    hour, _, minute = daily_at.partition(":")
    ahead = dt.timedelta(milliseconds=clock.offset_ms)
    return {
        "quarter": CorrectedTrigger(CronTrigger(minute=QUARTERS, second=0, timezone=UTC), ahead),
        "day": CorrectedTrigger(CronTrigger(hour=int(hour), minute=int(minute), second=0, timezone=UTC), ahead),
    }


def start_schedule(
    on_quarter: Callable[[], None], on_day: Callable[[], None], daily_at: str, clock: Clock
) -> Callable[[], None]:
    """Call these at their times, in the running loop; answers what ends it.

    What was missed while the machine slept is made up for by one call, however late.
    """
    scheduler: Any = AsyncIOScheduler(timezone=UTC)
    calls = {"quarter": on_quarter, "day": on_day}
    for name, trigger in plan_triggers(daily_at, clock).items():
        scheduler.add_job(
            _in_loop(calls[name]), trigger, id=name, coalesce=True, max_instances=1, misfire_grace_time=None
        )
    scheduler.start()
    return cast("Callable[[], None]", lambda: scheduler.shutdown(wait=False))


def _in_loop(call: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    """A coroutine function: any other one runs in a thread, where nothing of asyncio may be touched."""

    async def run() -> None:
        call()

    return run
