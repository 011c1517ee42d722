"""The judge itself: whatever is changed behind its back it finds."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Keeper
from tests.faults.judge import Mismatch, judge_log, judge_tables
from tests.faults.metric import judge_samples, judge_world_metrics, sampled_symbols
from tests.faults.world import World
from tests.message_check import MessageCheck

pytestmark = pytest.mark.asyncio(loop_scope="module")
ONE = "symbol = 'BTCUSDT' AND time = to_timestamp({second})"
INSERT_GAP = (
    "INSERT INTO feed_gaps (service, venue, symbol, from_id, from_time, to_time, missing, status, reason)"
    " VALUES ('ohlcv', 'binance', 'BTCUSDT', 1, to_timestamp({{second}}), to_timestamp({{second}}), {})"
)
TAMPERINGS = {
    "a value": "UPDATE footprint_1s SET buy_vol = buy_vol + 0.00000001 WHERE " + ONE,
    "a count": "UPDATE raw_bars SET n = n + 1 WHERE symbol = 'BTCUSDT' AND time = to_timestamp({minute})",
    "completeness": "UPDATE footprint_1s SET complete = false WHERE " + ONE,
    "a missing row": "DELETE FROM footprint_1s WHERE " + ONE,
    "an open gap": INSERT_GAP.format("'{{}}', 'open', 'test'"),
    "time that was wanted": INSERT_GAP.format("'{{}}', 'not_subscribed', 'test'"),
    "ids that the venue has": INSERT_GAP.format("'{{[1,3)}}', 'source_missing', 'test'"),
    "a deletion that nobody was told": "INSERT INTO footprint_deleted (symbol, time, rev)"
    " VALUES ('NOSUCH', to_timestamp({second}), 2)",
    "a revision": "UPDATE footprint_1s SET rev = rev + 1 WHERE " + ONE,
}


@pytest.mark.parametrize("statement", TAMPERINGS.values(), ids=TAMPERINGS.keys())
async def test_tampering_is_found(keeper: Keeper, statement: str) -> None:
    world = await keeper.world()
    from_s, to_s = world.judged_s, await world.venue_s()
    await world.reach(lambda: world.is_whole(to_s), 30, "stored")
    await judge(world, from_s, to_s, within_s=10)
    row = await world.fetch(
        "SELECT extract(epoch FROM min(time))::bigint AS s FROM footprint_1s WHERE symbol = 'BTCUSDT'"
    )
    transaction = world.stage.con.transaction()
    await transaction.start()
    try:
        await world.execute(statement.format(second=row[0]["s"], minute=from_s + 600))
        with pytest.raises(Mismatch):
            await judge(world, from_s, to_s, within_s=0.5)
    finally:
        await transaction.rollback()


async def test_a_message_that_is_not_as_promised_is_found(keeper: Keeper) -> None:
    world = await keeper.world()
    from_s, to_s = world.judged_s, await world.venue_s()
    await world.reach(lambda: world.is_whole(to_s), 30, "stored")
    await judge_log(world, from_s, to_s, 10)
    check, world.tail.check = world.tail.check, MessageCheck()
    try:
        world.tail.check.see("price_updates.BTCUSDT.1m", b'{"time":"now"}')
        with pytest.raises(Mismatch, match="not as promised"):
            await judge_log(world, from_s, to_s, 10)
    finally:
        world.tail.check = check


async def test_a_tampered_window_is_found(keeper: Keeper) -> None:
    world = await keeper.world()
    to_s = max(await world.venue_s(), world.metric_from_s + 90)
    await world.reach(lambda: world.is_whole(to_s), 40, "stored")
    assert await judge_world_metrics(world, world.metric_from_s, to_s) > 0
    for change in ("cvd_delta = cvd_delta + 0.00000001", "cvd_delta = NULL", "oi_time = oi_time - interval '1 s'"):
        transaction = world.stage.con.transaction()
        await transaction.start()
        try:
            await world.execute(
                f"UPDATE metric_15s SET {change} WHERE symbol = 'BTCUSDT' AND cvd_delta IS NOT NULL"
                f" AND oi_time IS NOT NULL AND time > to_timestamp({world.metric_from_s})"
                f" AND time < to_timestamp({to_s - 45})"
            )
            with pytest.raises(Mismatch, match="metric windows"):
                await judge_world_metrics(world, world.metric_from_s, to_s, within_s=0.3)
        finally:
            await transaction.rollback()


async def test_a_symbol_without_samples_is_found(keeper: Keeper) -> None:
    world = await keeper.world()
    from_s, to_s = world.metric_from_s, world.metric_from_s + 45
    await world.reach(lambda: world.is_whole(to_s), 40, "stored")
    await judge_samples(world, from_s)
    for column in ("funding", "open_interest"):
        transaction = world.stage.con.transaction()
        await transaction.start()
        try:
            await world.execute(
                f"UPDATE metric_15s SET {column} = NULL WHERE symbol = 'BTCUSDT' AND time > to_timestamp({from_s})"
            )
            assert await sampled_symbols(world, from_s, to_s) == set(world.symbols) - {"BTCUSDT"}
        finally:
            await transaction.rollback()
    with pytest.raises(Mismatch, match="no samples"):
        await judge_samples(world, to_s + 3600, within_s=0.3)


async def judge(world: World, from_s: int, to_s: int, within_s: float) -> None:
    await judge_tables(world, from_s, to_s, missing=True, lossy=False)
    await judge_log(world, from_s, to_s, within_s)
