"""`trading-bus contracts`: what the documents say of the bus, made from the code."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

from common.contract_notes import CONTRACTS, Contract, Note, column_notes
from common.errors import ConfigError
from ops.contracts_doc_asyncapi import describe_bus
from ops.contracts_doc_schema import schemas, to_text, type_of
from ops.server_state import REPOSITORY

DOCS = REPOSITORY / "docs"
ASYNCAPI_FILE = "asyncapi.json"
SCHEMA_FOLDER = "schemas"
SEMANTICS_FILE = "SEMANTICS.md"

_BLOCK = re.compile(r"(<!-- fields of ([\w.]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_EXAMPLE = "\b\nExamples:\n  trading-bus contracts check\n  trading-bus contracts write"
_FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=DOCS, help="The documents' folder."
)


@click.group(epilog=_EXAMPLE)
def contracts() -> None:
    """Write the AsyncAPI document, the JSON Schemas and the field tables, or check that they are current."""


@contracts.command(epilog="\b\nExample:\n  trading-bus contracts write")
@_FOLDER
def write(folder: Path) -> None:
    """Write what changed; says which files."""
    changed = find_stale(folder)
    for name, text in changed.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink()
        else:
            path.write_text(text, encoding="utf-8")
        click.echo(f"{'removed' if text is None else 'written'}: {path}")
    if not changed:
        click.echo("nothing to do: all current")


@contracts.command(epilog="\b\nExample:\n  trading-bus contracts check")
@_FOLDER
def check(folder: Path) -> None:
    """Exit code 1 and the names of stale files when the documents are not what the code says."""
    stale = find_stale(folder)
    for name in stale:
        click.echo(f"stale: {folder / name}; `trading-bus contracts write` makes it current", err=True)
    if not stale:
        click.echo(f"current: {len(CONTRACTS)} messages, {len(column_notes())} tables")
    sys.exit(1 if stale else 0)


def find_stale(folder: Path) -> dict[str, str | None]:
    """Files below a folder that are not as they should be, with their text; None for one that should not be there.

    Raises ConfigError when the semantics are missing or name a message or table that nobody knows.
    """
    wanted: dict[str, str | None] = {ASYNCAPI_FILE: to_text(describe_bus())}
    wanted |= {f"{SCHEMA_FOLDER}/{name}.json": to_text(schema) for name, schema in schemas().items()}
    wanted[SEMANTICS_FILE] = fill_semantics(_read(folder / SEMANTICS_FILE))
    known = (f"{SCHEMA_FOLDER}/{path.name}" for path in (folder / SCHEMA_FOLDER).glob("*.json"))
    wanted |= {name: None for name in known if name not in wanted}
    return {name: text for name, text in wanted.items() if _read_if_there(folder / name) != text}


def fill_semantics(text: str) -> str:
    """The semantics with every marked field table made anew; raises ConfigError for an unknown name."""
    by_type = {type_of(contract): contract for contract in CONTRACTS}

    def fill(match: re.Match[str]) -> str:
        name = match[2]
        if name in by_type:
            table = _message_table(by_type[name])
        elif name in column_notes():
            table = _column_table(column_notes()[name])
        else:
            raise ConfigError(f"{SEMANTICS_FILE}: no message or table {name}")
        return f"{match[1]}{table}{match[3]}"

    return _BLOCK.sub(fill, text)


def message_fields(contract: Contract) -> list[str]:
    """Names of a body's fields as they are written, in order."""
    shape = msgspec.inspect.type_info(contract.body)
    assert isinstance(shape, msgspec.inspect.StructType)
    return [field.encode_name for field in shape.fields]


def _column_table(notes: Mapping[str, Note], head: str = "column") -> str:
    rows = [f"| `{name}` | {note.unit} | {note.meaning} |" for name, note in notes.items()]
    return "\n".join([f"| {head} | unit | meaning |", "|---|---|---|", *rows, ""])


def _message_table(contract: Contract) -> str:
    """Fields in the message's order, then the columns that only the table has."""
    if contract.table is None:
        return _column_table(contract.notes, "field")
    sent = message_fields(contract)
    rows: list[str] = []
    for name in [*sent, *(name for name in contract.notes if name not in sent)]:
        note = contract.notes[name]
        column = f", column `{contract.columns[name]}`" if name in contract.columns else ""
        only = "" if name in sent else "table"
        rows.append(f"| `{name}`{column} | {note.unit} | {note.meaning} | {only} |")
    return "\n".join(["| field | unit | meaning | only in |", "|---|---|---|---|", *rows, ""])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _read_if_there(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
