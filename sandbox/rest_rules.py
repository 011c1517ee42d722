"""What is wrong with single REST endpoints: rules by path and symbol, and what they do to an answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

import msgspec

HOWS = (
    "slow", "status", "error", "cut", "html", "garbage", "empty", "old", "set", "shift", "without"
)  # fmt: skip
ROW_HOWS = ("set", "shift", "without")
"""Those that change rows of one symbol, also in an answer about all."""
_encode = msgspec.json.Encoder(decimal_format="number").encode


class Rule(msgspec.Struct, kw_only=True):
    """One fault of one endpoint; unknown or wrong arguments fail to convert."""

    path: str = "*"  # a whole path or its ending; *: all
    symbol: str = "*"  # pair or instId of the request; for rows: of the row
    answer: str
    for_s: float | None = None
    next: int | None = None  # so many answers only
    every: int = 1  # each so many-th answer only, the first one spared
    status: int = 503
    retry_after_s: int | None = None
    code: int | str = -1000
    msg: str = "An unknown error occurred while processing the request."
    by_s: float = 0.0
    by_ms: int = 0
    field: str = "time"
    fields: dict[str, Any] = {}
    seen: int = 0
    until: float | None = None

    def matches(self, path: str, symbol: str | None) -> bool:
        """Whether the rule is about such a request."""
        if self.path != "*" and path != self.path and not path.endswith("/" + self.path.lstrip("/")):
            return False
        return self.symbol == "*" or symbol == self.symbol or (symbol is None and self.answer in ROW_HOWS)


class RestRules:
    """Rules in the order they were made; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rules: list[Rule] = []

    def add(self, args: dict[str, Any]) -> None:
        """Take a rule. Raises ValueError when it makes no sense."""
        try:
            rule = msgspec.convert(args, Rule, strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(f"rest_answer: {error}") from error
        if rule.answer not in HOWS:
            raise ValueError(f"unknown answer {rule.answer!r}, known: {', '.join(HOWS)}")
        if rule.every < 1 or args.keys() - set(Rule.__struct_fields__):
            raise ValueError(f"rest_answer: wrong arguments {sorted(args)}")
        rule.until = None if rule.for_s is None else self._clock() + rule.for_s
        self._rules.append(rule)

    def take(self, path: str, symbol: str | None) -> list[Rule]:
        """The rules that hit a request, counted."""
        if not self._rules:
            return []
        now = self._clock()
        self._rules = [r for r in self._rules if (r.until is None or now < r.until) and r.next != 0]
        found: list[Rule] = []
        for rule in self._rules:
            if not rule.matches(path, symbol):
                continue
            rule.seen += 1
            if rule.seen % rule.every == 0:
                rule.next = None if rule.next is None else rule.next - 1
                found.append(rule)
        return found


def rewrite(rule: Rule, text: str) -> str:
    """The body after a rule that lets the endpoint answer first."""
    if rule.answer == "garbage":
        return text[: len(text) // 2]
    if rule.answer == "empty":
        return _empty(text)
    if rule.answer not in ROW_HOWS:
        return text
    body = json.loads(text, parse_float=Decimal)
    return _encode(_rewrite_rows(rule, body)).decode()


def _empty(text: str) -> str:
    if text.startswith("["):
        return "[]"
    body: object = json.loads(text)
    if isinstance(body, dict) and "data" in body:
        return json.dumps({**cast("dict[str, object]", body), "data": []}, separators=(",", ":"))
    return "{}"


def _rewrite_rows(rule: Rule, body: object) -> object:
    if isinstance(body, list):
        rows = [(row, _is_meant(rule, row)) for row in cast("list[object]", body)]
        if rule.answer == "without":
            return [row for row, meant in rows if not meant]
        return [_rewrite_row(rule, cast("dict[str, Any]", row)) if meant else row for row, meant in rows]
    if not isinstance(body, dict):
        return body
    whole = cast("dict[str, Any]", body)
    for name in ("data", "symbols"):
        if isinstance(whole.get(name), list):
            return {**whole, name: _rewrite_rows(rule, whole[name])}
    return _rewrite_row(rule, whole) if rule.answer != "without" else {}


def _is_meant(rule: Rule, row: object) -> bool:
    if not isinstance(row, dict):
        return False
    named = cast("dict[str, Any]", row)
    return rule.symbol in ("*", named.get("symbol"), named.get("instId"), named.get("id"))


def _rewrite_row(rule: Rule, row: dict[str, Any]) -> dict[str, Any]:
    if rule.answer == "set":
        return row | rule.fields
    value = row.get(rule.field)
    if isinstance(value, str) and value.isdecimal():
        return row | {rule.field: str(int(value) + rule.by_ms)}
    return row | {rule.field: value + rule.by_ms} if isinstance(value, int) else row
