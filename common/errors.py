"""What can go wrong, named by what the caller should do about it.

TradingBusError
 +-- ConfigError     stop at start and show the message: the settings, files or schema are wrong
 +-- TryLater        wait, then do the same again: a server is away, slow, or asks for patience
 |    +-- Reconnect  drop the connection first, then do the same again on a new one
 +-- Refused         do not repeat: the other side understood and said no
 +-- BadInput        count it, keep it as a dead letter, go on with the next: it can not be read
 +-- Superseded      stop this process: another one holds the right to write
"""

from __future__ import annotations


class TradingBusError(Exception):
    """Base of every error this project raises on purpose."""


class ConfigError(TradingBusError):
    """Settings, files or schema are wrong: show the message and stop at start."""


class TryLater(TradingBusError):
    """A server is away, slow or asks for patience: wait, then do the same again."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Reconnect(TryLater):
    """The connection is in doubt: drop it, then do the same again on a new one."""


class Refused(TradingBusError):
    """The other side understood and said no: repeating does not help."""


class BadInput(TradingBusError):
    """A frame, row or file can not be read: count it, keep it as a dead letter, go on."""


class Superseded(TradingBusError):
    """Another process holds the right to write: stop this one."""
