"""The pure parts of a feed: subscription reconciling, the inbox, the address."""

import asyncio
import itertools
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.feed import stream_url
from common.feed_inbox import Inbox
from common.patience import Patience
from common.subscriptions import Subscriptions
from common.venues.market import Cadence


def test_the_cadence_stream_goes_first_and_names_are_batched() -> None:
    subs = Subscriptions("z@cadence", names_max=3, frames_per_s=2)
    subs.want(frozenset({"a", "b", "c", "d", "z@cadence"}))
    first = subs.next_frame(10.0)
    assert first is not None and (first.subscribe, first.streams) == (True, ("z@cadence", "a", "b"))
    assert subs.next_frame(10.4) is None
    assert subs.wait_s(10.4) == pytest.approx(0.1)
    second = subs.next_frame(10.5)
    assert second is not None and second.streams == ("c", "d")
    assert subs.wait_s(11.0) is None and subs.next_frame(11.0) is None
    assert not subs.settled
    assert subs.acked(second.id) == second and subs.acked(second.id) is None and subs.acked(99) is None
    assert subs.acked(first.id) == first
    assert subs.settled and subs.actual == {"a", "b", "c", "d", "z@cadence"}


def test_a_stream_dropped_before_its_ack_is_unsubscribed_after_it() -> None:
    subs = Subscriptions("z", names_max=10, frames_per_s=100)
    subs.want(frozenset({"z", "a"}))
    asked = subs.next_frame(0.0)
    subs.want(frozenset({"z"}))
    assert asked is not None and subs.next_frame(1.0) is None
    subs.acked(asked.id)
    dropped = subs.next_frame(2.0)
    assert dropped is not None and (dropped.subscribe, dropped.streams) == (False, ("a",))
    subs.want(frozenset({"z", "a"}))
    assert subs.next_frame(3.0) is None
    subs.acked(dropped.id)
    again = subs.next_frame(4.0)
    assert again is not None and (again.subscribe, again.streams) == (True, ("a",))


def test_a_frame_may_be_answered_stream_by_stream() -> None:
    subs = Subscriptions("z", names_max=10, frames_per_s=100)
    subs.want(frozenset({"z", "a", "b"}))
    asked = subs.next_frame(0.0)
    assert asked is not None
    for stream in ("b", "z"):
        answered = subs.acked(asked.id, stream)
        assert answered is not None and (answered.subscribe, answered.streams) == (True, (stream,))
        assert not subs.settled and subs.unanswered == {asked.id}
    assert subs.actual == {"b", "z"} and subs.next_frame(1.0) is None
    assert subs.acked(asked.id, "b") is None and subs.acked(asked.id, "c") is None
    assert subs.acked(asked.id, "a") is not None
    assert subs.settled and not subs.unanswered
    subs.want(frozenset({"z"}))
    dropped = subs.next_frame(2.0)
    assert dropped is not None and subs.acked(dropped.id, "a") is not None and subs.actual == {"z", "b"}
    assert subs.acked(dropped.id, "b") is not None and subs.settled


def test_a_refused_stream_is_left_alone_until_it_is_wanted_anew() -> None:
    subs = Subscriptions("z", names_max=10, frames_per_s=100)
    subs.want(frozenset({"z", "a"}))
    asked = subs.next_frame(0.0)
    assert asked is not None and not subs.refused("b")
    assert subs.refused("a") and not subs.refused("a")
    assert not subs.settled and subs.acked(asked.id, "z") is not None
    assert subs.settled and subs.actual == {"z"} and subs.next_frame(9.0) is None
    subs.want(frozenset({"z"}))
    subs.want(frozenset({"z", "a"}))
    again = subs.next_frame(10.0)
    assert again is not None and again.streams == ("a",)


def test_no_hour_holds_more_control_frames_than_the_venue_takes() -> None:
    subs, now, sent = Subscriptions("z", names_max=1, frames_per_s=2, frames_per_hour=5), 0.0, list[float]()
    subs.want(frozenset({"z", *map(str, range(11))}))
    while (wait_s := subs.wait_s(now)) is not None:
        now += wait_s
        control = subs.next_frame(now)
        assert control is not None
        sent.append(now)
        subs.acked(control.id)
        subs.note_sent(now)  # a keepalive does not shorten the wait
    assert sent[:5] == [0.0, 0.5, 1.0, 1.5, 2.0] and len(sent) == 12
    assert all(later - earlier >= 3600.0 for earlier, later in zip(sent, sent[5:], strict=False))


streams = st.frozensets(st.sampled_from("abcdefgh"), max_size=8)


@given(st.lists(streams | st.integers(0, 3) | st.floats(0, 1), max_size=40), streams)
def test_any_history_ends_in_the_wanted_set_within_the_pace(steps: list[object], last: frozenset[str]) -> None:
    subs, now, sent, waiting, venue = Subscriptions("z", names_max=3, frames_per_s=3), 0.0, [], [], set[str]()

    def send() -> None:
        if (control := subs.next_frame(now)) is not None:
            assert 0 < len(control.streams) <= 3
            sent.append(now)
            waiting.append(control)
            # The venue acts in order of sending, whatever the order of its answers.
            (venue.update if control.subscribe else venue.difference_update)(control.streams)

    for step in [*steps, last | {"z"}]:
        match step:
            case frozenset():
                subs.want(step)
            case int() if waiting:
                subs.acked(waiting.pop(step % len(waiting)).id)
            case float():
                now += step
            case _:
                pass
        send()
    for _ in range(40):
        while waiting:
            subs.acked(waiting.pop().id)
        now += subs.wait_s(now) or 0
        send()
    assert subs.settled and venue == subs.actual == last | {"z"}
    assert all(b - a >= 0.333 for a, b in itertools.pairwise(sent))


async def test_the_inbox_hands_over_everything_in_order_and_holds_producers_when_full() -> None:
    inbox = Inbox(events_max=3)
    taker = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    for n in range(3):
        inbox.put((1, Cadence(n)))
    assert [event for _, event in await taker] == [Cadence(0), Cadence(1), Cadence(2)]
    assert not inbox.full
    await asyncio.wait_for(inbox.room(), 1)
    for n in range(3):
        inbox.put((1, Cadence(n)))
    assert inbox.full
    held = asyncio.create_task(inbox.room())
    await asyncio.sleep(0)
    assert not held.done()
    assert len(await inbox.take()) == 3
    await asyncio.wait_for(held, 1)


async def test_a_closed_inbox_is_drained_first() -> None:
    inbox = Inbox(events_max=3)
    inbox.put((1, Cadence(1)))
    inbox.close()
    assert await inbox.take() == [(1, Cadence(1))]
    assert await inbox.take() == []


def test_the_query_of_a_stream_address_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert stream_url("wss://host:9443/stream?streams=a@aggTrade") == "wss://host:9443/stream"
    assert len(caplog.records) == 1
    caplog.clear()
    assert stream_url("ws://127.0.0.1:80/stream") == "ws://127.0.0.1:80/stream"
    assert not caplog.records


@pytest.mark.parametrize("url", ["", "http://host/", "wss://", "ws://host:port/", "ws://host:0/", "host/stream"])
def test_an_address_that_can_never_work_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError):
        stream_url(url)


NOTHING = frozenset[int]()


def test_patience_ends_after_silence_and_starts_anew_with_data() -> None:
    patience = Patience(stale_after_s=5, ack_timeout_s=5, step_max_s=0.5, now_s=100.0)
    for tick in range(1, 20):
        patience.look(100 + tick * 0.25, 0, 0, NOTHING, held=False)
        assert not patience.stale
    patience.look(104.9, 1, 1, NOTHING, held=False)
    for tick in range(1, 20):
        patience.look(104.9 + tick * 0.25, 1, 1, NOTHING, held=False)
        assert not patience.stale
    patience.look(109.95, 1, 1, NOTHING, held=False)
    assert patience.stale


def test_data_without_its_time_is_no_sign_of_life() -> None:
    patience = Patience(stale_after_s=5, ack_timeout_s=5, step_max_s=0.5, now_s=100.0)
    for tick in range(1, 20):
        patience.look(100 + tick * 0.25, tick, 0, NOTHING, held=False)
        assert not patience.untimed
    patience.look(105.0, 20, 0, NOTHING, held=False)
    assert patience.untimed and not patience.stale
    patience.look(105.25, 21, 1, NOTHING, held=False)
    assert not patience.untimed
    for tick in range(1, 20):
        # Silence is named by itself, however long ago the last cadence frame was.
        patience.look(105.25 + tick * 0.25, 22, 1, NOTHING, held=False)
    patience.look(110.25, 22, 1, NOTHING, held=False)
    patience.look(110.5, 22, 1, NOTHING, held=False)
    assert patience.stale and not patience.untimed


def test_time_in_which_we_did_not_listen_does_not_count() -> None:
    patience = Patience(stale_after_s=5, ack_timeout_s=5, step_max_s=0.5, now_s=0.0)
    patience.look(3600.0, 0, 0, frozenset({1}), held=False)
    patience.look(7200.0, 0, 0, frozenset({1}), held=False)
    for tick in range(100):
        patience.look(7200.0 + tick, 0, 0, frozenset({1}), held=True)
    assert not patience.stale and not patience.ignored


def test_every_control_frame_has_its_own_patience() -> None:
    patience = Patience(stale_after_s=50, ack_timeout_s=1, step_max_s=0.5, now_s=0.0)
    for tick in range(100):
        patience.look(tick * 0.4, 0, 0, frozenset({tick, tick + 1}), held=False)
        assert not patience.ignored
    for tick in range(100, 104):
        patience.look(tick * 0.4, 0, 0, frozenset({100}), held=False)
    assert patience.ignored
