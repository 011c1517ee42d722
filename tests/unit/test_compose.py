"""compose.yaml and the image: what can be known about them without an engine."""

import importlib
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.settings import ServiceSettings, load_settings
from ops import cli, servers_docker
from ops.server_state import REPOSITORY

COMPOSE = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: block for name, block in SERVICES.items() if block["image"].startswith("trading-bus:")}
SERVERS = {"timescaledb", "rabbitmq"}


def settings_class(block: dict[str, Any]) -> type[ServiceSettings] | None:
    """The settings that the block's command reads; None for the command line's own commands."""
    command = block["command"]
    if command[0] == "trading-bus":
        return None
    assert command[:2] == ["python", "-m"], command
    module = importlib.import_module(f"{command[2]}.settings")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, ServiceSettings)]
    return next(kind for kind in kinds if kind is not ServiceSettings)


def environment_of(block: dict[str, Any]) -> dict[str, str]:
    """The block's environment where the shell sets nothing."""
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in block.get("environment", {}).items()}


def test_without_a_profile_it_is_the_two_servers():
    assert {name for name, block in SERVICES.items() if not block.get("profiles")} == SERVERS
    assert all(block["profiles"] == ["services"] for block in OURS.values())
    assert set(OURS) | SERVERS == set(SERVICES)


def test_every_package_with_an_entry_point_has_a_block():
    entries = {path.parent.name for path in REPOSITORY.glob("*_ingestor/__main__.py")}
    started = {block["command"][2] for block in OURS.values() if block["command"][0] == "python"}
    assert entries <= started


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_pinned_bounded_and_watched(name: str):
    block = SERVICES[name]
    if name in OURS:
        assert re.fullmatch(r"trading-bus:\$\{TRADING_BUS_VERSION:-\d+\.\d+\.\d+\}", block["image"])
        assert block["read_only"] and block["cap_drop"] == ["ALL"]
    else:
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+(-\w+)?", block["image"])
    assert block["mem_limit"] and block["restart"] and block["logging"]["options"]["max-size"]
    assert all(port.startswith("127.0.0.1:${") for port in block.get("ports", []))
    once = "depends_on" in block and "migrate" not in block["depends_on"]
    assert block["healthcheck"].get("disable", False) == once
    assert once or block["healthcheck"]["test"][0] == "CMD"


def test_services_wait_for_healthy_servers_and_the_schema():
    for name, block in OURS.items():
        waits = {one: how["condition"] for one, how in block["depends_on"].items()}
        assert waits["timescaledb"] == "service_healthy"
        if name != "migrate":
            assert waits == dict.fromkeys(SERVERS, "service_healthy") | {"migrate": "service_completed_successfully"}


def test_every_secret_is_a_file_and_every_use_is_declared():
    declared = COMPOSE["secrets"]
    for name, source in declared.items():
        assert list(source) == ["file"]
        assert source["file"] == f"${{TRADING_BUS_SECRETS:-./deploy/secrets}}/{name}"
    used = {one if isinstance(one, str) else one["source"] for b in SERVICES.values() for one in b["secrets"]}
    assert used == set(declared)
    for block in SERVICES.values():
        for name in environment_of(block):
            assert name.endswith("_FILE") or not re.search(r"PASS|SECRET|TOKEN|KEY|DSN|RMQ_URL", name), name


@pytest.mark.parametrize("name", OURS)
def test_environment_and_secrets_are_settings_of_the_service(name: str):
    block = OURS[name]
    kind = settings_class(block)
    names = {*environment_of(block)} - {"CREDENTIALS_DIRECTORY"}
    targets = {secret["target"] for secret in block["secrets"]}
    if kind is None:
        assert block["command"][1] in cli.COMMANDS
        assert (names, targets) == (set(), {"ts_dsn"})
        return
    assert {one.lower() for one in names} <= set(kind.model_fields)
    assert targets <= set(kind.model_fields)
    assert targets >= {one for one, field in kind.model_fields.items() if field.is_required()}


@pytest.mark.parametrize("name", OURS)
def test_the_service_loads_its_settings_from_the_secrets_that_the_script_writes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    secrets, mounted = tmp_path / "secrets", tmp_path / "run"
    subprocess.run(["sh", str(REPOSITORY / "deploy/make-secrets.sh"), str(secrets)], check=True, capture_output=True)
    assert {path.name for path in secrets.iterdir()} == set(COMPOSE["secrets"])
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    subprocess.run(["sh", str(REPOSITORY / "deploy/make-secrets.sh"), str(secrets)], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before

    block = OURS[name]
    mounted.mkdir()
    for secret in block["secrets"]:
        shutil.copy(secrets / secret["source"], mounted / secret["target"])
    kind = settings_class(block)
    if kind is None:
        return
    for variable in list(os.environ):
        if variable.lower() in kind.model_fields:
            monkeypatch.delenv(variable)
    for variable, value in environment_of(block).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(mounted))
    settings = load_settings(kind)
    assert before["postgres_password"].strip() in settings.ts_dsn.get_secret_value()
    assert "@rabbitmq:5672/" in settings.rmq_url.get_secret_value()
    assert settings.http_port == 8080
    assert f"127.0.0.1:${{TRADING_BUS_{name.upper()}_PORT:-" in block["ports"][0]
    assert float(block["stop_grace_period"].rstrip("s")) > settings.stop_timeout_s


def test_the_health_check_asks_healthz(tmp_path: Path):
    program = OURS["ohlcv"]["healthcheck"]["test"][3]
    compile(program, "health check", "exec")
    assert "/healthz" in program
    assert "8080" in program


def test_servers_started_by_the_command_line_get_a_password_file_nobody_else_reads(tmp_path: Path):
    note = servers_docker.plan_project(tmp_path / "state/one")
    servers_docker.write_secrets(note)
    servers_docker.write_secrets(note)
    folder = Path(note["secrets"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    needed = {one for name in SERVERS for one in SERVICES[name]["secrets"]}
    assert {path.name: path.read_text().strip() for path in folder.iterdir()} == dict.fromkeys(needed, note["password"])
    ports = {f"TRADING_BUS_{name.upper()}_PORT" for name in note["ports"]}
    text = (REPOSITORY / "compose.yaml").read_text()
    ours = {f"TRADING_BUS_{name.upper()}_PORT" for name in OURS}
    assert ports == set(re.findall(r"TRADING_BUS_\w+_PORT", text)) - ours
    assert len(set(note["ports"].values())) == len(ports)


def test_docker_compose_reads_it(tmp_path: Path):
    """The client's own reading of the file needs no engine."""
    compose = ["docker", "compose", "--file", str(REPOSITORY / "compose.yaml"), "--profile", "services"]
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("no docker client with compose on this machine")
    done = subprocess.run([*compose, "config", "--format", "json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["services"]) == set(SERVICES)


DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()


def test_the_image_is_pinned_locked_and_not_root():
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert len(stages) == 2
    assert all(re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", one) for one in stages)
    last = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    installs = re.findall(r"pip (?:--python \S+ )?install (.*)", DOCKERFILE)
    assert installs
    assert all("--require-hashes" in one or "--no-index" in one for one in installs)
    assert "install" not in last.replace("uninstall", "")
    assert re.search(r"^USER 10001", last, re.M)
    assert re.search(r"^STOPSIGNAL SIGTERM", last, re.M)
    assert not re.search(r"PASSWORD|TS_DSN|RMQ_URL|SECRET", DOCKERFILE)


def test_the_build_gets_every_package_and_nothing_else():
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert let_in == packages | {"pyproject.toml", "README.md", "requirements.lock", "requirements-dev.lock"}


def test_the_build_backend_is_cut_out_of_the_lock_whole(tmp_path: Path):
    command = re.search(r"awk '([^']+)' requirements-dev.lock", DOCKERFILE)
    assert command is not None
    lock = str(REPOSITORY / "requirements-dev.lock")
    told = subprocess.run(["awk", command[1], lock], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(
        r"setuptools==\S+ \\\n(    --hash=sha256:[0-9a-f]{64} \\\n)*    --hash=sha256:[0-9a-f]{64}\n", told
    )
