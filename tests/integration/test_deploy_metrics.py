"""What alerts and the dashboard ask of the broker is what a real broker tells, under the addresses we scrape."""

import asyncio
import json
import re

import httpx
import pytest
import yaml

from common.bus import Bus
from common.topology import EXCHANGE_DEAD, EXCHANGE_UNROUTED, QUEUE_LOG
from ops.server_state import REPOSITORY
from tests.promql import metrics_in

SCRAPES = {
    scrape["job_name"]: scrape
    for scrape in yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
}


def wanted() -> set[str]:
    """Every rabbitmq_ metric of the alerts and the dashboard."""
    groups = yaml.safe_load((REPOSITORY / "deploy/prometheus/alerts.yml").read_text())["groups"]
    panels = json.loads((REPOSITORY / "deploy/grafana/trading-bus.json").read_text())["panels"]
    exprs = [rule["expr"] for group in groups for rule in group["rules"]]
    exprs += [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return {name for expr in exprs for name in metrics_in(expr) if name.startswith("rabbitmq_")}


OURS = {EXCHANGE_DEAD, EXCHANGE_UNROUTED, QUEUE_LOG}


def queues_in(told: str) -> set[str]:
    return set(re.findall(r'^rabbitmq_detailed_queue_messages\{.*queue="([^"]+)"', told, re.M))


async def scrape_all(http: httpx.AsyncClient, port: int) -> str:
    told = ""
    for job in ("rabbitmq", "rabbitmq-queues"):
        scrape = SCRAPES[job]
        address = f"http://127.0.0.1:{port}{scrape.get('metrics_path', '/metrics')}"
        answer = await http.get(address, params=scrape.get("params"))
        answer.raise_for_status()
        told += answer.text
    return told


async def test_the_broker_tells_what_alerts_ask_of_it(rmq_url: str, management_url: str):
    bus = Bus(rmq_url, "test/deploy")
    try:
        await bus.declare()
        async with httpx.AsyncClient(timeout=10) as http:
            listeners = (await http.get(f"{management_url}/api/overview")).json()["listeners"]
            port = next((one["port"] for one in listeners if one["protocol"] == "http/prometheus"), None)
            if port is None or (port == 15692 and not management_url.endswith(":15672")):
                pytest.skip("the broker's Prometheus port is not reachable from here")
            async with asyncio.timeout(15):  # the exporter counts queues every few seconds
                while not queues_in(told := await scrape_all(http, port)) >= OURS:
                    await asyncio.sleep(0.2)
    finally:
        await bus.close()
    names = {match[1] for match in re.finditer(r"^(\w+)[{ ]", told, re.M)}
    assert wanted() <= names
