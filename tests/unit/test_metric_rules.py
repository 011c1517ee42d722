"""The metric ingestor's deciding code: windows, venue time, samples, perpetuals, turns, marks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.shards import Shard
from metric_ingestor.dirty import SPANS_MAX, Dirty
from metric_ingestor.perps import Perp, find_perp, interval_hours
from metric_ingestor.rotation import choose_asked, window_capacity
from metric_ingestor.samples import Fate, Field, Sample, Samples
from metric_ingestor.settings import MetricSettings
from metric_ingestor.venue_time import VenueTime
from metric_ingestor.windows import is_due, latest_ended, window_of, windows_touched

T = 1_700_000_040
"""A full minute: a window ends here."""
SOL, FUNDING = "SOLUSDT", Field.FUNDING


# ---- windows


def test_a_window_is_named_by_its_end() -> None:
    assert window_of(T) == T + 15
    assert window_of(T - 1) == T
    assert latest_ended(1000 * T) == T
    assert latest_ended(1000 * T - 1) == T - 15
    assert windows_touched(T - 0.5, T) == (T, T + 15)


def test_a_row_is_due_when_all_watermarks_passed_or_time_is_over() -> None:
    cursors, symbols = {"A": T, "B": T - 1}, ["A", "B"]
    assert not is_due(T, 1000 * T - 1, {"A": T, "B": T}, symbols, 1500)
    assert is_due(T, 1000 * T, {"A": T, "B": T}, symbols, 1500)
    assert not is_due(T, 1000 * T + 1499, cursors, symbols, 1500)
    assert is_due(T, 1000 * T + 1500, cursors, symbols, 1500)
    assert not is_due(T, 1000 * T + 1499, {"A": T}, symbols, 1500)


# ---- venue time


def test_time_is_carried_on_and_corrected() -> None:
    time = VenueTime(rate=10)
    assert not time.known
    assert time.observe(1_000_000, 5.0, 5.2)
    assert time.now_ms(6.1) == 1_010_000
    assert time.observe(1_011_000, 6.1, 6.1)
    assert time.now_ms(6.1) == 1_011_000


def test_a_jump_is_believed_after_three_that_agree() -> None:
    time = VenueTime()
    time.observe(1_000_000, 0, 0)
    assert not time.observe(1_060_000, 1, 1)
    assert not time.observe(1_160_000, 2, 2)
    assert time.now_ms(2) == 1_002_000
    assert not time.observe(1_161_000, 3, 3)
    assert time.observe(1_162_000, 4, 4)
    assert time.now_ms(4) == 1_162_000
    assert time.doubted_total == 4


def test_a_right_answer_in_between_does_not_help_wrong_ones() -> None:
    time = VenueTime()
    time.observe(1_000_000, 0, 0)
    for second in range(1, 20, 2):
        assert not time.observe(1_060_000 + 1000 * second, second, second)
        assert time.observe(1_001_000 + 1000 * second, second + 1, second + 1)


def test_a_server_behind_the_trades_is_wrong_and_trades_tell_time_until_it_answers() -> None:
    time = VenueTime()
    time.assume(1_000_000, 0)
    assert time.now_ms(1) == 1_001_000
    time.assume(1_000_500, 1)
    assert time.now_ms(1) == 1_001_000
    assert not time.observe(900_000, 1, 1, heard_ms=1_000_500)
    assert time.observe(1_030_000, 2, 2, heard_ms=1_000_500)
    time.assume(1_090_000, 2)
    assert time.now_ms(2) == 1_030_000


# ---- samples


def offer(samples: Samples, time_ms: int, window: int, value: float = 1.0, server_ms: int = 1000 * T + 60_000) -> Fate:
    return samples.offer(SOL, FUNDING, Sample(value, time_ms, "binance"), window, server_ms)


def test_an_older_sample_never_replaces_a_newer_one() -> None:
    samples = Samples()
    assert offer(samples, 1000 * T - 3000, T, 1.0) is Fate.KEPT
    assert offer(samples, 1000 * T - 9000, T, 2.0) is Fate.OLDER
    assert offer(samples, 1000 * T - 3000, T, 3.0) is Fate.REPEATED
    assert samples.read(SOL, FUNDING, T, ("binance",)) == Sample(1.0, 1000 * T - 3000, "binance")


def test_a_sample_from_the_future_is_dropped_and_is_no_answer() -> None:
    samples = Samples()
    assert offer(samples, 1000 * T - 20_000, T - 15) is Fate.KEPT
    assert offer(samples, 1000 * T + 5001, T, server_ms=1000 * T) is Fate.AHEAD
    assert samples.read(SOL, FUNDING, T, ("binance",)) is None
    assert offer(samples, 1000 * T + 5000, T, server_ms=1000 * T) is Fate.KEPT
    assert samples.counts[FUNDING, Fate.AHEAD] == 1


def test_a_window_without_an_answer_has_no_value() -> None:
    samples = Samples()
    offer(samples, 1000 * T - 3000, T)
    assert samples.read(SOL, FUNDING, T + 15, ("binance",)) is None
    assert samples.read("ETHUSDT", FUNDING, T, ("binance",)) is None


def test_a_row_does_not_see_what_comes_after_it() -> None:
    samples = Samples()
    offer(samples, 1000 * T - 3000, T, 1.0)
    offer(samples, 1000 * T + 1000, T + 15, 2.0)
    told = samples.read(SOL, FUNDING, T, ("binance",))
    assert told is not None
    assert told.value == 1.0


def test_older_than_two_windows_is_missing() -> None:
    samples = Samples()
    offer(samples, 1000 * T - 30_000, T)
    assert samples.read(SOL, FUNDING, T, ("binance",)) is None
    offer(samples, 1000 * T - 29_999, T)
    assert samples.read(SOL, FUNDING, T, ("binance",)) is not None


def test_the_first_source_that_answered_speaks() -> None:
    samples = Samples()
    samples.offer(SOL, FUNDING, Sample(2.0, 1000 * T - 1000, "okx", 4), T, 1000 * T)
    told = samples.read(SOL, FUNDING, T, ("binance", "okx"))
    assert told == Sample(2.0, 1000 * T - 1000, "okx", 4)
    offer(samples, 1000 * T - 500, T, 1.0)
    told = samples.read(SOL, FUNDING, T, ("binance", "okx"))
    assert told is not None
    assert told.source == "binance"


def test_time_is_monotonic_also_from_source_to_source() -> None:
    samples = Samples()
    offer(samples, 1000 * T - 2000, T)
    behind = Sample(2.0, 1000 * T - 9000, "okx", 4)
    assert samples.offer(SOL, FUNDING, behind, T + 15, 1000 * T) is Fate.OLDER
    assert samples.read(SOL, FUNDING, T + 15, ("binance", "okx")) is None
    ahead = Sample(3.0, 1000 * T + 9000, "okx", 4)
    assert samples.offer(SOL, FUNDING, ahead, T + 15, 1000 * T + 9000) is Fate.KEPT
    assert offer(samples, 1000 * T + 1000, T + 15) is Fate.OLDER
    assert samples.read(SOL, FUNDING, T + 15, ("binance", "okx")) == ahead


@given(st.lists(st.tuples(st.integers(-60_000, 30_000), st.integers(0, 3)), max_size=30))
def test_whatever_comes_a_row_bears_a_time_in_bounds_and_the_newest(offers: list[tuple[int, int]]) -> None:
    samples = Samples()
    for shift_ms, step in offers:
        offer(samples, 1000 * T + shift_ms, T + 15 * step, float(shift_ms))
    for step in range(4):
        window = T + 15 * step
        told = samples.read(SOL, FUNDING, window, ("binance",))
        if told is not None:
            assert 1000 * window - 30_000 < told.time_ms <= 1000 * window
            assert any(s == step for _, s in offers)
            assert told.value == told.time_ms - 1000 * T


# ---- settings


def test_a_share_that_can_not_carry_the_rates_is_refused() -> None:
    dsns: Any = {"ts_dsn": "postgresql://u:p@127.0.0.1:1/x", "rmq_url": "amqp://u:p@127.0.0.1:2/"}
    assert MetricSettings(**dsns, shard=Shard(1, 20)).weight_share() == 0.025
    for few in ({"shard": Shard(1, 21)}, {"futures_share": 0.02}):
        with pytest.raises(ValidationError, match="FUTURES_SHARE"):
            MetricSettings(**dsns, **few)


# ---- perpetuals


def test_perps_by_the_thousand() -> None:
    listed = {"BTCUSDT", "1000PEPEUSDT", "1000000MOGUSDT"}
    assert find_perp("BTCUSDT", listed) == Perp("BTCUSDT", 1)
    assert find_perp("PEPEUSDT", listed) == Perp("1000PEPEUSDT", 1000)
    assert find_perp("MOGUSDT", listed) == Perp("1000000MOGUSDT", 1_000_000)
    assert find_perp("LTCUSDT", listed) is None


def test_intervals() -> None:
    hour = 3_600_000
    assert interval_hours("A", {}, 0, 8 * hour) == 8
    assert interval_hours("A", {"A": 4}, hour, 4 * hour) == 4
    assert interval_hours("A", None, 0, hour) is None
    assert interval_hours("A", {"A": 1}, 0, 2 * hour) is None, "the next settlement says that the interval changed"
    eight = 8 * hour + 60_000
    assert interval_hours("A", {}, eight, 12 * hour) is None, "an interval of 8 h has no settlement at noon"
    assert interval_hours("A", {}, eight, 9 * hour) is None
    assert interval_hours("A", {"A": 4}, eight, 9 * hour) is None
    assert interval_hours("A", {"A": 4}, eight, 12 * hour) == 4


# ---- turns


def test_capacity_is_what_the_budget_leaves() -> None:
    assert window_capacity(1200, 60) == 285
    assert window_capacity(60, 60) == 0
    assert window_capacity(10, 60) == 0


@given(st.integers(0, 60), st.integers(0, 40), st.integers(0, 10_000))
def test_turns(count: int, capacity: int, turn: int) -> None:
    ranked = [f"S{i}" for i in range(count)]
    asked = choose_asked(ranked, capacity, turn)
    assert len(asked) == min(count, capacity)
    assert len(set(asked)) == len(asked)
    if 0 < capacity < count:
        seen = [set(choose_asked(ranked, capacity, turn + step)) for step in range(count)]
        assert set().union(*seen) == set(ranked), "everybody gets a turn"
        if capacity >= 2:
            assert all(ranked[0] in one for one in seen), "the most liquid is asked every time"


# ---- marks


@given(st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 400), st.integers(0, 40)), max_size=120))
def test_marked_windows_are_taken_once_each(marks: list[tuple[str, int, int]]) -> None:
    dirty = Dirty()
    wanted = set[tuple[str, int]]()
    for symbol, first, more in marks:
        dirty.mark(symbol, T + 15 * first, T + 15 * (first + more))
        wanted |= {(symbol, T + 15 * step) for step in range(first, first + more + 1)}
    taken = list[tuple[str, int]]()
    while part := dirty.take(7):
        assert len(part) <= 7
        taken += part
    assert len(taken) == len(set(taken))
    assert set(taken) >= wanted
    spans = {symbol: sum(1 for s, _, _ in marks if s == symbol) for symbol in "AB"}
    if max(spans.values()) <= SPANS_MAX:
        assert set(taken) == wanted
    assert len(dirty) == 0


def test_hours_of_marks_cost_nothing() -> None:
    dirty = Dirty()
    for step in range(10_000):
        dirty.mark("A", T + 30 * step, T + 30 * step)
    assert len(dirty) >= 10_000
    assert dirty.take(3) == [("A", T + 30 * 9_999), ("A", T + 30 * 9_998), ("A", T + 30 * 9_997)]


def test_a_long_past_of_one_keeps_no_other_waiting() -> None:
    dirty = Dirty()
    dirty.mark("A", T, T + 15_000)
    dirty.mark("B", T, T + 15)
    assert dirty.take(1) == [("A", T + 15_000)]
    assert dirty.take(1) == [("B", T + 15)]
    assert dirty.take(4) == [("A", T + 14_985), ("A", T + 14_970), ("B", T), ("A", T + 14_955)]


def test_late_windows_are_marked_when_their_watermark_passes() -> None:
    dirty = Dirty()
    dirty.wait("A", T)
    dirty.wait("A", T + 15)
    dirty.advance({"A": T - 1}, T + 45)
    assert dirty.take(10) == []
    dirty.advance({"A": T + 20}, T + 45)
    assert dirty.take(10) == [("A", T + 15), ("A", T)]
    dirty.advance({"A": T + 100}, T + 45)
    assert dirty.take(10) == [("A", T + 45), ("A", T + 30)]
    assert dirty.late_from == {}


def test_what_is_not_followed_is_forgotten() -> None:
    dirty = Dirty()
    dirty.mark("A", T, T)
    dirty.wait("A", T)
    dirty.forget({"A"})
    dirty.advance({"A": T + 100}, T)
    assert dirty.take(10) == []
