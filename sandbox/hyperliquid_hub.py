"""Hyperliquid's sockets: subscriptions with their snapshots, fills for all who hear them, faults on the way."""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from sandbox.hyperliquid_config import HyperliquidConfig
from sandbox.hyperliquid_frames import (
    Subscription,
    ack_text,
    error_text,
    events_texts,
    fills_text,
    ledger_text,
    orders_text,
    read_order,
    state_text,
    to_text,
    unreadable_text,
)
from sandbox.hyperliquid_ledger import Wire
from sandbox.hyperliquid_limits import Allowance
from sandbox.hyperliquid_line import Line
from sandbox.hyperliquid_market import HyperliquidMarket, Made
from sandbox.hyperliquid_rules import Rules

PONG = '{"channel":"pong"}'
STATE_GAP_S = 1.0
"""The state of an account is pushed at most this often."""


class HyperliquidHub:
    """Knows every open socket; `told_ms` is the venue's time."""

    def __init__(
        self, config: HyperliquidConfig, market: HyperliquidMarket, rules: Rules, told_ms: Callable[[], int]
    ) -> None:
        self.config = config
        self.lines: dict[int, Line] = {}
        self.cut: Counter[str] = Counter()
        self.allowances: defaultdict[str, Allowance] = defaultdict(Allowance)
        self._market = market
        self._rules = rules
        self._told_ms = told_ms
        self._serials = itertools.count()
        self._changed_at: dict[str, float] = {}

    # Sockets

    def next_serial(self) -> int:
        """The number of a new socket: from 0 up, never used twice."""
        return next(self._serials)

    def add(self, line: Line) -> None:
        """Take a socket in."""
        self.lines[line.serial] = line

    def remove(self, line: Line) -> None:
        """Forget a socket and what it heard."""
        line.closed = True
        if self.lines.pop(line.serial, None) is not None:
            for told in line.heard.values():
                line.allowance.unsubscribe(told.user)
            line.heard.clear()
            line.allowance.disconnect()

    def open_lines(self) -> list[Line]:
        """The open sockets, the oldest first."""
        return [line for line in self.lines.values() if not line.closed]

    def choose(self, args: dict[str, Any]) -> list[Line] | None:
        """The sockets that a fault is about: `connection` (n-th by age among those that remain, negative from the
        newest), `serial`, `user`, `remote`; None when it names none of them: all, also later ones. Raises ValueError.
        """
        if not any(name in args for name in ("connection", "serial", "remote")):
            return None
        found = self.open_lines()
        if "serial" in args:
            found = [line for line in found if line.serial == int(args["serial"])]
        if "remote" in args:
            found = [line for line in found if line.remote == args["remote"]]
        if "user" in args:
            found = [line for line in found if str(args["user"]).lower() in line.users()]
        if "connection" in args:
            nth = int(args["connection"])
            if not -len(found) <= nth < len(found):
                raise ValueError(f"there is no connection {nth}: {len(found)} fit")
            found = [found[nth]]
        return found

    # What clients say

    def obey(self, line: Line, text: str) -> None:
        """Carry out a frame and answer it; pings are answered even while the venue is silent."""
        order = read_order(text)
        if order is None:
            self._answer(line, unreadable_text(text), None)
        elif order.subscription is None:
            stall = self._rules.on("stall", line.serial, None)
            if stall is None:
                line.send_now(PONG)
            else:
                line.send(PONG, stall.until or 0.0)
        elif order.method == "subscribe":
            self._subscribe(line, order.subscription)
        else:
            self._unsubscribe(line, order.subscription)

    def _subscribe(self, line: Line, wanted: Subscription) -> None:
        name = to_text(wanted.told)
        if name in line.heard:
            self._answer(line, error_text(f"Already subscribed: {name}"), wanted.user)
            return
        complaint = line.allowance.subscribe(wanted.user, self.config)
        if complaint is not None:
            self._answer(line, error_text(complaint), wanted.user)
            return
        line.heard[name] = wanted
        self._answer(line, ack_text("subscribe", wanted), wanted.user)
        if wanted.user is not None:
            self._say_snapshot(line, wanted, wanted.user)

    def _unsubscribe(self, line: Line, wanted: Subscription) -> None:
        name = to_text(wanted.told)
        if line.heard.pop(name, None) is None:
            self._answer(line, error_text(f"Already unsubscribed: {name}"), wanted.user)
            return
        line.allowance.unsubscribe(wanted.user)
        self._answer(line, ack_text("unsubscribe", wanted), wanted.user)

    def _say_snapshot(self, line: Line, wanted: Subscription, user: str) -> None:
        if wanted.type == "userFills":
            made = self._market.seen(user)[-self.config.snapshot_fills :] if self.config.snapshot_fills else []
            self._answer(line, fills_text(user, [one.fill for one in made if one.streamed], is_snapshot=True), user)
        elif wanted.type == "clearinghouseState":
            self._say_state(line, wanted, user, time.monotonic())
        elif wanted.type == "userNonFundingLedgerUpdates":
            self._answer(line, ledger_text(wanted.type, user, self._market.look(user).moves), user)
        elif wanted.type == "userFundings":
            self._answer(line, ledger_text(wanted.type, user, []), user)

    def _answer(self, line: Line, text: str, user: str | None) -> None:
        """Acks, errors and snapshots: late or lost like data, but never spoiled."""
        if self._rules.on("silent", line.serial, user) is None:
            line.send(text, self._not_before(line, user))

    def _not_before(self, line: Line, user: str | None) -> float:
        lag, stall = self._rules.on("lag", line.serial, user), self._rules.on("stall", line.serial, user)
        late = time.monotonic() + lag.by_s if lag else 0.0
        return max(late, stall.until or 0.0) if stall else late

    # What happens

    def publish(self, made: Sequence[Made]) -> None:
        """Tell everyone who hears them of new fills, a frame for each user and block."""
        shown = [one for one in made if one.streamed]
        for (user, _), group in groupby(shown, key=lambda one: (one.user, one.time_ms)):
            self._changed_at[user] = time.monotonic()
            fills = [one.fill for one in group]
            size = self.config.fills_per_frame or len(fills)
            for i in range(0, len(fills), size):
                self._publish_block(user, fills[i : i + size])

    def _publish_block(self, user: str, fills: list[Wire]) -> None:
        listeners = [line for line in list(self.lines.values()) if any(t.user == user for t in line.heard.values())]
        if not listeners:
            return
        kept = [fill for fill in fills if self._rules.take("drop", None, user, fill["coin"]) is None]
        shared = _Spoiled(self._rules, None, user)
        cache: dict[str, list[str]] = {}
        for line in listeners:
            if self._rules.calm():
                spoiled, mine, texts = None, kept, cache
            else:
                spoiled = _Spoiled(self._rules, line.serial, user)
                mine = [fill for fill in kept if self._rules.take("drop", line.serial, user, fill["coin"]) is None]
                texts = cache if len(mine) == len(kept) else {}
            if mine and self._is_told(line, user):
                self._push(line, user, mine, texts, [shared] if spoiled is None else [shared, spoiled])

    def _is_told(self, line: Line, user: str) -> bool:
        return not any(self._rules.on(kind, line.serial, user) for kind in ("silent", "mute"))

    def _push(
        self, line: Line, user: str, fills: list[Wire], cache: dict[str, list[str]], spoils: list[_Spoiled]
    ) -> None:
        not_before = self._not_before(line, user)
        for kind in [told.type for told in line.heard.values() if told.user == user]:
            if kind == "clearinghouseState":
                continue
            if kind not in cache:
                cache[kind] = _texts_of(kind, user, fills)
            texts = cache[kind]
            for spoil in spoils:
                texts = spoil.reshape(kind, texts, user, fills)
            for text in texts:
                behind = max((spoil.behind for spoil in spoils), default=0)
                if behind and kind == "userFills":
                    line.send_swapped(text, behind)
                else:
                    line.send_data(text, not_before)
            line.sent[kind] = line.sent.get(kind, 0) + len(texts)

    # From time to time

    def tend(self, now: float) -> None:
        """Let held frames go, close idle sockets, push states; call it often, with monotonic time."""
        for line in list(self.lines.values()):
            line.release(now)
            if line.closed:
                continue
            if now - line.written_at > self.config.idle_s:
                self.cut["idle"] += 1
                line.close(1000, "Inactive")
                continue
            for name, told in list(line.heard.items()):
                if told.type == "clearinghouseState" and told.user is not None:
                    said_at = line.state_at.get(name, 0.0)
                    changed = self._changed_at.get(told.user, 0.0) >= said_at
                    if now - said_at > (STATE_GAP_S if changed else self.config.state_every_s):
                        self._say_state(line, told, told.user, now)

    def _say_state(self, line: Line, told: Subscription, user: str, now: float) -> None:
        line.state_at[to_text(told.told)] = now
        if self._is_told(line, user):
            text = state_text(self._market.look(user), told.dex, self._told_ms())
            line.send(text, self._not_before(line, user))


class _Spoiled:
    """What rules do to one block of fills, for all sockets (`serial` None) or one; counted once."""

    def __init__(self, rules: Rules, serial: int | None, user: str) -> None:
        self._twice = rules.take("duplicate", serial, user) is not None
        self._turned = rules.take("shuffle", serial, user) is not None
        self._broken = rules.take("malformed", serial, user)
        self._changed = rules.take("spoil", serial, user)
        reorder = rules.take("reorder", serial, user)
        self.behind = reorder.behind if reorder else 0

    def reshape(self, kind: str, texts: list[str], user: str, fills: list[Wire]) -> list[str]:
        """The frames as the faults leave them."""
        if self._turned:
            texts = _texts_of(kind, user, fills[::-1])
        if self._twice:
            texts = texts + texts
        if self._broken is not None and kind == "userFills":
            broken = texts[0][: len(texts[0]) // 2]
            texts = [broken] if self._broken.how == "instead" else [broken, *texts]
        if self._changed is not None and kind == "userFills":
            bad = _texts_of(kind, user, [fill | self._changed.fields for fill in fills])
            texts = bad if self._changed.how == "instead" else bad + texts
        return texts


def _texts_of(kind: str, user: str, fills: list[Wire]) -> list[str]:
    if kind == "userFills":
        return [fills_text(user, fills)]
    if kind == "userEvents":
        return events_texts(fills, user)
    return [orders_text(fills)] if kind == "orderUpdates" else []
