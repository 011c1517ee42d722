"""The ingestor's reading of real fills, held against a recount that shares no code with it."""

import json
import random
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.contracts import SignalRow
from influencer_ingestor import hyperliquid as venue
from influencer_ingestor.dedup import Dedup
from influencer_ingestor.events import Account, Arrived, Fill, Source
from influencer_ingestor.fan_in import FanIn
from influencer_ingestor.fills_order import follow, order_fills
from influencer_ingestor.positions import derive_change, is_known, label_agrees
from influencer_ingestor.signals import make_signal
from tests.unit.influencer_world import ACCOUNT, USER, Pipeline, arrive, make_fill, recount

FILES = ("rest_userFillsByTime_202607.json", "rest_userFillsByTime_followers_202607.json")
Told = dict[str, Any]


@pytest.fixture(scope="module")
def accounts(shared_data: Path) -> list[list[Told]]:
    """The 13 accounts of 2026, each with its fills as the venue listed them."""
    folder = shared_data / "hyperliquid"
    found = [query["fills"] for name in FILES for query in json.loads((folder / name).read_bytes())["queries"]]
    assert sum(map(len, found)) == 1_023
    return found


def read(told: list[Told], user: str = USER) -> tuple[Fill, ...]:
    fills = venue.parse_fills(json.dumps(told).encode(), user)
    assert not fills.failures
    return fills.fills


def signals(arrivals: list[Arrived], account: Account = ACCOUNT) -> list[SignalRow]:
    made = [make_signal(each, account) for each in arrivals]
    return [each for each in made if isinstance(each, SignalRow)]


def meaning(row: SignalRow) -> Told:
    return {
        "action": row.action,
        "side": row.side,
        "size": Decimal(row.size),
        "deltaSize": Decimal(row.delta_size),
        "price": Decimal(row.price),
    }


def test_every_chain_is_continuous_and_the_signals_equal_the_recount(accounts: list[list[Told]]) -> None:
    """Each account over two listeners; the recount adds up the position by itself, too."""
    actions: Counter[str] = Counter()
    for told in accounts:
        line = Pipeline()
        for fill in read(told):
            line.take(arrive(fill, listener=0))
            line.take(arrive(fill, fill.time_ms + 3, listener=1))
        assert not [chain.wanted for chain in line.chains.values() if chain.wanted], "no gap where there is none"
        assert all(released.moves for released in line.released)
        positions: dict[str, Decimal] = {}
        expected: dict[tuple[str, int], Told] = {}
        for each in told:
            coin, moved = each["coin"], Decimal(each["sz"]) * (1 if each["side"] == "B" else -1)
            assert positions.setdefault(coin, Decimal(each["startPosition"])) == Decimal(each["startPosition"])
            positions[coin] += moved
            meant = recount(each)
            assert meant is not None
            expected[coin, each["tid"]] = meant
        rows = signals([released.arrived for released in line.released])
        found = {(json.loads(row.metadata)["coin"], json.loads(row.metadata)["tid"]): meaning(row) for row in rows}
        assert found == expected and len(rows) == len(told) == len({row.signal_id for row in rows})
        for coin, position in positions.items():
            assert line.chains[coin].position == position * 10**18
        actions.update(row.action for row in rows)
    assert sum(actions.values()) == 1_023 and actions["FLIP"] == 2 and min(actions.values()) > 0
    assert len(actions) == 5


def test_flips_are_where_the_venue_says_and_no_label_contradicts(accounts: list[list[Told]]) -> None:
    fills = [fill for told in accounts for fill in read(told)]
    flips = [fill.dir for fill in fills if (change := derive_change(fill)) and change.action == "FLIP"]
    assert sorted(flips) == ["Long > Short", "Short > Long"]
    for fill in fills:
        change = derive_change(fill)
        assert change is not None and is_known(fill.dir) and label_agrees(fill.dir, change), fill


def test_a_liquidation_is_marked_only_for_the_account_that_was_liquidated(accounts: list[list[Told]]) -> None:
    (told,) = (told for told in accounts if any("liquidation" in each for each in told))
    liquidated = next(each["liquidation"]["liquidatedUser"] for each in told if "liquidation" in each)
    for user, marked in ((USER, 0), (liquidated, 2)):
        rows = signals([arrive(fill) for fill in read(told, user)])
        meta = [json.loads(row.metadata)["liquidation"] for row in rows]
        assert [each for each in meta if each] == [
            {"liquidatedUser": liquidated, "markPx": pytest.approx(0.001982), "method": "market"}
        ] * marked
        assert len(rows) == len(told), "the other side of a liquidation is an ordinary fill"


def test_a_burst_of_one_time_in_any_order(accounts: list[list[Told]]) -> None:
    by_time: defaultdict[tuple[int, str, int], list[Told]] = defaultdict(list)
    for at, told in enumerate(accounts):
        for each in told:
            by_time[at, each["coin"], each["time"]].append(each)
    burst = max(by_time.values(), key=len)
    assert len(burst) == 55
    fills = list(read(burst))
    rng = random.Random(5)
    for _ in range(50):
        shuffled = rng.sample(fills, len(fills))
        assert order_fills(shuffled, fills[0].start) == fills


def test_the_old_form_without_tid(shared_data: Path) -> None:
    """500 fills, newest first. One of the two sides of the oldest trade is cut off by the answer's limit."""
    told = json.loads((shared_data / "hyperliquid/rest_userFills_20230505.json").read_bytes())
    fills = read(told)
    assert all(fill.tid is None for fill in fills)
    ids = {fill.event_id for fill in fills}
    assert len(ids) == 500, "the fallback key tells them apart"
    assert len({(each["time"], each["coin"]) for each in told}) < 450, "time and coin do not"
    assert ids == {fill.event_id for fill in read([{**each, "px": each["px"] + "0"} for each in told])}
    rows = signals([arrive(fill) for fill in fills])
    assert [meaning(row) for row in rows] == [recount(each) for each in told]
    assert len({row.signal_id for row in rows}) == 500
    assert sum(row.action == "FLIP" for row in rows) == sum(">" in each["dir"] for each in told) == 22
    by_coin: defaultdict[str, list[Fill]] = defaultdict(list)
    for fill in fills:
        by_coin[fill.coin].append(fill)
    for coin, mine in by_coin.items():
        for feed in (mine, mine[::-1]):
            ordered = order_fills(feed)
            if coin == "SUI":
                assert (ordered[0].time_ms, ordered[1].start) == (min(fill.time_ms for fill in fills), ordered[0].start)
                ordered = ordered[1:]
            assert follow(ordered, ordered[0].start) is not None, coin


# ---- any order, over two listeners


moves = st.lists(
    st.tuples(st.sampled_from(("ETH", "xyz:CL", "@107")), st.integers(-4, 4), st.integers(0, 1)), max_size=14
)


def build_fills(steps: list[tuple[str, int, int]]) -> list[Fill]:
    positions: defaultdict[str, int] = defaultdict(int)
    fills: list[Fill] = []
    time_ms = ACCOUNT.added_ms + 1_790_000_000_000
    for at, (coin, move, later) in enumerate(steps):
        time_ms += later
        fills.append(make_fill(str(positions[coin]), str(move), time_ms, coin, tid=at + 1))
        positions[coin] += move
    return fills


def facts(rows: list[SignalRow]) -> set[tuple[str, ...]]:
    return {(row.signal_id, row.action, row.side, row.size, row.delta_size, row.price, row.market) for row in rows}


@settings(max_examples=200)
@given(moves, st.data())
def test_any_order_and_duplication_over_two_listeners_gives_the_same_signals(
    steps: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """Each fill comes at least once, over either listener or both, in any order, through a queue that may overflow."""
    fills = build_fills(steps)
    copies = data.draw(st.lists(st.sampled_from(fills), max_size=8)) if fills else []
    arrivals = data.draw(st.permutations([*fills, *copies]))
    fan_in, line = FanIn(data.draw(st.integers(1, 20)), Dedup()), Pipeline()
    fan_in.rank({USER: 0})
    now = 1_790_000_001_000

    def drain(most: int) -> None:
        for taken in fan_in.take(most):
            line.take(Arrived(taken.fill, now, taken.source, taken.listener))

    for fill in arrivals:
        now += data.draw(st.sampled_from((0, 100, 400)))
        fan_in.offer(Arrived(fill, now, Source.LIVE, data.draw(st.integers(0, 1))))
        drain(data.draw(st.integers(0, 3)))
    drain(99)
    if fan_in.shed:  # the account left the full queue: the info endpoint brings what the stream could not
        assert fan_in.readmit() == USER
        for fill in fills:
            fan_in.offer(Arrived(fill, now, Source.REPAIR))
            drain(1)
    line.tick(now + 10_000)
    assert sorted(each.arrived.fill.tid or 0 for each in line.released) == sorted(fill.tid or 0 for fill in fills)
    rows = signals([each.arrived for each in line.released])
    assert len(rows) == len({row.signal_id for row in rows})
    assert facts(rows) == facts(signals([arrive(fill) for fill in fills]))
    expected = [meant for fill in fills if (meant := recount(json.loads(fill.raw))) is not None]
    by_fill = sorted(rows, key=lambda row: json.loads(row.metadata)["tid"])
    assert [meaning(row) for row in by_fill] == expected
