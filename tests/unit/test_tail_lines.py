"""What tail shows: patterns as a topic exchange reads them, lines that neither lie nor disturb a terminal."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from common.consuming import BusMessage
from common.errors import ConfigError
from ops.tail import tail
from ops.tail_lines import format_json, format_line, is_before, read_offset, topic_matches

AT = dt.datetime(2026, 1, 31, 12, 0, 5, tzinfo=dt.UTC)


def message(body: bytes, **headers: object) -> BusMessage:
    return BusMessage("price_updates.SOLUSDT.1s", "id#1", headers, body, AT)


@pytest.mark.parametrize(
    ("pattern", "key", "routed"),
    [
        ("#", "", True),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("a.#", "ab", False),
        ("#.c", "a.b.c", True),
        ("#.c", "c", True),
        ("#.c", "a.c.b", False),
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.c", False),
        ("a.*.c", "a.b.b.c", False),
        ("a.*", "a.", True),
        ("*", "", False),
        ("a.#.#.b", "a.b", True),
        ("#.*.#", "a.b", True),
        ("", "", True),
        ("a", "a.b", False),
        ("price_updates.*.1m", "price_updates.SOLUSDT.1s", False),
    ],
)
def test_patterns_as_a_topic_exchange_reads_them(pattern: str, key: str, routed: bool) -> None:
    assert topic_matches(pattern, key) is routed


WORDS = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5)
KEYS = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=5)


def slow(pattern: list[str], key: list[str]) -> bool:
    """The rule, word by word."""
    if not pattern:
        return not key
    if pattern[0] == "#":
        return slow(pattern[1:], key) or (bool(key) and slow(pattern, key[1:]))
    return bool(key) and pattern[0] in ("*", key[0]) and slow(pattern[1:], key[1:])


@given(WORDS, KEYS)
def test_patterns_agree_with_the_rule_word_by_word(pattern: list[str], key: list[str]) -> None:
    assert topic_matches(".".join(pattern), ".".join(key)) is slow(pattern, key)


def test_many_wildcards_cost_no_time() -> None:
    assert not topic_matches(".".join(["#", "a"] * 40), ".".join(["a"] * 39 + ["b"]))


def test_a_line_is_one_line() -> None:
    assert format_line(message(b'{"c":1.50}')) == '2026-01-31T12:00:05Z price_updates.SOLUSDT.1s {"c":1.50}'
    line = format_line(message(b"\x1b[2Jone\ntwo\xff\r"))
    assert line.endswith(r"\x1b[2Jone\ntwo\xff\r")
    assert line.isprintable()
    assert format_line(BusMessage("k", "", {}, b"x")).startswith("-")


BODIES = [b'{"v":1.2300000000000000001,"n":null}', b'{"a":1,\n\t"b":[1,\r\n2]}', b"3", b'"a\\nb"']


@pytest.mark.parametrize("body", BODIES)
def test_json_keeps_every_digit_of_a_json_body(body: bytes) -> None:
    line = format_json(message(body, **{"x-stream-offset": 7, "status": "ACTIVE"}))
    assert "\n" not in line
    read = json.loads(line, parse_float=str)
    assert read["body"] == json.loads(body, parse_float=str)
    assert (read["offset"], read["time"], read["message_id"]) == (7, "2026-01-31T12:00:05Z", "id#1")
    assert read["headers"] == {"status": "ACTIVE"}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"a":1}x', b'{"a":"\xff"}', b"[" * 5000])
def test_json_shows_any_other_body_as_text(body: bytes) -> None:
    line = format_json(message(body))
    assert json.loads(line)["body"] == body.decode(errors="backslashreplace")


def test_json_headers_that_json_can_not_carry_are_shown_as_text() -> None:
    read = json.loads(format_json(message(b"1", when=AT, raw=b"x")))
    assert read["headers"] == {"when": str(AT), "raw": str(b"x")}


@pytest.mark.parametrize(
    "words",
    [
        ("#", "--from", "99999999999999999999999"),
        ("#", "--from", str(2**63)),
        ("#", "--from", "9" * 5_000),
        ("#", "--from", "0001-01-01"),
        ("#", "--from", "9999-12-31T23:59:59-14:00"),
        ("x" * 256,),
        ("ü" * 128,),
        ("\udcff",),
    ],
)
def test_what_amqp_can_not_say_is_a_wrong_argument(words: tuple[str, ...]) -> None:
    # Nobody listens there: it is not even asked.
    result = CliRunner().invoke(tail, [*words, "--rmq-url", "amqp://u:p@127.0.0.1:1/"])
    assert isinstance(result.exception, ConfigError)


def test_offsets() -> None:
    assert read_offset(str(2**63 - 1)) == 2**63 - 1
    assert read_offset("first") == "first"
    assert read_offset("last") == "last"
    assert read_offset("12") == 12
    assert read_offset("2026-01-31T12:00:05Z") == AT
    assert read_offset("2026-01-31T13:00:05+01:00") == AT
    assert read_offset("2026-01-31T12:00:05") == AT
    for wrong in ("", "-1", "yesterday", "١", "next"):
        with pytest.raises(ConfigError):
            read_offset(wrong)


def test_what_was_published_before_the_time_asked_for_is_left_out() -> None:
    assert is_before(message(b""), AT + dt.timedelta(seconds=1))
    assert not is_before(message(b""), AT)
    assert not is_before(message(b""), 5)
    assert not is_before(BusMessage("k", "", {}, b""), AT)
