"""RabbitMQ's memory alarm, rung on a private node by its own command line."""

from __future__ import annotations

import subprocess

from ops.private_tree import locate_tree
from ops.server_config import plain_env, rabbitmq_env
from ops.server_state import read_state
from ops.servers_private import PrivateServers

COMMAND_TIMEOUT_S = 60


def ring_memory_alarm(servers: PrivateServers) -> None:
    """Allow the node less memory than it has taken: it blocks every connection that publishes."""
    _control(servers, "set_vm_memory_high_watermark", "absolute", "10MB")


def end_memory_alarm(servers: PrivateServers) -> None:
    """Give the node its usual memory back."""
    _control(servers, "set_vm_memory_high_watermark", "0.6")


def _control(servers: PrivateServers, *words: str) -> None:
    tree, note = locate_tree(), read_state(servers.state)
    assert note is not None
    done = subprocess.run(
        [str(tree.rabbitmq_server.with_name("rabbitmqctl")), *words],
        env={**plain_env(), **rabbitmq_env(tree, servers.state, note["ports"])},
        cwd=servers.state / "run",
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        # Only who runs the node may read its cookie.
        user=(servers.state / "mq").owner(),
    )
    assert done.returncode == 0, done.stderr
