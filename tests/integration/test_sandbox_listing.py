"""The sandbox's lists of pairs at every vendor, asked by an HTTP client, and what scripts do to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest

from sandbox.config import Config
from sandbox.venue import Sandbox

START_MS = 1_790_000_040_000
DAY_MS = 86_400_000
CONFIG = Config(
    symbols=("BTCUSDT", "ETHUSDT"), rate=4.0, quiet_every=0, history_minutes=20, start=START_MS, hold=True,
    listing=220, okx=True,
)  # fmt: skip


@pytest.fixture
async def api() -> AsyncIterator[httpx.AsyncClient]:
    async with Sandbox(CONFIG) as venue, httpx.AsyncClient(base_url=venue.rest_url, timeout=10) as client:
        yield client


async def get(api: httpx.AsyncClient, path: str, **params: Any) -> Any:
    answer = await api.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def order(api: httpx.AsyncClient, kind: str, **args: Any) -> None:
    answer = await api.post("/_fault", json={"kind": kind, **args})
    assert answer.status_code == 200, answer.text


async def by_symbol(api: httpx.AsyncClient, path: str) -> dict[str, Any]:
    body = await get(api, path)
    return {row["symbol"]: row for row in (body if isinstance(body, list) else body["symbols"])}


async def test_spot_lists_agree_with_the_judge_and_each_other(api: httpx.AsyncClient):
    told = {row["symbol"]: row for row in (await get(api, "/_oracle/listing"))["pairs"]}
    info, day, book = [
        await by_symbol(api, f"/api/v3/{p}") for p in ("exchangeInfo", "ticker/24hr", "ticker/bookTicker")
    ]
    assert list(info) == list(day) == list(book) == list(told) and len(info) > 245
    for symbol, row in info.items():
        facts = told[symbol]
        assert (row["status"], row["baseAsset"], row["quoteAsset"]) == (facts["status"], facts["base"], facts["quote"])
        assert Decimal(row["filters"][0]["tickSize"]) == Decimal(facts["tick"])
        assert (book[symbol]["bidPrice"], book[symbol]["askPrice"]) == (facts["now"]["bid"], facts["now"]["ask"])
        assert (day[symbol]["lastPrice"], day[symbol]["quoteVolume"]) == (
            *(facts["now"]["last"], facts["now"]["quote_volume"]),
        )
        if row["status"] == "TRADING":
            assert 0 < Decimal(book[symbol]["bidPrice"]) < Decimal(book[symbol]["askPrice"])
            assert all(Decimal(book[symbol][n]) % Decimal(facts["tick"]) == 0 for n in ("bidPrice", "askPrice"))
        else:
            assert book[symbol]["bidPrice"] == book[symbol]["askPrice"] == "0.00000000"
    odd = await get(api, "/api/v3/ticker/24hr", symbol="币安人生USDT", type="MINI")
    assert odd["symbol"] == "币安人生USDT" and "bidPrice" not in odd


async def test_the_traded_pairs_have_the_figures_of_their_trades(api: httpx.AsyncClient):
    day = await get(api, "/api/v3/ticker/24hr", symbol="BTCUSDT")
    assert list(day)[:8] == [
        *("symbol", "priceChange", "priceChangePercent", "weightedAvgPrice", "prevClosePrice", "lastPrice", "lastQty"),
        "bidPrice",
    ]
    minutes = await get(api, "/api/v3/klines", symbol="BTCUSDT", interval="1m", limit=1000)
    assert Decimal(day["volume"]) == sum(Decimal(row[5]) for row in minutes)
    assert day["count"] == sum(row[8] for row in minutes) > 1000
    assert (day["highPrice"], day["lastPrice"]) == (max(row[2] for row in minutes), minutes[-1][4])
    (last,) = await get(api, "/api/v3/aggTrades", symbol="BTCUSDT", limit=1)
    assert day["lastPrice"] == last["p"] and day["lastId"] == last["a"]


async def test_the_first_daily_kline_tells_the_age(api: httpx.AsyncClient):
    told = {row["symbol"]: row for row in (await get(api, "/_oracle/listing"))["pairs"]}
    for symbol in ("BTCUSDT", "XRPUSDT", "币安人生USDT"):
        (row,) = await get(api, "/api/v3/klines", symbol=symbol, interval="1d", startTime=0, limit=1)
        assert row[0] == told[symbol]["listed_ms"] and len(row) == 12
    (row,) = await get(api, "/api/v3/klines", symbol="BTCUSDT", interval="1d", limit=1)
    minutes = await get(api, "/api/v3/klines", symbol="BTCUSDT", interval="1m", limit=1000)
    assert row[0] == START_MS // DAY_MS * DAY_MS and row[8] == sum(minute[8] for minute in minutes)
    assert await get(api, "/api/v3/klines", symbol="XRPUSDT", interval="1m") == []
    assert await get(api, "/api/v3/aggTrades", symbol="XRPUSDT") == []


@pytest.mark.parametrize(
    ("path", "params", "weight"),
    [
        ("exchangeInfo", {}, 20),
        ("ticker/24hr", {}, 80),
        ("ticker/24hr", {"symbol": "BTCUSDT"}, 2),
        ("ticker/24hr", {"symbols": '["BTCUSDT","ETHUSDT"]'}, 2),
        ("ticker/bookTicker", {}, 4),
        ("ticker/bookTicker", {"symbol": "BTCUSDT"}, 2),
        ("klines", {"symbol": "BTCUSDT", "interval": "1d", "startTime": 0, "limit": 1}, 2),
    ],
)
async def test_weights(path: str, params: dict[str, Any], weight: int):
    async with Sandbox(replace(CONFIG, okx=False)) as venue, httpx.AsyncClient(base_url=venue.rest_url) as api:
        answer = await api.get(f"/api/v3/{path}", params=params)
        assert (answer.status_code, answer.headers["X-MBX-USED-WEIGHT-1M"]) == (200, str(weight))


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("ticker/24hr", {"symbol": "NOPE"}, -1121),
        ("ticker/24hr", {"symbol": "BTCUSDT", "type": "HUGE"}, -1130),
        ("ticker/bookTicker", {"symbols": "nonsense"}, -1100),
        ("ticker/bookTicker", {"symbol": "BTCUSDT", "symbols": "[]"}, -1128),
        ("exchangeInfo", {"symbol": "BTCUSDT", "symbolStatus": "TRADING"}, -1128),
    ],
)
async def test_errors(api: httpx.AsyncClient, path: str, params: dict[str, Any], code: int):
    answer = await api.get(f"/api/v3/{path}", params=params)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


async def test_scripts_change_the_market(api: httpx.AsyncClient):
    await order(api, "list", symbol="ETHUSDT", spread_pct="0.5", volume="77000000", move_pct=-12)
    book = await get(api, "/api/v3/ticker/bookTicker", symbol="ETHUSDT")
    bid, ask = Decimal(book["bidPrice"]), Decimal(book["askPrice"])
    assert abs((ask - bid) / (ask + bid) * 200 - Decimal("0.5")) < Decimal("0.01")
    day = await get(api, "/api/v3/ticker/24hr", symbol="ETHUSDT")
    assert Decimal(day["quoteVolume"]) == 77_000_000 and abs(Decimal(day["priceChangePercent"]) + 12) < 1
    await order(api, "list", symbol="ETHUSDT", status="BREAK")
    info = await by_symbol(api, "/api/v3/exchangeInfo")
    assert info["ETHUSDT"]["status"] == "BREAK"
    await order(api, "delist", symbol="XRPUSDT")
    await order(api, "list", symbol="FRESHUSDT", age_days=3, okx=True)
    info = await by_symbol(api, "/api/v3/exchangeInfo")
    assert "XRPUSDT" not in info and info["FRESHUSDT"]["baseAsset"] == "FRESH"
    assert (await api.get("/api/v3/ticker/24hr", params={"symbol": "XRPUSDT"})).json()["code"] == -1121
    (row,) = await get(api, "/api/v3/klines", symbol="FRESHUSDT", interval="1d", startTime=0, limit=1)
    assert row[0] == (START_MS // DAY_MS - 3) * DAY_MS
    await order(api, "relist")
    info = await by_symbol(api, "/api/v3/exchangeInfo")
    assert "XRPUSDT" in info and "FRESHUSDT" not in info and info["ETHUSDT"]["status"] == "TRADING"
    for wrong in ({"symbol": "ETHUSDT", "colour": 1}, {"volume": 1}, {"symbol": "ETHUSDT", "price": 1}):
        assert (await api.post("/_fault", json={"kind": "list", **wrong})).status_code == 400
    for wrong in ({"kind": "delist", "symbol": "NOPE"}, {"kind": "delist", "symbol": "ETHUSDT", "where": "mars"}):
        assert (await api.post("/_fault", json=wrong)).status_code == 400


async def test_nights_pass_in_rest_alone(api: httpx.AsyncClient):
    await order(api, "night", days=2)
    later = START_MS + 2 * DAY_MS
    assert await get(api, "/api/v3/time") == await get(api, "/fapi/v1/time") == {"serverTime": later}
    assert (await get(api, "/api/v5/public/time"))["data"] == [{"ts": str(later)}]
    assert (await get(api, "/api/v3/ticker/24hr", symbol="XRPUSDT"))["closeTime"] == later
    assert (await get(api, "/_oracle/status"))["venue_ms"] == START_MS
    await order(api, "list", symbol="FRESHUSDT", age_days=1)
    await order(api, "night", by_ms=3_600_000)
    rows = await get(api, "/api/v3/klines", symbol="FRESHUSDT", interval="1d", startTime=0)
    assert [row[0] for row in rows] == [later // DAY_MS * DAY_MS - DAY_MS, later // DAY_MS * DAY_MS]
    await order(api, "night", to_ms=0)
    assert await get(api, "/api/v3/time") == {"serverTime": START_MS}


async def test_every_vendor_and_endpoint_falls_ill_alone(api: httpx.AsyncClient):
    async def ill(answer: str, **args: Any) -> httpx.Response:
        await order(api, "clear")
        await order(api, "rest_answer", path="ticker/24hr", answer=answer, **args)
        assert (await api.get("/api/v3/ticker/bookTicker")).status_code == 200
        return await api.get("/api/v3/ticker/24hr")

    limited = await ill("status", status=429, retry_after_s=7)
    assert (limited.status_code, limited.headers["Retry-After"], limited.json()["code"]) == (429, "7", -1003)
    assert (await ill("status", status=418, retry_after_s=120)).status_code == 418
    assert (await ill("status", status=503)).status_code == 503
    assert (await ill("empty")).json() == []
    assert (await ill("html")).text.startswith("<html>")
    with pytest.raises(json.JSONDecodeError):
        (await ill("garbage")).json()
    assert (await ill("error", code=-1000, msg="sorry")).json() == {"code": -1000, "msg": "sorry"}
    with pytest.raises(httpx.RemoteProtocolError):
        await ill("cut")
    await order(api, "clear")
    await order(api, "rest_answer", path="ticker/24hr", answer="slow", by_s=30)
    with pytest.raises(httpx.ReadTimeout):
        await api.get("/api/v3/ticker/24hr", timeout=0.1)
    await order(api, "clear")
    for venue, path in (("okx", "/api/v5/public/time"), ("coingecko", "/api/v3/coins/markets?vs_currency=usd")):
        await order(api, "rest_answer", venue=venue, answer="status", status=500)
        assert (await api.get(path)).status_code == 500 and (await api.get("/api/v3/time")).status_code == 200
        await order(api, "clear", venue=venue)
        await order(api, "rest_down", venue=venue, for_s=30)
        assert (await api.get(path)).status_code == 503
        await order(api, "clear", venue=venue)
        assert (await api.get(path)).status_code == 200
    asked = {(row["path"], row["status"]): row["count"] for row in (await get(api, "/_oracle/rest"))["asked"]}
    assert asked["/api/v3/ticker/24hr", 429] == 1 and asked["/api/v5/public/time", 500] == 1
    for wrong in ({"answer": "funny"}, {"answer": "slow", "venue": "mars"}):
        assert (await api.post("/_fault", json={"kind": "rest_answer", **wrong})).status_code == 400


async def test_latency_of_all_vendors(api: httpx.AsyncClient):
    loop = asyncio.get_running_loop()
    await order(api, "rest_latency", by_ms=150)
    began = loop.time()
    await asyncio.gather(*(api.get(path) for path in ("/api/v3/time", "/fapi/v1/time", "/api/v5/public/time")))
    assert 0.15 <= loop.time() - began < 5
    assert (await get(api, "/_oracle/rest"))["in_flight_max"]["binance"] >= 1


async def test_okx_lists(api: httpx.AsyncClient):
    spot, swaps = [(await get(api, "/api/v5/public/instruments", instType=kind))["data"] for kind in ("SPOT", "SWAP")]
    ids = {row["instId"] for row in spot}
    assert {"BTC-USDT", "ETH-USDT"} < ids and len(ids) == len(spot) > 80
    assert all(row["instId"] == f"{row['baseCcy']}-{row['quoteCcy']}" and row["ctVal"] == "" for row in spot)
    assert all(row["instId"] == f"{row['uly']}-SWAP" and row["baseCcy"] == "" for row in swaps)
    assert {row["ctVal"] for row in swaps if row["instId"] == "BTC-USDT-SWAP"} == {"0.01"}
    await order(api, "delist", symbol="ETHUSDT", where="okx")
    spot = (await get(api, "/api/v5/public/instruments", instType="SPOT"))["data"]
    assert "ETH-USDT" not in {row["instId"] for row in spot} and len(spot) == len(ids) - 1
    gone = await get(api, "/api/v5/market/candles", instId="ETH-USDT")
    assert gone == {"code": "51001", "msg": "Instrument ID doesn't exist.", "data": []}


async def test_coins(api: httpx.AsyncClient):
    async def coins(**params: Any) -> list[dict[str, Any]]:
        return await get(api, "/api/v3/coins/markets", vs_currency="usd", **params)

    pages = [await coins(per_page=200, page=page) for page in (1, 2)]
    rows = [row for page in pages for row in page]
    assert len(pages[0]) == 200 > len(pages[1]) and len({row["id"] for row in rows}) == len(rows)
    caps = [row["market_cap"] for row in rows if row["market_cap"]]
    assert caps == sorted(caps, reverse=True) and any(row["market_cap"] is None for row in rows)
    symbols = [row["symbol"] for row in rows]
    assert symbols.count("sol") == 3 and all(symbol == symbol.lower() for symbol in symbols)
    stable = {row["symbol"] for row in await coins(category="stablecoins")}
    assert {"usdc", "fdusd", "dai"} <= stable and "btc" not in stable
    assert "wbtc" in {row["symbol"] for row in await coins(category="wrapped-tokens")}
    assert "btcup" in {row["symbol"] for row in await coins(category="leveraged-tokens")}
    await order(api, "list", symbol="ETHUSDT", mcap=5)
    assert [row["market_cap"] for row in await coins(ids="ethereum")] == [5]
    await order(api, "delist", symbol="ETHUSDT", where="coingecko")
    assert await coins(ids="ethereum") == []
    changed = {"answer": "set", "symbol": "bitcoin", "fields": {"market_cap": None}}
    await order(api, "rest_answer", venue="coingecko", **changed)
    told = {row["id"]: row["market_cap"] for row in await coins(ids="bitcoin,solana")}
    assert told["bitcoin"] is None and told["solana"] > 0
    assert (await api.get("/api/v3/coins/markets")).status_code == 422
    assert (await api.get("/api/v3/coins/markets?vs_currency=usd&category=none")).status_code == 404


async def test_coingecko_limits():
    config = replace(CONFIG, okx=False, coingecko_calls_per_min=3, coingecko_key="demo")
    async with Sandbox(config) as venue, httpx.AsyncClient(base_url=venue.rest_url) as api:
        path = "/api/v3/coins/markets?vs_currency=usd&per_page=1"
        assert (await api.get(path)).json()["status"]["error_code"] == 10002
        assert (await api.get(path, headers={"x-cg-pro-api-key": "demo"})).json()["status"]["error_code"] == 10011
        assert len((await api.get(path, headers={"x-cg-demo-api-key": "demo"})).json()) == 1
        refused = await api.get(path, headers={"x-cg-demo-api-key": "demo"})
        assert refused.status_code == 429 and 1 <= int(refused.headers["Retry-After"]) <= 60
