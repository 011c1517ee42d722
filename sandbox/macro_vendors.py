"""How each macro vendor answers: its paths, its JSON, its errors, as documented. No I/O."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from sandbox.macro_world import BLOCK_S, DAY_S, MacroWorld, Trouble

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Ask(NamedTuple):
    """One call; header names are in lower case."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any = None


class Answer(NamedTuple):
    """What comes back; `cut`: nothing does."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    cut: bool = False


_Vendor = Callable[[MacroWorld, Ask], Answer]

_GLASSNODE = {
    "market/mvrv": "mvrv", "indicators/sopr_adjusted": "asopr", "indicators/net_unrealized_profit_loss": "nupl",
    "distribution/balance_exchanges_relative": "reserve",
}  # fmt: skip
_BGEOMETRICS = {"mvrv": "mvrv", "nupl": "nupl", "asopr": "asopr", "exchange-netflow-btc": "exchangeNetflowBtc"}
_SCALE = {"SplyCur": Decimal(19_900_000)}


def answer_macro(world: MacroWorld, vendor: str, ask: Ask) -> Answer:
    """One call to a vendor, its quota and troubles first."""
    wait_s = world.count(vendor)
    trouble = world.trouble(vendor)
    if wait_s is not None:
        return Answer(429, b'{"error":"Too Many Requests"}', {"Retry-After": str(math.ceil(wait_s))})
    if trouble is not None and (early := _suffer(vendor, trouble)) is not None:
        return early
    return _VENDORS[vendor](world, ask)


def _suffer(vendor: str, trouble: Trouble) -> Answer | None:
    headers = {} if trouble.retry_after_s is None else {"Retry-After": str(trouble.retry_after_s)}
    if trouble.how == "status":
        return Answer(trouble.status, b"<html>Unavailable</html>", headers)
    if trouble.how == "cut":
        return Answer(0, b"", cut=True)
    if trouble.how == "html":
        return Answer(200, b"<html>Please wait</html>")
    if trouble.how == "garbage":
        return Answer(200, b'{"data":[{"time":')
    if trouble.how in ("error", "limit"):
        return _ERRORS[vendor][trouble.how]
    return None  # empty and stuck are the vendor's own


def _json(value: object) -> Answer:
    return Answer(200, _encode(value))


def _since(text: str | None) -> int:
    if not text:
        return 0
    if text.isdecimal():
        return int(text)
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp())


def _day(time_s: int) -> str:
    return dt.datetime.fromtimestamp(time_s, dt.UTC).strftime("%Y-%m-%d")


def _is(world: MacroWorld, vendor: str, how: str) -> bool:
    trouble = world.trouble(vendor)
    return trouble is not None and trouble.how == how


def _glassnode(world: MacroWorld, ask: Ask) -> Answer:
    if not ask.headers.get("x-api-key"):
        return Answer(401, b'{"message":"API key is missing"}')
    path, asset = ask.path.removeprefix("/v1/metrics/"), ask.query.get("a", "BTC")
    what = _GLASSNODE.get(path) or (f"{asset}_netflow" if path.endswith("volume_exchanges_net") else None)
    if what is None:
        return Answer(404, b"404 page not found")
    days = world.days("glassnode", _since(ask.query.get("s")))
    return _json([{"t": d, "v": world.tell("glassnode", what, d, world.value("glassnode", what, d))} for d in days])


def _coinmetrics(world: MacroWorld, ask: Ask) -> Answer:
    metrics = ask.query["metrics"].split(",")
    for metric in world.forbidden.intersection(metrics):
        return _error(403, {"error": {"type": "forbidden", "message": f"Requested metric '{metric}' is not available"}})
    days = world.days("coinmetrics", _since(ask.query.get("start_time")))
    rows: list[dict[str, object]] = []
    for asset in ask.query["assets"].split(","):
        for day in days:
            row: dict[str, object] = {"asset": asset, "time": f"{_day(day)}T00:00:00.000000000Z"}
            for metric in metrics:
                if asset == "btc" or metric.startswith("Flow"):
                    row[metric] = format(_coin_metric(world, asset, metric, day), "f")
            rows.append(row)
    start = int(ask.query.get("next_page_token", "0"))
    size = min(int(ask.query["page_size"]), 20)  # small pages, so that there are several
    page: dict[str, object] = {"data": rows[start : start + size]}
    if start + size < len(rows):
        page["next_page_token"] = str(start + size)
    return _json(page)


def _coin_metric(world: MacroWorld, asset: str, metric: str, day: int) -> Decimal:
    if metric == "SplyCur":
        return _SCALE["SplyCur"]
    what = {"CapMVRVCur": "mvrv", "FlowInExNtv": f"{asset}_in", "FlowOutExNtv": f"{asset}_out"}.get(metric, "reserve")
    value = world.value("coinmetrics", what, day)
    world.tell("coinmetrics", what, day, value)
    return value * _SCALE["SplyCur"] if metric == "SplyExNtv" else value


def _bgeometrics(world: MacroWorld, ask: Ask) -> Answer:
    name, has_key = ask.path.removeprefix("/v1/"), "authorization" in ask.headers
    if name not in _BGEOMETRICS:
        return Answer(404, b'{"status":404,"error":"Not Found"}')
    if name.startswith("exchange") and not has_key:
        return Answer(403, b'{"status":403,"error":"Forbidden"}')
    days = world.days("bgeometrics", _since(ask.query.get("startday")), has_key)
    key, what = _BGEOMETRICS[name], "BTC_netflow" if name.startswith("exchange") else name
    told = ((day, world.tell("bgeometrics", what, day, world.value("bgeometrics", what, day))) for day in days)
    return _json([{"d": _day(day), "unixTs": day, key: value} for day, value in told])


def _etherscan(world: MacroWorld, ask: Ask) -> Answer:
    if not ask.query.get("apikey"):
        return _json({"status": "0", "message": "NOTOK", "result": "Missing/Invalid API Key"})
    if ask.path != "/v2/api":
        return _json({"status": "0", "message": "NOTOK", "result": "You are using a deprecated V1 endpoint"})
    block = world.block()
    price = world.tell("etherscan", "gas", block, Decimal(world.gas_wei("etherscan", block)).scaleb(-9))
    low, high = price - Decimal("0.01"), price + Decimal("0.1")
    result = {
        "LastBlock": str(block), "SafeGasPrice": str(low), "ProposeGasPrice": str(price), "FastGasPrice": str(high),
        "suggestBaseFee": str(low), "gasUsedRatio": "0.48,0.51,0.62,0.33,0.55",
    }  # fmt: skip
    return _json({"status": "1", "message": "OK", "result": result})


def _jsonrpc(world: MacroWorld, ask: Ask) -> Answer:
    block = world.block() - (10_000 if _is(world, "jsonrpc", "stuck") else 0)
    method, params = ask.body["method"], ask.body["params"]
    result: object
    if method == "eth_feeHistory":
        count = int(params[0], 16)
        blocks = range(block - count + 1, block + 2)
        tip = 10_000_000
        fees = [hex(world.gas_wei("jsonrpc", one) - tip) for one in blocks]
        result = {
            "oldestBlock": hex(blocks[0]), "baseFeePerGas": fees, "gasUsedRatio": [Decimal("0.5")] * count,
            "reward": [[hex(tip)]] * count,
        }  # fmt: skip
        price = Decimal(world.gas_wei("jsonrpc", block + 1)).scaleb(-9)
        world.tell("jsonrpc", "gas", block * BLOCK_S, price)
    elif method == "eth_getBlockByNumber":
        number = int(params[0], 16)
        result = {"number": hex(number), "timestamp": hex(number * BLOCK_S)}
    else:
        return _json({"jsonrpc": "2.0", "id": ask.body["id"], "error": {"code": -32601, "message": "no such method"}})
    return _json({"jsonrpc": "2.0", "id": ask.body["id"], "result": result})


def _goldrush(world: MacroWorld, ask: Ask) -> Answer:
    if "authorization" not in ask.headers:
        return Answer(401, b'{"data":null,"error":true,"error_message":"No valid API key","error_code":401}')
    block = world.block()
    wei = world.gas_wei("goldrush", block)
    world.tell("goldrush", "gas", block * BLOCK_S, Decimal(wei).scaleb(-9))
    at = dt.datetime.fromtimestamp(block * BLOCK_S, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.281484048Z")
    items = [{"gas_price": str(wei), "interval": "Last 1 minute"}, {"gas_price": "1", "interval": "Last 3 minutes"}]
    data = {"updated_at": at, "chain_id": 1, "chain_name": "eth-mainnet", "event_type": "erc20", "items": items}
    return _json({"data": data, "error": False, "error_message": None, "error_code": None})


def _dune(world: MacroWorld, ask: Ask) -> Answer:
    if not ask.headers.get("x-dune-api-key"):
        return Answer(401, b'{"error":"invalid API Key"}')
    number = ask.path.split("/")[2]
    if number not in DUNE_QUERIES:
        return Answer(404, b'{"error":"not found: Query not found or private"}')
    what = DUNE_QUERIES[number]
    days = world.days("dune", int(world.now_s()) - 20 * DAY_S)
    today = int(world.now_s()) // DAY_S * DAY_S
    rows: list[dict[str, object]] = []
    for day in [*days, today] if days else []:  # the running day is in it, as a query would have it
        ts = f"{_day(day)} 00:00:00.000 UTC"
        if what == "stables":
            for token in ("USDT", "USDC"):
                value = world.tell("dune", f"{token}_netflow", day, world.value("dune", f"{token}_netflow", day))
                rows.append({"ts": ts, "token_symbol": token, "netflow_usd": value})
        else:
            rows.append({"ts": ts, "value": world.tell("dune", what, day, world.value("dune", what, day))})
    ended = dt.datetime.fromtimestamp(world.now_s() - 60, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.123456Z")
    return _json({"state": "QUERY_STATE_COMPLETED", "execution_ended_at": ended, "result": {"rows": rows}})


DUNE_QUERIES = {"1001": "stables", "1002": "ETH_netflow", "1003": "SOL_netflow"}
"""Saved queries by number."""


def _bitquery(world: MacroWorld, ask: Ask) -> Answer:
    if "authorization" not in ask.headers:
        return Answer(401, b"Unauthorized")
    query, variables = ask.body["query"], ask.body["variables"]
    chain = "Solana" if "Solana" in query else "EVM"
    asset = "SOL" if chain == "Solana" else "stables" if "SmartContract" in query else "ETH"
    days = world.days("bitquery", _since(str(variables["from"]).removesuffix("Z")))
    flows = {
        name: [
            {
                "Block": {"Date": _day(day)},
                "sum": format(world.tell("bitquery", what, day, world.value("bitquery", what, day)), "f"),
            }
            for day in days
        ]
        for name, what in (("inflow", f"{asset}_in"), ("outflow", f"{asset}_out"))
    }
    return _json({"data": {chain: flows}})


_VENDORS: dict[str, _Vendor] = {
    "glassnode": _glassnode, "coinmetrics": _coinmetrics, "bgeometrics": _bgeometrics, "etherscan": _etherscan,
    "jsonrpc": _jsonrpc, "dune": _dune, "goldrush": _goldrush, "bitquery": _bitquery,
}  # fmt: skip


def _error(status: int, body: object) -> Answer:
    return Answer(status, json.dumps(body, separators=(",", ":")).encode())


_ERRORS: dict[str, dict[str, Answer]] = {
    "glassnode": {"error": _error(403, {"message": "plan"}), "limit": _error(429, {"message": "rate limit"})},
    "coinmetrics": {
        "error": _error(200, {"error": {"type": "forbidden", "message": "Requested metric is not available"}}),
        "limit": _error(200, {"error": {"type": "rate_limit", "message": "Too many requests"}}),
    },
    "bgeometrics": {
        "error": _error(200, {"status": 400, "error": "Bad Request"}),
        "limit": _error(200, {"status": 429, "error": "Too Many Requests"}),
    },
    "etherscan": {
        "error": _error(200, {"status": "0", "message": "NOTOK", "result": "Invalid API Key"}),
        "limit": _error(
            200, {"status": "0", "message": "NOTOK", "result": "Max calls per sec rate limit reached (3/sec)"}
        ),
    },
    "jsonrpc": {
        "error": _error(200, {"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "method not found"}}),
        "limit": _error(200, {"jsonrpc": "2.0", "id": 1, "error": {"code": -32005, "message": "limit exceeded"}}),
    },
    "dune": {
        "error": _error(200, {"state": "QUERY_STATE_FAILED", "error": {"message": "table not found"}}),
        "limit": _error(200, {"state": "QUERY_STATE_PENDING"}),
    },
    "goldrush": {
        "error": _error(200, {"data": None, "error": True, "error_message": "no credits", "error_code": 402}),
        "limit": _error(200, {"data": None, "error": True, "error_message": "too many", "error_code": 429}),
    },
    "bitquery": {
        "error": _error(200, {"errors": [{"message": "Cannot query field"}]}),
        "limit": _error(200, {"errors": [{"message": "rate limit exceeded"}]}),
    },
}
"""How each says "no" and "too many", most of them with HTTP 200."""
