"""Tell systemd how we are (sd_notify): ready, status, watchdog, stopping; silent when nobody listens."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)

STATUS_CHARS_MAX = 500


class Notifier:
    """Sends state lines to the service manager's datagram socket; without an address every call does nothing."""

    def __init__(self, address: str | None = None, watchdog_every_s: float | None = None) -> None:
        self.address = address
        self.watchdog_every_s = watchdog_every_s
        self._failing = False
        self._ready_told = False

    def tell_ready(self, status: str = "") -> None:
        """READY=1 the first time, the status each time."""
        lines = [] if self._ready_told else ["READY=1"]
        self._ready_told = True
        self._send(*lines, *_status_lines(status))

    def tell_status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(*_status_lines(status))

    def tell_alive(self) -> None:
        """Feed the watchdog; call it every `watchdog_every_s` from the event loop."""
        self._send("WATCHDOG=1")

    def tell_stopping(self, status: str = "") -> None:
        """The stop has begun."""
        self._send("STOPPING=1", *_status_lines(status))

    def _send(self, *lines: str) -> None:
        if self.address is None or not lines:
            return
        # A leading @ stands for the NUL byte of an abstract address.
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)  # the event loop must not wait for a busy manager
                out.connect(address)
                out.send("\n".join(lines).encode())
        except OSError as error:
            if not self._failing:
                log.warning("service manager does not hear us", extra={"reason": str(error)})
            self._failing = True
        else:
            self._failing = False


def read_notifier(env: Mapping[str, str] = os.environ) -> Notifier:
    """Build the notifier from $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID; the watchdog at half its limit."""
    address = env.get("NOTIFY_SOCKET") or None
    if address is not None and address[0] not in "/@":
        log.warning("NOTIFY_SOCKET is not a path or an abstract address: ignored")
        address = None
    limit = env.get("WATCHDOG_USEC", "")
    for_us = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    watched = address is not None and for_us and limit.isdecimal() and int(limit) > 0
    return Notifier(address, int(limit) / 2e6 if watched else None)


def _status_lines(status: str) -> list[str]:
    return [f"STATUS={' '.join(status.split())[:STATUS_CHARS_MAX]}"] if status else []
