"""The sandbox's markets: pure, continuous, and served the same way however one asks."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

import pytest

from sandbox.clock import VenueClock
from sandbox.config import Config, parse_tape, parse_withhold
from sandbox.market import Market, open_market
from sandbox.seeded import build_seeded, poisson_steps
from sandbox.tape import TapeSource, read_tape, read_tapes
from sandbox.trades import Trade

EPOCH_S = 1_790_000_040
NAMES = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XYZUSDT")
HOUR_MS = 3_600_000


def seeded(seed: int = 1, rate: float = 6.0, **more: object):
    return build_seeded(seed, NAMES, (rate, rate, 0), EPOCH_S, **more)  # type: ignore[arg-type]


def test_same_seed_same_trades_in_any_order_of_asking():
    one, two = seeded(), seeded()
    late = two.between("BTCUSDT", EPOCH_S * 1000 + HOUR_MS, EPOCH_S * 1000 + HOUR_MS + 90_500)
    whole = one.between("BTCUSDT", EPOCH_S * 1000, EPOCH_S * 1000 + 2 * HOUR_MS)
    assert late
    assert list(late) == [t for t in whole if EPOCH_S * 1000 + HOUR_MS <= t.time_ms < EPOCH_S * 1000 + HOUR_MS + 90_500]
    assert list(seeded(2).between("BTCUSDT", 0, EPOCH_S * 1000 + 60_000)) != list(
        whole[: len(seeded(2).between("BTCUSDT", 0, EPOCH_S * 1000 + 60_000))]
    )


@pytest.mark.parametrize("symbol", NAMES)
def test_ids_are_continuous_and_times_never_go_back(symbol: str):
    trades = seeded().between(symbol, 0, EPOCH_S * 1000 + HOUR_MS)
    assert len(trades) > 20
    for earlier, later in pairwise(trades):
        assert later.id == earlier.id + 1
        assert later.first == earlier.last + 1
        assert later.time_ms >= earlier.time_ms
        assert 1 <= later.last - later.first + 1 <= 4
        assert later.qty > 0 and later.price > 0 and later.price % 10**6 == 0


def test_busy_and_quiet():
    source = seeded()
    span = range(EPOCH_S, EPOCH_S + 7200)
    busy = {t.time_ms // 1000 for t in source.between("BTCUSDT", 0, (EPOCH_S + 7200) * 1000)}
    quiet = {t.time_ms // 60_000 for t in source.between("XYZUSDT", 0, (EPOCH_S + 7200) * 1000)}
    assert len(span) > len(busy) > len(span) / 2
    assert 20 < len(quiet) < 80
    count = len(source.between("ETHUSDT", 0, (EPOCH_S + 7200) * 1000))
    assert 13_000 < count < 15_800  # 2 a second


def test_counts_of_a_very_busy_symbol():
    steps = poisson_steps(2200.0)
    assert 0.999 < steps[-1] < 1.001
    middle = next(i for i, total in enumerate(steps) if total > 0.5)
    assert 2195 < middle < 2205
    assert poisson_steps(0.0)[0] == 1.0


@pytest.mark.parametrize("symbol", ["ETHUSDT", "XYZUSDT"])
def test_asking_by_id_equals_asking_by_time(symbol: str):
    source = seeded()
    now_ms = EPOCH_S * 1000 + HOUR_MS + 123
    whole = list(source.between(symbol, 0, now_ms + 1))
    middle = len(whole) // 2
    assert list(source.from_id(symbol, 0, 7, now_ms)) == whole[:7]
    assert list(source.from_id(symbol, whole[middle].id, 40, now_ms)) == whole[middle : middle + 40]
    assert list(source.from_id(symbol, whole[-3].id, 1000, now_ms)) == whole[-3:]
    assert not source.from_id(symbol, whole[-1].id + 1, 5, now_ms)
    assert list(source.before(symbol, now_ms + 1, 11)) == whole[-11:]
    assert (
        list(source.before(symbol, whole[middle].time_ms, 3))
        == [t for t in whole if t.time_ms < whole[middle].time_ms][-3:]
    )
    assert not source.before(symbol, whole[0].time_ms, 3)
    assert list(source.before(symbol, now_ms + 1, 10**6)) == whole


def test_history_may_be_thinner():
    switch_s = EPOCH_S + 600
    source = build_seeded(1, ("BTCUSDT",), (1.0, 50.0, switch_s), EPOCH_S, quiet_every=0)
    thin = source.between("BTCUSDT", 0, switch_s * 1000)
    thick = source.between("BTCUSDT", switch_s * 1000, (switch_s + 600) * 1000)
    assert 400 < len(thin) < 800 and 27_000 < len(thick) < 33_000
    assert thick[0].id == thin[-1].id + 1


def test_restart_with_the_same_epoch_agrees():
    first = open_market(Config(start=EPOCH_S * 1000 + HOUR_MS, epoch_ms=EPOCH_S * 1000))
    again = open_market(Config(start=EPOCH_S * 1000 + HOUR_MS + 77_000, epoch_ms=EPOCH_S * 1000))
    window = ("BTCUSDT", EPOCH_S * 1000 + HOUR_MS, EPOCH_S * 1000 + HOUR_MS + 60_000)
    assert list(first.between(*window)) == list(again.between(*window))
    assert first.clock.now_ms() < again.clock.now_ms()


def trade(number: int, time_ms: int = 0) -> Trade:
    return Trade(number, 10**8, 10**8, number, number, time_ms or number * 100, False)


def tape_market(count: int = 50, now_ms: int = 10**6) -> Market:
    return Market(TapeSource({"ABCUSDT": [trade(i) for i in range(1, count + 1)]}, 0), VenueClock(now_ms, 0))


def test_what_the_venue_lost_is_nowhere():
    market = tape_market()
    market.lose("ABCUSDT", 10, 19)
    market.lose("ABCUSDT", 49, 50)
    assert [t.id for t in market.between("ABCUSDT", 800, 2100)] == [8, 9, 20]
    assert [t.id for t in market.from_id("ABCUSDT", 9, 3, 10**6)] == [9, 20, 21]
    assert [t.id for t in market.before("ABCUSDT", 2000, 2)] == [8, 9]
    assert [t.id for t in market.before("ABCUSDT", 10**6, 1)] == [48]
    assert [t.id for t in market.from_id("ABCUSDT", 48, 9, 10**6)] == [48]


def test_tape_formats(tmp_path: Path):
    (tmp_path / "csv_ABCUSDT.csv").write_text("timestamp,price,quantity,side,tradeId\n1500,79.23,0.452,sell,7\n")
    (tmp_path / "rest.jsonl").write_text(
        '{"s":"ABCUSDT","a":8,"p":"79.25000000","q":"0.00000001","f":9,"l":11,"T":1600,"m":false,"M":true}\n'
    )
    frame = (
        '{"stream":"abcusdt@trade","data":{"e":"trade","E":1701,"s":"ABCUSDT","t":9,"p":"79.2","q":"3","T":1700,'
        '"m":true,"M":true}}'
    )
    with gzip.open(tmp_path / "capture.gz", "wt") as out:
        out.write(f'1 {{"lastUpdateId":1}}\n17000000 {frame}\n')
    tapes = [(tmp_path / name, None) for name in ("capture.gz", "rest.jsonl", "csv_ABCUSDT.csv")]
    assert read_tapes(tapes) == {
        "ABCUSDT": [
            Trade(7, 7_923_000_000, 45_200_000, 7, 7, 1500, True),
            Trade(8, 7_925_000_000, 1, 9, 11, 1600, False),
            Trade(9, 7_920_000_000, 300_000_000, 9, 9, 1700, True),
        ]
    }
    assert list(read_tapes(tapes, 2)["ABCUSDT"])[-1].id == 8
    assert list(read_tape(tmp_path / "capture.gz", "OTHER")) == ["OTHER"]
    (tmp_path / "back.jsonl").write_text(
        "".join(f'{{"a":{i},"p":"1","q":"1","f":{i},"l":{i},"T":{9 - i},"m":true}}\n' for i in (1, 2))
    )
    with pytest.raises(ValueError, match="time goes back"):
        read_tapes([(tmp_path / "back.jsonl", "ABCUSDT")])
    with pytest.raises(ValueError, match="does not tell its symbol"):
        read_tape(tmp_path / "back.jsonl")


def test_tape_is_moved_by_whole_seconds(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text('{"a":8,"p":"1","q":"1","f":9,"l":9,"T":1234,"m":false}\n')
    tapes = ((tmp_path / "t.jsonl", "ABCUSDT"),)
    moved = open_market(Config(tapes=tapes, start=50_000_100, lead_s=2.0, speed=10.0))
    assert moved.source.first_ms("ABCUSDT") == 50_020_234  # 20 s of venue time later, rounded up
    pinned = open_market(Config(tapes=tapes, start=50_000_100, epoch_ms=40_000_000))
    assert pinned.source.first_ms("ABCUSDT") == 40_000_234
    own = open_market(Config(tapes=tapes, start="recorded", lead_s=1.0, hold=True))
    assert (own.source.first_ms("ABCUSDT"), own.clock.now_ms()) == (1234, 234)


def test_recorded_tapes_join(shared_data: Path):
    folder = shared_data / "binance"
    trades = read_tapes([(path, None) for path in sorted(folder.glob("spot_aggTrades_LTCUSDT_*.csv.gz"))])["LTCUSDT"]
    assert len(trades) == 27_594 + 7_498
    holes = [(a.id, b.id) for a, b in pairwise(trades) if b.id != a.id + 1]
    assert (293659363, 293659373) in holes and len(holes) >= 6
    capture = read_tapes([(path, None) for path in sorted(folder.glob("spot_ws_btcusdt_*.ndjson.gz"))])["BTCUSDT"]
    assert len(capture) == 9_757 + 10_147
    assert all(b.id == a.id + 1 for a, b in pairwise(capture))


def test_flags():
    assert parse_tape("/a/b.csv.gz:LTCUSDT") == (Path("/a/b.csv.gz"), "LTCUSDT")
    assert parse_tape("/a/b.csv.gz") == (Path("/a/b.csv.gz"), None)
    assert parse_withhold("A:1-2,5-9,B:3-3") == (("A", 1, 2), ("A", 5, 9), ("B", 3, 3))
    with pytest.raises(ValueError, match="SYMBOL:FROM-TO"):
        parse_withhold("1-2")
