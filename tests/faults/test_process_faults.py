"""The ingestor is killed, stopped, frozen, doubled, kept away; its database is slow or full; faults come together."""

from __future__ import annotations

from random import Random

import pytest

from tests.faults.conftest import Keeper
from tests.faults.scenarios import (
    Scenario,
    combine,
    database_faults,
    metric_faults,
    pick,
    process_faults,
    rest_faults,
    stream_faults,
)  # fmt: skip

pytestmark = pytest.mark.asyncio(loop_scope="module")
SEEDS = (1, 2)
COMBINED = [
    *pick(stream_faults(2), "cut", "stalled symbol", "lost frames", "frames out of order", "delayed trades"),
    *pick(rest_faults(2), "REST down", "REST slow"),
    *pick(process_faults(2), "ingestor killed", "excluded and active again"),
    *database_faults(2),
]
SCENARIOS = [
    *pick(
        process_faults(2),
        "ingestor killed", "ingestor frozen", "25 minutes away", "local clock 10 s fast", "take-over",
        "excluded and active again in a cut",
    ),
    *pick(metric_faults(2), "metric ingestor away while trades are repaired", "both ingestors killed"),
    *database_faults(2),
    *(combine(Random(seed), COMBINED, 2) for seed in SEEDS),
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
async def test_fault(keeper: Keeper, scenario: Scenario) -> None:
    await keeper.play(scenario)
