"""The weight budget: never more than our share in any minute, background yields, a refusal stops everybody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.weights import WeightBudget


def test_a_share_of_the_limit_and_a_sliding_minute() -> None:
    budget = WeightBudget(limit=100, share=0.5)
    assert budget.limit == 50
    budget.spend(30, 0.0)
    budget.spend(20, 10.0)
    assert budget.used(10.0) == 50
    assert budget.wait_s(1, 10.0) == 50.0
    assert budget.wait_s(31, 10.0) == 60.0
    assert budget.wait_s(30, 60.0) == 0
    assert budget.used(60.0) == 20


def test_background_calls_leave_half_to_live_ones() -> None:
    budget = WeightBudget(limit=100, background_share=0.5)
    budget.spend(48, 0.0)
    assert budget.wait_s(2, 1.0, background=True) == 0
    assert budget.wait_s(4, 1.0, background=True) == 59.0
    assert budget.wait_s(52, 1.0) == 0


def test_a_call_heavier_than_the_share_goes_alone() -> None:
    budget = WeightBudget(limit=10)
    assert budget.wait_s(20, 0.0) == 0
    budget.spend(1, 0.0)
    assert budget.wait_s(20, 1.0) == 59.0


def test_a_pool_beside_the_venues_count_does_not_wait_for_it() -> None:
    """Binance's funding calls: their answers carry the weight of everything else on the address."""
    pool = WeightBudget(limit=500, window_s=300.0, counted_by_venue=False)
    pool.spend(1, 0.0)
    pool.observe(2_000, 0.0)
    assert pool.wait_s(1, 0.0) == 0 and (pool.calls_total, pool.weight_total) == (1, 1)


def test_what_others_on_the_address_use_counts_against_the_whole_limit() -> None:
    budget = WeightBudget(limit=100, share=0.5)
    budget.spend(10, 0.0)
    budget.observe(95, 0.0)
    assert budget.wait_s(5, 0.0) == 0
    assert budget.wait_s(6, 0.0) == 60.0
    budget.observe(10, 30.0)
    assert budget.wait_s(40, 30.0) == 0


def test_an_open_circuit_stops_every_call_and_never_shrinks() -> None:
    budget = WeightBudget()
    budget.open_circuit(100.0)
    budget.open_circuit(50.0)
    assert budget.wait_s(1, 40.0) == 60.0 == budget.blocked_s(40.0)
    assert budget.wait_s(1, 100.0) == 0 == budget.blocked_s(100.0)


@pytest.mark.parametrize("bad", [{"share": 0.0}, {"share": 1.5}, {"background_share": 0.0}, {"limit": 0}])
def test_nonsense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="share"):
        WeightBudget(**bad)  # type: ignore[arg-type]


calls = st.lists(st.tuples(st.integers(1, 40), st.floats(0, 20), st.booleans()), max_size=60)


@given(calls)
def test_no_minute_holds_more_than_the_share_and_every_call_gets_through(calls: list[tuple[int, float, bool]]) -> None:
    budget, now, spent = WeightBudget(limit=100, share=0.6), 0.0, []
    for weight, pause, background in calls:
        now += pause
        waited = 0
        while (wait := budget.wait_s(weight, now, background)) > 0:
            now += wait
            waited += 1
            assert waited < 5
        budget.spend(weight, now)
        spent.append((now, weight))
    for at, _ in spent:
        window = [w for t, w in spent if at - 60 + 1e-6 < t <= at]
        assert sum(window) <= 60 or len(window) == 1
