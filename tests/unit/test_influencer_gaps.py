"""Fills in any order: what goes, what waits, what is a gap, and where the position ends."""

import itertools
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.contracts import GapStatus
from common.numbers import parse_scaled
from influencer_ingestor.chain import Chain
from influencer_ingestor.events import SCALE, Fill
from influencer_ingestor.fills_order import follow, is_mirror, order_fills
from influencer_ingestor.gaps import TRY_AFTER_S, Gap, gap_row
from tests.unit.influencer_world import T0, USER, arrive, make_fill, release_all


def scaled(text: str) -> int:
    return parse_scaled(text, SCALE)


def steps(*deltas: str, start: str = "0", times: tuple[int, ...] | None = None, coin: str = "ETH") -> list[Fill]:
    """Fills that chain from `start`, one a millisecond unless `times` says else; each has a tid of its own."""
    fills: list[Fill] = []
    position = Decimal(start)
    for at, delta in enumerate(deltas):
        time_ms = T0 + (times[at] if times else at)
        fills.append(make_fill(f"{position:f}", delta, time_ms, coin, tid=at + 1))
        position += Decimal(delta)
    return fills


def fresh(position: str = "0", hold_ms: int = 250) -> Chain:
    chain = Chain(USER, "ETH", hold_ms)
    chain.restore(scaled(position), T0 - 1)
    return chain


def tids(released: list) -> list[int | None]:
    return [each.arrived.fill.tid for each in released]


# ---- order


def test_one_time_is_ordered_by_what_each_started_from() -> None:
    burst = steps("1", "2", "-1", "4", times=(0, 0, 0, 0))
    for shuffled in itertools.permutations(burst):
        assert order_fills(shuffled, 0) == burst
        assert order_fills(shuffled) == burst, "also where the position before is unknown"


def test_a_size_reached_twice_is_left_so_that_all_chain() -> None:
    burst = steps("1", "-1", "2", "-2", "-3", times=(0,) * 5)
    for shuffled in itertools.permutations(burst):
        assert follow(order_fills(shuffled, 0), 0) == scaled("-3")


def test_ties_go_by_the_feeds_order() -> None:
    burst = steps("1", "-1", "2", "-2", times=(0,) * 4)
    assert order_fills(burst, 0) == burst
    assert order_fills([burst[2], burst[3], burst[0], burst[1]], 0) == [*burst[2:], *burst[:2]]


def test_what_does_not_chain_comes_walk_by_walk() -> None:
    one, two = steps("1", "1", times=(0, 0)), steps("-1", "-1", start="9", times=(0, 0))
    assert order_fills([two[1], one[1], two[0], one[0]], 0) == [*one, *two]
    assert order_fills([two[1], one[1], two[0], one[0]], scaled("9")) == [*two, *one]


def test_a_trade_with_oneself_moves_nothing() -> None:
    sides = [make_fill("5", delta, tid=None, hash="0x1", oid=oid) for delta, oid in (("1", 1), ("-1", 2))]
    after = make_fill("5", "-2", tid=None, hash="0x2")
    assert is_mirror(*sides)
    for shuffled in itertools.permutations([*sides, after]):
        assert follow(order_fills(shuffled, scaled("5")), scaled("5")) == scaled("3")
    today = [make_fill("5", delta, hash="0x1") for delta in ("1", "-1")]
    assert not is_mirror(*today), "fills with a tid never are: two resting orders may look like it"
    chain = fresh("5")
    chain.restore(scaled("5"), T0 - 1)
    assert len(release_all(chain, [sides[0]], T0)) == 1
    assert len(release_all(chain, [sides[1], after], T0)) == 2
    assert chain.position == scaled("3") and not chain.wanted


# ---- gaps


def test_what_continues_goes_at_once() -> None:
    chain = fresh()
    burst = steps("1", "2", "-3", times=(0, 0, 4))
    assert tids(release_all(chain, reversed(burst), T0)) == [1, 2, 3]
    assert chain.position == 0 and chain.due_ms is None and not chain.wanted


def test_a_first_fill_of_an_unknown_position_tells_it() -> None:
    chain = Chain(USER, "ETH")
    assert tids(release_all(chain, steps("1", start="7"), T0)) == [1]
    assert chain.position == scaled("8") and not chain.wanted


def test_the_other_listener_brings_it_in_time() -> None:
    chain = fresh()
    first, second, third = steps("1", "1", "1")
    assert tids(release_all(chain, [first, third], T0 + 10)) == [1]
    (gap,) = chain.wanted
    assert (gap.from_ms, gap.to_ms, chain.due_ms) == (T0, T0 + 2, T0 + 260)
    assert chain.release(T0 + 259) == []
    assert tids(release_all(chain, [second], T0 + 259)) == [2, 3]
    assert gap.status is GapStatus.REPAIRED and chain.changed == [], "a reordering is nobody's gap"


def test_a_held_fill_goes_when_its_time_is_up_and_the_missing_one_comes_late() -> None:
    chain = fresh()
    first, second, third, fourth = steps("1", "1", "1", "1")
    release_all(chain, [first, third], T0 + 10)
    chain.add(arrive(fourth, T0 + 200))
    (moved, behind) = chain.release(T0 + 260)
    assert (moved.arrived.fill, behind.arrived.fill) == (third, fourth), "what follows it waits no longer"
    (gap,) = chain.changed
    assert gap.status is GapStatus.OPEN and gap_row(gap).missing == ((T0, T0 + 2),)
    assert gap_row(gap).reason == "start differs: 1 expected, 2 found"
    (late,) = release_all(chain, [second], T0 + 900)
    assert not late.moves and chain.position == scaled("4")
    row = gap_row(gap)
    assert (row.status, row.missing, row.restored_n) == (GapStatus.REPAIRED, (), 1)
    assert row.symbol == f"{USER}:ETH-PERP" and chain.gaps == []


def test_nobody_waits_behind_another_longer_than_his_own_time() -> None:
    chain = fresh()
    first, second, third, fourth, fifth = steps("1", "1", "1", "1", "1")
    release_all(chain, [first], T0)
    chain.add(arrive(fifth, T0 + 10))
    chain.release(T0 + 10)
    chain.add(arrive(third, T0 + 200))
    assert chain.release(T0 + 200) == []
    assert tids(chain.release(T0 + 260)) == [3, 5], "the newer one is due, so what lies before it goes too"
    assert tids(release_all(chain, [fourth], T0 + 300)) == [4]
    assert chain.changed[-1].status is GapStatus.OPEN
    assert tids(release_all(chain, [second], T0 + 300)) == [2]
    assert [gap.status for gap in chain.changed] == [GapStatus.REPAIRED] * 2 and not chain.gaps, (
        "one gap, written twice"
    )


def test_a_gap_that_the_venue_can_not_fill_is_given_up() -> None:
    chain = fresh()
    first, second, third = steps("1", "1", "1")
    release_all(chain, [first, third], T0)
    chain.release(T0 + 250)
    (gap,) = chain.wanted
    # Asked at once, and again after each of the waits.
    for _ in range(1 + len(TRY_AFTER_S)):
        assert gap.status is GapStatus.OPEN
        chain.note_try(gap)
    assert gap.status is GapStatus.SOURCE_MISSING and gap_row(gap).tries == 4 and not chain.gaps
    chain.note_try(gap)
    assert gap.tries == 4
    chain.changed.clear()
    (late,) = release_all(chain, [second], T0 + 99_000)
    assert not late.moves and chain.position == scaled("3")
    assert chain.changed == [gap] and gap_row(gap).status is GapStatus.REPAIRED, "it was there after all"


def test_a_late_fill_of_the_newest_time_fills_a_given_up_gap_and_moves_nothing() -> None:
    chain = fresh()
    first, second, third = steps("1", "1", "1", times=(0, 4, 4))
    release_all(chain, [first, third], T0 + 4)
    chain.release(T0 + 254)
    (gap,) = chain.wanted
    for _ in range(1 + len(TRY_AFTER_S)):
        chain.note_try(gap)
    release_all(chain, [second], T0 + 99_000)
    assert chain.position == scaled("3") and gap.status is GapStatus.REPAIRED and not chain.gaps


def test_what_follows_in_the_same_time_is_none_of_the_missing() -> None:
    chain = fresh()
    first, missing, shows, follows = steps("1", "1", "1", "1", times=(0, 50, 90, 90))
    release_all(chain, [first], T0)
    release_all(chain, [shows, follows], T0 + 100)
    chain.release(T0 + 350)
    (gap,) = chain.gaps
    assert gap.fills == []
    release_all(chain, [missing], T0 + 400)
    assert gap.status is GapStatus.REPAIRED and gap_row(gap).restored_n == 1


def test_a_gap_after_half_of_a_time_is_filled_and_recounted() -> None:
    """Killed between two commits of one time, and what follows is missed: the gap begins in the middle of a time."""

    def forced() -> tuple[Chain, list[Fill]]:
        chain = fresh()
        fills = steps("1", "1", "1", "1", "1", times=(0, 0, 50, 90, 90))
        release_all(chain, fills[:1], T0)
        release_all(chain, fills[3:], T0 + 100)
        chain.release(T0 + 350)
        return chain, fills

    chain, fills = forced()
    release_all(chain, fills[1:3], T0 + 400)
    assert not chain.gaps and chain.position == scaled("5")
    chain, fills = forced()
    (gap,) = chain.gaps
    chain.recount(gap, [*fills[:2], *fills[3:]])
    assert gap.status is GapStatus.OPEN
    chain.recount(gap, fills)
    assert gap.status is GapStatus.REPAIRED


def test_the_only_order_that_chains_goes_before_our_old_position() -> None:
    """Flat by what we know; the opening was missed, and the next time closes it and opens the other way."""
    chain = fresh()
    closes, opens = make_fill("5", "-5", T0 + 50, tid=2), make_fill("0", "-3", T0 + 50, tid=3)
    assert release_all(chain, [opens, closes], T0 + 60) == []
    assert tids(chain.release(T0 + 310)) == [2, 3]
    assert chain.position == scaled("-3")
    (gap,) = chain.gaps
    assert (gap.expected, gap.found) == (0, scaled("5"))
    chain.recount(gap, [closes, opens])
    assert gap.status is GapStatus.OPEN
    release_all(chain, [make_fill("0", "5", T0 + 20, tid=1)], T0 + 400)
    assert gap.status is GapStatus.REPAIRED and chain.position == scaled("-3")


def test_what_would_chain_without_a_missing_one_waits_for_it() -> None:
    """Of one time 0 -> -1, -1 -> 1, 1 -> -1 and -1 -> 0: without the third the rest chains, and ends elsewhere."""
    one, two, three, four = steps("-1", "2", "-2", "1", times=(0, 0, 0, 0))
    chain = fresh()
    for fill in (one, two):
        chain.add(arrive(fill, T0 + 10))
    chain.release(T0 + 10)
    chain.add(arrive(four, T0 + 11))
    assert chain.release(T0 + 11) == []
    assert [(g.expected, g.found) for g in chain.wanted] == [(scaled("1"), scaled("-1"))]
    chain.add(arrive(three, T0 + 60))
    assert tids(chain.release(T0 + 60)) == [three.tid, four.tid]
    assert chain.position == 0


def test_half_of_a_time_is_known_to_a_new_life() -> None:
    burst = steps("1", "-1", "2", "-2", "3", times=(0,) * 5)
    for killed_after in range(1, 5):
        chain = fresh()
        chain.restore(burst[killed_after - 1].end, T0, [], reversed(burst[:killed_after]))
        for at, fill in enumerate(reversed(burst[killed_after:])):
            release_all(chain, [fill], T0 + 500 * at)
        chain.release(T0 + 9_999)
        assert chain.position == scaled("3"), killed_after
        assert not chain.gaps


def test_two_gaps_of_one_millisecond_have_keys_of_their_own() -> None:
    chain = fresh()
    one, two, three = (make_fill(start, "1", T0) for start in ("5", "20", "40"))
    for each in (one, two, three):
        release_all(chain, [each], T0)
        chain.release(T0 + 250)
    assert len({gap_row(gap).from_id for gap in chain.changed}) == 3


def test_of_two_gaps_a_fill_goes_where_it_joins() -> None:
    chain = fresh()
    one, two, three, four, five = steps("1", "1", "1", "1", "1", times=(0, 2, 2, 2, 4))
    for each in (one, three, five):
        release_all(chain, [each], T0 + 10)
        chain.release(T0 + 260)
    first, second = chain.changed
    assert first.to_ms == second.from_ms == T0 + 2
    release_all(chain, [four], T0 + 300)
    assert [gap.status for gap in (first, second)] == [GapStatus.OPEN, GapStatus.REPAIRED]
    release_all(chain, [two], T0 + 300)
    assert first.status is GapStatus.REPAIRED and chain.position == scaled("5")


def test_a_baseline_shows_what_nobody_brought() -> None:
    chain = fresh("2")
    first, second = steps("1", "1", start="2")
    assert chain.state(scaled("2"), T0 - 1) is None
    gap = chain.state(scaled("4"), T0 + 50)
    assert gap is not None and chain.changed == [gap] and chain.position == scaled("4")
    assert chain.state(scaled("9"), T0 + 49) is None, "older than what we know"
    late = release_all(chain, [second, first], T0 + 60)
    assert [each.moves for each in late] == [False, False] and chain.position == scaled("4")
    assert gap.status is GapStatus.REPAIRED


def test_spot_is_never_a_gap() -> None:
    chain = Chain(USER, "PURR/USDC")
    chain.restore(scaled("100"), T0 - 1)
    fills = [make_fill("3", "1", T0 + at, "PURR/USDC") for at in (5, 3)]
    assert [each.moves for each in release_all(chain, fills[:1], T0)] == [True]
    assert [each.moves for each in release_all(chain, fills[1:], T0)] == [False]
    assert not chain.wanted and chain.position == scaled("4") and chain.state(0, T0 + 9) is None


def test_spot_fills_of_one_time_end_where_the_whole_ends() -> None:
    chain = Chain(USER, "@107")
    fills = steps("1", "1", "-3", "2", times=(0,) * 4, coin="@107")
    for shuffled in itertools.permutations(fills):
        chain = Chain(USER, "@107")
        for each in shuffled:
            assert [one.moves for one in release_all(chain, [each], T0)] == [True]
        assert chain.position == fills[-1].end


def test_a_restored_gap_goes_on() -> None:
    chain = fresh()
    first, second, third = steps("1", "1", "1")
    release_all(chain, [first, third], T0)
    chain.release(T0 + 250)
    again = Chain(USER, "ETH")
    again.restore(scaled("3"), T0 + 2, chain.gaps)
    assert [each.moves for each in release_all(again, [second], T0 + 900)] == [False]
    assert again.changed[-1].status is GapStatus.REPAIRED and again.position == scaled("3")


deltas = st.lists(st.integers(-3, 3).filter(bool), min_size=1, max_size=9)


@settings(max_examples=300)
@given(deltas, st.data())
def test_any_order_ends_where_the_account_stands(moves: list[int], data: st.DataObject) -> None:
    """Whatever the order and the pauses: every fill goes once, and once all came the position is the account's."""
    times = tuple(
        itertools.accumulate(data.draw(st.lists(st.integers(0, 1), min_size=len(moves), max_size=len(moves))))
    )
    fills = steps(*map(str, moves), times=times)
    arrivals = data.draw(st.permutations(fills))
    pauses = data.draw(st.lists(st.sampled_from((0, 10, 300)), min_size=len(moves), max_size=len(moves)))
    chain, now, released = fresh(), T0, []
    for fill, pause in zip(arrivals, pauses, strict=True):
        now += pause
        chain.add(arrive(fill, now))
        released += chain.release(now)
        assert chain.due_ms is None or chain.due_ms > now
    released += chain.release(now + 250)
    assert sorted(tids(released)) == sorted(fill.tid for fill in fills)
    assert chain.due_ms is None
    if len(set(times)) == len(times) or arrivals == fills:
        assert chain.position == fills[-1].end


@pytest.mark.parametrize("hold_ms", [0, 250])
def test_one_millisecond_in_any_order_ends_where_it_ends(hold_ms: int) -> None:
    """Also where a size is reached more than once, and every fill comes alone, in time or not."""
    burst = steps("1", "-1", "-1", "2", "3", times=(0,) * 5)
    for shuffled in itertools.permutations(burst):
        chain, released = fresh(hold_ms=hold_ms), []
        for at, fill in enumerate(shuffled):
            released += release_all(chain, [fill], T0 + at)
        released += chain.release(T0 + 999)
        assert sorted(tids(released)) == [1, 2, 3, 4, 5]
        assert chain.position == scaled("4"), tids(released)
        assert chain.gaps == []


def test_a_gap_is_recounted_among_what_surrounds_it() -> None:
    """Of a gap that an earlier life filled only the stored fills tell: also those that it begins and ends with."""
    before, missing, after = make_fill("6", "-6", T0), make_fill("0", "-2", T0 + 5), make_fill("-2", "-1", T0 + 9)

    def recounted(*stored: Fill) -> GapStatus:
        gap = Gap(USER, "ETH", T0, T0, T0 + 9, parse_scaled("0", SCALE), parse_scaled("-2", SCALE), "start differs")
        chain = Chain(USER, "ETH")
        chain.restore(after.end, T0 + 9, [gap])
        chain.recount(gap, list(stored))
        return gap.status

    assert recounted(before, missing, after) is GapStatus.REPAIRED
    assert recounted(missing, after) is recounted(missing) is GapStatus.REPAIRED
    assert recounted(before, after) is recounted() is GapStatus.OPEN
    elsewhere = make_fill("5", "-5", T0 + 3)
    assert recounted(before, elsewhere, missing, after) is GapStatus.OPEN, "how it came to 5 is not known"
    gap = Gap(USER, "ETH", T0, T0, T0, parse_scaled("-9", SCALE), 0, "start differs")
    chain = fresh("-4")
    chain.gaps = [gap]
    torn = [make_fill("-4", "-2"), make_fill("-6", "-3"), make_fill("0", "-4")]
    chain.recount(gap, torn[:1] + torn[2:] + [make_fill("-7", "-1")])
    assert gap.status is GapStatus.OPEN
    chain.recount(gap, torn)
    assert gap.status is GapStatus.REPAIRED, "killed in the middle of a time, then its beginning came"
