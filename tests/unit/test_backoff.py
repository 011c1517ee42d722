"""Waits are jittered and bounded; tries are counted in a sliding window."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.backoff import AttemptBudget, full_jitter, parse_retry_after


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
    assert [budget.reserve(now) for now in (0.0, 4.0, 5.0)] == [0, 0, 0]
    assert budget.reserve(5.0) == 5.0
    assert budget.reserve(5.0) == 9.0
    assert budget.reserve(20.0) == 0


@given(st.lists(st.floats(0, 5), max_size=60))
def test_no_window_holds_more_than_allowed(pauses: list[float]) -> None:
    budget, now, tries = AttemptBudget(attempts_max=4, window_s=7), 0.0, []
    for pause in pauses:
        now += pause
        tries.append(now + budget.reserve(now))
    assert all(b >= a - 1e-9 for a, b in pairwise(tries))
    # Sums of floats round: a try may come a hair early.
    assert all(b - a >= 7 - 1e-9 for a, b in zip(tries, tries[4:], strict=False))


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (None, None),
        ("0", 1.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Wed, 01 Jan 2025 00:01:30 GMT", 90.0),
        ("Tue, 31 Dec 2024 00:00:00 GMT", 1.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("9" * 5000, 999999999.0),
    ],
    ids=lambda value: str(value)[:20],
)
def test_retry_after_in_seconds_or_as_a_date(value: str | None, wait_s: float | None) -> None:
    assert parse_retry_after(value, wall_ms=1735689600000) == wait_s
