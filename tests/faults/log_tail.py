"""Follows `trading.bus.log`: every message as the schemas promise it, and per row the newest revision delivered."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass

from common.bus import read_log
from common.consuming import BusMessage
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
        self.check = MessageCheck()
        self._url = url
        self._offset: int | None = None
        self._moved = False
        self._read_to: dt.datetime | None = None
        self.losses = 0

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
                    self._take(message)
                    self._read_to = message.published
            except TryLater:
                self.losses += 1
                self._read_to = None
                if self._offset is not None and self._moved:  # once per loss, however often joining fails
                    self._offset, self._moved = max(-1, self._offset - REWIND_MESSAGES), False
                await asyncio.sleep(RETRY_S)

    def has_read_to(self, moment: dt.datetime) -> bool:
        """Was a message of after this moment read, and so all before it?"""
        return self._read_to is not None and self._read_to > moment

    def describe(self) -> str:
        """Where the reader stands, for a failure's message."""
        return f"offset {self._offset}, {self.messages} messages, read to {self._read_to}, {self.losses} losses"

    async def read_again(self) -> int:
        """Read the whole log up to now; returns the messages with rows or revisions that the reader had not seen."""
        now, skipped = dt.datetime.now(dt.UTC), 0
        async for message in read_log(self._url, idle_s=IDLE_S, offset="first", name="tail again"):
            skipped += self._take(message)
            if message.published is not None and message.published > now:
                break
        return skipped

    def _take(self, message: BusMessage) -> bool:
        """Keep what is news; false for the rest."""
        row, _, text = message.message_id.rpartition("#")
        known = self.rows.get(row)
        if known is None or known.body != message.body:
            self.check.see(message.key, message.body)
        if not message.key.startswith("price_updates."):
            return False
        self.messages += 1
        rev = int(text)
        if known is None:
            self.rows[row] = Delivered(rev, message.body)
        elif rev > known.rev:
            known.rev, known.body = rev, message.body
        else:
            self.repeats += 1
            return False
        return True
