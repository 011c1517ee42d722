"""A simulated week of vendors' lags, revisions, troubles, spent quotas, and restarts of ours, on real tables."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from common.clock import Clock
from common.contracts import format_time
from common.database import Database
from common.publisher import message_type
from macro_ingestor.configured import Configured, configure
from macro_ingestor.desk import Desk
from macro_ingestor.door import Door, DoorLimits
from macro_ingestor.ledger import keep_changes, load, read_left, take_call
from macro_ingestor.passes import Passes
from macro_ingestor.pulling import Puller
from macro_ingestor.settings import MacroSettings
from sandbox.macro_vendors import Ask, answer_macro
from sandbox.macro_world import DAY_S, MacroWorld, Trouble
from tests.integration.macro_model import CHAINS, DAY_COLUMNS, QUOTAS, SLOT_COLUMNS, Model, Said
from tests.message_check import find_fault

START = 1_790_553_600  # a midnight
ATTEMPTS = 2
HOWS = ("status", "status", "status", "error", "limit", "garbage", "html", "cut", "empty", "stuck")


class WorldClock(Clock):
    """A wall clock that the test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.at_s = START

    def wall_ms(self) -> int:
        return self.at_s * 1000


class WorldTransport(httpx.AsyncBaseTransport):
    """Calls go to the made-up world."""

    def __init__(self, world: MacroWorld, vendor: str) -> None:
        self._world, self._vendor = world, vendor

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix(f"/{self._vendor}")
        headers = {name.lower(): value for name, value in request.headers.items()}
        content = json.loads(request.content) if request.content else None
        answer = answer_macro(self._world, self._vendor, Ask(path, dict(request.url.params), headers, content))
        if answer.cut:
            raise httpx.ReadError("cut", request=request)
        return httpx.Response(answer.status, content=answer.body, headers=dict(answer.headers))


def make_settings(dsn: str, folder: Path, glassnode: bool, **quotas: int) -> MacroSettings:
    lists = folder / "addresses.json"
    lists.write_text('{"eth": ["0x1", "0x2"], "sol": ["s"]}')
    key = SecretStr("k")
    urls = {f"{v}_url": f"http://world/{v}" for v in CHAIN_VENDORS if v != "jsonrpc"}
    return MacroSettings(
        ts_dsn=SecretStr(dsn), rmq_url=SecretStr("amqp://u:p@127.0.0.1:1/"),
        glassnode_api_key=key if glassnode else SecretStr(""), etherscan_api_key=key, dune_api_key=key,
        dune_queries=("stbl_cex_netflow=1001",), goldrush_api_key=key, bitquery_token=key, bitquery_addresses=lists,
        eth_rpc_url=SecretStr("http://world/jsonrpc"), **urls, **quotas,
    )  # fmt: skip


CHAIN_VENDORS = sorted({vendor for chain in CHAINS.values() for vendor in chain})


class Life:
    """The ingestor from one start to its end, without a scheduler."""

    def __init__(self, settings: MacroSettings, world: MacroWorld, clock: WorldClock) -> None:
        self._settings, self._world, self._clock = settings, world, clock
        self.letters = 0

    async def start(self) -> None:
        self._database = database = Database(self._settings.ts_dsn.get_secret_value(), "macro/0/1")
        assert await database.acquire()
        cast = configure(self._settings)
        assert {column: list(chain) for column, chain in cast.chains.items()} == {
            column: [v for v in CHAINS[column] if v in cast.on] for column in cast.chains
        }

        async def take(configured: Configured) -> bool:
            return await take_call(database, configured, self._clock.at_s)

        async def spent() -> frozenset[str]:
            left = await read_left(database, cast.on.values(), self._clock.at_s)
            return frozenset(name for name, calls in left.items() if calls == 0)

        def bury(raw: bytes, reason: str, source: str) -> None:
            self.letters += 1

        limits = DoorLimits(attempts_max=ATTEMPTS, retry_first_s=0.0001, retry_max_s=0.0002)
        self._doors = {
            name: Door(one, take, self._clock, limits, WorldTransport(self._world, name))
            for name, one in cast.on.items()
        }
        desk = Desk(cast.chains, cast.offers(), await load(database, self._clock.at_s))
        puller = Puller(desk, self._doors, lambda: self._clock.at_s, spent, bury, lambda: keep_changes(database, desk))
        self.passes = Passes(desk, puller, database, self._clock, lambda written: None)

    async def end(self) -> None:
        for door in self._doors.values():
            await door.close()
        await self._database.close()


def make_troubles(rng: random.Random, days: int) -> Iterator[Trouble]:
    """Some short, some a day long, some of everybody."""
    for _ in range(7 * days):
        vendor, how = rng.choice(CHAIN_VENDORS), rng.choice(HOWS)
        if how == "stuck" and vendor != "jsonrpc":
            how = "status"
        begin = START + rng.randrange(days * DAY_S)
        length = rng.choice((600, 1800, 3 * 3600, 12 * 3600, DAY_S))
        status, wait = rng.choice(((429, None), (429, 40), (429, 5000), (503, None), (503, 90)))
        yield Trouble(vendor, how, begin, begin + length, status, wait)
    night = START + rng.randrange(days // 2, days - 1) * DAY_S
    yield Trouble("*", "status", night, night + DAY_S, 503)


def play_times(rng: random.Random, days: int) -> Iterator[tuple[str, int]]:
    """("start" | "quarter" | "day", when): every quarter, a restart now and then, hours without us."""
    yield "start", START + 5
    at = START + 900
    while at < START + days * DAY_S:
        dice = rng.random()
        if dice < 0.01:
            at += rng.choice((900, 2700, 6 * 3600))
            yield "start", at + rng.randrange(1, 899)
        elif dice < 0.04:
            yield "quarter", at + 1
            yield "start", at + rng.randrange(2, 899)
        else:
            yield "quarter", at + 1
            if at % DAY_S == 900:
                yield "day", at + 300
        at += 900


@pytest.mark.parametrize("seed", range(int(os.environ.get("MACRO_WEEKS", "1"))))
async def test_a_week_equals_the_rules(ts_dsn: str, tmp_path: Path, seed: int) -> None:
    days = int(os.environ.get("MACRO_DAYS", "7"))
    rng = random.Random(seed)
    clock = WorldClock()
    by_day = {vendor: QUOTAS[vendor][0][1] for vendor in ("glassnode", "bgeometrics")}
    world = MacroWorld(seed, lambda: clock.at_s, quotas=by_day)
    world.troubles = list(make_troubles(rng, days))
    quotas = {f"{vendor}_calls_per_day": most for vendor, most in by_day.items()}
    quotas["bgeometrics_calls_per_hour"] = QUOTAS["bgeometrics"][1][1]
    settings = make_settings(ts_dsn, tmp_path, glassnode=seed % 3 != 2, **quotas)
    model = Model(world, tuple(configure(settings).on), ATTEMPTS)
    life = Life(settings, world, clock)
    await life.start()
    restarts = 0
    for what, at in play_times(rng, days):
        clock.at_s = at
        if what == "start" and at > START + 10:
            await life.end()
            await life.start()
            restarts += 1
        await life.passes.play(what != "day", what != "quarter")
        calls = dict(world.calls)
        # The model reads the world like a vendor's answer, without a call.
        if what == "day":
            model_day_only(model, at)
        else:
            model.play(at, what == "start")
        assert dict(world.calls) == calls
        for vendor in ("glassnode", "bgeometrics", "etherscan"):
            assert len(model.calls.get(vendor, [])) == world.calls[vendor], (vendor, format_time(at))
    await life.end()
    con = await asyncpg.connect(ts_dsn)
    try:
        await judge(con, model)
    finally:
        await con.close()
    assert not world.beyond_quota
    assert model.ends["glassnode"] > 0 or seed % 3 == 2
    assert model.ends["bgeometrics"] > 0 or seed
    assert restarts > 5 and (life.letters > 0 or seed)
    assert len(model.slots) > 80 * days
    assert len({said.source for row in model.slots.values() for said in row.values()}) >= 5
    assert sum(rev - 1 for (table, _), rev in model.revs.items() if table == "1d") > 5  # revisions


def model_day_only(model: Model, at: int) -> None:
    model.pull(DAY_COLUMNS, at)
    model.make_days(at)


async def judge(con: asyncpg.Connection, model: Model) -> None:
    slots = await con.fetch("SELECT *, extract(epoch FROM time)::bigint AS at FROM macro_onchain_15m")
    assert {row["at"] for row in slots} == set(model.slots)
    for row in slots:
        expected = model.slots[row["at"]]
        assert stored(row, SLOT_COLUMNS) == spoken(expected), format_time(row["at"])
        assert row["rev"] == model.revs["15m", row["at"]], format_time(row["at"])
    days = await con.fetch("SELECT *, extract(epoch FROM day)::bigint AS at FROM macro_btc_daily")
    assert {row["at"] for row in days} == set(model.days)
    for row in days:
        assert stored(row, ("mvrv", "asopr_7d", "nupl")) == spoken(model.days[row["at"]]), row["day"]
        assert row["rev"] == model.revs["1d", row["at"]], row["day"]
    await judge_messages(con, {r["at"]: r for r in slots}, {str(r["day"]): r for r in days}, model)


async def judge_messages(
    con: asyncpg.Connection, slots: dict[int, asyncpg.Record], days: dict[str, asyncpg.Record], model: Model
) -> None:
    """Every revision was announced once, and the last one says what the row says."""
    sent: dict[str, dict[str, object]] = {}
    for record in await con.fetch("SELECT keys, ids, payloads FROM bus_outbox ORDER BY id"):
        for key, ident, payload in zip(record["keys"], record["ids"], record["payloads"], strict=True):
            assert find_fault(key, payload) is None and message_type(key) == key
            assert ident not in sent
            sent[ident] = json.loads(payload, parse_float=Decimal, parse_int=Decimal)
    assert len(sent) == sum(model.revs.values())
    rows = {f"onchain.macro.15m@{format_time(at)}": row for at, row in slots.items()}
    rows |= {f"onchain.macro.1d@{day}": row for day, row in days.items()}
    for ident, row in rows.items():
        last = sent[f"{ident}#{row['rev']}"]
        names = set(last) - {"time", "day", "as_of", "source", "rev"}
        assert {name: last[name] for name in names} == {name: row[name] for name in names}
        assert (last["as_of"], last["source"]) == (json.loads(row["as_of"]), json.loads(row["source"]))


def stored(row: asyncpg.Record, columns: tuple[str, ...]) -> dict[str, tuple[Decimal, str, str]]:
    as_of, source = json.loads(row["as_of"]), json.loads(row["source"])
    known = [column for column in columns if row[column] is not None]
    assert set(as_of) == set(source) == set(known)
    return {column: (row[column], as_of[column], source[column]) for column in known}


def spoken(row: dict[str, Said]) -> dict[str, tuple[Decimal, str, str]]:
    return {column: (said.value, format_time(said.as_of), said.source) for column, said in row.items()}
