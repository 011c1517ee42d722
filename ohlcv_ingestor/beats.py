"""Beats: what keeps downstream clocks moving in seconds without a trade."""

from __future__ import annotations

from common.contracts import OutgoingMessage, beat_message
from common.numbers import format_scaled
from ohlcv_ingestor.follower import Follower

BEATS_MAX = 5
"""A watermark that jumps (after a reconnect) ticks its last seconds only: beats are for clocks, not for history."""


def beats_of(series: Follower, from_s: int, to_s: int, after_ms: int, *, live: bool) -> list[OutgoingMessage]:
    """Beats of the seconds [from_s, to_s) without a footprint, if the last trade is at least `after_ms` old.

    `live` is false when no venue's watermark moves: the last close is then old news, not silence of the market.
    """
    beats: list[OutgoingMessage] = []
    close: int | None = None
    for second in range(max(from_s, to_s - BEATS_MAX), to_s):
        if series.traded_at(second) or 1000 * (second + 1) - series.last_ms < after_ms:
            continue
        close = series.last_close() if close is None else close
        if close is None:
            break
        stream = series.stream
        beats.append(beat_message(stream.symbol, second, format_scaled(close, stream.scale), live))
    return beats
