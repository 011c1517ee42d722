"""Nights of the registry against loopback vendors, real servers, and a consumer of its events."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.database import Database
from common.errors import BadInput, Refused, TryLater
from common.outbox import Outbox
from common.publisher import AmqpPublisher, PublisherLimits
from registry import run as nightly
from registry import sources
from registry.facts import Vendor
from tests.integration.registry_world import START, World, open_world
from tests.message_check import find_fault

STRONG = {"volume": "90000000", "spread_pct": "0.02", "age_days": 900, "move_pct": "1", "perp": True, "okx": True}


@pytest.fixture
async def world(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[World]:
    async with open_world(tmp_path, ts_dsn, rmq_url) as world:
        yield world


MOVING = ("vol_24h", "spread_pct", "updated_at")
"""What a market that goes on trading may change from one run to the next; nobody is told of it."""


def steady(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {symbol: {k: v for k, v in row.items() if k not in MOVING} for symbol, row in rows.items()}


async def test_nights_of_a_market(world: World) -> None:
    """The acceptance of the specification, night by night."""
    for pair in ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT", "DOGEUSDT"):
        world.venue.fault("list", symbol=pair, **STRONG)
    young = {**STRONG, "volume": "800000000", "age_days": 6, "mcap": 9_000_000_000, "perp": False, "spread_pct": "0.03"}
    world.venue.fault("list", symbol="NEWUSDT", **young)
    world.venue.fault("list", symbol="BTCPAIRBTC")
    world.lists["whitelist_path"] = {"NEW": "listed last week, wanted at once", "BTCPAIR": "in USDT one day"}

    # Night 0: everybody is new, and everybody is told.
    first = await world.run(0)
    assert first.night.warnings == ("not traded in USDT, FDUSD, USDC, in the whitelist: BTCPAIR",)
    rows = await world.rows()
    told = await world.hear(len(first.night.verdicts))
    assert set(told) == set(rows)
    assert {rows[s]["status"] for s in ("BTC", "ETH", "SOL", "XRP", "ADA", "DOGE")} == {"ACTIVE"}
    new = rows["NEW"]
    assert new["status"] == "ACTIVE_OVERRIDE" and "listed last week" in new["reason"]
    assert new["liquidity_cluster"] in ("H", "M") and new["age_days"] == 6
    sol = rows["SOL"]
    assert (sol["pair"], sol["okx_inst_id"], sol["perp"]) == ("SOLUSDT", "SOL-USDT", "SOLUSDT")
    assert sol["listed_on"] == (START - dt.timedelta(days=900)).date() and sol["tick_size"] > 0
    ident, body = told["SOL"]
    assert ident == "symbol_events.updated:SOL@2026-09-21T02:00:00Z"
    assert body == {
        "symbol": "SOL", "status": "ACTIVE", "cluster": sol["liquidity_cluster"], "health": sol["data_health"],
        "pair": "SOLUSDT", "reason": sol["reason"],
    }  # fmt: skip
    assert find_fault("symbol_events.updated", json.dumps(body).encode()) is None
    assert not {"USDC", "WBTC", "BTCUP", "DAI", "EUR", "BNSOL"} & set(rows)

    # The same night again: nothing changes, nothing is said.
    again = await world.run(0)
    assert (again.events, again.waiting) == (0, 0)
    assert steady(await world.rows()) == steady(rows)
    assert len(await world.con.fetch("SELECT DISTINCT run_at FROM coin_registry_history")) == 2

    # Night 1: a wide spread all day, a halt, a delisting, a ban.
    world.go_to(1)
    world.venue.fault("list", symbol="SOLUSDT", spread_pct="0.6")
    world.venue.fault("list", symbol="ADAUSDT", status="HALT")
    world.venue.fault("delist", symbol="XRPUSDT")
    world.lists["banlist_path"] = {"DOGE": "a joke", "NEW": "no more"}
    await world.sample_day()
    second = await world.run(1)
    rows = await world.rows()
    told = await world.hear(second.events)
    assert {s: rows[s]["status"] for s in ("SOL", "ADA", "XRP", "DOGE", "NEW", "BTC")} == {
        "SOL": "PROBATION", "ADA": "PROBATION", "XRP": "PROBATION", "DOGE": "EXCLUDED", "NEW": "EXCLUDED",
        "BTC": "ACTIVE",
    }  # fmt: skip
    ident, body = told["SOL"]
    assert ident == "symbol_events.updated:SOL@2026-09-22T02:00:00Z"
    assert body["status"] == "PROBATION" and body["health"] < 70 and "spread" in body["reason"]
    assert 0.5 <= rows["SOL"]["spread_pct"] <= 0.7
    assert "HALT" in rows["ADA"]["reason"] and "a joke" in rows["DOGE"]["reason"]
    assert {"SOL", "ADA", "XRP", "DOGE", "NEW"} <= set(told)
    facts = {v.row.symbol: v.facts for v in second.night.verdicts}
    assert facts["SOL"].spread_samples == 12 and facts["SOL"].spread_pct is not None

    # Night 2: still absent, so it goes; what goes on is not told again.
    third = await world.run(2)
    assert (await world.row("XRP"))["status"] == "EXCLUDED"
    assert "XRP" in await world.hear(third.events)

    # Night 8: the grace of seven days is over.
    world.venue.fault("relist", symbol="ADAUSDT")
    world.venue.fault("list", symbol="ADAUSDT", **STRONG)
    await world.run(7)
    rows = await world.rows()
    assert (rows["SOL"]["status"], rows["ADA"]["status"]) == ("PROBATION", "ACTIVE")
    await world.run(8)
    assert (await world.row("SOL"))["status"] == "EXCLUDED"

    # Three good nights bring it back, one of them alone does not.
    world.venue.fault("list", symbol="SOLUSDT", spread_pct="0.02")
    for night in (9, 10):
        await world.run(night)
        await world.run(night)
        assert (await world.row("SOL"))["status"] == "EXCLUDED"
    world.heard.clear()
    last = await world.run(11)
    assert (await world.row("SOL"))["status"] == "ACTIVE"
    told = await world.hear(last.events)
    assert told["SOL"][1]["status"] == "ACTIVE"
    assert {(await world.row(s))["status"] for s in ("DOGE", "NEW", "XRP")} == {"EXCLUDED"}


def test_the_pauses_between_tries() -> None:
    assert sources.RETRY_PAUSES_S == (0.1, 1.0, 3.0)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between tries, shortened: what they are is looked at elsewhere."""
    monkeypatch.setattr(sources, "RETRY_PAUSES_S", (0.01, 0.02, 0.03))
    monkeypatch.setattr("registry.caller.UNREADABLE_PAUSE_S", 0.0)
    monkeypatch.setattr("registry.caller.PAUSE_MARGIN_S", 0.0)


OUTAGES = [
    ("binance", "ticker/24hr", {Vendor.TICKERS}),
    ("binance", "bookTicker", {Vendor.BOOK}),
    ("binance", "klines", {Vendor.KLINES}),
    ("futures", "exchangeInfo", {Vendor.FUTURES, Vendor.OPEN_INTEREST, Vendor.FUNDING}),
    ("futures", "openInterest", {Vendor.OPEN_INTEREST}),
    ("futures", "fundingRate", {Vendor.FUNDING}),
    ("futures", None, {Vendor.FUTURES, Vendor.OPEN_INTEREST, Vendor.FUNDING}),
    ("okx", "instruments", {Vendor.OKX}),
    ("coingecko", None, {Vendor.CAPS}),
]
ILLNESSES = [
    {"answer": "status", "status": 503}, {"answer": "garbage"}, {"answer": "html"}, {"answer": "cut"},
    {"answer": "status", "status": 403, "retry_after_s": 900}, {"answer": "empty"},
]  # fmt: skip


@pytest.mark.usefixtures("hasty")
async def test_one_vendors_bad_night_excludes_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    # Two that only CoinGecko knows to be stable: one was wanted all the same, one never came in.
    for pair in ("ODDUSDT", "QUIETUSDT"):
        world.venue.fault("list", symbol=pair, **{**STRONG, "categories": ["stablecoins"], "mcap": 5_000_000_000})
    world.lists["whitelist_path"] = {"ODD": "for an hour"}
    await world.run(0)
    world.lists["whitelist_path"] = {}
    world.minute = 30
    await world.run()
    before = await world.rows()
    assert "a stable asset" in before["ODD"]["reason"] and "QUIET" not in before
    world.go_to(1)
    for number, (venue, path, away) in enumerate(OUTAGES, 1):
        illness = ILLNESSES[number % len(ILLNESSES)]
        if venue == "futures" and illness["answer"] == "empty":
            illness = ILLNESSES[0]
        world.minute = number
        world.venue.fault("rest_answer", venue=venue, **({"path": path} if path else {}), **illness)
        caplog.clear()
        report = await world.run()
        world.venue.fault("clear", venue=venue)
        what = f"{venue} {path} {illness}"
        said = {v for verdict in report.night.verdicts for v in verdict.facts.away}
        assert away <= said, what
        warned = [r for r in caplog.records if r.message == "vendor away"]
        assert len(warned) == len({r.vendor for r in warned}) >= 1, what  # type: ignore[attr-defined]
        assert report.night.status_changes == 0, what
        after = await world.rows()
        assert {s: r["status"] for s, r in after.items()} == {s: r["status"] for s, r in before.items()}, what
        assert {s: r["okx_inst_id"] for s, r in after.items()} == {s: r["okx_inst_id"] for s, r in before.items()}, what


@pytest.mark.usefixtures("hasty")
async def test_without_exchange_info_nothing_changes(world: World) -> None:
    await world.run(0)
    before = await world.rows()
    await world.hear(len(before))
    world.go_to(1)
    for illness, kind in (
        ({"answer": "status", "status": 503}, TryLater), ({"answer": "garbage"}, BadInput),
        ({"answer": "status", "status": 418, "retry_after_s": 600}, TryLater), ({"answer": "empty"}, BadInput),
    ):  # fmt: skip
        world.venue.fault("rest_answer", venue="binance", path="/api/v3/exchangeInfo", **illness)
        with pytest.raises(kind):
            await world.run()
        world.venue.fault("clear", venue="binance")
    # Once, and three tries more.
    assert world.venue.door.asked["binance", "/api/v3/exchangeInfo", 503] == 4
    assert await world.rows() == before
    assert world.heard == []
    assert await world.con.fetchval("SELECT count(DISTINCT run_at) FROM coin_registry_history") == 1

    # Nor with a clock by which a week of probation would be over at once.
    with pytest.raises(Refused, match=r"24\.0 hours ahead of the venue's"):
        await nightly.run(world.settings(), now=world.now + dt.timedelta(days=1))
    assert await world.rows() == before

    # Half a listing is no outage that could be told from delistings: it asks a person.
    for pair in [row["pair"] for row in before.values()][::2]:
        world.venue.fault("delist", symbol=pair)
    with pytest.raises(Refused, match="--force"):
        await world.run()
    assert await world.rows() == before
    forced = await world.run(force=True)
    assert forced.night.status_changes > len(before) * 0.3


async def test_a_pause_is_kept_and_a_busy_address_is_no_outage(world: World) -> None:
    # Funding has a pool of its own; its answers carry the weight of everything else on the address.
    async with httpx.AsyncClient(base_url=world.venue.rest_url) as other:
        for _ in range(52):
            used = (await other.get("/fapi/v1/premiumIndex")).headers["X-MBX-USED-WEIGHT-1M"]
    assert int(used) > 500
    world.venue.fault("rest_answer", venue="binance", answer="status", status=429, retry_after_s=1, next=1)
    world.venue.fault("rest_answer", venue="coingecko", answer="status", status=429, retry_after_s=1, next=1)
    report = await world.run(0)
    assert report.seconds >= 1
    assert not {v for verdict in report.night.verdicts for v in verdict.facts.away}
    by_vendor = {one.vendor: one for one in report.spent}
    assert by_vendor["binance"].weight < 1000


async def test_a_category_that_is_gone_keeps_newcomers_out_for_three_days_only(world: World, tmp_path: Path) -> None:
    await world.run(0)
    world.venue.fault("list", symbol="NEWUSDT", **STRONG)
    renamed = tmp_path / "renamed.toml"
    shipped = Path(nightly.__file__).with_name("symbol_registry.toml").read_text()
    renamed.write_text(shipped.replace('"liquid-staking-tokens"', '"renamed-by-its-vendor"'))
    for night in (1, 2, 3):
        report = await world.run(night, thresholds_path=renamed)
        # The first page comes all the same, and a market cap says nothing of the categories.
        assert any(v.facts.market_cap for v in report.night.verdicts)
        assert ("NEW" in await world.rows()) == (night == 3)
    # A night with all of them begins the count anew.
    await world.run(4)
    world.venue.fault("list", symbol="LATERUSDT", **STRONG)
    await world.run(5, thresholds_path=renamed)
    assert "LATER" not in await world.rows()


async def test_two_runs_do_not_meet(world: World) -> None:
    other = nightly.open_database(world.settings())
    assert await other.acquire()
    with pytest.raises(Refused, match="another run"):
        await world.run(0)
    await other.close()
    assert (await world.run(0)).events > 0


LOCK_HELD = """
SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
                WHERE locktype = 'advisory' AND granted AND datname = current_database() AND application_name = $1)
"""


async def test_a_service_that_publishes_for_a_dead_run_keeps_no_run_out(world: World) -> None:
    with socket.socket() as mute:
        # Takes connections and says nothing: a frozen broker.
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        frozen = f"amqp://nobody:nothing@127.0.0.1:{mute.getsockname()[1]}/"
        first = await world.run(0, rmq_url=frozen, drain_timeout_s=0.1)
        assert first.waiting == first.events > 0
        service = Database(world.dsn, "macro/0/1")
        publisher = AmqpPublisher(frozen, "macro", limits=PublisherLimits(connect_timeout_s=1.5))
        outbox = Outbox(service.query, service.owner, publisher)

        async def take_over() -> None:
            while not await outbox.take_over():  # the server may take a moment to free the dead run's lock
                await asyncio.sleep(0.01)

        trying = asyncio.create_task(take_over())
        try:
            async with asyncio.timeout(5):
                while not await world.con.fetchval(LOCK_HELD, f"{service.owner}/reader"):
                    await asyncio.sleep(0.01)
            assert not trying.done()
            world.minute = 1
            second = await world.run()
        finally:
            await asyncio.wait([trying])
            await publisher.close()
            await service.close()
    assert isinstance(trying.exception(), TryLater)
    assert second.waiting == 0 and len(world.heard) == first.events + second.events
