"""The one shape of a provider: what it is called, what it offers, and `fetch`. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from macro_ingestor.chains import Offer
from macro_ingestor.quota import Quota
from macro_ingestor.readings import Reading

Params = Sequence[tuple[str, str]]


class Client(Protocol):
    """One provider's door: its address, its key, its limits.

    Calls raise TryLater (busy, away, failing; `wait_s` where the vendor says how long), Refused (it said no) and
    BadInput (too long to be an answer).
    """

    @property
    def key(self) -> str:
        """The provider's key, "" where there is none."""
        ...

    @property
    def options(self) -> Mapping[str, object]:
        """What else the settings say of the provider."""
        ...

    def now_s(self) -> int:
        """Our time, epoch seconds: for vendors that tell none."""
        ...

    async def get(self, path: str, params: Params = (), headers: Mapping[str, str] | None = None) -> bytes:
        """GET below the provider's address; the body of a 200."""
        ...

    async def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> bytes:
        """POST some JSON; the body of a 200."""
        ...


Fetch = Callable[[Client, Collection[str], int], Awaitable[list[Reading]]]
"""`await fetch(client, columns, since)`: readings of these columns since a time (epoch seconds), in any order.

Raises what the client raises, and for errors inside a 200 the same: TryLater, Refused, BadInput.
"""


class Provider(msgspec.Struct, frozen=True):
    """A registration. `offers` are what it has without a key, `key_offers` what it has with one.

    `key_setting` names the setting of its key, None where it needs none; `quotas` are the free tier's, settings
    override them. With `together` all columns come in one call; if the vendor refuses it, each is asked alone.
    `licence` is what an owner has to know, told in the log.
    """

    name: str
    fetch: Fetch
    url: str
    offers: tuple[Offer, ...] = ()
    key_offers: tuple[Offer, ...] = ()
    key_setting: str | None = None
    quotas: tuple[Quota, ...] = ()
    together: bool = False
    licence: str = ""
