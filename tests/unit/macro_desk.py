"""A desk, doors and vendors that a test answers for, without a database."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
from pydantic import SecretStr

from common.clock import Clock
from macro_ingestor.configured import Configured, configure
from macro_ingestor.desk import Desk, Known
from macro_ingestor.door import Door, DoorLimits
from macro_ingestor.pulling import Puller
from macro_ingestor.settings import MacroSettings

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


def price_of(text: str) -> httpx.Response:
    said = {"status": "1", "message": "OK", "result": {"ProposeGasPrice": text}}
    return httpx.Response(200, content=json.dumps(said).encode())
