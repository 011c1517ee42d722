"""The two lists kept by hand: base assets that are banned, and those that are wanted whatever they score. Pure."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any

import msgspec
import yaml

from common.errors import ConfigError

REASON_LENGTH_MAX = 200


class Lists(msgspec.Struct, frozen=True):
    """Base asset -> reason."""

    banned: Mapping[str, str] = {}
    whitelisted: Mapping[str, str] = {}


class _OnceLoader(yaml.SafeLoader):
    """Refuses a key that stands in a mapping twice: YAML itself would quietly keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping whose keys differ; raises ConstructorError."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a symbol is one word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands here twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_list(text: str, source: str) -> dict[str, str]:
    """Read `SYMBOL: reason` lines; raises ConfigError, a line for each entry that is wrong.

    A symbol that YAML takes for something else (`ON`, `1`) has to be quoted; nothing is guessed.
    """
    try:
        found: object = yaml.load(text, Loader=_OnceLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: {' '.join(str(error).split())}") from error
    if found is None:
        return {}
    try:
        entries = msgspec.convert(found, dict[object, object])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: must be lines like `SYMBOL: reason`") from error
    problems = [problem for symbol, reason in entries.items() if (problem := _find_problem(symbol, reason))]
    if problems:
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))
    return {str(symbol): " ".join(str(reason).split()) for symbol, reason in entries.items()}


def _find_problem(symbol: object, reason: object) -> str:
    if not isinstance(symbol, str):
        return f"{symbol!r} is not a symbol; put it in quotes if it is one"
    if not symbol or symbol != symbol.upper() or any(c.isspace() for c in symbol):
        return f"{symbol!r} is not a base asset in capitals, like SOL"
    if not isinstance(reason, str) or not reason.strip():
        return f"{symbol} has no reason; write `{symbol}: why`"
    if len(reason) > REASON_LENGTH_MAX:
        return f"the reason of {symbol} is longer than {REASON_LENGTH_MAX} characters"
    return ""


def find_list_problems(
    lists: Lists, known: Collection[str], elsewhere: Collection[str] = (), quotes: Collection[str] = ()
) -> list[str]:
    """Name what is odd in the lists: symbols in both, and those that no run judges.

    `known` are the assets that the registry knows or that are listed in one of the `quotes` of the universe,
    `elsewhere` those that the venue lists in others alone; of the rest neither knows anything.
    """
    problems: list[str] = []
    for name, entries in (("ban list", lists.banned), ("whitelist", lists.whitelisted)):
        unjudged = sorted(symbol for symbol in entries if symbol not in known)
        if untraded := [symbol for symbol in unjudged if symbol in elsewhere]:
            problems.append(f"not traded in {', '.join(quotes)}, in the {name}: {', '.join(untraded)}")
        if unknown := [symbol for symbol in unjudged if symbol not in elsewhere]:
            problems.append(f"unknown to the venue and to the registry, in the {name}: {', '.join(unknown)}")
    both = sorted(lists.banned.keys() & lists.whitelisted.keys())
    if both:
        problems.append(f"banned and whitelisted, the ban counts: {', '.join(both)}")
    return problems
