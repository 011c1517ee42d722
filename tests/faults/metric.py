"""The metric ingestor's rows of a world: every window there, its signed volume the recount of the tape."""

from __future__ import annotations

from tests.faults.judge import SHOWN_MAX, Mismatch, heard_s, spans_of
from tests.faults.world import World
from tests.metric_judge import WINDOW_S, judge_metrics

METRIC_WITHIN_S = 20.0
LAST_WINDOWS = 2
"""Windows before the end that may not be due yet."""


async def judge_world_metrics(world: World, from_s: int, to_s: int, within_s: float = METRIC_WITHIN_S) -> int:
    """Wait until every window of [from_s, to_s] is as it must be; raises Mismatch. Returns the windows compared.

    Null is right where the ledger says that the venue itself lost trades, and where the symbol was not wanted.
    """
    if world.metric is None:
        return 0
    wrong: list[str] = []
    windows = 0
    status = await world.stage.oracle("status")

    async def right() -> bool:
        nonlocal windows
        wrong.clear()
        windows = 0
        for symbol in world.symbols:
            end_s = min(to_s, await heard_s(world, symbol, status)) if world.lossy else to_s
            end_s = (end_s // WINDOW_S - LAST_WINDOWS) * WINDOW_S
            unproven, idle = await spans_of(world, symbol, world.missing)
            begin_s = max(from_s, world.metric_from_s, world.first_s[symbol])
            await world.fetch("SELECT")  # a connection that comes back
            judged = await judge_metrics(
                world.stage, [symbol], begin_s, end_s, unproven=[(a, b or to_s) for a, b in unproven],
                idle=[(a, b or to_s) for a, b in idle], samples=not wrong,
            )  # fmt: skip
            windows += judged.windows
            wrong.extend(judged.wrong)
        return not wrong

    try:
        await world.reach(right, within_s, "metric rows are right")
    except AssertionError as error:
        if not wrong:
            raise
        raise Mismatch(f"{len(wrong)} of {windows} metric windows: {wrong[:SHOWN_MAX]}") from error
    return windows
