"""Fills to work with, and a recount of their signals that shares no code with the ingestor."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any
from zlib import crc32

from influencer_ingestor.chain import Chain, Released
from influencer_ingestor.dedup import Dedup
from influencer_ingestor.events import Account, Arrived, Fill, Source
from influencer_ingestor.hyperliquid import parse_fill

USER = "0x00000000000000000000000000000000000000aa"
T0 = 1_790_000_000_000
ACCOUNT = Account(USER, "whale")


def make_fill(start: str, delta: str, time_ms: int = T0, coin: str = "ETH", **other: Any) -> Fill:
    """One fill: `delta` signed, a tid of its own unless given (None: the old form)."""
    size = Decimal(delta)
    told: dict[str, Any] = {
        "coin": coin,
        "px": "10.5",
        "sz": str(abs(size)),
        "side": "B" if size >= 0 else "A",
        "time": time_ms,
        "startPosition": start,
        "dir": "",
        "closedPnl": "0.0",
        "hash": "0x" + "0" * 64,
        "oid": 1,
        "tid": crc32(f"{start}|{delta}|{time_ms}|{coin}".encode()) + 1,
    } | other
    return parse_fill(json.dumps(told).encode(), USER)


def arrive(fill: Fill, received_ms: int | None = None, listener: int | None = 0) -> Arrived:
    source = Source.REPAIR if listener is None else Source.LIVE
    return Arrived(fill, fill.time_ms if received_ms is None else received_ms, source, listener)


def release_all(chain: Chain, fills: Iterable[Fill], now_ms: int) -> list[Released]:
    for fill in fills:
        chain.add(arrive(fill, now_ms))
    return chain.release(now_ms)


def recount(told: dict[str, Any]) -> dict[str, Any] | None:
    """What one fill of the venue's JSON means, counted anew: action, side, size, delta, price; None for no signal."""
    before, moved = Decimal(told["startPosition"]), Decimal(told["sz"])
    moved = moved if told["side"] == "B" else -moved
    after = before + moved
    if not moved or told["dir"] == "Spot Dust Conversion":
        return None
    if not before:
        action = "OPEN"
    elif not after:
        action = "CLOSE"
    elif before * after < 0:
        action = "FLIP"
    else:
        action = "INCREASE" if abs(after) > abs(before) else "DECREASE"
    return {
        "action": action,
        "side": "LONG" if after > 0 else "SHORT" if after < 0 else "FLAT",
        "size": abs(after),
        "deltaSize": moved,
        "price": Decimal(told["px"]),
    }


class Pipeline:
    """Arrivals through dedup and the chains of one account's coins, as the service runs them."""

    def __init__(self, hold_ms: int = 250) -> None:
        self.dedup = Dedup()
        self.chains: dict[str, Chain] = {}
        self.released: list[Released] = []
        self._hold_ms = hold_ms

    def take(self, arrived: Arrived) -> None:
        coin = arrived.fill.coin
        if self.dedup.see(arrived) is None:
            self.chains.setdefault(coin, Chain(USER, coin, self._hold_ms)).add(arrived)
        self.tick(arrived.received_ms)

    def tick(self, now_ms: int) -> None:
        for chain in self.chains.values():
            self.released += chain.release(now_ms)
