"""What `status` concludes from one look, and how it says so."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from common.errors import BadInput, ConfigError
from common.health import Check, Phase
from common.topology import EXCHANGE_DEAD, EXCHANGE_UNROUTED
from ops.status import choose_addresses
from ops.status_facts import (
    BrokerFacts,
    DatabaseFacts,
    Facts,
    FeedFacts,
    Meters,
    OutboxFacts,
    QueueFacts,
    RegistryFacts,
    ServiceFacts,
    Silent,
    StreamFacts,
)
from ops.status_judge import Picture, State, StatusLimits, format_span, judge, sort_streams
from ops.status_metrics import parse_meters
from ops.status_services import SERVICES, ServiceKind, kind_of
from ops.status_view import encode, show

NOW_S = 1_700_000_000.0


def stream(symbol: str = "BTCUSDT", lag_s: float | None = 1.0, **changes: object) -> StreamFacts:
    cursor_s = None if lag_s is None else NOW_S - lag_s
    last_s = None if cursor_s is None else cursor_s - 1
    return replace(StreamFacts("ohlcv", "binance", symbol, cursor_s, last_s, 5.0), **changes)


def feed(*symbols: str, **changes: object) -> FeedFacts:
    trades = dict.fromkeys(symbols or ("BTCUSDT",), 0.5)
    return replace(FeedFacts("ohlcv-0", True, 0.1, int(NOW_S * 1000), 0.0, "binance", 0, trades), **changes)


def service(*symbols: str, **changes: object) -> ServiceFacts:
    good = ServiceFacts("http://h:1", "ohlcv", Phase.SERVING, True, (Check("symbols", True),), (feed(*symbols),))
    return replace(good, **changes)


def facts(*streams: StreamFacts, **changes: object) -> Facts:
    streams = streams or (stream(),)
    good = Facts(DatabaseFacts(NOW_S, streams), (service(*(s.symbol for s in streams)),), (BrokerFacts("amqp"),))
    return replace(good, **changes)


def told(picture: Picture) -> str:
    return " | ".join(f"{it.where}: {it.what} -> {it.advice}" for it in picture.problems)


def render(picture: Picture, all_streams: bool = False) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(show(picture, all_streams))
        return console.export_text()


def test_a_healthy_system_has_no_problem() -> None:
    picture = judge(facts())
    assert (picture.well, picture.verdict()) == (True, "all well: 1 stream, 1 service")
    assert [(row.state, row.lag_s, row.behind_feed_s, row.trade_age_s) for row in picture.streams] == [
        (State.WELL, 1.0, 1.0, 2.0)
    ]


def test_a_registry_that_timers_run_is_looked_at_in_the_database() -> None:
    away = Silent("registry http://h:8105", "nothing listens there", "nothing, where timers run it", by_timer=True)
    ran = DatabaseFacts(NOW_S, (stream(),), (), RegistryFacts(25 * 3600.0, True))
    well = judge(facts(database=ran, services=(service("BTCUSDT"), away)))
    assert (well.verdict(), well.remarks) == ("all well: 1 stream, 1 service", ())
    assert "registry: last run 25 h ago" in render(well)
    unsampled = judge(facts(database=replace(ran, registry=RegistryFacts(25 * 3600.0, False))))
    assert unsampled.well and "no spread was sampled" in unsampled.remarks[0].what


SILENT = Silent("it http://h:1", "no answer within 2 s", "start it")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (facts(database=SILENT), "no answer within 2 s -> start it"),
        (facts(services=(SILENT,)), "no answer within 2 s -> start it"),
        (facts(brokers=(SILENT,)), "no answer within 2 s -> start it"),
        (facts(stream(lag_s=16)), "1 stream behind: BTCUSDT 16 s"),
        (facts(stream(gaps_open=2, gap_age_s=61)), "2 open in BTCUSDT, oldest noticed 61 s ago"),
        (facts(stream(gaps_parked=1)), "too old to be repaired by itself: BTCUSDT -> `trading-bus gaps --repair`"),
        (facts(stream(lag_s=None, status="ACTIVE"), services=(service("X"),)), "wanted and never begun: BTCUSDT"),
        (facts(database=DatabaseFacts(NOW_S)), "nothing is followed"),
        (facts(services=(service(phase=Phase.STARTING),)), "is starting"),
        (facts(services=(service(phase=Phase.STOPPING),)), "is stopping"),
        (facts(services=(service(phase=Phase.STANDBY),)), "every instance that answered stands by"),
        (facts(services=(service(healthy=False, checks=()),)), "names no check"),
        (
            facts(services=(service(healthy=False, checks=(Check("writing", False, {"waiting": 9}, 31.0, 30.0),)),)),
            "writing: 31 s old, allowed 30 s, waiting 9 -> the database does not take rows",
        ),
        (
            facts(services=(service(healthy=False, checks=(Check("ohlcv-1", False, {}, None, 5.0),)),)),
            "ohlcv-1: no data yet, allowed 5 s -> the venue delivers nothing",
        ),
        (
            facts(services=(service(healthy=False, checks=(Check("symbols", False, {"followed": 0, "behind": 0}),)),)),
            "symbols: followed 0, behind 0 -> `trading-bus gaps`",
        ),
        (facts(brokers=(BrokerFacts("amqp", declared=False),)), "not declared"),
        (facts(brokers=(BrokerFacts("management", alarms=("mem",)),)), "mem alarm: every publisher is blocked"),
        (facts(brokers=(BrokerFacts("amqp", queues=(QueueFacts(EXCHANGE_DEAD, 3),)),)), "3 dead letters"),
        (
            facts(database=DatabaseFacts(NOW_S, (stream(),), (), RegistryFacts(26.1 * 3600, True))),
            "registry: the last run that was written is 26 h old -> `trading-bus registry run`",
        ),
        (
            facts(database=DatabaseFacts(NOW_S, (stream(),), (OutboxFacts("ohlcv/0/1", "live", 7, 31, False),))),
            "7 messages of ohlcv/0/1 wait, the oldest for 31 s; their owner is gone -> `trading-bus outbox drain`",
        ),
    ],
)
def test_each_fault_is_named_with_what_to_do(broken: Facts, words: str) -> None:
    picture = judge(broken)
    assert words in told(picture)
    assert picture.verdict().startswith(f"{len(picture.problems)} problem")
    assert all(it.advice for it in picture.problems)
    assert all(it.what in " ".join(render(picture).split()) for it in picture.problems)


@pytest.mark.parametrize(
    "fine",
    [
        facts(stream(lag_s=15)),
        facts(stream(last_trade_s=NOW_S - 7000)),  # a quiet market is not a fault
        facts(stream(gaps_open=1, gap_age_s=5)),
        facts(stream(gaps_missing=1)),
        facts(services=(service(), service(phase=Phase.STANDBY, feeds=()))),
        facts(services=(service(meters=Meters(weight_used=90, weight_limit=100)),)),
        facts(brokers=(BrokerFacts("amqp", queues=(QueueFacts(EXCHANGE_UNROUTED, 3), QueueFacts("other", 9))),)),
        facts(brokers=()),
        facts(database=DatabaseFacts(NOW_S, (stream(),), (OutboxFacts("ohlcv/0/1", "live", 7, 3, True),))),
    ],
)
def test_what_passes_by_itself_is_no_problem(fine: Facts) -> None:
    assert told(judge(fine)) == ""


def test_lag_counts_against_the_feed_and_grows_while_the_venue_is_silent() -> None:
    silent = feed(healthy=False, watermark_age_s=40.0)
    picture = judge(facts(stream(lag_s=1), services=(service(feeds=(silent,)),)))
    assert (picture.streams[0].lag_s, picture.streams[0].behind_feed_s) == (41.0, 1.0)
    assert picture.streams[0].state is State.BEHIND
    # A venue clock that runs ahead of the database's is no lag, nor one behind it.
    shifted = feed(watermark_ms=int(NOW_S * 1000) - 100_000)
    assert judge(facts(stream(lag_s=101), services=(service(feeds=(shifted,)),))).well


@pytest.mark.parametrize(
    ("changes", "answers", "state"),
    [
        ({"status": "EXCLUDED"}, (service("X"),), State.IDLE),
        ({"status": "PROBATION"}, (service("X"),), State.BEHIND),
        ({"status": "ACTIVE", "idle": True}, (service("X"),), State.IDLE),
        ({"idle": True}, (service("BTCUSDT"),), State.BEHIND),  # followed again, the ledger is a moment late
        ({}, (service("X"),), State.IDLE),  # unpinned, and everybody who could follow it has answered
        ({}, (service("X"), SILENT), State.BEHIND),  # perhaps it was the silent one's
        ({}, (service("X", phase=Phase.STANDBY),), State.BEHIND),
    ],
)
def test_who_should_move(changes: dict, answers: tuple, state: State) -> None:
    picture = judge(facts(stream(lag_s=600, **changes), stream("X"), services=answers))
    assert {row.symbol: row.state for row in picture.streams}["BTCUSDT"] is state


def test_history_is_not_missed() -> None:
    old = stream(lag_s=90_000)
    assert judge(facts(old, stream("X"), services=(SILENT,))).streams[-1].state is State.IDLE


def test_many_symbols_are_counted_and_the_worst_are_shown() -> None:
    streams = [stream(f"S{i}USDT", lag_s=1 + i / 1000) for i in range(495)]
    late = [stream(f"LATE{i}USDT", lag_s=100 + i) for i in range(5)]
    picture = judge(facts(*streams, *late))
    text = render(picture)
    assert "streams: 5 behind, 495 well; the worst 20 (--all shows 480 more)" in text
    assert "LATE4USDT 104 s, LATE3USDT 103 s" in text
    assert text.count("USDT  ") < 30 < render(picture, all_streams=True).count("S4")
    assert len(json.loads(encode(picture))["streams"]) == 500


def test_json_tells_the_same() -> None:
    body = json.loads(encode(judge(facts(stream(gaps_parked=1), brokers=(SILENT,)))))
    assert body["well"] is False
    assert [it["where"] for it in body["problems"]] == ["it http://h:1", "gaps"]
    assert body["streams"][0]["state"] == "gaps"
    assert body["services"][0]["phase"] == "serving"


_STREAMS = st.builds(
    stream, st.sampled_from(["A", "B", "C"]), st.none() | st.floats(0, 1e6), status=st.sampled_from([None, "ACTIVE"]),
    idle=st.booleans(), gaps_open=st.integers(0, 2), gaps_parked=st.integers(0, 2), gap_age_s=st.floats(0, 1e6),
)  # fmt: skip
_SERVICES = st.builds(
    service, phase=st.sampled_from(list(Phase)), healthy=st.booleans(),
    checks=st.lists(st.builds(Check, st.sampled_from(["ohlcv-0", "new"]), st.booleans())).map(tuple),
) | st.just(SILENT)  # fmt: skip


@given(st.lists(_STREAMS).map(tuple), st.lists(_SERVICES, max_size=3).map(tuple), st.booleans())
def test_any_look_is_judged_and_shown(streams: tuple, services: tuple, database_away: bool) -> None:
    database = SILENT if database_away else DatabaseFacts(NOW_S, streams)
    picture = judge(Facts(database, services))
    assert list(picture.streams) == sort_streams(picture.streams)
    assert picture.well == picture.verdict().startswith("all well")
    bad = any(row.state < State.WELL for row in picture.streams) or database_away or SILENT in services
    if bad or any(isinstance(it, ServiceFacts) and not it.healthy for it in services):
        assert not picture.well
    assert json.loads(encode(picture))["verdict"] == picture.verdict()
    render(picture)


@given(st.floats(0, 1e9))
def test_a_worse_lag_is_never_judged_better(lag_s: float) -> None:
    states = [judge(facts(stream(lag_s=it))).streams[0].state for it in (lag_s, lag_s + 1)]
    assert states[1] <= states[0]
    assert states[0] is (State.BEHIND if lag_s > StatusLimits().lag_max_s else State.WELL)


def test_meters_are_summed_over_labels() -> None:
    page = (
        'trading_bus_feed_reconnects_total{feed="a"} 2\ntrading_bus_feed_reconnects_total{feed="b"} 3\n'
        "process_resident_memory_bytes 1e8\nother 1\n"
    )
    assert parse_meters(page) == Meters(reconnects=5.0, memory_bytes=1e8)
    with pytest.raises(BadInput):
        parse_meters("<html>\n")


def test_spans() -> None:
    assert [format_span(s) for s in (0.04, 9.96, 119, 121, 7300, 200_000)] == [
        "0.0 s", "10.0 s", "119 s", "2 min", "2 h", "2 d",
    ]  # fmt: skip


def test_services_are_values() -> None:
    assert len({kind.port for kind in SERVICES}) == len({kind.name for kind in SERVICES}) == len(SERVICES)
    ohlcv = kind_of("ohlcv")
    assert ohlcv is not None
    assert "venue" in ohlcv.advise("ohlcv-17")
    assert ohlcv.advise("unheard of") == "see the service's log"
    other = ServiceKind("metric", 8102, ohlcv.settings, {})
    assert judge(facts(), kinds=(*SERVICES, other)).well  # one that was not asked is not missed


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        (("mysql://h/x", None, None, ()), "TS_DSN"),
        (("postgresql://h/x", "http://h", None, ()), "RMQ_URL"),
        (("postgresql://h/x", None, "h:1", ()), "MANAGEMENT_URL"),
        (("postgresql://h/x", None, None, ("h:1",)), "STATUS_URLS"),
        (("postgresql://h/x", None, None, ("http://",)), "STATUS_URLS"),
    ],
)
def test_wrong_addresses_are_named(given_: tuple, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        choose_addresses(*given_)


def test_addresses_by_default() -> None:
    chosen = choose_addresses("postgresql://h/x", None, None, ())
    assert chosen.service_urls == tuple(f"http://127.0.0.1:{kind.port}" for kind in SERVICES)
    assert choose_addresses("postgresql://h/x", None, None, ("http://h/", "http://h")).service_urls == ("http://h",)


def test_the_brokers_own_count_holds_against_the_older_one_of_the_management() -> None:
    old = BrokerFacts("management", queues=(QueueFacts(EXCHANGE_DEAD, 3),))
    fresh = BrokerFacts("amqp", queues=(QueueFacts(EXCHANGE_DEAD, 0),))
    assert judge(facts(brokers=(old, fresh))).problems == judge(facts(brokers=(fresh,))).problems
    assert "3 dead letters" in [problem.what for problem in judge(facts(brokers=(old,))).problems]
