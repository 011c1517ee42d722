"""The files that a run judges by: those shipped with the package, or those that settings name instead."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from common.errors import ConfigError
from registry.liquidity import parse_centroids
from registry.lists import Lists, parse_list
from registry.night import Rules
from registry.thresholds import parse_thresholds

T = TypeVar("T")

THRESHOLDS, BANLIST, WHITELIST, CENTROIDS = "symbol_registry.toml", "banlist.yml", "whitelist.yml", "centroids.json"


def load_rules(
    thresholds: Path | None = None, banlist: Path | None = None, whitelist: Path | None = None,
    centroids: Path | None = None,
) -> Rules:  # fmt: skip
    """Read and check all four files, None = the one shipped; raises ConfigError, a line for each problem."""
    problems: list[str] = []
    limits = _parse(parse_thresholds, thresholds, THRESHOLDS, problems)
    banned = _parse(parse_list, banlist, BANLIST, problems)
    wanted = _parse(parse_list, whitelist, WHITELIST, problems)
    found = _parse(parse_centroids, centroids, CENTROIDS, problems)
    if limits is None or banned is None or wanted is None or found is None:
        raise ConfigError("\n".join(problems))
    return Rules(limits, Lists(banned, wanted), found)


def _parse(parse: Callable[[str, str], T], path: Path | None, shipped: str, problems: list[str]) -> T | None:
    try:
        return parse(*_read(path, shipped))
    except ConfigError as error:
        problems.append(str(error))
        return None


def _read(path: Path | None, shipped: str) -> tuple[str, str]:
    try:
        if path is None:
            return files("registry").joinpath(shipped).read_text("utf-8"), shipped
        return path.read_text("utf-8"), str(path)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError(f"{path or shipped}: {reason}") from error
