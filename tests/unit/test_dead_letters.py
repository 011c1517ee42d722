"""What a dead letter says about itself, read from its headers alone."""

from __future__ import annotations

import datetime as dt
import json

import msgspec
import pytest

from common.errors import Refused
from common.publisher import dead_letter
from ops.dead_letters import Letter, choose_letters, distrust, format_letter, living_headers, number_twins, read_letter

AT = dt.datetime(2026, 1, 31, 12, 0, 5, tzinfo=dt.UTC)
DIED = dt.datetime(2026, 1, 31, 13, 0, 0, tzinfo=dt.UTC)


def ours(raw: bytes, source: str, reason: str = "not a frame") -> Letter:
    """As the publisher of the services makes it."""
    letter = dead_letter(raw, reason, source)
    return read_letter(letter.key, letter.message_id, json.loads(letter.headers), letter.body, AT)


def death(queue: str, exchange: str, key: str, reason: str = "delivery_limit") -> dict[str, object]:
    return {"count": 1, "reason": reason, "queue": queue, "time": DIED, "exchange": exchange, "routing-keys": [key]}


def test_a_frame_has_nowhere_to_go() -> None:
    letter = ours(b'{"broken', "ohlcv.frames")
    assert (letter.reason, letter.key, letter.time, letter.size) == ("not a frame", "ohlcv.frames", AT, 8)
    assert "ohlcv.frames" in (letter.obstacle or "")


def test_a_message_the_outbox_could_not_send_was_going_to_the_bus() -> None:
    letter = ours(b"{}", "outbox.price_updates.SOLUSDT.1m")
    assert (letter.exchange, letter.key, letter.obstacle) == ("trading.bus", "price_updates.SOLUSDT.1m", None)


def test_who_sent_a_letter_is_what_the_broker_checked() -> None:
    """Headers say anything; without a sender nobody vouches for them."""
    told = {"reason": "r", "source": "price_updates.SOLUSDT.1m", "user_id": "ohlcv"}
    forged = read_letter("k", "m", told, b"{}", AT, "features")
    assert (forged.sender, forged.obstacle) == ("features", None)
    assert "of features" in (distrust(forged, {"ohlcv"}) or "")
    assert distrust(forged, {"ohlcv", "features"}) is None
    assert "nobody the broker knows" in (distrust(read_letter("k", "m", told, b"{}", AT), {"ohlcv"}) or "")


def test_what_was_cut_can_not_go_again() -> None:
    letter = ours(b"x" * 70_000, "outbox.price_updates.SOLUSDT.1m")
    assert letter.size == 70_000
    assert "65536" in (letter.obstacle or "")


def test_the_brokers_letter_tells_its_first_way_and_its_last_death() -> None:
    headers = {"x-death": [death("second", "retry", "later"), death("first", "trading.bus", "symbol_events.updated")]}
    letter = read_letter("later", "id", headers, b"12345", AT)
    assert (letter.exchange, letter.key, letter.time) == ("trading.bus", "symbol_events.updated", DIED)
    assert letter.reason == "delivery_limit in second"
    assert (letter.size, letter.obstacle) == (5, None)
    straight = read_letter("q", "id", {"x-death": [death("q", "", "q")]}, b"", AT)
    assert (straight.exchange, straight.key, straight.obstacle) == ("", "q", None)


@pytest.mark.parametrize("headers", [{}, {"x-death": []}, {"x-death": "?"}, {"bytes": "many"}])
def test_a_letter_of_unknown_making_is_judged_by_its_key(headers: dict[str, object]) -> None:
    letter = read_letter("symbol_events.updated", "", headers, b"{}", None)
    assert (letter.reason, letter.obstacle, letter.time) == ("not told", None, None)
    assert read_letter("elsewhere", "", headers, b"{}", None).obstacle


def test_an_id_outlasts_every_look() -> None:
    first = read_letter("k", "m", {"reason": "r"}, b"body", AT)
    again = read_letter("k", "m", {"reason": "r", "x-delivery-count": 7, "x-acquired-count": 8}, b"body", AT)
    assert first.id == again.id
    others = [
        read_letter("k2", "m", {"reason": "r"}, b"body", AT),
        read_letter("k", "m2", {"reason": "r"}, b"body", AT),
        read_letter("k", "m", {"reason": "r2"}, b"body", AT),
        read_letter("k", "m", {"reason": "r"}, b"body2", AT),
        read_letter("k", "m", {"reason": "r"}, b"body", DIED),
    ]
    assert len({first.id, *(letter.id for letter in others)}) == 6


def test_twins_are_told_apart_and_chosen_by_their_names() -> None:
    one, other = ours(b"a", "ohlcv.frames"), ours(b"b", "ohlcv.frames")
    letters = number_twins([one, other, one, one])
    assert [letter.id for letter in letters] == [one.id, other.id, f"{one.id}-2", f"{one.id}-3"]
    assert choose_letters(letters, [f"{one.id}-3", one.id]) == [0, 3]
    assert choose_letters(letters, [other.id[:6], other.id]) == [1]
    for wrong in (one.id[:6], "zz", ""):
        with pytest.raises(Refused, match="names"):
            choose_letters(letters, [wrong])


def test_a_message_gets_back_the_headers_of_its_life() -> None:
    life = {"status": "ACTIVE", "bytes": 3}
    dead = {**life, "x-death": [], "x-first-death-queue": "q", "x-last-death-reason": "r", "x-delivery-count": 2}
    assert living_headers(dead, ours=False) == life
    assert living_headers({"reason": "r", "source": "s", "bytes": 1, "status": "ACTIVE"}, ours=True) == {
        "status": "ACTIVE"
    }


def test_a_line_of_the_list_is_one_line() -> None:
    letter = ours(b"x" * 1234, "ohlcv.frames", "bad\n\x1b[2J" + "y" * 500)
    line = format_letter(letter)
    assert line.isprintable()
    assert len(line) < 180
    for part in (letter.id, "2026-01-31T12:00:05Z", "1,234 B", "ohlcv.frames", r"bad\n", "[no replay]"):
        assert part in line
    assert "no replay" not in format_letter(msgspec.structs.replace(letter, obstacle=None, time=None))
