"""The metric ingestor's rows of a world: every window is there with the recount of the tape, and samples come again."""

from __future__ import annotations

from tests.faults.judge import SHOWN_MAX, Mismatch, heard_s, spans_of
from tests.faults.world import World
from tests.metric_judge import WINDOW_S, judge_metrics

METRIC_WITHIN_S = 20.0
FOREVER_S = 32_503_680_000
LAST_WINDOWS = 2
"""Windows before the end that may not be due yet."""


async def judge_world_metrics(world: World, from_s: int, to_s: int, within_s: float = METRIC_WITHIN_S) -> int:
    """Wait until every window of [from_s, to_s] is as it must be; raises Mismatch. Returns the windows compared.

    Null is right where the ledger says that the venue itself lost trades, and where the symbol was not wanted. By the
    end the futures venue is well again: every symbol has a row with both samples.
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
    await judge_samples(world, to_s - WINDOW_S, within_s)
    return windows


async def judge_samples(world: World, from_s: int, within_s: float = METRIC_WITHIN_S) -> None:
    """Wait until every symbol has funding and open interest in a window that ends after `from_s`; raises Mismatch."""

    async def sampled() -> bool:
        return await sampled_symbols(world, from_s) >= set(world.symbols)

    try:
        await world.reach(sampled, within_s, "samples come again")
    except AssertionError as error:
        lacking = set(world.symbols) - await sampled_symbols(world, from_s)
        if not lacking:
            raise
        raise Mismatch(f"no samples after {from_s}: {sorted(lacking)}") from error


async def sampled_symbols(world: World, from_s: int, to_s: int = FOREVER_S) -> set[str]:
    """Symbols with both samples in one row of (from_s, to_s]."""
    rows = await world.fetch(
        "SELECT DISTINCT symbol FROM metric_15s WHERE time > to_timestamp($1) AND time <= to_timestamp($2)"
        " AND funding IS NOT NULL AND open_interest IS NOT NULL", from_s, to_s,
    )  # fmt: skip
    return {row["symbol"] for row in rows}
