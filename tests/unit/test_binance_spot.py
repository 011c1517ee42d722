"""What each frame and answer of Binance spot means, and that nothing else can break the reader."""

import gzip
import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadInput
from common.venues import binance_spot as venue
from common.venues.market import Ack, Cadence, Closing, Kline, Message, Other, Rejected, Trade

FIXTURES = Path(__file__).parents[1] / "fixtures" / "binance_spot"


def frame(name: str) -> bytes:
    return (FIXTURES / f"{name}.json").read_bytes()


def names(part: str) -> list[str]:
    return sorted(p.stem for p in FIXTURES.glob("*.json") if part in p.stem)


def test_a_combined_trade_keeps_every_field_exactly() -> None:
    trade = venue.parse(frame("aggtrade_combined"))
    assert trade == Trade(
        "BTCUSDT", 3500000001, 9123456000000, 1500000, 5200000010, 5200000012, 1790000000121, 1790000000123, False
    )
    assert isinstance(trade, Trade) and trade.n == 3


def test_a_raw_trade_with_short_decimals_in_any_field_order() -> None:
    trade = venue.parse(frame("aggtrade_raw_short_decimals"))
    assert trade == Trade("DOGEUSDT", 35, 50_000_000, 700_000_000, 52, 52, 1790000000121, 1790000000123, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("miniticker_combined", Cadence(1790000001000)),
        ("control_ack", Ack(7)),
        ("control_rejected", Rejected(None, "2: Invalid request: unknown variant")),
        ("control_rejected_with_id", Rejected(9, '{"code":2,"msg":"Invalid request: too many parameters"}')),
        ("shutdown_combined", Closing()),
        ("shutdown_raw", Closing()),
    ],
)
def test_frames_that_steer_a_connection(name: str, message: Message) -> None:
    assert venue.parse(frame(name)) == message
    assert venue.parse(frame(name).decode()) == message


@pytest.mark.parametrize("name", names("_other_"))
def test_well_formed_frames_of_other_streams_carry_nothing(name: str) -> None:
    assert isinstance(venue.parse(frame(name)), Other)


@pytest.mark.parametrize("name", names("_bad_"))
def test_a_trade_that_can_not_be_read_exactly_is_refused(name: str) -> None:
    with pytest.raises(BadInput):
        venue.parse(frame(name))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"1",
        b'"text"',
        b"\xff",
        b'{"x":"\xff"}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"e":"aggTrade"}',
        "\ud800",
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_what_is_no_frame_is_bad_input(raw: bytes | str) -> None:
    with pytest.raises(BadInput):
        venue.parse(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def expect_message_or_bad_input(raw: bytes | str) -> None:
    try:
        message = venue.parse(raw)
    except BadInput:
        return
    assert isinstance(message, Message)


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_bytes_give_a_message_or_bad_input(raw: bytes | str) -> None:
    expect_message_or_bad_input(raw)


@given(st.sampled_from([n for n in names("") if not n.startswith("rest_")]), st.data())
def test_a_damaged_frame_gives_a_message_or_bad_input(name: str, data: st.DataObject) -> None:
    document = json.loads(frame(name))
    target = document
    if isinstance(document.get("data"), dict) and data.draw(st.booleans()):
        target = document["data"]
    key = data.draw(st.sampled_from([*target, "extra", "error", "result", "id", "e"]))
    target[key] = data.draw(json_values)
    raw = json.dumps(document).encode()
    expect_message_or_bad_input(raw)
    cut = data.draw(st.integers(0, len(raw)))
    expect_message_or_bad_input(raw[:cut])
    expect_message_or_bad_input(raw[:cut] + data.draw(st.binary(max_size=3)) + raw[cut + 1 :])


@given(
    st.decimals(min_value=0, max_value=10**12, places=8),
    st.integers(0, 8),
)
def test_prices_are_exact_whatever_their_spelling(value: Decimal, places: int) -> None:
    value = round(value, places)
    text = f"{value:f}"
    document = json.loads(frame("aggtrade_combined"))
    document["data"]["p"] = text
    trade = venue.parse(json.dumps(document))
    assert isinstance(trade, Trade)
    assert Decimal(trade.price) == value * 10**8


def test_control_frames_are_what_the_venue_documents() -> None:
    assert json.loads(venue.subscribe_frame(["btcusdt@aggTrade", "btcusdt@miniTicker"], 1)) == {
        "method": "SUBSCRIBE",
        "params": ["btcusdt@aggTrade", "btcusdt@miniTicker"],
        "id": 1,
    }
    assert json.loads(venue.unsubscribe_frame(["a@aggTrade"], 2))["method"] == "UNSUBSCRIBE"
    assert venue.MARKET.stream_of("SOLUSDT") == "solusdt@aggTrade"


def test_requests_carry_their_weight_and_refuse_a_mix_of_id_and_time() -> None:
    by_id = venue.agg_trades_request("BTCUSDT", from_id=0)
    assert by_id.params == (("symbol", "BTCUSDT"), ("fromId", "0"), ("limit", "1000"))
    assert (by_id.path, by_id.weight) == ("/api/v3/aggTrades", 4)
    by_time = venue.agg_trades_request("BTCUSDT", start_ms=1, end_ms=2, limit=5)
    assert by_time.params == (("symbol", "BTCUSDT"), ("startTime", "1"), ("endTime", "2"), ("limit", "5"))
    assert venue.klines_request("BTCUSDT", "1s", 1000, 2000).weight == 2
    assert (venue.time_request().weight, venue.exchange_info_request().weight) == (1, 20)
    with pytest.raises(ValueError, match="not both"):
        venue.agg_trades_request("BTCUSDT", from_id=1, start_ms=1)


def test_rest_trades() -> None:
    first, second = venue.parse_agg_trades(frame("rest_aggtrades"), "BTCUSDT")
    assert first == Trade(
        "BTCUSDT", 3500000001, 9123456000000, 1500000, 5200000010, 5200000012, 1790000000121, 1790000000121, False
    )
    assert (second.price, second.qty, second.buy) == (9123457000000, 200000000, True)


def test_klines_leave_out_the_open_candle() -> None:
    raw = frame("rest_klines_1s_last_open")
    expected = Kline(
        open_s=1790000000,
        open=9100000000000,
        high=9150000000000,
        low=9090000000000,
        close=9123450000000,
        vol=340000000,
        quote_vol=309400_1234567800000000,
        n=15,
        buy_vol=110000000,
        buy_quote_vol=100100_0000000100000000,
    )
    assert venue.parse_klines(raw, closed_before_ms=1790000001999) == [expected]
    assert len(venue.parse_klines(raw, closed_before_ms=1790000002000)) == 2
    assert len(venue.parse_klines(raw)) == 2


def test_time() -> None:
    assert venue.parse_time(frame("rest_time")) == 1790000000000


@pytest.mark.parametrize("raw", [b"", b"{}", b"[{}]", b"[[1]]", b"null", b'{"serverTime":"1"}', b"\xff"])
def test_answers_that_can_not_be_read_are_bad_input(raw: bytes) -> None:
    with pytest.raises(BadInput):
        venue.parse_agg_trades(raw, "BTCUSDT")
    with pytest.raises(BadInput):
        venue.parse_klines(raw)
    with pytest.raises(BadInput):
        venue.parse_time(raw)


@given(json_values, st.sampled_from(["rest_aggtrades", "rest_klines_1s_last_open"]), st.data())
def test_a_damaged_answer_is_bad_input_or_read(value: object, name: str, data: st.DataObject) -> None:
    document = json.loads(frame(name))
    record = document[0]
    record[data.draw(st.sampled_from(sorted(record) if isinstance(record, dict) else range(len(record))))] = value
    raw = json.dumps(document).encode()
    for read in (lambda r: venue.parse_agg_trades(r, "X"), venue.parse_klines):
        try:
            read(raw)
        except BadInput:
            continue


def test_real_trades_agree_with_an_independent_reading(shared_data: Path) -> None:
    lines = (shared_data / "binance/spot_rest_aggTrades_XRPETH_20191011-12.jsonl").read_bytes().splitlines()
    trades = venue.parse_agg_trades(b"[" + b",".join(lines) + b"]", "XRPETH")
    assert len(trades) == len(lines) > 1000
    for line, trade in zip(lines, trades, strict=True):
        r = json.loads(line)
        assert Decimal(trade.price).scaleb(-8) == Decimal(r["p"])
        assert Decimal(trade.qty).scaleb(-8) == Decimal(r["q"])
        assert (trade.id, trade.n, trade.time_ms, trade.buy) == (r["a"], r["l"] - r["f"] + 1, r["T"], not r["m"])


def test_real_candles(shared_data: Path) -> None:
    raw = (shared_data / "binance/spot_rest_klines_1m_BTCUSDT_20260926.json").read_bytes()
    for row, kline in zip(json.loads(raw), venue.parse_klines(raw), strict=True):
        assert kline.open_s * 1000 == row[0]
        assert Decimal(kline.quote_vol).scaleb(-16) == Decimal(row[7])
        assert Decimal(kline.buy_vol).scaleb(-8) == Decimal(row[9])


def test_real_frames_are_all_readable(shared_data: Path) -> None:
    kinds: dict[str, int] = {}
    with gzip.open(shared_data / "binance/spot_ws_btcusdt_20240808.ndjson.gz") as lines:
        for line in lines:
            raw = line.split(b" ", 1)[1]
            kind = type(venue.parse(raw)).__name__
            kinds[kind] = kinds.get(kind, 0) + 1
    assert set(kinds) == {"Other"}
    text = (shared_data / "binance/spot_ws_combined_20211012.txt").read_text()
    frames = [line.split(": ", 1)[1] for line in text.splitlines()[1:] if ": {" in line]
    trades = [m for m in map(venue.parse, frames) if isinstance(m, Trade)]
    assert len(trades) == sum('"e":"aggTrade"' in f for f in frames) == 2
    assert msgspec.json.encode(trades)
