import logging

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import DuplicateTimeseries

from common.health import Health, check_age
from common.metrics import make_counter, make_histogram, new_registry, watch_counter, watch_gauge, watch_health


def samples(registry) -> dict[tuple[str, tuple], float]:
    assert list(parse_openmetrics(generate_openmetrics(registry).decode()))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def test_values_are_read_at_scrape_time():
    registry, depths, lost = new_registry(), {"live": 1, "repair": 2}, [5]
    watch_gauge(registry, "trading_bus_outbox_messages", "Waiting.", lambda: depths, ("lane",))
    watch_gauge(registry, "trading_bus_gaps_open", "By pair.", lambda: {("binance", "BTCUSDT"): 3}, ("venue", "symbol"))
    watch_counter(registry, "trading_bus_frames_lost_total", "Lost.", lambda: lost[0])
    watch_gauge(registry, "trading_bus_data_age_seconds", "Unknown yet.", lambda: None)
    depths["live"], lost[0] = 7, 6
    shown = samples(registry)
    assert shown["trading_bus_outbox_messages", (("lane", "live"),)] == 7
    assert shown["trading_bus_gaps_open", (("symbol", "BTCUSDT"), ("venue", "binance"))] == 3
    assert shown["trading_bus_frames_lost_total", ()] == 6
    assert ("trading_bus_data_age_seconds", ()) not in shown


def test_counters_histograms_and_process_metrics():
    registry = new_registry()
    make_counter(registry, "trading_bus_frames_total", "Frames.", ("venue",)).labels("binance").inc(2)
    make_histogram(registry, "trading_bus_commit_seconds", "Commits.", (0.01, 0.1)).observe(0.05)
    shown = samples(registry)
    assert shown["trading_bus_frames_total", (("venue", "binance"),)] == 2
    assert shown["trading_bus_commit_seconds_bucket", (("le", "0.1"),)] == 1
    assert shown["process_resident_memory_bytes", ()] > 1e6
    assert shown["process_open_fds", ()] > 0


@pytest.mark.parametrize(
    "name",
    [
        "frames_total",
        "trading_bus_frames",
        "trading_bus_lag_ms_total",
        "trading_bus_Frames_total",
        "trading_bus__x_total",
    ],
)
def test_counter_names_keep_the_conventions(name):
    with pytest.raises(ValueError, match="base unit"):
        make_counter(new_registry(), name, "x")


@pytest.mark.parametrize("name", ["trading_bus_lag_ms", "trading_bus_frames_total", "trading_bus_used_percent"])
def test_gauge_names_keep_the_conventions(name):
    with pytest.raises(ValueError, match="base unit"):
        watch_gauge(new_registry(), name, "x", lambda: 1)


def test_a_name_is_taken_once():
    registry = new_registry()
    watch_gauge(registry, "trading_bus_x", "x", lambda: 1)
    with pytest.raises(DuplicateTimeseries):
        watch_gauge(registry, "trading_bus_x", "x", lambda: 1)


def test_a_broken_callback_costs_only_its_own_samples_and_is_told_once(caplog):
    registry = new_registry()
    watch_gauge(registry, "trading_bus_broken", "x", lambda: 1 / 0)
    watch_gauge(registry, "trading_bus_fine", "x", lambda: 1)
    with caplog.at_level(logging.ERROR):
        assert samples(registry)["trading_bus_fine", ()] == 1
        samples(registry)
    assert [r.getMessage() for r in caplog.records] == ["metric can not be read"]


def test_health_checks_are_metrics():
    registry, health = new_registry(), Health("ohlcv")
    watch_health(registry, health)
    health.add_probe("feed", lambda: check_age("feed", 9.5, 5.0))
    shown = samples(registry)
    assert shown["trading_bus_check_healthy", (("check", "feed"),)] == 0
    assert shown["trading_bus_check_age_seconds", (("check", "feed"),)] == 9.5
    assert shown["trading_bus_ready", ()] == shown["trading_bus_healthy", ()] == 0
