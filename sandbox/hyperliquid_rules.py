"""What is wrong with single sockets, users and info requests at the moment: rules with a window or a count."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

LINE_KINDS = ("lag", "stall", "silent", "mute", "drop", "duplicate", "reorder", "shuffle", "malformed", "spoil")
ONCE = ("duplicate", "reorder", "shuffle", "malformed", "spoil")
"""Those that hit one block when neither a number nor a time is said."""
REST_KINDS = ("rest_down", "rest_429", "rest_slow", "rest_behind", "rest_body", "rest_cut")
NEEDED = {
    "lag": "by_s",
    "stall": "for_s",
    "rest_slow": "by_s",
    "rest_behind": "by_ms",
    "spoil": "fields",
    "rest_body": "body",
}


class Rule(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One fault that lasts; `lines` are the sockets it hits (serial numbers), None for all, also later ones."""

    kind: str
    lines: frozenset[int] | None = None
    user: str | None = None
    coin: str | None = None
    type: str | None = None  # of the info request
    for_s: float | None = None
    next: int | None = None
    every: int = 1
    by_s: float = 0.0
    by_ms: int = 0
    behind: int = 1
    status: int = 503
    body: str = ""
    fields: dict[str, Any] = {}
    how: Literal["instead", "beside"] = "beside"
    seen: int = 0
    until: float | None = None

    def fits(self, user: str | None, coin: str | None = None) -> bool:
        """Whether the rule is about such data."""
        return self.user in (None, user) and (coin is None or self.coin in (None, coin))


class Rules:
    """Rules in the order in which they were made; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rules: list[Rule] = []
        self.refuse_until = 0.0
        self.refuse_status = 503
        self.done: Counter[str] = Counter()

    def add(self, kind: str, args: dict[str, Any], lines: Iterable[int] | None) -> None:
        """Take a rule. Raises ValueError when its arguments do not fit."""
        if NEEDED.get(kind, "") not in ("", *args):
            raise ValueError(f"fault {kind} needs {NEEDED[kind]}")
        try:
            rule = msgspec.convert({**args, "kind": kind}, Rule, strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(f"fault {kind}: {error}") from error
        rule.lines = None if lines is None else frozenset(lines)
        rule.user = rule.user.lower() if rule.user else None
        rule.until = None if rule.for_s is None else self._clock() + rule.for_s
        if (
            rule.next is None
            and rule.for_s is None
            and kind in ("duplicate", "reorder", "shuffle", "malformed", "spoil")
        ):
            rule.next = 1
        self._rules.append(rule)

    def clear(self) -> None:
        """Everything is well again; what was lost stays lost."""
        self._rules.clear()
        self.refuse_until = 0.0

    def refuses(self) -> int | None:
        """The HTTP status with which new sockets are refused; None when they are welcome."""
        return self.refuse_status if self._clock() < self.refuse_until else None

    def _alive(self) -> list[Rule]:
        if self._rules:
            now = self._clock()
            self._rules = [r for r in self._rules if (r.until is None or now < r.until) and r.next != 0]
        return self._rules

    def calm(self) -> bool:
        """Whether there is no rule at all."""
        return not self._alive()

    def on(self, kind: str, line: int, user: str | None) -> Rule | None:
        """A lasting rule that holds for a socket's data; nothing is counted."""
        for rule in self._alive():
            if rule.kind == kind and (rule.lines is None or line in rule.lines) and rule.fits(user):
                return rule
        return None

    def take(self, kind: str, line: int | None, user: str | None, coin: str | None = None) -> Rule | None:
        """The rule that hits now, counted; `line` None asks for rules about all sockets, else for that socket's own."""
        for rule in self._alive():
            mine = rule.lines is None if line is None else rule.lines is not None and line in rule.lines
            if rule.kind == kind and mine and rule.fits(user, coin):
                return self._count(rule)
        return None

    def take_rest(self, kind: str, request: str, user: str | None) -> Rule | None:
        """The rule that hits an info request, counted."""
        for rule in self._alive():
            if rule.kind == kind and rule.type in (None, request) and rule.user in (None, user):
                return self._count(rule)
        return None

    def _count(self, rule: Rule) -> Rule | None:
        rule.seen += 1
        if rule.seen % rule.every or rule.next == 0:
            return None
        if rule.next is not None:
            rule.next -= 1
        self.done[rule.kind] += 1
        return rule
