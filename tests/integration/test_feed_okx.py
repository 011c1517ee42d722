"""A feed of OKX spot against the sandbox: other words, the same promises."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from common.backoff import AttemptBudget
from common.clock import Clock
from common.errors import Refused, TryLater
from common.feed import BadFrame, Feed, FeedLimits, Lost, Opened, Subscribed, Unsubscribed
from common.numbers import format_scaled
from common.rest import RestClient, RestLimits, WeightBudget
from common.venues import okx_spot
from common.venues.market import Cadence, Trade
from sandbox.config import Config
from sandbox.venue import Sandbox
from tests.integration.feed_venue import Recorder, recording

INST_IDS = ("BTC-USDT", "ETH-USDT")
MARKET = Config(
    symbols=("BTCUSDT", "ETHUSDT"), rate=200.0, history_rate=0.1, history_minutes=5, quiet_every=0, okx=True
)
LIMITS = FeedLimits(stale_after_s=2.5, overlap_s=0.6, retry_first_s=0.05, retry_max_s=0.2)
CADENCE = okx_spot.MARKET.cadence_stream


def make_feed(venue: Sandbox, limits: FeedLimits = LIMITS, inst_ids: tuple[str, ...] = INST_IDS) -> Feed:
    attempts = AttemptBudget(okx_spot.CONNECTS_MAX, okx_spot.CONNECTS_WINDOW_S)
    feed = Feed(okx_spot.MARKET, venue.okx_ws_url, limits, Clock(), "test", attempts, random.Random(1))
    feed.want(frozenset(map(okx_spot.stream_of, inst_ids)))
    return feed


def trades_of(got: Recorder, inst_id: str, number: int = 1) -> list[Trade]:
    return [e for n, e in got.arrivals if isinstance(e, Trade) and e.symbol == inst_id and n >= number]


async def until_trading(got: Recorder, number: int = 1) -> None:
    for inst_id in INST_IDS:
        # The first one may be older than the subscription.
        await got.until(lambda inst_id=inst_id: len(trades_of(got, inst_id, number)) > 1)


async def missing_after(got: Recorder, inst_id: str, count: int) -> set[int]:
    """Wait for `count` more ids of an instrument, then tell which between its first and its last never came."""
    upto = max(t.last for t in trades_of(got, inst_id)) + count
    await got.until(lambda: max(t.last for t in trades_of(got, inst_id)) >= upto)
    trades = trades_of(got, inst_id)
    seen = {id_ for t in trades for id_ in range(t.first, t.last + 1)}
    return set(range(min(t.last for t in trades), max(seen) + 1)) - seen


def cadence_of(got: Recorder) -> list[int]:
    return [event.event_ms for _, event in got.arrivals if isinstance(event, Cadence)]


@asynccontextmanager
async def rest_of(venue: Sandbox) -> AsyncIterator[RestClient]:
    budget = WeightBudget(okx_spot.REST_LIMIT, window_s=okx_spot.REST_WINDOW_S)
    limits = RestLimits(no_hint_pause_s=okx_spot.REST_PAUSE_S)
    async with RestClient(venue.rest_url, budget, limits) as rest:
        yield rest


async def test_every_stream_is_acknowledged_before_it_is_trusted() -> None:
    async with Sandbox(MARKET) as venue, recording(make_feed(venue)) as got:
        await until_trading(got)
        wanted = {CADENCE, *map(okx_spot.stream_of, INST_IDS)}
        assert got.feed.streams == wanted
        acked = [event.streams for _, event in got.of(Subscribed) if isinstance(event, Subscribed)]
        assert len(acked) == 3 and set().union(*acked) == wanted
        assert isinstance(got.arrivals[0][1], Opened)
        await got.until(lambda: len(cadence_of(got)) >= 3)
        stamps = cadence_of(got)
        assert stamps == [stamps[0] + 500 * n for n in range(len(stamps))]
        assert got.feed.data_age_s() < 1 and not got.lost()
        for inst_id in INST_IDS:
            trades = trades_of(got, inst_id)
            assert trades[0].time_ms < stamps[0] and not await missing_after(got, inst_id, 100)
            assert all(b.first == a.last + 1 for a, b in pairwise(trades))


async def test_frames_of_several_trades_come_apart_in_order() -> None:
    config = replace(MARKET, symbols=("BTCUSDT",), okx_trades_per_frame=50, tick_ms=200)
    async with Sandbox(config) as venue, recording(make_feed(venue, inst_ids=("BTC-USDT",))) as got:
        await got.until(lambda: len(trades_of(got, "BTC-USDT")) > 1)
        assert not await missing_after(got, "BTC-USDT", 400)
        sent = venue.okx_oracle.status()
        assert sum(sent["sent_frames"].values()) < sum(sent["sent"].values()) / 2  # type: ignore[attr-defined]
        ids = [trade.id for trade in trades_of(got, "BTC-USDT")]
        assert ids == sorted(ids)


async def test_no_clock_frame_overtakes_a_trade() -> None:
    async with Sandbox(MARKET) as venue, recording(make_feed(venue)) as got:
        await got.until(lambda: len(cadence_of(got)) >= 6)
        told = 0
        for _, event in got.arrivals[next(i for i, (_, e) in enumerate(got.arrivals) if isinstance(e, Cadence)) :]:
            if isinstance(event, Cadence):
                told = event.event_ms
            elif isinstance(event, Trade):
                assert event.time_ms >= told


async def test_silence_is_not_hidden_by_pongs() -> None:
    limits = msgspec.structs.replace(LIMITS, keepalive_every_s=0.2)
    async with Sandbox(MARKET) as venue, recording(make_feed(venue, limits)) as got:
        await until_trading(got)
        venue.fault("silent", venue="okx", for_s=4.0)
        frames = got.feed.frames_total
        await got.until(lambda: len(got.lost()) == 1)
        assert "no data" in got.lost()[0][1].reason
        assert got.feed.frames_total >= frames + 5  # pongs
        await until_trading(got, 2)
        assert await missing_after(got, "BTC-USDT", 10)


async def test_the_keepalive_text_keeps_a_quiet_connection_open() -> None:
    """The venue hangs up after a second without a frame; only our pings bring one."""
    limits = msgspec.structs.replace(LIMITS, keepalive_every_s=0.3, stale_after_s=3.0)
    async with Sandbox(replace(MARKET, okx_idle_s=1.0)) as venue, recording(make_feed(venue, limits)) as got:
        await until_trading(got)
        venue.fault("silent", venue="okx", for_s=30.0)
        await got.until(lambda: len(got.lost()) == 1)
        assert "no data" in got.lost()[0][1].reason and "4004" not in got.lost()[0][1].reason
        venue.fault("clear", venue="okx")
        await until_trading(got, got.lost()[-1][0] + 1)
    deaf = msgspec.structs.replace(LIMITS, keepalive_every_s=60.0, stale_after_s=8.0)
    async with Sandbox(replace(MARKET, okx_idle_s=1.0)) as venue, recording(make_feed(venue, deaf)) as got:
        await until_trading(got)
        venue.fault("silent", venue="okx", for_s=30.0)
        await got.until(lambda: len(got.lost()) == 1)
        assert "4004" in got.lost()[0][1].reason


async def test_the_notice_of_an_upgrade_starts_a_rotation_that_loses_nothing() -> None:
    async with Sandbox(MARKET) as venue, recording(make_feed(venue)) as got:
        await until_trading(got)
        venue.fault("shutdown", venue="okx", after_s=10.0)
        await got.until(lambda: len(got.lost()) == 1)
        assert got.lost()[0] == (1, Lost("closed by us", planned=True))
        await until_trading(got, 2)
        for inst_id in INST_IDS:
            assert not await missing_after(got, inst_id, 20)
        assert (got.feed.rotations_total, got.feed.reconnects_total) == (1, 0)


async def test_a_cut_leaves_a_hole_and_ids_tell_what_came_twice() -> None:
    async with Sandbox(MARKET) as venue, recording(make_feed(venue)) as got:
        await until_trading(got)
        venue.fault("cut", venue="okx", for_s=0.5)
        await got.until(lambda: len(got.lost()) == 1)
        assert not got.lost()[0][1].planned
        await until_trading(got, got.lost()[0][0] + 1)
        missing = await missing_after(got, "BTC-USDT", 10)
        market = venue.stages["okx"].market
        lost = market.from_id("BTCUSDT", min(missing), len(missing), market.clock.now_ms())
        assert missing == {id_ for t in lost for id_ in range(t.first, t.last + 1) if t.last <= max(missing)}
        venue.fault("duplicate", venue="okx", symbol="ETHUSDT", next=2)
        await missing_after(got, "ETH-USDT", 40)
        ids = [trade.id for trade in trades_of(got, "ETH-USDT", 2)]
        assert len(ids) - len(set(ids)) == 2


async def test_a_delisted_instrument_does_not_take_the_others_along() -> None:
    async with Sandbox(MARKET) as venue:
        feed = make_feed(venue, inst_ids=(*INST_IDS, "GONE-USDT"))
        async with recording(feed) as got:
            await until_trading(got)
            assert feed.streams == {CADENCE, *map(okx_spot.stream_of, INST_IDS)}
            venue.fault("shutdown", venue="okx", after_s=10.0)
            await got.until(lambda: len(got.lost()) == 1)
            assert got.lost()[0][1].planned and feed.reconnects_total == 0
            feed.want(frozenset({okx_spot.stream_of("ETH-USDT")}))
            gone = frozenset({okx_spot.stream_of("BTC-USDT")})
            await got.until(lambda: any(e == Unsubscribed(gone) for _, e in got.arrivals))


async def test_what_the_venue_refuses_as_a_whole_ends_the_connection() -> None:
    async with Sandbox(MARKET) as venue:
        broken = msgspec.structs.replace(okx_spot.MARKET, subscribe_frame=lambda streams, id_: f'{{"id":"{id_}"}}')
        feed = Feed(broken, venue.okx_ws_url, LIMITS, Clock(), "test", rng=random.Random(1))
        async with recording(feed) as got:
            await got.until(lambda: len(got.lost()) >= 2)
            assert "60012" in got.lost()[0][1].reason


async def test_broken_frames_are_reported() -> None:
    async with Sandbox(MARKET) as venue, recording(make_feed(venue)) as got:
        await until_trading(got)
        venue.fault("malformed", venue="okx", symbol="BTCUSDT", next=3)
        await got.until(lambda: len(got.of(BadFrame)) == 3)
        assert not got.lost() and not await missing_after(got, "BTC-USDT", 20)


async def test_a_full_slot_is_acknowledged_one_by_one() -> None:
    symbols = tuple(f"S{n}USDT" for n in range(1, 200))
    async with Sandbox(replace(MARKET, symbols=symbols)) as venue:
        feed = make_feed(venue, inst_ids=tuple(f"S{n}-USDT" for n in range(1, 200)))
        async with recording(feed) as got:
            await got.until(lambda: len(feed.streams) == 200)
            assert not got.lost()
            assert len([e for _, e in got.of(Subscribed)]) == 200


async def test_candles_are_the_recount_of_the_same_venue() -> None:
    async with Sandbox(MARKET) as venue, rest_of(venue) as rest:
        candles = okx_spot.parse_candles(await rest.fetch(okx_spot.candles_request("ETH-USDT", limit=4)))
        assert len(candles) == 3
        told = await venue.okx_oracle.bars("ETHUSDT", candles[0].open_s, candles[-1].open_s + 60)
        scale = okx_spot.SCALE
        for candle, bar in zip(candles, told, strict=True):
            prices = [format_scaled(p, scale) for p in (candle.open, candle.high, candle.low, candle.close)]
            assert prices == [bar[key] for key in "ohlc"]
            assert format_scaled(candle.vol, scale) == bar["v"]
            assert format_scaled(candle.quote_vol, 2 * scale) == bar["quote_vol"]
        others = await venue.oracle.bars("ETHUSDT", candles[0].open_s, candles[-1].open_s + 60)
        assert [bar["v"] for bar in others] != [bar["v"] for bar in told]
        listed = okx_spot.parse_instruments(await rest.fetch(okx_spot.instruments_request("SPOT")))
        assert [(i.inst_id, i.state) for i in listed] == [(inst_id, "live") for inst_id in INST_IDS]
        assert abs(okx_spot.parse_time(await rest.fetch(okx_spot.time_request())) - Clock().wall_ms()) < 2000
        answer = await rest.fetch(okx_spot.candles_request("GONE-USDT"))
        with pytest.raises(Refused, match="51001"):
            okx_spot.parse_candles(answer)


@pytest.mark.parametrize("status", [429, 200])
async def test_a_rate_limit_asks_for_patience_whatever_its_status(status: int) -> None:
    async with Sandbox(replace(MARKET, okx_limit_status=status)) as venue, rest_of(venue) as rest:
        venue.fault("rest_ban", venue="okx", for_s=30.0)
        with pytest.raises(TryLater) as caught:
            okx_spot.parse_time(await rest.fetch(okx_spot.time_request()))
        assert caught.value.wait_s == okx_spot.REST_PAUSE_S and "50011" in str(caught.value)


async def test_our_budget_never_meets_the_venues_limit() -> None:
    async with Sandbox(MARKET) as venue, rest_of(venue) as rest:
        for _ in range(12):
            okx_spot.parse_time(await rest.fetch(okx_spot.time_request()))
        assert venue.okx_oracle.status()["requests_refused"] == 0
