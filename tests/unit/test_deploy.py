"""deploy/systemd, deploy/cron: units that name real entry points, tell systemd the truth, and run hardened."""

import os
import re
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.notify import read_notifier
from common.settings import ServiceSettings
from common.shards import Shard, parse_shard
from ops import cli
from ops.server_state import REPOSITORY
from ops.status_services import SERVICES

FOLDER = REPOSITORY / "deploy/systemd"
UNITS = {path.name: path for path in sorted(FOLDER.iterdir()) if path.suffix in (".service", ".timer")}
RUNNING = {
    name: kind.settings
    for kind in SERVICES
    for name in (f"trading-bus-{kind.name}@.service", f"trading-bus-{kind.name}.service")
    if name in UNITS
}
HARDENING = {
    "DynamicUser": "yes", "NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "ProtectSystem": "strict",
    "ProtectHome": "yes", "ProtectClock": "yes", "ProtectHostname": "yes", "ProtectControlGroups": "yes",
    "ProtectKernelLogs": "yes", "ProtectKernelModules": "yes", "ProtectKernelTunables": "yes", "PrivateTmp": "yes",
    "PrivateDevices": "yes", "PrivateUsers": "yes", "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes", "RestrictRealtime": "yes", "RestrictSUIDSGID": "yes", "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes", "SystemCallArchitectures": "native", "UMask": "0077",
}  # fmt: skip

Unit = dict[str, dict[str, list[str]]]


def read_unit(name: str) -> Unit:
    """Sections, and every value of each key in order; raises on a line that is none of them."""
    sections: Unit = {}
    keys: dict[str, list[str]] = {}
    for line in UNITS[name].read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if match := re.fullmatch(r"\[(\w+)\]", line):
            keys = sections.setdefault(match[1], {})
            continue
        match = re.fullmatch(r"([A-Z]\w+)=(\S.*\S|\S?)", line)
        assert match is not None, line
        keys.setdefault(match[1], []).append(match[2])
    return sections


SERVICE_UNITS = [name for name in UNITS if name.endswith(".service")]


@pytest.mark.parametrize("name", SERVICE_UNITS)
def test_what_is_started_exists(name: str):
    program, *words = read_unit(name)["Service"]["ExecStart"][0].split()
    assert program.startswith("/opt/trading-bus/.venv/bin/")
    if program.endswith("/trading-bus"):
        assert words[0] in cli.COMMANDS
    else:
        assert program.endswith("/python")
        assert words[0] == "-m"
        assert find_spec(f"{words[1]}.__main__") is not None


@pytest.mark.parametrize("name", SERVICE_UNITS)
def test_units_run_hardened_and_bounded(name: str):
    service = read_unit(name)["Service"]
    assert {key: service[key][-1] for key in HARDENING} == HARDENING
    assert service["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert service["MemoryMax"] and service["TasksMax"]


@pytest.mark.parametrize("name", SERVICE_UNITS)
def test_secrets_come_as_credentials_and_nothing_else_does(name: str):
    service = read_unit(name)["Service"]
    kind = RUNNING.get(name)
    fields = set((kind or ServiceSettings).model_fields)
    credentials = dict(one.split(":", 1) for one in service["LoadCredential"])
    assert set(credentials) <= fields
    assert all(path.startswith("/etc/trading-bus/credentials/") for path in credentials.values())
    for line in service.get("Environment", []):
        variable = line.partition("=")[0]
        assert variable.lower() in fields
        assert variable.lower() not in ("ts_dsn", "rmq_url")
    if kind is not None:
        assert set(credentials) == {field for field, info in kind.model_fields.items() if info.is_required()}


def test_the_files_that_access_md_writes_are_those_the_units_read():
    loaded = {one for name in SERVICE_UNITS for one in read_unit(name)["Service"]["LoadCredential"]}
    text = (REPOSITORY / "docs/ACCESS.md").read_text()
    written = set(re.findall(r"--file (/etc/\S+)", text))
    assert written
    assert written <= {one.partition(":")[2] for one in loaded}
    assert set(re.findall(r"LoadCredential=(\S+)", text)) <= loaded


def test_every_service_that_runs_has_a_unit_under_its_own_port():
    assert len(RUNNING) == len(SERVICES)
    for kind in SERVICES:
        unit = next(name for name in RUNNING if name.startswith(f"trading-bus-{kind.name}"))
        assert f"HTTP_PORT={kind.port}" in read_unit(unit)["Service"]["Environment"]


@pytest.mark.parametrize("name", RUNNING)
def test_a_running_service_is_watched_and_always_comes_back(name: str):
    unit = read_unit(name)
    service = unit["Service"]
    assert service["Type"] == ["notify"]
    assert "# READY comes when it is wired" in UNITS[name].read_text()
    assert service["NotifyAccess"] == ["main"]
    assert service["Restart"] == ["always"]
    assert unit["Unit"]["StartLimitIntervalSec"] == ["0"]
    stop_s = RUNNING[name].model_fields["stop_timeout_s"].default
    assert float(service["TimeoutStopSec"][0]) > stop_s
    assert unit["Install"]["WantedBy"] == ["multi-user.target"]


@pytest.mark.parametrize("name", RUNNING)
def test_the_process_says_to_systemd_what_the_unit_waits_for(name: str, tmp_path: Path):
    service = read_unit(name)["Service"]
    limit_s = float(service["WatchdogSec"][0])
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(5)
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(int(limit_s * 1e6)), "WATCHDOG_PID": str(os.getpid())}
        notifier = read_notifier(env)
        assert notifier.watchdog_every_s is not None
        assert notifier.watchdog_every_s <= limit_s / 2
        notifier.tell_ready("serving")
        assert b"READY=1" in manager.recv(4096)
        notifier.tell_alive()
        assert manager.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize("name", [name for name in RUNNING if "@" in name])
def test_an_instance_is_named_by_its_shard(name: str):
    """systemd writes the slash of an instance's name as "-", and %I turns it back."""
    assert "SHARD=%I" in read_unit(name)["Service"]["Environment"]
    assert parse_shard("1-4".replace("-", "/")) == Shard(1, 4)
    # The comment tells how to start one, and the file for its own settings is named by what stands in the unit's name.
    assert f"{name.removesuffix('.service')}1-4" in UNITS[name].read_text()
    assert any(path.endswith("-%i.env") for path in read_unit(name)["Service"]["EnvironmentFile"])


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".timer")])
def test_a_timer_starts_a_unit_that_ends(name: str):
    timer = read_unit(name)
    often = "/" in timer["Timer"]["OnCalendar"][0]
    assert timer["Timer"]["Persistent"] == ["no" if often else "yes"]
    at = r"\*-\*-\* \*:00/\d+:00 UTC" if often else r"\*-\*-\* \d\d:\d\d:\d\d UTC"
    assert re.fullmatch(at, timer["Timer"]["OnCalendar"][0])
    assert timer["Install"]["WantedBy"] == ["timers.target"]
    assert read_unit(name.replace(".timer", ".service"))["Service"]["Type"] == ["oneshot"]


def test_the_cron_example_runs_what_the_timers_run():
    lines = (REPOSITORY / "deploy/cron/trading-bus").read_text().splitlines()
    jobs = [line for line in lines if re.match(r"[\d*]", line)]
    settings = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))
    assert settings["TS_DSN_FILE"].startswith("/etc/trading-bus/credentials/")
    started = set()
    for job in jobs:
        match = re.fullmatch(r"(?:[\d*/]+ ){5} \S+ +flock -n \S+ trading-bus (\w+(?: \w+)?) 2>&1 \| logger -t \S+", job)
        assert match is not None, job
        started.add(match[1])
    timed = [name.replace(".timer", ".service") for name in UNITS if name.endswith(".timer")]
    assert started == {" ".join(read_unit(name)["Service"]["ExecStart"][0].split()[1:]) for name in timed}
