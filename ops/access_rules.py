"""Who may do what on the broker and in the database, and how a login is written down. Pure: no I/O, no clock."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Literal, get_args
from urllib.parse import quote, urlsplit

import msgspec

from common.errors import ConfigError
from common.topology import (
    EXCHANGE,
    EXCHANGE_DEAD,
    EXCHANGE_UNROUTED,
    LOG_BINDINGS,
    QUEUE_LOG,
    TopologyLimits,
    describe_topology,
)

DatabaseRole = Literal["writer", "reader", "migrator"]
BrokerRole = Literal["service", "consumer", "operator"]
DATABASE_ROLES = get_args(DatabaseRole)
BROKER_ROLES = get_args(BrokerRole)

GROUP_PREFIX = "trading_"
"""A role of the database is a member of trading_writer and so on (migrations/roles.sql)."""
TAG_PREFIX = "trading-bus-"
"""A user of the broker is known as ours by a tag; tags beside RabbitMQ's own carry no rights."""

PASSWORD_CHARS_MIN = 12
SCRAM_ITERATIONS = 4096

TOPICS = tuple(sorted({key.partition(".")[0] for key in LOG_BINDINGS}))
"""First words of the keys on trading.bus."""

NOTHING = "^$"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_FOREIGN = re.compile(r"pg_.*|trading_(migrator|writer|reader)|postgres|guest|public")
# A queue of one's own: named by the server, or by aio-pika's robust connections.
_OWN_QUEUES = r"amq\.gen-.+|amq_[0-9a-f]+"
# What `doctor` tries with a service's login: a queue that goes with its connection, and a key that nobody follows.
_TRIAL_QUEUES = rf"{re.escape(EXCHANGE)}\.doctor\.[0-9a-f]+"
_TRIAL_TOPIC = "doctor"


class Rights(msgspec.Struct, frozen=True):
    """Permissions of one user in one vhost: regular expressions for whole names; `topics` for keys on trading.bus."""

    configure: str
    write: str
    read: str
    topics_write: str
    topics_read: str
    tags: tuple[str, ...]


def check_name(name: str) -> str:
    """Answer a name that both servers take and that is nobody else's; raises ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name {name!r}: small letters, digits and _, a letter first, at most 40")
    if _FOREIGN.fullmatch(name):
        raise ConfigError(f"name {name!r} belongs to the servers or to trading-bus itself")
    return name


def check_password(password: str) -> str:
    """Answer a password that both servers take as it stands; raises ConfigError without quoting it."""
    # Beyond ASCII the database's login normalizes (SASLprep), and every client would have to do the same.
    if not password.isascii() or not password.isprintable():
        raise ConfigError("password: printable ASCII characters only")
    if len(password) < PASSWORD_CHARS_MIN:
        raise ConfigError(f"password: at least {PASSWORD_CHARS_MIN} characters")
    return password


def service_rights() -> Rights:
    """What common.bus and common.publisher do: declare the topology, publish on it, follow it with queues of one's own.

    Declaring takes the right to configure, which is also the right to delete. A service reads no queue but its own and
    (it has its exchange's name) the dead letters'. It may publish every topic, because it publishes for dead services.
    """
    topology = describe_topology(TopologyLimits())
    names = sorted({it.name for it in (*topology.exchanges, *topology.queues)})
    return Rights(
        configure=_whole(*map(re.escape, names), _OWN_QUEUES, _TRIAL_QUEUES),
        # Binding writes to the queue or exchange that is bound, an alternate exchange is written to by its first.
        write=_whole(*map(re.escape, names), _OWN_QUEUES),
        read=_whole(*map(re.escape, (EXCHANGE, EXCHANGE_DEAD, EXCHANGE_UNROUTED)), _OWN_QUEUES),
        topics_write=_any_topic((*TOPICS, _TRIAL_TOPIC)),
        topics_read=_any_topic(TOPICS),
        tags=(f"{TAG_PREFIX}service",),
    )


def consumer_rights(name: str, topics: Iterable[str] = (), *, dead_letters: bool = False) -> Rights:
    """Queues and exchanges called consumer.<name>, or named by the server; reads trading.bus and its log.

    With `topics` only keys that begin with one of these words, and not the log, which holds them all. `dead_letters`
    lets its queues hand poison to trading.bus.dead, and so publish there. Raises ConfigError for an unknown topic.
    """
    chosen = tuple(dict.fromkeys(topics))
    unknown = sorted(set(chosen) - set(TOPICS))
    if unknown:
        raise ConfigError(f"no topic {', '.join(unknown)}: there are {', '.join(TOPICS)}")
    own = rf"consumer\.{re.escape(name)}(\..+)?"
    log = () if chosen else (re.escape(QUEUE_LOG),)
    dead = (re.escape(EXCHANGE_DEAD),) if dead_letters else ()
    return Rights(
        configure=_whole(own, _OWN_QUEUES),
        write=_whole(own, _OWN_QUEUES, *dead),
        read=_whole(own, _OWN_QUEUES, re.escape(EXCHANGE), *log),
        topics_write=NOTHING,
        topics_read=_any_topic(chosen) if chosen else ".*",
        tags=(f"{TAG_PREFIX}consumer",),
    )


def operator_rights() -> Rights:
    """Everything a service and the tools of `trading-bus` do, any consumer's queue too, and monitoring."""
    whole = _whole(r"trading\.bus(\..+)?", r"trading-bus([._-].+)?", r"consumer\..+", _OWN_QUEUES)
    # RabbitMQ's own tag `monitoring` shows all of the node in its management API.
    return Rights(whole, whole, ".*", ".*", ".*", (f"{TAG_PREFIX}operator", "monitoring"))


def scram_verifier(password: str, salt: bytes) -> str:
    """What PostgreSQL stores of a password (RFC 5803): given instead of it, the password never reaches a server log."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{_base64(salt)}${_base64(stored)}:{_base64(server)}"


def rabbit_hash(password: str, salt: bytes) -> str:
    """What RabbitMQ stores of a password (rabbit_password_hashing_sha256); the salt has four bytes."""
    return _base64(salt + hashlib.sha256(salt + password.encode()).digest())


def address_for(admin: str, name: str, password: str, host: str | None = None) -> str:
    """The admin's address with another login, and another host[:port] where clients see the server elsewhere."""
    parts = urlsplit(admin)
    place = host or parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{name}:{quote(password, safe='')}@{place}").geturl()


def _whole(*names: str) -> str:
    """A pattern for these names: RabbitMQ searches, so it has to be tied down at both ends."""
    return f"^({'|'.join(names)})$"


def _any_topic(words: Iterable[str]) -> str:
    return rf"^({'|'.join(words)})(\..+)?$"


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
