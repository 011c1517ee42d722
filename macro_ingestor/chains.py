"""Who may answer for which column, in which order. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from common.errors import ConfigError
from macro_ingestor.readings import COLUMNS, DAY_S

GAS_CADENCE_S = 600
"""A little less than a slot: every slot asks once, a restart inside one does not ask again."""
GAS_MAX_AGE_S = 2_400
"""Two slots after its own, whatever the seconds between."""
TRAILING_DAYS = 15
"""Days of a daily metric that are fetched again: a week of revisions, the six days before it for a mean, a margin."""

Chains = Mapping[str, tuple[str, ...]]
"""Column -> names of the providers, the first one is the primary."""


class Offer(msgspec.Struct, frozen=True):
    """How one provider publishes one column; seconds.

    Values are `cadence_s` apart. One with the time T is about [T, T + span_s) (0: a moment) and is published about
    `lag_s` after its end. When it should be there and is not, the vendor is asked again every `recheck_s`. Older than
    `max_age_s`, counted from T, it says nothing about now.
    """

    column: str
    cadence_s: int
    span_s: int
    lag_s: int
    recheck_s: int
    max_age_s: int

    def next_due_s(self, as_of: int) -> int:
        """When the value after that of `as_of` should be there."""
        return as_of + self.cadence_s + self.span_s + self.lag_s

    def since_s(self, now_s: int) -> int:
        """From which time on values are asked for."""
        return now_s - self.lag_s - TRAILING_DAYS * DAY_S


def offer_day(column: str, *, lag_s: int, recheck_s: int, max_age_s: int) -> Offer:
    """A value per UTC day, stamped with the day's start."""
    return Offer(column, DAY_S, DAY_S, lag_s, recheck_s, max_age_s)


def offer_gas() -> Offer:
    """A price of this moment."""
    return Offer("eth_gas_price", GAS_CADENCE_S, 0, 0, 0, GAS_MAX_AGE_S)


def order_sources(names: Sequence[str], known: Iterable[str], aliases: Mapping[str, str]) -> tuple[str, ...]:
    """Providers as ONCHAIN_SOURCES orders them, each once; raises ConfigError for a name nobody knows."""
    known = tuple(known)
    found = [aliases.get(name.lower(), name.lower()) for name in names]
    for name in found:
        if name not in known:
            raise ConfigError(f"ONCHAIN_SOURCES: no provider {name!r}; there are {', '.join(known)}")
    return tuple(dict.fromkeys(found))


def build_chains(
    offered: Mapping[str, Iterable[str]], order: Sequence[str], given: Chains
) -> dict[str, tuple[str, ...]]:
    """Every column's providers: those that offer it and are on, in the order of the sources.

    `offered`: columns of each provider that is on. `given` overrides single columns; a provider in it that is off, or
    does not offer the column, is left out.
    """
    columns = {name: frozenset(words) for name, words in offered.items()}
    return {
        column: tuple(name for name in given.get(column, order) if column in columns.get(name, frozenset()))
        for column in COLUMNS
    }


def read_chains(text: str, known: Iterable[str], aliases: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """ONCHAIN_CHAINS, "eth_gas_price=jsonrpc>etherscan; mvrv=coinmetrics"; raises ConfigError."""
    known, chains = tuple(known), dict[str, tuple[str, ...]]()
    for part in filter(None, (word.strip() for word in text.split(";"))):
        column, equals, names = (word.strip() for word in part.partition("="))
        if not equals or column not in COLUMNS:
            raise ConfigError(
                f"ONCHAIN_CHAINS: {part!r} is not column=provider>provider; columns: {', '.join(COLUMNS)}"
            )
        try:
            chains[column] = order_sources([n.strip() for n in names.split(">") if n.strip()], known, aliases)
        except ConfigError as error:
            raise ConfigError(str(error).replace("ONCHAIN_SOURCES", "ONCHAIN_CHAINS")) from error
    return chains
