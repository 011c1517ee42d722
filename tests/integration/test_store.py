from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import asyncpg
import pytest

from common.batch import Batch
from common.contracts import LANE_LIVE, LANE_REPAIR, BarRow, Clearance, FootprintRow, GapStatus, Retraction
from common.errors import ConfigError, Reconnect, Superseded
from common.postgres import PostgresLimits
from common.store import Committed, Store, StoreLimits
from tests.rows import T0, make_bar, make_cursor, make_gap, make_second

OWNER = "ohlcv/0/1"


def batch_of(*rows: BarRow | FootprintRow, lane: int = LANE_LIVE) -> Batch:
    batch = Batch()
    for row in rows:
        if isinstance(row, BarRow):
            batch.put_bar(row, lane)
        else:
            batch.put_footprint(row, lane)
    return batch


@pytest.fixture
async def store(ts_dsn: str) -> AsyncIterator[Store]:
    store = Store(ts_dsn, OWNER)
    assert await store.acquire()
    yield store
    await store.close()


async def outbox(store: Store) -> list[dict[str, object]]:
    """Every waiting message in order: lane, message id and decoded body."""
    rows = await store.query("SELECT * FROM bus_outbox ORDER BY owner, lane, id")
    return [
        {"lane": row["lane"], "key": key, "id": ident, "headers": headers, "body": json.loads(body)}
        for row in rows
        for key, ident, headers, body in zip(row["keys"], row["ids"], row["headers"], row["payloads"], strict=True)
    ]


async def ids(store: Store) -> list[str]:
    return [str(message["id"]) for message in await outbox(store)]


async def test_one_flush_writes_rows_gaps_cursors_and_messages(store: Store) -> None:
    batch = batch_of(make_bar(), make_second(), make_second(T0 + 59, "ETHUSDT", ids=None))
    batch.put_gap(make_gap())
    batch.put_gap(make_gap(200, to_id=None, to_ms=None, missing=()))
    batch.put_cursor(make_cursor(9, T0 + 60))
    assert await store.commit(batch) == Committed(bars=1, footprints=2, messages=3)

    (bar,) = await store.query("SELECT *, extract(epoch FROM time)::bigint AS s FROM raw_bars")
    assert (bar["s"], bar["symbol"], str(bar["h"]), str(bar["quote_vol"])) == (T0, "SOLUSDT", "64501.25", "96750.15")
    assert (bar["n"], bar["source"], bar["complete"], bar["grade"], bar["rev"]) == (10, "binance", True, 4, 1)
    seconds = await store.query("SELECT * FROM footprint_1s ORDER BY time")
    assert [(str(r["low"]), r["first_id"], r["last_id"]) for r in seconds] == [
        ("99.00000001", 7, 9),
        ("99.00000001", None, None),
    ]
    gaps = await store.query(
        "SELECT *, extract(epoch FROM from_time) * 1000 AS a, missing::text AS m FROM feed_gaps ORDER BY from_id"
    )
    assert [(g["a"], g["to_id"], g["to_time"] is None, g["m"], g["restored_n"]) for g in gaps] == [
        (T0 * 1000 + 123, 109, False, "{[100,104),[109,110)}", 5),
        (T0 * 1000 + 123, None, True, "{}", 5),
    ]
    (cursor,) = await store.query("SELECT last_id, extract(epoch FROM event_time)::bigint AS s FROM ingest_cursors")
    assert tuple(cursor) == (9, T0 + 60)
    assert await ids(store) == [
        "price_updates.SOLUSDT.1s@2023-11-14T22:14:00Z#1",
        "price_updates.ETHUSDT.1s@2023-11-14T22:14:59Z#1",
        "price_updates.SOLUSDT.1m@2023-11-14T22:14:00Z#1",
    ]


async def test_identical_batch_changes_nothing_and_announces_nothing(store: Store) -> None:
    batch = batch_of(make_bar(), make_second())
    batch.put_gap(make_gap())
    await store.commit(batch)
    before = await store.query("SELECT xmin, * FROM feed_gaps")
    assert await store.commit(batch) == Committed(0, 0, 0)
    assert len(await ids(store)) == 2
    assert await store.query("SELECT xmin, * FROM feed_gaps") == before
    # 5 and 5.00 are the same number.
    assert await store.commit(batch_of(make_bar(c="64500.100"))) == Committed(0, 0, 0)


async def test_revisions_count_up_and_are_announced(store: Store) -> None:
    for close in ("1", "2", "2", "3"):
        await store.commit(batch_of(make_bar(c=close)))
    assert [(m["body"]["rev"], m["body"]["c"]) for m in await outbox(store)] == [(1, 1), (2, 2), (3, 3)]  # type: ignore[index]


async def test_same_second_without_ids_is_no_revision_and_keeps_them(store: Store) -> None:
    await store.commit(batch_of(make_second(ids=None)))
    await store.commit(batch_of(make_second()))
    await store.commit(batch_of(make_second(ids=None)))
    (row,) = await store.query("SELECT rev, first_id FROM footprint_1s")
    assert tuple(row) == (2, 7)


FACTS = [
    make_bar(grade=4, n=20, c="4"),
    make_bar(grade=3, n=35, c="3", source="okx"),
    make_bar(grade=2, n=18, c="2.18"),
    make_bar(grade=2, n=12, c="2.12"),
    make_bar(grade=2, n=5, c="2.05"),
    make_bar(grade=1, n=30, c="1.3", source="okx"),
    make_bar(grade=1, n=8, c="1.08", source="okx"),
]


@pytest.mark.parametrize("best", [4, 3, 2, 1])
async def test_any_order_of_the_same_facts_gives_one_row(store: Store, best: int) -> None:
    rng = random.Random(best)
    facts = [row for row in FACTS if row.grade <= best]
    orders = list(itertools.permutations(facts)) if len(facts) < 4 else []
    orders += [tuple(rng.sample(facts, len(facts))) for _ in range(60)]
    winners: set[tuple[object, ...]] = set()
    for number, order in enumerate(orders):
        symbol = f"S{number}"
        for row in order:
            values = {name: getattr(row, name) for name in row.__struct_fields__} | {"symbol": symbol}
            await store.commit(batch_of(BarRow(**values)))
        (stored,) = await store.query(
            "SELECT c::text, n, source, grade, complete FROM raw_bars WHERE symbol = $1", symbol
        )
        winners.add(tuple(stored))
    expected = max(facts, key=lambda row: (row.grade, row.n))
    assert winners == {(expected.c, expected.n, expected.source, expected.grade, expected.complete)}


@pytest.mark.parametrize("stored", [1, 2, 3, 4])
@pytest.mark.parametrize("incoming", [1, 2, 3, 4])
async def test_batch_and_table_agree_on_who_wins(store: Store, stored: int, incoming: int) -> None:
    for symbol, less in (("FEWER", 4), ("EQUAL", 5), ("MORE", 6)):
        first, second = (
            make_bar(symbol=symbol, grade=stored, n=5),
            make_bar(symbol=symbol, grade=incoming, n=less, c="9"),
        )
        await store.commit(batch_of(first))
        await store.commit(batch_of(second))
        (row,) = await store.query("SELECT c::text FROM raw_bars WHERE symbol = $1", symbol)
        assert row["c"] == batch_of(first, second).bars[symbol, T0].c


async def test_force_skips_the_grade_rule(store: Store) -> None:
    await store.commit(batch_of(make_bar()))
    worse = batch_of(make_bar(grade=1, n=1, source="okx"))
    assert await store.commit(worse) == Committed(0, 0, 0)
    assert await store.commit(worse, force=True) == Committed(1, 0, 1)
    assert [tuple(r) for r in await store.query("SELECT grade, rev FROM raw_bars")] == [(1, 2)]


async def test_retraction_lowers_stored_complete_rows_and_announces_them(store: Store) -> None:
    rows: list[BarRow | FootprintRow] = [make_bar(t) for t in (T0 - 60, T0, T0 + 60, T0 + 120)]
    rows += [make_second(t) for t in range(T0 + 57, T0 + 64)]
    rows += [make_second(T0 + 58, "ETHUSDT"), make_bar(T0, "ETHUSDT")]
    await store.commit(batch_of(*rows))
    await store.query("DELETE FROM bus_outbox")

    batch = Batch()
    batch.retract(Retraction("SOLUSDT", "binance", T0 + 58, T0 + 62))
    batch.retract(Retraction("SOLUSDT", "binance", T0 + 60, T0 + 61))
    batch.retract(Retraction("ETHUSDT", "okx", T0, T0 + 100))
    batch.put_gap(make_gap())
    assert await store.commit(batch) == Committed(bars=2, footprints=5, messages=7)
    lowered = await store.query(
        "SELECT extract(epoch FROM time)::bigint, symbol, rev FROM footprint_1s"
        " WHERE grade = 2 AND NOT complete ORDER BY 1"
    )
    assert [tuple(r) for r in lowered] == [(t, "SOLUSDT", 2) for t in range(T0 + 58, T0 + 63)]
    bars = await store.query(
        "SELECT extract(epoch FROM time)::bigint, symbol, rev FROM raw_bars WHERE grade = 2 ORDER BY 1"
    )
    assert [tuple(r) for r in bars] == [(T0, "SOLUSDT", 2), (T0 + 60, "SOLUSDT", 2)]
    messages = await outbox(store)
    assert {(m["body"]["rev"], m["body"]["complete"], m["lane"]) for m in messages} == {(2, False, 0)}  # type: ignore[index]
    assert messages[0]["body"] == {  # the whole row as it is stored now, digits trimmed
        "time": "2023-11-14T22:14:58Z",
        "symbol": "SOLUSDT",
        "buy_vol": 0.5,
        "sell_vol": 0.25,
        "high": 101,
        "low": 99.00000001,
        "close": 100.5,
        "open": 100,
        "n": 3,
        "source": "binance",
        "complete": False,
        "rev": 2,
    }
    assert await store.commit(batch) == Committed(0, 0, 0)


async def test_row_lowered_and_written_again_is_announced_once_with_its_last_rev(store: Store) -> None:
    await store.commit(batch_of(make_second(), make_second(T0 + 1)))
    await store.query("DELETE FROM bus_outbox")
    batch = Batch()
    batch.retract(Retraction("SOLUSDT", "binance", T0, T0 + 1))
    batch.put_footprint(make_second(T0, close="100.75"), LANE_REPAIR)
    assert await store.commit(batch) == Committed(0, 2, 2)
    announced = {(m["id"], m["lane"], m["body"]["complete"], m["body"]["close"]) for m in await outbox(store)}  # type: ignore[index]
    assert announced == {
        ("price_updates.SOLUSDT.1s@2023-11-14T22:14:00Z#3", LANE_REPAIR, True, 100.75),
        ("price_updates.SOLUSDT.1s@2023-11-14T22:14:01Z#2", LANE_LIVE, False, 100.5),
    }


async def test_lowered_row_takes_a_part_that_saw_as_much(store: Store) -> None:
    await store.commit(batch_of(make_second(n=3)))
    batch = Batch()
    batch.retract(Retraction("SOLUSDT", "binance", T0, T0))
    batch.put_footprint(make_second(n=2, grade=2, close="1"))
    await store.commit(batch)
    batch.put_footprint(make_second(n=4, grade=2, close="2"))
    await store.commit(batch)
    (row,) = await store.query("SELECT close::text, n, rev FROM footprint_1s")
    assert tuple(row) == ("2", 4, 3)


async def test_a_deleted_second_that_comes_back_goes_on_counting(store: Store) -> None:
    await store.commit(batch_of(make_second(source="okx", grade=3), make_second(T0 + 1)))
    cleared = Batch()
    cleared.clear_others(Clearance("SOLUSDT", "binance", T0, T0 + 1))
    assert await store.commit(cleared) == Committed(0, 1, 1)
    assert await store.commit(cleared) == Committed(0, 0, 0)
    assert await store.query("SELECT FROM footprint_1s") == [()]
    late = batch_of(make_second(n=1))
    assert await store.commit(late) == Committed(0, 1, 1)
    assert await store.commit(late) == Committed(0, 0, 0)
    counted = [(0, 1), (1, 1), (0, 3), (0, 2)]  # the end of the fallback's second is the repair lane's news
    assert await ids(store) == [f"price_updates.SOLUSDT.1s@2023-11-14T22:14:0{s}Z#{rev}" for s, rev in counted]
    assert (await outbox(store))[3]["body"]["n"] == 0  # type: ignore[index]


async def test_cursors_never_go_back(store: Store) -> None:
    seen = []
    for last_id, event_s in ((10, T0), (9, T0 + 50), (10, T0 + 1), (12, T0 - 5), (12, T0 + 2)):
        batch = Batch()
        batch.put_cursor(make_cursor(last_id, event_s))
        await store.commit(batch)
        (row,) = await store.query("SELECT last_id, extract(epoch FROM event_time)::bigint FROM ingest_cursors")
        seen.append(tuple(row))
    assert seen == [(10, T0), (10, T0), (10, T0 + 1), (12, T0 + 1), (12, T0 + 2)]


async def test_gap_row_follows_its_writer(store: Store) -> None:
    for gap in (
        make_gap(),
        make_gap(status=GapStatus.REPAIRED, missing=(), tries=2, restored_n=11, from_ms=T0 * 1000 + 999, to_id=120),
    ):
        batch = Batch()
        batch.put_gap(gap)
        await store.commit(batch)
    (row,) = await store.query(
        "SELECT status, tries, restored_n, to_id, isempty(missing) AS e, extract(epoch FROM from_time) * 1000 AS f"
        " FROM feed_gaps"
    )
    assert tuple(row) == ("repaired", 2, 11, 120, True, T0 * 1000 + 999)


async def test_headers_epoch_and_outbox_row_size(ts_dsn: str) -> None:
    limits = StoreLimits(outbox_messages_max=10)
    headers = '{"status":"ACTIVE"}'
    store = Store(ts_dsn, OWNER, headers_for=lambda symbol: headers, epoch="b", limits=limits)
    assert await store.acquire()
    try:
        batch = batch_of(*(make_second(T0 + t) for t in range(25)))
        batch.absorb(batch_of(*(make_second(T0 + 100 + t) for t in range(3)), lane=LANE_REPAIR))
        assert (await store.commit(batch)).messages == 28
        sizes = await store.query("SELECT lane, cardinality(keys) FROM bus_outbox ORDER BY lane, id")
        assert [tuple(r) for r in sizes] == [(0, 10), (0, 10), (0, 5), (1, 3)]
        messages = await outbox(store)
        assert {m["headers"] for m in messages} == {headers}
        assert messages[0]["id"] == "price_updates.SOLUSDT.1s@2023-11-14T22:14:00Z#1~b"
    finally:
        await store.close()


async def test_second_writer_stands_by_until_the_first_is_gone(ts_dsn: str, store: Store) -> None:
    other = Store(ts_dsn, OWNER, limits=StoreLimits(lock_retry_s=0.3))
    try:
        assert not await other.acquire()
        with pytest.raises(Superseded):
            await other.commit(batch_of(make_bar()))
        await store.close()
        async with asyncio.timeout(5):
            while not await other.acquire():
                await asyncio.sleep(0.02)
        assert (await other.commit(batch_of(make_bar()))).bars == 1
    finally:
        await other.close()


@asynccontextmanager
async def cutting_proxy(dsn: str, cut_after: bytes) -> AsyncIterator[str]:
    """A proxy that swallows the first answer containing `cut_after`, and everything after it, and hangs up."""
    parts = dsn.rpartition("@")
    address, _, path = parts[2].partition("/")
    host, _, port = address.partition(":")
    state = {"cut": False}

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: bool) -> None:
        try:
            while data := await reader.read(65536):
                if watch and not state["cut"] and cut_after in data:
                    state["cut"] = True
                    break
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        down = asyncio.create_task(pump(up_reader, writer, True))
        await asyncio.gather(pump(reader, up_writer, False), down)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        mine = server.sockets[0].getsockname()[1]
        yield f"{parts[0]}@127.0.0.1:{mine}/{path}"
    finally:
        server.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def dying_proxy(dsn: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A proxy, and how its host dies: what is open is closed, and what is opened then is never answered."""
    parts, dead, writers = urlsplit(dsn), asyncio.Event(), list[asyncio.StreamWriter]()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        if not dead.is_set():
            up_reader, up_writer = await asyncio.open_connection(parts.hostname, parts.port)
            writers.append(up_writer)
            await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

    def close() -> None:
        dead.set()
        while writers:
            writers.pop().close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        netloc = f"{parts.username}:{parts.password}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield parts._replace(netloc=netloc).geturl(), close
    finally:
        close()
        server.close()
        await asyncio.sleep(0)


async def test_a_server_that_does_not_answer_is_no_other_owner(ts_dsn: str) -> None:
    async with dying_proxy(ts_dsn) as (proxied, die):
        cut = Store(proxied, OWNER, limits=StoreLimits(lock_retry_s=0.3))
        try:
            assert await cut.acquire()
            die()
            await asyncio.sleep(0.1)  # the loss is noticed before the next commit
            for _ in range(3):
                with pytest.raises(Reconnect):
                    await cut.commit(batch_of(make_bar()))
        finally:
            await cut.close()


async def test_unknown_commit_is_safe_to_repeat(ts_dsn: str, store: Store) -> None:
    await store.close()
    async with cutting_proxy(ts_dsn, b"COMMIT\0") as proxied:
        cut = Store(proxied, OWNER)
        assert await cut.acquire()
        batch = batch_of(make_bar(), *(make_second(T0 + t) for t in range(30)))
        batch.put_cursor(make_cursor(9, T0 + 30))
        try:
            with pytest.raises(Reconnect):
                await cut.commit(batch)
            # The server did commit; only its answer was lost.
            assert await cut.commit(batch) == Committed(0, 0, 0)
            announced = await ids(cut)
            assert len(announced) == len(set(announced)) == 31
            assert await cut.query("SELECT count(*), max(rev) FROM footprint_1s") == [(30, 1)]
        finally:
            await cut.close()


async def test_writer_killed_by_the_server_comes_back_and_takes_its_lock_again(ts_dsn: str, store: Store) -> None:
    await store.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = $1 AND datname = current_database()",
        f"{OWNER}/writer",
    )
    with suppress(Reconnect):  # unless the loss was noticed before the commit
        await store.commit(batch_of(make_bar()))
    await store.commit(batch_of(make_bar()))
    assert await store.query("SELECT count(*), max(rev) FROM raw_bars") == [(1, 1)]
    other = Store(ts_dsn, OWNER)
    assert not await other.acquire()
    await other.close()


async def test_reader_killed_by_the_server_comes_back(store: Store) -> None:
    with pytest.raises(Reconnect):
        await store.query("SELECT pg_terminate_backend(pg_backend_pid())")
    assert await store.query("SELECT 1") == [(1,)]


async def test_slow_query_is_cut_off_and_the_next_one_works(store: Store) -> None:
    with pytest.raises(Reconnect):
        await store.query("SELECT pg_sleep(5)", timeout_s=0.2)
    assert await store.query("SELECT 1") == [(1,)]


async def test_bug_is_not_retried(store: Store) -> None:
    broken = make_bar(c="not a number")
    with pytest.raises(asyncpg.InvalidTextRepresentationError):
        await store.commit(batch_of(broken))
    with pytest.raises(asyncpg.DataError):
        await store.commit(batch_of(make_bar(c=0.1)))  # type: ignore[arg-type]
    assert (await store.commit(batch_of(make_bar()))).bars == 1


async def test_no_server_and_no_schema_have_names(empty_dsn: str) -> None:
    away = Store("postgresql://nobody@127.0.0.1:1/nothing", OWNER)
    with pytest.raises(Reconnect):
        await away.commit(batch_of(make_bar()))
    with pytest.raises(Reconnect):
        await away.query("SELECT 1")
    bare = Store(empty_dsn, OWNER, limits=StoreLimits(postgres=PostgresLimits(connect_timeout_s=5)))
    with pytest.raises(ConfigError, match="raw_bars"):
        await bare.commit(batch_of(make_bar()))
    await bare.close()


async def test_overlapping_writers_do_not_deadlock(ts_dsn: str) -> None:
    stores = [Store(ts_dsn, f"ohlcv/{i}/4") for i in range(4)]
    symbols = [f"S{i}" for i in range(60)]

    async def write(number: int, store: Store) -> int:
        rng, changed = random.Random(number), 0
        for turn in range(8):
            batch = Batch()
            for symbol in rng.sample(symbols, len(symbols)):
                batch.put_bar(make_bar(symbol=symbol, c=f"{number}.{turn}1"))
                batch.put_footprint(make_second(symbol=symbol, close=f"{number}.{turn}1"))
            changed += (await store.commit(batch)).messages
        return changed

    try:
        async with asyncio.timeout(30):
            changed = await asyncio.gather(*(write(i, store) for i, store in enumerate(stores)))
        assert sum(changed) == 4 * 8 * 2 * 60
        assert await stores[0].query("SELECT sum(rev) FROM raw_bars") == [(4 * 8 * 60,)]
        announced = await ids(stores[0])
        assert len(set(announced)) == len(announced) == sum(changed)
    finally:
        for store in stores:
            await store.close()


async def test_commits_of_one_store_wait_for_each_other(store: Store) -> None:
    answers = await asyncio.gather(*(store.commit(batch_of(make_second(T0 + t))) for t in range(20)))
    assert [a.messages for a in answers] == [1] * 20
