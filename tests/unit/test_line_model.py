"""Two connections, a writer that merges, repairs that hang, symbols that come and go: no complete row is ever wrong."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ohlcv_ingestor.repair import RepairLimits
from ohlcv_ingestor.series import SeriesLimits
from tests.unit.line_world import Knobs, LineWorld, judge
from tests.unit.ohlcv_model import T0, Venue, make_trades

FAITHFUL = ["stream"] * 8 + ["flush"] * 3
FAITHFUL += ["unknown", "away", "back", "crash", "overflow", "open", "open", "lose", "long", "blind"]
ALL = [*FAITHFUL, "unsubscribe", "subscribe"]


def play(
    seed: int, steps: list[str], knobs: Knobs, lost: float, limits: SeriesLimits, repair: RepairLimits
) -> LineWorld:
    rng = random.Random(seed)
    trades = make_trades(rng, 6_000, rng.choice([0.05, 0.5, 3.0]))
    gone = {t.id for t in trades if t.time_ms > 1000 * (T0 + 60) and rng.random() < lost}
    world = LineWorld(Venue(trades, gone), limits, repair, rng, knobs)
    world.open()
    for step in steps:
        act(world, step, rng)
    world.wind_up()
    return world


def act(world: LineWorld, step: str, rng: random.Random) -> None:
    match step:
        case "stream":
            world.stream(world.now_ms + rng.randrange(200, 20_000))
        case "long":
            world.stream(world.now_ms + rng.randrange(30_000, 400_000))
        case "blind":
            while world.sockets:
                world.lose()
            world.stream(world.now_ms + rng.randrange(1_000, 200_000))
        case "open":  # beside one that is open already it is a rotation; the new one may lag
            world.open(rng.choice([0, 0, 700, 1_500]))
        case "lose":
            world.lose()
        case "flush":
            world.flush()
        case "unknown":
            world.flush(unknown=True)
        case "away":
            world.db_away = True
        case "back":
            world.db_away = False
        case "crash":
            world.db_away = False
            world.start_process()
            world.open()
        case "overflow":
            world.overflow()
        case "unsubscribe":
            world.unsubscribe()
        case "subscribe":
            world.subscribe_again()
        case _:
            raise AssertionError(step)


def steps(of: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(of), min_size=2, max_size=18)


SEEDS = st.integers(0, 2**32)
RINGS = st.sampled_from([300, 120])
REPAIRS = st.sampled_from([RepairLimits(), RepairLimits(5, 1_000), RepairLimits(5, 60)])
REST = {
    "rest_fail": st.sampled_from([0.0, 0.3]),
    "rest_lag_ms": st.sampled_from([0, 800, 2_500, 20_000, 200_000]),
    "pump": st.sampled_from([1.0, 0.5, 0.05]),
}
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(seed=SEEDS, does=steps(FAITHFUL), knobs=st.builds(Knobs, **REST), ring_s=RINGS, repair=REPAIRS)
def test_a_faithful_stream_ends_in_the_recount(
    seed: int, does: list[str], knobs: Knobs, ring_s: int, repair: RepairLimits
) -> None:
    world = play(seed, does, knobs, 0.0, SeriesLimits(ring_s=ring_s), repair)
    assume(world.starts and world.at < len(world.venue.trades))
    judge(world)


@QUICK
@given(
    seed=SEEDS,
    does=steps(ALL),
    knobs=st.builds(Knobs, drop=st.sampled_from([0.0, 0.05, 0.3]), delay=st.sampled_from([0.0, 0.05]), **REST),
    lost=st.sampled_from([0.0, 0.0, 0.02]),
    limits=st.builds(SeriesLimits, ring_s=RINGS, backfill_s=st.sampled_from([6_000, 6_000, 300])),
    repair=REPAIRS,
)
def test_whatever_interleaves_a_complete_row_is_the_venues(
    seed: int, does: list[str], knobs: Knobs, lost: float, limits: SeriesLimits, repair: RepairLimits
) -> None:
    world = play(seed, does, knobs, lost, limits, repair)
    assume(world.starts and world.at < len(world.venue.trades))
    judge(world)


@settings(QUICK, max_examples=20)
@given(
    seed=SEEDS,
    does=steps(ALL),
    knobs=st.builds(Knobs, drop=st.sampled_from([0.0, 0.05]), wild=st.sampled_from([0.02, 0.2]), **REST),
    limits=st.builds(SeriesLimits, ring_s=RINGS, backfill_s=st.sampled_from([6_000, 300])),
    repair=REPAIRS,
)
def test_frames_with_absurd_times_move_nothing_and_their_trades_come_back(
    seed: int, does: list[str], knobs: Knobs, limits: SeriesLimits, repair: RepairLimits
) -> None:
    world = play(seed, does, knobs, 0.0, limits, repair)
    assume(world.starts and world.at < len(world.venue.trades))
    judge(world)
    assert world.line.watermark_ms <= world.now_ms


def test_the_judge_can_say_no() -> None:
    world = play(1, ["stream", "long", "flush"], Knobs(), 0.0, SeriesLimits(), RepairLimits())
    judge(world)
    time, (row, rev) = max(world.tables.footprints.items())
    world.tables.footprints[time] = (msgspec.structs.replace(row, n=row.n + 1), rev)
    with pytest.raises(AssertionError, match="complete with"):
        judge(world)
