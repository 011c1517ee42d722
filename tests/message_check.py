"""Holds messages against the schemas that the documents promise; validators are compiled once."""

from __future__ import annotations

import json
from decimal import Decimal

import jsonschema

from common.contract_notes import CONTRACTS
from common.publisher import message_type
from ops.contracts_doc import message_fields
from ops.contracts_doc_schema import closed, message_schema, type_of

SHOWN_MAX = 6

_VALIDATORS = {
    type_of(contract): jsonschema.Draft7Validator(closed(message_schema(contract))) for contract in CONTRACTS
}
_FIELDS = {type_of(contract): message_fields(contract) for contract in CONTRACTS}


class MessageCheck:
    """Counts messages, and keeps the first few that are not as promised."""

    def __init__(self) -> None:
        self.checked = 0
        self.wrong = 0
        self.shown: list[str] = []

    def see(self, key: str, body: bytes) -> None:
        self.checked += 1
        if (fault := find_fault(key, body)) is not None:
            self.wrong += 1
            if len(self.shown) < SHOWN_MAX:
                self.shown.append(f"{key} {body[:300]!r}: {fault}")


def find_fault(key: str, body: bytes) -> str | None:
    """What is wrong with a message; None when it is as promised."""
    kind = message_type(key)
    if kind not in _VALIDATORS:
        return f"no contract for {kind}"
    try:
        value = json.loads(body, parse_float=_read_plain, parse_constant=_refuse)
    except ValueError as error:
        return str(error)
    error = next(_VALIDATORS[kind].iter_errors(value), None)
    if error is not None:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return None if list(value) == _FIELDS[kind] else f"fields in the order {list(value)}"


def _read_plain(text: str) -> Decimal:
    if "e" in text.lower() or text.endswith("0"):
        raise ValueError(f"{text} is not written plainly")
    return Decimal(text)


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")
