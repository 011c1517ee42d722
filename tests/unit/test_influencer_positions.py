"""What a fill does to a position, what its signal says, and that the signal fits its contract."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts import SignalMessage, SignalRow, signal_message
from influencer_ingestor import hyperliquid as venue
from influencer_ingestor.events import Arrived, Fill, Source
from influencer_ingestor.positions import (
    Action,
    Change,
    Side,
    coin_of,
    derive_change,
    is_known,
    is_spot,
    label_agrees,
    market_of,
    own_liquidation,
)
from influencer_ingestor.signals import Margin, Silence, make_signal, signal_id
from tests.message_check import find_fault
from tests.unit.influencer_world import ACCOUNT, T0, USER, arrive, make_fill, recount

CASES = Path(__file__).parents[1] / "fixtures/hyperliquid/userFills_cases.json"


def cases() -> tuple[Fill, ...]:
    told = venue.parse(CASES.read_bytes())
    assert isinstance(told, venue.Fills)
    return told.fills


def signal(fill: Fill, **other: Any) -> SignalRow:
    row = make_signal(arrive(fill), ACCOUNT, **other)
    assert isinstance(row, SignalRow), row
    return row


def test_every_written_rule() -> None:
    told = [make_signal(arrive(fill), ACCOUNT) for fill in cases()]
    shown = [
        each if isinstance(each, Silence) else (each.action, each.side, each.size, each.delta_size) for each in told
    ]
    assert shown == [
        ("OPEN", "LONG", "1.5", "1.5"),
        ("INCREASE", "LONG", "2", "0.5"),
        ("DECREASE", "LONG", "1.25", "-0.75"),
        ("FLIP", "SHORT", "0.75", "-2"),
        ("CLOSE", "FLAT", "0", "0.75"),
        ("OPEN", "SHORT", "3", "-3"),
        ("DECREASE", "SHORT", "2", "1"),
        ("INCREASE", "SHORT", "3", "-1"),
        ("CLOSE", "FLAT", "0", "3"),  # a settlement
        ("OPEN", "LONG", "0.5", "0.5"),  # a label that nobody knows
        ("CLOSE", "FLAT", "0", "-0.5"),  # auto-deleveraging
        ("OPEN", "LONG", "1.267", "1.267"),  # spot
        ("CLOSE", "FLAT", "0", "-5"),
        Silence.DUST,
        ("OPEN", "LONG", "10", "10"),  # an outcome token
        Silence.NO_CHANGE,
        ("INCREASE", "LONG", "3", "1"),  # the old form, without tid
    ]
    liquidated = [each.source_event_id for each in told if isinstance(each, SignalRow) and '"method"' in each.metadata]
    assert liquidated == [f"{T0 + 6}:xyz:CL:107"], "only where liquidatedUser is this account"
    assert [fill.dir for fill in cases() if not is_known(fill.dir)] == ["Teleported Long"]
    changes = [(fill, derive_change(fill)) for fill in cases()]
    assert all(label_agrees(fill.dir, change) for fill, change in changes if change is not None)


def test_a_liquidation_is_own_only_by_address() -> None:
    by_user = [own_liquidation(fill) is not None for fill in cases() if fill.liquidation is not None]
    assert by_user == [True, False, False]


@pytest.mark.parametrize(
    ("label", "action", "before", "after"),
    [
        ("Open Long", Action.CLOSE, 1, 0),
        ("Open Long", Action.OPEN, 0, -1),
        ("Close Long", Action.CLOSE, -1, 0),
        ("Close Short", Action.DECREASE, 2, 1),
        ("Long > Short", Action.FLIP, -1, 1),
    ],
)
def test_a_label_that_contradicts_is_noticed(label: str, action: Action, before: int, after: int) -> None:
    side = Side.LONG if after > 0 else Side.SHORT if after < 0 else Side.FLAT
    assert not label_agrees(label, Change(action, side, before, after))


def test_markets() -> None:
    coins = {"ETH": "ETH-PERP", "xyz:CL": "xyz:CL-PERP", "PURR/USDC": "PURR/USDC", "@107": "@107", "#20": "#20"}
    assert {coin: market_of(coin) for coin in coins} == coins
    assert [coin_of(market) for market in coins.values()] == list(coins)
    assert [is_spot(coin) for coin in coins] == [False, False, True, True, True]


def test_the_message_is_as_promised() -> None:
    for fill in cases():
        row = make_signal(arrive(fill), ACCOUNT, Margin(20, "cross"))
        if isinstance(row, Silence):
            continue
        message = signal_message(row)
        assert find_fault(message.key, message.body) is None
        body = msgspec.json.decode(message.body, type=SignalMessage)
        assert message.message_id == body.signal_id == row.signal_id
        said = json.loads(message.body, parse_float=Decimal)
        meta = said["metadata"]
        assert (meta["tid"], meta["hash"], meta["dir"], meta["leverage"]) == (fill.tid, fill.hash, fill.dir, 20)
        assert Decimal(meta["closedPnl"]) == Decimal(json.loads(fill.raw)["closedPnl"])
        assert list(said) == [
            "signalId", "influencerId", "exchange", "market", "action", "side", "size", "deltaSize", "price",
            "timestamp", "sourceEventId", "metadata",
        ]  # fmt: skip
    spot = next(fill for fill in cases() if fill.coin == "PURR/USDC")
    assert signal_message(signal(spot)).key == "influencer_signals.whale.PURR%2FUSDC"
    perp = signal_message(signal(cases()[5]))
    assert perp.key == "influencer_signals.whale.xyz:CL-PERP"
    assert b'"timestamp":"2026-09-21T14:13:20.005Z"' in perp.body
    assert b'"tid":106,' in perp.body and b'"liquidation":null,"source":"live"}' in perp.body


def test_the_id_names_what_the_signal_is_about_and_nothing_else() -> None:
    fill = make_fill("0", "1", tid=7)
    one = signal(fill)
    again = make_signal(Arrived(fill, T0 + 90_000, Source.REPAIR), ACCOUNT, Margin(5))
    assert isinstance(again, SignalRow) and again.signal_id == one.signal_id
    assert one.signal_id == "03d6fc26685a2db4837849314b12ecad", "consumers keep these: the rule must not change"
    parts = ("whale", "ETH-PERP", fill.event_id, Action.OPEN)
    assert one.signal_id == signal_id(*parts)
    others = [
        signal_id("other", *parts[1:]),
        signal_id("whale", "BTC-PERP", *parts[2:]),
        signal_id("whale", "ETH-PERP", "x", Action.OPEN),
        signal_id(*parts[:3], Action.CLOSE),
        signal_id("whal", 'e","ETH-PERP', fill.event_id, Action.OPEN),
    ]
    assert len({one.signal_id, *others}) == 6


def test_late_and_stale() -> None:
    def meta(received_ms: int, source: Source) -> dict[str, Any]:
        row = make_signal(Arrived(make_fill("0", "1"), received_ms, source), ACCOUNT, max_age_s=60)
        assert isinstance(row, SignalRow)
        return json.loads(row.metadata)

    live = meta(T0 + 40, Source.LIVE)
    assert live["source"] == "live" and "lateBy_ms" not in live and "stale" not in live
    late = meta(T0 + 60_000, Source.REPAIR)
    assert (late["source"], late["lateBy_ms"]) == ("repair", 60_000) and "stale" not in late
    stale = meta(T0 + 60_001, Source.REPAIR)
    assert stale["stale"] is True
    assert meta(T0 - 5, Source.REPAIR)["lateBy_ms"] == 0, "clocks differ by a little"


def test_nothing_before_the_account_was_added_and_nothing_unwatched() -> None:
    fill = make_fill("0", "1")
    added = msgspec.structs.replace(ACCOUNT, added_ms=T0 + 1)
    assert make_signal(arrive(fill), added) is Silence.BEFORE_START
    assert isinstance(make_signal(arrive(fill), msgspec.structs.replace(ACCOUNT, added_ms=T0)), SignalRow)
    picky = msgspec.structs.replace(ACCOUNT, markets=frozenset({"BTC-PERP"}))
    assert make_signal(arrive(fill), picky) is Silence.NOT_WATCHED


sizes = st.decimals(-1000, 1000, places=4, allow_nan=False).map(lambda size: f"{size:f}")


@given(sizes, sizes)
def test_any_fill_is_counted_alike(start: str, delta: str) -> None:
    fill = make_fill(start, delta)
    row = make_signal(arrive(fill), ACCOUNT)
    expected = recount(json.loads(fill.raw))
    if isinstance(row, Silence):
        assert expected is None
        return
    assert expected == {
        "action": row.action,
        "side": row.side,
        "size": Decimal(row.size),
        "deltaSize": Decimal(row.delta_size),
        "price": Decimal(row.price),
    }
    assert fill.user == USER
