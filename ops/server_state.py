"""What one instance of the servers writes about itself, so that a later process can use, stop or continue it."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from ops.cache import find_cache, make_folder

STATE_FILE = "state.json"
REPOSITORY = Path(__file__).resolve().parent.parent


def find_instances() -> Path:
    """Folder of all instances, in the cache folder: root's servers run as nobody and could not enter root's home."""
    return make_folder(find_cache() / "state")


def find_own_state() -> Path:
    """State folder of this clone's instance: two clones on one machine never share data."""
    return find_instances() / hashlib.blake2b(str(REPOSITORY).encode(), digest_size=5).hexdigest()


def lock_of(folder: Path) -> Path:
    """Lock file of a state folder; beside it, so that it outlives the folder's removal."""
    return folder.parent / f"{folder.name}.lock"


def read_state(folder: Path) -> dict[str, Any] | None:
    """What an instance wrote about itself; None when there is none, ConfigError when it can not be read."""
    file = folder / STATE_FILE
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace an instance's note about itself at once; it holds a password, so only its owner may read it."""
    fresh = folder / f"{STATE_FILE}.new"
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(state, indent=1))
    fresh.replace(folder / STATE_FILE)


def require_passable(folder: Path) -> None:
    """ConfigError unless `nobody`, as which root's servers run, may pass through every folder of the path."""
    for part in [folder, *folder.parents]:
        if not part.stat().st_mode & stat.S_IXOTH:
            raise ConfigError(f"the servers run as nobody and cannot pass {part}; name another state folder")
