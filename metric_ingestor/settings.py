"""Settings of the metric ingestor: each limit with its unit, its default and why."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from common.settings import ServiceSettings, Words
from common.venues.binance_futures import REST_LIMIT

SHARE_MAX = 0.5
"""Of the futures host's weight, all instances together: the other half is for what else runs at this address."""


WEIGHT_MIN = 60
"""A minute; with less not even the running rates of every window can be asked (four times 10 + 1)."""


class MetricSettings(ServiceSettings):
    """Environment of the metric ingestor, beside what every service reads."""

    # vendors
    binance_futures_rest_url: str = "https://fapi.binance.com"
    futures_weight_per_min: int = Field(default=REST_LIMIT, ge=WEIGHT_MIN)
    # Of that limit; 0 takes half of it, divided by the number of instances.
    futures_share: float = Field(default=0.0, ge=0, le=1)
    fallback: Literal["okx", "none"] = "okx"
    okx_rest_url: str = "https://openapi.okx.com"
    # A call that takes longer is a failed one: its window is about to end.
    vendor_timeout_s: float = Field(default=2.0, gt=0, le=10)
    calls_at_once: int = Field(default=8, ge=1, le=64)

    # which symbols: pinned pairs, else coin_registry and symbol_events.updated
    symbols: Words = ()

    # time, in venue time
    write_wait_ms: int = Field(default=1_500, ge=0, le=1_900)
    sample_ahead_ms_max: int = Field(default=5_000, ge=1_000, le=60_000)
    funding_lead_ms: int = Field(default=5_000, ge=1_000, le=12_000)

    # computing again
    recompute_minutes: int = Field(default=100, ge=5, le=1_440)
    # Windows without a row since the last one, when this service comes back, get one so far back.
    fill_hours_max: int = Field(default=24, ge=1, le=672)
    # Older windows stay as they are: their seconds may be gone.
    recompute_days_max: int = Field(default=28, ge=1, le=3_650)
    recompute_every_ms: int = Field(default=500, ge=50, le=60_000)
    recompute_windows_max: int = Field(default=500, ge=10, le=10_000)
    ledger_every_ms: int = Field(default=1_000, ge=100, le=60_000)

    # polling and waiting
    cursors_every_ms: int = Field(default=100, ge=10, le=5_000)
    intervals_every_s: float = Field(default=1_800.0, ge=60)
    settled_every_s: float = Field(default=900.0, ge=10)
    # Windows that wait for the database; more are written without samples when it is back.
    pending_windows_max: int = Field(default=400, ge=4)

    @field_validator("symbols")
    @classmethod
    def _check_symbols(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [symbol for symbol in value if symbol != symbol.upper()]
        if wrong:
            raise ValueError(f"pairs are written in capitals, not {', '.join(wrong)}")
        return value

    @model_validator(mode="after")
    def _check_weight(self) -> Self:
        weight = int(self.futures_weight_per_min * self.weight_share())
        if weight < WEIGHT_MIN:
            raise ValueError(f"{weight} weight a minute (FUTURES_SHARE) is too little: {WEIGHT_MIN} are needed")
        return self

    def weight_share(self) -> float:
        """Share of the futures host's limit that this instance may use."""
        return self.futures_share or SHARE_MAX / self.shard.count
