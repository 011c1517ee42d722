"""Doors and pulls without a database: addresses as they were given, texts that can be stored, nobody starved."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
from collections.abc import Callable
from unittest.mock import MagicMock

import httpx
import pytest
from apscheduler.triggers.date import DateTrigger
from pydantic import SecretStr

from common.clock import Clock
from common.contracts import format_time
from common.errors import BadInput, ConfigError, Refused, TryLater
from macro_ingestor import schedule
from macro_ingestor.chains import GAS_CADENCE_S
from macro_ingestor.configured import Configured, configure
from macro_ingestor.desk import Desk, Known
from macro_ingestor.door import Door, DoorLimits, QuotaSpent
from macro_ingestor.ledger import Written
from macro_ingestor.passes import Passes
from macro_ingestor.pulling import Puller
from macro_ingestor.readings import COLUMNS, DAY_COLUMNS, DAY_S, SLOT_COLUMNS
from macro_ingestor.settings import MacroSettings
from macro_ingestor.standing import Outcome

T0 = 1_790_553_600  # a midnight
Answering = Callable[[httpx.Request], httpx.Response]


class TestClock(Clock):
    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self.at_s = T0 + 7200

    def wall_ms(self) -> int:
        return self.at_s * 1000


def settings(**changes: object) -> MacroSettings:
    servers = {"ts_dsn": SecretStr("postgresql://u:p@h/x"), "rmq_url": SecretStr("amqp://u:p@h/")}
    return MacroSettings(**{**servers, **changes})


async def book(configured: Configured) -> bool:
    return True


async def nobody_spent() -> frozenset[str]:
    return frozenset()


async def keep_nothing() -> None:
    return None


def open_door(one: Configured, clock: Clock, answer: Answering) -> Door:
    limits = DoorLimits(attempts_max=2, retry_first_s=0.0001, retry_max_s=0.0002)
    return Door(one, book, clock, limits, httpx.MockTransport(answer))


def set_up(given: MacroSettings, clock: TestClock, answer: Answering, graves: list[str]) -> tuple[Desk, Puller]:
    cast = configure(given)
    desk = Desk(cast.chains, cast.offers(), Known())
    doors = {name: open_door(one, clock, answer) for name, one in cast.on.items()}

    def bury(raw: bytes, reason: str, source: str) -> None:
        graves.append(reason)

    return desk, Puller(desk, doors, lambda: clock.at_s, nobody_spent, bury, keep_nothing)


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


@pytest.mark.parametrize("first", [httpx.Response(503), httpx.Response(429, headers={"Retry-After": "86400"}), None])
async def test_a_clock_that_was_ahead_keeps_no_vendor_unasked(first: httpx.Response | None) -> None:
    """Neither by what was told, nor by a circuit that opened."""
    clock = TestClock()
    begin = clock.at_s

    def answer(request: httpx.Request) -> httpx.Response:
        return price_of("0.2") if clock.at_s < begin or first is None else first

    given = settings(onchain_sources="etherscan", etherscan_api_key=SecretStr("k"))
    desk, puller = set_up(given, clock, answer, [])
    for _ in range(50):
        await puller.pull(SLOT_COLUMNS, clock.at_s)
        clock.at_s += 2 * DAY_S
    clock.at_s = begin - DAY_S
    for _ in range(2):
        clock.at_s += 900
        await puller.pull(SLOT_COLUMNS, clock.at_s)
        reading = desk.pick("eth_gas_price", clock.at_s)
        assert reading is not None and reading.as_of == clock.at_s


def price_of(text: str) -> httpx.Response:
    said = {"status": "1", "message": "OK", "result": {"ProposeGasPrice": text}}
    return httpx.Response(200, content=json.dumps(said).encode())


def longest(samples: list[bool]) -> int:
    """How many of them are true in a row."""
    best = run = 0
    for sample in samples:
        run = run + 1 if sample else 0
        best = max(best, run)
    return best


async def test_a_vendor_that_fails_for_ever_is_told_as_failing_all_the_time() -> None:
    """Its circuit is not: it lets a try through now and then."""
    clock, begin = TestClock(), TestClock().at_s

    def answer(request: httpx.Request) -> httpx.Response:
        clock.at_s += 1  # an answer takes its time
        return httpx.Response(503) if clock.at_s >= begin + 3600 else price_of("0.4")

    given = settings(onchain_sources="etherscan", etherscan_api_key=SecretStr("k"))
    desk, puller = set_up(given, clock, answer, [])
    failing, opened, late = list[bool](), list[bool](), list[bool]()
    for minute in range(24 * 60):
        clock.at_s = begin + 60 * minute
        if minute % 15 == 0:
            await puller.pull(SLOT_COLUMNS, clock.at_s)
        failing.append(desk.circuit("etherscan").is_failing(clock.at_s))
        opened.append(desk.circuit("etherscan").is_open(clock.at_s))
        late.append(desk.overdue_s("eth_gas_price", clock.at_s) > GAS_CADENCE_S)
    assert failing == [False] * 60 + [True] * (23 * 60)
    assert longest(opened) < 6 * 60
    assert not any(late[:65]) and all(late[66:])  # also once the price is too old to count


async def test_an_old_failure_of_one_that_nobody_needs_is_not_told() -> None:
    clock, hosts = TestClock(), list[str]()
    begin = clock.at_s

    def answer(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        is_away = begin <= clock.at_s < begin + 3600
        return httpx.Response(503) if is_away else price_of("0.4")

    given = settings(
        onchain_sources="etherscan,jsonrpc", etherscan_api_key=SecretStr("k"),
        eth_rpc_url=SecretStr("http://node.example"),
    )  # fmt: skip
    desk, puller = set_up(given, clock, answer, [])
    told = list[bool]()
    for quarter in range(40):
        clock.at_s = begin + 900 * quarter
        await puller.pull(SLOT_COLUMNS, clock.at_s)
        told.append(desk.circuit("jsonrpc").is_failing(clock.at_s))
    assert "node.example" in hosts and desk.circuit("jsonrpc").failures > 0
    assert told[0] and not any(told[12:])


async def test_what_is_told_of_a_quota_is_not_older_than_a_pull() -> None:
    """Also when nobody has to be asked: others spend calls, too, and a window moves on."""
    clock, spent = TestClock(), frozenset[str]()

    async def read_spent() -> frozenset[str]:
        return spent

    cast = configure(settings(onchain_sources="etherscan", etherscan_api_key=SecretStr("k")))
    door = open_door(cast.on["etherscan"], clock, lambda _: price_of("0.4"))
    desk = Desk(cast.chains, cast.offers(), Known())
    puller = Puller(desk, {"etherscan": door}, lambda: clock.at_s, read_spent, lambda *_, **__: None, keep_nothing)
    assert await puller.pull(SLOT_COLUMNS, clock.at_s) == 1
    for spent in (frozenset(("etherscan",)), frozenset[str]()):
        clock.at_s += 60
        assert await puller.pull(SLOT_COLUMNS, clock.at_s) == 0
        assert puller.spent == spent


async def test_jobs_of_the_schedule_run_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they wake what waits in it: a thread must not."""
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=0.05)
    monkeypatch.setattr(schedule, "plan_triggers", lambda *_: dict.fromkeys(("quarter", "day"), DateTrigger(soon)))
    passes = Passes(MagicMock(), MagicMock(), MagicMock(), Clock(), MagicMock())
    played, threads = list[tuple[bool, bool]](), set[int]()
    both = asyncio.Event()

    async def play(quarter: bool, day: bool) -> Written:
        played.append((quarter, day))
        if len(played) > 1 and [any(asked) for asked in zip(*played[1:], strict=True)] == [True, True]:
            both.set()
        return Written()

    def tell(ask: Callable[[], None]) -> Callable[[], None]:
        return lambda: threads.add(threading.get_ident()) or ask()

    monkeypatch.setattr(passes, "play", play)
    running = asyncio.create_task(passes.run())
    end = schedule.start_schedule(tell(passes.ask_quarter), tell(passes.ask_day), "00:20", Clock())
    try:
        await asyncio.wait_for(both.wait(), 5)
    finally:
        end()
        running.cancel()
    assert played[0] == (True, True)  # at the start
    assert threads == {threading.get_ident()}


async def test_one_forbidden_metric_and_a_429_keep_no_other_column_waiting() -> None:
    """A refused group is asked one by one; what ends that early must not leave the group's refusal behind."""
    clock, begin, asked = TestClock(), TestClock().at_s, list[tuple[int, str]]()

    def answer(request: httpx.Request) -> httpx.Response:
        metrics, assets = request.url.params["metrics"].split(","), request.url.params["assets"].split(",")
        asked.append((clock.at_s - begin, request.url.params["metrics"]))
        if "SplyExNtv" in metrics:
            return httpx.Response(403, content=b'{"error":{"type":"forbidden","message":"SplyExNtv"}}')
        if clock.at_s < begin + 600:
            return httpx.Response(429)
        day = format_time(clock.at_s // DAY_S * DAY_S - DAY_S)
        rows = [{"asset": asset, "time": day, **dict.fromkeys(metrics, "2")} for asset in assets]
        return httpx.Response(200, content=json.dumps({"data": rows}).encode())

    desk, puller = set_up(settings(onchain_sources="coinmetrics"), clock, answer, [])
    told: list[set[str]] = []
    for _ in range(3):
        await puller.pull(SLOT_COLUMNS, clock.at_s)
        told.append({column for column in SLOT_COLUMNS if desk.pick(column, clock.at_s) is not None})
        clock.at_s += 900
    assert told == [set(), {"btc_ex_netflow", "eth_ex_netflow"}, {"btc_ex_netflow", "eth_ex_netflow"}]
    refused = {column for (_, column), ask in desk.known.asks.items() if ask.outcome is Outcome.REFUSED}
    assert refused == {"btc_ex_reserve_pct"}
    assert sum("SplyExNtv" in metrics for _, metrics in asked) <= 3  # and then for six hours not at all


async def test_a_trailing_week_of_a_daily_column_is_asked_for_once_a_day() -> None:
    """With the value that is due: revised days cost no calls of their own."""
    clock, begin, asked = TestClock(), TestClock().at_s, list[tuple[int, str]]()

    def answer(request: httpx.Request) -> httpx.Response:
        since_s = int(request.url.params["s"])
        assert clock.at_s - since_s > 8 * DAY_S
        asked.append(((clock.at_s - T0) // DAY_S, request.url.path))
        days = range(-(-since_s // DAY_S) * DAY_S, clock.at_s - DAY_S - 1800, DAY_S)
        return httpx.Response(200, content=json.dumps([{"t": day, "v": 1.5} for day in days]).encode())

    given = settings(onchain_sources="glassnode,coinmetrics,bgeometrics", glassnode_api_key=SecretStr("k"))
    _, puller = set_up(given, clock, answer, [])
    for quarter in range(10 * 96 - 8):  # up to a midnight
        clock.at_s = begin + 900 * quarter
        await puller.pull(DAY_COLUMNS, clock.at_s)
    paths = {path for _, path in asked}
    assert len(paths) == len(DAY_COLUMNS)
    assert sorted(asked) == sorted((day, path) for day in range(10) for path in paths)
