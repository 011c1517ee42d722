"""TimescaleDB and RabbitMQ for development, demo and tests: given, in Docker, or private, in this order."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from ops import servers_docker
from ops.cache import Say, hold_lock, make_folder
from ops.private_tree import find_missing_tools, locate_tree, provision_tree
from ops.server_state import find_own_state, lock_of, read_state
from ops.servers_private import PrivateServers

KIND_VARIABLE = "TRADING_BUS_SERVERS"
"""Pins the choice: `docker` or `private`."""


@dataclass(frozen=True)
class Servers:
    """Where the two servers answer; `kind` is given, docker or private."""

    ts_dsn: str
    rmq_url: str
    management_url: str | None
    kind: str


def start_servers(state: Path | None = None, say: Say = print, durable: bool = True) -> Servers:
    """Return running servers, started if they are not; `state` names an instance other than this clone's own.

    `durable=False` (tests) lets PostgreSQL skip fsync. ConfigError names what is missing when none of the ways is
    open, TryLater what failed on the chosen one.
    """
    folder = state or find_own_state()
    given = read_given(os.environ)
    # What `services up` printed into this shell is still our own instance, and may have to be started again.
    if given and not _is_ours(folder, given):
        return given
    make_folder(folder.parent)
    with hold_lock(lock_of(folder)):
        kind = _kept_kind(folder) or choose_kind()
        return _STARTERS[kind](folder, say, durable)


def fetch_servers(say: Say = print) -> str:
    """Fetch what the servers are made of, without starting any; returns their kind."""
    if read_given(os.environ):
        return "given"
    kind = choose_kind()
    if kind == "docker":
        servers_docker.pull_images(say)
    else:
        provision_tree(say)
    return kind


def stop_servers(state: Path | None = None, remove: bool = False) -> bool:
    """Stop an instance, False when there is none; with `remove` its data goes too. Given servers are never touched."""
    folder = state or find_own_state()
    note = read_state(folder)
    if note is None:
        return False
    with hold_lock(lock_of(folder)):
        if note["kind"] == "docker":
            servers_docker.stop_docker(folder, note, remove)
        else:
            PrivateServers(locate_tree(), folder, _silent).stop(remove)
    return True


def find_servers(state: Path | None = None) -> Servers | None:
    """The servers that run now, without starting any: those given, or the instance's; None when it is down."""
    folder = state or find_own_state()
    given = read_given(os.environ)
    if given and not _is_ours(folder, given):
        return given
    note = read_state(folder)
    if note is None:
        return None
    if note["kind"] == "docker":
        return _describe_docker(note) if servers_docker.runs_compose(note) else None
    servers = PrivateServers(locate_tree(), folder, _silent)
    return describe_private(servers) if servers.is_running() else None


def open_private(state: Path, say: Say = print, durable: bool = True) -> PrivateServers:
    """A private instance to be killed and frozen at will, not yet started; ConfigError where there can be none."""
    missing = find_missing_tools()
    if missing:
        raise ConfigError(f"private servers need {', '.join(missing)}")
    return PrivateServers(provision_tree(say), state, say, durable)


def describe_private(servers: PrivateServers) -> Servers:
    """Addresses of a private instance."""
    return Servers(servers.ts_dsn, servers.rmq_url, servers.management_url, "private")


def read_given(env: Mapping[str, str]) -> Servers | None:
    """Servers that somebody else runs: TS_DSN and RMQ_URL, MANAGEMENT_URL too if they have one."""
    dsn, url = env.get("TS_DSN"), env.get("RMQ_URL")
    if bool(dsn) != bool(url):
        raise ConfigError("TS_DSN and RMQ_URL go together: give both or neither")
    return Servers(dsn, url, env.get("MANAGEMENT_URL") or None, "given") if dsn and url else None


def choose_kind() -> str:
    """Name the way to servers on this machine; ConfigError says in one line what is missing for each."""
    pinned = os.environ.get(KIND_VARIABLE)
    if pinned:
        if pinned not in _STARTERS:
            raise ConfigError(f"{KIND_VARIABLE}={pinned}: expected one of {', '.join(_STARTERS)}")
        return pinned
    if servers_docker.answers_docker():
        return "docker"
    missing = find_missing_tools()
    if missing:
        raise ConfigError(
            "no servers: TS_DSN and RMQ_URL are not set, no Docker engine with compose answers, "
            f"and private servers need {', '.join(missing)}"
        )
    return "private"


def _start_docker(folder: Path, say: Say, durable: bool) -> Servers:
    _ = durable  # the images' own settings hold
    return _describe_docker(servers_docker.start_compose(folder, say))


def _start_private(folder: Path, say: Say, durable: bool) -> Servers:
    servers = open_private(folder, say, durable)
    servers.start()
    servers.release()
    return describe_private(servers)


_STARTERS: dict[str, Callable[[Path, Say, bool], Servers]] = {"docker": _start_docker, "private": _start_private}


def _describe_docker(note: dict[str, Any]) -> Servers:
    return Servers(
        servers_docker.ts_dsn(note), servers_docker.rmq_url(note), servers_docker.management_url(note), "docker"
    )


def _kept_kind(folder: Path) -> str | None:
    """An instance keeps the way it was made: its data lies there."""
    note = read_state(folder)
    return None if note is None else note["kind"]


def _is_ours(folder: Path, given: Servers) -> bool:
    note = read_state(folder)
    if note is None:
        return False
    return f"{note['password']}@127.0.0.1:{note['ports']['postgres']}/" in given.ts_dsn


def _silent(_: str) -> None:
    return
