"""Two listeners and one bounded queue: who is first, who lags, who leaves when it is full."""

import msgspec
import pytest

from influencer_ingestor.dedup import Dedup, FirstSeen
from influencer_ingestor.events import Arrived, Fill, Source
from influencer_ingestor.fan_in import FanIn, Offer, Pair, PairLimits
from tests.unit.influencer_world import T0, USER, arrive, make_fill

OTHER = "0x00000000000000000000000000000000000000bb"


def fills(count: int, user: str = USER) -> list[Fill]:
    return [msgspec.structs.replace(make_fill("0", "1", T0 + at, tid=at + 1), user=user) for at in range(count)]


def make_fan_in(capacity: int = 3, **priorities: int) -> FanIn:
    fan_in = FanIn(capacity, Dedup())
    fan_in.rank({USER: priorities.get("user", 1), OTHER: priorities.get("other", 0)})
    return fan_in


def test_the_first_counts_and_the_second_is_a_copy() -> None:
    fan_in = make_fan_in()
    (fill,) = fills(1)
    assert fan_in.offer(arrive(fill, T0 + 5, 1)) == (Offer.NEW, None)
    assert fan_in.offer(arrive(fill, T0 + 9, 0)) == (Offer.COPY, FirstSeen(1, T0 + 5))
    assert fan_in.offer(Arrived(fill, T0 + 99, Source.REPAIR))[0] is Offer.COPY
    assert [each.listener for each in fan_in.take(9)] == [1]
    assert fan_in.offer(arrive(fill))[0] is Offer.COPY, "also after it was taken"


def test_buyer_and_seller_share_a_tid_and_are_two() -> None:
    fan_in = make_fan_in()
    assert fan_in.offer(arrive(fills(1)[0]))[0] is fan_in.offer(arrive(fills(1, OTHER)[0]))[0] is Offer.NEW


def test_a_full_queue_sends_the_least_important_account_to_the_info_endpoint() -> None:
    fan_in = make_fan_in()
    mine, theirs = fills(4), fills(4, OTHER)
    for each in (theirs[0], mine[0], theirs[1], mine[1]):
        assert fan_in.offer(arrive(each))[0] is Offer.NEW
    assert fan_in.readmit() is None, "not before half of it is free"
    assert fan_in.shed == {OTHER} and [each.fill for each in fan_in.take(9)] == mine[:2]
    assert fan_in.offer(arrive(theirs[2]))[0] is Offer.POLLED
    brought = [fan_in.offer(Arrived(each, T0, Source.REPAIR))[0] for each in theirs]
    assert brought == [Offer.NEW] + [Offer.FULL] * 3, "what left the queue is taken again, into half of it at most"
    assert fan_in.readmit() == OTHER and not fan_in.shed
    assert [each.fill for each in fan_in.take(2)] == theirs[:1]
    assert fan_in.offer(Arrived(theirs[1], T0, Source.REPAIR))[0] is Offer.NEW
    assert fan_in.counts[Offer.POLLED] == 1


def test_who_is_least_important_himself_goes_himself() -> None:
    fan_in = make_fan_in()
    for each in fills(3):
        fan_in.offer(arrive(each))
    late = fills(1, OTHER)[0]
    assert fan_in.offer(arrive(late))[0] is Offer.POLLED
    assert fan_in.shed == {OTHER} and len(fan_in) == 3
    fan_in.take(3)
    assert fan_in.offer(Arrived(late, T0, Source.REPAIR))[0] is Offer.NEW, "it was not booked as seen"


def test_among_equals_who_waits_with_the_most() -> None:
    fan_in = make_fan_in(user=1, other=1)
    for each in (*fills(2), fills(1, OTHER)[0]):
        fan_in.offer(arrive(each))
    fan_in.offer(arrive(fills(2, OTHER)[1]))
    assert fan_in.shed == {USER} and {each.fill.user for each in fan_in.take(9)} == {OTHER}


def test_what_could_not_be_written_keeps_its_place() -> None:
    fan_in = make_fan_in()
    mine = fills(3)
    for each in mine:
        fan_in.offer(arrive(each))
    fan_in.give_back(fan_in.take(2))
    assert [each.fill for each in fan_in.take(9)] == mine


def test_an_account_that_is_no_longer_watched_leaves() -> None:
    fan_in = make_fan_in()
    fan_in.offer(arrive(fills(1)[0]))
    fan_in.rank({OTHER: 0})
    assert len(fan_in) == 0
    fan_in.rank({USER: 0})
    assert fan_in.offer(arrive(fills(1)[0]))[0] is Offer.NEW, "watched again, it begins anew"
    fan_in.take(1)
    fan_in.rank({OTHER: 0})
    fan_in.rank({USER: 0})
    assert fan_in.offer(arrive(fills(1)[0]))[0] is Offer.NEW, "nothing is remembered of who left, waiting or not"


def test_an_account_that_is_taken_anew_begins_anew() -> None:
    fan_in = make_fan_in(capacity=9)
    taken, waiting = fills(2)
    theirs = fills(1, OTHER)[0]
    for each in (taken, waiting, theirs):
        fan_in.offer(arrive(each))
    fan_in.take(1)
    fan_in.leave(USER)
    assert len(fan_in) == 1 and fan_in.offer(arrive(theirs))[0] is Offer.COPY
    assert [fan_in.offer(arrive(each))[0] for each in (taken, waiting)] == [Offer.NEW] * 2


def test_the_filter_forgets_the_oldest_and_loads_the_stored() -> None:
    dedup = Dedup(keys_max=2)
    one, two, three = fills(3)
    assert [dedup.see(arrive(each)) for each in (one, two, three)] == [None] * 3
    assert dedup.see(arrive(three)) and dedup.see(arrive(two)) and dedup.see(arrive(one)) is None
    stored = Dedup(keys_max=2)
    stored.load(USER, [each.event_id for each in (one, two, three)])
    assert stored.see(arrive(two)) == FirstSeen(None, 0) and stored.see(arrive(one)) is None


# ---- the pair


def hear(pair: Pair, fill: Fill, first: int, behind_ms: int | None) -> None:
    """One fill over listener `first`, and so much later over the other (None: never)."""
    pair.first(arrive(fill, fill.time_ms, first))
    if behind_ms is not None:
        pair.copied(arrive(fill, fill.time_ms + behind_ms, 1 - first), FirstSeen(first, fill.time_ms))


@pytest.fixture
def pair() -> Pair:
    pair = Pair(PairLimits(skew_max_ms=200, probes_min=3, copy_wait_ms=2_000, misses_max=3))
    pair.connect(0, True)
    pair.connect(1, True)
    return pair


def test_a_lagging_primary_hands_over_after_several_probes(pair: Pair) -> None:
    for at, fill in enumerate(fills(30)):
        hear(pair, fill, first=1, behind_ms=600)
        rotation = pair.probe(fill.time_ms)
        if rotation is not None:
            assert (rotation.primary, rotation.reason) == (1, "lags behind") and at >= 3
            break
    assert pair.primary == 1 and pair.rotations == 1
    assert pair.ears[0].skew_ms > 200 and pair.ears[1].skew_ms == 0
    assert pair.ears[0].lag_ms > 200 and pair.ears[0].last_ms is not None


def test_jitter_rotates_nothing(pair: Pair) -> None:
    for at, fill in enumerate(fills(60)):
        hear(pair, fill, first=at % 2, behind_ms=150)
        assert pair.probe(fill.time_ms) is None


def test_a_lost_primary_hands_over_at_once_and_a_lost_second_changes_nothing(pair: Pair) -> None:
    pair.connect(1, False)
    assert pair.probe(T0) is None
    pair.connect(1, True)
    pair.connect(0, False)
    rotation = pair.probe(T0)
    assert rotation is not None and (rotation.primary, rotation.reason) == (1, "gone")
    pair.connect(1, False)
    assert pair.probe(T0) is None, "there is nobody to hand over to"


def test_who_hears_nothing_is_deaf_although_connected(pair: Pair) -> None:
    for fill in fills(3):
        hear(pair, fill, first=1, behind_ms=None)
    assert pair.probe(T0 + 1_000) is None and pair.deaf() == []
    rotation = pair.probe(T0 + 2_010)
    assert rotation is not None and rotation.reason == "missed fills"
    assert pair.deaf() == [0] and pair.ears[0].missed_n == 3
    pair.connect(0, False)
    pair.connect(0, True)
    assert pair.deaf() == [] and pair.ears[0].missed_n == 3


def test_a_listener_that_was_away_misses_nothing(pair: Pair) -> None:
    pair.connect(0, False)
    for fill in fills(5):
        hear(pair, fill, first=1, behind_ms=None)
    pair.probe(T0 + 9_000)
    assert pair.ears[0].missed_n == 0


def test_misses_count_only_in_a_row_and_only_while_both_listen(pair: Pair) -> None:
    one, two, three, four, five = fills(5)
    for fill in (one, two):
        hear(pair, fill, first=1, behind_ms=None)
    pair.probe(T0 + 3_000)
    hear(pair, three, first=1, behind_ms=10)
    hear(pair, four, first=1, behind_ms=None)
    pair.probe(T0 + 9_000)
    assert pair.ears[0].misses == 1 and pair.ears[0].missed_n == 3
    hear(pair, five, first=1, behind_ms=None)
    pair.connect(0, False)
    pair.connect(0, True)
    pair.probe(T0 + 19_000)
    assert pair.ears[0].missed_n == 3, "its connection was lost meanwhile: the snapshot brings it"


def test_the_info_endpoint_is_no_listener(pair: Pair) -> None:
    (fill,) = fills(1)
    pair.first(Arrived(fill, T0, Source.REPAIR))
    pair.copied(arrive(fill, T0 + 5_000, 0), FirstSeen(None, T0))
    pair.probe(T0 + 9_000)
    assert [ear.missed_n for ear in pair.ears] == [0, 0] and pair.ears[0].skew_ms == 0
