"""The sandbox's second venue: its market beside the first one, its ids, its frames, its control frames."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from sandbox.clock import VenueClock
from sandbox.config import Config
from sandbox.made_up import describe_traded
from sandbox.market import Market, open_market
from sandbox.okx import open_okx_market
from sandbox.okx_frames import Complaint, Order, Ticker, ack_text, inst_id_of, read_order, trades_frame
from sandbox.okx_swap import spot_row
from sandbox.trades import Trade

EPOCH_MS = 1_790_000_040_000
NOW_MS = EPOCH_MS + 600_000
CONFIG = Config(
    symbols=("BTCUSDT", "XYZUSDT"), rate=8.0, quiet_every=0, start=NOW_MS, epoch_ms=EPOCH_MS, hold=True, okx=True
)


def both() -> tuple[Market, Market]:
    primary = open_market(CONFIG)
    return primary, open_okx_market(CONFIG, primary)


@pytest.mark.parametrize("symbol", CONFIG.symbols)
def test_the_same_symbols_near_prices_and_nothing_else(symbol: str):
    primary, second = both()
    ours, theirs = (list(market.between(symbol, 0, NOW_MS)) for market in (primary, second))
    assert len(ours) > 1000 and len(theirs) > 1000
    assert not {t.id for t in ours} & {t.id for t in theirs}
    assert not {(t.time_ms, t.qty) for t in ours} & {(t.time_ms, t.qty) for t in theirs}
    closes = [{t.time_ms // 60_000: t.price for t in rows} for rows in (ours, theirs)]
    for minute, price in closes[0].items():
        assert abs(closes[1][minute] - price) < price / 500
    again = list(both()[1].between(symbol, 0, NOW_MS))
    assert again == theirs


@pytest.mark.parametrize("symbol", CONFIG.symbols)
def test_a_record_is_known_by_its_last_single_trade(symbol: str):
    _, market = both()
    rows = list(market.between(symbol, 0, NOW_MS))
    assert all(row.id == row.last for row in rows) and {row.last - row.first for row in rows} > {0, 1}
    assert all(later.first == earlier.last + 1 for earlier, later in pairwise(rows))
    wide = next(row for row in rows[200:] if row.last - row.first >= 2)
    place = rows.index(wide)
    for from_id in range(wide.first, wide.last + 1):
        assert list(market.from_id(symbol, from_id, 3, NOW_MS)) == rows[place : place + 3]
    assert list(market.from_id(symbol, 0, 2, NOW_MS)) == rows[:2]
    assert list(market.from_id(symbol, rows[-1].id, 9, NOW_MS - 1)) == rows[-1:]
    assert list(market.from_id(symbol, rows[-1].id + 1, 9, NOW_MS - 1)) == []
    assert list(market.before(symbol, wide.time_ms, 2)) == [t for t in rows if t.time_ms < wide.time_ms][-2:]
    market.lose(symbol, wide.id, wide.id)
    assert wide not in market.between(symbol, 0, NOW_MS)


def test_one_venue_time_and_two_skews():
    first = VenueClock(1000, 5.0, held=True)
    second = VenueClock(0, 1.0, follow=first)
    first.skew_ms = 7
    assert (first.now_ms(), second.now_ms(), second.told_ms(), first.told_ms()) == (1000, 1000, 1000, 1007)
    second.release()
    while second.now_ms() == 1000:
        pass
    assert first.now_ms() >= 1001


def test_a_tape_has_a_second_venue_too(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text('{"a":8,"p":"1","q":"1","f":9,"l":9,"T":1234,"m":false}\n')
    config = Config(tapes=((tmp_path / "t.jsonl", "ABCUSDT"),), start=NOW_MS, okx=True)
    market = open_okx_market(config, open_market(config))
    assert market.symbols == ("ABCUSDT",) and market.between("ABCUSDT", NOW_MS, NOW_MS + 60_000)


def test_frames_have_the_venues_shape(shared_data: Path):
    """Every field of a real frame is there, under the same names; only what came after 2022 is more."""
    real = {}
    for line in (shared_data / "okx/ws_public_20220513.txt").read_text().splitlines():
        if line.startswith("1652") and '"instId":"BTC-USDT"}' in line:
            body = json.loads(line.split(": ", 1)[1])
            real.setdefault((body["arg"]["channel"], body.get("event")), body)
    latest = json.loads((shared_data / "okx/ws_trades_frame_2026.jsonl").read_text())
    ours = json.loads(trades_frame("BTC-USDT", [Trade(9, 3_000_000_000, 10**6, 7, 9, 1234, False)]))
    assert list(ours["data"][0]) == list(latest["data"][0]) and set(ours) == set(latest)
    assert ours["data"][0] == {
        **{"instId": "BTC-USDT", "tradeId": "9", "px": "30", "sz": "0.01", "side": "buy", "ts": "1234", "count": "3"},
        **{"source": "0", "seqId": 9},
    }
    assert set(real["trades", None]["data"][0]) < set(ours["data"][0])
    ticker = Ticker("BTC-USDT")
    ticker.add(Trade(9, 3_000_000_000, 10**6, 7, 9, 1234, False))
    told = json.loads(ticker.frame(5000))
    assert told["arg"] == real["tickers", None]["arg"] and told["data"][0]["ts"] == "5000"
    assert set(told["data"][0]) == set(real["tickers", None]["data"][0])
    ack = json.loads(ack_text("subscribe", "trades:BTC-USDT", "1", "a4d3ae55"))
    assert ack == {**real["trades", "subscribe"], "id": "1", "connId": "a4d3ae55"}
    rows = json.loads((shared_data / "okx/rest_public_instruments_SPOT_20220513.json").read_text())["data"]
    real_row = next(row for row in rows if row["instId"] == "SOL-USDT")
    own = spot_row(describe_traded(1, 0, "SOLUSDT", EPOCH_MS))
    assert set(own) <= set(real_row) and all(own[key] == real_row[key] for key in ("instId", "baseCcy", "quoteCcy"))


ARG = '{"channel":"trades","instId":"SOL-USDT"}'


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("{", None),
        ("[]", None),
        (f'{{"op":"subscribe","args":[{ARG}],"id":1}}', None),
        (f'{{"op":"subscribe","args":[{ARG}],"id":"{"x" * 33}"}}', None),
        (f'{{"op":"join","args":[{ARG}],"id":"a"}}', None),
        ('{"op":"subscribe","args":[],"id":"a"}', None),
        (f'{{"op":"subscribe","args":[{ARG},{{"channel":"trades"}}]}}', None),
        (f'{{"op":"subscribe","args":[{",".join([ARG] * 2000)}]}}', None),
        (f'{{"op":"subscribe","args":[{ARG}]}}', Order("subscribe", ["trades:SOL-USDT"], None)),
        (f'{{"id":"7","op":"unsubscribe","args":[{ARG}]}}', Order("unsubscribe", ["trades:SOL-USDT"], "7")),
    ],
)
def test_control_frames(text: str, answer: Order | None):
    read = read_order(text)
    if answer is None:
        assert isinstance(read, Complaint) and read.code == "60012"
        assert json.loads(read.as_text("c"))["event"] == "error"
    else:
        assert read == answer


def test_instruments_are_named_by_base_and_quote():
    assert [inst_id_of(pair) for pair in ("SOLUSDT", "ETHBTC", "BTCEUR")] == ["SOL-USDT", "ETH-BTC", "BTC-EUR"]
