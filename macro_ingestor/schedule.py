"""When to pull: at every quarter of an hour, and once a day; APScheduler keeps the time, and runs nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from typing import Any, cast

from apscheduler.schedulers.asyncio import AsyncIOScheduler  # pyright: ignore[reportMissingTypeStubs]
from apscheduler.triggers.cron import CronTrigger  # pyright: ignore[reportMissingTypeStubs]

QUARTERS = "0,15,30,45"


def start_schedule(on_quarter: Callable[[], None], on_day: Callable[[], None], daily_at: str) -> Callable[[], None]:
    """Call these at :00, :15, :30 and :45, and daily at "HH:MM", UTC; answers what ends it.

    What was missed while the machine slept is made up for by one call, however late.
    """
    scheduler: Any = AsyncIOScheduler(timezone=UTC)
    hour, _, minute = daily_at.partition(":")
    options = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    for name, call, trigger in (
        ("quarter", on_quarter, CronTrigger(minute=QUARTERS, second=0, timezone=UTC)),
        ("day", on_day, CronTrigger(hour=int(hour), minute=int(minute), second=0, timezone=UTC)),
    ):
        scheduler.add_job(call, trigger, id=name, **options)
    scheduler.start()
    return cast("Callable[[], None]", lambda: scheduler.shutdown(wait=False))
