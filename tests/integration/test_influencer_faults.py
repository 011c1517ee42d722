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


async def test_an_account_taken_anew_while_its_first_fetch_runs(stage: InfluencerStage) -> None:
    """Its fetch is wanted while the one of its life before is under way: both are made."""
    await stage.open_venue()
    await stage.watch(BEN)
    await stage.start()
    await stage.live(1)
    await stage.fault("rest_slow", by_s=1.0, type="userFillsByTime", user=ANN, next=1)
    await stage.watch(ANN)

    async def heard() -> bool:
        return await stage.metric("trading_bus_influencer_listener_connected", influencer="ann") == 2

    await stage.stage.until(heard, 5, "ann is heard", 0.02)
    assert await stage.metric("trading_bus_influencer_uncovered") == 1
    for enabled in (False, True):
        await stage.con.execute("UPDATE influencers SET enabled = $1 WHERE address = $2", enabled, ANN)
    await stage.live(2, within_s=5)
    # A table too long for the limits ends no process that runs, even if it began with none.
    await stage.con.execute("DELETE FROM influencers")
    await stage.stage.until(lambda: _watches(stage, 0), 5, "nobody is watched", 0.05)
    await stage.con.execute(
        "INSERT INTO influencers (address, influencer_id)"
        " SELECT '0x' || lpad(n::text, 40, '0'), 'many-' || n FROM generate_series(1, 100) n"
    )

    async def refused() -> bool:
        return "beyond the 10 users" in (await stage.check("configuration"))["detail"].get("refused", "")

    await stage.stage.until(refused, 5, "the table is refused", 0.05)
    assert stage.stage.ingestors[-1].alive()


async def test_listeners_that_come_back_while_a_fetch_runs(stage: InfluencerStage) -> None:
    """That fetch began unheard, so it covers nothing: another one follows at once."""
    await stage.open_venue()
    await stage.watch(ANN)
    await stage.start(state_every_s=600, audit_every_s=600)
    await stage.live(1)
    # The fetch after a first cut fails; when it is tried again, the listeners are gone, and come back before it ends.
    await stage.fault("rest_down", type="userFillsByTime", user=ANN)
    await stage.fault("cut")

    async def failed() -> bool:
        return await stage.metric("trading_bus_influencer_info_failures_total") > 0

    await stage.stage.until(failed, 5, "a fetch failed", 0.02)
    await stage.clear()
    await stage.fault("rest_latency", by_ms=2_000)
    await stage.fault("cut", for_s=60)
    calls = await stage.metric("trading_bus_influencer_info_calls_total")

    async def under_way() -> bool:
        return await stage.metric("trading_bus_influencer_info_calls_total") > calls

    await stage.stage.until(under_way, 5, "a fetch is under way", 0.02)
    assert await _heard(stage) == 0
    await stage.fault("cut", for_s=0)

    async def heard() -> bool:
        return await _heard(stage) == 2

    await stage.stage.until(heard, 5, "heard again", 0.02)
    assert await stage.metric("trading_bus_influencer_uncovered") == 1
    await stage.live(1, within_s=8)


async def test_a_leaving_account_takes_its_open_gaps_along(stage: InfluencerStage) -> None:
    await stage.open_venue()
    await stage.watch(ANN, BEN)
    await stage.start()
    await stage.live(2)
    await stage.play(*trades(ANN, ("open",)), *trades(BEN, ("open",)))
    await stage.fault("rest_down", type="userFillsByTime")
    for streamed in (False, True):
        await stage.play(*trades(ANN, ("increase",), parts=1, streamed=streamed))
        await stage.play(*trades(BEN, ("increase",), parts=1, streamed=streamed))
    await stage.stage.until(lambda: _has_gaps(stage, open=2), 5, "two open gaps", 0.02)
    await stage.con.execute("DELETE FROM influencers WHERE address = $1", ANN)
    await stage.stage.until(lambda: _has_gaps(stage, open=1, not_subscribed=1), 5, "one left", 0.02)
    for enabled in (False, True):
        await stage.con.execute("UPDATE influencers SET enabled = $1 WHERE address = $2", enabled, BEN)
    await stage.stage.until(lambda: _has_gaps(stage, not_subscribed=2), 5, "one begins anew", 0.02)


async def _has_gaps(stage: InfluencerStage, **counts: int) -> bool:
    return await stage.gaps() == counts


async def test_an_account_taken_anew_while_its_fills_are_held(stage: InfluencerStage) -> None:
    """Fills after its new beginning came to the life before: they come again, and count."""
    await stage.open_venue()
    await stage.watch(ANN)
    await stage.start(gap_hold_ms=10_000, audit_every_s=600)
    await stage.live(1)

    async def has_signals(count: int) -> bool:
        return await stage.stage.count("influencer_signals") == count

    await stage.play(*trades(ANN, ("open",)))
    await stage.stage.until(lambda: has_signals(1), 5, "one signal", 0.02)
    await stage.fault("rest_down", type="userFillsByTime", user=ANN)
    begun = await stage.con.fetchval("SELECT clock_timestamp()")
    await asyncio.sleep(0.01)
    await stage.play(*trades(ANN, ("increase",), parts=1, streamed=False))
    await stage.play(*trades(ANN, ("increase",), parts=1))

    async def asked() -> bool:
        return await stage.metric("trading_bus_influencer_info_failures_total") > 0

    await stage.stage.until(asked, 5, "the gap is asked for", 0.02)
    assert await stage.stage.count("influencer_signals") == 1, "held"
    await stage.con.execute("UPDATE influencers SET added_at = $1", begun)
    await stage.clear()
    await stage.stage.until(lambda: has_signals(3), 5, "both count", 0.05)
    assert await stage.stage.count("influencer_raw_events WHERE event_type = 'FILL'") == 3


async def _heard(stage: InfluencerStage) -> float:
    return await stage.metric("trading_bus_influencer_listener_connected")


async def _watches(stage: InfluencerStage, accounts: int) -> bool:
    return (await stage.check("accounts")).get("detail", {}).get("watched") == accounts
