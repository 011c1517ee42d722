"""A feed against the sandbox: its protocol, its limits, its faults; REST restores what the stream lost."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import msgspec
import pytest

from common.clock import Clock
from common.errors import TryLater
from common.feed import BadFrame, Feed, FeedLimits, Subscribed
from common.rest import RestClient, RestLimits, WeightBudget
from common.venues import binance_spot
from common.venues.market import Cadence, Trade
from sandbox.config import Config
from sandbox.venue import Sandbox
from tests.integration.feed_venue import CADENCE, Recorder, recording

SYMBOLS = ("BTCUSDT", "ETHUSDT")
MARKET = Config(symbols=SYMBOLS, rate=200.0, history_rate=0.1, history_minutes=5, quiet_every=0)
LIMITS = FeedLimits(stale_after_s=2.5, overlap_s=0.3, retry_first_s=0.05, retry_max_s=0.2)


def make_feed(venue: Sandbox, limits: FeedLimits = LIMITS, symbols: tuple[str, ...] = SYMBOLS) -> Feed:
    feed = Feed(binance_spot.MARKET, venue.ws_url, limits, Clock(), "test", rng=random.Random(1))
    feed.want(frozenset(map(binance_spot.stream_of, symbols)))
    return feed


def ids_of(got: Recorder, symbol: str) -> list[int]:
    return [event.id for _, event in got.arrivals if isinstance(event, Trade) and event.symbol == symbol]


async def until_trading(got: Recorder, number: int = 1) -> None:
    for symbol in SYMBOLS:
        await got.until(
            lambda symbol=symbol: any(
                n >= number and isinstance(e, Trade) and e.symbol == symbol for n, e in got.arrivals
            )
        )


async def missing_after(got: Recorder, symbol: str, count: int) -> set[int]:
    """Wait for `count` more trades of a symbol, then tell which ids between its first and its last never came."""
    upto = max(ids_of(got, symbol)) + count
    await got.until(lambda: max(ids_of(got, symbol)) >= upto)
    seen = set(ids_of(got, symbol))
    return set(range(min(seen), max(seen) + 1)) - seen


async def test_life_after_life_no_trade_is_lost() -> None:
    config = replace(MARKET, connection_life_s=4.0, shutdown_notice_s=3.0)
    async with Sandbox(config) as venue, recording(make_feed(venue)) as got:
        await got.until(lambda: len(got.lost()) >= 3, within_s=20)
        assert all(lost.planned for _, lost in got.lost())
        for symbol in SYMBOLS:
            assert not await missing_after(got, symbol, 20)
        assert got.feed.rotations_total >= 3 and got.feed.reconnects_total == 0


async def test_what_a_cut_loses_rest_restores() -> None:
    async with Sandbox(MARKET) as venue, recording(make_feed(venue)) as got:
        await until_trading(got)
        venue.fault("cut", for_s=0.5)
        await got.until(lambda: len(got.lost()) == 1)
        await until_trading(got, got.lost()[0][0] + 1)
        assert not got.lost()[0][1].planned
        missing = await missing_after(got, "BTCUSDT", 10)
        assert missing
        async with RestClient(venue.rest_url, WeightBudget(), RestLimits()) as rest:
            request = binance_spot.agg_trades_request("BTCUSDT", from_id=min(missing), limit=len(missing))
            trades = binance_spot.parse_agg_trades(await rest.fetch(request), "BTCUSDT")
        assert {trade.id for trade in trades} == missing


async def test_silence_while_ponging() -> None:
    config = replace(MARKET, ping_every_s=0.5, pong_timeout_s=1.0)
    async with Sandbox(config) as venue, recording(make_feed(venue)) as got:
        await until_trading(got)
        venue.fault("silent", for_s=4.0)
        await got.until(lambda: len(got.lost()) == 1)
        assert "no data" in got.lost()[0][1].reason
        await until_trading(got, 2)


async def test_broken_and_huge_frames() -> None:
    async with Sandbox(MARKET) as venue, recording(make_feed(venue)) as got:
        await until_trading(got)
        venue.fault("malformed", symbol="BTCUSDT", next=3)
        await got.until(lambda: len(got.of(BadFrame)) == 3)
        assert not got.lost()
        assert not await missing_after(got, "BTCUSDT", 20)
        venue.fault("oversized", bytes=2**21)
        await got.until(lambda: len(got.lost()) == 1)
        await until_trading(got, 2)
        assert "big" in got.lost()[0][1].reason


async def test_a_full_slot_stays_within_the_venues_pace() -> None:
    """Five frames a second are allowed, pongs among them: more, and the sandbox hangs up."""
    symbols = tuple(f"S{n}USDT" for n in range(1, 200))
    config = replace(MARKET, symbols=symbols, ping_every_s=1.0)
    async with Sandbox(config) as venue:
        feed = make_feed(venue, symbols=symbols)
        async with recording(feed) as got:
            await got.until(lambda: len(feed.streams) == 200)
            for half in (symbols[:100], symbols[50:], symbols[:20], symbols, symbols[100:]):
                wanted = frozenset(map(binance_spot.stream_of, half)) | {CADENCE}
                feed.want(wanted)
                await got.until(lambda wanted=wanted: feed.streams == wanted)
            assert not got.lost()
            acked = next(i for i, (_, e) in enumerate(got.arrivals) if isinstance(e, Subscribed))
            await got.until(lambda: any(isinstance(e, Cadence) for _, e in got.arrivals[acked:]))


async def test_rest_answers_agree_with_the_stream() -> None:
    async with Sandbox(MARKET) as venue, recording(make_feed(venue)) as got:
        await until_trading(got)
        assert not await missing_after(got, "ETHUSDT", 100)
        streamed = {e.id: e for _, e in got.arrivals if isinstance(e, Trade) and e.symbol == "ETHUSDT"}
        async with RestClient(venue.rest_url, WeightBudget(), RestLimits()) as rest:
            request = binance_spot.agg_trades_request("ETHUSDT", from_id=min(streamed), limit=100)
            restored = binance_spot.parse_agg_trades(await rest.fetch(request), "ETHUSDT")
            assert len(restored) == 100
            for trade in restored:
                pushed = streamed[trade.id]
                assert msgspec.structs.replace(pushed, event_ms=pushed.time_ms) == trade
            now_ms = binance_spot.parse_time(await rest.fetch(binance_spot.time_request()))
            start_ms = now_ms - now_ms % 1000 - 3000
            span = binance_spot.klines_request("ETHUSDT", "1s", start_ms, now_ms)
            candles = binance_spot.parse_klines(await rest.fetch(span), closed_before_ms=now_ms)
            assert [c.open_s for c in candles][:3] == [start_ms // 1000 + n for n in range(3)]
            assert b'"ETHUSDT"' in await rest.fetch(binance_spot.exchange_info_request())


async def test_a_ban_stops_the_calls() -> None:
    async with Sandbox(MARKET) as venue, RestClient(venue.rest_url, WeightBudget(), RestLimits()) as rest:
        await rest.fetch(binance_spot.time_request())
        venue.fault("rest_ban", for_s=30.0)
        with pytest.raises(TryLater) as caught:
            await rest.fetch(binance_spot.time_request())
        assert caught.value.wait_s is not None and 25 < caught.value.wait_s <= 31
        venue.fault("clear")
        with pytest.raises(TryLater, match="pause"):
            await rest.fetch(binance_spot.time_request())


async def test_the_sandbox_counts_weight_as_we_do() -> None:
    budget = WeightBudget()
    async with Sandbox(MARKET) as venue, RestClient(venue.rest_url, budget, RestLimits()) as rest:
        for _ in range(5):
            await rest.fetch(binance_spot.agg_trades_request("BTCUSDT"))
        await rest.fetch(binance_spot.exchange_info_request())
        used = budget.used(asyncio.get_running_loop().time())
        assert used == 40
        # Nobody else uses this venue: what we may still spend is the limit less our own.
        assert budget.wait_s(6000 - used, asyncio.get_running_loop().time()) == 0
