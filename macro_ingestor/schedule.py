"""When to pull: at every quarter of an hour, and once a day; APScheduler keeps the time, and runs nothing itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Any, cast

from apscheduler.schedulers.asyncio import AsyncIOScheduler  # pyright: ignore[reportMissingTypeStubs]
from apscheduler.triggers.cron import CronTrigger  # pyright: ignore[reportMissingTypeStubs]

QUARTERS = "0,15,30,45"


def plan_triggers(daily_at: str) -> dict[str, Any]:
    """Triggers by name: every quarter of an hour, and daily at "HH:MM", UTC."""
    hour, _, minute = daily_at.partition(":")
    return {
        "quarter": CronTrigger(minute=QUARTERS, second=0, timezone=UTC),
        "day": CronTrigger(hour=int(hour), minute=int(minute), second=0, timezone=UTC),
    }


def start_schedule(on_quarter: Callable[[], None], on_day: Callable[[], None], daily_at: str) -> Callable[[], None]:
    """Call these at their times, in the running loop; answers what ends it.

    What was missed while the machine slept is made up for by one call, however late.
    """
    scheduler: Any = AsyncIOScheduler(timezone=UTC)
    calls = {"quarter": on_quarter, "day": on_day}
    for name, trigger in plan_triggers(daily_at).items():
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
