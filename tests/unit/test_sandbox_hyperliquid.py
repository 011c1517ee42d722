"""The sandbox's Hyperliquid without sockets: accounts, made-up trading, recorded fills, limits, rules."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.hyperliquid_config import HyperliquidConfig
from sandbox.hyperliquid_frames import ack_text, clearinghouse_state, events_texts, fills_text, orders_text, read_order
from sandbox.hyperliquid_ledger import Account, Order, Stamp, fill_order, is_spot, number_text
from sandbox.hyperliquid_limits import Allowance, weigh
from sandbox.hyperliquid_market import HyperliquidMarket, Made, read_step
from sandbox.hyperliquid_play import BURST_FILLS, SeededPlay, split_size
from sandbox.hyperliquid_rules import Rules
from sandbox.hyperliquid_tape import TapePlay, read_tape

START_MS = 1_790_000_000_000
ANN, BEN, EVE = ("0x" + digit * 40 for digit in "abe")
LOUD_ANN = "0x" + "A" * 40
REAL_FILL = {
    "coin": "BTC", "px": "66653.0", "sz": "0.001", "side": "A", "time": 1781528065899, "startPosition": "-0.0213",
    "dir": "Open Short", "closedPnl": "0.0", "hash": "0xe2", "oid": 55030848197, "crossed": False, "fee": "0.009997",
    "tid": 745210434703679, "cloid": "0xe8",
    "liquidation": {"liquidatedUser": EVE, "markPx": "1.0", "method": "market"}, "feeToken": "USDC", "twapId": None,
}  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def play_market(*users: str, rate: float = 0.0, transfer_every: int = 0, seed: str = "7") -> HyperliquidMarket:
    return HyperliquidMarket(seed, users, SeededPlay(seed, users, rate, START_MS, transfer_every), None)


def trade(market: HyperliquidMarket, *steps: dict[str, Any], at_ms: int = START_MS) -> list[Made]:
    market.plan(list(steps), at_ms)
    return market.advance(at_ms)


def broken_chains(made: list[Made]) -> list[Made]:
    """Fills of perpetuals that do not begin where the account's last one of the coin ended."""
    ends: dict[tuple[str, str], Decimal] = {}
    found = []
    for one in made:
        key, start = (one.user, one.fill["coin"]), Decimal(one.fill["startPosition"])
        if not is_spot(key[1]) and ends.get(key, start if key not in ends else None) != start:
            found.append(one)
        ends[key] = start + Decimal(one.fill["sz"]) * (1 if one.fill["side"] == "B" else -1)
    return found


# Accounts


def test_one_position_from_open_to_flip():
    account, told = Account(ANN), []
    for i, (side, size, price) in enumerate(
        [("B", "2", "100"), ("B", "2", "110"), ("A", "1", "120"), ("A", "4", "90"), ("B", "1", "80")]
    ):
        order = Order(user=ANN, coin="ETH", side=side, sz=Decimal(size))
        told.append(fill_order(account, order, Decimal(size), Decimal(price), Stamp(START_MS, "0x1", 5, i)))
    assert [(f["startPosition"], f["dir"], f["closedPnl"]) for f in told] == [
        ("0.0", "Open Long", "0.0"), ("2.0", "Open Long", "0.0"), ("4.0", "Close Long", "15.0"),
        ("3.0", "Long > Short", "-45.0"), ("-1.0", "Close Short", "10.0"),
    ]  # fmt: skip
    assert account.size("ETH") == 0
    assert clearinghouse_state(account, "", START_MS)["assetPositions"] == []


def test_a_fill_has_the_venues_keys_in_the_venues_order():
    order = Order(user=ANN, coin="BTC", side="A", sz=Decimal(1), liquidated=EVE, cloid="0xe8")
    fill = fill_order(Account(ANN), order, Decimal("0.001"), Decimal(66653), Stamp(START_MS, "0xe2", 1, 2))
    assert list(fill) == list(REAL_FILL)
    assert {name: type(value) for name, value in fill.items()} == {k: type(v) for k, v in REAL_FILL.items()}


def test_spot_balances_lose_the_fee_and_do_not_chain():
    account = Account(ANN)
    buy = Order(user=ANN, coin="@107", side="B", sz=Decimal(10))
    first = fill_order(account, buy, Decimal(10), Decimal(35), Stamp(START_MS, "0x1", 1, 1))
    second = fill_order(account, buy, Decimal(10), Decimal(35), Stamp(START_MS, "0x1", 1, 2))
    assert (first["dir"], first["feeToken"], first["fee"]) == ("Buy", "U107", "0.007")
    assert second["startPosition"] == "9.993"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("440", "440.0"), ("0.02261", "0.02261"), ("1E-8", "0.00000001"), ("-0.0", "0.0"), ("1E+3", "1000.0"),
        ("-3.50", "-3.5"),
    ],
)  # fmt: skip
def test_numbers_as_the_venue_writes_them(value: str, text: str):
    assert number_text(Decimal(value)) == text


@given(units=st.integers(1, 10**9), parts=st.integers(1, 80), decimals=st.integers(0, 5), seed=st.integers())
def test_parts_are_positive_and_make_the_whole(units: int, parts: int, decimals: int, seed: int):
    size = Decimal(units).scaleb(-decimals)
    split = split_size(size, parts, decimals, seed)
    assert sum(split) == size
    assert all(part > 0 for part in split)
    assert len(split) == min(parts, units)


# The made-up market


def test_the_same_seed_gives_the_same_fills():
    def fills(seed: str) -> list[dict[str, Any]]:
        market = play_market(ANN, BEN, rate=20.0, seed=seed)
        return [one.fill for one in market.advance(START_MS + 60_000)]

    assert fills("7") == fills("7")
    assert fills("7") != fills("8")
    assert 600 < len(fills("7")) < 2400


def test_the_made_up_market_holds_every_trap_and_its_chains():
    made = play_market(ANN, BEN, EVE, rate=20.0).advance(START_MS + 600_000)
    assert broken_chains(made) == []
    dirs = Counter(one.fill["dir"] for one in made)
    wanted = {
        "Open Long", "Open Short", "Close Long", "Close Short", "Long > Short", "Short > Long", "Buy", "Sell",
        "Spot Dust Conversion", "Settlement", "Auto-Deleveraging", "Liquidated Cross Long", "Liquidated Cross Short",
    }  # fmt: skip
    assert wanted <= set(dirs)
    blocks = Counter((one.user, one.time_ms, one.fill["coin"]) for one in made)
    assert sum(count >= BURST_FILLS for count in blocks.values()) > 10
    liquidations = [(one.user, one.fill) for one in made if "liquidation" in one.fill]
    own = [fill for user, fill in liquidations if fill["liquidation"]["liquidatedUser"] == user]
    assert any(fill["dir"].startswith("Close") for fill in own)
    assert len(own) < len(liquidations)
    shared = defaultdict(set)
    for one in made:
        shared[one.time_ms, one.fill["coin"], one.fill["tid"]].add(one.user)
    assert sum(len(users) == 2 for users in shared.values()) > 10
    keys = Counter((one.user, one.time_ms, one.fill["coin"], one.fill["tid"]) for one in made)
    assert max(keys.values()) == 1
    assert any(":" in one.fill["coin"] for one in made)


def test_the_judge_knows_the_position_around_each_fill():
    made = play_market(ANN, BEN, rate=20.0, transfer_every=9).advance(START_MS + 60_000)
    for one in (one for one in made if not is_spot(one.fill["coin"])):
        signed = Decimal(one.fill["sz"]) * (1 if one.fill["side"] == "B" else -1)
        assert (one.start, one.end) == (Decimal(one.fill["startPosition"]), one.start + signed)
    assert 10 < len(broken_chains(made)) < 200


# Scripts


def test_orders_actions_transfers_and_whole_fills():
    market = play_market()
    opened = trade(market, {"user": LOUD_ANN, "coin": "ETH", "side": "B", "sz": "5.5", "parts": 55})
    assert len(opened) == 55
    assert {one.user for one in opened} == {ANN}
    assert len({one.time_ms for one in opened}) == 1
    assert opened[-1].end == Decimal("5.5")
    [flip, *more] = trade(market, {"user": ANN, "action": "flip", "coin": "ETH", "sz": 7.5, "parts": 1, "px": "3000"})
    assert not more
    assert (flip.fill["dir"], flip.fill["px"], flip.end) == ("Long > Short", "3000.0", Decimal(-2))
    assert trade(market, {"user": ANN, "transfer": {"coin": "ETH", "szi": "-3"}}) == []
    [after] = trade(market, {"user": ANN, "action": "close", "coin": "ETH", "parts": 1})
    assert (after.fill["startPosition"], after.end) == ("-3.0", Decimal(0))
    assert trade(market, {"user": ANN, "action": "close", "coin": "ETH"}) == []
    [told] = trade(market, {"user": BEN, "fill": REAL_FILL})
    assert told.fill == REAL_FILL
    assert market.account(BEN).size("BTC") == Decimal("-0.0223")


def test_steps_happen_when_they_are_due_with_the_time_they_are_told():
    market = play_market()
    order = {"user": ANN, "coin": "ETH", "side": "B", "sz": "1"}
    steps = [order | {"after_ms": 500}, order | {"time": START_MS - 9_000}, order | {"streamed": False}]
    now = trade(market, *steps)
    assert [(one.time_ms, one.streamed) for one in now] == [(START_MS - 9_000, True), (START_MS, False)]
    assert market.next_ms() == START_MS + 500
    assert [one.start for one in market.advance(START_MS + 500)] == [Decimal(2)]
    assert [one.time_ms for one in market.seen(ANN)] == [START_MS - 9_000, START_MS, START_MS + 500]
    assert [one.seq for one in market.between(ANN, START_MS, START_MS + 500, None)] == [1, 2]
    assert [one.seq for one in market.between(ANN, 0, START_MS + 500, START_MS)] == [0, 1]


@pytest.mark.parametrize(
    "step",
    [
        {}, [], {"user": ANN}, {"user": ANN, "coin": "ETH"}, {"user": ANN, "coin": "ETH", "side": "X", "sz": "1"},
        {"user": ANN, "coin": "ETH", "side": "B", "sz": "NaN"}, {"user": ANN, "coin": "ETH", "side": "B", "sz": "-1"},
        {"user": ANN, "coin": "ETH", "action": "dance"},
        {"user": ANN, "coin": "ETH", "side": "B", "sz": "1", "px": "x"},
        {"user": ANN, "coin": "ETH", "side": "B", "sz": "1", "size": "1"}, {"user": ANN, "fill": {"coin": "ETH"}},
        {"user": ANN, "transfer": {"coin": "ETH"}},
    ],
)  # fmt: skip
def test_a_step_that_makes_no_sense_is_refused(step: Any):
    with pytest.raises(ValueError, match=r".+"):
        read_step(step)


# Recorded fills


def tape_of(path: Path, *fills: tuple[str, int]) -> Path:
    path.write_text(json.dumps({"queries": [{"fills": [REAL_FILL | {"coin": c, "time": t} for c, t in fills]}]}))
    return path


def test_a_tape_keeps_order_and_what_is_at_one_time(tmp_path: Path):
    tape = tape_of(tmp_path / "t.json", ("A", 5_000), ("B", 5_000), ("C", 5_001), ("D", 9_000))
    play = TapePlay(read_tape(tape), 1000.0, START_MS)
    taken = []
    while play.next_ms is not None:
        taken.append((play.next_ms - START_MS, [one.fill["coin"] for one in play.take()]))
    assert taken == [(0, ["A", "B"]), (1, ["C"]), (4, ["D"])]


def test_the_real_fills_chain_and_become_accounts(shared_data: Path):
    files = [shared_data / "hyperliquid" / f"rest_userFillsByTime_{name}202607.json" for name in ("", "followers_")]
    recorded = [one for path in files for one in read_tape(path)]
    play = TapePlay(recorded, 100_000.0, START_MS)
    market = HyperliquidMarket("1", (), SeededPlay("1", (), 1.0, START_MS, 0), play)
    made = market.advance(START_MS + 600_000)
    assert (len(made), len(market.accounts)) == (1023, 13)
    assert broken_chains(made) == []
    before = {json.dumps(one.fill | {"time": 0}) for one in recorded}
    assert {json.dumps(one.fill | {"time": 0}) for one in made} == before


# Frames


def test_only_a_snapshot_is_flagged():
    assert json.loads(fills_text(ANN, [], is_snapshot=True))["data"] == {"isSnapshot": True, "user": ANN, "fills": []}
    assert json.loads(fills_text(ANN, [REAL_FILL])) == {
        "channel": "userFills", "data": {"user": ANN, "fills": [REAL_FILL]}
    }  # fmt: skip


def test_events_and_orders_name_nobody():
    fill, own = REAL_FILL, REAL_FILL | {"liquidation": {"liquidatedUser": ANN, "markPx": "1.0", "method": "market"}}
    assert [json.loads(text) for text in events_texts([fill], ANN)] == [{"channel": "user", "data": {"fills": [fill]}}]
    assert list(json.loads(events_texts([own], ANN)[1])["data"]) == ["liquidation"]
    [order] = json.loads(orders_text([fill, fill]))["data"]
    assert (order["order"]["origSz"], order["order"]["cloid"], order["status"]) == ("0.002", "0xe8", "filled")


def test_frames_are_those_of_a_recorded_session(shared_data: Path):
    lines = (shared_data / "hyperliquid/ws_userFills_20261005.jsonl").read_text().splitlines()
    frames = [json.loads(line) for line in lines]
    acks = [frame for frame in frames if frame["channel"] == "subscriptionResponse"]
    assert len(acks) == 15
    for ack in acks:
        wanted = {name: ack["data"]["subscription"][name] for name in ("type", "user")}
        order = read_order(json.dumps({"method": "subscribe", "subscription": wanted}))
        assert order is not None
        assert order.subscription is not None
        assert json.loads(ack_text("subscribe", order.subscription)) == ack
    fills = [frame["data"] for frame in frames if frame["channel"] == "userFills"]
    ours = [fills_text(one["user"], one["fills"], is_snapshot="isSnapshot" in one) for one in fills]
    assert ours == [line for line in lines if line.startswith('{"channel":"userFills"')]
    order = Order(user=ANN, coin="BTC", side="A", sz=Decimal(1))
    made = fill_order(Account(ANN), order, Decimal(1), Decimal(66653), Stamp(START_MS, "0xe2", 1, 2))
    assert {tuple(fill) for one in fills for fill in one["fills"] if "cloid" not in fill} == {tuple(made)}


@pytest.mark.parametrize(
    ("frame", "is_read"),
    [
        ('{"method":"ping"}', True), ("ping", False), ("[]", False), ("{}", False), ('{"method":"subscribe"}', False),
        ('{"method":"subscribe","subscription":{"type":"trades","coin":"BTC"}}', True),
        ('{"method":"subscribe","subscription":{"type":"noSuchType"}}', False),
        ('{"method":"subscribe","subscription":{"type":"userFills","user":"0x12"}}', False),
        (f'{{"method":"unsubscribe","subscription":{{"type":"userFills","user":"{ANN}"}}}}', True),
    ],
)  # fmt: skip
def test_what_can_be_understood(frame: str, is_read: bool):
    assert (read_order(frame) is not None) is is_read


# Limits


def test_limits_are_those_of_the_venue():
    config, clock = HyperliquidConfig(), Clock()
    one = Allowance(clock)
    assert [one.connect(config) for _ in range(11)] == [None] * 10 + ["connections"]
    for _ in range(20):
        one.disconnect()
        assert one.connect(config) is None
    one.disconnect()
    assert one.connect(config) == "new connections"
    clock.now += 61
    assert one.connect(config) is None
    assert [one.subscribe(f"0x{i}", config) for i in range(10)] == [None] * 10
    assert one.subscribe("0x10", config) == "Cannot track more than 10 total users."
    assert one.subscribe("0x3", config) is None
    one.unsubscribe("0x3")
    one.unsubscribe("0x3")
    assert one.subscribe("0x10", config) is None
    assert one.as_json()["refused"] == {"connections": 1, "new connections": 1, "users": 1}


def test_weight_is_that_of_the_last_minute_with_surcharges():
    config, clock = HyperliquidConfig(), Clock()
    one = Allowance(clock)
    assert [weigh(kind) for kind in ("clearinghouseState", "userRole", "meta", "userFills")] == [2, 60, 20, 20]
    assert weigh("userFillsByTime", 2000) == 120
    for _ in range(10):
        assert one.may_ask(config, 20)
        one.weight.add(120)
    assert not one.may_ask(config, 2)
    clock.now += 60
    assert one.may_ask(config, 1200)


# Rules


def test_rules_hit_their_socket_user_and_number():
    clock = Clock()
    rules = Rules(clock)
    rules.add("silent", {"for_s": 5}, [3])
    rules.add("drop", {"next": 2, "user": LOUD_ANN, "coin": "ETH"}, None)
    rules.add("rest_down", {"every": 2, "type": "meta"}, None)
    assert [rules.on("silent", line, ANN) is not None for line in (2, 3)] == [False, True]
    hits = [rules.take("drop", None, *about) for about in ((BEN, "ETH"), (ANN, "BTC"), (ANN, "ETH"), (ANN, "ETH"))]
    assert [hit is not None for hit in hits] == [False, False, True, True]
    assert rules.take("drop", None, ANN, "ETH") is None
    assert [rules.take_rest("rest_down", "meta", None) is not None for _ in range(4)] == [False, True, False, True]
    clock.now += 5
    assert rules.on("silent", 3, ANN) is None
    rules.clear()
    assert rules.calm()


def test_a_rule_about_one_socket_is_not_used_up_by_another():
    rules = Rules(Clock())
    rules.add("duplicate", {}, [1])
    assert rules.take("duplicate", None, ANN) is None
    assert rules.take("duplicate", 2, ANN) is None
    assert rules.take("duplicate", 1, ANN) is not None
    assert rules.take("duplicate", 1, ANN) is None


@pytest.mark.parametrize(("kind", "args"), [("lag", {}), ("drop", {"next": "x"}), ("silent", {"seconds": 5})])
def test_a_rule_that_makes_no_sense_is_refused(kind: str, args: dict[str, Any]):
    with pytest.raises(ValueError, match=kind):
        Rules(Clock()).add(kind, args, None)
