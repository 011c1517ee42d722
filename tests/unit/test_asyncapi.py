"""The documents of the bus: current, valid, and strict enough to find a wrong message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from common.contract_notes import CONTRACTS, Contract
from common.contracts import OutgoingMessage, bar_message, beat_message, footprint_message
from common.publisher import message_type
from common.topology import LOG_BINDINGS
from ops.cache import find_cache
from ops.contracts_doc import DOCS, contracts, fill_semantics, find_stale, message_fields
from ops.contracts_doc_asyncapi import describe_bus
from ops.contracts_doc_schema import closed, message_schema, type_of
from tests.message_check import MessageCheck
from tests.rows import T0, make_bar, make_second

OFFICIAL = find_cache() / "asyncapi/3.0.0.json"
BY_TYPE = {type_of(contract): contract for contract in CONTRACTS}
SAMPLES = [
    bar_message(make_bar(), 1),
    bar_message(make_bar(grade=3, source="okx"), 2),
    footprint_message(make_second(symbol="1000币USDT"), 7),
    footprint_message(make_second(n=0, ids=None), 2),
    beat_message("SOLUSDT", T0, "0.00000001", live=False),
]


def validator(contract: Contract) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(closed(message_schema(contract)))


def test_the_documents_are_current() -> None:
    assert find_stale(DOCS) == {}, "`trading-bus contracts write` makes them so"


def test_write_and_check(tmp_path: Path) -> None:
    (tmp_path / "SEMANTICS.md").write_text("a\n<!-- fields of price_updates.beat -->\nstale\n<!-- end -->\nz\n")
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/gone.json").write_text("{}")
    run = CliRunner().invoke
    stale = run(contracts, ["check", "--folder", str(tmp_path)])
    assert stale.exit_code == 1 and "asyncapi.json" in stale.output and "gone.json" in stale.output
    assert run(contracts, ["write", "--folder", str(tmp_path)]).exit_code == 0
    assert not (tmp_path / "schemas/gone.json").exists()
    text = (tmp_path / "SEMANTICS.md").read_text()
    assert text.startswith("a\n") and text.endswith("\nz\n") and "`live`" in text and "stale" not in text
    assert "current" in run(contracts, ["check", "--folder", str(tmp_path)]).output
    (tmp_path / "asyncapi.json").write_text("{}")
    assert run(contracts, ["check", "--folder", str(tmp_path)]).exit_code == 1


def test_an_unknown_name_in_the_semantics_is_refused() -> None:
    with pytest.raises(Exception, match="no message or table nothing"):
        fill_semantics("<!-- fields of nothing -->\n<!-- end -->\n")


@pytest.mark.parametrize("contract", CONTRACTS, ids=type_of)
def test_every_field_has_a_note_and_a_valid_schema(contract: Contract) -> None:
    schema = message_schema(contract)
    jsonschema.Draft7Validator.check_schema(schema)
    assert list(schema["properties"]) == message_fields(contract)
    assert set(contract.columns) <= set(message_fields(contract))
    for name, field in schema["properties"].items():
        assert len(field["description"]) > 10, name


def test_types_are_told_apart_and_keys_reach_the_log() -> None:
    assert len(BY_TYPE) == len(CONTRACTS)
    for contract in CONTRACTS:
        logged = any(matches(pattern, contract.key) for pattern in LOG_BINDINGS)
        assert logged is contract.persistent, contract.key


def matches(pattern: str, key: str) -> bool:
    """A topic pattern with * and a last #."""
    words, given = pattern.split("."), key.split(".")
    if words[-1] == "#":
        words, given = words[:-1], given[: len(words) - 1]
    return len(words) == len(given) and all(a in ("*", b) for a, b in zip(words, given, strict=True))


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: m.message_id)
def test_messages_as_they_are_sent_are_valid(message: OutgoingMessage) -> None:
    contract = BY_TYPE[message_type(message.key)]
    body = json.loads(message.body, parse_float=Decimal)
    validator(contract).validate(body)
    assert list(body) == message_fields(contract)


def test_what_is_wrong_is_found() -> None:
    check = validator(BY_TYPE["price_updates.1m"])
    good = json.loads(bar_message(make_bar(), 1).body)
    wrong = [
        {**good, "c": "1.5"},
        {**good, "c": None},
        {**good, "v": -1},
        {**good, "time": "2026-01-01 00:00:00"},
        {**good, "rev": 0},
        {**good, "n": 1.5},
        {**good, "complete": 1},
        {**good, "extra": 1},
        {name: value for name, value in good.items() if name != "rev"},
    ]
    assert [body for body in wrong if check.is_valid(body)] == []
    check.validate({**good, "n": None, "buy_vol": None})


def test_every_reference_leads_somewhere() -> None:
    document = describe_bus()
    for reference in references(document):
        found: object = document
        for part in reference.removeprefix("#/").split("/"):
            assert isinstance(found, dict) and part in found, reference
            found = found[part]


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"`make asyncapi` fetches AsyncAPI's own schema ({OFFICIAL})")
def test_the_document_is_valid_asyncapi() -> None:
    official = json.loads(OFFICIAL.read_text())
    check = jsonschema.Draft7Validator(official)
    document = json.loads((DOCS / "asyncapi.json").read_text())
    assert [f"{list(error.path)}: {error.message}" for error in check.iter_errors(document)] == []
    document["operations"]["replay"]["action"] = "publish"
    assert not check.is_valid(document)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("price_updates.SOLUSDT.1m", (b'"c":64500.1', b'"c":6.45001E4')),
        ("price_updates.SOLUSDT.1m", (b'"c":64500.1', b'"c":64500.10')),
        ("price_updates.SOLUSDT.1m", (b'"c":64500.1', b'"c":NaN')),
        ("price_updates.SOLUSDT.1m", (b'"c":64500.1', b'"c":null')),
        ("price_updates.SOLUSDT.1m", (b'"rev":1', b'"rev":1,"more":1')),
        ("price_updates.SOLUSDT.5m", (b"", b"")),
        ("price_updates.SOLUSDT.1m", (b'"o":64500,"h":64501.25', b'"h":64501.25,"o":64500')),
    ],
)
def test_the_fault_suites_check_finds_what_is_not_promised(key: str, change: tuple[bytes, bytes]) -> None:
    body = bar_message(make_bar(), 1).body
    assert change[0] in body
    check = MessageCheck()
    check.see("price_updates.SOLUSDT.1m", body)
    assert (check.checked, check.wrong) == (1, 0), check.shown
    check.see(key, body.replace(*change) if change[0] else body)
    assert check.wrong == len(check.shown) == 1
