"""Which providers these settings turn on, with what address, key, quotas and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import msgspec
from pydantic import SecretStr

from common.errors import ConfigError
from macro_ingestor.chains import Offer, build_chains
from macro_ingestor.providers import bitquery, dune
from macro_ingestor.providers.shape import Provider
from macro_ingestor.quota import HOUR_S, Quota
from macro_ingestor.readings import DAY_S
from macro_ingestor.registrations import PROVIDERS
from macro_ingestor.settings import MacroSettings

_PERIODS = (("hour", HOUR_S), ("day", DAY_S))
_ADDRESSES_MAX = 20_000


class Configured(msgspec.Struct, frozen=True):
    """One provider that is on."""

    provider: Provider
    url: str
    key: str
    offers: tuple[Offer, ...]
    quotas: tuple[Quota, ...]
    options: Mapping[str, object] = {}


class Off(msgspec.Struct, frozen=True):
    """One provider that is off, and why."""

    name: str
    reason: str


class Cast(msgspec.Struct, frozen=True):
    """Everybody: who is on, who is off, and the chains of the columns."""

    on: dict[str, Configured]
    off: tuple[Off, ...]
    chains: dict[str, tuple[str, ...]]

    def offers(self) -> dict[tuple[str, str], Offer]:
        """By column and provider."""
        return {(offer.column, name): offer for name, one in self.on.items() for offer in one.offers}


def configure(settings: MacroSettings) -> Cast:
    """Read the settings; raises ConfigError for an address or a file that can not be used."""
    found = [_configure_one(PROVIDERS[name], settings) for name in settings.onchain_sources]
    on = {one.provider.name: one for one in found if isinstance(one, Configured)}
    offered = {name: [offer.column for offer in one.offers] for name, one in on.items()}
    chains = build_chains(offered, settings.onchain_sources, settings.chains_given())
    return Cast(on, tuple(one for one in found if isinstance(one, Off)), chains)


def _configure_one(provider: Provider, settings: MacroSettings) -> Configured | Off:
    name, setting = provider.name, provider.key_setting
    key = cast("SecretStr", getattr(settings, setting.lower())).get_secret_value() if setting else ""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{setting}: holds a character that no key has (a space, a line end, no ASCII)")
    offers = provider.key_offers if key else provider.offers
    if not offers:
        return Off(name, f"{setting} is not set")
    options: dict[str, object] = {}
    if name == dune.NAME:
        options["queries"] = settings.queries()
        offers = tuple(offer for offer in offers if offer.column in settings.queries())
        if not offers:
            return Off(name, "DUNE_QUERIES names no query")
    if name == bitquery.NAME:
        lists = options["addresses"] = read_addresses(settings.bitquery_addresses)
        offers = tuple(offer for offer in offers if lists.get(bitquery.LISTS[offer.column]))
        if not offers:
            return Off(name, "BITQUERY_ADDRESSES lists no address")
    given = cast("str | None", getattr(settings, f"{name}_url", None))
    url = key if given is None else given
    _check_url(setting if given is None else f"{name.upper()}_URL", url)
    return Configured(provider, url, key, offers, _quotas_of(provider, settings), options)


def _quotas_of(provider: Provider, settings: MacroSettings) -> tuple[Quota, ...]:
    """The settings' limits; a provider without such settings keeps its own."""
    given = [
        (seconds, cast("int", getattr(settings, f"{provider.name}_calls_per_{period}")))
        for period, seconds in _PERIODS
        if hasattr(settings, f"{provider.name}_calls_per_{period}")
    ]
    return tuple(Quota(seconds, calls) for seconds, calls in given if calls) if given else provider.quotas


def read_addresses(path: Path | None) -> dict[str, Sequence[str]]:
    """Address lists by chain; nothing where there is no file. Raises ConfigError."""
    if path is None:
        return {}
    try:
        lists = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
    except OSError as error:
        raise ConfigError(f"BITQUERY_ADDRESSES: {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ConfigError(f"BITQUERY_ADDRESSES: {path}: not like {{'eth': ['0x...']}}: {error}") from error
    if any(len(addresses) > _ADDRESSES_MAX for addresses in lists.values()):
        raise ConfigError(f"BITQUERY_ADDRESSES: {path}: more than {_ADDRESSES_MAX} addresses of one chain")
    return {**lists}


def _check_url(name: str | None, url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"{name}: is not an http:// or https:// address")
