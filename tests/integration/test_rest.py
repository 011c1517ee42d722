"""REST calls against a real HTTP server: what is tried again, what is not, and what stops everybody."""

import asyncio
import email.utils
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
from aiohttp import web

from common.errors import BadInput, ConfigError, Refused, TryLater
from common.lean_http import LeanHttp
from common.rest import RestClient, RestLimits, WeightBudget
from common.venues import binance_spot
from common.venues.market import Request

FAST = RestLimits(
    connect_timeout_s=1,
    read_timeout_s=0.3,
    call_timeout_s=0.6,
    retry_first_s=0.01,
    retry_max_s=0.02,
    budget_wait_max_s=0.5,
)
CALL = Request("/api/v3/time", (), 1)


class Host:
    """Answers from a list, then 200."""

    def __init__(self) -> None:
        self.answers: list[web.Response | Callable[[web.Request], Awaitable[web.StreamResponse]]] = []
        self.queries: list[str] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(str(request.rel_url))
        if not self.answers:
            return web.json_response({"serverTime": 1}, headers={"X-MBX-USED-WEIGHT-1M": "77"})
        answer = self.answers.pop(0)
        return answer if isinstance(answer, web.Response) else await answer(request)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host()
    app = web.Application()
    app.router.add_get("/{tail:.*}", host.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield host
    await runner.cleanup()


@pytest.fixture(params=["httpx", "lean"])
async def client(host: Host, request: pytest.FixtureRequest) -> AsyncIterator[RestClient]:
    """Whoever makes the calls, all else is the same."""
    caller = LeanHttp(host.url, FAST) if request.param == "lean" else None
    async with RestClient(host.url, WeightBudget(), FAST, rng=random.Random(1), caller=caller) as client:
        yield client


async def test_an_answer_and_the_books(host: Host, client: RestClient) -> None:
    request = binance_spot.agg_trades_request("币USDT", from_id=5)
    assert await client.fetch(request) == b'{"serverTime": 1}'
    assert host.queries == ["/api/v3/aggTrades?symbol=%E5%B8%81USDT&fromId=5&limit=1000"]
    now = time.monotonic()
    assert client.budget.used(now) == 4
    # The host counts 77 on our address, 73 of them not ours.
    assert client.budget.wait_s(6000 - 77, now) == 0
    assert client.budget.wait_s(6000 - 76, now) > 50


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(5)
    return web.Response()


async def drop(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


async def say_502(_: web.Request) -> web.StreamResponse:
    return web.Response(status=502)


async def say_408(_: web.Request) -> web.StreamResponse:
    return web.Response(status=408)


@pytest.mark.parametrize("trouble", [say_502, say_408, hang, drop, drip], ids=lambda trouble: trouble.__name__)
async def test_what_passes_by_itself_is_tried_again(
    host: Host, client: RestClient, trouble: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> None:
    host.answers = [trouble]
    assert await client.fetch(CALL) == b'{"serverTime": 1}'
    assert len(host.queries) == 2 and client.budget.used(time.monotonic()) == 2


async def test_tries_are_bounded(host: Host, client: RestClient) -> None:
    host.answers = [web.json_response({"code": -1007, "msg": "Timeout"}, status=503) for _ in range(9)]
    with pytest.raises(TryLater, match="code -1007: Timeout") as caught:
        await client.fetch(CALL)
    assert len(host.queries) == 3 and caught.value.wait_s is None


async def test_a_hinted_503_is_left_to_the_caller(host: Host, client: RestClient) -> None:
    host.answers = [web.Response(status=503, headers={"Retry-After": "9"})]
    with pytest.raises(TryLater) as caught:
        await client.fetch(CALL)
    assert caught.value.wait_s == 9 and len(host.queries) == 1
    assert client.budget.blocked_s(time.monotonic()) == 0


@pytest.mark.parametrize(
    ("status", "header", "low", "high"),
    [
        (429, "7", 7, 7),
        (418, "a date", 60, 121),
        (429, "0", 1, 1),
        (429, None, 60, 60),
        (403, None, 60, 60),
    ],
)
async def test_a_call_for_patience_stops_all_callers_of_the_host(
    host: Host, client: RestClient, status: int, header: str | None, low: float, high: float
) -> None:
    if header == "a date":
        header = email.utils.formatdate(time.time() + 120, usegmt=True)
    host.answers = [web.Response(status=status, headers={"Retry-After": header} if header else {})]
    with pytest.raises(TryLater) as caught:
        await client.fetch(CALL)
    assert caught.value.wait_s is not None and low <= caught.value.wait_s <= high
    async with RestClient(host.url, client.budget, FAST) as other:
        with pytest.raises(TryLater, match="pause") as caught:
            await other.fetch(CALL)
    assert caught.value.wait_s is not None and caught.value.wait_s <= high
    assert len(host.queries) == 1


async def test_the_circuit_closes_again(host: Host, client: RestClient) -> None:
    host.answers = [web.Response(status=429, headers={"Retry-After": "1"})]
    with pytest.raises(TryLater):
        await client.fetch(CALL)
    await asyncio.sleep(1.05)
    assert await client.fetch(CALL)


@pytest.mark.parametrize("status", [400, 404, 302, 451])
async def test_a_refusal_is_not_repeated(host: Host, client: RestClient, status: int) -> None:
    host.answers = [web.json_response({"code": -1121, "msg": "Invalid symbol."}, status=status)]
    with pytest.raises(Refused, match=rf"{status} code -1121: Invalid symbol\."):
        await client.fetch(CALL)
    assert len(host.queries) == 1


async def test_a_refusal_in_no_known_shape(host: Host, client: RestClient) -> None:
    host.answers = [web.Response(status=404, body=b"<html>\xff" * 1000)]
    with pytest.raises(Refused, match="404 <html>") as caught:
        await client.fetch(CALL)
    assert len(str(caught.value)) < 300


async def test_a_body_without_end_is_refused(host: Host) -> None:
    host.answers = [web.Response(body=b"x" * 2000)]
    async with RestClient(host.url, WeightBudget(), msgspec.structs.replace(FAST, body_bytes_max=1000)) as client:
        with pytest.raises(BadInput, match="1000 bytes"):
            await client.fetch(CALL)


async def test_an_unreachable_host() -> None:
    async with RestClient("http://127.0.0.1:1", WeightBudget(), FAST) as client:
        with pytest.raises(TryLater, match="ConnectError"):
            await client.fetch(CALL)


async def test_no_room_in_the_budget(host: Host, client: RestClient) -> None:
    client.budget.spend(5999, time.monotonic())
    assert await client.fetch(CALL)
    with pytest.raises(TryLater, match="no room") as caught:
        await client.fetch(CALL)
    assert caught.value.wait_s is not None and 50 < caught.value.wait_s <= 60
    assert len(host.queries) == 1


async def test_background_calls_wait_for_room_that_live_ones_have(host: Host, client: RestClient) -> None:
    client.budget.spend(3000, time.monotonic() - 59.7)
    background = asyncio.create_task(client.fetch(CALL, "background"))
    assert await client.fetch(CALL)
    assert not background.done()
    assert await background
    assert len(host.queries) == 2


@pytest.mark.parametrize("url", ["", "host", "ftp://host", "http://", "http://host:x"])
def test_an_address_that_can_never_work_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError):
        RestClient(url, WeightBudget(), FAST)
