"""All that is known of providers and columns, and what follows from it. Pure; times in epoch seconds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from macro_ingestor.chains import Chains, Offer
from macro_ingestor.circuit import Circuit
from macro_ingestor.readings import Reading, provider_of
from macro_ingestor.standing import AHEAD_MAX_S, Ask, Standing, is_settled, next_to_ask, overdue_s, pick_reading

KEPT_MAX = 40
"""Readings kept of a column and provider, the newest; a mean over a trailing week needs half of it."""


class Known(msgspec.Struct):
    """What a restart goes on from."""

    history: dict[tuple[str, str], dict[int, Reading]] = msgspec.field(
        default_factory=lambda: dict[tuple[str, str], dict[int, Reading]]()
    )
    """(column, provider) -> reading by its time."""
    asks: dict[tuple[str, str], Ask] = msgspec.field(default_factory=lambda: dict[tuple[str, str], Ask]())
    """(provider, column) -> its last ask."""
    circuits: dict[str, Circuit] = msgspec.field(default_factory=lambda: dict[str, Circuit]())


class Changes(msgspec.Struct):
    """What has changed since it was last handed out to be stored."""

    readings: dict[tuple[str, str, int], Reading] = msgspec.field(
        default_factory=lambda: dict[tuple[str, str, int], Reading]()
    )
    asks: set[tuple[str, str]] = msgspec.field(default_factory=lambda: set[tuple[str, str]]())
    circuits: set[str] = msgspec.field(default_factory=lambda: set[str]())

    def __bool__(self) -> bool:
        return bool(self.readings or self.asks or self.circuits)


class Desk:
    """`chains` and `offers` ((column, provider) -> offer) are the settings'; `known` is what was stored."""

    def __init__(self, chains: Chains, offers: Mapping[tuple[str, str], Offer], known: Known) -> None:
        self.chains, self.offers, self.known = chains, offers, known
        self.changes = Changes()
        self.provisional_total = 0

    def chain(self, column: str, now_s: int, spent: Collection[str] = ()) -> list[Standing]:
        """How the providers of a column stand; `spent`: those without a call left."""
        return [
            Standing(
                name, self.offers[column, name], self.newest(column, name, now_s), self.known.asks.get((name, column)),
                name in spent or self.circuit(name).is_open(now_s),
            )
            for name in self.chains.get(column, ())
        ]  # fmt: skip

    def newest(self, column: str, provider: str, now_s: int) -> Reading | None:
        """The newest reading of a column by a provider; one from the future was stored while our clock was wrong."""
        days = self.known.history.get((column, provider), {})
        newest = max((as_of for as_of in days if as_of <= now_s + AHEAD_MAX_S), default=None)
        return None if newest is None else days[newest]

    def circuit(self, provider: str) -> Circuit:
        """The provider's circuit."""
        return self.known.circuits.get(provider, Circuit())

    def wants(
        self, columns: Iterable[str], tried: Collection[tuple[str, str]], now_s: int, spent: Collection[str]
    ) -> dict[str, list[str]]:
        """Who has to be asked for what next, by provider; `tried`: (provider, column) pairs asked in this pass."""
        wanted: dict[str, list[str]] = {}
        for column in columns:
            asked = {provider for provider, tried_column in tried if tried_column == column}
            name = next_to_ask(self.chain(column, now_s, spent), asked, now_s)
            if name is not None:
                wanted.setdefault(name, []).append(column)
        return wanted

    def pick(self, column: str, now_s: int, spent: Collection[str] = ()) -> Reading | None:
        """The value of a column."""
        return pick_reading(self.chain(column, now_s, spent), now_s)

    def overdue_s(self, column: str, now_s: int) -> float:
        """For how long its next value has been due."""
        return overdue_s(self.chain(column, now_s), self.pick(column, now_s), now_s)

    def since_s(self, provider: str, columns: Iterable[str], now_s: int) -> int:
        """From when on a provider is asked."""
        return min(self.offers[column, provider].since_s(now_s) for column in columns)

    def take(self, readings: Iterable[Reading], columns: Collection[str], now_s: int) -> None:
        """Keep what a provider told of these columns; what is about a span that has not ended is provisional."""
        for reading in readings:
            provider = provider_of(reading.source)
            offer = self.offers.get((reading.column, provider))
            if offer is None or reading.column not in columns:
                continue
            if not is_settled(reading, offer, now_s):
                self.provisional_total += 1
                continue
            days = self.known.history.setdefault((reading.column, provider), {})
            if days.get(reading.as_of) != reading:
                days[reading.as_of] = reading
                self.changes.readings[reading.column, provider, reading.as_of] = reading
                # Those of the future do not crowd out what is known now: they were stored while our clock was ahead.
                for old in sorted(day for day in days if day <= now_s + AHEAD_MAX_S)[:-KEPT_MAX]:
                    del days[old]

    def asked_at(self, provider: str, column: str) -> int:
        """When a provider was last asked for a column, 0 for never."""
        ask = self.known.asks.get((provider, column))
        return 0 if ask is None else ask.asked_at

    def note_ask(self, provider: str, columns: Iterable[str], ask: Ask) -> None:
        """Keep how an ask ended."""
        for column in columns:
            self.known.asks[provider, column] = ask
            self.changes.asks.add((provider, column))

    def note_circuit(self, provider: str, circuit: Circuit) -> bool:
        """Keep a circuit; answers whether it is another one than before."""
        if circuit == self.circuit(provider):
            return False
        self.known.circuits[provider] = circuit
        self.changes.circuits.add(provider)
        return True

    def hand_out(self) -> Changes:
        """What has changed: whoever takes it stores it, or the process ends."""
        changes, self.changes = self.changes, Changes()
        return changes

    def days_from(self, now_s: int, columns: Sequence[str]) -> int:
        """The first day of the trailing span that vendors are asked for."""
        sinces = [offer.since_s(now_s) for (column, _), offer in self.offers.items() if column in columns]
        return min(sinces, default=now_s)
