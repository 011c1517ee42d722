"""The worked examples: the engine's rules, and that the documents show the examples as they are."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterator
from decimal import Decimal

import pytest

from common.contract_notes import CONTRACTS, column_notes
from common.contracts import BarRow, FootprintRow, bar_message, beat_message, footprint_message
from examples.feature_engine import BARS_KEPT_S, SECONDS_KEPT_S, Engine, describe, read_message
from examples.replay_pika import Newest, read_offset
from ops.contracts_doc import DOCS, message_fields
from ops.demo_features import compare_rows, read_known
from ops.server_state import REPOSITORY
from tests.rows import T0, make_bar, make_second

SYMBOL = "SOLUSDT"


def bar(row: BarRow, rev: int = 1) -> tuple[str, dict]:
    return "1m", read_message(bar_message(row, rev).body)


def second(row: FootprintRow, rev: int = 1) -> tuple[str, dict]:
    return "1s", read_message(footprint_message(row, rev).body)


def beat(time: int, live: bool) -> tuple[str, dict]:
    return "beat", read_message(beat_message(SYMBOL, time, "100", live).body)


@pytest.fixture
def engine() -> Engine:
    engine = Engine()
    engine.load([], [], T0 - 3600, T0 - 900)
    return engine


def test_features_of_a_minute(engine: Engine) -> None:
    assert engine.see(*second(make_second(T0 + 3))) == []
    (first,) = engine.see(*bar(make_bar(T0, c="100")))
    assert (first["return_1m"], first["imbalance"], first["complete"]) == (None, pytest.approx(1 / 3), True)
    (second_bar,) = engine.see(*bar(make_bar(T0 + 60, c="101")))
    assert second_bar["return_1m"] == pytest.approx(0.01) and second_bar["imbalance"] is None


def test_a_revision_makes_its_own_and_the_next_feature_anew_and_a_repetition_nothing(engine: Engine) -> None:
    for n in range(3):
        engine.see(*bar(make_bar(T0 + 60 * n, c="100")))
    changed = engine.see(*bar(make_bar(T0, c="50", grade=2), rev=2))
    assert [(row["time"], row["rev"], row["complete"]) for row in changed] == [(T0, 2, False), (T0 + 60, 1, False)]
    assert changed[1]["return_1m"] == 1.0
    for rev in (2, 1):
        assert engine.see(*bar(make_bar(T0, c="77"), rev=rev)) == []
    assert engine.repeated == 2 and engine.symbols[SYMBOL].bars[T0]["c"] == 50


def test_a_late_second_changes_its_minute_and_a_deleted_one_stays_deleted(engine: Engine) -> None:
    engine.see(*bar(make_bar(T0)))
    (feature,) = engine.see(*second(make_second(T0 + 5, grade=3, source="okx")))
    assert feature["imbalance"] is not None and not feature["complete"]
    assert len(engine.see(*second(make_second(T0 + 5, n=0), rev=2))) == 1
    assert describe(engine)[SYMBOL]["seconds"] == []
    assert engine.see(*second(make_second(T0 + 5), rev=1)) == []
    assert describe(engine)[SYMBOL]["seconds"] == []
    # A trade that came late brings it back, and its revisions go on.
    engine.see(*second(make_second(T0 + 5), rev=3))
    assert [row[:2] for row in describe(engine)[SYMBOL]["seconds"]] == [[T0 + 5, 3]]


def test_a_load_knows_which_seconds_were_deleted_and_came_back(engine: Engine) -> None:
    gone = {"symbol": SYMBOL, "buy_vol": 0, "sell_vol": 0, "n": 0, "complete": True, "rev": 2}
    back = {**gone, "time": T0 + 6, "buy_vol": 1, "n": 1, "rev": 3}
    for order in (1, -1):
        rows = [{**gone, "time": T0 + 5}, {**gone, "time": T0 + 6}, back][::order]
        engine.load([], rows, T0 - 60, T0 - 60)
        assert [row[:2] for row in describe(engine)[SYMBOL]["seconds"]] == [[T0 + 6, 3]]
        assert engine.see(*second(make_second(T0 + 5), rev=1)) == []


def test_beats_tell_blindness_from_silence(engine: Engine) -> None:
    engine.see(*second(make_second(T0)))
    engine.see(*bar(make_bar(T0)))
    symbol = engine.symbols[SYMBOL]
    for time, live, heard in ((T0 + 3, True, T0 + 4), (T0 + 9, False, T0 + 10)):
        assert engine.see(*beat(time, live)) == []
        assert (symbol.heard_to_s, symbol.live) == (heard, live)
    engine.see(*beat(T0 + 5, True))
    assert not symbol.live and not engine.features(SYMBOL, T0)["live"], "an old beat is no news"
    engine.see(*second(make_second(T0 + 11)))
    assert symbol.live


def test_the_tables_decide_when_it_joins_again(engine: Engine) -> None:
    engine.see(*second(make_second(T0)))
    engine.see(*bar(make_bar(T0), rev=3))
    row = {"symbol": SYMBOL, "time": T0, "c": Decimal(9), "complete": True, "rev": 5}
    engine.load([row], [], T0 - 60, T0 - 60)
    assert describe(engine)[SYMBOL]["bars"] == [[T0, 5, "9", True]] and not engine.symbols[SYMBOL].seconds
    assert engine.see(*bar(make_bar(T0), rev=4)) == [], "from the queue, older than the table"


def test_memory_is_bounded(engine: Engine) -> None:
    for minute in range(0, 2 * BARS_KEPT_S, 60):
        engine.see(*second(make_second(T0 + minute)))
        engine.see(*bar(make_bar(T0 + minute)))
    symbol = engine.symbols[SYMBOL]
    assert len(symbol.bars) == BARS_KEPT_S // 60 + 1 and len(symbol.seconds) == SECONDS_KEPT_S // 60 + 1
    assert engine.see(*bar(make_bar(T0), rev=9)) == [], "too old to be known whole"
    # A bar whose seconds were let go has no imbalance, rather than a wrong one.
    assert engine.features(SYMBOL, symbol.bars_from_s)["imbalance"] is None


def test_what_the_engine_knows_is_compared_row_by_row(engine: Engine) -> None:
    engine.see(*bar(make_bar(T0)))
    known = read_known(json.dumps(describe(engine)).encode())[SYMBOL].bars
    assert compare_rows("x", known, [(T0, 1, "64500.1", True)]) == []
    for wrong in ((T0, 2, "64500.1", True), (T0, 1, "64500", True), (T0, 1, "64500.1", False), (T0 + 60, 1, "1", True)):
        assert compare_rows("x", known, [wrong])


def test_replay_keeps_the_highest_rev_and_reads_offsets() -> None:
    newest = Newest()
    told = [newest.is_news("k", {"time": "t", "rev": rev}) for rev in (2, 2, 1, 3)]
    assert told == [True, False, False, True] and newest.rows["k", "t"]["rev"] == 3
    day, signal = {"day": "d", "rev": 1}, {"signalId": "s"}
    for body in (day, signal):
        assert [newest.is_news("k", body), newest.is_news("k", body)] == [True, False]
    event = {"symbol": "SOL", "status": "ACTIVE"}
    assert newest.is_news("k", event) and newest.is_news("k", event)
    assert newest.is_news("k.beat", {"time": "t"}) and newest.is_news("k.beat", {"time": "t"})
    assert [read_offset(text) for text in ("first", "1h", "12")] == ["first", "1h", 12]
    assert str(read_offset("2026-01-31T09:00:00Z")) == "2026-01-31 09:00:00+00:00"


# ---- documents


def snippets() -> Iterator[tuple[str, str]]:
    for path in sorted(DOCS.glob("*.md")):
        for block in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            yield path.name, block


def pieces_of_examples() -> set[str]:
    """Every function, method and class of the examples as text, dedented."""
    pieces: set[str] = set()
    for path in (REPOSITORY / "examples").glob("*.py"):
        text = path.read_text()
        lines = text.splitlines(keepends=True)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                pieces.add(textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno])))
    return pieces


def test_python_in_the_documents_is_the_examples_own_text() -> None:
    pieces = pieces_of_examples()
    shown = list(snippets())
    assert len(shown) >= 5
    assert [f"{name}: {block.splitlines()[0]}" for name, block in shown if block not in pieces] == []


def test_every_field_and_column_is_named_in_the_semantics() -> None:
    text = (DOCS / "SEMANTICS.md").read_text()
    sections = {
        name: part for part in text.split("\n## ")[1:] for name in re.findall(r"`([\w.<>]+)`", part.partition("\n")[0])
    }
    # A table may also stand in somebody else's section: under its own mark.
    sections |= dict(re.findall(r"<!-- fields of (\S+) -->\n(.*?)<!-- end -->", text, re.DOTALL))
    for contract in CONTRACTS:
        key = contract.key.replace("{symbol}", "<SYM>").replace("{influencer}.{market}", "<influencer>.<MARKET>")
        assert key in sections, key
        assert [name for name in message_fields(contract) if f"`{name}`" not in sections[key]] == [], key
    for table, notes in column_notes().items():
        assert table in sections, table
        assert [name for name in notes if f"`{name}`" not in sections[table]] == [], table


def test_every_link_of_the_documents_leads_somewhere() -> None:
    lost: list[str] = []
    for path in [*DOCS.glob("*.md"), REPOSITORY / "README.md", *REPOSITORY.glob("CONTRIBUTING.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
            if not target.startswith(("http:", "https:", "mailto:")) and not (path.parent / target).exists():
                lost.append(f"{path.name}: {target}")
    assert lost == []
