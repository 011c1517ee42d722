"""What `tail` shows of a message, and which messages it shows."""

from __future__ import annotations

import datetime as dt

import msgspec

from common.consuming import BusMessage
from common.errors import ConfigError

Offset = str | int | dt.datetime
"""Where to begin in a stream queue: "first", "last" (its last chunk), a number, or a time."""

_WORDS = ("first", "last")
_OFFSET_MAX = 2**63 - 1
_EARLIEST, _LATEST = dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.datetime(3000, 1, 1, tzinfo=dt.UTC)
_PATTERN_BYTES_MAX = 255
_TOLD_CHARS = 40


def read_offset(text: str) -> Offset:
    """Read `first`, `last`, an offset, or a time in ISO 8601 (UTC where it names no zone); raises ConfigError.

    Offsets have 63 bits, times lie in the years 1970 to 2999: AMQP can not say others.
    """
    if text in _WORDS:
        return text
    if text.isascii() and text.isdecimal():
        if len(text) > len(str(_OFFSET_MAX)) or int(text) > _OFFSET_MAX:
            raise ConfigError(f"{text[:_TOLD_CHARS]!r} is larger than any offset")
        return int(text)
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not first, last, an offset, or a time like 2026-01-31T12:00:00Z") from None
    time = time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)
    if not _EARLIEST <= time < _LATEST:
        raise ConfigError(f"{text!r} lies before 1970 or after 2999")
    return time


def read_pattern(text: str) -> str:
    """Answer a pattern of topic words that AMQP can say; raises ConfigError."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ConfigError("the pattern is not UTF-8") from None
    if size > _PATTERN_BYTES_MAX:
        raise ConfigError(f"the pattern has {size} bytes, at most {_PATTERN_BYTES_MAX} can be bound")
    return text


def topic_matches(pattern: str, key: str) -> bool:
    """Say whether a topic exchange would route `key` along `pattern`: `*` is one word, `#` any number of them."""
    words = key.split(".") if key else []
    # Ends that the pattern so far can reach: a pattern of many # costs no more than its length times the key's.
    reached = {0}
    for part in pattern.split(".") if pattern else []:
        if part == "#":
            reached = set(range(min(reached), len(words) + 1))
        else:
            reached = {end + 1 for end in reached if end < len(words) and part in ("*", words[end])}
        if not reached:
            return False
    return len(words) in reached


def is_before(message: BusMessage, offset: Offset) -> bool:
    """Tell a message older than the time asked for: a stream begins with the whole chunk around it."""
    return isinstance(offset, dt.datetime) and message.published is not None and message.published < offset


def offset_of(message: BusMessage) -> int | None:
    """Where a stream queue keeps the message; None when it came from no stream."""
    value = message.headers.get("x-stream-offset")
    return value if isinstance(value, int) else None


def format_line(message: BusMessage) -> str:
    """One line: when it was published, key, body; what a terminal would act upon is written as an escape."""
    body = message.body.decode(errors="backslashreplace")
    return f"{_time_of(message) or '-':20} {printable(message.key)} {printable(body)}"


def format_json(message: BusMessage) -> str:
    """One JSON object: a body that is JSON stands in it digit by digit, any other one as text."""
    fields = {
        "time": _time_of(message),
        "offset": offset_of(message),
        "key": message.key,
        "message_id": message.message_id or None,
        "headers": {name: _plain(value) for name, value in message.headers.items() if not name.startswith("x-stream")},
        "body": _raw_body(message.body),
    }
    return msgspec.json.encode(fields).decode()


def printable(text: str) -> str:
    """Text in which all that a terminal would act upon, line ends included, is written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _time_of(message: BusMessage) -> str | None:
    return None if message.published is None else message.published.strftime("%Y-%m-%dT%H:%M:%SZ")


def _raw_body(body: bytes) -> msgspec.Raw | str:
    try:
        text = body.decode()  # msgspec does not look into text it skips
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return body.decode(errors="backslashreplace")
    # Line ends inside JSON can only stand between its tokens.
    return msgspec.Raw(text.replace("\r", " ").replace("\n", " ").encode())


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
