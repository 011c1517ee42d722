"""`trading-bus verify bars`, by its command: real trades against real candles, and small files of our own."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from ops import cli

M0 = 1_790_000_040  # a whole minute
TRADES, KLINES = "spot_rest_aggTrades_XRPETH_20191011-12.jsonl", "spot_klines_1m_XRPETH_20191011-12.json"


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, list[str]]:
    """Exit code and lines of the command, as a shell sees them."""
    monkeypatch.setattr(sys, "argv", ["trading-bus", "verify", "bars", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), (out + err).splitlines()


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    return lambda trades, klines, *more: run(capsys, monkeypatch, "--trades", trades, "--klines", klines, *more)


def record(a: int, p: str, q: str, ms: int, m: bool = False, n: int = 1) -> dict[str, object]:
    return {"a": a, "p": p, "q": q, "f": 10 * a, "l": 10 * a + n - 1, "T": ms, "m": m, "M": True}


ROWS = [
    record(1, "2.00000000", "1.00000000", M0 * 1000 + 500),
    record(2, "2.50000000", "3.00000000", M0 * 1000 + 500, m=True, n=3),
    record(3, "1.50000000", "2.00000000", M0 * 1000 + 59_999),
    record(4, "1.25000000", "4.00000000", (M0 + 120) * 1000),
]
SHORT = [
    [M0 * 1000, 2.0, 2.5, 1.5, 1.5, 6.0],
    [(M0 + 60) * 1000, 1.5, 1.5, 1.5, 1.5, 0.0],
    [(M0 + 120) * 1000, 1.25, 1.25, 1.25, 1.25, 4],
]


def long_row(minute: int, prices: str, vol: str, quote: str, n: int, buy: str, buy_quote: str) -> list[object]:
    return [minute * 1000, *prices.split(), vol, minute * 1000 + 59_999, quote, n, buy, buy_quote, "0"]


LONG = [
    long_row(M0, "2.00000000 2.50000000 1.50000000 1.50000000", "6.0", "12.50000000", 5, "3.0", "5.00000000"),
    long_row(M0 + 60, "1.5 1.5 1.5 1.5", "0.0", "0.0", 0, "0.0", "0.0"),
    long_row(M0 + 120, "1.25 1.25 1.25 1.25", "4.0", "5.0", 1, "4.0", "5.0"),
]


@pytest.fixture
def files(tmp_path: Path):
    """Writes trades and candles, returns both paths."""

    def write(trades: list[dict[str, object]] = ROWS, klines: object = SHORT) -> tuple[Path, Path]:
        a, b = tmp_path / "trades.jsonl", tmp_path / "klines.json"
        a.write_text("".join(json.dumps(row) + "\n" for row in trades))
        b.write_text(json.dumps(klines))
        return a, b

    return write


@pytest.mark.parametrize("klines", [SHORT, LONG])
def test_every_field_of_both_forms_is_equal(verify, files, klines) -> None:
    assert verify(*files(klines=klines)) == (0, ["3 of 3 minutes equal"])


@pytest.mark.parametrize(
    ("column", "value", "line"),
    [
        (1, "2.1", "o: ours 2, theirs 2.1"),
        (2, "2.6", "h: ours 2.5, theirs 2.6"),
        (3, "1.4", "l: ours 1.5, theirs 1.4"),
        (4, "1.6", "c: ours 1.5, theirs 1.6"),
        (5, "6.1", "v: ours 6, theirs 6.1"),
        (7, "12.50000001", "quote_vol: ours 12.5, theirs 12.50000001"),
        (8, 4, "n: ours 5, theirs 4"),
        (9, "3.00000001", "buy_vol: ours 3, theirs 3.00000001"),
        (10, "4.9", "buy_quote_vol: ours 5, theirs 4.9"),
    ],
)
def test_each_column_is_compared(verify, files, column: int, value: object, line: str) -> None:
    first = [*LONG[0][:column], value, *LONG[0][column + 1 :]]
    code, lines = verify(*files(klines=[first, *LONG[1:]]), "--symbol", "ABC")
    assert (code, lines) == (1, [f"ABC 2026-09-21T14:14:00Z {line}", "2 of 3 minutes equal"])


def test_an_altered_trade_names_minute_and_field(verify, files) -> None:
    altered = [{**ROWS[0], "q": "1.00000001"}, *ROWS[1:]]
    code, lines = verify(*files(altered))
    assert (code, lines) == (1, ["2026-09-21T14:14:00Z v: ours 6.00000001, theirs 6", "2 of 3 minutes equal"])


def test_a_quiet_minute_must_be_flat_at_the_close_before(verify, files) -> None:
    code, lines = verify(*files(klines=[SHORT[0], [(M0 + 60) * 1000, 1.5, 1.6, 1.5, 1.5, 0], SHORT[2]]))
    assert (code, lines) == (1, ["2026-09-21T14:15:00Z h: ours 1.5, theirs 1.6", "2 of 3 minutes equal"])


def test_a_minute_without_any_close_before_it_is_a_difference(verify, files) -> None:
    code, lines = verify(*files(klines=[[(M0 - 60) * 1000, 1, 1, 1, 1, 0], *SHORT]))
    assert (code, lines[0]) == (1, "2026-09-21T14:13:00Z row: ours none, theirs there is one")


def test_minutes_without_a_candle_are_said_not_hidden(verify, files) -> None:
    code, lines = verify(*files(klines=SHORT[:1]))
    assert code == 0
    assert lines == [
        "not compared: 1 minutes with trades have no candle, first 2026-09-21T14:16:00Z",
        "1 of 1 minutes equal",
    ]


def test_many_differences_are_counted(verify, files) -> None:
    klines = [[(M0 + 60 * i) * 1000, 9, 9, 9, 9, 9] for i in range(10)]
    code, lines = verify(*files(klines=klines))
    assert code == 1 and len(lines) == 22
    assert lines[20:] == ["... and 30 more differences", "0 of 10 minutes equal"]


def test_a_quote_volume_finer_than_the_venue_prints_may_be_rounded(verify, files) -> None:
    fine = [record(1, "0.00000001", "0.50000000", M0 * 1000, n=2)]

    def row(quote: str):
        return [long_row(M0, "0.00000001 " * 4, "0.5", quote, 2, "0.5", quote)]

    assert verify(*files(fine, row("0.00000002")))[0] == 0  # two trades of 0.5e-8 at most 1e-8 each away
    assert verify(*files(fine, row("0.00000003")))[0] == 1
    plain = [record(1, "1.0", "0.5", M0 * 1000)]
    assert verify(*files(plain, [long_row(M0, "1 1 1 1", "0.5", "0.50000001", 1, "0.5", "0.50000001")]))[0] == 1


def test_collectors_csv_and_gzip(verify, tmp_path: Path) -> None:
    trades, klines = tmp_path / "trades.csv.gz", tmp_path / "klines.json.gz"
    lines = ["timestamp,price,quantity,side,tradeId", f"{M0 * 1000},2.5,1.5,buy,7", f"{M0 * 1000 + 9},2.25,1,sell,8"]
    trades.write_bytes(gzip.compress("\n".join(lines).encode()))
    row = long_row(M0, "2.5 2.5 2.25 2.25", "2.5", "6.0", 2, "1.5", "3.75")
    klines.write_bytes(gzip.compress(json.dumps([row]).encode()))
    assert verify(trades, klines) == (0, ["1 of 1 minutes equal"])


@pytest.mark.parametrize(
    ("trades", "klines", "told"),
    [
        (None, "[]", "trades.jsonl: can not be read: No such file"),
        ("", "[]", "trades.jsonl, line 1: no trades"),
        (json.dumps(ROWS[0]) + "\n\n{}\n", "[]", "trades.jsonl, line 3: "),
        (
            json.dumps(ROWS[0]) + "\n" + json.dumps({**ROWS[0], "p": "3"}),
            "[]",
            "trades.jsonl, line 2: trade 1 is there",
        ),
        (json.dumps({**ROWS[0], "p": "2.000000001"}), "[]", "trades.jsonl, line 1: '2.000000001' is finer"),
        ("{}, {}", "[]", "trades.jsonl, line 1: "),
        (None, None, "trades.jsonl: can not be read"),
        (json.dumps(ROWS[0]), "[]", "klines.json, line 1: no candles"),
        (json.dumps(ROWS[0]), "", "klines.json, line 1: not a JSON list"),
        (json.dumps(ROWS[0]), f"[[{M0}000,1,1,1,1,1],\n[{M0 + 60}000,1,1", "klines.json, line 2: "),
        (json.dumps(ROWS[0]), f"[[{M0}000,1,1,1,1,1]\n\n", "klines.json, line 1: the list goes on"),
        (json.dumps(ROWS[0]), f"[[{M0}000,1,1,1,1,1],\n[{M0}000,1,1]]", "klines.json, line 2: not a candle"),
        (json.dumps(ROWS[0]), f"[[{M0}000,1,1,1,1,null]]", "klines.json, line 1: not a candle"),
        (json.dumps(ROWS[0]), f'[\n[{M0}000,1,1,1,1,"x"]]', "klines.json, line 2: not a candle"),
        (json.dumps(ROWS[0]), f"[[{M0 + 1}000,1,1,1,1,1]]", "klines.json, line 1: the candle does not open"),
        (json.dumps(ROWS[0]), f"[[{M0}000,1,1,1,1,1],[{M0}000,1,1,1,1,2]]", "klines.json, line 1: a minute is there"),
        (json.dumps(ROWS[0]), "[7]", "klines.json, line 1: not a candle"),
    ],
)
def test_what_can_not_be_read_is_one_line(verify, tmp_path: Path, trades, klines, told: str) -> None:
    for name, text in (("trades.jsonl", trades), ("klines.json", klines)):
        if text is not None:
            (tmp_path / name).write_text(text)
    code, lines = verify(tmp_path / "trades.jsonl", tmp_path / "klines.json")
    assert code == 1 and len(lines) == 1, lines
    assert lines[0].startswith(f"trading-bus: {tmp_path}/{told}")


def test_broken_bytes_are_one_line(verify, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a":1}\n\xff\n')
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"[]")[:-9])
    assert verify(tmp_path / "a.jsonl", tmp_path / "b.json.gz")[1] == [
        f"trading-bus: {tmp_path}/a.jsonl, line 2: not UTF-8 text"
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    code, lines = verify(tmp_path / "a.jsonl", tmp_path / "b.json.gz")
    assert code == 1 and len(lines) == 1 and "b.json.gz: can not be read" in lines[0]


def test_numbers_with_exponents_are_read_exactly(verify, files) -> None:
    trades = [record(1, "0.00001000", "1.00000000", M0 * 1000)]
    assert verify(*files(trades, [[M0 * 1000, 1e-05, 1e-05, 1e-05, 1e-05, 1.0]])) == (0, ["1 of 1 minutes equal"])


def test_real_trades_make_the_real_candles(verify, shared_data: Path, tmp_path: Path) -> None:
    trades, klines = shared_data / "binance" / TRADES, shared_data / "binance" / KLINES
    assert verify(trades, klines, "--symbol", "XRPETH") == (0, ["2160 of 2160 minutes equal"])
    lines = trades.read_text().splitlines()
    altered = json.loads(lines[4000])
    altered["q"] = "1000000.00000000"
    (tmp_path / "altered.jsonl").write_text("\n".join([*lines[:4000], json.dumps(altered), *lines[4001:]]))
    code, told = verify(tmp_path / "altered.jsonl", klines, "--symbol", "XRPETH")
    assert code == 1 and told[-1] == "2159 of 2160 minutes equal"
    assert len(told) == 2 and told[0].startswith("XRPETH 2019-10-1") and " v: ours 1000" in told[0]


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, lines = run(capsys, monkeypatch, "--help")
    assert code == 0 and any("trading-bus verify bars --trades" in line for line in lines)
