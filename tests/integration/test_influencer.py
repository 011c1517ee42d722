"""The influencer ingestor as a process: accounts that trade, come, go, are too many, and say what can not be read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.influencer_stage import ANN, BEN, InfluencerStage, open_influencer_stage, trades

ALL = ("open", "increase", "decrease", "flip", "close")


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[InfluencerStage]:
    async with open_influencer_stage(tmp_path, ts_dsn, rmq_url) as stage:
        yield stage


async def test_every_change_is_signalled_once(stage: InfluencerStage) -> None:
    await stage.open_venue()
    await stage.play(*trades(ANN, ALL))
    await stage.watch(ANN)
    process = await stage.start()
    await stage.live(1)
    await stage.listen()
    await stage.play(*trades(ANN, (*ALL, "open", "liquidate")), *trades(ANN, ("buy", "sell", "dust"), coin="@107"))
    assert await stage.judge() >= 8
    # An account added while it runs is live within three seconds.
    await stage.watch(BEN)
    await stage.live(2, within_s=3.0)
    await stage.play(*trades(BEN, ALL, coin="BTC"), *trades(ANN, ALL, coin="xyz:CL"))
    await stage.judge()
    assert await process.stop() == 0, process.tail()
