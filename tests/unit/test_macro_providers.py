"""Every macro provider's parser, on real or documented answers and on every way in which a vendor says no."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadInput, Refused, TradingBusError, TryLater
from macro_ingestor.answers import read_decimal, read_json, read_time, write_decimal
from macro_ingestor.providers import bgeometrics, bitquery, coinmetrics, dune, etherscan, glassnode, goldrush, jsonrpc
from macro_ingestor.readings import Reading

DAY = 1_790_553_600  # 2026-09-28
NOW = DAY + 100_000


def body(value: object) -> bytes:
    return json.dumps(value).encode()


# ---- glassnode


def test_glassnode_points_as_captured(shared_data: Path) -> None:
    points = glassnode.parse_points((shared_data / "glassnode/metric_points.json").read_bytes())
    assert points == {t: Decimal("2.4755000000000003") for t in (1230940800, 1231027200, 1231113600)}
    with pytest.raises(BadInput):  # the bulk form, which the light plan does not have
        glassnode.parse_points((shared_data / "glassnode/metric_bulk.json").read_bytes())


def test_glassnode_digits_nulls_and_sums() -> None:
    points = glassnode.parse_points(b'[{"t":1790553600,"v":-1.2e-7},{"t":1790640000,"v":null},{"t":1790726400,"v":7}]')
    assert points == {DAY: Decimal("-1.2e-7"), DAY + 172_800: Decimal(7)}
    assert glassnode.sum_series("mvrv", [points])[0] == Reading("mvrv", "-0.00000012", DAY, "glassnode")
    usdt, usdc = {DAY: Decimal("1.5"), DAY + 86_400: Decimal(2)}, {DAY: Decimal("-2"), DAY + 172_800: Decimal(3)}
    both = glassnode.sum_series("stbl_cex_netflow", [usdt, usdc])
    assert both == [Reading("stbl_cex_netflow", "-0.5", DAY, "glassnode")]
    share = glassnode.sum_series("btc_ex_reserve_pct", [{DAY: Decimal("0.124567")}])
    assert share[0].value == "12.4567"


@pytest.mark.parametrize(
    "answer",
    [
        {"message": "x"},
        [{"t": 1}],
        [{"t": "x", "v": 1}],
        [{"t": 1.5, "v": 1}],
        [{"t": -1, "v": 1}],
        [{"t": 1790553600000, "v": 1}],
        [[1, 2]],
        [{"t": 1, "o": {}}],
        7,
    ],
)
def test_glassnode_what_is_no_answer(answer: object) -> None:
    with pytest.raises(BadInput):
        glassnode.parse_points(body(answer))


# ---- coin metrics

COIN = {
    "data": [
        {
            "asset": "btc", "time": "2026-09-28T00:00:00.000000000Z", "CapMVRVCur": "1.8512",
            "FlowInExNtv": "21034.11", "FlowOutExNtv": "22110.02", "SplyExNtv": "2480000.1", "SplyCur": "19900000.0",
        },
        {"asset": "eth", "time": "2026-09-28T00:00:00.000000000Z", "FlowInExNtv": "5.5", "FlowOutExNtv": "4"},
        {"asset": "eth", "time": "2026-09-29T00:00:00.000000000Z", "FlowInExNtv": "5.5", "FlowOutExNtv": None},
    ],
    "next_page_token": "0.MjAy", "next_page_url": "https://x",
}  # fmt: skip


def test_coinmetrics_derives_flows_share_and_nupl() -> None:
    readings, token = coinmetrics.parse_page(body(COIN), list(coinmetrics.NEEDS))
    assert token == "0.MjAy"
    found = {(r.column, r.as_of): (r.value, r.source) for r in readings}
    assert found == {
        ("btc_ex_netflow", DAY): ("-1075.91", "coinmetrics"),
        ("eth_ex_netflow", DAY): ("1.5", "coinmetrics"),
        ("btc_ex_reserve_pct", DAY): ("12.4623120603", "coinmetrics"),
        ("mvrv", DAY): ("1.8512", "coinmetrics"),
        ("nupl", DAY): ("0.4598098531", "coinmetrics:1-1/mvrv"),
    }
    assert coinmetrics.parse_page(body({"data": []}), ["mvrv"]) == ([], None)
    zero = {"data": [{"asset": "btc", "time": "2026-09-28", "CapMVRVCur": "0", "SplyExNtv": "1", "SplyCur": "0"}]}
    assert coinmetrics.parse_page(body(zero), ["nupl", "btc_ex_reserve_pct"]) == ([], None)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"error": {"type": "forbidden", "message": "Requested metric CapRealUSD is not available"}}, Refused),
        ({"error": {"type": "bad_parameter", "message": "x"}}, Refused),
        ({"error": {"type": "rate_limit", "message": "x"}}, TryLater),
        ({"error": {"type": "internal_server_error", "message": "bad parameter of ours"}}, TryLater),
        ({"error": "x"}, BadInput),
        ({}, BadInput),
        ({"data": {}}, BadInput),
        ({"data": [{"asset": "btc", "time": "soon", "CapMVRVCur": "1"}]}, BadInput),
        ({"data": [{"asset": "btc", "time": "2026-09-28", "CapMVRVCur": "1,5"}]}, BadInput),
        ({"data": [{"asset": "btc", "time": "2026-09-28", "CapMVRVCur": True}]}, BadInput),
    ],
)
def test_coinmetrics_errors(answer: object, error: type[TradingBusError]) -> None:
    with pytest.raises(error):
        coinmetrics.parse_page(body(answer), ["mvrv"])


# ---- bgeometrics


def test_bgeometrics_numbers_and_texts() -> None:
    rows = (
        b'{"d":"2026-09-28","unixTs":1,"asopr":1.0123},{"d":"2026-09-29","asopr":"1.01"},{"d":"2026-09-30","asopr":""}'
    )
    answer = b"[" + rows + b"]"
    assert bgeometrics.parse_rows(answer, "asopr") == [
        Reading("asopr", "1.0123", DAY, "bgeometrics"), Reading("asopr", "1.01", DAY + 86_400, "bgeometrics"),
    ]  # fmt: skip
    assert bgeometrics.parse_rows(b'[{"d":"2026-09-28","exchangeNetflowBtc":-5}]', "btc_ex_netflow")[0].value == "-5"
    assert bgeometrics.parse_rows(b"[]", "mvrv") == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": 429, "error": "Too Many Requests"}, TryLater),
        ({"message": "You have reached your hourly limit"}, TryLater),
        ({"status": 403, "error": "Forbidden"}, Refused),
        ({"status": 403, "error": "Monthly limit"}, TryLater),
        ({"status": 500, "error": "Internal Server Error"}, TryLater),
        ({"status": 408, "error": "Request Timeout"}, TryLater),
        ({"message": "Service is down"}, TryLater),
        ([{"d": "2026-09-28", "mvrv": 1}], BadInput),
        ([{"asopr": 1}], BadInput),
        ("limit", BadInput),
    ],
)
def test_bgeometrics_errors(answer: object, error: type[TradingBusError]) -> None:
    with pytest.raises(error):
        bgeometrics.parse_rows(body(answer), "asopr")


# ---- gas


def test_etherscan_gwei_with_decimals() -> None:
    result = {"LastBlock": "23800000", "SafeGasPrice": "0.412", "ProposeGasPrice": "0.433000", "FastGasPrice": "0.5"}
    answer = {"status": "1", "message": "OK", "result": result}
    assert etherscan.parse_oracle(body(answer), NOW) == Reading("eth_gas_price", "0.433", NOW, "etherscan")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": "0", "message": "NOTOK", "result": "Max calls per sec rate limit reached (3/sec)"}, TryLater),
        ({"status": "0", "message": "NOTOK", "result": "Max daily rate limit reached. 100000 (100%)"}, TryLater),
        ({"status": "0", "message": "NOTOK", "result": "Invalid API Key"}, Refused),
        ({"status": "0", "message": "NOTOK", "result": "You are using a deprecated V1 endpoint"}, Refused),
        ({"status": "0", "message": "NOTOK", "result": "Missing/Invalid API Key"}, Refused),
        ({"status": "0", "message": "NOTOK", "result": "Error! Missing Or invalid Action name"}, Refused),
        ({"status": "0", "message": "NOTOK", "result": "Missing or unsupported chainid parameter"}, Refused),
        (
            {"status": "0", "message": "NOTOK", "result": "Too many invalid api key attempts, please try again later"},
            TryLater,
        ),
        (
            {"status": "0", "message": "NOTOK", "result": "Max rate limit reached, please use API Key for more"},
            TryLater,
        ),
        ({"status": "0", "message": "NOTOK", "result": "Error!"}, TryLater),
        (
            {"status": "0", "message": "NOTOK", "result": "Query Timeout occured. Please select a smaller result"},
            TryLater,
        ),
        ({"status": "0", "message": "NOTOK", "result": ""}, TryLater),
        ({"status": "1", "message": "OK", "result": "Max rate limit reached"}, BadInput),
        ({"status": "1", "message": "OK", "result": {"ProposeGasPrice": ""}}, BadInput),
        ({"status": "1", "message": "OK", "result": {"ProposeGasPrice": "-1"}}, BadInput),
        ({"status": "1", "message": "OK", "result": {"ProposeGasPrice": "NaN"}}, BadInput),
    ],
)
def test_etherscan_errors(answer: object, error: type[TradingBusError]) -> None:
    with pytest.raises(error):
        etherscan.parse_oracle(body(answer), NOW)


def test_a_node_names_its_newest_block_and_the_price_of_the_next() -> None:
    history = {
        "oldestBlock": "0x64", "baseFeePerGas": ["0x1", "0x2", "0x3", "0x3b9aca00"],
        "gasUsedRatio": [0.5, 0, 0.9], "reward": [["0x2"], ["0x0"], ["0x4"]],
    }  # fmt: skip
    newest, price = jsonrpc.read_price(jsonrpc.parse_result(body({"jsonrpc": "2.0", "id": 1, "result": history})))
    assert (newest, price) == (0x66, Decimal("1.000000003"))
    tips = [hex(2**60 + 1), hex(2**60 + 2)]  # a mean in floats would lose the last digits
    history |= {"baseFeePerGas": ["0x0"] * 3, "gasUsedRatio": [1, 1], "reward": [[tip] for tip in tips]}
    assert jsonrpc.read_price(history)[1] == Decimal("1152921504.6068469775")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"error": {"code": -32005, "message": "daily request count exceeded"}}, TryLater),
        ({"error": {"code": -32000, "message": "rate limit"}}, TryLater),
        ({"error": {"code": -32601, "message": "the method eth_feeHistory does not exist"}}, Refused),
        ({"error": {"code": -32602, "message": "invalid argument 0"}}, Refused),
        ({"error": {"code": -32600, "message": "Must be authenticated!"}}, Refused),
        ({"error": {"code": -32600, "message": "daily limit reached"}}, TryLater),
        ({"error": {"code": -32603, "message": "Internal error"}}, TryLater),
        ({"error": {"code": -32002, "message": "newestBlock: Block is not available"}}, TryLater),
        ({"error": {"code": -32000, "message": "Request beyond head block: requested 8, head 7"}}, TryLater),
        ({"error": {}}, TryLater),
        ({"result": None}, TryLater),
        ({"result": []}, BadInput),
        ([], BadInput),
    ],
)
def test_node_errors(answer: object, error: type[TradingBusError]) -> None:
    with pytest.raises(error):
        jsonrpc.parse_result(body(answer))


@pytest.mark.parametrize(
    "history", [{}, {"baseFeePerGas": ["0x1"]}, {"baseFeePerGas": ["1", "2"], "reward": [], "gasUsedRatio": []}]
)
def test_a_node_that_tells_no_price(history: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        jsonrpc.read_price(history)


def test_goldrush_under_its_own_time() -> None:
    items = [{"gas_price": "2045356970", "interval": "Last 1 minute"}, {"gas_price": "1", "interval": "Last 3 minutes"}]
    data = {"updated_at": "2026-09-28T00:00:28.281484048Z", "base_fee": "862937528", "items": items}
    answer = {"data": data, "error": False, "error_message": None, "error_code": None}
    assert goldrush.parse_prices(body(answer)) == Reading("eth_gas_price", "2.04535697", DAY + 28, "goldrush")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"data": None, "error": True, "error_message": "too many", "error_code": 429}, TryLater),
        ({"data": None, "error": True, "error_message": "credits", "error_code": 402}, Refused),
        ({"data": None, "error": True, "error_message": "no key", "error_code": "401"}, Refused),
        ({"data": None, "error": True, "error_message": "Internal server error", "error_code": 500}, TryLater),
        ({"data": None, "error": True, "error_message": None, "error_code": None}, TryLater),
        ({"data": {"updated_at": "2026-09-28T00:00:28Z", "items": []}, "error": False}, BadInput),
        ({"data": {"items": [{"gas_price": "1"}]}, "error": False}, BadInput),
    ],
)
def test_goldrush_errors(answer: object, error: type[TradingBusError]) -> None:
    with pytest.raises(error):
        goldrush.parse_prices(body(answer))


# ---- dune, bitquery


def dune_rows(*rows: dict[str, object]) -> dict[str, object]:
    done = {"state": "QUERY_STATE_COMPLETED", "execution_ended_at": "2026-09-29T05:00:00.123456789Z"}
    return {**done, "result": {"rows": rows}}


def dune_answer(rows: list[dict[str, object]]) -> bytes:
    return body(dune_rows(*rows))


def test_dune_leaves_out_days_that_had_not_ended_when_it_ran() -> None:
    rows: list[dict[str, object]] = [
        {"ts": "2026-09-28 00:00:00.000 UTC", "value": 5.25}, {"ts": "2026-09-29 00:00:00.000 UTC", "value": 1},
        {"ts": "2026-09-27", "value": None},
    ]  # fmt: skip
    assert dune.parse_results(dune_answer(rows), "eth_ex_netflow") == [Reading("eth_ex_netflow", "5.25", DAY, "dune")]


def test_dune_adds_stablecoins_where_both_are_known() -> None:
    rows: list[dict[str, object]] = [
        {"ts": "2026-09-28", "token_symbol": "USDT", "netflow_usd": -10.5},
        {"ts": "2026-09-28", "token_symbol": "USDC", "netflow_usd": 4},
        {"ts": "2026-09-27", "token_symbol": "USDC", "netflow_usd": 4},
    ]
    assert [(r.as_of, r.value) for r in dune.parse_results(dune_answer(rows), "stbl_cex_netflow")] == [(DAY, "-6.5")]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"state": "QUERY_STATE_PENDING"}, TryLater),
        ({"state": "QUERY_STATE_EXECUTING"}, TryLater),
        ({"state": "QUERY_STATE_FAILED", "error": {"message": "x"}}, Refused),
        ({"state": "QUERY_STATE_EXPIRED"}, Refused),
        ({"error": "invalid API Key"}, Refused),
        ({"error": "An internal error occurred"}, TryLater),
        (dune_rows({"ts": "2026-09-27 01:00:00.000 UTC", "value": 1}), Refused),  # by the hour
        (dune_rows({"ts": "2026-09-27", "value": 1}, {"ts": "2026-09-27", "value": 2}), Refused),
        (dune_rows(*[{"ts": "2026-09-27", "token_symbol": "USDT", "netflow_usd": n} for n in (1, 2)]), Refused),
        ({**dune_rows({"ts": "2026-09-27", "value": 1}), "next_uri": "https://x", "next_offset": 1000}, Refused),
        ({"state": "QUERY_STATE_COMPLETED", "result": {"rows": []}}, BadInput),
        ({"state": "QUERY_STATE_COMPLETED", "execution_ended_at": "2026-09-29T05:00:00Z", "result": 1}, BadInput),
    ],
)
def test_dune_errors(answer: object, error: type[TradingBusError]) -> None:
    with pytest.raises(error):
        dune.parse_results(body(answer), "eth_ex_netflow")


def test_bitquery_counts_in_less_out() -> None:
    flows = {
        "inflow": [{"Block": {"Date": "2026-09-28"}, "sum": "10.5"}, {"Block": {"Date": "2026-09-29"}, "sum": "1"}],
        "outflow": [{"Block": {"Date": "2026-09-28"}, "sum": "12"}],
    }
    found = bitquery.parse_flows(body({"data": {"EVM": flows}}), "eth_ex_netflow")
    assert [(r.as_of, r.value) for r in found] == [(DAY, "-1.5"), (DAY + 86_400, "1")]
    assert len(bitquery.parse_flows(body({"data": {"Solana": flows}}), "sol_ex_netflow")) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"errors": [{"message": "Too many requests"}], "data": None}, TryLater),
        ({"errors": [{"message": "Cannot query field"}]}, Refused),
        ({"errors": [{"message": "Unauthorized"}]}, Refused),
        ({"errors": [{"message": "x" * 300, "extensions": {"code": "GRAPHQL_VALIDATION_FAILED"}}]}, Refused),
        ({"errors": [{"message": "Internal server error"}]}, TryLater),
        ({"errors": [{"message": "Memory limit (total) exceeded"}]}, TryLater),
        ({"data": {"EVM": {"inflow": []}}}, BadInput),
        ({"data": None}, BadInput),
    ],
)
def test_bitquery_errors(answer: object, error: type[TradingBusError]) -> None:
    with pytest.raises(error):
        bitquery.parse_flows(body(answer), "eth_ex_netflow")


# ---- all of them

PARSERS: dict[str, Callable[[bytes], object]] = {
    "glassnode": glassnode.parse_points,
    "coinmetrics": lambda raw: coinmetrics.parse_page(raw, list(coinmetrics.NEEDS)),
    "bgeometrics": lambda raw: bgeometrics.parse_rows(raw, "mvrv"),
    "etherscan": lambda raw: etherscan.parse_oracle(raw, NOW),
    "jsonrpc": lambda raw: jsonrpc.read_price(jsonrpc.parse_result(raw)),
    "goldrush": goldrush.parse_prices,
    "dune": lambda raw: dune.parse_results(raw, "stbl_cex_netflow"),
    "bitquery": lambda raw: bitquery.parse_flows(raw, "eth_ex_netflow"),
}
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just([]), st.just({}), st.just([[]]),
    st.sampled_from(["1", "0", "btc", "2026-09-28", "0x1", "-0", "1e400", "1e59", "1e-59", "9" * 60, "0001-01-01"]),
)  # fmt: skip
GOOD: dict[str, object] = {
    "glassnode": [{"t": DAY, "v": 1.5}],
    "coinmetrics": COIN,
    "bgeometrics": [{"d": "2026-09-28", "mvrv": "1.5"}],
    "etherscan": {"status": "1", "message": "OK", "result": {"ProposeGasPrice": "0.4"}},
    "jsonrpc": {
        "result": {"oldestBlock": "0x64", "baseFeePerGas": ["0x1", "0x2"], "gasUsedRatio": [0.5], "reward": [["0x2"]]}
    },
    "goldrush": {"data": {"updated_at": "2026-09-28", "items": [{"gas_price": "20"}]}, "error": False},
    "dune": json.loads(
        dune_answer([{"ts": "2026-09-28", "token_symbol": word, "netflow_usd": 1} for word in ("USDT", "USDC")])
    ),
    "bitquery": {"data": {"EVM": {"inflow": [{"Block": {"Date": "2026-09-28"}, "sum": "10.5"}], "outflow": []}}},
}


def spots_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of everything inside a document, itself included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(spot for key, one in inner for spot in spots_of(one, (*path, key)))]


def replaced(value: Any, path: tuple[str | int, ...], by: object) -> Any:
    if not path:
        return by
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], by)
    return copy


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("raw", [b"", b"<html>Please wait</html>", b"{", b'"\xff"', b"[" * 100_000, b"NaN", b"null"])
def test_what_is_no_json_is_bad_input(name: str, raw: bytes) -> None:
    with pytest.raises(BadInput):
        PARSERS[name](raw)


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_no_answer_ends_a_parser_in_any_other_way(name: str, data: st.DataObject) -> None:
    assert PARSERS[name](body(GOOD[name]))
    broken = GOOD[name]
    for _ in range(data.draw(st.integers(1, 3))):
        spot = data.draw(st.sampled_from(spots_of(broken)))
        broken = replaced(broken, spot, data.draw(LEAVES))
    with contextlib.suppress(BadInput, Refused, TryLater):
        PARSERS[name](body(broken))


def test_numbers_are_read_digit_by_digit() -> None:
    value = read_decimal(read_json(b"0.10000000000000000555111512312578270"), "x")
    assert value is not None and write_decimal(value) == "0.1000000000000000055511151231257827"
    assert write_decimal(Decimal("1E+3")) == "1000" and write_decimal(Decimal("-0.00")) == "0"
    assert read_decimal("", "x") is None and read_decimal(None, "x") is None
    for wrong in ("1e999999999", "1e-70", "Infinity", True, [], "0x1", "1" * 61):
        with pytest.raises(BadInput):
            read_decimal(wrong, "x")
    assert read_time("2026-09-28T02:00:00+02:00", "x") == DAY
