"""The JSON of Binance USD-M futures' REST: what we read of it, with the bounds that make it safe to use.

Times are epoch milliseconds; one in microseconds is out of bounds.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

_Ms = Annotated[int, msgspec.Meta(ge=0, lt=10**14)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Word = Annotated[str, msgspec.Meta(max_length=64)]
# The venue sends "" and null where it does not know.
_Number = Annotated[str, msgspec.Meta(max_length=60)] | None


class ContractRow(msgspec.Struct, gc=False):
    """{"symbol":"BTCUSDT","contractType":"PERPETUAL","status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT",..}."""

    symbol: _Name
    baseAsset: _Name
    quoteAsset: _Name
    contractType: _Word = ""
    status: _Word = ""
    onboardDate: _Ms | None = None


class ExchangeInfo(msgspec.Struct, gc=False):
    """{"serverTime":1790000000000,"symbols":[..]}."""

    symbols: list[ContractRow]


class OpenInterestRow(msgspec.Struct, gc=False):
    """{"openInterest":"84210.123","symbol":"BTCUSDT","time":1790000000000}."""

    symbol: _Name
    time: _Ms
    openInterest: _Number = None


class ServerTime(msgspec.Struct, gc=False):
    """{"serverTime":1790000000000}."""

    serverTime: _Ms


class PremiumRow(msgspec.Struct, gc=False):
    """{"symbol":"BTCUSDT","lastFundingRate":"0.0001","nextFundingTime":1790006400000,"time":1790000000000,..}.

    `lastFundingRate` is the running forecast, whatever its name says; "" for a contract that never pays.
    """

    symbol: _Name
    time: _Ms
    nextFundingTime: _Ms = 0
    lastFundingRate: _Number = None


class FundingRow(msgspec.Struct, gc=False):
    """{"symbol":"BTCUSDT","fundingRate":"0.0001","fundingTime":1790006400000,"rateType":"Regular"}.

    Records from before July 2026 have no rateType.
    """

    symbol: _Name
    fundingTime: _Ms
    fundingRate: _Number = None
    rateType: _Word = "Regular"


class FundingInfoRow(msgspec.Struct, gc=False):
    """{"symbol":"XUSDT","fundingIntervalHours":4,..}."""

    symbol: _Name
    fundingIntervalHours: Annotated[int, msgspec.Meta(ge=1, le=24)]
