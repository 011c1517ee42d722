"""Settings of the registry: each limit with its unit, its default and why."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from common.settings import RABBITMQ, ServiceSettings

_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?Z", re.ASCII)


def read_pull_time(text: str) -> dt.time:
    """Read "02:00:00Z"; raises ValueError for what is no UTC time of day."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError("is not a UTC time of day like 02:00:00Z")
    return dt.time(int(found[1]), int(found[2]), int(found[3] or 0), tzinfo=dt.UTC)


def _check_pull_time(text: str) -> str:
    read_pull_time(text)
    return text.strip()


class RegistrySettings(ServiceSettings):
    """Environment of the registry, beside what every service reads."""

    # vendors
    binance_rest_url: str = "https://api.binance.com"
    binance_futures_rest_url: str = "https://fapi.binance.com"
    okx_rest_url: str = "https://openapi.okx.com"
    coingecko_url: str = "https://api.coingecko.com"
    coingecko_api_key: SecretStr | None = None
    # Coins by market cap, 250 a page; what is not among them has an unknown market cap.
    coingecko_pages: int = Field(default=4, ge=1, le=40)
    coingecko_calls_per_min: int = Field(default=30, ge=1, le=1000)

    # The venues' limits an address, and the part of them that a run may take: ingestors live on the same address.
    rest_weight_per_min: int = Field(default=6000, ge=200)
    futures_weight_per_min: int = Field(default=2400, ge=50)
    rest_share: float = Field(default=0.5, gt=0, le=1)
    calls_at_once: int = Field(default=8, ge=1, le=32)
    call_timeout_s: float = Field(default=10.0, gt=0, le=60)
    # A vendor that asks for a longer pause than this is away for tonight.
    retry_after_max_s: float = Field(default=20.0, ge=0, le=300)
    # Everything that may stay unknown is waited for so long; exchangeInfo has its three tries.
    pull_timeout_s: float = Field(default=60.0, ge=1, le=900)

    # what is judged by; the files in the package where none is named
    thresholds_path: Path | None = None
    banlist_path: Path | None = None
    whitelist_path: Path | None = None
    centroids_path: Path | None = None

    # when
    registry_pull_time: Annotated[str, AfterValidator(_check_pull_time)] = "02:00:00Z"
    registry_sample_every_s: float = Field(default=300.0, ge=1, le=3600)
    # A run that failed, or was missed while the machine slept, is tried again so often.
    registry_retry_every_s: float = Field(default=900.0, ge=1, le=21_600)

    # What the broker does not take in this time is left to the next run, or to any service that runs.
    drain_timeout_s: float = Field(default=10.0, ge=0, le=120)


class LookSettings(RegistrySettings):
    """The same for commands that publish nothing: without a broker."""

    rmq_url: Annotated[SecretStr, RABBITMQ] = SecretStr("")
