"""Alerts and the dashboard ask for metrics that exist, and every alert leads to what to do about it."""

import json
import re
import shutil
import subprocess
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
import yaml
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from common.clock import Clock
from common.service import Service
from influencer_ingestor.observing import watch_influencers
from influencer_ingestor.settings import InfluencerSettings
from macro_ingestor.desk import Desk, Known
from macro_ingestor.observing import watch_macro
from macro_ingestor.settings import MacroSettings
from metric_ingestor.observing import watch_metrics
from metric_ingestor.settings import MetricSettings
from ohlcv_ingestor.ingestor import Track
from ohlcv_ingestor.line import Line, LineLimits, Outlet
from ohlcv_ingestor.observing import _skew_s, watch_ingestor
from ohlcv_ingestor.settings import OhlcvSettings
from ops.server_state import REPOSITORY
from ops.status_services import SERVICES, ServiceKind
from registry.service import Keeper, watch_registry
from registry.settings import RegistrySettings
from tests.promql import metrics_in

PROMETHEUS = REPOSITORY / "deploy/prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD = json.loads((REPOSITORY / "deploy/grafana/trading-bus.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SCRAPES = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
RUNBOOK = (REPOSITORY / "docs/RUNBOOK.md").read_text()
FOREIGN = re.compile(r"up|(rabbitmq|node)_\w+")
"""Of Prometheus itself, of the broker (tests/integration/test_deploy_metrics.py asks it), of node_exporter."""
NODE_METRICS = {"node_filesystem_avail_bytes", "node_filesystem_size_bytes"}


def names_of(registry: CollectorRegistry) -> set[str]:
    return {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}


@pytest.fixture(scope="module")
def ours() -> set[str]:
    """What a service registers, by the functions that the running service calls."""
    settings = OhlcvSettings(
        ts_dsn=SecretStr("postgresql://u:p@127.0.0.1:1/x"), rmq_url=SecretStr("amqp://u:p@127.0.0.1:2/")
    )
    service = Service("ohlcv", settings)
    clock, ingestor, writer, outbox, publisher, repairer, budget = (MagicMock() for _ in range(7))
    watch_ingestor(service, clock, ingestor, writer, outbox, publisher, repairer, budget)
    macro = Service("macro", MacroSettings(ts_dsn=settings.ts_dsn, rmq_url=settings.rmq_url))
    watch_macro(macro, MagicMock(), Desk({}, {}, Known()), MagicMock(), MagicMock(), {})
    metric = Service("metric", MetricSettings(ts_dsn=settings.ts_dsn, rmq_url=settings.rmq_url))
    watch_metrics(metric, *(MagicMock() for _ in range(4)), (MagicMock(), MagicMock()), MagicMock())
    influencer = Service("influencer", InfluencerSettings(ts_dsn=settings.ts_dsn, rmq_url=settings.rmq_url))
    watch_influencers(influencer, *(MagicMock() for _ in range(7)))
    nightly = RegistrySettings(ts_dsn=settings.ts_dsn, rmq_url=settings.rmq_url)
    registry = Service("registry", nightly)
    watch_registry(registry, Keeper(nightly, MagicMock(), MagicMock()))
    services = (service, macro, metric, influencer, registry)
    return set[str]().union(*(names_of(each.registry) for each in services))


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_asks_for_metrics_that_exist_and_says_what_to_do(rule: dict[str, Any], ours: set[str]):
    wanted = metrics_in(rule["expr"])
    assert wanted
    assert {name for name in wanted if not FOREIGN.fullmatch(name)} <= ours
    assert {name for name in wanted if name.startswith("node_")} <= NODE_METRICS
    told = rule["annotations"]
    assert set(told) == {"summary", "description", "runbook_url"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    page, _, anchor = told["runbook_url"].partition("#")
    assert page == "docs/RUNBOOK.md"
    assert anchor == rule["alert"].lower()
    section = re.search(rf"^### {rule['alert']}\n(.*?)(?=^##|\Z)", RUNBOOK, re.M | re.S)
    assert section is not None, f"RUNBOOK.md has no heading {rule['alert']}"
    assert all(word in section[1] for word in ("**Means**", "**Check**", "**Do**"))


@pytest.mark.parametrize("kind", SERVICES, ids=[kind.name for kind in SERVICES])
def test_memory_is_told_before_the_unit_ends_the_process(kind: ServiceKind):
    (expr,) = [rule["expr"] for rule in RULES if rule["alert"] == "MemoryHigh"]
    limits = re.findall(r'service=~?"([\w|]+)"\} > (\d+e\d+)', expr)
    (threshold,) = [float(value) for names, value in limits if kind.name in names.split("|")]
    units = (REPOSITORY / "deploy/systemd").glob(f"trading-bus-{kind.name}*.service")
    (unit,) = [path.read_text() for path in units if path.stem.removesuffix("@") == f"trading-bus-{kind.name}"]
    told = re.search(r"^MemoryMax=(\d+)([MG])$", unit, re.M)
    assert told is not None
    share = threshold / (int(told[1]) * {"M": 2**20, "G": 2**30}[told[2]])
    assert 0.7 < share < 0.8
    assert f"{threshold / 1e6:.0f} MB" in RUNBOOK


def test_the_runbook_names_no_alert_that_is_gone():
    part = RUNBOOK[RUNBOOK.index("\n## Alerts") :]
    part = part[: part.find("\n## ", 5)]
    assert set(re.findall(r"^### (\w+)$", part, re.M)) == {rule["alert"] for rule in RULES}


def test_alert_names_are_said_once_and_every_label_they_use_is_scraped():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    jobs = {scrape["job_name"]: scrape for scrape in SCRAPES}
    targets = jobs["trading-bus"]["static_configs"]
    assert {one["labels"]["service"] for one in targets} == {kind.name for kind in SERVICES}
    assert {one["targets"][0] for one in targets} == {f"127.0.0.1:{kind.port}" for kind in SERVICES}
    assert all(set(one["labels"]) == {"service", "shard"} for one in targets)
    assert jobs["rabbitmq-queues"]["metrics_path"] == "/metrics/detailed"


def test_the_metrics_that_tell_data_from_silence_have_an_alert():
    alerted = {name for rule in RULES for name in metrics_in(rule["expr"])}
    assert alerted >= {
        "trading_bus_watermark_age_seconds", "trading_bus_symbol_behind_seconds", "trading_bus_outbox_messages",
        "trading_bus_feed_reconnects_total", "trading_bus_gaps_parked", "trading_bus_gap_age_seconds",
        "trading_bus_clock_skew_seconds", "trading_bus_dead_letters_total", "trading_bus_check_healthy", "up",
        "trading_bus_ready", "trading_bus_rest_weight_used", "node_filesystem_avail_bytes",
    }  # fmt: skip


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_asks_for_metrics_that_exist(panel: dict[str, Any], ours: set[str]):
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        wanted = metrics_in(target["expr"])
        assert wanted
        assert {name for name in wanted if not FOREIGN.fullmatch(name)} <= ours
        assert target["datasource"]["uid"] == "${datasource}"


def test_the_dashboard_is_one_that_grafana_takes():
    assert DASHBOARD["schemaVersion"] >= 39
    assert DASHBOARD["id"] is None
    rows = [panel["title"].partition(":")[0] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Services", "Feed", "Fidelity", "Bus", "Store", "Metric", "Macro", "Influencer"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    used = set(re.findall(r"\$(\w+)", json.dumps([target["expr"] for panel in PANELS for target in panel["targets"]])))
    assert used == set(variables) - {"datasource"}
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize(
    "words", ["check rules alerts.yml", "check config prometheus.yml", "test rules alerts_test.yml"]
)
def test_promtool_agrees(words: str):
    if shutil.which("promtool") is None:
        pytest.skip("promtool (Debian: prometheus) is not on this machine")
    done = subprocess.run(["promtool", *words.split()], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_played():
    """A situation of alerts_test.yml expects it to fire."""
    played = set(re.findall(r'alertname="(\w+)"', (PROMETHEUS / "alerts_test.yml").read_text()))
    assert played == {rule["alert"] for rule in RULES}


class _SlowClock(Clock):
    """A wall clock of its own, and a monotonic one that stands."""

    def wall_ms(self) -> int:
        return 1_000_000

    def monotonic_s(self) -> float:
        return 50.0


def skew_of(event_ms: int, came_s: float, rate: float = 1.0) -> float | None:
    line: Line[Any] = Line(Outlet(), lambda name: None, LineLimits(lateness_ms=500))
    line.watermark_ms, line.moved_s = event_ms - 500, came_s
    return _skew_s(cast("Track", SimpleNamespace(line=line)), _SlowClock(rate), 500)


def test_the_clock_is_compared_with_the_event_when_it_came():
    assert skew_of(1_000_000, 50.0) == 0.0
    assert skew_of(1_000_000, 48.0) == -2.0  # came two seconds ago, when our clock said 998 s
    assert skew_of(997_000, 50.0) == 3.0
    assert skew_of(500, 50.0) is None  # no venue time yet
    assert skew_of(1_000_000, 40.0) is None  # blind
    assert skew_of(1_000_000, 50.0, rate=10.0) is None
