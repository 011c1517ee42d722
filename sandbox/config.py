"""Every setting of a sandbox in one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sandbox.hyperliquid_config import HyperliquidConfig


@dataclass(frozen=True)
class Config:
    """What a sandbox plays and how strict it is; the flags of `python -m sandbox` have the same names.

    Rates count trades per second of *venue* time. Limits that guard the connection (ping, life, weights) run in
    real time, as they do at the venue, whatever `speed` is.
    """

    host: str = "127.0.0.1"
    port: int = 0
    # The seeded market: used when there is no tape.
    seed: int = 1
    symbols: tuple[str, ...] = ("BTCUSDT", "ETHUSDT")
    rate: float = 5.0  # all busy symbols together
    history_rate: float | None = None  # the same, for the time before epoch + history; None: as `rate`
    rank_power: float = 0.0  # 0: equal shares; 1: the i-th symbol gets 1/i of the first one's
    quiet_every: int = 4  # every so many-th symbol trades rarely; 0: none
    qty_decimals: tuple[int, int] = (5, 6)  # above 6, quote volumes are finer than the venue prints
    # The tape.
    tapes: tuple[tuple[Path, str | None], ...] = ()
    tape_limit: int | None = None  # trades per symbol
    withhold: tuple[tuple[str, int, int], ...] = ()  # symbol, first id, last id: never streamed, but in REST
    # Time.
    speed: float = 1.0
    start: int | Literal["now", "recorded"] = "now"
    epoch_ms: int | None = None  # venue time of the first trade: pin it, and a restarted sandbox agrees with itself
    history_minutes: int | None = None  # how far REST reaches back at the start; None: 180 seeded, 0 for a tape
    lead_s: float = 1.0  # real seconds from the start to the first trade of a tape
    hold: bool = False  # venue time stands until the first aggTrade subscription
    # The connection.
    ping_every_s: float = 20.0
    pong_timeout_s: float = 60.0
    incoming_per_s: int = 5
    streams_max: int = 1024
    connections_max: int = 300
    connection_life_s: float = 24 * 3600.0
    shutdown_notice_s: float = 10.0  # serverShutdown goes out this long before the life ends
    tick_ms: int = 10
    buffer_bytes: int = 1 << 20  # unread bytes of one connection that make the stream wait for it
    stuck_s: float = 10.0  # a connection that makes the stream wait so long is cut
    # REST.
    weight_limit: int = 6000  # per minute of real time
    ban_after: int = 10  # requests made in spite of 429 until 418
    ban_s: float = 120.0
    rest_latency_ms: int = 0  # every REST answer of every vendor comes so much later
    # What the vendors list, and the futures beside the spot market.
    listing: int = 0  # made-up USDT pairs beside the traded ones, and the odd ones with them; 0: the traded ones alone
    futures_weight_limit: int = 2400
    coingecko_calls_per_min: int = 30
    coingecko_key: str | None = None  # None: nobody is asked for a key
    # The second venue, OKX.
    okx: bool = False
    okx_idle_s: float = 30.0  # a connection to which nothing was sent for so long is closed
    okx_connects_per_s: int = 3
    okx_control_per_hour: int = 480  # subscribe and unsubscribe frames of a connection
    okx_trades_per_frame: int = 3  # trades due together may share a frame
    okx_old_first: bool = True  # the first frame of a trade stream holds the trade before the subscription
    okx_limit_status: int = 429  # HTTP status of "too many requests": 429, or 200 as for other errors
    hyperliquid: HyperliquidConfig | None = None  # the third venue; None: it is not there
    script: Path | None = None  # faults by time, JSON list of {"at_s": real seconds since start, "kind": ...}


def parse_tape(text: str) -> tuple[Path, str | None]:
    """`FILE` or `FILE:SYMBOL`."""
    head, colon, tail = text.rpartition(":")
    if colon and tail.isalnum() and tail.isupper():
        return Path(head), tail
    return Path(text), None


def parse_withhold(text: str) -> tuple[tuple[str, int, int], ...]:
    """`SYMBOL:FROM-TO,...`; a part without a symbol belongs to the symbol before it. Raises ValueError."""
    found: list[tuple[str, int, int]] = []
    symbol = ""
    for part in filter(None, text.split(",")):
        name, colon, span = part.rpartition(":")
        symbol = name if colon else symbol
        low, dash, high = span.partition("-")
        if not (symbol and dash):
            raise ValueError(f"{part!r} is not SYMBOL:FROM-TO")
        found.append((symbol, int(low), int(high)))
    return tuple(found)
