"""The venue misbehaves in every way it can; afterwards the tables equal its recount."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Keeper
from tests.faults.scenarios import Scenario, pick, rest_faults, stream_faults

pytestmark = pytest.mark.asyncio(loop_scope="module")
SCENARIOS = [
    *pick(
        stream_faults(2),
        "cut", "silent socket", "stalled symbol", "muted stream", "muted cadence", "lost frames", "frames out of order",
        "broken frames", "oversized frame", "lost at the source",
    ),
    *pick(
        rest_faults(2), "REST 418", "REST late for longer than three tries", "REST late after 25 minutes away",
    ),
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
async def test_fault(keeper: Keeper, scenario: Scenario) -> None:
    await keeper.play(scenario)
