"""Pulls over hours and days without a database: what fails, what is late, clocks that were wrong, the schedule."""

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
from macro_ingestor import schedule
from macro_ingestor.chains import GAS_CADENCE_S
from macro_ingestor.configured import configure
from macro_ingestor.desk import Desk, Known
from macro_ingestor.ledger import Written
from macro_ingestor.passes import Passes
from macro_ingestor.pulling import Puller
from macro_ingestor.readings import DAY_COLUMNS, DAY_S, SLOT_COLUMNS
from macro_ingestor.standing import Outcome
from tests.unit.macro_desk import (
    T0,
    TestClock,
    keep_nothing,
    open_door,
    price_of,
    set_up,
    settings,
)


def longest(samples: list[bool]) -> int:
    """How many of them are true in a row."""
    best = run = 0
    for sample in samples:
        run = run + 1 if sample else 0
        best = max(best, run)
    return best


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
