"""What each frame and answer of Hyperliquid means, and that nothing else can break the reader."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadInput
from common.numbers import format_scaled
from influencer_ingestor import hyperliquid as venue
from influencer_ingestor.events import SCALE, Fill, PositionSnapshot
from tests.unit.influencer_world import T0, USER, make_fill

FIXTURES = Path(__file__).parents[1] / "fixtures" / "hyperliquid"


def text(value: int) -> str:
    return format_scaled(value, SCALE)


def frame(name: str) -> bytes:
    return (FIXTURES / f"{name}.json").read_bytes()


def test_a_frame_of_fills_is_read_exactly_and_kept_as_it_is() -> None:
    raw = frame("userFills_cases")
    told = venue.parse(raw)
    assert isinstance(told, venue.Fills) and not told.snapshot and not told.failures and told.user == USER
    said = json.loads(raw)["data"]["fills"]
    assert [json.loads(fill.raw) for fill in told.fills] == said
    assert all(fill.raw in raw for fill in told.fills), "byte for byte"
    for fill, each in zip(told.fills, said, strict=True):
        assert (Decimal(text(fill.px)), Decimal(text(fill.sz))) == (Decimal(each["px"]), Decimal(each["sz"]))
        assert Decimal(text(fill.start)) == Decimal(each["startPosition"])
        assert (fill.buy, fill.time_ms, fill.oid) == (each["side"] == "B", each["time"], each["oid"])
    liquidated = [fill.liquidation for fill in told.fills if fill.liquidation]
    assert [each.user for each in liquidated] == [USER, "0x" + "bb" * 20, None], "addresses in lower case"


def test_an_unreadable_fill_costs_only_itself() -> None:
    told = venue.parse(frame("userFills_bad_some"))
    assert isinstance(told, venue.Fills)
    assert [fill.tid for fill in told.fills] == [101, 107]
    assert len(told.failures) == 6
    assert all(failure.user == USER and failure.raw and failure.reason for failure in told.failures)


def test_a_snapshot_says_so_and_later_frames_do_not() -> None:
    said = {"channel": "userFills", "data": {"isSnapshot": True, "user": USER.upper().replace("X", "x"), "fills": []}}
    assert venue.parse(json.dumps(said)) == venue.Fills(USER, True, ())
    del said["data"]["isSnapshot"]  # type: ignore[attr-defined]
    assert venue.parse(json.dumps(said)) == venue.Fills(USER, False, ())


def test_what_is_not_data() -> None:
    assert venue.parse("Websocket connection established.") == venue.Alive("greeting")
    assert venue.parse(b'{"channel":"pong"}') == venue.Alive("pong")
    error = venue.parse('{"channel":"error","data":"Cannot track more than 15 total users."}')
    assert error == venue.VenueError("Cannot track more than 15 total users.", 15)
    other = venue.parse('{"channel":"error","data":"Cannot subscribe to more than 1000 channels."}')
    assert isinstance(other, venue.VenueError) and other.users_max is None
    assert venue.parse('{"channel":"bbo","data":{"coin":"BTC"}}') == venue.Unread("bbo")


def test_nameless_events_belong_to_the_only_user_who_asked() -> None:
    fill = make_fill("0", "1")
    said = b'{"channel":"user","data":{"fills":[' + fill.raw + b"]}}"
    assert venue.parse(said, lone_user=USER) == venue.Fills(USER, False, (fill,))
    assert venue.parse(said) == venue.Unread("user"), "nobody's fills are not anybody's"
    assert venue.parse('{"channel":"user","data":{"funding":{"coin":"ETH"}}}', USER) == venue.Unread("user")
    order = '{"order":{"coin":"BTC","oid":57},"status":"open","statusTimestamp":1785261289146,"more":1}'
    told = venue.parse(f'{{"channel":"orderUpdates","data":[{order},{{"order":1}}]}}')
    assert isinstance(told, venue.OrderUpdates) and len(told.failures) == 1
    assert told.updates[0].raw.decode() == order and told.updates[0].status == "open"


def test_subscribing_never_aggregates() -> None:
    asked = json.loads(venue.subscribe_frame("userFills", USER))
    assert asked == {
        "method": "subscribe",
        "subscription": {"type": "userFills", "user": USER, "aggregateByTime": False},
    }
    answer = json.dumps({"channel": "subscriptionResponse", "data": asked})
    assert venue.parse(answer) == venue.Acked("userFills", USER, True)
    ended = json.loads(venue.subscribe_frame("orderUpdates", USER, subscribe=False))
    assert ended == {"method": "unsubscribe", "subscription": {"type": "orderUpdates", "user": USER}}
    assert venue.fills_request(USER, 5)["aggregateByTime"] is False
    assert venue.fills_request(USER, 5, 9)["endTime"] == 9 and "dex" not in venue.state_request(USER)
    assert venue.state_request(USER, "xyz") == {"type": "clearinghouseState", "user": USER, "dex": "xyz"}


def test_pages_overlap_at_their_last_time_and_never_stall() -> None:
    page = [T0] * 1_000 + [T0 + 5] * 1_000
    assert venue.next_page(T0, page) == T0 + 5, "more fills may share it"
    assert venue.next_page(T0 + 5, [T0 + 5] * 2_000) == T0 + 6
    assert venue.next_page(T0, page[:-1]) is None
    assert venue.fills_weight(2_000) == 120


def test_addresses() -> None:
    assert venue.read_address(" 0xABCDEF" + "0" * 34 + " ") == "0xabcdef" + "0" * 34
    for wrong in ("", "0x12", "abcdef" + "0" * 34, "0x" + "g" * 40, "0x" + "٣" * 40):
        with pytest.raises(BadInput, match="is not an address"):
            venue.read_address(wrong)


def test_a_state_is_read_with_signs() -> None:
    body = (
        b'{"assetPositions":[{"type":"oneWay","position":{"coin":"ETH","szi":"-10.5","entryPx":"3100.1",'
        b'"leverage":{"type":"cross","value":20}}}],"time":1790000000123}'
    )
    state = venue.parse_state(body, USER)
    assert isinstance(state, PositionSnapshot) and state.time_ms == 1790000000123 and state.raw == body
    (held,) = state.held
    assert (held.coin, text(held.size), held.leverage, held.margin_mode) == ("ETH", "-10.5", 20, "cross")
    pushed = b'{"channel":"clearinghouseState","data":{"dex":"xyz","user":"%s","clearinghouseState":%s}}'
    told = venue.parse(pushed % (USER.encode(), body))
    assert isinstance(told, PositionSnapshot) and told.dex == "xyz" and told.raw == body
    with pytest.raises(BadInput):
        venue.parse_state(b'{"assetPositions":[{"position":{"coin":"ETH","szi":"ten"}}]}', USER)
    with pytest.raises(BadInput, match="control characters"):
        venue.parse_state(b'{"assetPositions":[{"position":{"coin":"A\\u0000B","szi":"1"}}]}', USER)


def test_the_recorded_session_is_digested_without_loss(shared_data: Path) -> None:
    lines = (shared_data / "hyperliquid/ws_userFills_20261005.jsonl").read_text().splitlines()
    told = [venue.parse(line) for line in lines]
    kinds = [type(each).__name__ for each in told]
    assert {kind: kinds.count(kind) for kind in kinds} == {"Acked": 15, "Fills": 4, "VenueError": 25, "Alive": 1}
    assert len({each.user for each in told if isinstance(each, venue.Acked)}) == 15
    assert {each.users_max for each in told if isinstance(each, venue.VenueError)} == {15}
    fills = [each for each in told if isinstance(each, venue.Fills)]
    assert [each.snapshot for each in fills] == [True, False, False, False]
    said = [json.loads(line)["data"]["fills"] for line in lines if '"fills"' in line]
    assert [[json.loads(fill.raw) for fill in each.fills] for each in fills] == said
    assert not any(each.failures for each in fills)


def test_other_recordings(shared_data: Path) -> None:
    folder = shared_data / "hyperliquid"
    told = [venue.parse(line) for line in (folder / "ws_frames_testnet_20260728.jsonl").read_text().splitlines()]
    orders = [each for each in told if isinstance(each, venue.OrderUpdates)]
    assert [each.updates[0].status for each in orders] == ["open", "canceled"]
    assert not any(each.failures for each in orders)
    event = venue.parse((folder / "ws_user_fill_liquidation_202606.json").read_bytes(), USER)
    assert isinstance(event, venue.Fills) and event.fills[0].liquidation is not None
    dust = venue.parse_fills((folder / "rest_userFills_dust_conversion_202606.json").read_bytes(), USER)
    assert [fill.tid is None for fill in dust.fills] == [False, False, False, True, False], "a tid of 0 names nothing"
    state = venue.parse_state((folder / "rest_clearinghouseState.json").read_bytes(), USER)
    assert state.time_ms is None and [text(held.size) for held in state.held[:2]] == ["-0.00785", "0.1334"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
CHANNELS = ("userFills", "user", "orderUpdates", "clearinghouseState", "subscriptionResponse", "error", "pong", "x")


@given(st.sampled_from(CHANNELS), json_values)
def test_whatever_comes_is_read_or_refused_by_name(channel: str, data: object) -> None:
    try:
        venue.parse(json.dumps({"channel": channel, "data": data}), USER)
    except BadInput:
        return


@given(st.binary(max_size=60))
def test_bytes_of_any_kind(raw: bytes) -> None:
    for read in (venue.parse, lambda body: venue.parse_fills(body, USER), lambda body: venue.parse_state(body, USER)):
        try:
            read(raw)  # type: ignore[no-untyped-call]
        except BadInput:
            continue


def test_fills_without_a_usable_tid_are_told_apart() -> None:
    def old(**other: object) -> Fill:
        return make_fill("5", "-1", tid=None, **other)

    one = old(oid=1)
    others = [old(oid=2), old(oid=1, px="10.6"), old(oid=1, hash="0x1"), make_fill("6", "-1", tid=None)]
    assert len({fill.event_id for fill in (one, *others)}) == 5
    assert one.event_id == old(oid=1).event_id and one.event_id.startswith(f"{T0}:ETH:x")
    assert old(oid=1, px="10.50").event_id == one.event_id, "the value counts, not its spelling"
    assert make_fill("5", "-1", tid=0).event_id == one.event_id, "a tid of 0 names nothing"
    assert make_fill("5", "-1", tid=9).event_id == f"{T0}:ETH:9"
