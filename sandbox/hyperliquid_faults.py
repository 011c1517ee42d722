"""Faults of the sandbox's Hyperliquid: `POST /_fault {"venue": "hyperliquid", "kind": ...}`, and by time with --script.

Which sockets: `connection` n (0 the oldest of those that remain, -1 the newest), `serial` (status tells them), `remote`
(a client's address), together with `user`: those that hear this account. None of them: all sockets, also those opened
later. `user` by itself: all sockets, this account's data. `for_s` seconds, or `next` so many, or until clear.

| kind | arguments | what happens |
|---|---|---|
| clear | | everything is well again, what was held arrives (what was lost stays lost; limits stay) |
| cut | which, for_s | sockets are aborted; with for_s new ones are refused meanwhile |
| close | which, code, reason | sockets are closed in order |
| refuse | for_s, status | new sockets get this HTTP status (503) |
| lag | which, by_s, for_s | everything but pongs comes late, in order |
| stall | which, for_s | nothing arrives, pongs neither, then everything at once |
| silent | which, for_s | no data, snapshots and acks: lost; pongs go on |
| mute | which, for_s | acks and snapshots, but no live data |
| drop | which, coin, next, every, for_s | single fills are not streamed, REST has them |
| duplicate | which, next | a block's frames come twice |
| reorder | which, next, behind | a block's userFills come after the `behind` following frames, or a second later |
| shuffle | which, next | the fills of a block come in reverse order |
| malformed | which, next, how | half a frame, beside the good one or `instead` |
| spoil | which, next, fields, how | the fills with these fields, beside the good ones or `instead` |
| text | which, text | a frame of this text now |
| oversized | which, bytes | a huge frame now |
| limits | users_max, ... | settings of sandbox/hyperliquid_config.py change |
| play | steps | accounts trade, see HyperliquidMarket.plan |
| rest_down | status, type, user, for_s, next, every | info answers this status (503) |
| rest_429 | type, user, for_s, next, every | info answers 429 |
| rest_slow | by_s, type, ... | info answers late |
| rest_behind | by_ms, type, ... | info shows only what was known so long ago |
| rest_body | body, type, ... | info answers 200 with this text |
| rest_cut | type, ... | the connection is aborted |
| rest_latency | by_ms | every answer comes so much later, until set again |
| skew | ms | new fills and answers carry a wrong time, until set again |
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sandbox.hyperliquid_config import read_limits
from sandbox.hyperliquid_hub import HyperliquidHub
from sandbox.hyperliquid_info import HyperliquidInfo
from sandbox.hyperliquid_line import Line
from sandbox.hyperliquid_market import HyperliquidMarket
from sandbox.hyperliquid_rules import LINE_KINDS, REST_KINDS, Rules

Args = dict[str, Any]
_SELECTORS = ("connection", "serial", "remote")
_HEAD = ("kind", "venue", "at_s", *_SELECTORS)


class HyperliquidFaults:
    """Carries them out; `play` takes the steps of a script."""

    def __init__(
        self, market: HyperliquidMarket, hub: HyperliquidHub, info: HyperliquidInfo, rules: Rules,
        play: Callable[[list[Args]], object],
    ) -> None:  # fmt: skip
        self._market = market
        self._hub = hub
        self._info = info
        self._rules = rules
        self._table: dict[str, Callable[[Args], object]] = {
            "clear": self._clear,
            "cut": self._cut,
            "close": self._close,
            "refuse": self._refuse,
            "text": lambda args: [line.send(str(args["text"])) for line in self._lines(args)],
            "oversized": self._oversized,
            "limits": self._limits,
            "play": lambda args: play(args["steps"]),
            "rest_latency": self._latency,
            "skew": self._skew,
        }

    def apply(self, kind: str, args: Args) -> None:
        """Make one fault happen now. Raises ValueError when it is not in the table or its arguments do not fit."""
        try:
            if kind in self._table:
                self._table[kind](args)
            elif kind in (*LINE_KINDS, *REST_KINDS):
                plain = {name: value for name, value in args.items() if name not in _HEAD}
                lines = self._hub.choose(args) if kind in LINE_KINDS else None
                self._rules.add(kind, plain, None if lines is None else [line.serial for line in lines])
            else:
                known = ", ".join((*self._table, *LINE_KINDS, *REST_KINDS))
                raise ValueError(f"unknown fault {kind!r} of hyperliquid, known: {known}")
        except (KeyError, TypeError) as error:
            raise ValueError(f"fault {kind}: {error!r} is missing or wrong") from error

    def _lines(self, args: Args) -> list[Line]:
        chosen = self._hub.choose(args)
        if chosen is not None:
            return chosen
        lines = self._hub.open_lines()
        return [line for line in lines if str(args["user"]).lower() in line.users()] if "user" in args else lines

    def _clear(self, args: Args) -> None:
        self._rules.clear()
        for line in self._hub.open_lines():
            line.release(math.inf)

    def _cut(self, args: Args) -> None:
        lines = self._lines(args)
        if "for_s" in args:
            self._refuse(args)
        for line in lines:
            self._hub.cut["cut"] += 1
            line.abort()

    def _close(self, args: Args) -> None:
        for line in self._lines(args):
            self._hub.cut["close"] += 1
            line.close(int(args.get("code", 1001)), str(args.get("reason", "Going away")))

    def _refuse(self, args: Args) -> None:
        self._rules.refuse_until = time.monotonic() + float(args["for_s"])
        self._rules.refuse_status = int(args.get("status", 503))

    def _oversized(self, args: Args) -> None:
        text = '{"channel":"x","data":"' + "x" * int(args.get("bytes", 1 << 21)) + '"}'
        for line in self._lines(args):
            line.send(text)

    def _limits(self, args: Args) -> None:
        changes = read_limits(self._hub.config, {name: value for name, value in args.items() if name not in _HEAD})
        self._hub.config = replace(self._hub.config, **changes)

    def _latency(self, args: Args) -> None:
        self._info.latency_ms = int(args["by_ms"])

    def _skew(self, args: Args) -> None:
        self._market.skew_ms = int(args["ms"])
