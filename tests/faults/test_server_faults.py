"""The broker and the database are killed, frozen and blocked under the ingestor."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Keeper
from tests.faults.scenarios import Scenario, pick, server_faults

pytestmark = pytest.mark.asyncio(loop_scope="module")
SCENARIOS = pick(
    server_faults(4),
    "memory alarm", "both killed", "ingestor killed while the broker is away",
)  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
async def test_fault(own_keeper: Keeper, scenario: Scenario) -> None:
    await own_keeper.play(scenario)
