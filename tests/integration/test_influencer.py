"""The influencer ingestor as a process: accounts that trade, come, go, are too many, and say what can not be read."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from common.shards import shard_of
from tests.influencer_stage import ANN, BEN, InfluencerStage, address, open_influencer_stage, trades

WEIGHT = 1_000_000
GENEROUS = ("--hyperliquid-weight-per-min", str(WEIGHT))
"""So that polls come as often as a test is patient."""
RECORDED = 1_023
ALL = ("open", "increase", "decrease", "flip", "close")


@pytest.fixture
async def stage(tmp_path: Path, ts_dsn: str, rmq_url: str) -> AsyncIterator[InfluencerStage]:
    async with open_influencer_stage(tmp_path, ts_dsn, rmq_url) as stage:
        yield stage


async def test_every_change_is_signalled_once(stage: InfluencerStage) -> None:
    await stage.open_venue()
    await stage.play(*trades(ANN, ALL))
    await stage.watch(ANN)
    process = await stage.start(watch_orders=True)
    await stage.live(1)
    await stage.listen()
    await stage.play(*trades(ANN, (*ALL, "open", "liquidate")), *trades(ANN, ("buy", "sell", "dust"), coin="@107"))
    assert await stage.judge() >= 8
    # An account added while it runs is live within three seconds.
    await stage.watch(BEN)
    await stage.live(2, within_s=3.0)
    await stage.play(*trades(BEN, ALL, coin="BTC"), *trades(ANN, ALL, coin="xyz:CL"))
    await stage.judge()
    # What the venue told is kept as it was, once, whoever brought it.
    rows = await stage.con.fetch("SELECT event_type, influencer_address AS who, raw_payload FROM influencer_raw_events")
    kept = [json.loads(r["raw_payload"]) for r in rows if r["event_type"] == "FILL"]
    told = [one["fill"] for one in await stage.stage.oracle("hyperliquid/fills")]
    assert sorted(kept, key=lambda fill: (fill["oid"], fill["tid"])) == sorted(
        told, key=lambda fill: (fill["oid"], fill["tid"])
    )
    assert {r["event_type"] for r in rows} == {"FILL", "ORDER_UPDATE", "POSITION_SNAPSHOT", "POSITION_UPDATE"}
    held = await stage.con.fetch(
        "SELECT coin, size FROM influencer_positions WHERE address = $1 AND size <> 0 AND coin NOT LIKE '@%'", ANN
    )
    truth = next(a for a in await stage.stage.oracle("hyperliquid/accounts") if a["user"] == ANN)["positions"]
    assert {r["coin"]: r["size"] for r in held} == {
        c: Decimal(v) for c, v in truth.items() if Decimal(v) and c[0] != "@"
    }
    assert await process.stop() == 0, process.tail()


async def test_what_is_held_when_an_account_is_added_is_no_gap(stage: InfluencerStage) -> None:
    await stage.open_venue()
    await stage.play(*trades(ANN, ("open", "increase")), *trades(ANN, ("open",), coin="BTC"))
    await stage.watch(ANN, ago_s=-0.05)
    # Longer than the test is patient: a fill that shows a gap would be missed.
    process = await stage.start(gap_hold_ms=10_000, state_every_s=1, audit_lag_ms=100)
    await stage.live(1)
    await stage.listen()

    async def held() -> dict[str, Decimal]:
        rows = await stage.con.fetch(
            "SELECT coin, size FROM influencer_positions WHERE address = $1 AND size <> 0", ANN
        )
        return {r["coin"]: r["size"] for r in rows}

    async def truth() -> dict[str, Decimal]:
        (account,) = await stage.stage.oracle("hyperliquid/accounts")
        return {coin: Decimal(size) for coin, size in account["positions"].items() if Decimal(size)}

    async def is_known() -> bool:
        return await held() == await truth()

    await stage.stage.until(is_known, 5, "what is held is known", 0.05)
    await stage.play(*trades(ANN, ("increase", "flip")), *trades(ANN, ("close",), coin="BTC"))
    assert await stage.judge(within_s=5) >= 3
    assert await held() == await truth()
    asked = await stage.asked("clearinghouseState")

    async def stated_again() -> bool:
        return await stage.asked("clearinghouseState") >= asked + 2

    await stage.stage.until(stated_again, 5, "two more statements", 0.05)
    assert await stage.gaps() == {}
    assert await process.stop() == 0, process.tail()


async def test_recorded_accounts(stage: InfluencerStage, shared_data: Path) -> None:
    """Thirteen wallets' real fills within seconds: ten of them heard, three polled."""
    tapes = [shared_data / f"hyperliquid/rest_userFillsByTime_{name}202607.json" for name in ("", "followers_")]
    words = [word for tape in tapes for word in ("--hyperliquid-tape", str(tape))]
    await stage.open_venue(*words, *GENEROUS, "--hyperliquid-tape-speed", "200000", "--hyperliquid-lead-s", "3")
    users = json.loads((stage.stage.folder / "venue.ready").read_text())["hyperliquid_accounts"]
    assert len(users) == 13
    await stage.watch(*users)
    await stage.listen()
    process = await stage.start(poll_every_min_ms=100, weight_per_min=WEIGHT)
    await stage.live(10)

    async def over() -> bool:
        return len(await stage.stage.oracle("hyperliquid/fills")) == RECORDED

    await stage.stage.until(over, 30, "the tapes are played", 0.2)
    assert await stage.judge(20) > 1_000
    rows = await stage.con.fetch("SELECT metadata FROM influencer_signals WHERE metadata->>'liquidation' IS NOT NULL")
    assert all(json.loads(r["metadata"])["liquidation"]["liquidatedUser"] in users for r in rows)
    assert await process.stop() == 0, process.tail()


async def call(stage: InfluencerStage, *words: str, **env: str) -> tuple[int, str, str]:
    """`trading-bus influencer ...`, or `status`: exit code, stdout, stderr."""
    command = words if words[0] == "status" else ("influencer", *words)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from ops.cli import main; main()", *command,
        env={**os.environ, "TS_DSN": stage.stage.dsn, "RMQ_URL": stage.stage.rmq_url, **env},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, out.decode(), err.decode()


async def test_more_accounts_than_the_venue_tracks(stage: InfluencerStage) -> None:
    """The less important ones are polled; the venue's own error teaches how many it tracks."""
    users = [address(n) for n in range(1, 7)]
    await stage.open_venue("--hyperliquid-users-max", "4", *GENEROUS)
    for n, user in enumerate(users):
        await stage.watch(user, priority=10 - n)
    process = await stage.start(users_max=5, poll_every_min_ms=100, weight_per_min=WEIGHT)
    await stage.live(4)
    await stage.listen()
    check = await stage.check("accounts")
    assert check["detail"]["polled_accounts"] == ["w5", "w6"]
    assert (await stage.check("configuration"))["detail"]["users_max"] == 4
    port = (stage.stage.folder / "influencer.port").read_text().strip()
    _, told, _ = await call(stage, "status", STATUS_URLS=f"http://127.0.0.1:{port}", COLUMNS="200")
    assert "accounts beyond 4 users are polled: ['w5', 'w6']" in told
    await stage.play(*[step for user in users for step in trades(user, ALL)])
    await stage.judge()
    rows = await stage.con.fetch("SELECT DISTINCT influencer_id, metadata->>'source' AS source FROM influencer_signals")
    assert {r["influencer_id"]: r["source"] for r in rows} == {
        f"w{n}": "live" if n <= 4 else "repair" for n in range(1, 7)
    }
    # Those that are polled have their baseline, too.
    rows = await stage.con.fetch(
        "SELECT DISTINCT influencer_id FROM influencers JOIN influencer_raw_events ON influencer_address = address"
        " WHERE event_type = 'POSITION_SNAPSHOT'"
    )
    assert {r["influencer_id"] for r in rows} == {f"w{n}" for n in range(1, 7)}
    # A place becomes free: the next one is heard, within the venue's limit.
    assert (await call(stage, "remove", "w1"))[0] == 0
    del stage.names[users[0]]

    async def moved() -> bool:
        return (await stage.check("accounts")).get("detail", {}).get("polled_accounts") == ["w6"]

    await stage.stage.until(moved, 5, "w5 is heard", 0.05)
    await stage.live(4)
    await stage.con.execute("DELETE FROM influencer_signals WHERE influencer_id = 'w1'")
    stage.messages[:] = [m for m in stage.messages if m["influencerId"] != "w1"]
    await stage.play(*[step for user in users for step in trades(user, ALL, coin="SOL")])
    await stage.judge()
    assert (await stage.check("configuration"))["detail"]["users_max"] == 4
    told = await stage.stage.oracle("hyperliquid/status")
    (client,) = told["clients"].values()
    assert client["users_most"] <= 4 and client["connections_most"] <= 4
    assert await process.stop() == 0, process.tail()


async def test_a_plan_beyond_the_limits_is_refused_with_the_arithmetic(stage: InfluencerStage) -> None:
    await stage.open_venue()
    for n in range(1, 15):
        await stage.watch(address(n))
    process = await stage.start(users_max=2, weight_per_min=200, poll_every_max_s=30)
    assert process.process is not None and await asyncio.wait_for(process.process.wait(), 15) == 2
    assert "12 accounts beyond the 2 users are polled" in process.tail()
    process = await stage.start("sockets", sockets_per_listener=6)
    assert process.process is not None and await asyncio.wait_for(process.process.wait(), 15) == 2
    assert "2 listeners x 6 sockets = 12 connections, above the limit of 10" in process.tail()


async def test_the_command_line(stage: InfluencerStage) -> None:
    loud = "0x" + "A" * 40
    code, out, _ = await call(stage, "add", loud, "--id", "ann", "--market", "ETH", "--priority", "3")
    assert (code, out) == (0, "ann: added\n")
    code, _, err = await call(stage, "add", "0x12", "--id", "x")
    assert code == 2 and "is not an address" in err
    code, _, err = await call(stage, "add", BEN, "--id", "ann")
    assert code == 2 and "an id belongs to one account" in err
    file = stage.stage.folder / "whales.yml"
    file.write_text(
        f"- {{address: '{ANN}', id: ann, markets: [ETH-PERP], priority: 3}}\n- {{address: '{BEN}', id: ben}}\n"
    )
    code, out, _ = await call(stage, "import", str(file))
    assert (code, out) == (0, "2 accounts: 1 added, 0 changed, 1 unchanged\n")
    file.write_text(f"- {{address: '{ANN}', id: ann, colour: red}}\n")
    code, _, err = await call(stage, "import", str(file))
    assert code == 2 and "colour" in err and len(err.splitlines()) == 1
    whole = [f"- {{address: '{user}', id: {name}}}\n" for user, name in ((address(1), "ben"), (ANN, "ann"))]
    file.write_text(whole[0])
    code, _, err = await call(stage, "import", str(file))
    assert code == 2 and "an id belongs to one account" in err
    file.write_text("".join(whole).replace("id: ann", "id: ann, markets: [ETH-PERP], priority: 3"))
    code, out, err = await call(stage, "import", str(file), "--exact")
    assert (code, out) == (0, "2 accounts: 1 added, 0 changed, 1 unchanged\n"), err
    rows = await stage.con.fetch("SELECT address, influencer_id FROM influencers")
    assert {r["address"]: r["influencer_id"] for r in rows} == {address(1): "ben", ANN: "ann"}
    await stage.con.execute("UPDATE influencers SET address = $1 WHERE influencer_id = 'ben'", BEN)
    code, out, _ = await call(stage, "list")
    assert code == 0 and ANN in out and "only ETH-PERP" in out
    # Signals made again are the same; one that went is written and published again.
    await stage.open_venue()
    stage.names = {ANN: "ann", BEN: "ben"}
    process = await stage.start()
    await stage.live(2)
    await stage.listen()
    await stage.play(*trades(ANN, ALL), *trades(BEN, (*ALL, "liquidate"), coin="BTC"))
    before = await stage.judge()
    since = "2020-01-01T00:00:00Z"
    code, out, err = await call(stage, "replay", "--since", since)
    assert code == 0 and f"{before} signals, {before} stored, 0 missing" in out, err
    ids = {r["signal_id"] for r in await stage.con.fetch("SELECT signal_id FROM influencer_signals")}
    await stage.con.execute("DELETE FROM influencer_signals WHERE influencer_id = 'ben'")
    code, out, err = await call(stage, "replay", "--since", since)
    assert code == 1 and "are missing" in err
    code, out, err = await call(stage, "replay", "--since", since, "--write")
    assert code == 0 and "now written" in out, err
    assert {r["signal_id"] for r in await stage.con.fetch("SELECT signal_id FROM influencer_signals")} == ids
    assert (await call(stage, "remove", "nobody"))[0] == 1
    assert await process.stop() == 0, process.tail()


async def test_shards_share_the_accounts_and_one_stands_by(stage: InfluencerStage) -> None:
    await stage.open_venue()
    users = [address(n) for n in range(1, 7)]
    await stage.watch(*users)
    shards = {f"w{n}": shard_of(f"w{n}", 2) for n in range(1, 7)}
    of_0 = sum(shard == 0 for shard in shards.values())
    assert 0 < of_0 < 6

    async def state(name: str) -> tuple[bool, int, int]:
        """Ready, accounts watched, and feeds that its two listeners hear."""
        report = await stage.health(name)
        checks = {check["name"]: check.get("detail", {}) for check in report.get("checks", [])}
        subscribed = [checks.get(f"listener {n}", {}).get("subscribed", 0) for n in (0, 1)]
        port_file = stage.stage.folder / f"{name}.port"
        if not report or not port_file.exists():
            return False, -1, -1
        ready = await stage.stage.http.get(f"http://127.0.0.1:{port_file.read_text().strip()}/readyz")
        return ready.status_code == 200, checks.get("accounts", {}).get("watched", 0), sum(subscribed)

    async def is_state(name: str, *wanted: object) -> bool:
        return await state(name) == wanted

    async def until(name: str, *wanted: object) -> None:
        await stage.stage.until(lambda: is_state(name, *wanted), 10, f"{name} is {wanted}", 0.05)

    first = await stage.start("a", shard="0/2")
    second = await stage.start("b", shard="1/2")
    await until("a", True, of_0, 4 * of_0)
    await until("b", True, 6 - of_0, 4 * (6 - of_0))
    spare = await stage.start("spare", shard="0/2")
    await until("spare", False, 0, 0)
    await stage.listen()
    await stage.play(*[step for user in users for step in trades(user, ALL)])
    await stage.judge()
    # Whose lock is free is followed by who stood by, what happened in between included.
    await first.kill()
    await stage.play(*[step for user in users for step in trades(user, ALL, coin="BTC", parts=3)])
    await until("spare", True, of_0, 4 * of_0)
    await stage.play(*[step for user in users for step in trades(user, ALL, coin="SOL")])
    await stage.judge()
    told = await stage.con.fetch("SELECT DISTINCT influencer_id, metadata->>'source' AS s FROM influencer_signals")
    assert {r["influencer_id"] for r in told if r["s"] == "repair"} == {name for name in shards if shards[name] == 0}
    for process in (second, spare):
        assert await process.stop() == 0, process.tail()
