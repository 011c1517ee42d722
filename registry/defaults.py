"""The files that a run judges by: those shipped with the package, or those that settings name instead."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from common.errors import ConfigError
from registry.liquidity import parse_centroids
from registry.lists import Lists, parse_list
from registry.night import Rules
from registry.thresholds import parse_thresholds

THRESHOLDS, BANLIST, WHITELIST, CENTROIDS = "symbol_registry.toml", "banlist.yml", "whitelist.yml", "centroids.json"


def load_rules(
    thresholds: Path | None = None, banlist: Path | None = None, whitelist: Path | None = None,
    centroids: Path | None = None,
) -> Rules:  # fmt: skip
    """Read and check all four files, None = the one shipped; raises ConfigError that names the file and the entry."""
    limits, banned, wanted = (
        _read(thresholds, THRESHOLDS),
        _read(banlist, BANLIST),
        _read(whitelist, WHITELIST),
    )
    lists = Lists(parse_list(*banned), parse_list(*wanted))
    return Rules(parse_thresholds(*limits), lists, parse_centroids(*_read(centroids, CENTROIDS)))


def _read(path: Path | None, shipped: str) -> tuple[str, str]:
    try:
        if path is None:
            return files("registry").joinpath(shipped).read_text("utf-8"), shipped
        return path.read_text("utf-8"), str(path)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError(f"{path or shipped}: {reason}") from error
