"""Numbers by hash: the same words give the same number on every start, in any order of asking."""

from __future__ import annotations

import hashlib
import math


def draw_unit(*words: object) -> float:
    """A number in [0, 1)."""
    digest = hashlib.blake2b("|".join(map(str, words)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def draw_between(low: float, high: float, *words: object) -> float:
    """A number in [low, high)."""
    return low + (high - low) * draw_unit(*words)


def sway(at_s: float, period_s: float, *words: object) -> float:
    """A sine between -1 and 1 with a phase of its own."""
    return math.sin(2 * math.pi * (at_s / period_s + draw_unit("phase", *words)))
