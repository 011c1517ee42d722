"""The two servers from compose.yaml, where a Docker engine answers; one compose project per state folder."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import TryLater
from ops.cache import Say, make_folder
from ops.rabbitmq_probe import answers_management
from ops.server_process import pick_ports, wait_until
from ops.server_state import REPOSITORY, STATE_FILE, read_state, write_state

COMPOSE_FILE = REPOSITORY / "compose.yaml"
ANSWER_TIMEOUT_S = 10
UP_TIMEOUT_S = 900
"""The first start fetches the images."""
DOWN_TIMEOUT_S = 120


def answers_docker() -> bool:
    """Tell whether a Docker engine with compose answers; the client alone says nothing about an engine."""
    return _succeeds("docker", "info") and _succeeds("docker", "compose", "version")


def pull_images(say: Say) -> None:
    """Fetch the images that are not there yet."""
    say("servers: docker compose pull")
    _docker(UP_TIMEOUT_S, "compose", "--file", str(COMPOSE_FILE), "pull", "--policy", "missing")


def start_compose(state: Path, say: Say) -> dict[str, Any]:
    """Bring the compose project of a state folder up and return its note; TryLater when it does not become healthy."""
    kept = read_state(make_folder(state))
    note = kept or plan_project(state)
    write_state(state, note)
    write_secrets(note)
    say("servers: docker compose up")
    try:
        _compose(note, UP_TIMEOUT_S, "up", "--detach", "--wait", "--wait-timeout", "300")
    except TryLater:
        if kept is None:
            # Nothing was made yet that would bind this instance to Docker.
            (state / STATE_FILE).unlink()
        raise
    if not wait_until(lambda: answers_management(management_url(note)), 60, poll_s=0.2):
        raise TryLater("RabbitMQ's management API does not answer in its container")
    return note


def stop_docker(state: Path, note: dict[str, Any], remove: bool) -> None:
    """Stop what a note names, a compose project or single containers; with `remove` their data goes too."""
    if "containers" in note:
        _docker(DOWN_TIMEOUT_S, "rm", "--force", "--volumes", *note["containers"])
    elif remove:
        _compose(note, DOWN_TIMEOUT_S, "down", "--volumes")
    else:
        _compose(note, DOWN_TIMEOUT_S, "stop")
    if remove:
        shutil.rmtree(state, ignore_errors=True)


def runs_compose(note: dict[str, Any]) -> bool:
    """Tell whether both containers of a project run."""
    running = _compose(note, ANSWER_TIMEOUT_S, "ps", "--services", "--status", "running")
    return set(running.split()) == {"timescaledb", "rabbitmq"}


def ts_dsn(note: dict[str, Any]) -> str:
    """Address of the project's database."""
    return f"postgresql://postgres:{note['password']}@127.0.0.1:{note['ports']['postgres']}/trading_bus"


def rmq_url(note: dict[str, Any]) -> str:
    """Address of the broker's default vhost."""
    return f"amqp://trading_bus:{note['password']}@127.0.0.1:{note['ports']['amqp']}/"


def management_url(note: dict[str, Any]) -> str:
    """Address of the broker's management API, login included."""
    return f"http://trading_bus:{note['password']}@127.0.0.1:{note['ports']['management']}"


def plan_project(state: Path) -> dict[str, Any]:
    """Note of a project yet to be made: its name, free ports, a password."""
    postgres, amqp, management, prometheus = pick_ports(4)
    return {
        "kind": "docker",
        "project": "trading-bus-" + hashlib.blake2b(str(state).encode(), digest_size=5).hexdigest(),
        "password": secrets.token_hex(16),
        "secrets": str(state / "secrets"),
        "ports": {"postgres": postgres, "amqp": amqp, "management": management, "prometheus": prometheus},
    }


def write_secrets(note: dict[str, Any]) -> None:
    """Put a project's password where compose.yaml reads it: files in a folder that only their owner may enter."""
    folder = Path(note["secrets"])
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("postgres_password", "rabbitmq_password"):
        file = folder / name
        file.touch(mode=0o600)
        file.write_text(note["password"] + "\n")


def _compose(note: dict[str, Any], timeout_s: float, *words: str) -> str:
    env = {f"TRADING_BUS_{name.upper()}_PORT": str(port) for name, port in note["ports"].items()}
    env["TRADING_BUS_SECRETS"] = note["secrets"]
    file = ("compose", "--project-name", note["project"], "--file", str(COMPOSE_FILE))
    return _docker(timeout_s, *file, *words, env=env)


def _docker(timeout_s: float, *words: str, env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            ["docker", *words],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise TryLater(f"docker {words[0]} did not finish within {timeout_s:.0f} s") from error
    if done.returncode:
        raise TryLater(f"docker {words[0]} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return done.stdout


def _succeeds(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        return _run_quietly(command) == 0
    except subprocess.TimeoutExpired:
        return False


def _run_quietly(command: Sequence[str]) -> int:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=ANSWER_TIMEOUT_S,
        check=False,
    ).returncode
