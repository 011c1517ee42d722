"""Accounts that come, go and change their places while fills, fetches and acknowledgements are on their way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.influencer_stage import ANN, BEN, InfluencerStage, open_influencer_stage, trades


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[InfluencerStage]:
    async with open_influencer_stage(tmp_path, ts_dsn, rmq_url) as stage:
        yield stage


async def test_orders_are_stored_under_their_own_account(stage: InfluencerStage) -> None:
    """Their frames name nobody; those of the account that led are on their way when another one takes its place."""
    await stage.open_venue()
    await stage.watch(ANN, priority=5)
    await stage.watch(BEN)
    await stage.start(watch_orders=True, sockets_per_listener=1)
    await stage.live(2)
    await stage.fault("lag", by_s=0.7)
    await stage.play(*trades(ANN, ("open", "increase"), parts=1), *trades(BEN, ("open",), parts=1))
    await stage.con.execute("UPDATE influencers SET priority = 9 WHERE address = $1", BEN)
    orders = "influencer_raw_events WHERE event_type = 'ORDER_UPDATE' AND influencer_address = $1"

    async def has_orders(user: str) -> bool:
        await stage.play(*trades(user, ("increase",), parts=1))
        return await stage.stage.count(orders, user) > 0

    await stage.stage.until(lambda: has_orders(BEN), 10, "the other one's orders are heard", 0.1)
    assert await stage.stage.count(orders, ANN) >= 2
    owners = {one["fill"]["oid"]: one["user"] for one in await stage.stage.oracle("hyperliquid/fills")}
    rows = await stage.con.fetch(
        "SELECT influencer_address AS who, raw_payload FROM influencer_raw_events WHERE event_type = 'ORDER_UPDATE'"
    )
    assert {(r["who"], owners[json.loads(r["raw_payload"])["order"]["oid"]]) for r in rows} == {(ANN, ANN), (BEN, BEN)}


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
