"""Sampled values: what a window may say of funding and open interest. Pure.

Each value bears its vendor's time. An older one never replaces a newer one; one from the future is dropped; one that
is too old is as good as none. And a window shows a value only if the vendor answered for it in that very window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from metric_ingestor.windows import WINDOW_S

KEPT_MAX = 3
"""Samples, and windows answered for, kept per series: a row is written while the next window is sampled already."""


class Field(StrEnum):
    """What is sampled."""

    FUNDING = "funding"
    OPEN_INTEREST = "open_interest"


class Fate(StrEnum):
    """What became of a sample."""

    KEPT = "kept"
    REPEATED = "repeated"
    OLDER = "older"
    AHEAD = "ahead"


class Sample(msgspec.Struct, frozen=True, gc=False):
    """A value at its vendor's time (epoch ms); `hours` between settlements, for funding."""

    value: float
    time_ms: int
    source: str
    hours: int | None = None


class SampleLimits(msgspec.Struct, frozen=True):
    """`ahead_ms_max` of server time; `age_ms_max` at the end of the window, two windows (seed 004, section 4)."""

    ahead_ms_max: int = 5_000
    age_ms_max: int = 2 * WINDOW_S * 1000


class _Series(msgspec.Struct):
    newest: list[Sample]
    answered: list[int]


class Samples:
    """The newest samples of every (symbol, field, source); `counts` says what became of all that were offered."""

    def __init__(self, limits: SampleLimits | None = None) -> None:
        self._limits = limits or SampleLimits()
        self._series: dict[tuple[str, Field, str], _Series] = {}
        self._newest_ms: dict[tuple[str, Field], int] = {}
        self.counts: Counter[tuple[Field, Fate]] = Counter()

    def offer(self, symbol: str, field: Field, sample: Sample, window: int, server_ms: float) -> Fate:
        """Take a vendor's answer that was asked for `window` and came when the server's time was `server_ms`."""
        fate = self._place(symbol, field, sample, window, server_ms)
        self.counts[field, fate] += 1
        return fate

    def _place(self, symbol: str, field: Field, sample: Sample, window: int, server_ms: float) -> Fate:
        if sample.time_ms > server_ms + self._limits.ahead_ms_max:
            return Fate.AHEAD
        newest_ms = self._newest_ms.get((symbol, field), sample.time_ms)
        self._newest_ms[symbol, field] = max(newest_ms, sample.time_ms)
        key = (symbol, field, sample.source)
        series = self._series.get(key)
        if newest_ms > max(sample.time_ms, series.newest[-1].time_ms if series else 0):
            return Fate.OLDER  # than what another source told: it is no answer
        if series is None:
            self._series[key] = _Series([sample], [window])
            return Fate.KEPT
        if window not in series.answered:
            series.answered = [*series.answered, window][-KEPT_MAX:]
        newest = series.newest[-1]
        if sample.time_ms > newest.time_ms:
            series.newest = [*series.newest, sample][-KEPT_MAX:]
            return Fate.KEPT
        return Fate.REPEATED if sample.time_ms == newest.time_ms else Fate.OLDER

    def remember(self, symbol: str, field: Field, time_ms: int | None) -> None:
        """Take nothing older than this: a row that is stored shows it."""
        if time_ms is not None:
            self._newest_ms[symbol, field] = max(time_ms, self._newest_ms.get((symbol, field), time_ms))

    def read(self, symbol: str, field: Field, window: int, sources: Sequence[str]) -> Sample | None:
        """What the window may show: of the first source that answered for it, the newest value by the window's end."""
        for source in sources:
            series = self._series.get((symbol, field, source))
            if series is None or window not in series.answered:
                continue
            end_ms = 1000 * window
            for sample in reversed(series.newest):
                if end_ms - self._limits.age_ms_max < sample.time_ms <= end_ms:
                    return sample
        return None

    def forget(self, symbols: set[str]) -> None:
        """Drop all samples of these symbols: they are not followed any more."""
        self._series = {key: series for key, series in self._series.items() if key[0] not in symbols}
        self._newest_ms = {key: time_ms for key, time_ms in self._newest_ms.items() if key[0] not in symbols}
