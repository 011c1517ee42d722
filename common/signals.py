"""SIGTERM and SIGINT: the first begins the stop, the second ends the process; a deadline that can not be missed."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from common.logs import write_last_words

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Deadline:
    """Ends the process when the stop takes too long, even if the event loop is blocked: a thread counts the time."""

    def __init__(self, limit_s: float, exit_code: int) -> None:
        self._limit_s = limit_s
        self._exit_code = exit_code
        self._timer: threading.Timer | None = None
        self._ends = 0.0
        self.step = "before the first step"
        """Where the stop is, for the last words."""

    @property
    def armed(self) -> bool:
        """Whether the time is running."""
        return self._timer is not None

    def arm(self) -> None:
        """Start the time; the first call counts."""
        if self._timer is not None:
            return
        self._ends = time.monotonic() + self._limit_s
        self._timer = threading.Timer(self._limit_s, self.cut, ["stop deadline passed"])
        self._timer.daemon = True
        self._timer.start()

    def disarm(self) -> None:
        """The stop is done."""
        if self._timer is not None:
            self._timer.cancel()

    def left_s(self) -> float:
        """Seconds until the process is ended."""
        return self._ends - time.monotonic()

    def cut(self, reason: str) -> None:
        """End the process now: no clean-up, no buffers, one last line."""
        write_last_words(reason, step=self.step, exit_code=self._exit_code)
        os._exit(self._exit_code)


@contextmanager
def catch_stop_signals(stop: Callable[[str], None], deadline: Deadline) -> Generator[None, None, None]:
    """Call `stop(signal name)` in the running loop at the first signal, cut at the second.

    Plain handlers instead of the loop's own: they run while the loop is busy, so the deadline starts at the signal.
    """
    loop = asyncio.get_running_loop()
    seen = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            deadline.cut(f"second signal {signal.Signals(number).name}")
        seen = True
        deadline.arm()
        loop.call_soon_threadsafe(stop, signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
