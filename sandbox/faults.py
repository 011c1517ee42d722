"""Faults on demand: one table, kind to what it does.

Seconds are real time. `symbol` (a pair, at every venue) may be left out where a fault can hit whichever symbol comes
next. `venue` names the venue a fault is about: "binance" where it is left out, or "okx", or, for what concerns REST,
"futures" and "coingecko". Ids are those that the venue shows: aggTrade ids at Binance, `tradeId` at OKX. What concerns
the list of pairs and single REST endpoints is in sandbox/listing_faults.py.

| kind | arguments | what happens |
|---|---|---|
| clear | | everything is well again at this venue (what it lost stays lost) |
| cut | for_s, oldest | all sockets are aborted, or only the oldest; new ones are refused for a while |
| shutdown | after_s | serverShutdown (OKX: notice 64008) to all, and the end of their lives after `after_s` |
| silent | for_s | sockets and pongs go on, no data and no replies; what was due is lost to the stream |
| silent_symbol | symbol, for_s | the same for one symbol |
| stall | for_s | no bytes of data arrive, then everything at once and in order |
| stall_symbol | symbol, for_s | the same for one symbol's trades |
| delay | symbol, by_s, for_s | trades are pushed `by_s` late, with their true times |
| mute_stream | stream | acked, never pushed |
| drop | symbol, next or ids [a, b] | not streamed, REST has them |
| duplicate | symbol, next | pushed twice |
| reorder | symbol, next, behind | pushed after the `behind` following ones |
| malformed | symbol, next | a broken frame in addition |
| oversized | bytes | one huge frame to everyone |
| source_missing | symbol, ids [a, b] | neither streamed nor in REST nor recounted |
| rest_down | for_s, status | REST answers `status` |
| rest_ban | for_s | REST answers 418 (OKX: too many requests) |
| rest_slow | for_s, by_s | REST answers late |
| rest_behind | by_ms | REST shows trades that much later than the stream; 0 ends it |
| rest_answer | path, symbol, answer, ... | single endpoints are ill, see sandbox/listing_faults.py |
| skew | ms | the venue tells a wrong time (E and serverTime) by so much; 0 ends it |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sandbox.market import Market
from sandbox.sockets import Sockets
from sandbox.troubles import ANY, Troubles
from sandbox.weights import Budget


class Stage(NamedTuple):
    """What faults act on."""

    market: Market
    hub: Sockets
    troubles: Troubles
    budget: Budget


Args = dict[str, Any]
Edit = Callable[[str, Args], bool]


def _cut(stage: Stage, args: Args) -> None:
    stage.troubles.start("refuse", float(args.get("for_s", 0)))
    stage.hub.cut_all("cut", only_oldest=bool(args.get("oldest", False)))


def _shutdown(stage: Stage, args: Args) -> None:
    for connection in stage.hub.connections:
        stage.hub.announce_end(connection, float(args.get("after_s", 1)))


def _window(kind: str) -> Callable[[Stage, Args], None]:
    return lambda stage, args: stage.troubles.start(kind, float(args["for_s"]))


def _symbol_window(kind: str) -> Callable[[Stage, Args], None]:
    return lambda stage, args: stage.troubles.start(f"{kind} {args['symbol']}", float(args["for_s"]))


def _delay(stage: Stage, args: Args) -> None:
    symbol = str(args.get("symbol", ANY))
    stage.troubles.delay_s[symbol] = float(args["by_s"])
    stage.troubles.start(f"delay {symbol}", float(args["for_s"]))


def _count(kind: str) -> Callable[[Stage, Args], None]:
    def arm(stage: Stage, args: Args) -> None:
        stage.troubles.next[kind][str(args.get("symbol", ANY))] += int(args.get("next", 1))

    return arm


def _drop(stage: Stage, args: Args) -> None:
    if "ids" in args:
        low, high = args["ids"]
        stage.troubles.drop_ids.add(str(args["symbol"]), int(low), int(high))
    else:
        _count("drop")(stage, args)


def _reorder(stage: Stage, args: Args) -> None:
    stage.troubles.reorder_behind = int(args.get("behind", 1))
    _count("reorder")(stage, args)


def _source_missing(stage: Stage, args: Args) -> None:
    low, high = args["ids"]
    stage.market.lose(str(args["symbol"]), int(low), int(high))


def _rest_down(stage: Stage, args: Args) -> None:
    stage.troubles.rest_status = int(args.get("status", 503))
    stage.troubles.start("rest_down", float(args["for_s"]))


def _rest_slow(stage: Stage, args: Args) -> None:
    stage.troubles.rest_wait_s = float(args["by_s"])
    stage.troubles.start("rest_slow", float(args["for_s"]))


def _rest_behind(stage: Stage, args: Args) -> None:
    stage.troubles.rest_behind_ms = int(args["by_ms"])


def _skew(stage: Stage, args: Args) -> None:
    stage.market.clock.skew_ms = int(args["ms"])


def _rest_answer(stage: Stage, args: Args) -> None:
    about = ("kind", "venue", "at_s")
    stage.troubles.rest_rules.add({name: value for name, value in args.items() if name not in about})


def _clear(stage: Stage, args: Args) -> None:
    stage.troubles.clear()
    stage.market.clock.skew_ms = 0
    stage.budget.ban(0.0)


def _oversized(stage: Stage, args: Args) -> None:
    stage.troubles.oversized_bytes = int(args.get("bytes", 1 << 21))


FAULTS: dict[str, Callable[[Stage, Args], object]] = {
    "clear": _clear,
    "cut": _cut,
    "shutdown": _shutdown,
    "silent": _window("silent"),
    "silent_symbol": _symbol_window("silent_symbol"),
    "stall": _window("stall"),
    "stall_symbol": _symbol_window("stall_symbol"),
    "delay": _delay,
    "mute_stream": lambda stage, args: stage.troubles.dead_streams.add(str(args["stream"])),
    "drop": _drop,
    "duplicate": _count("duplicate"),
    "reorder": _reorder,
    "malformed": _count("malformed"),
    "oversized": _oversized,
    "source_missing": _source_missing,
    "rest_down": _rest_down,
    "rest_ban": lambda stage, args: stage.budget.ban(float(args["for_s"])),
    "rest_slow": _rest_slow,
    "rest_behind": _rest_behind,
    "skew": _skew,
    "rest_answer": _rest_answer,
}
ANY_SYMBOL = ("rest_answer",)
"""Faults whose symbol need not be one of the market's."""


def _edit_nothing(kind: str, args: Args) -> bool:
    return False


def apply_fault(stages: Mapping[str, Stage], fault: Args, edit: Edit = _edit_nothing) -> None:
    """Make one fault happen now. Raises ValueError when it is not in the table or its arguments do not fit.

    `edit` makes the changes that are about no single venue, and says whether the kind was one of them.
    """
    venue, kind = str(fault.get("venue", "binance")), str(fault.get("kind"))
    try:
        if edit(kind, fault):
            return
    except (KeyError, TypeError) as error:
        raise ValueError(f"fault {kind}: {error!r} is missing or wrong") from error
    if venue not in stages:
        raise ValueError(f"unknown venue {venue!r}, here are: {', '.join(stages)}")
    stage = stages[venue]
    if kind not in FAULTS:
        raise ValueError(f"unknown fault {kind!r}, known: {', '.join(FAULTS)}")
    symbol = fault.get("symbol", ANY)
    if symbol != ANY and kind not in ANY_SYMBOL and symbol not in stage.market.symbols:
        raise ValueError(f"unknown symbol {symbol!r}")
    stage.troubles.calm = False
    try:
        FAULTS[kind](stage, fault)
    except (KeyError, TypeError) as error:
        raise ValueError(f"fault {kind}: {error!r} is missing or wrong") from error
