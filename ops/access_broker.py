"""Users of the broker and their permissions, through RabbitMQ's management API."""

from __future__ import annotations

import secrets
import urllib.error
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

from common.errors import ConfigError, Refused, TryLater
from common.topology import EXCHANGE
from ops.access_rules import TAG_PREFIX, Rights, check_name, check_password, rabbit_hash
from ops.rabbitmq_probe import call_management

SALT_BYTES = 4


class User(msgspec.Struct, frozen=True):
    """A user and where it may do something."""

    name: str
    role: str
    vhosts: tuple[str, ...]


class Users(msgspec.Struct, frozen=True):
    """Users of ours, and the names of all others."""

    ours: tuple[User, ...]
    others: tuple[str, ...]


def vhost_of(rmq_url: str) -> str:
    """The vhost of an address: what follows the host, "/" where nothing does."""
    return unquote(urlsplit(rmq_url).path[1:]) or "/"


def create_user(management_url: str, vhost: str, name: str, rights: Rights, password: str) -> bool:
    """Make a user, or give one of ours these rights and this password; True when it is new.

    The server gets the password's hash only. Raises Refused for a user that is not ours, ConfigError when this login
    may not make others or there is no such vhost, TryLater while the server is away.
    """
    known = _is_ours(management_url, check_name(name))
    user = {
        "password_hash": rabbit_hash(check_password(password), secrets.token_bytes(SALT_BYTES)),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": ",".join(rights.tags),
    }
    _call(management_url, "PUT", f"users/{name}", user)
    grant(management_url, vhost, name, rights)
    return not known


def grant(management_url: str, vhost: str, name: str, rights: Rights) -> None:
    """Give a user its permissions in a vhost; raises like `create_user`."""
    place = f"{quote(vhost, safe='')}/{name}"
    topics = {"exchange": EXCHANGE, "write": rights.topics_write, "read": rights.topics_read}
    # First: for a moment without, every topic would be permitted.
    _call(management_url, "PUT", f"topic-permissions/{place}", topics)
    wanted = {"configure": rights.configure, "write": rights.write, "read": rights.read}
    _call(management_url, "PUT", f"permissions/{place}", wanted)


def drop_user(management_url: str, name: str) -> bool:
    """Remove a user of ours and cut its connections; False when there is none. Raises like `create_user`."""
    if not _is_ours(management_url, check_name(name)):
        return False
    _call(management_url, "DELETE", f"users/{name}")
    return True


def list_users(management_url: str) -> Users:
    """Every user of the node; raises ConfigError, TryLater."""
    places: dict[str, list[str]] = {}
    for permission in _call(management_url, "GET", "permissions"):
        places.setdefault(permission["user"], []).append(permission["vhost"])
    ours: list[User] = []
    others: list[str] = []
    for user in _call(management_url, "GET", "users"):
        role = _role_of(user)
        if role is None:
            others.append(user["name"])
        else:
            ours.append(User(user["name"], role, tuple(sorted(places.get(user["name"], ())))))
    return Users(tuple(sorted(ours, key=lambda user: (user.role, user.name))), tuple(sorted(others)))


def _is_ours(management_url: str, name: str) -> bool:
    try:
        user = _call(management_url, "GET", f"users/{name}", missing_ok=True)
    except LookupError:
        return False
    if _role_of(user) is None:
        raise Refused(f"the broker has a user {name} that is not of trading-bus: choose another name")
    return True


def _role_of(user: dict[str, Any]) -> str | None:
    # A list since RabbitMQ 3.9, a text with commas before.
    tags: list[str] = user["tags"].split(",") if isinstance(user["tags"], str) else user["tags"]
    return next((tag.removeprefix(TAG_PREFIX) for tag in tags if tag.startswith(TAG_PREFIX)), None)


def _call(management_url: str, method: str, path: str, body: object = None, *, missing_ok: bool = False) -> Any:
    """One call; with `missing_ok` LookupError says that there is no such thing."""
    with _named_failures(missing_ok):
        return call_management(management_url, method, path, body)


@contextmanager
def _named_failures(missing_ok: bool) -> Generator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404 and missing_ok:
                raise LookupError from error
            if error.code == 404:
                raise ConfigError("the broker has no such vhost: make it first, or name another in RMQ_URL") from error
            if error.code in (401, 403):
                raise ConfigError(f"the broker's management API refuses the login: {error.reason}") from error
            if error.code < 500:
                raise Refused(f"the broker's management API refuses: {error.code} {error.reason}") from error
            raise TryLater(f"the broker's management API: {error.code} {error.reason}") from error
    except OSError as error:
        raise TryLater(f"the broker's management API does not answer: {error}") from error
