"""A tape of raw frames: gzipped JSON lines, readable up to the last flush whatever became of who wrote it.

    {"tape":"trading-bus","version":1,"venue":"binance","url":"wss://...","symbols":[...],"streams":[...],"start_ns":...}
    {"t":<receive time, epoch ns>,"c":<connection>,"f":"<frame as it came>"}
    {"t":...,"c":...,"b64":"<frame that is no UTF-8 text>"}
    {"t":...,"c":...,"mark":"opened"}                        nothing is subscribed yet
    {"t":...,"c":...,"mark":"sent","text":"<control frame of ours>"}
    {"t":...,"c":...,"mark":"subscribed","streams":[...]}    acknowledged; also "unsubscribed"
    {"t":...,"c":...,"mark":"unreadable","reason":"..."}     a frame before it is not the venue's
    {"t":...,"c":...,"mark":"lost","reason":"...","planned":false}
    {"t":...,"c":0,"mark":"not_opened","reason":"..."}       also "refused": about no connection that was open
    {"t":...,"c":0,"mark":"end","frames":...}                the recorder stopped in order: nothing is missing after it

Connections are numbered from 1 in the order they were begun; while two overlap the same trade comes on both. A time
with `mark` is when we noticed. A gzip file without its end was cut off: all lines but a last broken one are good.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from pathlib import Path

import msgspec

from common.errors import ConfigError

VERSION = 1
GZIP_LEVEL = 6


def header_line(venue: str, url: str, symbols: Sequence[str], streams: Sequence[str], start_ns: int) -> bytes:
    """Build the first line."""
    head = {"tape": "trading-bus", "version": VERSION, "venue": venue, "url": url}
    return _line({**head, "symbols": symbols, "streams": streams, "start_ns": start_ns})


def frame_line(at_ns: int, connection: int, raw: bytes) -> bytes:
    """Build the line of a frame; nothing of it is lost, whatever it is."""
    try:
        return _line({"t": at_ns, "c": connection, "f": raw.decode()})
    except UnicodeDecodeError:
        return _line({"t": at_ns, "c": connection, "b64": base64.b64encode(raw).decode()})


def mark_line(at_ns: int, connection: int, mark: str, **facts: object) -> bytes:
    """Build the line of something that happened to a connection, or (connection 0) to the recorder."""
    return _line({"t": at_ns, "c": connection, "mark": mark, **facts})


def _line(fields: dict[str, object]) -> bytes:
    return msgspec.json.encode(fields) + b"\n"


class Tape:
    """The file being written; `size_bytes` of it were flushed. Raises OSError when the disk does not take it."""

    def __init__(self, path: Path) -> None:
        try:
            # Never over another recording: that market does not come back.
            self._file = path.open("xb")
        except FileExistsError:
            raise ConfigError(f"{path} is there already: a recording needs a file of its own") from None
        except OSError as error:
            raise ConfigError(f"{path} can not be written: {error.strerror}") from error
        self._zip = gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=self._file)
        self._is_flushed = True
        self.size_bytes = 0

    def write(self, line: bytes) -> None:
        """Add a line."""
        self._zip.write(line)
        self._is_flushed = False

    def flush(self) -> None:
        """Let all written so far survive the end of this process."""
        if not self._is_flushed:
            self._zip.flush()
            self._file.flush()
            self._is_flushed = True
            self.size_bytes = self._file.tell()

    def close(self) -> None:
        """End the archive."""
        try:
            self._zip.close()
            self.size_bytes = self._file.tell()
        finally:
            self._file.close()
