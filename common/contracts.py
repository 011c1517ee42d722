"""Every row and message: one struct each, with its table and its routing key.

Numbers are canonical decimal text in rows (see `common.numbers`), so that a value has one spelling on its way into
NUMERIC columns and into JSON. Times of rows are epoch seconds of venue time, times of gaps epoch milliseconds.
Sides are the taker's: `buy_vol` is what takers bought.
"""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from enum import StrEnum
from typing import Literal
from urllib.parse import quote

import msgspec

GRADE_EXACT = 4
"""Primary venue and complete."""
GRADE_FALLBACK = 3
"""The whole span, from the fallback venue."""
GRADE_PART = 2
"""A part of the primary venue's trades, or all of them without proof."""
GRADE_FALLBACK_PART = 1
"""A part of the fallback venue's trades."""

LANE_LIVE = 0
LANE_REPAIR = 1


class BarRow(msgspec.Struct, frozen=True, gc=False):
    """One minute of one symbol; table `raw_bars`, key (symbol, time).

    `n`, `buy_vol` and `buy_quote_vol` are None where the venue's own candle, which lacks them, supplied the minute.
    """

    time: int
    symbol: str
    o: str
    h: str
    l: str  # noqa: E741 - the seed's column
    c: str
    v: str
    n: int | None
    quote_vol: str
    buy_vol: str | None
    buy_quote_vol: str | None
    source: str
    complete: bool
    grade: int


class FootprintRow(msgspec.Struct, frozen=True, gc=False):
    """One second of one symbol with at least one trade; table `footprint_1s`, key (symbol, time).

    `first_id` and `last_id` are aggTrade ids, None where a kline supplied the second.
    """

    time: int
    symbol: str
    open: str
    high: str
    low: str
    close: str
    buy_vol: str
    sell_vol: str
    buy_quote: str
    sell_quote: str
    n: int
    first_id: int | None
    last_id: int | None
    source: str
    complete: bool
    grade: int


class MetricRow(msgspec.Struct, frozen=True, gc=False):
    """Fifteen seconds of one symbol; table `metric_15s`, key (symbol, time), `time` is the window's end.

    The columns are FLOAT (seed 004, section 4): each value was rounded once, on its way in here. None is "not known".
    `funding_ms` and `oi_ms` are the vendor's times of the samples, columns `funding_time` and `oi_time`.
    """

    time: int
    symbol: str
    funding: float | None = None
    open_interest: float | None = None
    cvd_delta: float | None = None
    funding_interval_h: int | None = None
    funding_source: str | None = None
    oi_source: str | None = None
    cvd_source: str | None = None
    funding_ms: int | None = None
    oi_ms: int | None = None


class GapStatus(StrEnum):
    """Where a hole in a venue's trade ids stands."""

    OPEN = "open"
    REPAIRED = "repaired"
    SOURCE_MISSING = "source_missing"
    NOT_SUBSCRIBED = "not_subscribed"


REWRITER = "verify"
"""The service of ledger rows that tell of spans written anew by an operator: settled from the start, ids are times."""


class GapRow(msgspec.Struct, frozen=True):
    """One hole in a venue's trade ids; table `feed_gaps`, key (service, venue, symbol, from_id).

    `from_id` is the first missing id and never changes; `to_id` the last one, None until the next trade is known.
    `from_ms` and `to_ms` are the times of the trades (or of the proven silence) around it; `missing` the ids not yet
    restored, as closed ranges; `restored_n` the venue's own trades put back so far.
    """

    service: str
    venue: str
    symbol: str
    from_id: int
    to_id: int | None
    from_ms: int
    to_ms: int | None
    missing: tuple[tuple[int, int], ...]
    status: GapStatus
    reason: str
    tries: int
    restored_n: int = 0


class Retraction(msgspec.Struct, frozen=True):
    """Stored complete rows of [from_s, to_s] (seconds, both inclusive) that a late gap makes incomplete.

    Bars count by their minute: the bar at `from_s - from_s % 60` is the first one touched.
    """

    symbol: str
    source: str
    from_s: int
    to_s: int


class Clearance(msgspec.Struct, frozen=True):
    """Seconds of [from_s, to_s] (both inclusive) that `source` now tells whole: other venues' rows there must go.

    Where `source` has trades its rows replaced them; a second in which it was quiet has no row at all. `own`: rows of
    `source` itself go too, because an audit found that it has no trade there.
    """

    symbol: str
    source: str
    from_s: int
    to_s: int
    own: bool = False


class CursorRow(msgspec.Struct, frozen=True, gc=False):
    """How far a (service, venue, symbol) is stored: end of the last closed second, last id in it."""

    service: str
    venue: str
    symbol: str
    last_id: int
    event_s: int


class MacroSlotRow(msgspec.Struct, frozen=True):
    """What is known of the chains in one quarter of an hour; table `macro_onchain_15m`, key time.

    `values`, `as_of` (the vendor's own time) and `source` hold the columns that are known; the others are null.
    """

    time: int
    values: dict[str, str]
    as_of: dict[str, str]
    source: dict[str, str]


class MacroDayRow(msgspec.Struct, frozen=True):
    """Bitcoin's regime on one UTC day (`day` is its start); table `macro_btc_daily`, key day."""

    day: int
    values: dict[str, str]
    as_of: dict[str, str]
    source: dict[str, str]


class BarMessage(msgspec.Struct, frozen=True):
    """`price_updates.<SYM>.1m`."""

    time: dt.datetime
    symbol: str
    o: Decimal
    h: Decimal
    l: Decimal  # noqa: E741 - the seed's field
    c: Decimal
    v: Decimal
    n: int | None
    quote_vol: Decimal
    buy_vol: Decimal | None
    source: str
    complete: bool
    rev: int


class FootprintMessage(msgspec.Struct, frozen=True):
    """`price_updates.<SYM>.1s`."""

    time: dt.datetime
    symbol: str
    buy_vol: Decimal
    sell_vol: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    open: Decimal
    n: int
    source: str
    complete: bool
    rev: int


class BeatMessage(msgspec.Struct, frozen=True):
    """`price_updates.<SYM>.beat`: transient, never stored."""

    time: dt.datetime
    symbol: str
    close: Decimal
    live: bool


class MacroSlotMessage(msgspec.Struct, frozen=True):
    """`onchain.macro.15m`."""

    time: dt.datetime
    btc_ex_netflow: Decimal | None
    btc_ex_reserve_pct: Decimal | None
    eth_ex_netflow: Decimal | None
    eth_gas_price: Decimal | None
    sol_ex_netflow: Decimal | None
    stbl_cex_netflow: Decimal | None
    as_of: dict[str, str]
    source: dict[str, str]
    rev: int


class MacroDayMessage(msgspec.Struct, frozen=True):
    """`onchain.macro.1d`."""

    day: dt.date
    mvrv: Decimal | None
    asopr_7d: Decimal | None
    nupl: Decimal | None
    as_of: dict[str, str]
    source: dict[str, str]
    rev: int


class MetricMessage(msgspec.Struct, frozen=True):
    """`metric_updates.<SYM>.15s`: null where a value is not known."""

    time: dt.datetime
    symbol: str
    funding: Decimal | None
    open_interest: Decimal | None
    cvd_delta: Decimal | None
    funding_interval_h: int | None
    funding_source: str | None
    oi_source: str | None
    cvd_source: str | None
    funding_time: dt.datetime | None
    oi_time: dt.datetime | None
    rev: int


class SymbolEvent(msgspec.Struct, frozen=True):
    """`symbol_events.updated`: one registry row that changed."""

    symbol: str
    status: str
    cluster: str | None
    health: int | None
    pair: str | None
    reason: str | None


class SignalRow(msgspec.Struct, frozen=True):
    """One position change of one account; table `influencer_signals`, key (signal_id, time). It never changes.

    `size` is what is held afterwards, without a sign; `delta_size` is signed. `time_ms` is the fill's own, `metadata` a
    JSON object as text.
    """

    signal_id: str
    influencer_id: str
    exchange: str
    market: str
    action: str
    side: str
    size: str
    delta_size: str
    price: str
    time_ms: int
    source_event_id: str
    metadata: str


class SignalMessage(msgspec.Struct, frozen=True, rename="camel"):
    """`influencer_signals.<influencerId>.<MARKET>`."""

    signal_id: str
    influencer_id: str
    exchange: str
    market: str
    action: Literal["OPEN", "CLOSE", "INCREASE", "DECREASE", "FLIP"]
    side: Literal["LONG", "SHORT", "FLAT"]
    size: Decimal
    delta_size: Decimal
    price: Decimal
    timestamp: dt.datetime
    source_event_id: str
    metadata: dict[str, object]


class OutgoingMessage(msgspec.Struct, frozen=True, gc=False):
    """One message on its way to the bus; `headers` is a JSON object or "".

    `committed_s` is when its row was committed (epoch seconds), 0 for a message that was never stored.
    """

    key: str
    message_id: str
    body: bytes
    lane: int = LANE_LIVE
    headers: str = ""
    committed_s: int = 0


def topic_word(symbol: str) -> str:
    """Write a symbol as one topic word: every UTF-8 byte outside [A-Za-z0-9_:-] percent-encoded."""
    if symbol.isascii() and symbol.isalnum():
        return symbol
    return quote(symbol, safe="_:-").replace(".", "%2E").replace("~", "%7E")


def format_time(epoch_s: int) -> str:
    """RFC 3339 UTC with Z."""
    return dt.datetime.fromtimestamp(epoch_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_time_ms(epoch_ms: int) -> str:
    """RFC 3339 UTC with Z, milliseconds always written."""
    return f"{format_time(epoch_ms // 1000)[:-1]}.{epoch_ms % 1000:03d}Z"


def price_key(symbol: str, kind: str) -> str:
    """Routing key of a price update; kind is 1m, 1s or beat."""
    return f"price_updates.{topic_word(symbol)}.{kind}"


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _or_null(value: str | int | None) -> str | int:
    return "null" if value is None else value


def bar_message(row: BarRow, rev: int, lane: int = LANE_LIVE) -> OutgoingMessage:
    """Publishable form of a stored bar; decimals are written digit by digit."""
    key, time = price_key(row.symbol, "1m"), format_time(row.time)
    body = (
        f'{{"time":"{time}","symbol":{json.dumps(row.symbol)},"o":{row.o},"h":{row.h},"l":{row.l},"c":{row.c},"v":{row.v},'
        f'"n":{_or_null(row.n)},"quote_vol":{row.quote_vol},"buy_vol":{_or_null(row.buy_vol)},"source":"{row.source}",'
        f'"complete":{_flag(row.complete)},"rev":{rev}}}'
    )
    return OutgoingMessage(key, f"{key}@{time}#{rev}", body.encode(), lane)


def footprint_message(row: FootprintRow, rev: int, lane: int = LANE_LIVE) -> OutgoingMessage:
    """Publishable form of a stored second; decimals are written digit by digit."""
    key, time = price_key(row.symbol, "1s"), format_time(row.time)
    body = (
        f'{{"time":"{time}","symbol":{json.dumps(row.symbol)},"buy_vol":{row.buy_vol},"sell_vol":{row.sell_vol},'
        f'"high":{row.high},"low":{row.low},"close":{row.close},"open":{row.open},"n":{row.n},"source":"{row.source}",'
        f'"complete":{_flag(row.complete)},"rev":{rev}}}'
    )
    return OutgoingMessage(key, f"{key}@{time}#{rev}", body.encode(), lane)


def metric_key(symbol: str) -> str:
    """Routing key of a metric update."""
    return f"metric_updates.{topic_word(symbol)}.15s"


def _format_ms(epoch_ms: int) -> str:
    second, ms = divmod(epoch_ms, 1000)
    return f"{format_time(second)[:-1]}.{ms:03d}Z" if ms else format_time(second)


def _double(value: float | None) -> str:
    """The shortest digits that mean this float, without an exponent."""
    return "null" if value is None else format(Decimal(repr(value)), "f").removesuffix(".0")


def metric_message(row: MetricRow, rev: int, lane: int = LANE_LIVE, headers: str = "") -> OutgoingMessage:
    """Publishable form of a stored window."""
    key, time = metric_key(row.symbol), format_time(row.time)
    told = json.dumps(
        {
            "funding_interval_h": row.funding_interval_h,
            "funding_source": row.funding_source,
            "oi_source": row.oi_source,
            "cvd_source": row.cvd_source,
            "funding_time": None if row.funding_ms is None else _format_ms(row.funding_ms),
            "oi_time": None if row.oi_ms is None else _format_ms(row.oi_ms),
            "rev": rev,
        },
        separators=(",", ":"),
    )
    body = (
        f'{{"time":"{time}","symbol":{json.dumps(row.symbol)},"funding":{_double(row.funding)},'
        f'"open_interest":{_double(row.open_interest)},"cvd_delta":{_double(row.cvd_delta)},{told[1:]}'
    )
    return OutgoingMessage(key, f"{key}@{time}#{rev}", body.encode(), lane, headers)


def symbol_event_message(event: SymbolEvent, run_at: dt.datetime) -> OutgoingMessage:
    """Publishable form of a registry event; its id names the run, so that a repeated delivery is known for one."""
    key = "symbol_events.updated"
    ident = f"{key}:{topic_word(event.symbol)}@{format_time(int(run_at.timestamp()))}"
    return OutgoingMessage(key, ident, msgspec.json.encode(event))


def beat_message(symbol: str, epoch_s: int, close: str, live: bool) -> OutgoingMessage:
    """A beat: keeps downstream clocks moving while a symbol is quiet (live) or we are blind (not live)."""
    key, time = price_key(symbol, "beat"), format_time(epoch_s)
    body = f'{{"time":"{time}","symbol":{json.dumps(symbol)},"close":{close},"live":{_flag(live)}}}'
    return OutgoingMessage(key, f"{key}@{time}", body.encode())


def signal_message(row: SignalRow, lane: int = LANE_LIVE) -> OutgoingMessage:
    """Publishable form of a stored signal; its message id is its signal id, whenever and however often it is sent."""
    key = f"influencer_signals.{topic_word(row.influencer_id)}.{topic_word(row.market)}"
    body = (
        f'{{"signalId":"{row.signal_id}","influencerId":{json.dumps(row.influencer_id)},"exchange":"{row.exchange}",'
        f'"market":{json.dumps(row.market)},"action":"{row.action}","side":"{row.side}","size":{row.size},'
        f'"deltaSize":{row.delta_size},"price":{row.price},"timestamp":"{format_time_ms(row.time_ms)}",'
        f'"sourceEventId":{json.dumps(row.source_event_id)},"metadata":{row.metadata}}}'
    )
    return OutgoingMessage(key, row.signal_id, body.encode(), lane)


_MACRO_SLOT_COLUMNS = MacroSlotMessage.__struct_fields__[1:-3]
_MACRO_DAY_COLUMNS = MacroDayMessage.__struct_fields__[1:-3]


def macro_slot_message(row: MacroSlotRow, rev: int) -> OutgoingMessage:
    """Publishable form of a stored quarter of an hour."""
    time, key = format_time(row.time), "onchain.macro.15m"
    head = f'{{"time":"{time}",{_macro_values(row.values, _MACRO_SLOT_COLUMNS)}'
    return OutgoingMessage(key, f"{key}@{time}#{rev}", f"{head},{_macro_tail(row, rev)}".encode())


def macro_day_message(row: MacroDayRow, rev: int) -> OutgoingMessage:
    """Publishable form of a stored day."""
    day, key = format_time(row.day)[:10], "onchain.macro.1d"
    head = f'{{"day":"{day}",{_macro_values(row.values, _MACRO_DAY_COLUMNS)}'
    return OutgoingMessage(key, f"{key}@{day}#{rev}", f"{head},{_macro_tail(row, rev)}".encode())


def _macro_values(values: dict[str, str], columns: tuple[str, ...]) -> str:
    return ",".join(f'"{column}":{_or_null(values.get(column))}' for column in columns)


def _macro_tail(row: MacroSlotRow | MacroDayRow, rev: int) -> str:
    as_of, source = (json.dumps(part, separators=(",", ":"), sort_keys=True) for part in (row.as_of, row.source))
    return f'"as_of":{as_of},"source":{source},"rev":{rev}}}'
