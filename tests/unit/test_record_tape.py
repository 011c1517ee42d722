"""The tape: what was written can be read, also after a kill; the sandbox reads it with code of its own."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from ops.record import record
from ops.record_tape import Tape, frame_line, header_line, mark_line
from ops.record_venues import VENUES
from ops.replay import replay
from sandbox.config import Config
from sandbox.market import open_market
from sandbox.tape import read_tape, read_tapes
from sandbox.trades import Trade

AT_MS = 1_790_000_000_000
HEADER = header_line("binance", "wss://venue/stream", ["SOLUSDT"], ["solusdt@aggTrade"], AT_MS * 10**6)


def agg_trade(number: int, symbol: str = "SOLUSDT") -> bytes:
    return (
        b'{"stream":"x@aggTrade","data":{"e":"aggTrade","E":%d,"s":"%s","a":%d,"p":"150.01000000","q":"0.50000000",'
        b'"f":%d,"l":%d,"T":%d,"m":true,"M":true}}'
        % (AT_MS + number + 7, symbol.encode(), number, 2 * number, 2 * number + 1, AT_MS + number)
    )


def trade(number: int) -> Trade:
    return Trade(number, 15_001_000_000, 50_000_000, 2 * number, 2 * number + 1, AT_MS + number, True)


def write_tape(path: Path, *lines: bytes) -> Path:
    tape = Tape(path)
    for line in (HEADER, *lines):
        tape.write(line)
    tape.close()
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as lines:
        return [json.loads(line) for line in lines]


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_a_frame_is_kept_whatever_it_is(raw: bytes) -> None:
    line = frame_line(17, 2, raw)
    assert line.count(b"\n") == 1
    row = json.loads(line)
    assert (row["t"], row["c"]) == (17, 2)
    assert (row["f"].encode() if "f" in row else base64.b64decode(row["b64"])) == raw


def test_the_sandbox_reads_the_trades_and_nothing_else(tmp_path: Path) -> None:
    path = write_tape(
        tmp_path / "a.tape",  # what a file is, it says itself
        mark_line(1, 1, "opened"),
        frame_line(2, 1, b'{"result":null,"id":1}'),
        frame_line(3, 1, agg_trade(5)),
        frame_line(4, 1, agg_trade(6)[:60]),
        frame_line(5, 1, b"\xff\xfe"),
        mark_line(6, 1, "unreadable", reason='"aggTrade" broken'),
        frame_line(7, 1, b'{"e":"24hrMiniTicker","E":1,"s":"BTCUSDT"}'),
        mark_line(8, 1, "lost", reason="cut", planned=False),
        frame_line(9, 2, agg_trade(6)),
        frame_line(10, 3, agg_trade(6)),  # two connections overlap
        frame_line(11, 3, agg_trade(8)),
        frame_line(12, 3, agg_trade(1, "ETHUSDT")),
        mark_line(13, 0, "end", frames=9),
    )
    assert rows_of(path)[0]["venue"] == "binance"
    assert read_tapes([(path, None)]) == {"SOLUSDT": [trade(5), trade(6), trade(8)], "ETHUSDT": [trade(1)]}


def test_event_times_are_kept_or_shifted(tmp_path: Path) -> None:
    path = write_tape(tmp_path / "a.tape.gz", *(frame_line(1, 1, agg_trade(i)) for i in range(3)))
    kept = open_market(Config(tapes=((path, None),), start="recorded"))
    assert [t.time_ms for t in kept.between("SOLUSDT", 0, 1 << 60)] == [AT_MS, AT_MS + 1, AT_MS + 2]
    shifted = open_market(Config(tapes=((path, None),), start=AT_MS + 3_600_000, lead_s=0.0))
    assert [t.time_ms for t in shifted.between("SOLUSDT", 0, 1 << 60)] == [AT_MS + 3_600_000 + i for i in range(3)]


def test_a_killed_recorders_tape_is_readable_up_to_the_last_flush(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "whole")
    tape.write(HEADER)
    for number in range(100):
        tape.write(frame_line(number, 1, agg_trade(number)))
    tape.flush()
    flushed = tape.size_bytes
    for number in range(100, 3000):
        tape.write(frame_line(number, 1, agg_trade(number)))
    tape.flush()
    tape.close()
    whole = (tmp_path / "whole").read_bytes()
    cut = tmp_path / "cut.tape.gz"
    counts: list[int] = []
    for size in (flushed, flushed + 1, flushed + 700, len(whole) - 9, len(whole) - 1):
        cut.write_bytes(whole[:size])
        found = read_tape(cut)["SOLUSDT"]
        assert found == [trade(number) for number in range(len(found))]
        counts.append(len(found))
    assert counts[0] == 100
    assert counts == sorted(counts)
    assert counts[-1] == 3000
    cut.write_bytes(whole)
    assert read_tape(cut)["SOLUSDT"] == [trade(number) for number in range(3000)]


def test_a_recording_is_never_written_over(tmp_path: Path) -> None:
    path = write_tape(tmp_path / "a.tape.gz")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="there already"):
        Tape(path)
    with pytest.raises(ConfigError, match="can not be written"):
        Tape(tmp_path / "nowhere" / "a.tape.gz")
    assert path.read_bytes() == before


def fail(command: Any, *words: str) -> str:
    done = CliRunner().invoke(command, words)
    assert isinstance(done.exception, ConfigError), done.output
    return str(done.exception)


def test_what_can_not_be_recorded_is_named(tmp_path: Path) -> None:
    out = str(tmp_path / "new.tape.gz")
    assert "SOL/USDT" in fail(record, "binance", "--symbols", "SOL/USDT", "--out", out)
    assert "XYZ" in fail(record, "okx", "--symbols", "XYZ", "--out", out)
    assert "0 symbols" in fail(record, "okx", "--symbols", " , ", "--out", out)
    assert "http://venue" in fail(record, "binance", "--symbols", "A", "--out", out, "--url", "http://venue")
    assert not Path(out).exists()
    assert [VENUES["okx"].name_of(name) for name in ("SOLUSDT", "sol-usdt")] == ["SOL-USDT"] * 2


def test_what_can_not_be_played_is_named(tmp_path: Path) -> None:
    assert "no such file" in fail(replay, str(tmp_path / "gone"))
    empty = write_tape(tmp_path / "empty.tape.gz")
    with pytest.raises(ValueError, match="no trade"):
        read_tapes([(empty, None)])
    other = Tape(tmp_path / "okx.tape.gz")
    other.write(header_line("okx", "wss://venue", ["SOL-USDT"], ["trades:SOL-USDT"], 1))
    other.close()
    with pytest.raises(ValueError, match="only binance"):
        read_tape(tmp_path / "okx.tape.gz")
