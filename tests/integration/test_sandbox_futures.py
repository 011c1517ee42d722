"""The sandbox's USD-M futures and OKX's swaps, asked by an HTTP client, beside what the judge tells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from sandbox import futures_rest
from sandbox.config import Config
from sandbox.venue import Sandbox

START_MS = 1_790_000_040_000
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
CONFIG = Config(
    symbols=("BTCUSDT", "ETHUSDT", "SOLUSDT", "XLMUSDT"), rate=4.0, history_minutes=20, start=START_MS, hold=True,
    listing=60, okx=True,
)  # fmt: skip


@pytest.fixture
async def api() -> AsyncIterator[httpx.AsyncClient]:
    async with Sandbox(CONFIG) as venue, httpx.AsyncClient(base_url=venue.rest_url, timeout=10) as client:
        yield client


async def get(api: httpx.AsyncClient, path: str, **params: Any) -> Any:
    answer = await api.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def okx(api: httpx.AsyncClient, path: str, **params: Any) -> list[dict[str, str]]:
    body = await get(api, f"/api/v5/public/{path}", **params)
    assert body["code"] == "0", body
    return body["data"]


async def order(api: httpx.AsyncClient, kind: str, **args: Any) -> None:
    answer = await api.post("/_fault", json={"kind": kind, "venue": "futures", **args})
    assert answer.status_code == 200, answer.text


async def truth(api: httpx.AsyncClient, symbol: str, at_ms: int, venue: str = "futures") -> dict[str, Any]:
    params = {"symbol": symbol, "from_ms": at_ms, "to_ms": at_ms + 1000, "venue": venue}
    (row,) = await get(api, "/_oracle/perps", **params)
    return row


async def test_values_are_the_judges(api: httpx.AsyncClient):
    (one, held), every = (
        [await get(api, f"/fapi/v1/{path}", symbol="SOLUSDT") for path in ("premiumIndex", "openInterest")],
        await get(api, "/fapi/v1/premiumIndex"),
    )
    told = await truth(api, "SOLUSDT", START_MS)
    assert list(one) == [
        *("symbol", "markPrice", "indexPrice", "estimatedSettlePrice", "lastFundingRate", "interestRate"),
        *("nextFundingTime", "time"),
    ]
    assert one["time"] == held["time"] == told["time"] == START_MS
    assert (one["lastFundingRate"], one["markPrice"], one["nextFundingTime"], held["openInterest"]) == (
        *(told["funding"], told["mark"], told["next_funding_time"], told["open_interest"]),
    )
    assert one in every and one["nextFundingTime"] % (4 * HOUR_MS) == 0
    (last,) = await get(api, "/api/v3/aggTrades", symbol="SOLUSDT", limit=1)
    assert one["indexPrice"] == last["p"]
    quarter = [row for row in every if "_" in row["symbol"]]
    assert [(row["lastFundingRate"], row["nextFundingTime"]) for row in quarter] == [("", 0)]


async def test_contracts(api: httpx.AsyncClient):
    info = await get(api, "/fapi/v1/exchangeInfo")
    rows = {row["symbol"]: row for row in info["symbols"]}
    assert info["rateLimits"][0]["limit"] == 2400 and rows["BTCUSDT"]["contractType"] == "PERPETUAL"
    thousand = [row for symbol, row in rows.items() if symbol.startswith("1000")]
    assert thousand and all(row["baseAsset"].startswith("1000") for row in thousand)
    assert [row["contractType"] for row in rows.values() if "_" in row["symbol"]] == ["CURRENT_QUARTER"]
    spot = {row["symbol"] for row in (await get(api, "/api/v3/exchangeInfo"))["symbols"]}
    assert "PEPEUSDT" in spot and not {row["symbol"] for row in thousand} & spot
    adjusted = {row["symbol"]: row["fundingIntervalHours"] for row in await get(api, "/fapi/v1/fundingInfo")}
    assert (adjusted["SOLUSDT"], adjusted["XLMUSDT"]) == (4, 1) and "BTCUSDT" not in adjusted
    await order(api, "delist", symbol="BTCUSDT", where="futures")
    assert (await api.get("/fapi/v1/openInterest?symbol=BTCUSDT")).json()["code"] == -1121
    await order(api, "list", symbol="ETHUSDT", perp_status="SETTLING", open_interest=500)
    assert (await api.get("/fapi/v1/openInterest?symbol=ETHUSDT")).json()["code"] == -4108


async def test_funding_history(api: httpx.AsyncClient):
    async def rates(**params: Any) -> list[dict[str, Any]]:
        return await get(api, "/fapi/v1/fundingRate", **params)

    span = {"symbol": "BTCUSDT", "from_ms": START_MS - 30 * DAY_MS, "to_ms": START_MS + 1}
    told = (await get(api, "/_oracle/funding", **span))["settled"]
    rows = await rates(symbol="BTCUSDT", startTime=START_MS - 30 * DAY_MS)
    assert [(row["fundingTime"], row["fundingRate"]) for row in rows] == [(row["time"], row["rate"]) for row in told]
    assert len(rows) == 90 and all(0 <= row["fundingTime"] % (8 * HOUR_MS) < 10 for row in rows)
    assert await rates(symbol="BTCUSDT", limit=2) == rows[-2:]
    assert await rates(symbol="BTCUSDT", startTime=rows[3]["fundingTime"], limit=2) == rows[3:5]
    until = {"startTime": rows[0]["fundingTime"], "endTime": rows[1]["fundingTime"]}
    assert await rates(symbol="BTCUSDT", **until) == rows[:2]
    every = await rates()
    assert len(every) == 200 and len({row["symbol"] for row in every}) > 20
    assert [row["fundingTime"] for row in every] == sorted(row["fundingTime"] for row in every)
    await order(api, "lose_funding", symbol="BTCUSDT", last=3)
    assert await rates(symbol="BTCUSDT", limit=2) == rows[-5:-3]
    assert len((await get(api, "/_oracle/funding", **span))["lost"]) == 3
    await order(api, "list", symbol="BTCUSDT", special_funding=True)
    kinds = [row["rateType"] for row in await rates(symbol="BTCUSDT", startTime=START_MS - 7 * DAY_MS)]
    assert kinds.count("Special") == 1 and kinds.count("Regular") == 18


async def test_open_interest_history(api: httpx.AsyncClient):
    rows = await get(api, "/futures/data/openInterestHist", symbol="BTCUSDT", period="5m", limit=3)
    assert [int(row["timestamp"]) for row in rows] == [START_MS // 300_000 * 300_000 - i * 300_000 for i in (2, 1, 0)]
    for row in rows:
        told = await truth(api, "BTCUSDT", int(row["timestamp"]))
        assert row["sumOpenInterest"] == told["open_interest"]
    for params in (
        {"period": "7m"},
        {"period": "5m", "startTime": START_MS - 40 * DAY_MS},
        {"period": "5m", "limit": 0},
    ):
        answer = await api.get("/futures/data/openInterestHist", params={"symbol": "BTCUSDT", **params})
        assert (answer.status_code, answer.json()["code"]) == (400, -1130)


async def test_weights_pools_and_bans(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(futures_rest, "FUNDING_CALLS_MAX", 3)
    config = replace(CONFIG, okx=False, futures_weight_limit=30, ban_after=1)
    async with Sandbox(config) as venue, httpx.AsyncClient(base_url=venue.rest_url) as api:
        paths = (
            "v1/premiumIndex", "v1/premiumIndex?symbol=BTCUSDT", "v1/openInterest?symbol=BTCUSDT", "v1/exchangeInfo",
            "v1/fundingInfo", "v1/fundingRate", "v1/fundingRate?symbol=BTCUSDT", "v1/premiumIndex",
        )  # fmt: skip
        answers = [await api.get(f"/fapi/{path}") for path in paths]
        used = [answer.headers["X-MBX-USED-WEIGHT-1M"] for answer in answers]
        assert used == ["10", "11", "12", "13", "13", "13", "13", "23"]
        full = await api.get("/fapi/v1/fundingInfo")
        assert (full.status_code, full.json()["code"]) == (429, -1003) and int(full.headers["Retry-After"]) > 200
        answers = [await api.get("/fapi/v1/premiumIndex") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [429, 418]
        assert int(answers[1].headers["Retry-After"]) == 120
        assert (await api.get("/api/v3/ping")).status_code == 200  # spot counts for itself


async def test_every_endpoint_falls_ill_alone(api: httpx.AsyncClient):
    held = "/fapi/v1/openInterest"
    await order(api, "rest_answer", path="openInterest", symbol="BTCUSDT", answer="status", status=500)
    assert (await api.get(held, params={"symbol": "BTCUSDT"})).status_code == 500
    assert (await get(api, held, symbol="ETHUSDT"))["symbol"] == "ETHUSDT"
    await order(api, "clear")
    for value in (None, ""):
        await order(
            api, "rest_answer", path="premiumIndex", symbol="ETHUSDT", answer="set", fields={"lastFundingRate": value}
        )
        rows = {row["symbol"]: row for row in await get(api, "/fapi/v1/premiumIndex")}
        assert rows["ETHUSDT"]["lastFundingRate"] == value and float(rows["BTCUSDT"]["lastFundingRate"])
        await order(api, "clear")
    await order(api, "rest_answer", path="openInterest", answer="shift", field="time", by_ms=9000, symbol="BTCUSDT")
    assert (await get(api, held, symbol="BTCUSDT"))["time"] == START_MS + 9000
    await order(api, "clear")
    await order(api, "rest_answer", path="openInterest", answer="old", by_ms=20_000, every=2)
    told = [await get(api, held, symbol="BTCUSDT") for _ in range(4)]
    assert [row["time"] - START_MS for row in told] == [0, -20_000, 0, -20_000]
    assert told[1]["openInterest"] == (await truth(api, "BTCUSDT", START_MS - 20_000))["open_interest"]
    assert told[1]["openInterest"] != told[0]["openInterest"]
    await order(api, "clear")
    await order(api, "rest_answer", path="premiumIndex", symbol="BTCUSDT", answer="without", next=1)
    assert "BTCUSDT" not in {row["symbol"] for row in await get(api, "/fapi/v1/premiumIndex")}
    assert "BTCUSDT" in {row["symbol"] for row in await get(api, "/fapi/v1/premiumIndex")}


async def test_a_wrong_clock_is_this_venues_alone(api: httpx.AsyncClient):
    await order(api, "skew", ms=-8000)
    assert await get(api, "/fapi/v1/time") == {"serverTime": START_MS - 8000}
    assert (await get(api, "/fapi/v1/openInterest", symbol="BTCUSDT"))["time"] == START_MS - 8000
    assert await get(api, "/api/v3/time") == {"serverTime": START_MS}
    await order(api, "clear")
    assert await get(api, "/fapi/v1/time") == {"serverTime": START_MS}


async def test_okx_swaps(api: httpx.AsyncClient):
    told = await truth(api, "SOLUSDT", START_MS, "okx")
    assert told["funding"] != (await truth(api, "SOLUSDT", START_MS))["funding"]
    (rate,) = await okx(api, "funding-rate", instId="SOL-USDT-SWAP")
    assert float(rate["fundingRate"]) == float(told["funding"]) and rate["ts"] == str(START_MS)
    assert int(rate["nextFundingTime"]) - int(rate["fundingTime"]) == 4 * HOUR_MS
    every = await okx(api, "funding-rate", instId="ANY")
    assert rate in every and len(every) == len(await okx(api, "instruments", instType="SWAP"))
    history = await okx(api, "funding-rate-history", instId="SOL-USDT-SWAP", limit="5")
    times = [int(row["fundingTime"]) for row in history]
    assert times == [int(rate["fundingTime"]) - step * 4 * HOUR_MS for step in (1, 2, 3, 4, 5)]
    assert history[0]["realizedRate"] == rate["settFundingRate"]
    older = await okx(api, "funding-rate-history", instId="SOL-USDT-SWAP", after=str(times[1]), limit="2")
    newer = await okx(api, "funding-rate-history", instId="SOL-USDT-SWAP", before=str(times[2]))
    assert (older, newer) == (history[2:4], history[:2])
    held = await okx(api, "open-interest", instType="SWAP", instId="SOL-USDT-SWAP")
    assert held in [[row] for row in await okx(api, "open-interest", instType="SWAP")]
    assert float(held[0]["oiCcy"]) == float(told["open_interest"])


async def test_okx_errors_and_limits(api: httpx.AsyncClient):
    for path, code in (
        ("funding-rate?instId=NO-USDT-SWAP", "51001"), ("funding-rate", "50014"), ("open-interest", "51000"),
    ):  # fmt: skip
        assert (await api.get(f"/api/v5/public/{path}")).json()["code"] == code
    await api.post(
        "/_fault", json={"kind": "rest_answer", "venue": "okx", "answer": "error", "code": "50026", "next": 1}
    )
    inside = await api.get("/api/v5/public/open-interest?instType=SWAP")
    assert (inside.status_code, inside.json()["code"], inside.json()["data"]) == (200, "50026", [])
    codes = [(await get_code(api, "BTC")) for _ in range(11)]
    assert codes == ["0"] * 10 + ["50011"] and await get_code(api, "ETH") == "0"


async def get_code(api: httpx.AsyncClient, base: str) -> str:
    return (await api.get(f"/api/v5/public/funding-rate?instId={base}-USDT-SWAP")).json()["code"]
