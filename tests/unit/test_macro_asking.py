"""Doors and pulls without a database: addresses as they were given, texts that can be stored, nobody starved."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from pydantic import SecretStr

from common.clock import Clock
from common.errors import BadInput, ConfigError, Refused, TryLater
from macro_ingestor.configured import Configured, configure
from macro_ingestor.door import Door, DoorLimits, QuotaSpent
from macro_ingestor.readings import COLUMNS, DAY_S, SLOT_COLUMNS
from tests.unit.macro_desk import (
    TestClock,
    book,
    open_door,
    set_up,
    settings,
)


@pytest.mark.parametrize(
    ("given", "path", "called"),
    [
        ("https://node.example/v3/KEY", "", "https://node.example/v3/KEY"),
        ("https://node.example/rpc?apikey=KEY", "", "https://node.example/rpc?apikey=KEY"),
        ("https://node.example/rpc/", "", "https://node.example/rpc/"),
        ("https://vendor.example/v4", "/timeseries", "https://vendor.example/v4/timeseries"),
        ("https://vendor.example/v4/", "/timeseries", "https://vendor.example/v4/timeseries"),
    ],
)
async def test_an_address_is_called_as_it_was_given(given: str, path: str, called: str) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, content=b"{}")

    one = configure(settings(eth_rpc_url=SecretStr(given), onchain_sources="jsonrpc")).on["jsonrpc"]
    door = open_door(one, Clock(), answer)
    await door.get(path)
    await door.post(path, {})
    await door.close()
    assert seen == [called, called]


@pytest.mark.parametrize(
    "changes",
    [
        {"glassnode_api_key": SecretStr("abc\n")}, {"etherscan_api_key": SecretStr("ключ")},
        {"dune_api_key": SecretStr("a b"), "dune_queries": "eth_ex_netflow=1"},
        {"coinmetrics_url": "http://h:abc"}, {"coinmetrics_url": "http://h:99999"},
    ],
)  # fmt: skip
def test_what_no_call_could_carry_is_refused_at_the_start(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(settings(**changes))
    assert str(caught.value).startswith(next(iter(changes)).upper()) and "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "headers", "error", "wait_s", "calls"),
    [
        (401, {}, Refused, None, 1), (402, {}, Refused, None, 1), (403, {}, Refused, None, 1),
        (404, {}, Refused, None, 1), (302, {"Location": "http://elsewhere"}, Refused, None, 1),
        (429, {}, TryLater, None, 1), (429, {"Retry-After": "7"}, TryLater, 7.0, 1),
        (429, {"Retry-After": "Mon, 28 Sep 2026 02:01:00 GMT"}, TryLater, 60.0, 1),
        (429, {"X-Rate-Limit-Reset": "41"}, TryLater, 41.0, 1),
        (500, {}, TryLater, None, 2), (408, {}, TryLater, None, 2), (503, {"Retry-After": "9"}, TryLater, 9.0, 1),
        (200, {}, BadInput, None, 1),
    ],
)  # fmt: skip
async def test_what_a_status_means(
    status: int, headers: dict[str, str], error: type[Exception], wait_s: float | None, calls: int
) -> None:
    one = configure(settings(onchain_sources="coinmetrics")).on["coinmetrics"]
    limits = DoorLimits(attempts_max=2, retry_first_s=0.0001, retry_max_s=0.0002, answer_bytes_max=1_000)
    transport = httpx.MockTransport(
        lambda _: httpx.Response(status, headers=headers, content=b"x" * 1_001 * (status == 200))
    )
    door = Door(one, book, TestClock(), limits, transport)
    with pytest.raises(error) as caught:
        await door.get("/x")
    assert getattr(caught.value, "wait_s", None) == wait_s and door.calls_total == calls
    door.is_on_trial = True
    with pytest.raises(error):
        await door.get("/x")
    assert door.calls_total == calls + 1  # a single try


async def test_a_vendor_that_hangs_is_left_and_a_spent_quota_sends_nothing() -> None:
    one = configure(settings(onchain_sources="coinmetrics")).on["coinmetrics"]
    never = asyncio.Event()

    async def hang(request: httpx.Request) -> httpx.Response:
        await never.wait()
        raise AssertionError

    async def refuse(configured: Configured) -> bool:
        return False

    limits = DoorLimits(call_timeout_s=0.02, attempts_max=2, retry_first_s=0.0001, retry_max_s=0.0002)
    door = Door(one, book, Clock(), limits, httpx.MockTransport(hang))
    with pytest.raises(TryLater, match="TimeoutError"):
        await door.get("/x")
    assert door.calls_total == 2
    spent = Door(one, refuse, Clock(), limits, httpx.MockTransport(hang))
    with pytest.raises(QuotaSpent):
        await spent.get("/x")
    assert spent.calls_total == 0


async def test_what_a_vendor_says_can_be_stored() -> None:
    """PostgreSQL takes neither NUL nor half a surrogate pair for text."""
    clock, graves = TestClock(), list[str]()
    said = {
        "api.etherscan.io": httpx.Response(503, content=b"\x1f\x8b\x00\x00bad gateway"),
        "node.example": httpx.Response(200, content=b'{"error":{"code":1,"message":"\\ud800 \\u0000"}}'),
        "api.covalenthq.com": httpx.Response(200, content=b'{"error":false,"data":"\\udfff\\u0000"}'),
    }
    given = settings(
        onchain_sources="etherscan,jsonrpc,covalent", etherscan_api_key=SecretStr("k"),
        eth_rpc_url=SecretStr("http://node.example"), goldrush_api_key=SecretStr("k"),
    )  # fmt: skip
    desk, puller = set_up(given, clock, lambda request: said[request.url.host], graves)
    assert await puller.pull(SLOT_COLUMNS, clock.at_s) == 3
    texts = [*graves, *(a.error for a in desk.known.asks.values()), *(c.error for c in desk.known.circuits.values())]
    assert len(texts) == 7 and len(graves) == 1
    for text in texts:
        assert "\0" not in text
        text.encode()


async def test_a_column_that_always_fails_starves_no_other_one() -> None:
    clock, graves = TestClock(), list[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("exchanges_net") and request.url.params["a"] == "BTC":
            return httpx.Response(200, content=b"[[]]")
        time = clock.at_s // DAY_S * DAY_S - DAY_S
        return httpx.Response(200, content=json.dumps([{"t": time, "v": 1}]).encode())

    given = settings(onchain_sources="glassnode", glassnode_api_key=SecretStr("k"), glassnode_calls_per_day=0)
    desk, puller = set_up(given, clock, answer, graves)
    for _ in range(2 * 96):  # two days of quarters
        await puller.pull(COLUMNS, clock.at_s)
        clock.at_s += 900
        await asyncio.sleep(0)
    told = {column for column in desk.chains if desk.pick(column, clock.at_s) is not None}
    assert told == set(COLUMNS) - {"btc_ex_netflow", "eth_gas_price"}
    newest = clock.at_s // DAY_S * DAY_S - DAY_S
    assert all(desk.newest(column, "glassnode", clock.at_s).as_of >= newest - DAY_S for column in told)  # pyright: ignore
    assert len(graves) < 2 * 96 / 2
