"""What our own tables say of a symbol, and that a run written twice is written once."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import msgspec
import pytest

from common.database import Database
from registry.facts import Facts, Night, RegistryRow, Score, Status, Vendor, Verdict
from registry.tables import (
    Sample,
    kinds_told,
    read_last_run,
    read_last_sample,
    read_own,
    read_population,
    read_rows,
    read_verdict,
    write_night,
    write_samples,
)
from tests.servers import service_address

NOW = dt.datetime(2026, 9, 21, 2, 0, tzinfo=dt.UTC)
BARS = """
INSERT INTO raw_bars (time, symbol, o, h, l, c, v, quote_vol, source, complete, grade)
SELECT t, $1, 1, 1, 1, 1, 1, 1, 'binance', extract(minute FROM t)::int % $4 <> 0, 4
  FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 minute', '1 minute') t
"""
METRICS = """
INSERT INTO metric_15s (time, symbol, funding, open_interest, cvd_delta)
SELECT $2::timestamptz - n * interval '15 seconds', $1,
       CASE WHEN n % 10 = 0 OR NOT $3 THEN NULL ELSE 0.0001 END,
       CASE WHEN NOT $3 THEN NULL WHEN n % 20 = 1 THEN 900 ELSE 100 END, CASE WHEN n % 4 = 0 THEN NULL ELSE 5 END
  FROM generate_series(0, 399) n
"""
SPARSE = """
INSERT INTO metric_15s (time, symbol, funding)
SELECT $2::timestamptz - n * interval '15 seconds', $1, CASE n WHEN 0 THEN 0.0001 WHEN 1 THEN 0.05 END
  FROM generate_series(0, 99) n
"""
GAP = """
INSERT INTO feed_gaps (service, venue, symbol, from_id, from_time, to_time, missing, status, reason, tries)
VALUES ('ohlcv', 'binance', $1, 1, $2, $3, '{}', 'not_subscribed', 'not wanted', 0)
"""


@pytest.fixture
async def database(ts_dsn: str) -> AsyncIterator[Database]:
    database = Database(service_address(ts_dsn), "registry/0/1")
    yield database
    await database.close()


async def test_what_our_tables_say(ts_dsn: str, database: Database) -> None:
    con = await asyncpg.connect(ts_dsn)
    day, hour = dt.timedelta(days=1), dt.timedelta(hours=1)
    # Every tenth minute of two days is not complete; the newcomer began an hour ago; one was not wanted for 12 hours.
    await con.execute(BARS, "OLDUSDT", NOW - 2 * day, NOW, 10)
    await con.execute(BARS, "NEWUSDT", NOW - hour, NOW, 100)
    await con.execute(BARS, "OFFUSDT", NOW - 2 * day, NOW - day, 100)
    await con.execute(BARS, "OFFUSDT", NOW - 12 * hour, NOW, 100)
    await con.execute(GAP, "OFFUSDT", NOW - 2 * day, NOW - 12 * hour)
    # Ours to blame: followed, and nothing there for half a day.
    await con.execute(BARS, "HALFUSDT", NOW - 2 * day, NOW - 12 * hour, 100)
    await con.execute(METRICS, "OLDUSDT", NOW, True)
    await con.execute(METRICS, "NEWUSDT", NOW, False)
    await con.execute(SPARSE, "HALFUSDT", NOW)
    for number, spread in enumerate(("0.1", "0.5", "0.3", "0.2", "9")):
        at = NOW - (number * 6 + 1) * hour
        await write_samples(con, at, [Sample("OLDUSDT", Decimal(1), Decimal("1.001"), Decimal(spread))])
        await write_samples(con, at, [Sample("OLDUSDT", Decimal(1), Decimal("1.001"), Decimal("77"))])
    await con.close()

    pairs = ["OLDUSDT", "NEWUSDT", "OFFUSDT", "HALFUSDT", "NOPEUSDT", "LEFTUSDT"]
    followed = {"OLDUSDT": True, "NEWUSDT": False, "OFFUSDT": True, "HALFUSDT": True, "NOPEUSDT": True}
    own = await read_own(database.query, pairs, followed, NOW)
    # The fifth sample is 25 hours old; of an even number the lower middle one counts.
    assert (own["OLDUSDT"].spread_pct, own["OLDUSDT"].spread_samples) == (Decimal("0.2"), 4)
    # The last two minutes do not count yet: 1,438 of the day, 144 of them incomplete but the last.
    assert own["OLDUSDT"].bar_coverage == round(Decimal(1438 - 144) / 1438, 4)
    assert own["NEWUSDT"].bar_coverage == round(Decimal(57) / 58, 4)
    assert own["OFFUSDT"].bar_coverage == round(Decimal(718 - 12) / 718, 4)
    assert own["HALFUSDT"].bar_coverage == round(Decimal(720 - 12) / 1438, 4)
    assert own["NOPEUSDT"].bar_coverage is None and own["LEFTUSDT"].bar_coverage is None
    assert own["OLDUSDT"].null_share == round(Decimal(40 + 100) / 1200, 4)
    assert own["OLDUSDT"].outlier_share == Decimal("0.05")
    # Without a perpetual there is no funding to miss, and nothing that could be an outlier.
    assert (own["NEWUSDT"].null_share, own["NEWUSDT"].outlier_share) == (Decimal("0.25"), None)
    # Of the rows that tell anything half are outliers, however many tell nothing.
    assert own["HALFUSDT"].null_share == round(Decimal(298) / 300, 4)
    assert own["HALFUSDT"].outlier_share == Decimal("0.5")
    assert own["NOPEUSDT"].null_share is None
    assert await read_last_sample(database.query, NOW) == NOW - hour


def night_of(*rows: RegistryRow, idle: tuple[RegistryRow, ...] = (), at: dt.datetime = NOW) -> Night:
    score = Score(80, 80, 80, 80, ())
    facts = {row.symbol: Facts(row.symbol, pair=row.pair, vol_24h=Decimal("1.50"), market_cap=None) for row in rows}
    verdicts = tuple(Verdict(row, facts[row.symbol], score, (), None, ("status",)) for row in rows)
    return Night(at, verdicts, idle)


async def test_a_run_is_written_once(database: Database) -> None:
    sol = RegistryRow(
        "SOL", Status.PROBATION, 61, "M", 1200, Decimal("123456789.10"), Decimal("0.01234567"), "SOLUSDT", "SOL-USDT",
        Decimal("0.01"), 'spread "wide"', "SOLUSDT", dt.date(2020, 8, 11), NOW, None, 0, 1, NOW.date(),
        {Vendor.KLINES: NOW.date(), Vendor.OKX: NOW.date()},
    )  # fmt: skip
    odd = RegistryRow("币安人生", Status.EXCLUDED, excluded_since=NOW, good_nights=2)
    assert await read_last_run(database.query) is None
    night = night_of(sol, odd)
    for events in (2, 0):  # the second time as after a commit of which nobody knows
        assert await database.transact(lambda con: write_night(con, night)) == events
    assert await read_rows(database.query) == {"SOL": sol, "币安人生": odd}
    assert await read_last_run(database.query) == NOW
    assert [len(r["keys"]) for r in await database.query("SELECT keys FROM bus_outbox")] == [2]
    before = await database.query("SELECT updated_at FROM coin_registry ORDER BY symbol")

    # A later run that finds the same keeps `updated_at`; an idle row only loses its count.
    tired = msgspec.structs.replace(odd, good_nights=0)
    later = night_of(sol, idle=(tired,), at=NOW + dt.timedelta(days=1))
    await database.transact(lambda con: write_night(con, later))
    assert await read_rows(database.query) == {"SOL": sol, "币安人生": tired}
    after = await database.query("SELECT updated_at FROM coin_registry ORDER BY symbol")
    assert after[0] == before[0] and after[1] > before[1]
    found = await read_verdict(database.query, "SOL")
    assert found is not None
    verdict, past = found
    assert verdict.row == sol and verdict.facts.vol_24h == Decimal("1.5")
    assert [one.run_at for one in past] == [later.run_at, NOW]
    assert await read_verdict(database.query, "NONE") is None
    population = await read_population(database.query, NOW + dt.timedelta(days=2), 30)
    assert {facts.symbol for facts in population} == {"SOL", "币安人生"}
    assert await read_population(database.query, NOW + dt.timedelta(days=40), 30) == []


async def test_when_the_categories_were_told(ts_dsn: str, database: Database) -> None:
    con = await asyncpg.connect(ts_dsn)

    async def told(days: float = 1) -> bool:
        return await kinds_told(database.query, NOW + dt.timedelta(days=days))

    assert not await told()
    await database.transact(lambda con: write_night(con, night_of(RegistryRow("SOL", Status.ACTIVE))))
    assert not await told()
    put = "UPDATE coin_registry_history SET breakdown = jsonb_set(breakdown, $1::text[], $2::text::jsonb)"
    await con.execute(put, ["facts", "market_cap"], "7")
    assert not await told()
    await con.execute(put, ["facts", "kinds_told"], "true")
    assert await told() and not await told(3)
    # What an older version wrote does not say it.
    await con.execute("UPDATE coin_registry_history SET breakdown = breakdown #- '{facts,kinds_told}'")
    assert await told() and not await told(3)
    await con.close()
