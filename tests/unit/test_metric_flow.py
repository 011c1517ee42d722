"""When a window's signed volume is known, and what it is; its message."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.contracts import MetricRow, metric_message
from metric_ingestor.cvd import UNKNOWN, Evidence, Flow, judge_flow

T = 1_700_000_040
LIVE = Evidence("SOLUSDT", T + 15, "1.25", "binance", "binance", 4, cursor_s=T + 15)
"""The minute is still open."""
CLOSED = replace(
    LIVE, cursor_s=T + 60, minute_n=7, minute_source_min="binance", minute_source_max="binance", bar_source="binance",
    bar_grade=4, bar_n=7,
)  # fmt: skip
QUIET = replace(LIVE, net="", source_min=None, source_max=None, grade_min=None)
OKX = Evidence(
    "SOLUSDT", T + 15, "-2", "okx", "okx", 3, cursor_s=T, touched=True, minute_touched=True, minute_n=9,
    minute_source_min="okx", minute_source_max="okx", bar_source="okx", bar_grade=3, bar_n=9,
)  # fmt: skip


def test_a_covered_window_is_its_sum() -> None:
    assert judge_flow(LIVE) == Flow(1.25, "binance")
    assert judge_flow(CLOSED) == Flow(1.25, "binance")


def test_a_quiet_window_is_zero() -> None:
    assert judge_flow(QUIET) == Flow(0.0, "binance")
    bar = replace(QUIET, cursor_s=T + 60, bar_source="binance", bar_grade=4, bar_n=0)
    assert judge_flow(bar) == Flow(0.0, "binance")


@pytest.mark.parametrize(
    "changes",
    [
        {"cursor_s": T + 14},
        {"touched": True},
        {"grade_min": 2},
        {"source_max": "okx"},
        {"source_min": "a", "source_max": "a"},
    ],
)
def test_what_is_not_proven_is_unknown(changes: dict[str, Any]) -> None:
    assert judge_flow(replace(LIVE, **changes)) == UNKNOWN


def test_bars_without_seconds_are_history_not_silence() -> None:
    history = replace(QUIET, cursor_s=T + 600, bar_source="binance", bar_grade=4, bar_n=7)
    assert judge_flow(history) == UNKNOWN
    assert judge_flow(replace(history, bar_n=None, bar_source=None)) == UNKNOWN
    assert judge_flow(replace(CLOSED, bar_n=8)) == UNKNOWN


def test_a_gap_elsewhere_in_the_minute_leaves_the_window_alone() -> None:
    assert judge_flow(replace(CLOSED, minute_touched=True, bar_n=80)) == Flow(1.25, "binance")


def test_the_fallback_counts_in_whole_minutes() -> None:
    assert judge_flow(OKX) == Flow(-2.0, "okx")
    assert judge_flow(replace(OKX, net="", source_min=None, source_max=None, grade_min=None)) == Flow(0.0, "okx")
    for changes in (
        {"bar_n": None}, {"bar_n": 10}, {"bar_grade": 1}, {"minute_source_min": "binance"}, {"grade_min": 1},
        {"bar_source": "binance"},
    ):  # fmt: skip
        assert judge_flow(replace(OKX, **changes)) == UNKNOWN, changes


@given(st.lists(st.decimals(-(10**9), 10**9, places=8, allow_nan=False, allow_infinity=False), min_size=1))
def test_the_sum_is_rounded_once(parts: list[Decimal]) -> None:
    net = sum(parts, Decimal(0))
    assert judge_flow(replace(LIVE, net=format(net, "f"))).value == float(net)


def body(row: MetricRow, rev: int = 1) -> dict[str, Any]:
    return json.loads(metric_message(row, rev).body, parse_float=str)


def test_a_message_says_null_and_writes_shortest_digits() -> None:
    message = metric_message(MetricRow(T, "SOLUSDT"), 3, headers="{}")
    assert message.key == "metric_updates.SOLUSDT.15s"
    assert message.message_id == "metric_updates.SOLUSDT.15s@2023-11-14T22:14:00Z#3"
    assert message.headers == "{}"
    told = json.loads(message.body)
    assert list(told)[:5] == ["time", "symbol", "funding", "open_interest", "cvd_delta"]
    assert {told[name] for name in list(told)[2:-1]} == {None}
    assert told["rev"] == 3
    full = MetricRow(T, "SOLUSDT", 1e-08, 84210.123, -0.1, 8, "binance", "binance", "okx", 1000 * T + 5, 1000 * T)
    told = body(full)
    assert (told["funding"], told["open_interest"], told["cvd_delta"]) == ("0.00000001", "84210.123", "-0.1")
    assert (told["funding_time"], told["oi_time"]) == ("2023-11-14T22:14:00.005Z", "2023-11-14T22:14:00Z")
    assert body(MetricRow(T, "SOLUSDT", cvd_delta=0.0))["cvd_delta"] == 0


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_message_means_the_very_double(value: float) -> None:
    text = metric_message(MetricRow(T, "SOLUSDT", cvd_delta=value), 1).body.decode()
    assert float(json.loads(text)["cvd_delta"]) == value
    assert "e" not in text.partition('"cvd_delta":')[2].partition(",")[0]
