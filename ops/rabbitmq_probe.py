"""Ask a RabbitMQ node whether it serves: one AMQP handshake and one call of its management API."""

from __future__ import annotations

import base64
import json
import socket
import urllib.request
from typing import Any, cast
from urllib.parse import unquote

from pamqp import commands, frame, header
from pamqp.exceptions import PAMQPException

PROBE_TIMEOUT_S = 3
CALL_TIMEOUT_S = 10
_OPENERS = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Loopback calls never go through a proxy that the environment names."""


def opens_amqp(port: int, user: str = "guest", password: str = "guest", vhost: str = "/") -> bool:
    """Tell whether an AMQP connection to this vhost opens: the node has started and recovered its queues."""
    try:
        with socket.create_connection(("127.0.0.1", port), PROBE_TIMEOUT_S) as connection:
            connection.sendall(header.ProtocolHeader().marshal())
            if not isinstance(_read_frame(connection), commands.Connection.Start):
                return False
            login = commands.Connection.StartOk({}, "PLAIN", f"\0{user}\0{password}", "en_US")
            connection.sendall(frame.marshal(login, 0))
            tune = _read_frame(connection)
            if not isinstance(tune, commands.Connection.Tune):
                return False
            answer = commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0)
            connection.sendall(frame.marshal(answer, 0) + frame.marshal(commands.Connection.Open(vhost), 0))
            opened = isinstance(_read_frame(connection), commands.Connection.OpenOk)
            connection.sendall(frame.marshal(commands.Connection.Close(200, "probe", 0, 0), 0))
            _read_frame(connection)
            return opened
    except (OSError, PAMQPException):
        return False


def _read_frame(connection: socket.socket) -> object:
    head = _read_exactly(connection, 7)
    size = int.from_bytes(head[3:7], "big")
    return frame.unmarshal(head + _read_exactly(connection, size + 1))[2]


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        chunk = connection.recv(size - len(received))
        if not chunk:
            raise ConnectionResetError("the node closed the connection")
        received += chunk
    return received


def call_management(url: str, method: str, path: str, body: object = None) -> Any:
    """Call the management API at `http://user:password@host:port` and return its JSON, None when it says nothing.

    Raises OSError (urllib's HTTPError for a refusal) when the call fails.
    """
    scheme, _, rest = url.partition("://")
    login, _, host = rest.rpartition("@")
    request = urllib.request.Request(
        f"{scheme}://{host}/api/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": "Basic " + base64.b64encode(unquote(login).encode()).decode(),
            "Content-Type": "application/json",
        },
    )
    with _OPENERS.open(request, timeout=CALL_TIMEOUT_S) as answer:
        text = cast("bytes", answer.read())
    return json.loads(text) if text else None


def answers_management(url: str) -> bool:
    """Tell whether the management API answers a logged-in call."""
    try:
        call_management(url, "GET", "overview")
    except (OSError, ValueError):
        return False
    return True
