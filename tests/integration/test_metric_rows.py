"""Rows of `metric_15s` on a real database: revisions, what is announced, what is left alone, and the day's sum."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from common.batch import Batch
from common.clock import Clock
from common.contracts import GapStatus, MetricRow
from common.listings import Listing
from common.venues.binance_futures import MAX_FUNDING, SettledPage, Settlement
from metric_ingestor.samples import Fate, Field, Sample
from metric_ingestor.settled import HISTORY_S, Settlements
from metric_ingestor.venue_time import VenueTime
from ops.verify_live import note_rewriting
from tests.metric_desk import END, SOL, Desk, Ground, clear_desk, ingestor_of, open_ground
from tests.rows import T0, make_second

FULL = MetricRow(END, SOL, 0.0001, 100.5, None, 8, "binance", "binance", None, 1000 * T0 + 9000, 1000 * T0 + 8000)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground() -> AsyncIterator[Ground]:
    """One database for all of them: making one costs a second."""
    async with open_ground() as ground:
        yield ground


@pytest_asyncio.fixture(loop_scope="module")
async def desk(ground: Ground) -> Desk:
    return await clear_desk(ground)


async def test_a_row_is_revised_only_when_it_changed(desk: Desk) -> None:
    await desk.put(make_second(T0 + 3), make_second(T0 + 14), make_second(T0 + 15), cursor_s=T0 + 16)
    row = await desk.write(FULL)
    assert (row["cvd_delta"], row["cvd_source"], row["funding"], row["open_interest"]) == (
        0.5,
        "binance",
        0.0001,
        100.5,
    )
    assert (row["funding_interval_h"], row["rev"]) == (8, 1)
    await desk.again(END)
    await desk.again(END)
    assert (await desk.row())["rev"] == 1
    assert len(await desk.messages()) == 1
    await desk.put(replace(make_second(T0 + 14), sell_vol="0.125"), cursor_s=T0 + 16)
    await desk.again(END)
    row = await desk.row()
    assert (row["cvd_delta"], row["rev"], row["funding"], row["oi_source"]) == (0.625, 2, 0.0001, "binance")
    assert [ident[-2:] for ident in await desk.messages()] == ["#1", "#2"]
    assert (await desk.row())["funding_time"].timestamp() == T0 + 9


async def test_late_gap_and_repair(desk: Desk) -> None:
    """Before its watermark null; then known; a gap takes it back; the repair brings it again."""
    row = await desk.write(FULL)
    assert (row["cvd_delta"], row["cvd_source"], row["rev"]) == (None, None, 1)
    await desk.put(cursor_s=END)
    desk.dirty.advance({SOL: END}, END)
    await desk.recorder.step()
    assert ((await desk.row())["cvd_delta"], (await desk.row())["rev"]) == (0.0, 2)
    for status, value, rev in (
        (GapStatus.OPEN, None, 3), (GapStatus.SOURCE_MISSING, None, 3), (GapStatus.NOT_SUBSCRIBED, None, 3),
        (GapStatus.REPAIRED, 0.25, 4),
    ):  # fmt: skip
        await desk.put(make_second(T0 + 3), gap=status)
        await desk.again(END)
        row = await desk.row()
        assert (row["cvd_delta"], row["rev"]) == (value, rev), status
    await desk.put(cursor_s=T0 + 60, bar_n=4)
    await desk.again(END)
    assert (await desk.row())["cvd_delta"] is None, "the bar knows of a trade that no second has"


async def test_windows_of_a_time_away(desk: Desk) -> None:
    """What is proven gets a row; what is not gets one after the last row there was, unless it was not wanted."""
    desk.recorder.written = T0 + 60
    await desk.put(make_second(T0 + 20), cursor_s=T0 + 40)
    await desk.again(END, END + 15, END + 30, END + 45, END + 60)
    assert await desk.con.fetchval("SELECT count(*) FROM metric_15s") == 2
    desk.recorder.fill_from[SOL] = END
    await desk.again(END, END + 15, END + 30, END + 45, END + 60)
    rows = await desk.con.fetch("SELECT cvd_delta, funding FROM metric_15s ORDER BY time")
    assert [tuple(row) for row in rows] == [(0.0, None), (0.25, None), (None, None), (None, None)]
    await desk.put(gap=GapStatus.NOT_SUBSCRIBED)
    await desk.con.execute("DELETE FROM metric_15s")
    await desk.again(END)
    assert await desk.con.fetchval("SELECT count(*) FROM metric_15s") == 0


async def test_a_restart_in_the_same_window_keeps_what_is_known(desk: Desk) -> None:
    await desk.put(cursor_s=END)
    await desk.write(FULL)
    row = await desk.write(MetricRow(END, SOL))
    assert (row["funding"], row["open_interest"], row["rev"]) == (0.0001, 100.5, 1)
    older = replace(FULL, funding=9.0, funding_ms=1000 * T0, open_interest=9.0, oi_ms=1000 * T0)
    assert (await desk.write(older))["rev"] == 1
    newer = replace(
        FULL, funding=0.0002, funding_ms=1000 * T0 + 9500, funding_source="okx", open_interest=None, oi_ms=None
    )
    row = await desk.write(newer)
    assert (row["funding"], row["funding_source"], row["open_interest"], row["rev"]) == (0.0002, "okx", 100.5, 2)


async def test_too_many_windows_wait(desk: Desk) -> None:
    """The oldest lose their samples, and get their rows all the same."""
    await desk.put(cursor_s=END + 60)
    for step in range(5):
        desk.recorder.hand_in(END + 15 * step, [replace(FULL, time=END + 15 * step)])
    assert desk.recorder.waiting() == 3
    assert desk.recorder.dropped_total == 2
    await desk.recorder.step()
    rows = await desk.con.fetch("SELECT funding FROM metric_15s ORDER BY time")
    assert [row["funding"] for row in rows] == [None, None, 0.0001, 0.0001, 0.0001]


async def test_the_day_begins_after_midnight(desk: Desk) -> None:
    midnight = T0 // 86_400 * 86_400 + 86_400
    values = {-15: 1.0, 0: 2.0, 15: 0.1, 30: 0.2, 60: None, 75: 0.3}
    for shift, value in values.items():
        await desk.con.execute(
            "INSERT INTO metric_15s (time, symbol, cvd_delta) VALUES (to_timestamp($1), $2, $3)",
            midnight + shift, SOL, value,
        )  # fmt: skip
    rows = await desk.con.fetch("SELECT cvd::float8, unknown FROM metric_cvd_day WHERE symbol = $1 ORDER BY time", SOL)
    assert [row["cvd"] for row in rows] == [1.0, 3.0, 0.1, 0.3, 0.3, 0.6]
    assert [row["unknown"] for row in rows[2:]] == [0, 0, 2, 2]


async def test_settlements_of_a_symbol_that_comes_later(desk: Desk) -> None:
    """It gets its past, though the others' is stored already; a long past comes page by page, and once."""
    asked: list[int] = []
    paid = [Settlement(perp, 1000 * (T0 - 900 * step), Decimal("0.0001"), regular=True)
            for step in range(HISTORY_S // 900, 0, -1) for perp in ("OTHER", "A", "B", "ANOTHER")]  # fmt: skip

    async def ask_settled(start_ms: int) -> SettledPage:
        asked.append(start_ms // 1000)
        page = [one for one in paid if one.time_ms >= start_ms][:MAX_FUNDING]
        return SettledPage(page[1:], len(page), 1)

    vendors: Any = SimpleNamespace(
        ask_settled=ask_settled, now_ms=lambda: 1000 * T0,
        perp_of=lambda pair: None if pair == "SPOT" else SimpleNamespace(symbol=pair),
    )  # fmt: skip
    settlements = Settlements(desk.store.database, vendors, 1.0)
    settlements.followed = {"A": Listing(), "SPOT": Listing()}
    assert await settlements.look()
    settlements.followed = {"A": Listing(), "B": Listing(), "SPOT": Listing()}
    assert await settlements.look()
    count = await desk.con.fetch("SELECT symbol, count(*) FROM funding_settled GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in count] == [("A", 288), ("B", 288)]
    asked.clear()
    assert await settlements.look()
    assert len(asked) == 1, "all is looked for: only what is new"


async def test_what_this_life_writes_first_does_not_hide_where_the_last_one_ended(desk: Desk) -> None:
    """Windows of the time away get their rows, though newer ones are there before the marks are set."""
    hours = 3
    begin = T0 + 60 + 3600 * hours
    await desk.put(make_second(T0 + 3), make_second(T0 + 20), cursor_s=T0 + 40)
    await desk.write(FULL)
    await desk.con.execute("UPDATE metric_15s SET cvd_delta = 9")
    ingestor = ingestor_of(desk, Clock(), VenueTime())
    await ingestor.load()
    assert len(desk.dirty) == 0, "nothing is to be looked at before it is known which window it is"
    await ingestor.follow({SOL: Listing()})
    older = Sample(1.0, 1000 * T0 + 8999, "binance")
    samples = ingestor._vendors.samples
    assert samples.offer(SOL, Field.FUNDING, older, END + 15, 1000.0 * END) is Fate.OLDER
    assert samples.read(SOL, Field.FUNDING, END + 15, ("binance",)) is None, "the last life had a newer one"
    await desk.write(replace(FULL, time=begin))
    await ingestor.follow({SOL: Listing()})
    await ingestor.mark_unheard()
    while len(desk.dirty):
        await desk.recorder.step()
    rows = await desk.con.fetch("SELECT cvd_delta, rev FROM metric_15s ORDER BY time")
    assert len(rows) == (begin - END) // 15 + 1
    assert tuple(rows[0]) == (0.25, 2), "it was revised after the last life had ended"
    assert [row["cvd_delta"] for row in rows[1:3]] == [0.25, None]


async def test_seconds_that_an_operator_wrote_anew_are_seen_without_their_messages(desk: Desk) -> None:
    """Three hours later `verify live --repair` writes them: once while this service is down, once while it lives."""
    begin = T0 + 60 + 3600 * 3
    await desk.put(make_second(T0 + 3), cursor_s=begin, bar_n=4)
    assert (await desk.write(FULL))["cvd_delta"] is None
    await desk.write(replace(FULL, time=begin))
    desk.dirty.forget({SOL})

    async def rewrite(sell_vol: str) -> None:
        batch = Batch()
        batch.put_footprint(replace(make_second(T0 + 3), n=4, sell_vol=sell_vol))
        batch.put_gap(note_rewriting(SOL, T0, T0 + 60))
        await desk.store.commit(batch, force=True)

    await rewrite("0.25")
    ingestor = ingestor_of(desk, Clock(), VenueTime())
    await ingestor.follow({SOL: Listing()})
    await desk.write(replace(FULL, time=begin + 15))
    for value in (0.25, 0.5):
        await ingestor.mark_unheard()
        while len(desk.dirty):
            await desk.recorder.step()
        assert (await desk.row())["cvd_delta"] == value
        await rewrite("0")
