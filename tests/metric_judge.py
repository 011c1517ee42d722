"""Holds `metric_15s` against an independent recount of the tape and against what the futures venue's values were."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from common.bus import read_log
from tests.stage import Stage

WINDOW_S = 15
ASKED_S = 10_000
"""At once: the sandbox refuses too many rows, and a system may have lived for many hours of venue time."""


@dataclass
class Judged:
    """How many windows were compared, and how many values of each kind are not null."""

    windows: int = 0
    flows: int = 0
    funding: int = 0
    interest: int = 0
    wrong: list[str] = field(default_factory=list)


def recount_flow(seconds: Sequence[dict[str, Any]], window: int) -> float:
    """Signed volume of [window - 15, window) from the venue's own seconds, exact, rounded once."""
    net = Decimal(0)
    for row in seconds:
        if window - WINDOW_S <= row["time"] < window:
            net += Decimal(str(row["buy_vol"])) - Decimal(str(row["sell_vol"]))
    return float(net)


async def judge_metrics(
    stage: Stage, symbols: Sequence[str], from_s: int, to_s: int, *, unproven: Sequence[tuple[float, float]] = (),
    idle: Sequence[tuple[float, float]] = (), samples: bool = True,
    multiples: Mapping[str, int] = {},
) -> Judged:  # fmt: skip
    """Every window that ends in (from_s, to_s] has a row whose signed volume is the recount, null only in `unproven`.

    In `idle` spans the symbol was not wanted, and there may be no row.

    With `samples` each funding and open interest is what the futures venue had at the time it bears;
    `multiples` are the coins in one unit of its contract.
    """
    judged = Judged()
    first = from_s // WINDOW_S * WINDOW_S + WINDOW_S
    for symbol in symbols:
        rows = await stage.con.fetch(
            "SELECT *, extract(epoch FROM time)::bigint AS s FROM metric_15s WHERE symbol = $1"
            " AND time > to_timestamp($2) AND time <= to_timestamp($3)", symbol, from_s, to_s,
        )  # fmt: skip
        stored = {row["s"]: row for row in rows}
        seconds = await stage.oracle("footprints", symbol=symbol, from_s=first - WINDOW_S, to_s=to_s)
        by_window: dict[int, list[dict[str, Any]]] = {}
        for row in seconds:
            by_window.setdefault(row["time"] // WINDOW_S * WINDOW_S + WINDOW_S, []).append(row)
        for window in range(first, to_s + 1, WINDOW_S):
            judged.windows += 1
            row = stored.get(window)
            unwanted = any(a < window and b >= window - WINDOW_S for a, b in idle)
            if row is None:
                if unwanted:
                    continue
                judged.wrong.append(f"{symbol} {window}: no row")
                continue
            truth = recount_flow(by_window.get(window, []), window)
            excused = unwanted or any(a < window and b >= window - WINDOW_S for a, b in unproven)
            if row["cvd_delta"] is not None:
                judged.flows += 1
            if row["cvd_delta"] != truth and not (excused and row["cvd_delta"] is None):
                judged.wrong.append(f"{symbol} {window}: {row['cvd_delta']} ({row['cvd_source']}) is not {truth}")
        if samples:
            await _judge_samples(stage, symbol, stored, judged, multiples.get(symbol, 1))
    return judged


async def _read_perps(stage: Stage, symbol: str, venue: str, stored: dict[int, Any]) -> dict[int, Any]:
    """What the venue said in each second around the stored windows, by its time in ms."""
    truth: dict[int, Any] = {}
    end_ms = 1000 * (max(stored) + 60)
    for from_ms in range(1000 * (min(stored) - 60), end_ms, 1000 * ASKED_S):
        span = {"from_ms": from_ms, "to_ms": min(from_ms + 1000 * ASKED_S, end_ms), "step_ms": 1000}
        truth |= {r["time"]: r for r in await stage.oracle("perps", symbol=symbol, venue=venue, **span)}
    return truth


async def _judge_samples(stage: Stage, symbol: str, stored: dict[int, Any], judged: Judged, multiple: int) -> None:
    if not stored:
        return
    truth = {venue: await _read_perps(stage, symbol, venue, stored) for venue in ("futures", "okx")}
    for window, row in sorted(stored.items()):
        for value, source, at, key in (
            (row["funding"], row["funding_source"], row["funding_time"], "funding"),
            (row["open_interest"], row["oi_source"], row["oi_time"], "open_interest"),
        ):
            if value is None:
                if source is not None or at is not None:
                    judged.wrong.append(f"{symbol} {window}: {key} is null and has a source or time")
                continue
            if key == "funding":
                judged.funding += 1
            else:
                judged.interest += 1
            at_ms = round(at.timestamp() * 1000)
            told = truth["okx" if source == "okx" else "futures"].get(at_ms)
            coins = multiple if key == "open_interest" else 1
            if told is None or float(Decimal(told[key]) * coins) != value:
                judged.wrong.append(f"{symbol} {window}: {key} {value} of {at_ms} is not {told and told[key]}")
            if not 1000 * window - 30_000 < at_ms <= 1000 * window:
                judged.wrong.append(f"{symbol} {window}: {key} bears {at_ms}")


async def judge_messages(stage: Stage, symbols: Sequence[str]) -> int:
    """Every stored row's current rev was delivered with the same body, and no later one; returns the messages read."""
    newest: dict[str, int] = {}
    bodies: dict[str, Any] = {}
    read = 0
    async for message in read_log(stage.rmq_url, idle_s=1.0):
        if message.key.startswith("metric_updates."):
            read += 1
            key, _, rev = message.message_id.rpartition("#")
            newest[key] = max(newest.get(key, 0), int(rev))
            bodies[message.message_id] = json.loads(message.body)
    for row in await stage.con.fetch(
        "SELECT *, to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS t FROM metric_15s"
        " WHERE symbol = ANY($1::text[])", list(symbols),
    ):  # fmt: skip
        key = f"metric_updates.{row['symbol']}.15s@{row['t']}"
        assert newest.get(key) == row["rev"], f"{key}: delivered {newest.get(key)}, stored {row['rev']}"
        body = bodies[f"{key}#{row['rev']}"]
        for column in (
            "symbol", "funding", "open_interest", "cvd_delta", "funding_interval_h", "funding_source", "oi_source",
            "cvd_source", "rev",
        ):  # fmt: skip
            assert body[column] == row[column], (key, column, body[column], row[column])
    return read
