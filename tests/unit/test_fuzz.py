"""Whatever comes from outside is read or refused by name: events from the bus, settings, headers, hostile trades."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.backoff import parse_retry_after
from common.batch import Batch
from common.consuming import BusMessage
from common.contracts import (
    BarMessage,
    BeatMessage,
    FootprintMessage,
    bar_message,
    beat_message,
    footprint_message,
    price_key,
)
from common.errors import BadInput, ConfigError
from common.numbers import format_scaled
from common.registry_follower import RegistryFollower
from common.settings import describe_settings, load_settings
from common.statements import gap_arguments, upsert_arguments
from common.venues.binance_spot import parse
from common.venues.market import Trade
from ohlcv_ingestor.series import Series, SeriesLimits, Stream
from ohlcv_ingestor.settings import OhlcvSettings
from ohlcv_ingestor.starts import restart
from ohlcv_ingestor.stored import Stored
from sandbox.control import Complaint, Order, read_control
from tests.rows import make_bar, make_second

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
amounts = st.integers(0, 10**30)


# ---- the bus


def follower() -> RegistryFollower:
    async def query(*_: object) -> list[object]:
        return []

    async def follow(_: Mapping[str, object]) -> None:
        return None

    return RegistryFollower(query, follow)  # type: ignore[arg-type]


def note(body: bytes) -> None:
    message = BusMessage("symbol_events.updated", "", {}, body)
    try:
        asyncio.run(follower()._note(message))
    except BadInput:
        return


EVENT = {"symbol": "SOL", "status": "ACTIVE", "cluster": None, "health": 80, "pair": "SOLUSDT", "reason": None}


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=60)
def test_any_event_is_read_or_bad_input(body: bytes) -> None:
    note(body)


@given(st.sampled_from([*EVENT, "more"]), json_values, st.integers(0, 150), st.binary(max_size=3))
@settings(max_examples=60)
def test_a_damaged_event_is_read_or_bad_input(key: str, value: object, cut: int, put: bytes) -> None:
    raw = json.dumps(EVENT | {key: value}).encode()
    note(raw)
    note(raw[:cut] + put + raw[cut + 1 :])


def test_an_event_nested_too_deep_is_bad_input() -> None:
    note(b'{"symbol":"A","status":"ACTIVE","more":' + b"[" * 100_000)


@given(st.text(min_size=1, max_size=20), amounts, st.integers(0, 2**31 - 1), st.booleans(), st.integers(1, 2**31 - 1))
def test_every_price_message_is_json_that_reads_back(symbol: str, price: int, n: int, whole: bool, rev: int) -> None:
    number = format_scaled(price, 8)
    bar = bar_message(make_bar(symbol=symbol, c=number, n=n, grade=4 if whole else 2), rev)
    second = footprint_message(make_second(symbol=symbol, close=number, n=n, grade=4 if whole else 2), rev)
    beat = beat_message(symbol, 0, number, whole)
    for message, kind in ((bar, BarMessage), (second, FootprintMessage), (beat, BeatMessage)):
        read = msgspec.json.decode(message.body, type=kind)
        assert read.symbol == symbol
        assert isinstance(read.time, datetime)
        close = read.c if isinstance(read, BarMessage) else read.close
        assert close == Decimal(price).scaleb(-8, None) or Decimal(number) == close
        assert json.loads(message.body)["symbol"] == symbol
        assert message.key == price_key(symbol, message.key.rpartition(".")[2])
        assert message.key.count(".") == 2


# ---- settings


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in OhlcvSettings.model_fields:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return monkeypatch


printable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
hostile = printable | st.sampled_from(
    [
        "-1",
        "0",
        "1e999",
        "nan",
        "inf",
        "0/0",
        "1/2",
        "9" * 5000,
        "ws://",
        "wss://h:0/x",
        "http://[",
        "postgresql://u@h:x/",
    ]
)


@given(st.dictionaries(st.sampled_from(sorted(OhlcvSettings.model_fields)), hostile, max_size=4))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_environment_is_settings_or_config_error(env: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    with env.context() as patch:
        patch.setenv("TS_DSN", "postgresql://writer:s3cr3t-word@db/bus")
        patch.setenv("RMQ_URL", "amqp://bus:s3cr3t-word@mq/")
        for name, value in values.items():
            patch.setenv(name.upper(), value)
        try:
            shown = str(describe_settings(load_settings(OhlcvSettings)))
        except ConfigError as error:
            shown = str(error)
            assert shown
        assert "s3cr3t-word" not in shown


# ---- headers and control frames


@given(
    st.text(max_size=60) | st.datetimes().map(lambda t: t.strftime("%a, %d %b %Y %H:%M:%S GMT")), st.integers(0, 2**45)
)
def test_any_retry_after_is_a_wait_or_none(value: str, wall_ms: int) -> None:
    wait_s = parse_retry_after(value, wall_ms)
    assert wait_s is None or wait_s >= 1


@given(st.text(max_size=200) | json_values.map(json.dumps))
def test_any_control_frame_is_an_order_or_a_complaint(text: str) -> None:
    answer = read_control(text)
    assert isinstance(answer, (Order, Complaint))
    if isinstance(answer, Complaint):
        assert json.loads(answer.as_text())["code"] == answer.code


# ---- trades that are well formed and absurd

ids = st.integers(0, 2**63 - 1) | st.integers(0, 60)
times = st.integers(0, 10**14 - 1) | st.integers(1_700_000_000_000, 1_700_000_400_000)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    first, last = sorted((draw(ids), draw(ids)))
    data = {
        "e": "aggTrade", "E": draw(times), "s": "X", "a": draw(ids), "p": draw(st.sampled_from(["0", "1.5", "9" * 40])),
        "q": draw(st.sampled_from(["0.00000001", "9" * 31 + ".99999999"])), "f": first, "l": last, "T": draw(times),
        "m": draw(st.booleans()),
    }  # fmt: skip
    return json.dumps({"stream": "x@aggTrade", "data": data}).encode()


@given(st.lists(frames(), min_size=1, max_size=12), st.booleans())
@settings(max_examples=150, deadline=None)
def test_absurd_trades_become_rows_that_the_database_takes(raws: list[bytes], known: bool) -> None:
    series = Series(Stream("ohlcv", "binance", "X", "binance", 8), SeriesLimits())
    if known:
        restart(series, Stored(29, 1_700_000_040))
    batch = Batch()
    for raw in raws:
        try:
            trade = parse(raw)
        except BadInput:
            continue
        assert isinstance(trade, Trade)
        series.add(trade)
        if series.advance(trade.event_ms - 500):
            series.drain(batch)
    upsert_arguments(batch)
    gap_arguments(batch.gaps.values())
    for gap in batch.gaps.values():
        assert all(0 <= bound < 2**63 - 1 for run in gap.missing for bound in run)
    for bar in batch.bars.values():
        assert bar.n is not None
        assert bar.n < 2**31  # what the column takes
        bar_message(bar, 1)
    for second in batch.footprints.values():
        assert second.n < 2**31
        footprint_message(second, 1)
