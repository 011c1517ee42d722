"""Gaps, repairs by hand and audits: the operator's commands beside real ingestors, on real servers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import click
import httpx
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from common.batch import Batch
from common.contracts import GapRow
from common.errors import ConfigError, Refused
from common.store import Committed, Store
from ops import gaps_repair
from ops.gaps import gaps
from ops.gaps_ledger import read_bars, read_seconds
from ops.gaps_outlet import open_outlet
from ops.gaps_plan import divide_gap, find_ends
from ops.gaps_refetch import fetch_span
from ops.gaps_repair import commit_step
from ops.retain import check_policies, retain
from ops.verify import verify
from tests.rows import T0, make_bar
from tests.stage import Stage, open_stage
from tests.unit.test_gaps_command import Venue, every_second, gap_of

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
SPEED = 20
BACKFILL_MINUTES = 2


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path, ts_dsn, rmq_url) as stage:
        stage.history_s = 60 * BACKFILL_MINUTES
        yield stage


async def start_market(stage: Stage, epoch_ms: int, *more: str) -> None:
    flags = ("--symbols", ",".join(SYMBOLS), "--rate", "4", "--speed", str(SPEED), "--epoch-ms", str(epoch_ms))
    await stage.start_venue(*flags, "--history", "30", *more)


async def start_ingestor(stage: Stage, name: str) -> None:
    await stage.start_ingestor(
        name, symbols=",".join(SYMBOLS), clock_rate=SPEED, backfill_minutes=BACKFILL_MINUTES, ring_s=120
    )


async def run(stage: Stage, *words: str, command: click.Command = gaps) -> tuple[int, str]:
    """Exit code and output of a command, against the stage's servers and venue."""
    env = {
        "TS_DSN": stage.dsn, "RMQ_URL": stage.rmq_url, "BINANCE_REST_URL": f"http://127.0.0.1:{stage.port}",
        "BACKFILL_MINUTES": str(BACKFILL_MINUTES), "RING_S": "120",
    }  # fmt: skip
    result = await asyncio.to_thread(CliRunner().invoke, command, words, env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


async def sleep_through(stage: Stage, epoch_ms: int, minutes: int) -> None:
    """The ingestor dies, and the venue goes on for so long."""
    await stage.ingestors[-1].kill()
    now_ms = (await stage.oracle("status"))["venue_ms"]
    assert stage.venue is not None
    await stage.venue.kill()
    (stage.folder / "venue.ready").unlink()
    await start_market(stage, epoch_ms, "--start", str(now_ms + 60_000 * minutes))


async def test_a_parked_gap_is_listed_repaired_and_stays_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps_repair, "STEP_S", 900)
    epoch_ms = (int(time.time()) - 3_600) * 1000
    await start_market(stage, epoch_ms)
    await start_ingestor(stage, "first")
    await stage.settle(SYMBOLS, await stage.venue_s() + 30)
    lost = 500 + await stage.con.fetchval("SELECT last_id FROM ingest_cursors WHERE symbol = 'ETHUSDT'")
    await sleep_through(stage, epoch_ms, 20)
    await stage.fault("source_missing", symbol="ETHUSDT", ids=[lost, lost + 2])
    await start_ingestor(stage, "second")
    parked_sql = "feed_gaps WHERE status = 'open' AND to_id IS NOT NULL"
    await stage.until(lambda: stage.count(parked_sql), 15, "the old part is parked")

    async def only_old_gaps() -> bool:
        return (
            await stage.count("feed_gaps WHERE status = 'open'")
            == await stage.count(
                "feed_gaps WHERE status = 'open' AND to_time < (SELECT min(event_time) FROM ingest_cursors)"
                f" - interval '{BACKFILL_MINUTES + 1} minutes'"
            )
            == len(SYMBOLS)
        )

    await stage.until(only_old_gaps, 20, "the ingestor repaired what is its own")

    code, text = await run(stage)
    assert (code, text.splitlines()[-1]) == (1, "2 open"), text
    code, text = await run(stage, "--json", "--symbol", "BTCUSDT")
    (entry,) = json.loads(text)
    assert (code, entry["status"], entry["symbol"]) == (1, "open", "BTCUSDT")
    assert entry["missing_ids"] > 20 * 60
    published = await stage.collect("price_updates.#")
    port = int((stage.folder / "second.port").read_text())
    assert await read_parked(port) == len(SYMBOLS)

    code, text = await run(stage, "--repair")
    assert code == 1, text
    assert "messages published" in text
    assert " 1 still missing at the venue, 0 left alone" in text
    assert await stage.count("bus_outbox WHERE owner = 'ops/gaps'") == 0
    repaired = await stage.con.fetch("SELECT * FROM feed_gaps WHERE status = 'repaired' ORDER BY symbol, from_id")
    assert len(repaired) >= 2 * 3, "each was divided into steps"
    assert sum(r["restored_n"] for r in repaired if r["symbol"] == "BTCUSDT") > entry["missing_ids"]
    old = {entry["from_ms"] // 1000 // 60 * 60 + 60, entry["to_ms"] // 1000 // 60 * 60}
    await stage.until(
        lambda: {stamp(s) for s in old} <= {m["time"] for m in published if m["symbol"] == "BTCUSDT" and "o" in m},
        5, "revisions came",
    )  # fmt: skip

    # What the venue lost stays open for three tries; what is repaired is not touched again.
    for status, code_then in (("open", 1), ("source_missing", 0)):
        code, text = await run(stage, "--repair")
        assert (code, text.splitlines()[-1].partition(" left")[0]) == (
            code_then, "0 repaired, 1 still missing at the venue, 0",
        ), text  # fmt: skip
        gap = await stage.con.fetchrow("SELECT *, missing::text AS ids FROM feed_gaps WHERE status <> 'repaired'")
        assert (gap["status"], gap["ids"]) == (status, f"{{[{lost},{lost + 3})}}")
    code, text = await run(stage, "--repair")
    assert (code, text.splitlines()[-1]) == (
        0, "0 repaired, 0 still missing at the venue, 0 left alone, 0 rows changed",
    )  # fmt: skip
    assert (await run(stage, "--repair", "--again"))[0] == 0
    code, text = await run(stage)
    assert (code, text.splitlines()[-1]) == (0, "1 source_missing")

    # The ingestor, that held both gaps in memory, lets go of them; another one begins from what is stored.
    async def let_go() -> bool:
        return await read_parked(port) == 0

    await stage.until(let_go, 10, "nothing is parked any more")
    assert await stage.ingestors[-1].stop() == 0
    await start_ingestor(stage, "third")
    end_s = await stage.venue_s() + 70
    await stage.settle(SYMBOLS, end_s)
    counts = await stage.judge(SYMBOLS, end_s)
    assert 2 <= counts["incomplete"] <= 12, "a minute, and the seconds around what was lost"
    assert counts["bars"] > 2 * 20
    await audit(stage)
    assert await stage.judge_log(end_s) > 0
    assert await stage.ingestors[-1].stop() == 0
    await audit_nothing(stage)


async def audit_nothing(stage: Stage) -> None:
    """`verify live` of minutes that nobody stored: that is said, and is no success."""
    words = ("live", "--symbol", "BTCUSDT", "--since")
    # Asking for all of it would take a thousand calls, and their weight more than a minute.
    async with asyncio.timeout(20):
        code, text = await run(stage, *words, "700d", command=verify)
    assert code == 0, text
    assert " not stored" in text
    # As after an hour without an ingestor.
    await stage.con.execute("UPDATE ingest_cursors SET event_time = event_time - interval '1 h'")
    code, text = await run(stage, *words, "5m", command=verify)
    assert code == 1, text
    assert "BTCUSDT: 0 of 0 minutes equal\n" in text
    assert "lie past its cursor: not stored yet" in text
    assert text.endswith("BTCUSDT: nothing was compared\n")


async def read_parked(port: int) -> float:
    """How many gaps an ingestor says it has parked."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("trading_bus_gaps_parked ")))


def read_equal(text: str) -> tuple[int, int]:
    """How many minutes of BTCUSDT are equal, and of how many."""
    equal, _, of = text.split("BTCUSDT: ")[-1].split()[:3]
    return int(equal), int(of)


async def audit(stage: Stage) -> None:
    """`verify live`: equal; then a bar, a second and one second too many are named, mended and published."""
    words = ("live", "--symbol", "BTCUSDT", "--symbol", "ETHUSDT", "--since", "3h")
    code, text = await run(stage, *words, command=verify)
    assert code == 0, text
    equal, of = read_equal(text)
    assert equal == of > 20
    assert "minutes equal" in text.split("ETHUSDT: ")[1]

    minutes = await stage.con.fetch(
        "SELECT time, extract(epoch FROM time)::bigint AS s, rev FROM raw_bars b WHERE symbol = 'BTCUSDT' AND n > 0"
        " AND EXISTS (SELECT FROM footprint_1s f WHERE f.symbol = b.symbol AND f.time >= b.time"
        " AND f.time < b.time + interval '1 minute') ORDER BY time LIMIT 9"
    )
    bar, second, extra = minutes[2], minutes[5], minutes[8]
    await stage.con.execute(
        "UPDATE raw_bars SET buy_vol = buy_vol + 1 WHERE symbol = 'BTCUSDT' AND time = $1", bar["time"]
    )
    altered = await stage.con.fetchrow(
        "UPDATE footprint_1s SET high = high + 1000 WHERE symbol = 'BTCUSDT' AND time = (SELECT min(time) FROM"
        " footprint_1s WHERE symbol = 'BTCUSDT' AND time >= $1) RETURNING time, rev",
        second["time"],
    )
    quiet = await stage.con.fetchval(
        "SELECT min(g) FROM generate_series($1::timestamptz, $1::timestamptz + interval '59 s', interval '1 s') g"
        " WHERE g NOT IN (SELECT time FROM footprint_1s WHERE symbol = 'BTCUSDT')",
        extra["time"],
    )
    await stage.con.execute(
        "INSERT INTO footprint_1s SELECT $1, symbol, open, high, low, close, buy_vol, sell_vol, buy_quote, sell_quote,"
        " n, first_id, last_id, source, complete, grade FROM footprint_1s WHERE symbol = 'BTCUSDT' AND time = $2",
        quiet, altered["time"],
    )  # fmt: skip
    code, text = await run(stage, *words, command=verify)
    assert code == 1, text
    for row, field in ((bar, "buy_vol: ours"), (second, "h of its seconds: ours"), (extra, "n of its seconds: ours")):
        assert f"BTCUSDT {stamp(row['s'])} {field}" in text, text
    equal, of = read_equal(text)  # another minute may have closed meanwhile
    assert equal == of - 3

    published = await stage.collect("price_updates.BTCUSDT.*")
    code, text = await run(stage, *words, "--repair", command=verify)
    assert code == 0, text
    assert "BTCUSDT after the repair: 0 minutes differ" in text
    mended = await stage.con.fetchrow("SELECT * FROM raw_bars WHERE symbol = 'BTCUSDT' AND time = $1", bar["time"])
    assert mended["rev"] == bar["rev"] + 1
    noted = await stage.con.fetch("SELECT * FROM feed_gaps WHERE service = 'verify' ORDER BY from_time")
    assert [row["from_time"] for row in noted] == [row["time"] for row in (bar, second, extra)]
    assert {(row["status"], row["symbol"]) for row in noted} == {("repaired", "BTCUSDT")}
    wanted = {
        (stamp(bar["s"]), True, bar["rev"] + 1),
        (stamp(int(altered["time"].timestamp())), False, altered["rev"] + 1),
        (stamp(int(quiet.timestamp())), False, 2),
    }
    await stage.until(
        lambda: wanted <= {(m["time"], "o" in m, m["rev"]) for m in published if "rev" in m}, 5, "revisions came"
    )
    assert (await run(stage, *words, command=verify))[0] == 0


def stamp(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


async def test_retain_drops_what_is_old_and_keeps_what_a_gap_touches(ts_dsn: str) -> None:
    con = await asyncpg.connect(ts_dsn)
    try:
        for days in (0, 20, 31, 40):
            await con.execute(
                "INSERT INTO footprint_1s SELECT now() - make_interval(days => $1), 'XUSDT', 1, 1, 1, 1, 1, 1, 1, 1, 1,"
                " 1, 1, 'binance', true, 4",
                days,
            )
        await con.execute(
            "INSERT INTO feed_gaps (service, venue, symbol, from_id, from_time, to_time, missing, status, reason)"
            " SELECT 'ohlcv', 'binance', 'XUSDT', 1, t, t, '{}', 'open', 'x' FROM"
            " (SELECT now() - interval '40 d' AS t) i"
        )

        async def run_retain(*words: str) -> str:
            result = await asyncio.to_thread(CliRunner().invoke, retain, [*words, "--dsn", ts_dsn])
            assert result.exception is None, result.exception
            return result.output

        async def days_left() -> list[int]:
            rows = await con.fetch("SELECT round(extract(epoch FROM now() - time) / 86400)::int AS d FROM footprint_1s")
            return sorted(r["d"] for r in rows)

        await con.execute(
            "INSERT INTO footprint_deleted SELECT 'XUSDT', now() - make_interval(days => d), 3"
            " FROM unnest(ARRAY[20, 35, 39, 60]) d"
        )

        async def marks_left() -> list[int]:
            rows = await con.fetch("SELECT extract(day FROM now() - time)::int AS d FROM footprint_deleted")
            return sorted(r["d"] for r in rows)

        text = await run_retain("--dry-run")
        assert len(await marks_left()) == 4
        assert "footprint_1s: 1 chunks older than 30 days to drop" in text, text
        assert "kept: an open gap of XUSDT touches it" in text
        assert await days_left() == [0, 20, 31, 40]
        assert "1 chunks older than 30 days dropped" in await run_retain()
        assert await days_left() == [0, 20, 40]
        assert await marks_left() == [20, 35, 39], "the chunk of 40 days ago is still there: its seconds may come again"
        await con.execute("UPDATE feed_gaps SET status = 'repaired'")
        await run_retain("--footprint-days", "10")
        assert await days_left() == [0]
        assert await marks_left() == []
        assert "0 chunks" in await run_retain()
    finally:
        await con.close()


async def test_where_policies_drop_other_days_are_refused(ts_dsn: str) -> None:
    """Rows of jobs as the Community edition would have them: which edition it is decides only who is asked."""
    con = await asyncpg.connect(ts_dsn)
    try:
        await con.execute(
            "INSERT INTO _timescaledb_config.bgw_job (id, application_name, schedule_interval, max_runtime,"
            " max_retries, retry_period, proc_schema, proc_name, owner, scheduled, hypertable_id, config,"
            " fixed_schedule)"
            " SELECT 4242, 'test', '1 d', '1 min', 0, '1 min', '_timescaledb_functions', 'policy_retention',"
            ' current_user::regrole, false, id, \'{"drop_after": "30 days"}\', false'
            " FROM _timescaledb_catalog.hypertable WHERE table_name = 'footprint_1s'"
        )
        await check_policies(con, {"footprint_1s": 30})
        with pytest.raises(ConfigError) as refused:
            await check_policies(con, {"footprint_1s": 14, "raw_bars": 400})
        first, second = str(refused.value).splitlines()
        assert "footprint_1s: to be kept 14 days, but its retention policy drops after 30 days" in first
        assert "raw_bars: to be kept 400 days, but it has no retention policy" in second
        # Its statement is understood; only the edition can do it.
        await con.fetch(f"EXPLAIN {first.partition('change the policy: ')[2]}")
    finally:
        await con.close()


async def test_a_gap_opened_while_a_repair_commits_lowers_its_rows(ts_dsn: str) -> None:
    """An ingestor writes a gap after the command read the ledger; flat bars behind the repair take its close."""
    venue = Venue(every_second(150))
    gap = gap_of(20, 40, 18, 40)
    spans = [venue.drive(fetch_span(T0, T0 + 120))]
    rows, rest = divide_gap(gap, spans, venue.drive(find_ends(gap)))
    store = Racing(ts_dsn, "ops/gaps")
    try:
        stale = replace(make_bar(T0 + 120, "XUSDT"), o="7", h="7", l="7", c="7", v="0", n=0, quote_vol="0", buy_vol="0",
                        buy_quote_vol="0")  # fmt: skip
        batch = Batch()
        batch.put_bar(stale)
        assert await store.acquire()
        await store.commit(batch)
        store.late = gap_of(70, 75, 68.5, 75)
        assert await commit_step(store, spans, rows, rest) == 2 + 120 + 1
        lowered = [r.time - T0 for r in await read_seconds(store, "XUSDT", T0, T0 + 120) if not r.complete]
        assert lowered == list(range(68, 76))
        bars = await read_bars(store, "XUSDT", T0, T0 + 180)
        assert [r.complete for r in bars] == [True, False, True]
        assert bars[2].c == bars[1].c != "7"
        with pytest.raises(Refused, match="ops/gaps is at work elsewhere"):
            async with open_outlet(ts_dsn, "amqp://nobody:x@127.0.0.1:1/", "ops/gaps", "", print):
                pass
    finally:
        await store.close()


class Racing(Store):
    """A store in which a gap of an ingestor is committed just before the first rows are."""

    late: GapRow | None = None

    async def commit(self, batch: Batch, *, force: bool = False) -> Committed:
        if self.late is not None:
            ahead = Batch()
            ahead.put_gap(self.late)
            self.late = None
            await super().commit(ahead)
        return await super().commit(batch, force=force)
