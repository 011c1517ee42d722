"""Follows `trading.bus.log`: every message as the schemas promise it, and per row the newest revision delivered."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from dataclasses import dataclass

from common.bus import read_log
from common.errors import TryLater
from tests.message_check import MessageCheck

IDLE_S = 2.0
RETRY_S = 0.3
REWIND_MESSAGES = 10_000
"""A broker that was killed may have lost the end of its log, and gives those numbers to other messages."""


@dataclass(slots=True)
class Delivered:
    """The newest message of one row."""

    rev: int
    body: bytes


class LogTail:
    """What the bus delivered so far; after a lost connection the end of the log is read once more."""

    def __init__(self, url: str) -> None:
        self.rows: dict[str, Delivered] = {}
        self.messages = 0
        self.repeats = 0
        self.kinds: Counter[str] = Counter()
        self.check = MessageCheck()
        self._url = url
        self._offset: int | None = None
        self._moved = False

    async def run(self) -> None:
        """Read for ever."""
        while True:
            try:
                async for message in read_log(
                    self._url, idle_s=IDLE_S, offset="first" if self._offset is None else self._offset + 1, name="tail"
                ):
                    offset = message.headers.get("x-stream-offset")
                    assert isinstance(offset, int)
                    if self._offset is not None and offset <= self._offset:
                        continue  # delivery begins with the chunk that holds the offset asked for
                    self._offset, self._moved = offset, True
                    self._take(message.key, message.message_id, message.body)
            except TryLater:
                if self._offset is not None and self._moved:  # once per loss, however often joining fails
                    self._offset, self._moved = max(-1, self._offset - REWIND_MESSAGES), False
                await asyncio.sleep(RETRY_S)

    async def read_again(self) -> None:
        """Read the whole log up to now: what our own reader skipped is there, what was lost is not."""
        now = dt.datetime.now(dt.UTC)
        async for message in read_log(self._url, idle_s=IDLE_S, offset="first", name="tail again"):
            self._take(message.key, message.message_id, message.body)
            if message.published is not None and message.published > now:
                return

    def _take(self, key: str, message_id: str, body: bytes) -> None:
        row, _, text = message_id.rpartition("#")
        known = self.rows.get(row)
        if known is None or known.body != body:
            self.check.see(key, body)
        if not key.startswith("price_updates."):
            return
        self.messages += 1
        rev = int(text)
        if known is None:
            self.rows[row] = Delivered(rev, body)
        elif rev > known.rev:
            known.rev, known.body = rev, body
        else:
            self.repeats += 1
