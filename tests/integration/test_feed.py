"""A feed against a real WebSocket server: what it delivers, what it survives, what it never does."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator

import msgspec
import pytest

from common.clock import Clock
from common.errors import BadInput
from common.feed import BadFrame, Feed, FeedLimits, Lost, Opened, Subscribed, Unsubscribed
from common.venues import binance_spot
from common.venues.market import Cadence, Message, Trade
from tests.integration.feed_venue import CADENCE, Recorder, Venue, aggtrade_text, recording

SOL = "solusdt@aggTrade"
READ_BYTES = 2**18
FAST = FeedLimits(
    open_timeout_s=2,
    close_timeout_s=0.5,
    stale_after_s=0.5,
    ack_timeout_s=0.5,
    overlap_s=0.2,
    retry_first_s=0.02,
    retry_max_s=0.1,
)
CALM = msgspec.structs.replace(FAST, stale_after_s=5.0, ack_timeout_s=5.0)


@pytest.fixture
async def venue() -> AsyncIterator[Venue]:
    venue = Venue()
    await venue.start()
    yield venue
    await venue.stop()


def make_feed(venue: Venue, limits: FeedLimits = FAST, **changes: object) -> Feed:
    market = msgspec.structs.replace(binance_spot.MARKET, **changes)
    feed = Feed(market, venue.url, limits, Clock(), "test", rng=random.Random(1))
    feed.want(frozenset({SOL}))
    return feed


async def until_live(recorder: Recorder, number: int = 1) -> None:
    await recorder.until(lambda: any(n >= number and isinstance(e, Cadence) for n, e in recorder.arrivals))


async def test_trades_arrive_in_order_after_their_subscription(venue: Venue) -> None:
    async with recording(make_feed(venue)) as got:
        await until_live(got)
        venue.trade(n=500)
        await got.until(lambda: len(got.ids()) == 500)
        assert got.ids() == list(range(1, 501))
        kinds = [type(event) for _, event in got.arrivals]
        assert kinds[:3] == [Opened, Subscribed, Cadence]
        assert got.of(Subscribed) == [(1, Subscribed(frozenset({SOL, CADENCE})))]
        assert got.feed.connected and got.feed.streams == {SOL, CADENCE}
        assert got.feed.data_age_s() < 1
        assert got.feed.frames_total >= 501
    assert got.lost()[-1][1].planned
    assert not got.feed.connected
    await venue.until(lambda: not venue.streams)


async def test_a_cut_is_an_event_and_the_next_connection_subscribes_again(venue: Venue) -> None:
    async with recording(make_feed(venue)) as got:
        for number in (1, 2, 3):
            await until_live(got, number)
            venue.trade()
            await got.until(lambda: got.ids()[-1:] == [venue.last_id])
            venue.cut()
            await got.until(lambda number=number: len(got.lost()) == number)
        assert [(number, lost.planned) for number, lost in got.lost()] == [(1, False), (2, False), (3, False)]
        await until_live(got, 4)
        for number in (1, 2, 3):
            own = [type(event) for n, event in got.arrivals if n == number]
            assert own[:3] == [Opened, Subscribed, Cadence] and own.count(Opened) == 1
        assert got.feed.reconnects_total == 3


async def test_silence_is_not_hidden_by_pongs(venue: Venue) -> None:
    async with recording(make_feed(venue)) as got:
        await until_live(got)
        venue.silent = True
        pongs = venue.pongs
        await got.until(lambda: len(got.lost()) == 1, within_s=3)
        assert venue.pongs > pongs
        number, lost = got.lost()[0]
        assert (number, lost.planned) == (1, False) and "no data" in lost.reason
        last_cadence = max(t for t, (_, e) in zip(got.times, got.arrivals, strict=True) if isinstance(e, Cadence))
        lost_at = got.times[got.arrivals.index((number, lost))]
        assert 0.45 <= lost_at - last_cadence < 1.0
        assert got.feed.data_age_s() >= 0.45
        venue.silent = False
        await until_live(got, 2)


async def test_an_ack_without_data_proves_nothing(venue: Venue) -> None:
    venue.silent = True
    async with recording(make_feed(venue)) as got:
        await got.until(lambda: len(got.lost()) >= 2)
        assert got.of(Subscribed)
        assert all("no data" in lost.reason for _, lost in got.lost())


async def test_trades_without_their_time_are_no_sign_of_life(venue: Venue) -> None:
    limits = msgspec.structs.replace(FAST, retry_first_s=0.05, retry_max_s=10.0)
    async with recording(make_feed(venue, limits)) as got:
        await until_live(got)
        venue.muted = CADENCE
        while len(got.lost()) < 5:
            venue.trade()
            await asyncio.sleep(0.02)
        assert [lost.reason for _, lost in got.lost()] == ["no cadence frame for 0.5 s"] * 5
        assert {number for number, event in got.arrivals if isinstance(event, Trade)} >= {1, 2, 3, 4, 5}
        by_kind = {kind: [t for t, (_, e) in zip(got.times, got.arrivals, strict=True) if isinstance(e, kind)]
                   for kind in (Opened, Lost)}  # fmt: skip
        waits = [b - a for a, b in zip(by_kind[Lost], by_kind[Opened][1:], strict=False)]
        # Full jitter: without growth four waits last at most 0.2 s.
        assert sum(waits) > 0.2
        venue.muted = None
        await until_live(got, 6)


async def test_an_unanswered_subscription_ends_the_connection(venue: Venue) -> None:
    venue.acking = False
    limits = msgspec.structs.replace(FAST, stale_after_s=5.0, ack_timeout_s=0.3)
    async with recording(make_feed(venue, limits)) as got:
        await got.until(lambda: len(got.lost()) == 1)
        assert "not answered" in got.lost()[0][1].reason
        venue.acking = True
        await until_live(got, 2)


async def test_frames_that_carry_nothing_are_no_sign_of_life(venue: Venue) -> None:
    async with recording(make_feed(venue)) as got:
        await until_live(got)
        venue.silent = True
        while not got.lost():
            venue.push('{"stream":"solusdt@bookTicker","data":{"u":1}}', SOL, anyway=True)
            venue.push('{"result":null,"id":1}', SOL, anyway=True)
            venue.push("not a frame", SOL, anyway=True)
            await asyncio.sleep(0.02)
        assert "no data" in got.lost()[0][1].reason


async def test_a_refused_subscription_backs_off_although_data_flows(venue: Venue) -> None:
    venue.refused = "zecusdt@aggTrade"
    limits = msgspec.structs.replace(CALM, retry_first_s=0.05, retry_max_s=10.0)
    feed = make_feed(venue, limits, frame_names_max=2, control_per_s=20.0)
    feed.want(frozenset({SOL, "zecusdt@aggTrade"}))
    async with recording(feed) as got:
        await got.until(lambda: len(got.lost()) == 7, within_s=20)
        assert all("Invalid request" in lost.reason for _, lost in got.lost())
        assert len({number for number, _ in got.of(Cadence)}) == 7
        by_kind = {kind: [t for t, (_, e) in zip(got.times, got.arrivals, strict=True) if isinstance(e, kind)]
                   for kind in (Opened, Lost)}  # fmt: skip
        waits = [b - a for a, b in zip(by_kind[Lost], by_kind[Opened][1:], strict=False)]
        # Full jitter: single waits may be short, the sum grows; without growth six waits last at most 0.3 s.
        assert sum(waits) > 0.6


async def test_control_frames_keep_the_venues_pace_and_size(venue: Venue) -> None:
    names = {f"s{n:03}usdt@aggTrade" for n in range(190)}
    async with recording(make_feed(venue, CALM, frame_names_max=50)) as got:
        got.feed.want(frozenset(names))
        await got.until(lambda: got.feed.streams == names | {CADENCE})
        for kept in range(150, 100, -10):
            got.feed.want(frozenset(sorted(names)[:kept]))
        await got.until(lambda: got.feed.streams == set(sorted(names)[:110]) | {CADENCE})
    frames = [frame for _, frame in venue.control]
    assert all(len(frame["params"]) <= 50 for frame in frames)
    assert frames[0]["params"][0] == CADENCE
    times = [t for t, _ in venue.control]
    assert all(b - a >= 0.3 for a, b in itertools.pairwise(times))
    subscribed = frozenset[str]().union(*(e.streams for _, e in got.of(Subscribed)))
    assert subscribed == names | {CADENCE}
    dropped = frozenset[str]().union(*(e.streams for _, e in got.of(Unsubscribed)))
    assert dropped == set(sorted(names)[110:])


async def test_more_streams_than_a_connection_carries_are_refused(venue: Venue) -> None:
    feed = make_feed(venue, streams_per_connection=3)
    feed.want(frozenset({"a", "b"}))
    feed.want(frozenset({"a", "b", CADENCE}))
    with pytest.raises(ValueError, match="4 streams"):
        feed.want(frozenset({"a", "b", "c"}))


async def keep_trading(venue: Venue) -> None:
    while True:
        venue.trade()
        await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def trading(venue: Venue) -> AsyncIterator[None]:
    task = asyncio.create_task(keep_trading(venue))
    try:
        yield
    finally:
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_whole(got: Recorder, upto: int) -> None:
    """Every id up to `upto` came, once the connection that carries on is past it.

    While a rotation is under way the newer connection may be ahead of it: an id sent before the newer one was
    subscribed is then still on its way on the older one.
    """
    gone = max(number for number, _ in got.lost())
    carrying = min(number for number, _ in got.arrivals if number > gone)
    await got.until(lambda: any(n == carrying and isinstance(e, Trade) and e.id >= upto for n, e in got.arrivals))
    ids = {id_ for id_ in got.ids() if id_ <= upto}
    assert ids == set(range(min(ids), upto + 1))


def assert_made_before_broken(got: Recorder, old: int, new: int, overlap_s: float) -> None:
    """The new connection had its cadence after all acks, and the overlap passed, before the old one ended."""
    lost_at = next(i for i, (n, e) in enumerate(got.arrivals) if n == old and (n, e) in got.lost())
    acked_at = next(i for i, (n, e) in enumerate(got.arrivals) if n == new and isinstance(e, Subscribed))
    cadence_at = next(
        i for i, (n, e) in enumerate(got.arrivals) if i > acked_at and n == new and isinstance(e, Cadence)
    )
    assert acked_at < cadence_at < lost_at
    assert got.times[lost_at] - got.times[cadence_at] >= overlap_s * 0.9
    assert not any(n == old for n, _ in got.arrivals[lost_at + 1 :])


async def test_rotation_overlaps_and_loses_no_trade(venue: Venue) -> None:
    limits = msgspec.structs.replace(CALM, rotate_after_s=0.5, overlap_s=0.6)
    async with recording(make_feed(venue, limits)) as got:
        await until_live(got)
        async with trading(venue):
            await got.until(lambda: len(got.lost()) >= 3)
            await until_whole(got, venue.last_id)
        lost = got.lost()
        assert [number for number, _ in lost[:3]] == [1, 2, 3] and all(event.planned for _, event in lost)
        for number in (1, 2, 3):
            assert_made_before_broken(got, number, number + 1, limits.overlap_s)
            own = [e.id for n, e in got.arrivals if n == number and isinstance(e, Trade)]
            assert own == sorted(own)
        assert got.feed.rotations_total >= 3 and got.feed.reconnects_total == 0
        assert len(venue.streams) <= 2


async def test_the_venues_notice_starts_a_rotation(venue: Venue) -> None:
    async with recording(make_feed(venue, CALM)) as got:
        await until_live(got)
        async with trading(venue):
            venue.push('{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}', CADENCE)
            await got.until(lambda: len(got.lost()) == 1)
            await until_whole(got, venue.last_id)
        assert got.lost()[0][1].planned
        assert_made_before_broken(got, 1, 2, CALM.overlap_s)


async def test_a_rotation_that_fails_keeps_the_old_connection(venue: Venue) -> None:
    async with recording(make_feed(venue, CALM)) as got:
        await until_live(got)
        venue.refusing = True
        async with trading(venue):
            venue.push('{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}', CADENCE)
            await got.until(lambda: venue.handshakes >= 5)
            assert not got.lost()
            venue.refusing = False
            await got.until(lambda: len(got.lost()) == 1)
            await until_whole(got, venue.last_id)
        assert got.lost()[0][1].planned


async def test_an_old_connection_that_dies_while_the_new_one_opens(venue: Venue) -> None:
    limits = msgspec.structs.replace(CALM, overlap_s=1.0)
    async with recording(make_feed(venue, limits)) as got:
        await until_live(got)
        first = next(iter(venue.streams))
        venue.push('{"e":"serverShutdown","E":1}', CADENCE)
        await venue.until(lambda: len(venue.streams) == 2)
        first.transport.abort()
        await got.until(lambda: len(got.lost()) == 1)
        assert got.lost()[0][0] == 1 and not got.lost()[0][1].planned
        await until_live(got, 2)
        venue.trade()
        await got.until(lambda: got.ids() == [venue.last_id])
        assert len(venue.streams) == 1


async def test_a_wish_during_rotation_reaches_both_connections(venue: Venue) -> None:
    limits = msgspec.structs.replace(CALM, overlap_s=0.8)
    async with recording(make_feed(venue, limits)) as got:
        await until_live(got)
        venue.push('{"e":"serverShutdown","E":1}', CADENCE)
        await venue.until(lambda: len(venue.streams) == 2)
        got.feed.want(frozenset({SOL, "ethusdt@aggTrade"}))
        await venue.until(lambda: all("ethusdt@aggTrade" in s for s in venue.streams.values()))
        await got.until(lambda: len(got.lost()) == 1)


async def test_a_malformed_frame_is_reported_and_the_connection_goes_on(venue: Venue) -> None:
    async with recording(make_feed(venue)) as got:
        await until_live(got)
        venue.trade()
        venue.push('{"stream":"solusdt@aggTrade","data":{"e":"aggTrade","E":1', SOL)
        venue.push("x" * 100_000, SOL)
        venue.trade()
        await got.until(lambda: len(got.ids()) == 2)
        (_, first), (_, second) = got.of(BadFrame)
        assert isinstance(first, BadFrame) and first.raw.startswith(b'{"stream":"sol') and first.reason
        assert isinstance(second, BadFrame) and len(second.raw) == FAST.bad_frame_bytes_kept
        assert got.feed.bad_total == 2 and not got.lost()


async def test_a_message_in_pieces_is_one_message_in_its_place(venue: Venue) -> None:
    async with recording(make_feed(venue, CALM)) as got:
        await until_live(got)
        text = aggtrade_text("SOLUSDT", 2)
        connection = next(iter(venue.streams))
        await connection.send(aggtrade_text("SOLUSDT", 1))
        await connection.send([text[:20], text[20:90], text[90:]])
        await connection.send(aggtrade_text("SOLUSDT", 3))
        await got.until(lambda: len(got.ids()) == 3)
        assert got.ids() == [1, 2, 3]
        assert not got.of(BadFrame) and not got.lost()


async def test_a_reader_that_rests_takes_several_frames_at_once_and_loses_none(venue: Venue) -> None:
    async with recording(make_feed(venue, msgspec.structs.replace(CALM, rest_s=0.1))) as got:
        await until_live(got)
        for _ in range(30):
            venue.trade()
            await asyncio.sleep(0.01)  # each frame on its own
        await got.until(lambda: len(got.ids()) == 30)
        assert got.ids() == list(range(1, 31))
        came = {time for time, (_, event) in zip(got.times, got.arrivals, strict=True) if isinstance(event, Trade)}
        assert len(came) <= 15
        assert not got.lost()


async def test_an_oversized_frame_ends_the_connection_only(venue: Venue) -> None:
    limits = msgspec.structs.replace(FAST, frame_bytes_max=10_000)
    async with recording(make_feed(venue, limits)) as got:
        await until_live(got)
        venue.push("y" * 10_001, SOL)
        await got.until(lambda: len(got.lost()) == 1)
        assert "big" in got.lost()[0][1].reason and not got.lost()[0][1].planned
        await until_live(got, 2)


async def test_a_slow_consumer_holds_the_venue_back_and_loses_nothing(venue: Venue) -> None:
    limits = msgspec.structs.replace(FAST, buffer_events_max=50)
    feed = make_feed(venue, limits)
    total = 20_000
    async with contextlib.aclosing(feed.events()) as batches:
        ids: list[int] = []
        largest = 0
        sent = False
        async for batch in batches:
            largest = max(largest, len(batch))
            ids += [e.id for _, e in batch if isinstance(e, Trade)]
            assert not any(isinstance(e, BadFrame) for _, e in batch)
            if not sent and any(isinstance(e, Cadence) for _, e in batch):
                sent = True
                venue.trade(n=total)
                # Longer than stale_after_s: a consumer that does not look is not the venue's silence.
                await asyncio.sleep(0.8)
            if len(ids) == total:
                break
    assert ids == list(range(1, total + 1))
    # What one read of the socket holds comes on top.
    assert largest <= limits.buffer_events_max + READ_BYTES / len(aggtrade_text("BTCUSDT", 1))
    assert feed.reconnects_total == 0


async def test_a_venue_that_is_away_is_asked_again_and_again_within_the_budget(venue: Venue) -> None:
    venue.refusing = True
    limits = msgspec.structs.replace(FAST, retry_first_s=0.001, retry_max_s=0.001, attempts_max=5, attempts_window_s=1)
    async with recording(make_feed(venue, limits)) as got:
        await asyncio.sleep(0.7)
        assert venue.handshakes == 5 and not got.arrivals
        venue.refusing = False
        await until_live(got)
        assert venue.handshakes == 6
        assert [number for number, _ in got.of(Opened)] == [6]


async def test_nobody_listens() -> None:
    venue = Venue()
    await venue.start()
    await venue.stop()
    async with recording(make_feed(venue)) as got:
        await asyncio.sleep(0.3)
        assert got.feed.refusals_total > 2 and not got.feed.connected and not got.arrivals
        # An outage is one lost connection at most, not one for every attempt to end it.
        assert got.feed.reconnects_total == 0


async def test_a_keepalive_text_is_sent(venue: Venue) -> None:
    limits = msgspec.structs.replace(FAST, keepalive_every_s=0.1)
    async with recording(make_feed(venue, limits, keepalive_text="ping")):
        await venue.until(lambda: venue.texts == ["ping"] * 3)


async def test_cancelling_the_consumer_leaves_nothing_behind(venue: Venue) -> None:
    before = asyncio.all_tasks()
    feed = make_feed(venue)

    async def consume() -> None:
        async with contextlib.aclosing(feed.events()) as batches:
            async for _ in batches:
                pass

    task = asyncio.create_task(consume())
    await venue.until(lambda: any(venue.streams.values()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not {t for t in asyncio.all_tasks() - before if t.get_name().startswith("feed")}
    await venue.until(lambda: not venue.streams)


async def test_closing_while_connecting() -> None:
    hung_up = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()
        hung_up.set()

    quiet = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = quiet.sockets[0].getsockname()[1]
    feed = Feed(binance_spot.MARKET, f"ws://127.0.0.1:{port}/stream", FAST, Clock(), "test")
    async with recording(feed) as got:
        await asyncio.sleep(0.1)
    assert not got.arrivals
    await asyncio.wait_for(hung_up.wait(), 2)
    quiet.close()


async def test_closing_while_the_consumer_does_not_drain(venue: Venue) -> None:
    limits = msgspec.structs.replace(FAST, buffer_events_max=20)
    feed = make_feed(venue, limits)
    batches = feed.events()
    await anext(batches)
    await venue.until(lambda: any(venue.streams.values()))
    venue.trade(n=5000)
    await asyncio.sleep(0.2)
    async with asyncio.timeout(3):
        await feed.close()
        rest = [batch async for batch in batches]
    assert rest[-1][-1][1].planned
    await venue.until(lambda: not venue.streams)


async def test_an_error_of_ours_reaches_the_consumer(venue: Venue) -> None:
    def parse(raw: bytes | str) -> Message:
        if b"aggTrade" in bytes(raw if isinstance(raw, bytes) else raw.encode()):
            raise KeyError("a bug")
        return binance_spot.parse(raw)

    feed = make_feed(venue, parse=parse)
    recorder = Recorder(feed)
    await until_live(recorder)
    venue.trade()
    with pytest.raises(KeyError, match="a bug"):
        await asyncio.wait_for(recorder.task, 5)
    await venue.until(lambda: not venue.streams)


async def test_a_parser_may_only_say_bad_input(venue: Venue) -> None:
    def parse(raw: bytes | str) -> Message:
        raise BadInput("nothing is good enough")

    async with recording(make_feed(venue, parse=parse)) as got:
        await got.until(lambda: len(got.of(BadFrame)) == 1)
        await got.until(lambda: len(got.lost()) == 1)


async def test_events_can_be_iterated_once(venue: Venue) -> None:
    async with recording(make_feed(venue)) as got:
        await until_live(got)
        with pytest.raises(RuntimeError, match="once"):
            await anext(got.feed.events())
