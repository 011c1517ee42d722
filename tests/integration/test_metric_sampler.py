"""The sampler and what it asks, against a sandbox: when samples come, and what a wrong time costs."""

from __future__ import annotations

import asyncio

from common.clock import Clock
from common.listings import Listing
from common.rest import RestClient, RestLimits, WeightBudget
from metric_ingestor.sampler import Sampler
from metric_ingestor.samples import Field, Samples
from metric_ingestor.settings import MetricSettings
from metric_ingestor.vendors import BINANCE, Clients, Vendors
from metric_ingestor.venue_time import VenueTime
from metric_ingestor.windows import WINDOW_S, latest_ended
from sandbox.config import Config
from sandbox.venue import Sandbox
from tests.servers import share_servers

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
SPEED = 50.0
HOUR_MS = 3_600_000


async def test_a_time_that_was_wrong_costs_some_windows() -> None:
    """The server's first answer is an hour ahead; samples come again as soon as that is corrected."""
    clock, samples = Clock(rate=SPEED), Samples()
    settings = MetricSettings(ts_dsn=share_servers().ts_dsn, rmq_url=share_servers().rmq_url)
    config = Config(symbols=SYMBOLS, speed=SPEED, history_minutes=5)
    budget = WeightBudget(100_000)
    async with Sandbox(config) as venue, RestClient(venue.rest_url, budget, RestLimits()) as rest:
        venue.fault(
            "rest_answer", venue="futures", path="time", answer="shift", field="serverTime", by_ms=HOUR_MS, next=1
        )
        vendors = Vendors(Clients(rest, rest, None), clock, VenueTime(SPEED), samples, lambda: 0.0)
        sampler = Sampler(settings, clock, vendors, 1_200)
        sampler.followed, sampler.ranked = dict.fromkeys(SYMBOLS, Listing()), SYMBOLS
        task = asyncio.create_task(sampler.run())
        while not vendors.time.known:
            await asyncio.sleep(0.01)
        wrong_ms = vendors.now_ms()

        def told(window: int) -> int:
            return sum(
                samples.read(symbol, field, window, (BINANCE,)) is not None for symbol in SYMBOLS for field in Field
            )

        async with asyncio.timeout(8):
            while vendors.now_ms() > wrong_ms - HOUR_MS / 2:
                await asyncio.sleep(0.02)
            corrected = latest_ended(vendors.now_ms())
            while told(window := latest_ended(vendors.now_ms())) < 2 * len(SYMBOLS):
                await asyncio.sleep(0.02)
        assert window <= corrected + 10 * WINDOW_S
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
