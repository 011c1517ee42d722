"""Where a new login's password comes from, and the file its whole address goes to."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import msgspec

from common.errors import ConfigError
from ops.access_rules import check_password

PASSWORD_BYTES = 24
FILE_BYTES_MAX = 4096


class Source(msgspec.Struct, frozen=True):
    """How to come by a password: from a file, by asking, as it is in the address file, else a new one.

    `rotate` passes the address file over.
    """

    address_file: Path | None
    password_file: Path | None
    ask: bool
    rotate: bool


def choose_password(source: Source, name: str) -> str:
    """The password of a login; raises ConfigError when its source can not be used or it is too weak."""
    if source.password_file is not None:
        return check_password(_read_line(source.password_file))
    if source.ask:
        if not sys.stdin.isatty():
            raise ConfigError("--prompt: there is no terminal to ask at; use --password-file")
        return check_password(click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True))
    kept = None if source.rotate or source.address_file is None else _kept_password(source.address_file, name)
    # token_urlsafe needs no escaping in an address, a shell or a configuration file.
    return kept or secrets.token_urlsafe(PASSWORD_BYTES)


def write_address(path: Path, address: str) -> None:
    """Put an address into a file, whole or not at all; raises ConfigError.

    A new file may be read by its owner alone; one that was there keeps its owner and mode.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = path.stat() if path.exists() else None
        # Opened with its mode: between creating and narrowing, others could read it.
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(address + "\n")
            if kept is not None:
                if (kept.st_uid, kept.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), kept.st_uid, kept.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(kept.st_mode))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(f"{path}: can not be written: {error.strerror}") from error


def _kept_password(path: Path, name: str) -> str | None:
    """The password that an address file already holds for this login, so that saying it twice changes nothing."""
    if not path.exists():
        return None
    try:
        parts = urlsplit(_read_line(path))
        kept = unquote(parts.password) if parts.username == name and parts.password else None
    except ValueError:
        kept = None
    if kept is None:
        raise ConfigError(f"{path} holds something else than an address of {name}: name another file, or say --rotate")
    return kept


def _read_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(FILE_BYTES_MAX).partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path}: can not be read: {reason}") from error
