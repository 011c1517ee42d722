"""Best bid and ask of the pairs that may be judged, kept every few minutes: what a day's median spread is made of."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Collection, Mapping

from common.clock import Clock
from common.postgres import connect, named_errors
from common.venues.binance_spot_listing import BookTop
from registry.gathered import spread_of
from registry.settings import RegistrySettings
from registry.sources import Sources
from registry.tables import Sample, write_samples
from registry.thresholds import UniverseLimits

log = logging.getLogger(__name__)

NAME = "registry/samples"


def choose_samples(tops: Mapping[str, BookTop], quotes: Collection[str]) -> list[Sample]:
    """Samples of the pairs that may ever be judged: those in the quotes of the universe, with both sides offered."""
    found: list[Sample] = []
    for pair, top in tops.items():
        spread = spread_of(top)
        if spread is not None and top.bid is not None and top.ask is not None and pair.endswith(tuple(quotes)):
            found.append(Sample(pair, top.bid, top.ask, spread))
    return found


async def take_samples(settings: RegistrySettings, limits: UniverseLimits, now: dt.datetime | None = None) -> int:
    """Ask once, store what was answered, and say how many pairs it was.

    Needs no lock: two at once store two samples. Raises TryLater, Refused or BadInput when the venue does not answer.
    """
    clock = Clock(settings.clock_rate, settings.clock_offset_s)
    sources = Sources(settings, clock, limits)
    try:
        tops = await sources.pull_books()
    finally:
        await sources.close()
    samples = choose_samples(tops, limits.quotes)
    at = now or moment_of(clock)
    con = await connect(settings.ts_dsn.get_secret_value(), NAME)
    try:
        with named_errors():
            await write_samples(con, at, samples)
    finally:
        con.terminate()
    return len(samples)


def moment_of(clock: Clock) -> dt.datetime:
    """Now, in whole seconds."""
    return dt.datetime.fromtimestamp(clock.wall_ms() // 1000, dt.UTC)
