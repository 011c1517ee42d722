"""What a demo concludes from messages, tables and the venue's recount."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from common.contracts import GapStatus, bar_message, beat_message, footprint_message
from common.errors import BadInput
from common.health import Check, Phase, Report
from ops.demo_cuts import LONG, SHORT, choose_cuts, plan_cut, plan_start
from ops.demo_judge import BAR_FIELDS, SECOND_FIELDS, Recounted, Stored, Verdict, name_faults, summarize
from ops.demo_picture import Gap, Picture, gap_of, speeches_of
from ops.demo_view import draw_table, status_line
from tests.rows import T0, make_bar, make_second

SYMBOL = "BTCUSDT"
START_S = T0 + 120


def bar_fields(minute: int, **changes: object) -> dict:
    return {**{name: getattr(make_bar(minute), name) for name in BAR_FIELDS}, **changes}


def second_fields(second: int, **changes: object) -> dict:
    return {**{name: getattr(make_second(second), name) for name in SECOND_FIELDS}, **changes}


def stored(**changes: object) -> Stored:
    """Three minutes, the last one streamed, and two seconds with the trades 10 to 14 and 15 to 19."""
    bars = {T0 + 60 * i: bar_fields(T0 + 60 * i) for i in range(3)}
    seconds = {
        START_S: second_fields(START_S, first_id=10, last_id=14),
        START_S + 1: second_fields(START_S + 1, first_id=15, last_id=19),
    }
    given = {
        "bars": bars,
        "seconds": seconds,
        "bar_marks": dict.fromkeys(bars, (1, True)),
        "second_marks": dict.fromkeys(seconds, (1, True)),
        "id_spans": [(10, 14), (15, 19)],
        "cursor_s": START_S + 61,
        "cursor_id": 19,
    }
    return Stored(**{**given, **changes})


def recounted(ours: Stored, **changes: object) -> Recounted:
    given = {"bars": dict(ours.bars), "seconds": dict(ours.seconds), "streamed": [(10, 14), (17, 21)]}
    return Recounted(**{**given, **changes})


def judge(ours: Stored, theirs: Recounted, may_lack: bool = False) -> Verdict:
    verdict = Verdict()
    verdict.add(SYMBOL, ours, theirs, START_S, may_lack)
    return verdict


def test_equal_rows_are_good_and_told_apart() -> None:
    ours = stored()
    verdict = judge(ours, recounted(ours))
    assert (verdict.streamed, verdict.backfilled, verdict.seconds) == ([1, 1], [2, 2], [2, 2])
    assert (verdict.trades_sent, verdict.trades_stored, verdict.trades_pending, verdict.trades_lost) == (10, 8, 2, 0)
    assert list(name_faults(Picture([SYMBOL]), verdict)) == []
    lines = summarize(Picture([SYMBOL]), verdict)
    assert lines[0] == "trades    10 sent by the venue, 10 accounted for (8 stored, 2 in seconds still open)"
    assert lines[-1] == "bars      3 of 3 closed bars equal the venue's (1 streamed, 2 backfilled)"


@pytest.mark.parametrize("name", BAR_FIELDS)
def test_every_column_of_a_bar_is_judged(name: str) -> None:
    ours = stored()
    theirs = recounted(ours)
    theirs.bars[START_S] = bar_fields(START_S, **{name: "77"})
    verdict = judge(ours, theirs)
    assert (verdict.streamed, verdict.backfilled) == ([0, 1], [2, 2])
    (fault,) = name_faults(Picture([SYMBOL]), verdict)
    assert fault.startswith(f"{SYMBOL} ") and f" {name}: ours " in fault and fault.endswith("theirs 77")
    assert summarize(Picture([SYMBOL]), verdict)[-1] == (
        "bars      2 of 3 closed bars equal the venue's (0 of 1 streamed, 2 of 2 backfilled)"
    )


@pytest.mark.parametrize("name", SECOND_FIELDS)
def test_every_column_of_a_second_is_judged(name: str) -> None:
    ours = stored()
    theirs = recounted(ours)
    theirs.seconds[START_S] = second_fields(START_S, first_id=10, last_id=14) | {name: "77"}
    verdict = judge(ours, theirs)
    assert verdict.seconds == [1, 2] and [it.field for it in verdict.differences] == [name]


def test_rows_missing_or_made_up_are_faults() -> None:
    ours = stored()
    theirs = recounted(ours)
    del ours.bars[T0]
    del theirs.seconds[START_S + 1]
    verdict = judge(ours, theirs)
    assert (verdict.backfilled, verdict.seconds) == ([1, 2], [1, 2])
    assert [(it.field, it.ours) for it in verdict.differences] == [("row", "none"), ("row", "there is one")]


def test_incomplete_rows_are_faults_unless_a_gap_explains_them() -> None:
    ours = stored(bar_marks={START_S: (1, False)})
    assert [it.field for it in judge(ours, recounted(ours)).differences] == ["complete"]
    assert judge(ours, recounted(ours), may_lack=True).differences == []


def test_a_second_settled_by_a_candle_has_no_ids_to_compare() -> None:
    ours = stored()
    ours.seconds[START_S] = second_fields(START_S, first_id=None, last_id=None)
    theirs = recounted(ours)
    theirs.seconds[START_S] = second_fields(START_S, first_id=10, last_id=14)
    assert judge(ours, theirs).seconds == [2, 2]


def test_a_streamed_trade_in_no_stored_second_is_lost() -> None:
    ours = stored(id_spans=[(10, 13), (15, 19)])
    verdict = judge(ours, recounted(ours))
    assert verdict.trades_lost == 1
    assert "1 streamed trades are in no stored second" in list(name_faults(Picture([SYMBOL]), verdict))


def test_rows_never_announced_are_counted() -> None:
    ours = stored(bar_marks={T0: (1, True), T0 + 60: (2, True)}, second_marks={})
    heard = {bar_message(make_bar(T0, SYMBOL), 1).message_id, bar_message(make_bar(T0 + 60, SYMBOL), 1).message_id}
    verdict = judge(ours, recounted(ours))
    verdict.count_unannounced(SYMBOL, ours, heard)
    assert (verdict.rows, verdict.unannounced) == (2, 1)
    assert list(name_faults(Picture([SYMBOL]), verdict)) == ["1 stored rows were never announced on the bus"]


def test_nothing_stored_is_no_success() -> None:
    empty = stored(bars={}, seconds={}, bar_marks={}, second_marks={}, id_spans=[])
    assert "nothing was stored at all" in list(name_faults(Picture([SYMBOL]), judge(empty, Recounted({}, {}, []))))


def see(picture: Picture, now_s: float, message) -> None:
    picture.see_message(now_s, message.key, message.message_id, message.body)


def test_messages_become_a_picture() -> None:
    picture = Picture([SYMBOL])
    see(picture, T0 + 62, footprint_message(make_second(T0 + 60, SYMBOL), 1))
    see(picture, T0 + 62, footprint_message(make_second(T0 + 60, SYMBOL), 1))
    see(picture, T0 + 62, bar_message(make_bar(T0, SYMBOL), 1))
    see(picture, T0 + 65, beat_message(SYMBOL, T0 + 63, "99.5", live=True))
    see(picture, T0 + 66, beat_message(SYMBOL, T0 + 64, "99.5", live=False))
    see(picture, T0 + 66, bar_message(make_bar(T0, SYMBOL), 2))
    symbol = picture.symbols[SYMBOL]
    assert dict(picture.kinds) == {"1s": 2, "1m": 2, "beat": 2} and picture.repeated == 1
    assert symbol.heard_to_s == T0 + 64 and str(symbol.price) == "99.5"  # a blind beat is no data
    assert symbol.rate(T0 + 66) == make_second(T0).n / 10 and symbol.rate(T0 + 90) == 0
    assert symbol.revised == 1 and "revised (rev 2, complete)" in picture.events[-1][1]
    assert "1.6 s" not in status_line(picture, T0 + 66) and "oldest 2.0 s" in status_line(picture, T0 + 66)
    assert draw_table(picture, T0 + 66).row_count == 1


@pytest.mark.parametrize(("key", "body"), [("price_updates.X.5m", b"{}"), ("price_updates.X.1m", b"{"), ("x.1s", b"1")])
def test_what_is_no_price_update_is_counted(key: str, body: bytes) -> None:
    picture = Picture([])
    with pytest.raises(BadInput):
        picture.see_message(T0, key, "id", body)
    assert picture.unreadable == 1


def test_ids_are_kept_up_to_a_bound() -> None:
    picture = Picture([SYMBOL], ids_max=3)
    for second in range(5):
        see(picture, T0, footprint_message(make_second(T0 + second, SYMBOL), 1))
    assert len(picture.ids) == 3 and not picture.tells_repeats
    assert "repeated" not in summarize(picture, None)[1]


def gap(status: str, to_id: int | None = 12) -> Gap:
    return gap_of(
        {
            "symbol": SYMBOL,
            "from_id": 10,
            "to_id": to_id,
            "status": status,
            "reason": "cut",
            "tries": 1,
            "restored_n": 7,
        }
    )


def test_gaps_are_told_once_each() -> None:
    picture, told = Picture([SYMBOL]), []
    picture.listen(lambda second, text: told.append(text))
    for status in ("open", "open", "repaired", "repaired"):
        picture.see_gaps(T0, [gap(status)])
    assert told == [
        "BTCUSDT: gap opened after trade 9 (cut)",
        "BTCUSDT: gap repaired: ids 10 to 12, 7 single trades restored",
    ]
    assert (picture.count_gaps(), picture.count_gaps(GapStatus.REPAIRED), picture.symbols[SYMBOL].gaps_open) == (
        1,
        1,
        0,
    )
    picture.see_gaps(T0, [gap("source_missing")])
    assert summarize(picture, None)[0] == "gaps      opened 1, repaired 0, 1 given up"


def test_a_gap_that_opens_again_is_told_again() -> None:
    picture = Picture([SYMBOL])
    for status, to_id in (("open", None), ("repaired", 9), ("open", None), ("repaired", 12)):
        picture.see_gaps(T0, [gap(status, to_id)])
    assert [text.split(": ", 1)[1].partition(" (")[0] for _, text in picture.events] == [
        "gap opened after trade 9",
        "gap closed: nothing had been traded in it",
        "gap opened after trade 9",
        "gap repaired: ids 10 to 12, 7 single trades restored",
    ]


def test_a_gap_without_trades_is_not_told_as_ids() -> None:
    picture = Picture([SYMBOL])
    picture.see_gaps(T0, [gap("repaired", to_id=9)])
    assert picture.events[-1][1] == "BTCUSDT: gap closed: nothing had been traded in it"


def test_a_demo_has_the_cuts_that_fit() -> None:
    assert choose_cuts(None) == choose_cuts(84) == (SHORT, LONG)
    assert [cut.after_s for cut in choose_cuts(83)] == [SHORT.after_s]
    assert [cut.after_s for cut in choose_cuts(24)] == [8.0]


@pytest.mark.parametrize("now_ms", [1_790_000_000_000 + 7_777 * i for i in range(12)])
def test_minutes_end_within_the_cuts(now_ms: int) -> None:
    start_ms = plan_start(now_ms, SHORT)
    assert now_ms - 60_000 < start_ms <= now_ms
    for late_ms in (0, 900, 3_000, 7_000):  # from the venue's start to the ingestor's
        first_ms, second_ms = plan_cut(start_ms + late_ms, SHORT), plan_cut(start_ms + late_ms, LONG)
        assert first_ms == start_ms + 15_000 and (first_ms + 2_000) % 60_000 == 0
        assert second_ms == start_ms + 64_000 and (second_ms + 13_000) % 60_000 == 0
    # What is started meanwhile takes its time, more or less: the minute waits for it.
    start_ms = plan_start(now_ms, SHORT, 7_000)
    assert {plan_cut(start_ms + late_ms, SHORT) for late_ms in (0, 3_000, 7_000, 14_000)} == {start_ms + 22_000}


@pytest.mark.parametrize("late_ms", range(0, 60_000, 5_000))
def test_a_late_start_keeps_the_cuts_apart(late_ms: int) -> None:
    began_ms = plan_start(1_790_000_000_000, SHORT) + late_ms
    first_ms, second_ms = plan_cut(began_ms, SHORT), plan_cut(began_ms, LONG)
    assert abs(first_ms - began_ms - 15_000) <= 8_000 and (second_ms + 13_000) % 60_000 == 0
    assert second_ms - first_ms >= 6_000 + 10_000


def see_speaker(picture: Picture, speaker: str, failovers: int) -> None:
    detail = {"speaker": speaker, "failovers": failovers, "watermark_ms": 1}
    checks = (Check("symbols", True), Check("ohlcv-0", speaker == "binance", detail))
    picture.see_speeches(T0, speeches_of(Report("ohlcv", Phase.SERVING, True, True, checks)))


def test_a_change_of_speaker_is_told_once() -> None:
    picture = Picture([SYMBOL])
    assert picture.speaker == "none"
    for speaker, failovers in (("binance", 0), ("okx", 1), ("okx", 1), ("binance", 1)):
        see_speaker(picture, speaker, failovers)
        assert f"speaker: {speaker} |" in status_line(picture, T0)
    assert [text for _, text in picture.events] == [
        "ohlcv-0: okx speaks: the primary delivers nothing",
        "ohlcv-0: binance speaks again",
    ]
    assert picture.failovers == 1


def test_bars_of_the_fallback_are_counted_once_and_their_end_is_told() -> None:
    picture = Picture([SYMBOL])
    theirs = replace(make_bar(T0, SYMBOL), n=None, source="okx", complete=False)
    see(picture, T0 + 63, bar_message(theirs, 1))
    see(picture, T0 + 64, bar_message(theirs, 2))
    assert draw_table(picture, T0 + 64).row_count == 1
    see(picture, T0 + 70, bar_message(make_bar(T0, SYMBOL), 3))
    assert [text.partition(": bar of ")[2][9:] for _, text in picture.events] == [
        "told by okx (rev 1, not complete)",
        "told by okx (rev 2, not complete)",
        "revised (rev 3, complete), replaces the fallback's",
    ]
    see_speaker(picture, "binance", 1)
    ours = stored()
    verdict = judge(ours, recounted(ours))
    assert summarize(picture, None)[-1] == "failover  1 seen, 1 bars told by the fallback"
    line = "failover  1 seen, 1 bars told by the fallback, {} bars and {} seconds of it remain"
    assert line.format(0, 0) in summarize(picture, verdict) and list(name_faults(picture, verdict)) == []
    verdict.fallback_bars, verdict.fallback_seconds = 1, 2
    assert line.format(1, 2) in summarize(picture, verdict)
    assert list(name_faults(picture, verdict)) == ["3 rows of the fallback venue were never replaced"]
