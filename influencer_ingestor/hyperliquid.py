"""Hyperliquid as data and pure functions: URLs, limits, subscribe frames, info requests, and reading what comes back.

Rules come from the venue's API pages (websocket, info endpoint, rate limits). Every limit holds per IP address. The
first frame of a connection may be plain text. Errors name neither the user nor the subscription they are about.
`userEvents` and `orderUpdates` do not name the user either: at most one user per connection may ask for them.
"""

from __future__ import annotations

import json
import re

import msgspec

from common.errors import BadInput
from common.numbers import parse_scaled
from influencer_ingestor.events import (
    SCALE,
    Fill,
    Held,
    Liquidation,
    OrderUpdate,
    ParseFailure,
    PositionSnapshot,
)
from influencer_ingestor.hyperliquid_shapes import (
    Answer,
    AnyFrame,
    FillsData,
    FillShape,
    OrderUpdateShape,
    StateData,
    StateShape,
    UserEvent,
)

WS_URL = "wss://api.hyperliquid.xyz/ws"
INFO_URL = "https://api.hyperliquid.xyz/info"

SOCKETS_MAX = 10
CONNECTS_MAX, CONNECTS_WINDOW_S = 30, 60.0
SUBSCRIPTIONS_MAX = 1_000
USERS_MAX = 10
SENT_MAX, SENT_WINDOW_S = 2_000, 60.0
REST_LIMIT, REST_WINDOW_S = 1_200, 60.0
PING_EVERY_S = 50.0
"""The venue closes a connection on which it has sent nothing for 60 s; its answer to a ping counts."""
FILLS_PAGE_MAX = 2_000
FILLS_KEPT_MAX = 10_000
"""The venue serves no more than this many of an account's latest fills."""

FILLS_WEIGHT, STATE_WEIGHT = 20, 2
ITEMS_PER_WEIGHT = 20
"""A fills request costs one more for every so many fills it returns."""

PING = '{"method":"ping"}'
GREETING = "Websocket connection established."

_ADDRESS = re.compile(r"0x[0-9a-f]{40}", re.ASCII)
_USERS_LIMIT = re.compile(r"Cannot track more than (\d{1,6}) total users", re.ASCII)

# Besides DecodeError msgspec lets out text that is not UTF-8, and JSON nested too deep.
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError, BadInput)

_decode_frame = msgspec.json.Decoder(AnyFrame).decode
_decode_answer = msgspec.json.Decoder(Answer).decode
_decode_fills = msgspec.json.Decoder(FillsData).decode
_decode_event = msgspec.json.Decoder(UserEvent).decode
_decode_fill = msgspec.json.Decoder(FillShape).decode
_decode_order = msgspec.json.Decoder(OrderUpdateShape).decode
_decode_state_data = msgspec.json.Decoder(StateData).decode
_decode_state = msgspec.json.Decoder(StateShape).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


class Fills(msgspec.Struct, frozen=True):
    """Fills of one account in the venue's order; `snapshot` only in the first frame after subscribing."""

    user: str
    snapshot: bool
    fills: tuple[Fill, ...]
    failures: tuple[ParseFailure, ...] = ()


class OrderUpdates(msgspec.Struct, frozen=True):
    """Order updates of the one account that this connection asks them for."""

    updates: tuple[OrderUpdate, ...]
    failures: tuple[ParseFailure, ...] = ()


class Acked(msgspec.Struct, frozen=True):
    """The venue accepted one subscription, or its end (`subscribe` false)."""

    type: str
    user: str | None
    subscribe: bool


class VenueError(msgspec.Struct, frozen=True):
    """An error that names nobody; `users_max` where it says how many users may be tracked."""

    text: str
    users_max: int | None = None


class Alive(msgspec.Struct, frozen=True):
    """A greeting or a pong: the connection lives, no account's data."""

    what: str


class Unread(msgspec.Struct, frozen=True):
    """A well-formed frame of a channel that carries nothing for us; kept raw by whoever wants it."""

    channel: str


Frame = Fills | OrderUpdates | PositionSnapshot | Acked | VenueError | Alive | Unread


def subscribe_frame(type_: str, user: str, subscribe: bool = True) -> str:
    """Ask for a user feed, or end it. Fills are never aggregated: that would change sizes and drop ids."""
    subscription: dict[str, object] = {"type": type_, "user": user}
    if type_ == "userFills":
        subscription["aggregateByTime"] = False
    method = "subscribe" if subscribe else "unsubscribe"
    return json.dumps({"method": method, "subscription": subscription}, separators=(",", ":"))


def fills_request(user: str, start_ms: int, end_ms: int | None = None) -> dict[str, object]:
    """Body that asks for fills of [start_ms, end_ms], both inclusive, oldest first, at most FILLS_PAGE_MAX."""
    body: dict[str, object] = {"type": "userFillsByTime", "user": user, "startTime": start_ms, "aggregateByTime": False}
    return body if end_ms is None else {**body, "endTime": end_ms}


def state_request(user: str, dex: str = "") -> dict[str, object]:
    """Body that asks for the open positions of an account on one dex."""
    body: dict[str, object] = {"type": "clearinghouseState", "user": user}
    return {**body, "dex": dex} if dex else body


def fills_weight(items: int) -> int:
    """What an answer with so many fills costs of the budget."""
    return FILLS_WEIGHT + items // ITEMS_PER_WEIGHT


def next_page(start_ms: int, times_ms: list[int]) -> int | None:
    """Where to go on after a page of fill times, oldest first; None when it was the last one.

    The last time again, because more fills may share it; one millisecond on where a whole page shares it.
    """
    if len(times_ms) < FILLS_PAGE_MAX:
        return None
    return times_ms[-1] if times_ms[-1] > start_ms else start_ms + 1


def read_address(text: str) -> str:
    """An account's address in lower case; raises BadInput with the rule that was broken."""
    address = text.strip().lower()
    if not _ADDRESS.fullmatch(address):
        raise BadInput(f"{text.strip()!r} is not an address: 0x and 40 hexadecimal digits")
    return address


def parse(frame: bytes | str, lone_user: str | None = None) -> Frame:
    """Read one frame; `lone_user` is the account whose nameless events this connection asked for.

    Raises BadInput, and nothing else, for whatever is not a frame of this venue.
    """
    try:
        text = frame.decode() if isinstance(frame, bytes) else frame
        if text == GREETING:
            return Alive("greeting")
        head = _decode_frame(text)
        if head.data is msgspec.UNSET:
            return Alive(head.channel) if head.channel == "pong" else Unread(head.channel)
        return _parse_data(head.channel, head.data, lone_user)
    except _UNREADABLE as error:
        raise BadInput(f"not a frame: {error}") from error


def _parse_data(channel: str, data: msgspec.Raw, lone_user: str | None) -> Frame:
    match channel:
        case "userFills":
            told = _decode_fills(data)
            return _read_fills(told.user.lower(), told.isSnapshot, told.fills)
        case "user":
            event = _decode_event(data)
            # The same fills come by name through userFills; nobody's fills can not be anybody's.
            if event.fills is None or lone_user is None:
                return Unread(channel)
            return _read_fills(lone_user, False, event.fills)
        case "orderUpdates":
            return _read_orders(_decode_list(data))
        case "clearinghouseState":
            told = _decode_state_data(data)
            return parse_state(bytes(told.clearinghouseState), told.user.lower(), told.dex)
        case "subscriptionResponse":
            answer = _decode_answer(data)
            user = answer.subscription.user
            subscribe = answer.method == "subscribe"
            return Acked(answer.subscription.type, None if user is None else user.lower(), subscribe)
        case "error":
            text = _decode_text(data)
            limit = _USERS_LIMIT.search(text)
            return VenueError(text, None if limit is None else int(limit[1]))
        case _:
            return Unread(channel)


def parse_fills(body: bytes, user: str) -> Fills:
    """Read an answer to `userFills` or `userFillsByTime`, in its order; raises BadInput when it is not a list."""
    try:
        return _read_fills(user.lower(), True, _decode_list(body))
    except _UNREADABLE as error:
        raise BadInput(f"not a list of fills: {error}") from error


def parse_state(body: bytes, user: str, dex: str = "") -> PositionSnapshot:
    """Read an answer to `clearinghouseState`; raises BadInput when it is not one."""
    try:
        told = _decode_state(body)
        held = tuple(
            Held(
                coin=each.position.coin,
                size=parse_scaled(each.position.szi, SCALE),
                leverage=each.position.leverage.value if each.position.leverage else None,
                margin_mode=each.position.leverage.type if each.position.leverage else None,
                entry_px=None if each.position.entryPx is None else parse_scaled(each.position.entryPx, SCALE),
            )
            for each in told.assetPositions
        )
        if not all(each.coin.isprintable() for each in held):
            raise BadInput("a coin with control characters fits into no row")
    except _UNREADABLE as error:
        raise BadInput(f"not a clearinghouse state: {error}") from error
    return PositionSnapshot(user.lower(), dex, told.time, held, body)


def parse_fill(raw: bytes, user: str) -> Fill:
    """Read one fill of `user`; raises BadInput for what is not one, a negative size or price among it."""
    try:
        told = _decode_fill(raw)
        liquidation = None
        if told.liquidation is not None:
            named = told.liquidation.liquidatedUser
            mark_px = parse_scaled(told.liquidation.markPx, SCALE)
            liquidation = Liquidation(None if named is None else named.lower(), mark_px, told.liquidation.method)
        px, sz = parse_scaled(told.px, SCALE), parse_scaled(told.sz, SCALE)
        if px < 0 or sz < 0:
            raise BadInput("a price and a size are not negative")
        return Fill(
            user=user,
            coin=told.coin,
            buy=told.side == "B",
            px=px,
            sz=sz,
            start=parse_scaled(told.startPosition, SCALE),
            time_ms=told.time,
            dir=told.dir,
            closed_pnl=parse_scaled(told.closedPnl, SCALE),
            hash=told.hash,
            oid=told.oid,
            tid=told.tid or None,
            liquidation=liquidation,
            raw=raw,
        )
    except _UNREADABLE as error:
        raise BadInput(f"not a fill: {error}") from error


def _read_fills(user: str, snapshot: bool, items: list[msgspec.Raw]) -> Fills:
    fills: list[Fill] = []
    failures: list[ParseFailure] = []
    for item in items:
        try:
            fills.append(parse_fill(bytes(item), user))
        except BadInput as error:
            failures.append(ParseFailure(str(error), bytes(item), user))
    return Fills(user, snapshot, tuple(fills), tuple(failures))


def _read_orders(items: list[msgspec.Raw]) -> OrderUpdates:
    updates: list[OrderUpdate] = []
    failures: list[ParseFailure] = []
    for item in items:
        try:
            told = _decode_order(item)
            raw = bytes(item)
            updates.append(OrderUpdate(told.order.coin, told.order.oid, told.status, told.statusTimestamp, raw))
        except _UNREADABLE as error:
            failures.append(ParseFailure(f"not an order update: {error}", bytes(item)))
    return OrderUpdates(tuple(updates), tuple(failures))
