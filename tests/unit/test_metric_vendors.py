"""Answers of Binance's futures and OKX's swaps about running funding."""

from __future__ import annotations

import contextlib
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadInput, Refused, TryLater
from common.venues.binance_futures import (
    SettledPage,
    Settlement,
    all_funding_rates_request,
    parse_premium_index,
    parse_settled_page,
    parse_time,
    premium_index_request,
    time_request,
)
from common.venues.market import RunningRate
from common.venues.okx_swap import funding_request, parse_funding, swap_of

T_MS = 1_790_000_000_000
ROW = {
    "symbol": "BTCUSDT", "markPrice": "91231.0", "indexPrice": "91240.1", "estimatedSettlePrice": "91200.0",
    "lastFundingRate": "0.00010000", "interestRate": "0.00010000", "nextFundingTime": T_MS + 6_400_000, "time": T_MS,
}  # fmt: skip
SWAP = {
    "instId": "BTC-USDT-SWAP", "instType": "SWAP", "fundingRate": "0.0001", "fundingTime": "1790006400000",
    "nextFundingTime": "1790035200000", "nextFundingRate": "", "ts": "1790000000000",
}  # fmt: skip


def premium(*rows: dict[str, Any]) -> bytes:
    return json.dumps(rows).encode()


def swaps(*rows: dict[str, Any], code: str = "0") -> bytes:
    return json.dumps({"code": code, "msg": "", "data": rows}).encode()


def test_requests() -> None:
    assert (premium_index_request().path, premium_index_request().weight) == ("/fapi/v1/premiumIndex", 10)
    assert time_request().path == "/fapi/v1/time"
    assert all_funding_rates_request(5).params == (("startTime", "5"), ("limit", "1000"))
    assert funding_request().params == (("instId", "ANY"),)
    assert swap_of("SOL-USDT") == "SOL-USDT-SWAP"
    assert parse_time(b'{"serverTime":1790000000000}') == T_MS


def test_premium_index() -> None:
    index = parse_premium_index(premium(ROW))
    assert index.rates == {"BTCUSDT": RunningRate("BTCUSDT", Decimal("0.0001"), T_MS, T_MS + 6_400_000)}
    assert (index.listed, index.bad) == ({"BTCUSDT"}, 0)


@pytest.mark.parametrize("value", [None, "", "NaN", "Infinity", "x", 5, "1" * 61, "1E400", "1E-999999"])
def test_one_bad_rate_costs_one_row(value: object) -> None:
    index = parse_premium_index(premium({**ROW, "lastFundingRate": value}, {**ROW, "symbol": "ETHUSDT"}))
    assert list(index.rates) == ["ETHUSDT"]
    assert index.bad == 1


def test_a_perpetual_whose_rate_is_not_told_is_one_all_the_same() -> None:
    index = parse_premium_index(premium({**ROW, "lastFundingRate": ""}, {**ROW, "symbol": "ETHUSDT"}))
    assert index.listed == {"BTCUSDT", "ETHUSDT"}


def test_one_bad_settlement_costs_itself() -> None:
    """Else one record would keep all later ones away for ever."""
    paid = {"symbol": "BTCUSDT", "fundingTime": T_MS, "fundingRate": "0.0001"}
    page = parse_settled_page(json.dumps([{**paid, "fundingRate": ""}, paid, {"symbol": 5}]).encode())
    assert page == SettledPage([Settlement("BTCUSDT", T_MS, Decimal("0.0001"), regular=True)], 3, 2)
    assert parse_settled_page(b"[]") == SettledPage([], 0, 0)
    with pytest.raises(BadInput):
        parse_settled_page(b"[{}]")


def test_a_contract_without_funding_is_not_bad() -> None:
    quarter = {**ROW, "symbol": "BTCUSDT_260925", "lastFundingRate": "", "nextFundingTime": 0}
    index = parse_premium_index(premium(ROW, quarter))
    assert (list(index.rates), index.listed, index.bad) == (["BTCUSDT"], {"BTCUSDT"}, 0)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"[{}]", b"<html>", b'{"code":-1003,"msg":"x"}'])
def test_what_is_no_answer(raw: bytes) -> None:
    with pytest.raises(BadInput):
        parse_premium_index(raw)


def test_swaps() -> None:
    rates, bad = parse_funding(swaps(SWAP, {**SWAP, "instId": "X-USDT-SWAP", "fundingRate": "?"}))
    assert rates == [RunningRate("BTC-USDT-SWAP", Decimal("0.0001"), T_MS, 1_790_006_400_000, 8)]
    assert bad == 1


@pytest.mark.parametrize("following", ["", "1790006400000", "1790006400001", "1790203200000000"])
def test_an_interval_that_can_not_be_is_not_known(following: str) -> None:
    try:
        rates, _ = parse_funding(swaps({**SWAP, "nextFundingTime": following}))
    except BadInput:
        return  # not a time at all
    assert rates[0].hours is None


def test_errors_inside_the_envelope() -> None:
    with pytest.raises(TryLater):
        parse_funding(swaps(code="50011"))
    with pytest.raises(Refused):
        parse_funding(swaps(code="51000"))


@given(st.binary(max_size=200))
def test_bytes_are_read_or_refused(raw: bytes) -> None:
    for parse in (parse_premium_index, parse_funding):
        with contextlib.suppress(BadInput, Refused, TryLater):
            parse(raw)
