"""The sandbox's rules: control frames, request weight, faults on the way of a trade, frame bytes."""

from __future__ import annotations

import json

import pytest

from sandbox.control import Complaint, Order, read_control
from sandbox.frames import TEXT, agg_trade_data, combined, pack, single_trades_data
from sandbox.trades import Trade
from sandbox.troubles import Troubles
from sandbox.weights import Budget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def trade(number: int) -> Trade:
    return Trade(number, 10**8, 10**8, number, number, number, False)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("{", Complaint(3, "Invalid JSON: expected value at line 1 column 1")),
        ('{"method":"SUBSCRIBE","params":["a"],"id":1.5}', 2),
        ('{"method":"SUBSCRIBE","params":["a"],"id":"' + "x" * 37 + '"}', 2),
        ('{"method":"SUBSCRIBE","params":[],"id":1}', 2),
        ('{"method":"SUBSCRIBE","params":"a","id":1}', 2),
        ('{"method":"JOIN","params":["a"],"id":1}', 2),
        ('{"params":["a"],"id":1}', 2),
        ('{"method":"GET_PROPERTY","params":["other"],"id":1}', 0),
        ('{"method":"SET_PROPERTY","params":["combined",1],"id":1}', 1),
        ('{"method":"SUBSCRIBE","params":["a@aggTrade"],"id":null}', Order("SUBSCRIBE", ["a@aggTrade"], None)),
        ('{"method":"LIST_SUBSCRIPTIONS","id":"q1"}', Order("LIST_SUBSCRIPTIONS", [], "q1")),
    ],
)
def test_control_frames(text: str, answer: object):
    read = read_control(text)
    assert (read.code if isinstance(answer, int) and isinstance(read, Complaint) else read) == answer


def test_complaint_shape():
    assert json.loads(Complaint(2, "no", 7).as_text()) == {"code": 2, "msg": "no", "id": 7}
    assert json.loads(Complaint(3, "no").as_text()) == {"code": 3, "msg": "no"}


def test_weight_by_the_minute():
    clock = Clock()
    budget = Budget(10, ban_after=2, ban_s=120, clock=clock)
    assert [budget.charge(4)[0] for _ in range(3)] == [200, 200, 429]
    clock.now = 45.0
    assert budget.charge(4) == (429, 15.0)
    assert budget.charge(2)[0] == 200 and budget.used == 10
    clock.now = 60.0
    assert budget.charge(4)[0] == 200 and (budget.used, budget.used_max) == (4, 10)


def test_ban_for_those_who_do_not_listen():
    clock = Clock()
    budget = Budget(1, ban_after=2, ban_s=120, clock=clock)
    assert [budget.charge(1)[0] for _ in range(4)] == [200, 429, 429, 418]
    clock.now = 60.0
    assert budget.charge(1) == (418, 60.0)
    clock.now = 120.0
    assert budget.charge(1)[0] == 200


def armed(clock: Clock | None = None) -> Troubles:
    troubles = Troubles(clock or Clock())
    troubles.calm = False
    return troubles


def sent(troubles: Troubles, ids: range) -> list[int]:
    return [t.id for number in ids for t in troubles.route("A", trade(number))]


def test_drop_duplicate_reorder():
    troubles = armed()
    troubles.next["drop"]["A"] = 2
    assert sent(troubles, range(1, 5)) == [3, 4]
    troubles.next["duplicate"]["*"] = 1
    assert sent(troubles, range(1, 4)) == [1, 1, 2, 3]
    troubles.next["reorder"]["A"] = 2
    assert sent(troubles, range(1, 6)) == [2, 1, 4, 3, 5]
    troubles.next["reorder"]["A"], troubles.reorder_behind = 1, 3
    assert sent(troubles, range(1, 6)) == [2, 3, 4, 1, 5]
    troubles.drop_ids.add("A", 2, 3)
    assert sent(troubles, range(1, 6)) == [1, 4, 5]
    troubles.clear()
    assert sent(troubles, range(1, 6)) == [1, 2, 3, 4, 5]
    assert dict(troubles.done) == {"drop": 2, "duplicate": 1, "reorder": 3}


def test_delay_and_stall_of_a_symbol():
    clock = Clock()
    troubles = armed(clock)
    troubles.delay_s["A"] = 5.0
    troubles.start("delay A", 2.0)
    assert sent(troubles, range(1, 3)) == [] and troubles.released() == []
    clock.now = 3.0
    assert sent(troubles, range(3, 4)) == [3]
    clock.now = 5.0
    assert [t.id for _, t in troubles.released()] == [1, 2]
    troubles.start("stall_symbol A", 4.0)
    assert sent(troubles, range(4, 6)) == []
    assert [t.id for t in troubles.route("B", trade(1))] == [1]
    clock.now = 9.0
    assert [t.id for _, t in troubles.released()] == [4, 5]


def test_frame_text_is_the_venues():
    one = Trade(15683430, 35_280_000, 5_800_000_000, 19862790, 19862792, 1633998523963, False)
    assert combined("nknusdt@aggTrade", agg_trade_data("NKNUSDT", one, 1633998523964)) == (
        '{"stream":"nknusdt@aggTrade","data":{"e":"aggTrade","E":1633998523964,"s":"NKNUSDT","a":15683430,'
        '"p":"0.35280000","q":"58.00000000","f":19862790,"l":19862792,"T":1633998523963,"m":false,"M":true}}'
    )
    singles = [json.loads(text) for text in single_trades_data("NKNUSDT", one, 1)]
    assert [row["t"] for row in singles] == [19862790, 19862791, 19862792]
    assert [row["q"] for row in singles] == ["19.33333333", "19.33333333", "19.33333334"]


@pytest.mark.parametrize(
    ("size", "head"), [(125, b"\x81\x7d"), (126, b"\x81\x7e\x00\x7e"), (65535, b"\x81\x7e\xff\xff")]
)
def test_frame_heads(size: int, head: bytes):
    assert pack(b"x" * size, TEXT) == head + b"x" * size
    assert pack(b"x" * 65536)[:10] == b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"
