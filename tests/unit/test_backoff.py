"""Waits are jittered and bounded; tries are counted in a sliding window."""

import random

from hypothesis import given
from hypothesis import strategies as st

from common.backoff import AttemptBudget, full_jitter


@given(st.integers(-1, 10_000), st.integers(0, 2**32))
def test_a_wait_never_leaves_its_bounds(attempt: int, seed: int) -> None:
    wait = full_jitter(attempt, 0.25, 30, random.Random(seed))
    assert 0 <= wait <= min(30, 0.25 * 2 ** min(max(attempt, 0), 20))


def test_waits_spread_over_the_whole_range_and_grow() -> None:
    rng = random.Random(1)
    means = [sum(full_jitter(a, 0.25, 30, rng) for _ in range(500)) / 500 for a in range(9)]
    assert means == sorted(means)
    late = [full_jitter(20, 0.25, 30, rng) for _ in range(500)]
    assert min(late) < 3 and max(late) > 27


def test_the_budget_counts_a_sliding_window() -> None:
    budget = AttemptBudget(attempts_max=3, window_s=10)
    for now in (0.0, 4.0, 5.0):
        assert budget.wait_s(now) == 0
        budget.take(now)
    assert budget.wait_s(5.0) == 5.0
    assert budget.wait_s(10.0) == 0
    budget.take(10.0)
    assert budget.wait_s(10.0) == 4.0


@given(st.lists(st.floats(0, 5), max_size=60))
def test_no_window_holds_more_than_allowed(waits: list[float]) -> None:
    budget, now, taken = AttemptBudget(attempts_max=4, window_s=7), 0.0, []
    for wait in waits:
        now += max(wait, budget.wait_s(now))
        budget.take(now)
        taken.append(now)
    # Sums of floats round: a try may come a hair early.
    assert all(b - a >= 7 - 1e-9 for a, b in zip(taken, taken[4:], strict=False))
