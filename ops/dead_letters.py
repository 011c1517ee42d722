"""What a dead letter says about itself: why it died, where it was going, whether it can go there again."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from hashlib import blake2b
from typing import cast

import msgspec

from common.errors import Refused
from common.topology import EXCHANGE, EXCHANGE_DEAD, LOG_BINDINGS
from ops.tail_lines import printable, topic_matches

RETURNS_HEADER = "x-delivery-count"
"""How often the broker took a letter back; absent while nobody has looked at it."""

_OUTBOX = "outbox."
"""Before the routing key in the source of a message that the outbox could not publish."""
_OF_DEATH = ("x-death", "x-first-death-", "x-last-death-", RETURNS_HEADER, "x-acquired-count")
_OURS = ("reason", "source", "bytes")
_REASON_CHARS_MAX = 100


class Letter(msgspec.Struct, frozen=True):
    """One dead letter; `size` counts the bytes of the message it was made of.

    `id` names it for as long as it lies there. `exchange` and `key` are where it was going, `obstacle` why it can not
    be sent there again (None: it can). `sender` is the login that made the message, which the broker checked; all else
    is only what the letter says of itself.
    """

    id: str
    reason: str
    exchange: str
    key: str
    time: dt.datetime | None
    size: int
    obstacle: str | None
    sender: str | None = None


def read_letter(
    key: str, message_id: str, headers: Mapping[str, object], body: bytes, published: dt.datetime | None,
    sender: str | None = None,
) -> Letter:  # fmt: skip
    """Read a message of the dead queue: put there by us (`reason`, `source`), or by the broker (`x-death`)."""
    letter = _read_letter(key, message_id, headers, body, published)
    return msgspec.structs.replace(letter, sender=sender)


def distrust(letter: Letter, trusted: Set[str]) -> str | None:
    """Why a letter that nobody chose is not sent again: whoever may write dead letters may write any headers."""
    if letter.sender in trusted:
        return None
    who = "of nobody the broker knows" if letter.sender is None else f"of {printable(letter.sender)}"
    return f"it is {who}, no service's: look at it, then name it, or its sender (--sender)"


def _read_letter(
    key: str, message_id: str, headers: Mapping[str, object], body: bytes, published: dt.datetime | None
) -> Letter:
    identity = _digest(key, message_id, headers, body, published)
    deaths = headers.get("x-death")
    if "reason" not in headers and isinstance(deaths, list) and deaths:
        return _read_death(identity, cast("list[Mapping[str, object]]", deaths), key, body, published)
    source = str(headers.get("source", key))
    told = headers.get("bytes")
    size = told if isinstance(told, int) else len(body)
    target = source.removeprefix(_OUTBOX)
    obstacle = None
    if size > len(body):
        obstacle = f"only {len(body)} of its {size} bytes were kept"
    elif not any(topic_matches(pattern, target) for pattern in LOG_BINDINGS):
        obstacle = f"{printable(source)} says where it was read, and is no key of {EXCHANGE}"
    return Letter(identity, str(headers.get("reason", "not told")), EXCHANGE, target, published, size, obstacle)


def _read_death(
    identity: str, deaths: Sequence[Mapping[str, object]], key: str, body: bytes, published: dt.datetime | None
) -> Letter:
    # The broker puts the newest death first; the oldest one tells where the message was going at the beginning.
    newest, oldest = deaths[0], deaths[-1]
    keys = oldest.get("routing-keys")
    target = str(cast("list[object]", keys)[0]) if isinstance(keys, list) and keys else key
    exchange, time = str(oldest.get("exchange", EXCHANGE)), newest.get("time")
    reason = f"{newest.get('reason', 'died')} in {newest.get('queue', 'a queue')}"
    obstacle = "it was a dead letter from the beginning" if exchange == EXCHANGE_DEAD else None
    died = time if isinstance(time, dt.datetime) else published
    return Letter(identity, reason, exchange, target, died, len(body), obstacle)


def _digest(
    key: str, message_id: str, headers: Mapping[str, object], body: bytes, published: dt.datetime | None
) -> str:
    """Ten letters that stay the same however often somebody looks; the broker numbers nothing that would."""
    lasting = sorted((name, repr(value)) for name, value in headers.items() if name not in _OF_DEATH[-2:])
    digest = blake2b(repr((key, message_id, lasting, str(published))).encode(), digest_size=5)
    digest.update(body)
    return digest.hexdigest()


def number_twins(letters: Sequence[Letter]) -> list[Letter]:
    """Letters that are equal in everything get ids of their own: x, x-2, x-3 in the order they lie there."""
    seen: Counter[str] = Counter()
    numbered: list[Letter] = []
    for letter in letters:
        seen[letter.id] += 1
        count = seen[letter.id]
        numbered.append(letter if count == 1 else msgspec.structs.replace(letter, id=f"{letter.id}-{count}"))
    return numbered


def choose_letters(letters: Sequence[Letter], wanted: Sequence[str]) -> list[int]:
    """Positions of the letters named by an id, or by the beginning of one, in the order they lie there.

    Raises Refused for a name that fits no letter, or several.
    """
    chosen: set[int] = set()
    for name in wanted:
        exact = [place for place, letter in enumerate(letters) if letter.id == name]
        fits = exact or [place for place, letter in enumerate(letters) if name and letter.id.startswith(name)]
        if len(fits) != 1:
            what = "names no letter" if not fits else f"names {len(fits)} letters"
            raise Refused(f"{name!r} {what} among the {len(letters)} looked at")
        chosen.add(fits[0])
    return sorted(chosen)


def living_headers(headers: Mapping[str, object], ours: bool) -> dict[str, object]:
    """Headers the message had before it died; `ours` says that its death certificate is in our own headers."""
    gone = _OURS if ours else ()
    return {
        name: value
        for name, value in headers.items()
        if name not in gone and not any(name.startswith(mark) for mark in _OF_DEATH)
    }


def format_letter(letter: Letter) -> str:
    """One line of the list: id, time, size, sender, where it was going, why it died, and whether it can go again."""
    time = "-" if letter.time is None else letter.time.strftime("%Y-%m-%dT%H:%M:%SZ")
    reason = printable(letter.reason)
    if len(reason) > _REASON_CHARS_MAX:
        reason = reason[: _REASON_CHARS_MAX - 3] + "..."
    can = "" if letter.obstacle is None else "  [no replay]"
    sender = "-" if letter.sender is None else printable(letter.sender)
    return f"{letter.id:12} {time:20} {letter.size:>9,} B  {sender}  {printable(letter.key)}  {reason}{can}"
