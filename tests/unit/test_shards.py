from collections import Counter
from hashlib import blake2b

import pytest

from common.errors import ConfigError
from common.shards import Shard, parse_shard, shard_of

SYMBOLS = [f"COIN{i}USDT" for i in range(2000)]


@pytest.mark.parametrize("text", ["0/1", "2/8", " 7/8 "])
def test_shard_reads_as_written(text):
    assert str(parse_shard(text)) == text.strip()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1", "index/count"),
        ("", "index/count"),
        ("a/b", "index/count"),
        ("-1/2", "index/count"),
        ("²/3", "index/count"),
        ("0/0", "at least 1"),
        ("2/2", "0 to 1"),
    ],
)
def test_wrong_shard_says_what_is_wrong(text, told):
    with pytest.raises(ConfigError, match=told):
        parse_shard(text)


def test_every_symbol_has_exactly_one_keeper():
    shards = [Shard(i, 8) for i in range(8)]
    assert all(sum(shard.owns(symbol) for shard in shards) == 1 for symbol in SYMBOLS)


def test_shares_are_even():
    counts = Counter(shard_of(symbol, 8) for symbol in SYMBOLS)
    assert min(counts.values()) > 180 and max(counts.values()) < 320


def test_one_more_instance_moves_only_its_own_share():
    moved = [s for s in SYMBOLS if shard_of(s, 9) != shard_of(s, 8)]
    assert all(shard_of(s, 9) == 8 for s in moved)
    assert 0.08 < len(moved) / len(SYMBOLS) < 0.15


def test_hash_is_the_documented_one():
    weights = [int.from_bytes(blake2b(f"BTCUSDT|{i}".encode(), digest_size=8).digest(), "big") for i in range(5)]
    assert shard_of("BTCUSDT", 5) == weights.index(max(weights))
