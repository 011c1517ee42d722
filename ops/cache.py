"""The one folder outside its clone that this project writes to, and how processes take turns in it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from common.errors import ConfigError

CACHE_VARIABLE = "TRADING_BUS_CACHE"

Say = Callable[[str], None]
"""Where progress goes, one line at a time."""


def find_cache() -> Path:
    """Folder for everything this project keeps outside its clone.

    Root gets one below /var/cache, because the servers then run as `nobody` and must be able to read the whole path.
    """
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).resolve()
    if os.geteuid() == 0:
        return Path("/var/cache/trading-bus")
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "trading-bus"


def make_folder(folder: Path) -> Path:
    """Create a folder, readable by all whatever the umask says; ConfigError when it can not be written."""
    try:
        for part in reversed([folder, *folder.parents]):
            if not part.exists():
                part.mkdir(exist_ok=True)
                part.chmod(0o755)
    except OSError as error:
        raise ConfigError(
            f"cannot create {folder}: {error.strerror}; set {CACHE_VARIABLE} to a writable folder"
        ) from error
    return folder


@contextmanager
def hold_lock(path: Path) -> Generator[None]:
    """Hold an exclusive lock on a file; waits for whoever holds it, and dies with the process."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
