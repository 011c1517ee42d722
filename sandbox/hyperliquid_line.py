"""One socket of Hyperliquid: what it hears, and frames on their way out, late or swapped where a fault wants it."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from sandbox import frames
from sandbox.hyperliquid_frames import Subscription
from sandbox.hyperliquid_limits import Allowance

HELD_FRAMES_MAX = 200_000
UNREAD_BYTES_MAX = 16 << 20
SWAPPED_S = 1.0
"""A frame that waits for others to overtake it leaves after so long, also when none came."""


class Line:
    """Frames leave at once and in order, or after those that a fault holds back."""

    def __init__(self, transport: asyncio.Transport, serial: int, remote: str, allowance: Allowance) -> None:
        self.serial = serial
        self.remote = remote
        self.allowance = allowance
        self.opened_at = self.written_at = time.monotonic()
        self.heard: dict[str, Subscription] = {}
        self.sent: dict[str, int] = {}
        self.state_at: dict[str, float] = {}
        self.closed = False
        self._transport = transport
        self._held: deque[tuple[float, bytes]] = deque()
        self._swapped: list[tuple[int, str, float]] = []

    def users(self) -> list[str]:
        """The users it hears."""
        return sorted({told.user for told in self.heard.values() if told.user})

    def send(self, text: str, not_before: float = 0.0) -> None:
        """Send a text frame, not before a moment of the monotonic clock and never before what is already held."""
        self._write(frames.pack(text.encode()), not_before)

    def send_now(self, text: str) -> None:
        """Send a text frame before whatever is held."""
        if not self.closed:
            self._put(frames.pack(text.encode()))

    def send_swapped(self, text: str, behind: int) -> None:
        """Hold a frame until so many further ones were sent by `send_data`."""
        self._swapped.append((behind, text, time.monotonic()))

    def send_data(self, text: str, not_before: float) -> None:
        """Send a frame, and those it was to overtake."""
        self.send(text, not_before)
        swapped, self._swapped = self._swapped, []
        for behind, held, since in swapped:
            if behind > 1:
                self._swapped.append((behind - 1, held, since))
            else:
                self.send(held, not_before)

    def pong(self, payload: bytes) -> None:
        """Answer a ping of the protocol; it does not count as output."""
        if not self._transport.is_closing():
            self._transport.write(frames.pack(payload, frames.PONG))

    def _write(self, packed: bytes, not_before: float) -> None:
        if self.closed:
            return
        if self._held or not_before > time.monotonic():
            last = self._held[-1][0] if self._held else 0.0
            self._held.append((max(last, not_before), packed))
            if len(self._held) > HELD_FRAMES_MAX:
                self.abort()
            return
        self._put(packed)

    def _put(self, packed: bytes) -> None:
        if self._transport.is_closing():
            return
        self.written_at = time.monotonic()
        self._transport.write(packed)
        if self._transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self.abort()

    def release(self, now: float) -> None:
        """Let held frames leave whose time has come."""
        while self._held and self._held[0][0] <= now:
            self._put(self._held.popleft()[1])
        while self._swapped and now - self._swapped[0][2] > SWAPPED_S:
            self.send(self._swapped.pop(0)[1])

    def close(self, code: int, reason: str) -> None:
        """Say why, then close."""
        if not self.closed:
            self.closed = True
            self._transport.write(frames.pack(code.to_bytes(2, "big") + reason.encode(), frames.CLOSE))
            self._transport.close()

    def abort(self) -> None:
        """Cut without a word."""
        self.closed = True
        self._held.clear()
        self._transport.abort()

    def as_json(self, now: float) -> dict[str, object]:
        """What the judge is told."""
        return {
            "serial": self.serial,
            "remote": self.remote,
            "open_s": round(now - self.opened_at, 3),
            "users": self.users(),
            "subscriptions": sorted(f"{told.type}:{told.user or ''}" for told in self.heard.values()),
            "sent": self.sent,
            "held": len(self._held),
        }
