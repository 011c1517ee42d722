"""What can go wrong between a fill and its signal; judged by a recount of what the sandbox's accounts did."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.influencer_stage import ANN, BEN, InfluencerStage, open_influencer_stage, trades

ROUND = ("open", "increase", "flip", "decrease", "increase", "close")


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[InfluencerStage]:
    async with open_influencer_stage(tmp_path, ts_dsn, rmq_url) as stage:
        yield stage


async def opened(stage: InfluencerStage, **env: object) -> None:
    """Two accounts, heard by one socket of each listener."""
    await stage.open_venue()
    await stage.watch(ANN, BEN)
    await stage.start(sockets_per_listener=1, **env)
    await stage.live(2)
    await stage.listen()


async def serials(stage: InfluencerStage) -> list[int]:
    status = await stage.stage.oracle("hyperliquid/status")
    return [line["serial"] for line in status["connections"]]


async def play(stage: InfluencerStage, **fields: Any) -> None:
    for action in ROUND:
        await stage.play(*trades(ANN, (action,), **fields), *trades(BEN, (action,), coin="BTC", **fields))


async def test_one_listener_at_a_time(stage: InfluencerStage) -> None:
    await opened(stage, copy_wait_ms=200)
    # Cut.
    await stage.fault("cut", connection=0)
    await play(stage)
    await stage.judge()
    await stage.live(2)
    assert await stage.metric("trading_bus_influencer_connections_lost_total") == 1
    # Behind by less than makes it deaf: it only loses the lead.
    first = (await serials(stage))[0]
    await stage.fault("lag", serial=first, by_s=0.15)
    await stage.fault("duplicate", next=6)
    await play(stage)
    await stage.judge()
    await stage.clear()
    # Deaf: it answers pings, and brings nothing.
    for listener_serial in await serials(stage):
        await stage.fault("silent", serial=listener_serial)
        await play(stage)
        await stage.judge()

        async def is_new(old: int = listener_serial) -> bool:
            return old not in await serials(stage)

        await stage.stage.until(is_new, 10, "a deaf listener connects anew")
        await stage.live(2)
    assert await stage.metric("trading_bus_influencer_deaf_total") == 2
    # Nothing of all this was a gap: the other listener had it.
    assert await stage.gaps() == {}
    rows = await stage.con.fetch("SELECT metadata->>'source' AS source FROM influencer_signals")
    assert {r["source"] for r in rows} == {"live"}


async def test_frames_that_lie(stage: InfluencerStage) -> None:
    """Halves, other orders, wrong numbers, floods: each bad event is a dead letter, everything else is signalled."""
    await opened(stage, audit_every_s=1, audit_lag_ms=200)
    serial = (await serials(stage))[0]
    for kind, fields in (
        ("reorder", {"serial": serial, "next": 3}), ("shuffle", {"next": 4}), ("malformed", {"next": 2}),
        ("drop", {"serial": serial, "next": 2}), ("spoil", {"next": 1, "fields": {"px": "NaN"}}),
        ("spoil", {"next": 1, "fields": {"time": 4_000_000_000_000, "tid": 77}}),
        ("spoil", {"next": 1, "fields": {"coin": "A\u0000B", "tid": 78}}),
        ("spoil", {"next": 1, "fields": {"sz": "-1", "tid": 79}}), ("text", {"text": "not JSON {"}),
    ):  # fmt: skip
        await stage.fault(kind, **fields)
        await play(stage, parts=3)
        await stage.judge()
    assert await stage.metric("trading_bus_influencer_poison_total") >= 5
    # What no listener brought: the hole is seen at the next fill, fetched and written down.
    await stage.play(*trades(ANN, ("open",), coin="SOL"))
    await stage.play(*trades(ANN, ("increase",), coin="SOL", streamed=False, parts=1))
    await stage.play(*trades(ANN, ("increase",), coin="SOL"))
    await stage.judge()
    repaired = await stage.con.fetch(
        "SELECT metadata FROM influencer_signals WHERE metadata->>'source' = 'repair' AND market = 'SOL-PERP'"
    )
    assert len(repaired) == 1 and "lateBy_ms" in repaired[0]["metadata"]
    # Filled before its time of grace was over, it was no gap.
    assert await stage.gaps() in ({}, {"repaired": 1})
    # There and back between two fills that fit together shows nowhere: the audit finds it.
    await stage.play(*trades(BEN, ("open", "close"), coin="SOL", streamed=False))
    await stage.judge()


async def test_both_listeners_cut_for_ten_minutes(stage: InfluencerStage) -> None:
    await stage.open_venue()
    await stage.watch(ANN, BEN, ago_s=1_200)
    await stage.start(sockets_per_listener=1)
    await stage.live(2)
    await stage.listen()
    now_ms = int(time.time() * 1000)
    await stage.play(*trades(ANN, ("open",), time=now_ms - 700_000), *trades(BEN, ("open",), time=now_ms - 700_000))
    await stage.judge()
    await stage.fault("cut", for_s=60)
    for minute in range(10):
        at = {"time": now_ms - 600_000 + 60_000 * minute, "parts": 5}
        await stage.play(*trades(ANN, ("increase", "decrease", "flip"), **at), *trades(BEN, ("increase",), **at))
    await stage.play(*trades(BEN, ("close",), time=now_ms - 1_000))
    check = await stage.check("listener 0")
    assert not check["healthy"]
    await stage.clear()
    await stage.fault("cut", for_s=0)
    assert await stage.judge() > 100
    await stage.live(2)
    assert "open" not in await stage.gaps()
    rows = await stage.con.fetch("SELECT metadata, time < now() - interval '11 minutes' AS old FROM influencer_signals")
    told = [(json.loads(r["metadata"]), r["old"]) for r in rows]
    assert {(m["source"], m.get("stale"), "lateBy_ms" in m) for m, old in told if old} == {("live", True, False)}
    missed = {(m["source"], m.get("stale"), "lateBy_ms" in m) for m, old in told if not old}
    assert missed == {("repair", True, True), ("repair", None, True)}
    raw = await stage.con.fetch("SELECT id FROM influencer_raw_events WHERE event_type = 'FILL'")
    assert len(raw) == len({r["id"] for r in raw}) == len(rows)


async def test_killed_in_the_middle_of_a_burst(stage: InfluencerStage) -> None:
    await stage.open_venue("--hyperliquid-fills-per-frame", "5")
    await stage.watch(ANN, BEN)
    process = await stage.start(write_batch_max=7)
    await stage.live(2)
    await stage.listen()
    for number in range(2):
        burst = asyncio.create_task(
            stage.play(*trades(ANN, ("open", "flip"), parts=55), *trades(BEN, ("flip",), coin="BTC", parts=55))
        )
        async with asyncio.timeout(10):
            while not await stage.stage.count("influencer_signals WHERE time > now() - interval '3 seconds'"):
                await asyncio.sleep(0)
        await process.kill()
        await burst
        await stage.play(*trades(ANN, ("increase", "close")))
        process = await stage.start(f"influencer{number}")
        await stage.judge()
    assert "open" not in await stage.gaps()
    assert await process.stop() == 0, process.tail()


async def test_a_full_queue_sends_the_least_important_to_polling(stage: InfluencerStage) -> None:
    await stage.open_venue("--hyperliquid-snapshot-fills", "5", "--hyperliquid-weight-per-min", "100000")
    await stage.watch(ANN, priority=5)
    await stage.watch(BEN)
    await stage.start(queue_max=100, poll_every_min_ms=50, weight_per_min=100_000)
    await stage.live(2)
    await stage.listen()
    other = await asyncpg.connect(stage.stage.dsn)
    try:
        async with other.transaction():
            # A database that answers reads and takes no rows.
            await other.execute("LOCK TABLE influencer_raw_events IN SHARE MODE")
            for _ in range(8):
                await stage.play(*trades(BEN, ("increase",), parts=30), *trades(ANN, ("increase",), parts=5))

            async def shed() -> bool:
                return await stage.metric("trading_bus_influencer_accounts", how="shed") == 1

            await stage.stage.until(shed, 5, "an account was shed")
            check = await stage.check("accounts")
            assert check["detail"]["polled_accounts"] == ["ben"]
    finally:
        await other.close()
    await stage.play(*trades(BEN, ROUND), *trades(ANN, ROUND))
    await stage.judge()
    await stage.live(2)
    await stage.play(*trades(BEN, ROUND))
    await stage.judge()
    sources = await stage.con.fetch(
        "SELECT DISTINCT metadata->>'source' AS source FROM influencer_signals WHERE influencer_id = 'ann'"
    )
    assert [r["source"] for r in sources] == ["live"]
