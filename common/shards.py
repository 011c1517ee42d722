"""Which instance keeps which symbol: rendezvous hashing, so that one more instance moves only 1/n of them."""

from __future__ import annotations

import re
from hashlib import blake2b

import msgspec

from common.errors import ConfigError

_SHARD = re.compile(r"([0-9]{1,4})/([0-9]{1,4})", re.ASCII)


class Shard(msgspec.Struct, frozen=True):
    """One instance of `count`; `index` counts from 0."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, symbol: str) -> bool:
        """Say whether this instance keeps the symbol."""
        return shard_of(symbol, self.count) == self.index


def parse_shard(text: str) -> Shard:
    """Read "index/count", such as "2/8"; raises ConfigError with the rule that was broken."""
    match = _SHARD.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not index/count, such as 0/1 or 2/8")
    index, count = int(match[1]), int(match[2])
    if count < 1:
        raise ConfigError(f"{text!r} has no instances: the count must be at least 1")
    if index >= count:
        raise ConfigError(f"{text!r} is outside: {count} instances are numbered 0 to {count - 1}")
    return Shard(index, count)


def shard_of(symbol: str, count: int) -> int:
    """Name the instance (0 .. count - 1) that keeps a symbol: the highest blake2b-64 of "symbol|i" wins."""
    return max(range(count), key=lambda index: _weight(symbol, index))


def _weight(symbol: str, index: int) -> bytes:
    # Equal-length digests compare like big-endian integers.
    return blake2b(f"{symbol}|{index}".encode(), digest_size=8).digest()
