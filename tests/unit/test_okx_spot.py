"""What each frame and answer of OKX spot means, and that nothing else can break the reader."""

import itertools
import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadInput, Refused, TryLater
from common.numbers import format_scaled
from common.venues import okx_spot as venue
from common.venues.market import (
    Ack,
    Cadence,
    Candle,
    Closing,
    Instrument,
    Message,
    Other,
    Rejected,
    Several,
    Trade,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "okx_spot"
BTC = Trade(
    "BTC-USDT", 123000003, 91230_1 * 10**11, 12 * 10**9, 123000001, 123000003, 1790000000123, 1790000000123, True
)


def frame(name: str) -> bytes:
    return (FIXTURES / f"{name}.json").read_bytes()


def names(part: str) -> list[str]:
    found = sorted(p.stem for p in FIXTURES.glob("*.json") if part in p.stem)
    assert found
    return found


def test_a_trade_is_known_by_the_last_of_its_ids() -> None:
    trade = venue.parse(frame("trades_single"))
    assert trade == BTC
    assert isinstance(trade, Trade) and trade.n == 3
    assert venue.parse(frame("trades_single").decode()) == BTC


def test_the_finest_price_is_exact() -> None:
    trade = venue.parse(frame("trades_finest"))
    assert isinstance(trade, Trade)
    assert (trade.price, trade.qty, trade.n, trade.buy) == (151, 25_000_000_000 * 10**12, 1, False)


def test_a_frame_of_2022_holds_one_trade() -> None:
    trade = venue.parse(frame("trades_without_count"))
    assert isinstance(trade, Trade) and (trade.first, trade.id, trade.last) == (338476307,) * 3


def test_several_trades_keep_the_venues_order() -> None:
    message = venue.parse(frame("trades_several"))
    assert isinstance(message, Several)
    assert message.trades[0] == BTC
    assert [(t.first, t.last, t.buy) for t in message.trades] == [
        (123000001, 123000003, True),
        (123000004, 123000004, False),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tickers_btc", Cadence(1790000001000)),
        ("control_ack", Ack(7, "trades:BTC-USDT")),
        ("control_ack_unsubscribe", Ack(8, "tickers:BTC-USDT")),
        ("control_rejected", Rejected(1, "60012: Invalid request: {}")),
        ("notice_upgrade", Closing()),
    ],
)
def test_frames_that_steer_a_connection(name: str, message: Message) -> None:
    assert venue.parse(frame(name)) == message


@pytest.mark.parametrize(("name", "id_"), [("", 1), ("_without_id", None)])
def test_a_missing_instrument_names_its_stream(name: str, id_: int | None) -> None:
    message = venue.parse(frame(f"control_rejected_stream{name}"))
    assert isinstance(message, Rejected) and (message.id, message.stream) == (id_, "trades:FOO-USDT")
    assert message.reason.startswith("60018: ")


@pytest.mark.parametrize("name", names("other"))
def test_well_formed_frames_of_other_kinds_carry_nothing(name: str) -> None:
    assert isinstance(venue.parse(frame(name)), Other)


def test_the_pong_is_no_json() -> None:
    assert venue.parse(b"pong") == venue.parse("pong") == Other("pong")


@pytest.mark.parametrize("name", names("_bad_"))
def test_what_can_not_be_read_exactly_is_refused(name: str) -> None:
    with pytest.raises(BadInput):
        venue.parse(frame(name))


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"1", b'"text"', b"\xff", b'{"x":"\xff"}', b"[]", b"ping", b"[" * 200_000, b'{"a":' * 200_000),
        *(b'{"arg":{"channel":"trades"},"data":[{}]}', b'{"arg":{"channel":"trades"},"data":{}}', "\ud800"),
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
    places = [document]
    places += [part for part in (document.get("arg"), *document.get("data", [])) if isinstance(part, dict)]
    target = data.draw(st.sampled_from(places))
    key = data.draw(st.sampled_from([*target, "extra", "event", "id", "code", "msg", "arg", "data"]))
    target[key] = data.draw(json_values)
    raw = json.dumps(document).encode()
    expect_message_or_bad_input(raw)
    cut = data.draw(st.integers(0, len(raw)))
    expect_message_or_bad_input(raw[:cut])
    expect_message_or_bad_input(raw[:cut] + data.draw(st.binary(max_size=3)) + raw[cut + 1 :])


@given(st.integers(0, 10**24), st.integers(0, 12))
def test_prices_are_exact_whatever_their_spelling(units: int, zeros: int) -> None:
    text = format_scaled(units, 12)
    if "." in text:
        text += "0" * zeros
    document = json.loads(frame("trades_single"))
    document["data"][0]["px"] = text
    trade = venue.parse(json.dumps(document))
    assert isinstance(trade, Trade) and trade.price == units


def test_control_frames_are_what_the_venue_documents() -> None:
    assert json.loads(venue.subscribe_frame(["tickers:BTC-USDT", "trades:SOL-USDT"], 1)) == {
        "id": "1",
        "op": "subscribe",
        "args": [{"channel": "tickers", "instId": "BTC-USDT"}, {"channel": "trades", "instId": "SOL-USDT"}],
    }
    assert json.loads(venue.unsubscribe_frame(["trades:SOL-USDT"], 2))["op"] == "unsubscribe"
    assert venue.MARKET.stream_of("SOL-USDT") == "trades:SOL-USDT"
    assert isinstance(venue.parse(frame("tickers_btc")), Cadence)
    most = [venue.stream_of(f"LONGNAME{n:04}-USDT") for n in range(venue.MARKET.frame_names_max)]
    assert len(venue.subscribe_frame(most, 10**6)) < 64 * 1024


@pytest.mark.parametrize(
    ("pair", "inst_id"),
    [
        *(("SOLUSDT", "SOL-USDT"), ("ETHBTC", "ETH-BTC"), ("USDCUSDT", "USDC-USDT"), ("BTCEUR", "BTC-EUR")),
        *(("BTCFDUSD", None), ("BTCAEUR", None), ("USDT", None), ("", None), ("XRPJPY", None), ("BNBTUSD", None)),
    ],
)
def test_the_instrument_of_a_pair(pair: str, inst_id: str | None) -> None:
    assert venue.inst_id_of(pair) == inst_id


def test_requests() -> None:
    candles = venue.candles_request("SOL-USDT", after_ms=1790000040000, before_ms=1789999000000, limit=7)
    assert (candles.path, candles.weight) == ("/api/v5/market/candles", 1)
    assert candles.params == (
        *(("instId", "SOL-USDT"), ("bar", "1m"), ("after", "1790000040000"), ("before", "1789999000000")),
        ("limit", "7"),
    )
    assert venue.candles_request("SOL-USDT").params[2:] == (("limit", "300"),)
    for limit in (0, 301):
        with pytest.raises(ValueError, match="at most"):
            venue.candles_request("SOL-USDT", limit=limit)
    assert venue.instruments_request("SPOT").params == (("instType", "SPOT"),)
    # So many calls fill a window of the one budget, which no endpoint's own limit is below.
    for request, endpoint_max in (*((candles, 40), (venue.instruments_request(), 20), (venue.time_request(), 10)),):
        assert venue.REST_LIMIT // request.weight <= endpoint_max


def test_candles_come_oldest_first_without_the_open_one() -> None:
    quiet = Candle(1789999980, 91200 * 10**12, 91230 * 10**12, 91200 * 10**12, 91230 * 10**12, 0, 0)
    busy = Candle(
        open_s=1789999920,
        open=911001 * 10**11,
        high=91200 * 10**12,
        low=91100 * 10**12,
        close=91200 * 10**12,
        vol=12345 * 10**9,
        quote_vol=1125245123456789 * 10**15,
    )
    assert venue.parse_candles(frame("rest_candles")) == [busy, quiet]


def test_what_an_instrument_leaves_empty_is_none() -> None:
    assert venue.parse_instruments(frame("rest_instruments")) == [
        Instrument("SOL-USDT", "SOL", "USDT", 10**10, "live", 1611907686000),
        Instrument("BTC-USDT-SWAP", None, None, None, "preopen", None),
    ]


def test_time() -> None:
    assert venue.parse_time(frame("rest_time")) == 1790000000000


READERS = (venue.parse_candles, venue.parse_instruments, venue.parse_time)


@pytest.mark.parametrize("read", READERS)
def test_an_error_says_what_to_do(read) -> None:
    with pytest.raises(TryLater, match="50011") as caught:
        read(frame("rest_error_rate"))
    assert caught.value.wait_s == 2.0
    with pytest.raises(Refused, match="51001: Instrument"):
        read(frame("rest_error_instrument"))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{}", b"[]", b"null", b"\xff", b'{"code":"0"}', b'{"code":0,"data":[]}', b'{"code":"0","data":{}}'),
        *(b'{"code":"0","data":[1]}', b'{"code":"0","data":[{"ts":1}]}', b'{"code":"0","data":[["1"]]}'),
    ],
)
def test_answers_that_can_not_be_read_are_bad_input(read, raw: bytes) -> None:
    with pytest.raises(BadInput):
        read(raw)


@given(json_values, st.sampled_from([n for n in names("rest_") if "error" not in n]), st.data())
def test_a_damaged_answer_is_read_or_refused(value: object, name: str, data: st.DataObject) -> None:
    document = json.loads(frame(name))
    record = document["data"][0]
    target = data.draw(st.sampled_from([record, document]))
    target[data.draw(st.sampled_from(sorted(target) if isinstance(target, dict) else range(len(target))))] = value
    for read in READERS:
        try:
            read(json.dumps(document).encode())
        except (BadInput, Refused, TryLater):
            continue


def test_real_frames_agree_with_an_independent_reading(shared_data: Path) -> None:
    lines = (shared_data / "okx/ws_public_20220513.txt").read_text().splitlines()
    frames = [line.split(": ", 1)[1] for line in lines if line.startswith("1652") and ": {" in line]
    assert len(frames) > 400
    trades: list[Trade] = []
    for text in frames:
        body, message = json.loads(text), venue.parse(text.encode())
        channel = body["arg"]["channel"]
        if "event" in body or channel == "books":
            assert isinstance(message, Other)
        elif channel == "tickers":
            assert message == Cadence(int(body["data"][0]["ts"]))
        else:
            assert isinstance(message, Trade)
            (row,) = body["data"]
            assert (message.symbol, message.id, message.n) == (row["instId"], int(row["tradeId"]), 1)
            assert Decimal(message.price).scaleb(-12) == Decimal(row["px"])
            assert Decimal(message.qty).scaleb(-12) == Decimal(row["sz"])
            assert (message.time_ms, message.buy) == (int(row["ts"]), row["side"] == "buy")
            trades.append(message)
    spot = [trade for trade in trades if trade.symbol == "BTC-USDT"]
    assert len(spot) == 69
    assert all(b.first == a.last + 1 for a, b in itertools.pairwise(spot))


def test_a_real_frame_of_2026(shared_data: Path) -> None:
    trade = venue.parse((shared_data / "okx/ws_trades_frame_2026.jsonl").read_bytes())
    assert isinstance(trade, Trade)
    assert (trade.symbol, trade.id, trade.n, trade.buy) == ("BTC-USDT-SWAP", 2972389994, 1, False)


def test_real_instruments(shared_data: Path) -> None:
    raw = (shared_data / "okx/rest_public_instruments_SPOT_20220513.json").read_bytes()
    rows = {row["instId"]: row for row in json.loads(raw)["data"]}
    instruments = venue.parse_instruments(raw)
    assert len(instruments) == len(rows) == 513
    for found in instruments:
        row = rows[found.inst_id]
        assert (found.base, found.quote, found.state) == (row["baseCcy"], row["quoteCcy"], "live")
        assert found.tick is not None and Decimal(found.tick).scaleb(-12) == Decimal(row["tickSz"]) > 0
        assert found.listed_ms == int(row["listTime"])
    guesses = {found.inst_id: venue.inst_id_of(found.inst_id.replace("-", "")) for found in instruments}
    assert all(guess in (inst_id, None) for inst_id, guess in guesses.items())
    assert {inst_id for inst_id, guess in guesses.items() if guess is None and inst_id.endswith("-USDT")} == set()
