"""The one writer on a real database: what no table takes, and what is written twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from common.clock import Clock
from common.database import Database
from common.errors import ConfigError
from common.numbers import format_scaled, parse_scaled
from influencer_ingestor.dedup import Dedup
from influencer_ingestor.events import SCALE, EventType, ParseFailure, RawEvent, Source
from influencer_ingestor.fan_in import FanIn, Pair
from influencer_ingestor.hyperliquid import Fills
from influencer_ingestor.intake import Intake
from influencer_ingestor.positions import Position
from influencer_ingestor.statements import PositionRow, RawRow
from influencer_ingestor.tracing import Tracer
from influencer_ingestor.watched import LONG_KNOWN_DAYS, Watched
from influencer_ingestor.writer import Item, Work, Writer
from ops.retain import retain
from tests.unit.influencer_world import ACCOUNT, T0, USER, arrive, make_fill


class Desk:
    def __init__(self, dsn: str, con: asyncpg.Connection) -> None:
        self.con, self.dead = con, list[tuple[bytes, str]]()
        self.database = Database(dsn, "influencer/0/1")
        self.watched = Watched(ACCOUNT, 0, Pair())
        self.fan_in = FanIn(100, Dedup())
        clock = Clock()
        self.writer = Writer(
            self.database, {USER: self.watched}, self.fan_in, clock, Tracer(clock.wall_ms, None), lambda: None,
            lambda raw, reason, source: self.dead.append((raw, reason)),
        )  # fmt: skip

    async def turn(self) -> None:
        work = self.writer._prepare()
        await self.writer._commit(work)


@pytest.fixture
async def desk(ts_dsn: str) -> AsyncIterator[Desk]:
    con = await asyncpg.connect(ts_dsn)
    desk = Desk(ts_dsn, con)
    yield desk
    await desk.database.close()
    await con.close()


async def test_one_event_that_no_table_takes_keeps_nobody(desk: Desk) -> None:
    for n in range(3):
        desk.fan_in.offer(arrive(make_fill(str(n), "1", T0 + n)))
    work = desk.writer._prepare()
    assert len(work.items) == 3
    bad = RawEvent(USER, EventType.ORDER_UPDATE, None, "bad", T0, b"not JSON")
    work.items.insert(1, Item(RawRow(bad, Source.LIVE, 0, T0)))
    await desk.writer._commit(work)
    assert [raw for raw, _ in desk.dead] == [b"not JSON"] and "no table takes it" in desk.dead[0][1]
    assert await desk.con.fetchval("SELECT count(*) FROM influencer_signals") == 3
    assert await desk.con.fetchval("SELECT sum(cardinality(ids)) FROM bus_outbox") == 3


async def test_the_same_work_twice_changes_and_announces_nothing(desk: Desk) -> None:
    fill = make_fill("0", "1.5")
    desk.fan_in.offer(arrive(fill))
    work = desk.writer._prepare()
    await desk.writer._commit(work)
    await desk.writer._commit(work)
    # After a commit in doubt, or when the filter has forgotten it.
    desk.fan_in = desk.writer._fan_in = FanIn(100, Dedup())
    desk.fan_in.offer(arrive(fill))
    await desk.turn()
    rows = await desk.con.fetch("SELECT raw_payload::text AS raw FROM influencer_raw_events")
    assert [row["raw"].encode() for row in rows] == [fill.raw]
    assert await desk.con.fetchval("SELECT sum(cardinality(ids)) FROM bus_outbox") == 1
    position = await desk.con.fetchrow("SELECT * FROM influencer_positions")
    assert (str(position["size"]), position["coin"]) == (format_scaled(fill.end, SCALE), "ETH")


async def test_an_influencers_gap_keeps_no_prices(desk: Desk, ts_dsn: str) -> None:
    for service, symbol in (("influencer", f"{USER}:ETH-PERP"), ("ohlcv", "SOLUSDT")):
        await desk.con.execute(
            "INSERT INTO feed_gaps (service, venue, symbol, from_id, to_id, from_time, to_time, missing, status,"
            "                       reason)"
            "VALUES ($1, 'v', $2, 1, 2, now() - interval '60 d', now() - interval '59 d', '{[1,2]}', 'open', 'r')",
            service, symbol,
        )  # fmt: skip
        await desk.con.execute(
            "INSERT INTO footprint_1s (time, symbol, open, high, low, close, buy_vol, sell_vol, buy_quote, sell_quote,"
            "                          n, source, complete, grade)"
            "VALUES (now() - interval '59.5 d', 'SOLUSDT', 1, 1, 1, 1, 1, 1, 1, 1, 1, 'binance', true, 4)"
        )
        result = await asyncio.to_thread(CliRunner().invoke, retain, ["--dsn", ts_dsn])
        assert result.exception is None, result.output
        kept = 0 if service == "influencer" else 1
        assert await desk.con.fetchval("SELECT count(*) FROM footprint_1s") == kept, result.output


async def test_an_older_statement_does_not_overwrite_a_newer_fill_of_the_same_turn(desk: Desk) -> None:
    desk.fan_in.offer(arrive(make_fill("5", "1", T0 + 5)))
    desk.writer.state(PositionRow(Position(USER, "ETH", parse_scaled("5", SCALE), T0)))
    desk.writer.state(PositionRow(Position(USER, "BTC", parse_scaled("1", SCALE), T0)))
    desk.writer.state(PositionRow(Position(USER, "BTC", parse_scaled("2", SCALE), T0)))
    await desk.turn()
    rows = await desk.con.fetch("SELECT coin, size::int AS size FROM influencer_positions")
    assert {r["coin"]: r["size"] for r in rows} == {"ETH": 6, "BTC": 2}


async def test_the_cursor_moves_only_while_covered(desk: Desk) -> None:
    desk.fan_in.offer(arrive(make_fill("0", "1")))
    await desk.turn()
    assert await desk.con.fetchval("SELECT count(*) FROM ingest_cursors") == 0
    desk.watched.covered = True
    desk.fan_in.offer(arrive(make_fill("1", "1", T0 + 5)))
    await desk.turn()
    assert await desk.con.fetchval("SELECT last_id FROM ingest_cursors") == T0 + 5 == desk.watched.cursor_ms
    desk.writer.move_cursor(USER, T0 + 1)
    assert not desk.writer._prepare(), "it never goes back"


async def test_an_unreadable_fill_is_one_dead_letter_whoever_brings_it(desk: Desk) -> None:
    intake = Intake(
        {USER: desk.watched}, desk.fan_in, desk.writer, lambda raw, reason, source: desk.dead.append((raw, reason)),
        Clock(), 60_000, lambda: None,
    )  # fmt: skip
    bad = Fills(USER, False, (), (ParseFailure("not a fill", b'{"px":"NaN"}', USER),))
    ahead = Fills(USER, False, (make_fill("0", "1", 4_000_000_000_000),))
    for told in (bad, ahead):
        intake.hear(0, told)
        intake.hear(1, told)
        for _ in range(3):
            assert await intake.fetched(told) == 0
    assert len(desk.dead) == 2 == intake.poison_total
    intake.bury_frame(b"not JSON", "not a frame", 0)
    intake.bury_frame(b"not JSON", "not a frame", 0)
    assert len(desk.dead) == 4, "frames are counted each"


async def test_nothing_waits_in_an_empty_work(desk: Desk) -> None:
    assert not Work() and not desk.writer._prepare()
    await desk.writer.settled(USER)


async def test_what_was_dropped_by_age_is_not_signalled_again(desk: Desk) -> None:
    """A snapshot reaches back beyond what is kept: the account's fills come again after the tables dropped them."""
    day_ms = 86_400_000
    desk.watched.cursor_ms = T0 + (LONG_KNOWN_DAYS + 1) * day_ms
    for n, days in enumerate((0, 2)):
        desk.fan_in.offer(arrive(make_fill(str(n), "1", T0 + days * day_ms)))
    await desk.turn()
    rows = await desk.con.fetch("SELECT (extract(epoch FROM time) * 1000)::bigint AS ms FROM influencer_signals")
    assert [row["ms"] for row in rows] == [T0 + 2 * day_ms] and desk.writer.silent["long_known"] == 1
    assert await desk.con.fetchval("SELECT count(*) FROM influencer_raw_events") == 1


@pytest.mark.parametrize("table", ["influencer_raw_events", "influencer_signals"])
async def test_retain_drops_old_events_and_signals(desk: Desk, ts_dsn: str, table: str) -> None:
    for n, days in enumerate((500, 50, 0)):
        time_ms = desk.writer._clock.wall_ms() - days * 86_400_000
        desk.fan_in.offer(arrive(make_fill(str(n), "1", time_ms)))
    desk.watched.account = replace(ACCOUNT, added_ms=0)
    await desk.turn()

    async def run_retain(*words: str) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, retain, [*words, "--dsn", ts_dsn])
        assert result.exception is None, result.output
        return result.output

    assert f"{table}: 1 chunks" in await run_retain()
    assert await desk.con.fetchval(f"SELECT count(*) FROM {table}") == 2
    await run_retain("--events-days", "31", "--signals-days", "31")
    assert await desk.con.fetchval(f"SELECT count(*) FROM {table}") == 1
    with pytest.raises(ConfigError, match="publish them again"):
        retain.main(["--signals-days", "89", "--dsn", ts_dsn], standalone_mode=False)
    refused = CliRunner().invoke(retain, ["--events-days", "30", "--dsn", ts_dsn])
    assert refused.exit_code == 2 and "--events-days" in refused.output
