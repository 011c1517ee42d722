"""Settings of the private servers: loopback only, every port given, nothing taken from the host's configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ops.private_tree import Tree

PORT_NAMES = ("postgres", "amqp", "management", "prometheus", "distribution", "epmd")
DATABASE = "trading_bus"
NODE = "trading-bus@localhost"

POSTGRES_CONF = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_preload_libraries = 'timescaledb'
timescaledb.telemetry_level = off
jit = off
timezone = 'GMT'
log_timezone = 'GMT'
shared_buffers = '256MB'
max_wal_size = '2GB'
max_worker_processes = 16
max_connections = 200
"""
UNSAFE_FLAGS = ("-c", "fsync=off", "-c", "full_page_writes=off")
"""Faster commits of single rows; a crash of the machine may then lose the cluster."""

_RABBITMQ_CONF = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = {prometheus}
distribution.listener.interface = 127.0.0.1
distribution.listener.port_range.min = {distribution}
distribution.listener.port_range.max = {distribution}
disk_free_limit.absolute = 200MB
log.console = true
log.file = false
"""


def rabbitmq_files(ports: Mapping[str, int]) -> dict[str, str]:
    """Contents of the node's configuration files by name."""
    return {
        "rabbitmq.conf": _RABBITMQ_CONF.format(**ports),
        "enabled_plugins": "[rabbitmq_management,rabbitmq_prometheus].\n",
        "rabbitmq-env.conf": "",
    }


def plain_env() -> dict[str, str]:
    """The servers see nothing of the caller's environment but where programs are."""
    return {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C"}


def rabbitmq_env(tree: Tree, state: Path, ports: Mapping[str, int]) -> dict[str, str]:
    """Environment of the node: every path it would otherwise look for on the host."""
    folder, log, path = state / "mq", str(state / "log"), plain_env()["PATH"]
    return {
        "HOME": str(folder),
        "PATH": f"{tree.erlang}/bin:{path}",
        "LC_ALL": "C.UTF-8",
        "ERL_ROOTDIR": str(tree.erlang),
        "ERL_EPMD_PORT": str(ports["epmd"]),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_CRASH_DUMP": f"{log}/erl_crash.dump",
        "RABBITMQ_NODENAME": NODE,
        "RABBITMQ_DIST_PORT": str(ports["distribution"]),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_LOG_BASE": log,
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "gen"),
        "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
        # makes the start script become the VM instead of its parent: one process, one pid
        "RUNNING_UNDER_SYSTEMD": "true",
    }
