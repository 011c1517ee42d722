"""JSON Schemas (draft-07) of the bus's messages, made from the structs and notes of `common`. Pure."""

from __future__ import annotations

from typing import cast

import msgspec
from msgspec import inspect

from common.contract_notes import CONTRACTS, HEADERS, Contract, Note
from common.publisher import message_type

DRAFT = "http://json-schema.org/draft-07/schema#"
TIME_PATTERN = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"

Schema = dict[str, object]

_PLAIN: dict[type[inspect.Type], Schema] = {
    inspect.StrType: {"type": "string"},
    inspect.IntType: {"type": "integer"},
    inspect.FloatType: {"type": "number"},
    inspect.BoolType: {"type": "boolean"},
    # Digits are kept: read it as a decimal, not as a binary float.
    inspect.DecimalType: {"type": "number"},
    inspect.DateTimeType: {"type": "string", "format": "date-time", "pattern": TIME_PATTERN},
    inspect.DateType: {"type": "string", "format": "date"},
    inspect.DictType: {"type": "object"},
}


def type_of(contract: Contract) -> str:
    """The AMQP property `type` of a contract's messages; also its schema's name."""
    return message_type(contract.key)


def message_schema(contract: Contract) -> Schema:
    """Schema of a body: every field is required, more fields may come later.

    Raises KeyError for a field without a note, TypeError for a type that no message has had so far.
    """
    shape = inspect.type_info(contract.body)
    assert isinstance(shape, inspect.StructType)
    properties = {field.encode_name: _field(field.type, contract.notes[field.encode_name]) for field in shape.fields}
    return {
        "$schema": DRAFT,
        "$id": f"{type_of(contract)}.json",
        "title": contract.title,
        "description": contract.meaning,
        "type": "object",
        "properties": properties,
        "required": [field.encode_name for field in shape.fields if field.required],
    }


def header_schema(contract: Contract) -> Schema:
    """Schema of the application headers."""
    properties = {name: {"type": "string", "description": HEADERS[name].meaning} for name in contract.headers}
    return {"type": "object", "properties": properties}


def closed(schema: Schema) -> Schema:
    """The same for a producer's own test: no field that is not named."""
    return {**schema, "additionalProperties": False}


def schemas() -> dict[str, Schema]:
    """Every message's schema, by message type."""
    return {type_of(contract): message_schema(contract) for contract in CONTRACTS}


def _field(kind: inspect.Type, note: Note) -> Schema:
    unit = f" Unit: {note.unit}." if note.unit else ""
    schema: Schema = {"description": f"{note.meaning}.{unit}", **_type(kind)}
    return {**schema, **note.bounds}


def _type(kind: inspect.Type) -> Schema:
    if isinstance(kind, inspect.UnionType):
        (inner,) = (part for part in kind.types if not isinstance(part, inspect.NoneType))
        schema = _type(inner)
        if "enum" in schema:
            schema["enum"] = [*cast("list[object]", schema["enum"]), None]
        return {**schema, "type": [schema["type"], "null"]}
    if isinstance(kind, inspect.EnumType):
        return {"type": "string", "enum": [member.value for member in kind.cls]}
    if isinstance(kind, inspect.LiteralType):
        return {"type": "string", "enum": list(kind.values)}
    if isinstance(kind, inspect.ListType):
        return {"type": "array", "items": _type(kind.item_type)}
    if type(kind) in _PLAIN:
        return dict(_PLAIN[type(kind)])
    raise TypeError(f"no JSON Schema for {kind}")


def to_text(document: object) -> str:
    """The document as it is kept in `docs/`."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
