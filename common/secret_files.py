"""Values that stand in files: `<NAME>_FILE` for one secret, `$CREDENTIALS_DIRECTORY` for all of them.

docs/ACCESS.md says it for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

from common.errors import ConfigError

FILE_SUFFIX = "_FILE"
DIRECTORY_VARIABLE = "CREDENTIALS_DIRECTORY"
SECRET_FILE_BYTES_MAX = 65_536
"""A larger file is not a secret but a mistake."""


def read_value_file(name: str, env: Mapping[str, str], *, secret: bool) -> str | None:
    """The text of the file that holds a setting the environment leaves unset; None where there is no such file.

    `name` is the variable, in capitals; only secrets have a `<NAME>_FILE`. Raises ConfigError, beginning with the
    variable and without the content, when a file can not be used or two places speak.
    """
    variable = name + FILE_SUFFIX
    named = env.get(variable) if secret else None
    given = bool(env.get(name) or env.get(name.lower()))
    if named:
        if given:
            raise ConfigError(f"{name}: {name} and {variable} are both set: give one of them")
        text = _read(name, Path(named), f"the file that {variable} names")
        if not text:
            raise ConfigError(f"{name}: the file that {variable} names is empty")
        return text
    folder = env.get(DIRECTORY_VARIABLE)
    if given or not folder:
        return None
    path = next((p for p in (Path(folder, name), Path(folder, name.lower())) if p.is_file()), None)
    return _read(name, path, "its credential file") or None if path else None


def fill_from_files(names: Iterable[str], env: MutableMapping[str, str]) -> None:
    """Put secrets that stand in files where a command line looks for them; raises ConfigError like `read_value_file`.

    The `<NAME>_FILE` goes, or a child process would find both.
    """
    for name in names:
        text = read_value_file(name, env, secret=True)
        if text is not None:
            env[name] = text
            env.pop(name + FILE_SUFFIX, None)


def _read(name: str, path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(SECRET_FILE_BYTES_MAX + 1)
        text = raw.decode("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{name}: {what} can not be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: {what} can not be read: it is not UTF-8 text") from error
    if len(raw) > SECRET_FILE_BYTES_MAX:
        raise ConfigError(f"{name}: {what} is larger than {SECRET_FILE_BYTES_MAX} bytes")
    return text
