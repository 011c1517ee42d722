"""Settings of the OHLCV ingestor: each limit with its unit, its default and why."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from common.errors import ConfigError
from common.feed import FeedLimits, stream_url
from common.settings import ServiceSettings, Words
from ohlcv_ingestor.line import LineLimits
from ohlcv_ingestor.repair import RepairLimits
from ohlcv_ingestor.series import SeriesLimits


class OhlcvSettings(ServiceSettings):
    """Environment of the OHLCV ingestor, beside what every service reads."""

    # venue
    agg_ws_url: str = "wss://stream.binance.com/stream"
    binance_rest_url: str = "https://api.binance.com"
    rest_weight_per_min: int = Field(default=6000, ge=10)
    # Several instances share the venue's limit per address; 0 takes 1/n.
    rest_share: float = Field(default=0.0, ge=0, le=1)

    # while the primary delivers nothing
    fallback: Literal["okx", "none"] = "okx"
    failover_after_s: float = Field(default=5.0, gt=0)
    okx_ws_url: str = "wss://ws.okx.com:8443/ws/v5/public"
    okx_rest_url: str = "https://openapi.okx.com"

    # which symbols: pinned pairs, else coin_registry and symbol_events.updated
    symbols: Words = ()
    streams_per_connection: int = Field(default=200, ge=2, le=1024)

    # time
    lateness_ms: int = Field(default=500, ge=0, le=10_000)
    blind_after_s: float = Field(default=5.0, gt=0)
    stale_after_s: float = Field(default=5.0, gt=0)
    rotate_after_s: float = Field(default=23 * 3600.0, gt=0)
    beat_after_ms: int = Field(default=2_000, ge=1_000)
    ring_s: int = Field(default=300, ge=120, le=3600)

    # repair
    gap_settle_ms: int = Field(default=1_000, ge=0)
    settle_s: int = Field(default=3, ge=0)
    repair_ids_max: int = Field(default=5_000, ge=1)
    # A stream that stops on a healthy connection looks like a quiet market: after this long the venue is asked.
    silence_check_s: float = Field(default=60.0, gt=0)
    repairs_at_once: int = Field(default=4, ge=1, le=64)
    backfill_minutes: int = Field(default=100, ge=1, le=1000)

    # writing
    flush_every_ms: int = Field(default=100, ge=1, le=10_000)
    buffer_rows_max: int = Field(default=100_000, ge=1_000)

    @field_validator("agg_ws_url")
    @classmethod
    def _check_ws(cls, value: str) -> str:
        try:
            return stream_url(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @field_validator("symbols")
    @classmethod
    def _check_symbols(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [symbol for symbol in value if symbol != symbol.upper()]
        if wrong:
            raise ValueError(f"pairs are written in capitals, not {', '.join(wrong)}")
        return value

    def series_limits(self) -> SeriesLimits:
        """Limits of one series."""
        return SeriesLimits(self.ring_s, self.gap_settle_ms, self.settle_s, 60 * self.backfill_minutes)

    def line_limits(self) -> LineLimits:
        """Limits of one line."""
        return LineLimits(self.lateness_ms, self.blind_after_s, self.beat_after_ms, 60_000 * self.backfill_minutes)

    def repair_limits(self) -> RepairLimits:
        """Limits of repairs."""
        return RepairLimits(self.repair_ids_max)

    def feed_limits(self) -> FeedLimits:
        """Limits of one feed."""
        return FeedLimits(stale_after_s=self.stale_after_s, rotate_after_s=self.rotate_after_s)

    def weight_share(self) -> float:
        """Share of the venue's REST limit that this instance may use."""
        return self.rest_share or 1.0 / self.shard.count
