import logging
import os
import socket
import uuid

import pytest

from common.notify import Notifier, read_notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A listening datagram socket and its address as $NOTIFY_SOCKET writes it."""
    address = f"@trading-bus-{uuid.uuid4()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if address[0] == "@" else address)
        listener.settimeout(5)
        yield listener, address


def test_what_the_manager_hears(manager):
    listener, address = manager
    notifier = Notifier(address)
    notifier.tell_ready("serving\nREADY=0")
    notifier.tell_ready()
    notifier.tell_ready("again")
    notifier.tell_alive()
    notifier.tell_stopping("SIGTERM")
    heard = [listener.recv(1000).decode() for _ in range(4)]
    assert heard == ["READY=1\nSTATUS=serving READY=0", "STATUS=again", "WATCHDOG=1", "STOPPING=1\nSTATUS=SIGTERM"]


def test_nobody_listens():
    Notifier().tell_ready("x")
    Notifier().tell_stopping()


def test_a_gone_manager_is_told_once_and_never_raises(tmp_path, caplog):
    notifier = Notifier(str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING):
        notifier.tell_ready()
        notifier.tell_alive()
    assert len(caplog.records) == 1


def test_a_busy_manager_does_not_block(tmp_path, caplog):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "busy"))
        notifier = Notifier(str(tmp_path / "busy"))
        for _ in range(1000):  # more than any receive queue
            notifier.tell_alive()
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("env", "every_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_interval(env, every_s):
    assert read_notifier({"NOTIFY_SOCKET": "/run/x", **env}).watchdog_every_s == every_s
    assert read_notifier(env).watchdog_every_s is None


def test_other_kinds_of_address_are_ignored():
    assert read_notifier({"NOTIFY_SOCKET": "vsock:2:1"}).address is None
    assert read_notifier({"NOTIFY_SOCKET": ""}).address is None
