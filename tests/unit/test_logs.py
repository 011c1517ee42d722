import datetime as dt
import io
import json
import logging
from decimal import Decimal

import pytest

from common.logs import LOG_TEXT_CHARS_MAX, NOISY, JsonFormatter, configure_logging


@pytest.fixture
def out():
    return io.StringIO()


@pytest.fixture
def written(monkeypatch, out):
    """The log after configure_logging, as parsed lines; the loggers are put back afterwards."""
    monkeypatch.setattr("sys.stderr", out)
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    configure_logging("ohlcv", "DEBUG", {"hunter22", "pw"})
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.NOTSET)


log = logging.getLogger("some.module")


def test_one_object_per_event_with_its_fields(written):
    log.info("gap opened", extra={"symbol": "BTCUSDT", "from_id": 7, "price": Decimal("1.10"), "ids": (1, 2)})
    (line,) = written()
    moment = dt.datetime.fromisoformat(line.pop("time"))
    assert abs(dt.datetime.now(dt.UTC) - moment) < dt.timedelta(minutes=1)
    assert line == {
        "level": "INFO",
        "logger": "some.module",
        "event": "gap opened",
        "service": "ohlcv",
        "symbol": "BTCUSDT",
        "from_id": 7,
        "price": "1.10",
        "ids": [1, 2],
    }


def test_time_is_utc_with_milliseconds():
    record = logging.makeLogRecord({"msg": "x", "created": 1700000000.0429})
    assert json.loads(JsonFormatter("s").format(record))["time"] == "2023-11-14T22:13:20.042Z"


def test_exception_is_one_field_on_one_line(written):
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("it broke")
    (line,) = written()
    assert line["exception"].startswith("Traceback") and line["exception"].endswith("ValueError: first\nsecond")


def test_secrets_are_masked_everywhere(written):
    try:
        raise RuntimeError("login with hunter22 failed")
    except RuntimeError:
        log.exception(
            "bad %s", "hunter22", extra={"a": ["hunter22"], "b": {"hunter22": b"hunter22"}, "c": ValueError("hunter22")}
        )
    log.info("connect amqp://u:pw@h/ now")
    assert "hunter22" not in json.dumps(written()) and written()[0]["event"] == "bad ***"
    assert written()[1]["event"] == "connect amqp://u:***@h/ now"


def test_foreign_values_never_break_a_line(written):
    class Broken:
        def __str__(self):
            raise RuntimeError("no")

    deep: list = []
    deep.append(deep)
    log.info("x", extra={"a": Broken(), "b": float("nan"), "c": deep, "d": {1: {2}}, "e": "\udc80\n"})
    (line,) = written()
    assert "Broken" in line["a"] and line["b"] == "nan" and line["d"] == {"1": [2]}


def test_arguments_that_do_not_fit_keep_the_event():
    record = logging.makeLogRecord({"msg": "two %d", "args": ("words",)})
    event = json.loads(JsonFormatter("s").format(record))["event"]
    assert "two %d" in event and "words" in event


def test_our_fields_are_not_overwritten_and_long_texts_are_cut(written):
    log.info("x" * (LOG_TEXT_CHARS_MAX + 50), extra={"time": 1, "service": "other", "level": 9})
    (line,) = written()
    assert line["service"] == "ohlcv" and line["level"] == "INFO"
    assert (line["extra_time"], line["extra_service"], line["extra_level"]) == (1, "other", 9)
    assert len(line["event"]) == LOG_TEXT_CHARS_MAX + 3


def test_libraries_are_quiet_and_reconfiguring_does_not_double(written, monkeypatch, out):
    monkeypatch.setattr("sys.stderr", out)  # the capture of pytest put its own back since the set-up
    configure_logging("ohlcv", "INFO")
    for name in ("httpx", "aio_pika.robust_connection", "aiormq.connection", "asyncpg.pool", "websockets.client"):
        logging.getLogger(name).info("noise")
    logging.getLogger("asyncpg").warning("once")
    assert [line["event"] for line in written()] == ["once"]
