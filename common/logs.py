"""JSON lines on stderr: one object per event, extra fields beside it, secrets masked."""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Mapping, Set

from common.redact import Mask

LOG_TEXT_CHARS_MAX = 8_000
"""Longer texts are cut: a frame or a query in a log line must not flood the journal."""
LOG_ITEMS_MAX = 200
LOG_DEPTH_MAX = 4

NOISY = ("aio_pika", "aiohttp", "aiormq", "apscheduler", "asyncpg", "httpcore", "httpx", "pamqp", "websockets")
"""Libraries that log every request or reconnect at INFO; we log the state changes ourselves."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS = frozenset({"time", "level", "logger", "event", "service", "exception", "stack"})


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object on one line; never raises."""

    def __init__(self, service: str, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._service = service
        self._mask = Mask(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """One line: time (UTC, ms), level, logger, event, service, the `extra` fields, exception, stack."""
        fields: dict[str, object] = {
            "time": _format_created(record.created),
            "level": record.levelname,
            "logger": record.name,
            "event": self._text(_message_of(record)),
            "service": self._service,
        }
        for key, value in vars(record).items():
            if key not in _STANDARD:
                fields[f"extra_{key}" if key in _OURS else key] = self._plain(value)
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = self._tail(self.formatException(record.exc_info))
        if record.stack_info:
            fields["stack"] = self._tail(record.stack_info)
        return json.dumps(fields, separators=(",", ":"))

    def _text(self, text: str) -> str:
        hidden = self._mask.hide(text)
        return hidden if len(hidden) <= LOG_TEXT_CHARS_MAX else hidden[:LOG_TEXT_CHARS_MAX] + "..."

    def _tail(self, text: str) -> str:
        # The end of a traceback says what went wrong.
        hidden = self._mask.hide(text)
        return hidden if len(hidden) <= LOG_TEXT_CHARS_MAX else "..." + hidden[-LOG_TEXT_CHARS_MAX:]

    def _plain(self, value: object, depth: int = 0) -> object:
        """Something JSON can carry; numbers JSON does not know and foreign objects become text."""
        if value is None or isinstance(value, (bool, int)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, (bytes, bytearray)):
            return self._text(value[: LOG_TEXT_CHARS_MAX + 1].decode(errors="backslashreplace"))
        if depth < LOG_DEPTH_MAX:
            if isinstance(value, Mapping):
                return self._plain_mapping(value, depth)  # pyright: ignore[reportUnknownArgumentType]
            if isinstance(value, (list, tuple, Set)):
                items: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType]
                shown = [self._plain(item, depth + 1) for item in items[:LOG_ITEMS_MAX]]
                return shown if len(items) <= LOG_ITEMS_MAX else [*shown, f"... {len(items)} in all"]
        return self._text(_describe(value))

    def _plain_mapping(self, value: Mapping[object, object], depth: int) -> dict[str, object]:
        items = list(value.items())
        return {self._text(str(key)): self._plain(item, depth + 1) for key, item in items[:LOG_ITEMS_MAX]}


def _format_created(created: float) -> str:
    moment = dt.datetime.fromtimestamp(created, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # arguments that do not fit: a log line must not cost the event
        return f"{record.msg} {record.args!r}"


def _describe(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a broken __str__ of a foreign object must not cost the event
        return f"<{type(value).__name__}: {type(error).__name__} in __str__>"


def configure_logging(service: str, level: str = "INFO", secrets: Iterable[str] = ()) -> None:
    """Send every log record to stderr as JSON; calling again replaces the former configuration.

    `secrets` are texts that no line may show. Warnings of Python go the same way.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service, secrets))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, JsonFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(True)


def write_last_words(event: str, **fields: object) -> None:
    """Log one critical line without locks or buffers, for a signal handler or a thread that ends the process next."""
    record = logging.makeLogRecord({"levelname": "CRITICAL", "name": __name__, "msg": event, **fields})
    formatters = (handler.formatter for handler in logging.getLogger().handlers)
    formatter = next((f for f in formatters if isinstance(f, JsonFormatter)), None) or JsonFormatter("")
    os.write(2, (formatter.format(record) + "\n").encode())
