"""Binance USD-M futures: REST answers about perpetuals: which there are, open interest, settled funding.

Rules come from developers.binance.com/docs/derivatives/usds-margined-futures. Open interest counts units of the
contract, which is a thousand or a million coins where the name begins so ("1000SHIBUSDT").

    WeightBudget(REST_LIMIT, share)                              for everything but funding
    WeightBudget(FUNDING_CALLS, share, window_s=FUNDING_WINDOW_S, counted_by_venue=False)
                                                                 for fundingRate and fundingInfo, which share a pool;
                                                                 the weight that their answers tell is that of all else
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TypeVar

import msgspec

from common.errors import BadInput
from common.numbers import parse_plain
from common.venues.binance_futures_shapes import (
    ContractRow,
    ExchangeInfo,
    FundingInfoRow,
    FundingRow,
    OpenInterestRow,
    PremiumRow,
    ServerTime,
)
from common.venues.market import Request, RunningRate

REST_LIMIT = 2400
"""Weight a minute."""
FUNDING_CALLS, FUNDING_WINDOW_S = 500, 300.0
MAX_FUNDING = 1000
DEFAULT_FUNDING_HOURS = 8
"""Of every perpetual that fundingInfo does not name."""

_T = TypeVar("_T")

# Besides DecodeError msgspec lets out text that is not UTF-8, and JSON nested too deep.
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)

_decode_info = msgspec.json.Decoder(ExchangeInfo).decode
_decode_open_interest = msgspec.json.Decoder(OpenInterestRow).decode
_decode_funding = msgspec.json.Decoder(list[FundingRow]).decode
_decode_funding_row = msgspec.json.Decoder(FundingRow).decode
_decode_time = msgspec.json.Decoder(ServerTime).decode
_decode_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_premium = msgspec.json.Decoder(PremiumRow).decode
_decode_funding_info = msgspec.json.Decoder(list[FundingInfoRow]).decode


class Contract(msgspec.Struct, frozen=True):
    """One futures contract; `kind` and `status` are the venue's own words, open sets. `listed_ms` is epoch ms."""

    symbol: str
    base: str
    quote: str
    kind: str
    status: str
    listed_ms: int | None


class OpenInterest(msgspec.Struct, frozen=True):
    """Open positions of one contract in its own units, at the venue's time."""

    symbol: str
    units: Decimal
    time_ms: int


class PremiumIndex(msgspec.Struct, frozen=True):
    """Running funding by contract; `listed` are all perpetuals, also those whose rate can not be read; `bad` rows."""

    rates: dict[str, RunningRate]
    listed: frozenset[str]
    bad: int


class Settlement(msgspec.Struct, frozen=True):
    """One funding that was paid; a few ms past its hour. `regular` is False for one beside the schedule."""

    symbol: str
    time_ms: int
    rate: Decimal
    regular: bool


class SettledPage(msgspec.Struct, frozen=True):
    """A page of settlements of all perpetuals; `records` as the venue sent them, `bad` ones among them are left out."""

    settled: list[Settlement]
    records: int
    bad: int


def exchange_info_request() -> Request:
    """Every contract."""
    return Request("/fapi/v1/exchangeInfo", (), 1)


def open_interest_request(symbol: str) -> Request:
    """Open interest of one contract now."""
    return Request("/fapi/v1/openInterest", (("symbol", symbol),), 1)


def time_request() -> Request:
    """The venue's clock."""
    return Request("/fapi/v1/time", (), 1)


def premium_index_request() -> Request:
    """Running funding of every contract in one call."""
    return Request("/fapi/v1/premiumIndex", (), 10)


def all_funding_rates_request(start_ms: int, limit: int = MAX_FUNDING) -> Request:
    """Settlements of all perpetuals from `start_ms` on, oldest first; counts 1 in the funding pool."""
    return Request("/fapi/v1/fundingRate", (("startTime", str(start_ms)), ("limit", str(limit))), 1)


def funding_rate_request(symbol: str, start_ms: int, end_ms: int, limit: int = MAX_FUNDING) -> Request:
    """Settlements of [start_ms, end_ms], oldest first; each call counts 1 in the funding pool."""
    named = (("startTime", str(start_ms)), ("endTime", str(end_ms)), ("limit", str(limit)))
    return Request("/fapi/v1/fundingRate", (("symbol", symbol), *named), 1)


def funding_info_request() -> Request:
    """Perpetuals whose funding differs from the usual; counts 1 in the funding pool."""
    return Request("/fapi/v1/fundingInfo", (), 1)


def parse_exchange_info(raw: bytes) -> list[Contract]:
    """Read an exchangeInfo answer; raises BadInput when it can not be read, or lists nothing."""
    rows = _read(_decode_info, raw).symbols
    if not rows:
        raise BadInput("exchangeInfo lists no contract")
    return [_contract_of(row) for row in rows]


def parse_open_interest(raw: bytes) -> OpenInterest:
    """Read an openInterest answer; raises BadInput, also when the venue leaves the number empty."""
    row = _read(_decode_open_interest, raw)
    return OpenInterest(row.symbol, _amount(row.openInterest), row.time)


def parse_time(raw: bytes) -> int:
    """Read the venue's clock: epoch milliseconds; raises BadInput."""
    return _read(_decode_time, raw).serverTime


def parse_premium_index(raw: bytes) -> PremiumIndex:
    """Read a premiumIndex answer for all; a contract without funding (its next time is 0) is left out, and not bad.

    Raises BadInput when the answer as a whole can not be read, or no rate of it.
    """
    rates: dict[str, RunningRate] = {}
    listed: set[str] = set()
    bad = 0
    for row in _read(_decode_rows, raw):
        try:
            premium = _decode_premium(row)
            if premium.nextFundingTime:
                listed.add(premium.symbol)
                rate = parse_plain(premium.lastFundingRate)
                rates[premium.symbol] = RunningRate(premium.symbol, rate, premium.time, premium.nextFundingTime)
        except (*_UNREADABLE, BadInput):
            bad += 1
    if not rates:
        raise BadInput("premiumIndex tells no rate")
    return PremiumIndex(rates, frozenset(listed), bad)


def parse_funding_rates(raw: bytes) -> list[Settlement]:
    """Read a fundingRate answer; raises BadInput when any record can not be read."""
    rows = _read(_decode_funding, raw)
    return [_settlement_of(row) for row in rows]


def parse_settled_page(raw: bytes) -> SettledPage:
    """Read a fundingRate answer for all; one record that can not be read costs only itself.

    Raises BadInput when the answer as a whole can not be read, or no record of it.
    """
    records = _read(_decode_rows, raw)
    settled: list[Settlement] = []
    for record in records:
        try:
            settled.append(_settlement_of(_decode_funding_row(record)))
        except (*_UNREADABLE, BadInput):
            continue
    if records and not settled:
        raise BadInput("fundingRate tells no settlement")
    return SettledPage(settled, len(records), len(records) - len(settled))


def parse_funding_hours(raw: bytes) -> dict[str, int]:
    """Read a fundingInfo answer: hours between settlements by symbol, of those named; raises BadInput."""
    return {row.symbol: row.fundingIntervalHours for row in _read(_decode_funding_info, raw)}


def _contract_of(row: ContractRow) -> Contract:
    return Contract(row.symbol, row.baseAsset, row.quoteAsset, row.contractType, row.status, row.onboardDate)


def _settlement_of(row: FundingRow) -> Settlement:
    return Settlement(row.symbol, row.fundingTime, parse_plain(row.fundingRate), row.rateType == "Regular")


def _amount(text: str | None) -> Decimal:
    value = parse_plain(text)
    if value < 0:
        raise BadInput(f"{text!r} is negative")
    return value


def _read(decode: Callable[[bytes], _T], raw: bytes) -> _T:
    try:
        return decode(raw)
    except _UNREADABLE as error:
        raise BadInput(f"not the answer we asked for: {error}") from error
