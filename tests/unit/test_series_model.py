"""Any order, loss, cut or restart: after repair every row equals the recount, or says that it is not complete."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ohlcv_ingestor.repair import RepairLimits
from ohlcv_ingestor.series import SeriesLimits
from tests.unit.ohlcv_model import UNIT, Venue, World, make_trades, plain, recount, touching

STEPS = ["stream"] * 5 + [
    "flush",
    "flush",
    "cut",
    "connect",
    "crash",
    "repair",
    "repair",
    "long",
    "failing",
    "mute",
    "check",
    "behind",
    "level",
]


def play(seed: int, steps: list[str], lost_share: float, drop: float, delay: float, ids_max: int) -> World:
    rng = random.Random(seed)
    trades = make_trades(rng, 4_000, rng.choice([0.05, 0.5, 3.0]))
    lost = {t.id for t in trades if t.time_ms > 1_790_000_100_000 and rng.random() < lost_share}
    world = World(Venue(trades, lost, fail=0.3), SeriesLimits(), RepairLimits(ids_max, 60))
    world.connect()
    for step in steps:
        if step == "stream":
            world.stream(world.now_ms + rng.randrange(200, 30_000), rng, drop, delay, 0.02)
        elif step == "long":
            world.stream(world.now_ms + rng.randrange(30_000, 500_000), rng, drop, delay, 0.02)
        elif step == "mute":
            world.stream(world.now_ms + rng.randrange(1_000, 200_000), rng, 1.0, 0.0, 0.0)
        elif step == "check":
            world.check()
        elif step == "behind":
            world.venue.behind_ms = rng.choice([4_000, 20_000, 65_000, 200_000])
        elif step == "level":
            world.venue.behind_ms = 0
        elif step == "flush":
            world.flush()
        elif step == "cut":
            world.disconnect()
        elif step == "connect":
            world.connect()
        elif step == "crash":
            world.crash()
            world.connect()
        elif step == "repair":
            world.repair()
        elif step == "failing":
            world.repair(rng)
    world.wind_up()
    return world


def judge(world: World) -> None:
    """Data columns equal the recount wherever complete; complete exactly where no gap touches; cursor at the end."""
    series, tables = world.series, world.tables
    assert not series.ids.gaps, "a gap was left open"
    missing = {i for g in tables.gaps.values() for a, b in g.missing for i in range(a, b + 1)}
    assert missing <= world.venue.lost, "the ledger calls ids missing that the venue has"
    visible = [t for t in world.venue.trades if t.id not in world.venue.lost]
    seconds, minutes = recount(visible, 1), recount(visible, 60)
    from ohlcv_ingestor.stored import gap_of_row

    barred = [gap_of_row(g) for g in tables.gaps.values() if g.status != "repaired"]
    first_s, end_s = world.started_s, series.closed_s
    wanted = {s: r for s, r in seconds.items() if first_s <= s < end_s}
    stored = {s: r for s, (r, _) in tables.footprints.items() if s >= first_s}
    assert stored.keys() == wanted.keys()
    for s, row in stored.items():
        want = wanted[s]
        got = {
            "o": row.open,
            "h": row.high,
            "l": row.low,
            "c": row.close,
            "buy": row.buy_vol,
            "sell": row.sell_vol,
            "n": row.n,
        }
        assert got == {k: want[k] for k in got}, s
        assert row.complete is not touching(barred, s, s + 1), s
    first_bar = min(tables.bars)
    close = next((plain(Decimal(t.price) / UNIT) for t in reversed(visible) if t.time_ms < 1000 * first_bar), None)
    for m in range(first_bar, end_s - 59, 60):
        row = tables.bars[m][0]
        want = minutes.get(m)
        if want is None:
            assert (row.v, row.n, row.o, row.h, row.l, row.c) == ("0", 0, close, close, close, close), m
        else:
            got = {"o": row.o, "h": row.h, "l": row.l, "c": row.c, "v": row.v, "n": row.n, "buy": row.buy_vol,
                   "quote": row.quote_vol, "buy_quote": row.buy_quote_vol}  # fmt: skip
            assert got == {k: want[k] for k in got}, m
        close = row.c
        assert row.complete is not touching(barred, m, m + 60), m
    assert tables.cursor is not None
    assert tables.cursor.event_s == end_s


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(st.sampled_from(STEPS), min_size=3, max_size=25),
    lost_share=st.sampled_from([0.0, 0.0, 0.02]),
    drop=st.sampled_from([0.0, 0.05, 0.3]),
    delay=st.sampled_from([0.0, 0.05]),
    ids_max=st.sampled_from([5_000, 5]),
)
def test_after_repair_everything_equals_the_recount(
    seed: int, steps: list[str], lost_share: float, drop: float, delay: float, ids_max: int
) -> None:
    world = play(seed, steps, lost_share, drop, delay, ids_max)
    assume(world.at < len(world.venue.trades))
    judge(world)


def test_the_model_can_fail() -> None:
    """A judge that accepts a doubled trade would judge nothing."""
    world = play(1, ["stream", "long", "flush"], 0.0, 0.0, 0.0, 5_000)
    time, (row, rev) = max(world.tables.footprints.items())
    import msgspec

    world.tables.footprints[time] = (msgspec.structs.replace(row, n=row.n + 1), rev)
    with pytest.raises(AssertionError):
        judge(world)
