"""One pull: ask the providers that have to be asked, in rounds down the chains, until nothing is left to ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from common.errors import BadInput, Refused, TryLater
from macro_ingestor.desk import Desk
from macro_ingestor.door import Door, QuotaSpent
from macro_ingestor.standing import Ask, Outcome

log = logging.getLogger(__name__)

ERROR_MAX = 500


class BuryDead(Protocol):
    """Keeps what could not be read."""

    def __call__(self, raw: bytes, reason: str, source: str) -> None:
        """Keep it."""
        ...


class Puller:
    """Asks through the doors and writes down on the desk.

    `read_spent` names the providers without a call left; `keep` stores what is new on the desk after every ask, so that
    a crash costs one call and not a pull's; `hide` takes secrets out of what is stored.
    """

    def __init__(
        self,
        desk: Desk,
        doors: Mapping[str, Door],
        now_s: Callable[[], int],
        read_spent: Callable[[], Awaitable[frozenset[str]]],
        bury: BuryDead,
        keep: Callable[[], Awaitable[None]],
        hide: Callable[[str], str] = str,
    ) -> None:
        self.spent: frozenset[str] = frozenset()
        self.unreadable_total = 0
        self._desk, self._doors, self._now_s, self._read_spent, self._bury = desk, doors, now_s, read_spent, bury
        self._keep, self._hide = keep, hide

    async def pull(self, columns: Sequence[str], now_s: int) -> int:
        """Ask for these columns as of `now_s`; answers how many asks were made."""
        tried: set[tuple[str, str]] = set()
        # Also when nobody has to be asked: what is told of quotas must not be older than a quarter.
        self.spent = await self._read_spent()
        while wants := self._desk.wants(columns, tried, now_s, self.spent):
            asked = await asyncio.gather(*(self._ask(name, words, now_s) for name, words in sorted(wants.items())))
            tried |= {pair for pairs in asked for pair in pairs}
            self.spent = await self._read_spent()
        return len(tried)

    async def _ask(self, name: str, columns: Sequence[str], now_s: int) -> set[tuple[str, str]]:
        """Ask one provider; answers what it was asked for, which ends early once its circuit is open."""
        together = self._doors[name].configured.provider.together
        # Who waits longest comes first: one column that always fails must not keep the single try from the others.
        ordered = sorted(columns, key=lambda column: self._desk.asked_at(name, column))
        groups = [ordered] if together else [[column] for column in ordered]
        asked: set[tuple[str, str]] = set()
        while groups:
            group = groups.pop(0)
            outcome = await self._ask_group(name, group, now_s)
            await self._keep()
            if outcome is Outcome.REFUSED and len(group) > 1:
                # One forbidden metric fails the whole request.
                groups = [[column] for column in group]
                continue
            asked |= {(name, column) for column in group}
            if self._desk.circuit(name).is_open(self._now_s()):
                break
        return asked

    async def _ask_group(self, name: str, group: Sequence[str], now_s: int) -> Outcome:
        desk, door = self._desk, self._doors[name]
        door.is_on_trial = desk.circuit(name).is_on_trial()
        asked_at = self._now_s()
        try:
            readings = await door.configured.provider.fetch(door, group, desk.since_s(name, group, now_s))
        except Refused as error:
            log.warning("provider refuses", extra={"provider": name, "columns": list(group), "error": str(error)})
            if len(group) == 1:  # a group's refusal is about one of its columns, and nobody knows which
                desk.note_ask(name, group, Ask(asked_at, Outcome.REFUSED, self._words(error)))
            desk.note_circuit(name, desk.circuit(name).succeed())
            return Outcome.REFUSED
        except (TryLater, BadInput) as error:
            desk.note_ask(name, group, Ask(asked_at, Outcome.FAILING, self._words(error)))
            self._fail(name, error)
            return Outcome.FAILING
        desk.take(readings, group, self._now_s())
        desk.note_ask(name, group, Ask(asked_at, Outcome.ANSWERED))
        if desk.note_circuit(name, desk.circuit(name).succeed()):
            log.info("circuit closed", extra={"provider": name})
        return Outcome.ANSWERED

    def _words(self, error: Exception) -> str:
        """What is stored of an error: a vendor may repeat the key in it, or say what PostgreSQL takes for no text."""
        text = str(error).encode(errors="replace").decode().replace("\0", "?")
        return self._hide(text)[:ERROR_MAX]

    def _fail(self, name: str, error: TryLater | BadInput) -> None:
        if isinstance(error, QuotaSpent):
            log.warning("quota is spent", extra={"provider": name})
            return
        if isinstance(error, BadInput):
            self.unreadable_total += 1
            self._bury(self._doors[name].last_body, self._words(error), f"macro.{name}")
        hint_s = error.wait_s if isinstance(error, TryLater) else None
        circuit = self._desk.circuit(name).fail(self._now_s(), hint_s, self._words(error))
        self._desk.note_circuit(name, circuit)
        extra = {"provider": name, "failures": circuit.failures, "open_until": circuit.open_until, "error": str(error)}
        log.warning("circuit opened", extra=extra)
