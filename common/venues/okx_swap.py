"""OKX swaps: the running funding rate of all of them in one REST call.

Rules come from okx.com/docs-v5/en. A swap is named after its spot instrument ("SOL-USDT-SWAP"). `fundingRate` is the
forecast for `fundingTime`, the next settlement; `nextFundingTime` is the one after it, so their distance is the
interval. Limits as in `okx_spot`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import msgspec

from common.errors import BadInput
from common.numbers import parse_plain
from common.venues.market import Request, RunningRate
from common.venues.okx_spot import read_data

HOUR_MS = 3_600_000

_Text = Annotated[str, msgspec.Meta(max_length=60)]


class FundingRow(msgspec.Struct, gc=False):
    """{"instId":"BTC-USDT-SWAP","fundingRate":"0.0001","fundingTime":"17900..","nextFundingTime":"..","ts":".."}."""

    instId: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    fundingRate: _Text = ""
    fundingTime: _Text = ""
    nextFundingTime: _Text = ""
    ts: _Text = ""


_decode_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_row = msgspec.json.Decoder(FundingRow).decode


def swap_of(inst_id: str) -> str:
    """The swap of a spot instrument."""
    return f"{inst_id}-SWAP"


def funding_request() -> Request:
    """Running funding of all swaps; the venue allows ten calls in 2 s, half of what it allows for others."""
    return Request("/api/v5/public/funding-rate", (("instId", "ANY"),), 4)


def parse_funding(raw: bytes) -> tuple[list[RunningRate], int]:
    """Read a funding answer: the rates, and how many rows could not be read.

    Raises BadInput when there is nothing to read, TryLater or Refused for an error the venue tells.
    """
    rows = read_data(_decode_rows, raw)
    found = [rate for row in rows if (rate := _rate_of(row)) is not None]
    if rows and not found:
        raise BadInput("not one rate can be read")
    return found, len(rows) - len(found)


def _rate_of(raw: msgspec.Raw) -> RunningRate | None:
    try:
        row = _decode_row(raw)
        if not row.fundingRate:
            return None
        hours = _hours(row)
        rate: Decimal = parse_plain(row.fundingRate)
        return RunningRate(row.instId, rate, _stamp(row.ts), _stamp(row.fundingTime), hours)
    except (msgspec.DecodeError, UnicodeError, BadInput):
        return None


def _hours(row: FundingRow) -> int | None:
    """Hours between settlements; None where the venue does not tell, or tells no whole number of hours."""
    if not row.nextFundingTime or not row.fundingTime:
        return None
    hours, rest_ms = divmod(_stamp(row.nextFundingTime) - _stamp(row.fundingTime), HOUR_MS)
    return hours if not rest_ms and 1 <= hours <= 24 else None


def _stamp(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or (value := int(text)) >= 10**14:
        raise BadInput(f"{text!r} is not a time in milliseconds")
    return value
