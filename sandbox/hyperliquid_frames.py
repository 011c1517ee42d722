"""What Hyperliquid's sockets say and understand, as text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple, cast

from sandbox.hyperliquid_ledger import Account, Wire, is_default_dex, is_spot, number_text
from sandbox.hyperliquid_play import COINS

GREETING = "Websocket connection established."
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
USER_TYPES = (
    "userFills", "userEvents", "orderUpdates", "clearinghouseState", "userFundings", "userNonFundingLedgerUpdates"
)  # fmt: skip
"""Subscriptions that name a user; the last two only give their snapshot."""
OTHER_TYPES = ("allMids", "trades", "bbo", "l2Book", "candle", "activeAssetCtx")
"""Acked, and silent here."""


class Subscription(NamedTuple):
    """What a client wants to hear; `told` is how the venue repeats it."""

    type: str
    user: str | None
    dex: str
    told: dict[str, object]


class Order(NamedTuple):
    """A frame of the client: ping, subscribe or unsubscribe."""

    method: str
    subscription: Subscription | None = None


def is_address(value: object) -> bool:
    """Whether something is an account's address, in whatever case."""
    return isinstance(value, str) and _ADDRESS.fullmatch(value) is not None


def to_text(body: object) -> str:
    """JSON without blanks."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def read_order(text: str) -> Order | None:
    """Understand a frame; None for what the venue can not parse."""
    try:
        parsed: Any = json.loads(text)
        if not isinstance(parsed, dict):
            return None
        frame = cast("dict[str, Any]", parsed)
        if frame.get("method") == "ping":
            return Order("ping")
        if frame.get("method") not in ("subscribe", "unsubscribe"):
            return None
        wanted = read_subscription(frame["subscription"])
    except (ValueError, KeyError, TypeError):
        return None
    return None if wanted is None else Order(str(frame["method"]), wanted)


def read_subscription(wanted: dict[str, Any]) -> Subscription | None:
    """Understand a subscription; the venue adds what was left out and turns addresses to lower case."""
    kind = wanted["type"]
    if kind in OTHER_TYPES:
        return Subscription(str(kind), None, "", dict(wanted))
    if kind not in USER_TYPES or not is_address(wanted.get("user")):
        return None
    told: dict[str, object] = {"type": kind, "user": wanted["user"].lower()}
    dex = str(wanted.get("dex") or "")
    if kind == "userFills":
        told["aggregateByTime"] = bool(wanted.get("aggregateByTime", False))
    elif kind == "clearinghouseState":
        told["dex"] = dex
    return Subscription(str(kind), str(told["user"]), dex, told)


def ack_text(method: str, subscription: Subscription) -> str:
    """The answer to a subscription that is carried out."""
    return to_text({"channel": "subscriptionResponse", "data": {"method": method, "subscription": subscription.told}})


def error_text(message: str) -> str:
    """An error; it never says which frame or user it is about beyond its text."""
    return to_text({"channel": "error", "data": message})


def unreadable_text(text: str) -> str:
    """The answer to what can not be parsed."""
    return error_text(f"Error parsing JSON into valid websocket request: {text}")


def fills_text(user: str, fills: Sequence[Wire], is_snapshot: bool = False) -> str:
    """`userFills`; only a snapshot carries the flag."""
    head = {"isSnapshot": True} if is_snapshot else {}
    return to_text({"channel": "userFills", "data": {**head, "user": user, "fills": fills}})


def events_texts(fills: Sequence[Wire], user: str) -> list[str]:
    """`userEvents`: the fills, and a liquidation of this account; nothing names the user it was asked for."""
    texts = [to_text({"channel": "user", "data": {"fills": fills}})]
    for fill in fills:
        liquidation = fill.get("liquidation")
        if liquidation and liquidation.get("liquidatedUser") == user:
            value = number_text(Decimal(fill["px"]) * Decimal(fill["sz"]))
            body = {
                "lid": fill.get("tid", 0) % 1_000_000, "liquidator": "0x" + "1" * 40, "liquidated_user": user,
                "liquidated_ntl_pos": value, "liquidated_account_value": "310.2",
            }  # fmt: skip
            texts.append(to_text({"channel": "user", "data": {"liquidation": body}}))
            break
    return texts


def orders_text(fills: Sequence[Wire]) -> str:
    """`orderUpdates`: the orders that these fills filled."""
    by_oid: dict[int, list[Wire]] = {}
    for fill in fills:
        by_oid.setdefault(fill["oid"], []).append(fill)
    rows: list[dict[str, object]] = []
    for oid, parts in by_oid.items():
        first, size = parts[0], number_text(sum((Decimal(part["sz"]) for part in parts), Decimal(0)))
        order: dict[str, object] = {
            "coin": first["coin"], "side": first["side"], "limitPx": first["px"], "sz": "0.0", "oid": oid,
            "timestamp": first["time"], "origSz": size,
        }  # fmt: skip
        order |= {"cloid": first["cloid"]} if "cloid" in first else {}
        rows.append({"order": order, "status": "filled", "statusTimestamp": first["time"]})
    return to_text({"channel": "orderUpdates", "data": rows})


def state_text(account: Account, dex: str, now_ms: int) -> str:
    """`clearinghouseState`."""
    state = clearinghouse_state(account, dex, now_ms)
    return to_text(
        {"channel": "clearinghouseState", "data": {"dex": dex, "user": account.user, "clearinghouseState": state}}
    )


def ledger_text(kind: str, user: str, rows: Sequence[Wire]) -> str:
    """The snapshot of `userNonFundingLedgerUpdates` or `userFundings`."""
    name = "fundings" if kind == "userFundings" else "nonFundingLedgerUpdates"
    return to_text({"channel": kind, "data": {"isSnapshot": True, "user": user, name: rows}})


def clearinghouse_state(account: Account, dex: str, now_ms: int) -> dict[str, object]:
    """Positions of one dex ("": the venue's own perpetuals) that are not flat, and what they are worth."""
    held = {
        coin: position
        for coin, position in account.positions.items()
        if position.size and (is_default_dex(coin) if not dex else coin.startswith(dex + ":")) and not is_spot(coin)
    }
    value = sum((abs(p.size) * p.entry for p in held.values()), Decimal(0))
    margin = value / account.leverage
    worth = Decimal(100_000) + account.realized
    summary = {
        "accountValue": number_text(worth),
        "totalNtlPos": number_text(value),
        "totalRawUsd": number_text(worth - sum((p.size * p.entry for p in held.values()), Decimal(0))),
        "totalMarginUsed": number_text(margin),
    }
    return {
        "marginSummary": summary,
        "crossMarginSummary": summary,
        "crossMaintenanceMarginUsed": number_text(margin / 2),
        "withdrawable": number_text(max(Decimal(0), worth - margin)),
        "assetPositions": [
            {"type": "oneWay", "position": _position_row(account, coin)} for coin in held
        ],
        "time": now_ms,
    }  # fmt: skip


def _position_row(account: Account, coin: str) -> dict[str, object]:
    position = account.positions[coin]
    value = abs(position.size) * position.entry
    return {
        "coin": coin,
        "szi": number_text(position.size),
        "leverage": {"type": "cross", "value": account.leverage},
        "entryPx": number_text(position.entry),
        "positionValue": number_text(value),
        "unrealizedPnl": "0.0",
        "returnOnEquity": "0.0",
        "liquidationPx": None,
        "marginUsed": number_text(value / account.leverage),
        "maxLeverage": COINS[coin].leverage if coin in COINS else 10,
        "cumFunding": {"allTime": "0.0", "sinceOpen": "0.0", "sinceChange": "0.0"},
    }
