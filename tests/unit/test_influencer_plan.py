"""Accounts on sockets within the venue's limits, the arithmetic of a refusal, and the rotation of the polled."""

import re
from collections import Counter
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.clock import Clock
from common.errors import ConfigError
from common.weights import WeightBudget
from influencer_ingestor.events import Account
from influencer_ingestor.hyperliquid import fills_weight
from influencer_ingestor.intake import Intake
from influencer_ingestor.listener import Listeners
from influencer_ingestor.plan import Asking, Limits, check_polling, learn_users_max, make_plan
from influencer_ingestor.rotation import PollRotation
from influencer_ingestor.settings import InfluencerSettings


def accounts(count: int) -> list[Account]:
    """The first is the most important."""
    return [Account(f"0x{at:040x}", f"i{at}", priority=count - at) for at in range(count)]


def test_two_listeners_never_share_a_socket_and_the_load_is_even() -> None:
    plan = make_plan(accounts(10), Limits())
    assert len(plan.sockets) == 10 and plan.polled == ()
    assert all(one in (0, 1) and two in (2, 3) for one, two in plan.sockets.values())
    assert [len(plan.users_on(socket)) for socket in range(4)] == [5, 5, 5, 5]


def test_beyond_the_users_the_least_important_are_polled() -> None:
    everyone = accounts(13)
    plan = make_plan(reversed(everyone), Limits())
    assert plan.polled == tuple(each.address for each in everyone[10:])
    assert set(plan.sockets) == {each.address for each in everyone[:10]}


def test_a_disabled_account_is_nowhere() -> None:
    off = Account("0x" + "f" * 40, "off", priority=99, enabled=False)
    plan = make_plan([off, *accounts(1)], Limits())
    assert off.address not in plan.sockets and off.address not in plan.polled


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 3)), max_size=12))
def test_nobody_moves_who_can_stay(changes: list[tuple[int, int]]) -> None:
    limits = Limits(users_max=6, sockets_per_listener=2)
    present: dict[int, int] = {}
    plan = make_plan([], limits)
    for who, priority in changes:
        if present.pop(who, None) is None:
            present[who] = priority
        wanted = [Account(f"0x{at:040x}", "i", priority=rank) for at, rank in present.items()]
        before, plan = plan, make_plan(wanted, limits, plan)
        kept = before.sockets.keys() & plan.sockets.keys()
        assert all(before.sockets[user] == plan.sockets[user] for user in kept)
        assert len(plan.sockets) == min(6, len(present))
        assert len(plan.sockets) + len(plan.polled) == len(present)
        lowest = min((each.priority for each in wanted if each.address in plan.sockets), default=0)
        assert all(each.priority <= lowest for each in wanted if each.address in plan.polled)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(sockets_per_listener=6), "2 listeners x 6 sockets = 12 connections, above the limit of 10"),
        (Limits(connects_per_min=3), "2 listeners x 2 sockets = 4 new connections at start, above 3 a minute"),
        (Limits(users_max=501), "501 users x 1 feeds x 2 listeners = 1002 subscriptions, above 1000"),
        (Limits(sockets_per_listener=0), "at least 1"),
    ],
)
def test_a_plan_over_the_limits_is_refused_with_the_arithmetic(limits: Limits, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_plan(accounts(1), limits)


def test_too_many_polled_accounts_are_refused_with_the_arithmetic() -> None:
    check_polling(24, Limits())
    said = "35 accounts beyond the 10 users are polled: 35 x weight 25 = 875 a round, of 600 a minute (0.5 of 1200)"
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_plan(accounts(45), Limits())
    with pytest.raises(ConfigError):
        check_polling(1, Limits(poll_share=0))
    check_polling(0, Limits(poll_share=0))


def test_the_venues_own_error_teaches_the_limit() -> None:
    limits = Limits(users_max=20)
    assert learn_users_max(limits, told=15, asked=20).users_max == 15
    assert learn_users_max(limits, told=15, asked=12).users_max == 7, "it counts a user on two sockets twice"
    assert learn_users_max(limits, told=10, asked=4).users_max == 3, "somebody else on our address has users there"
    asked = 20
    for _ in range(40):
        asked = min(asked, learn_users_max(limits, told=10, asked=asked).users_max)
    assert asked == 0, "it comes to an end"


async def test_a_plan_made_before_the_limit_was_told_is_made_again() -> None:
    """Of two accounts added in a row the first one's refusal may come while the second one's plan is made."""
    settings = InfluencerSettings.model_validate({"ts_dsn": "postgresql://h/d", "rmq_url": "amqp://h/"})
    wanted: list[int] = []
    listeners = Listeners(settings, Clock(), {}, cast(Intake, None), lambda user: None, lambda: wanted.append(1))
    listeners.limits = learn_users_max(listeners.limits, 4, 5)
    listeners.plan = make_plan(accounts(6), Limits())
    listeners._planned.append((Clock().monotonic_s(), 6))
    listeners._refused(4)
    assert wanted and listeners.limits.users_max == 4
    listeners.plan = listeners.choose(accounts(6))
    assert len(listeners.plan.sockets) == 4 and len(listeners.plan.polled) == 2


def test_errors_that_name_nobody_are_counted_out() -> None:
    asking = Asking()
    for user in "abc":
        asking.ask("userFills", user)
    assert asking.acked("userFills", "b") and not asking.acked("userFills", "b")
    asking.failed()
    assert asking.refused() == [], "one is still unanswered: which of the two is not known"
    asking.failed()
    assert asking.refused() == [("userFills", "a"), ("userFills", "c")]
    assert asking.accepted == {("userFills", "b")} and asking.refused() == []
    assert not asking.acked("userFills", None)


def test_the_recorded_refusals_are_counted_out() -> None:
    """15 acknowledged, 25 errors, in any order among each other."""
    asking = Asking()
    users = [f"u{at}" for at in range(40)]
    for user in users:
        asking.ask("userFills", user)
    for user in users[:15]:
        asking.acked("userFills", user)
    for _ in range(25):
        assert asking.refused() == []
        asking.failed()
    assert [user for _, user in asking.refused()] == users[15:]


def test_the_important_are_asked_more_often_and_nobody_starves() -> None:
    rotation = PollRotation(every_min_ms=100)
    rotation.rank({"low": 0, "mid": 5, "high": 9})
    turns: Counter[str] = Counter()
    now = 0
    for _ in range(600):
        turn = rotation.next_turn(now)
        if turn is not None:
            turns[turn.user] += 1
            rotation.asked(turn.user, now, items=0)
        now += 100
    assert turns["high"] > turns["mid"] > turns["low"] > 50
    assert sum(turns.values()) == 600


@pytest.mark.parametrize("count", [2, 8, 12, 16, 24])
@pytest.mark.parametrize("items", [0, 100])
def test_nobody_waits_longer_than_the_accepted_plan_promises(count: int, items: int) -> None:
    limits = Limits()
    check_polling(count, limits)
    per_ms = limits.weight_per_min * limits.poll_share / 60_000
    turn_ms = fills_weight(limits.poll_items) / per_ms
    rotation = PollRotation(1_000, int(limits.poll_every_max_s * 1000), turn_ms)
    rotation.rank({f"u{at:02}": at for at in range(count)})
    now_ms, last_ms, longest_ms, turns = 0, dict[str, int](), Counter[str](), Counter[str]()
    while now_ms < 1_800_000:
        turn = rotation.next_turn(now_ms)
        if turn is None:
            now_ms += rotation.wait_ms(now_ms) or 1
            continue
        longest_ms[turn.user] = max(longest_ms[turn.user], now_ms - last_ms.get(turn.user, 0))
        turns[turn.user] += 1
        last_ms[turn.user] = now_ms
        rotation.asked(turn.user, now_ms, items)
        now_ms += int(fills_weight(items) / per_ms)
    assert len(turns) == count and max(longest_ms.values()) <= limits.poll_every_max_s * 1000
    if count <= 12:
        assert turns[f"u{count - 1:02}"] > 1.2 * turns["u00"], "the important are asked more often where there is room"


def test_turns_wait_for_their_pace_and_fit_the_budget() -> None:
    rotation = PollRotation(every_min_ms=1_000)
    assert rotation.wait_ms(0) is None and rotation.next_turn(0) is None
    rotation.rank({"a": 1, "b": 0})
    assert rotation.wait_ms(0) == 0 and rotation.age_ms("a", 0) is None
    first = rotation.next_turn(0)
    assert first is not None and (first.user, first.weight) == ("a", 20), "never asked: the important one first"
    rotation.asked("a", 0, items=45)
    second = rotation.next_turn(0)
    assert second is not None and second.user == "b"
    rotation.asked("b", 10, items=0)
    assert rotation.next_turn(500) is None and rotation.wait_ms(500) == 500
    again = rotation.next_turn(1_005)
    assert again is not None and (again.user, again.weight) == ("a", 22)
    rotation.rank({"b": 0})
    assert rotation.age_ms("a", 2_000) is None


def test_a_minute_of_polling_stays_within_the_weight() -> None:
    budget, rotation = WeightBudget(1_200, background_share=0.5), PollRotation()
    rotation.rank({str(at): at for at in range(24)})
    spent, now_ms = 0, 0
    while now_ms < 60_000:
        turn = rotation.next_turn(now_ms)
        if turn is not None and budget.wait_s(turn.weight, now_ms / 1000, background=True) == 0:
            budget.spend(turn.weight, now_ms / 1000)
            rotation.asked(turn.user, now_ms, items=100)
            spent += turn.weight
        now_ms += 50
    assert 500 < spent <= 600
