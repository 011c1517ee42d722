"""When the nightly run is due. Pure."""

from __future__ import annotations

import datetime as dt

DAY = dt.timedelta(days=1)
RUN_AGE_MAX_S = 26 * 3600.0
"""A night and two hours of trying: a last run that is older is worth a person."""


def last_pull(now: dt.datetime, pull_time: dt.time) -> dt.datetime:
    """The last moment at or before `now` (aware UTC) at which a run should have begun."""
    today = dt.datetime.combine(now.date(), pull_time)
    return today if today <= now else today - DAY


def night_of(moment: dt.datetime, pull_time: dt.time) -> dt.date:
    """The night that a run at this moment belongs to: the day of the last pull time before it.

    Not its own day: runs shortly before and after midnight are of one night, and one that begins late is not of the
    next.
    """
    return last_pull(moment, pull_time).date()


def is_due(now: dt.datetime, last_run: dt.datetime | None, pull_time: dt.time) -> bool:
    """Tell whether a run is owed: none yet, or none since the last pull time, however long this machine slept."""
    return last_run is None or last_run < last_pull(now, pull_time)
