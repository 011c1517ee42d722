"""What every field of every message and column means: the one source of the JSON Schemas and of docs/SEMANTICS.md.

A new message is a `Contract` in `CONTRACTS`, a new table an entry in `TABLES`; its fields are named here, once. Pure.
"""

from __future__ import annotations

import msgspec

from common.contracts import (
    BarMessage,
    BeatMessage,
    FootprintMessage,
    MacroDayMessage,
    MacroSlotMessage,
    MetricMessage,
    SignalMessage,
    SymbolEvent,
)
from common.topology import EXCHANGE

BASE, QUOTE, PRICE = "base", "quote", "quote per base"
"""Units: amounts of the pair's first asset, of its second, and a price."""


class Note(msgspec.Struct, frozen=True):
    """One field: its meaning, its unit ("" where it has none), and bounds as JSON Schema keywords."""

    meaning: str
    unit: str = ""
    bounds: dict[str, int | str | list[str]] = {}


class Contract(msgspec.Struct, frozen=True):
    """One kind of message, its routing key with `{words}`, the struct of its body and the table it announces.

    `message_id` is the form of the AMQP property. What is not `persistent` is neither stored by the broker nor in
    `trading.bus.log`.
    """

    key: str
    body: type[msgspec.Struct]
    title: str
    meaning: str
    notes: dict[str, Note]
    message_id: str
    app_id: str
    table: str | None = None
    persistent: bool = True
    exchange: str = EXCHANGE
    headers: tuple[str, ...] = ()
    columns: dict[str, str] = {}
    """Fields whose column has another name."""


_NOT_NEGATIVE: dict[str, int | str | list[str]] = {"minimum": 0}
_AMOUNT = _NOT_NEGATIVE


def _price(meaning: str) -> Note:
    return Note(meaning, PRICE, _NOT_NEGATIVE)


def _sum(meaning: str, unit: str) -> Note:
    return Note(meaning, unit, _AMOUNT)


WORDS = {
    "influencer": Note("The account's internal id, escaped like a symbol"),
    "market": Note("The market's name, escaped like a symbol: `ETH-PERP`, `xyz:CL-PERP`, `PURR%2FUSDC`, `%40107`"),
    "symbol": Note("The pair as the venue writes it; bytes outside [A-Za-z0-9_:-] percent-encoded", "", {}),
}
"""The variable words of routing keys."""

HEADERS = {
    "symbol_status": Note(
        "The registry's status of the symbol: ACTIVE, ACTIVE_OVERRIDE or PROBATION; absent where SYMBOLS pins the set"
    ),
    "correlation_id": Note("Names the event through all systems: 32 hexadecimal digits, a W3C trace id"),
    "traceparent": Note("W3C trace context; only while traces are on"),
}
"""Application headers of a message."""

_ROW = {
    "symbol": Note("The pair as the venue writes it, e.g. `BTCUSDT`", "", {"minLength": 1}),
    "source": Note("The venue whose trades these are: `binance`, or `okx` while Binance delivered nothing"),
    "complete": Note("True exactly when no open or given-up gap touches the span: all trades of it are in the row"),
    "grade": Note("Which row wins: 4 exact, 3 whole span of a fallback, 2 part of the primary, 1 part of a fallback"),
    "rev": Note("1 for the first write, + 1 whenever the row changed: keep the highest per key", "", {"minimum": 1}),
    "updated_at": Note("When the row was last written, by the database's clock", "UTC"),
}

_BAR = {
    **_ROW,
    "time": Note("Opening of the minute, venue time", "UTC"),
    "o": _price("Price of the first trade (lowest id)"),
    "h": _price("Highest price"),
    "l": _price("Lowest price"),
    "c": _price("Price of the last trade (highest id); in a minute without trades the close before it"),
    "v": _sum("Traded volume", BASE),
    "n": Note(
        "The venue's single trades, not aggregates; null where a fallback's candle supplied the minute", "trades",
        _NOT_NEGATIVE,
    ),
    "quote_vol": _sum("Sum of price x quantity", QUOTE),
    "buy_vol": _sum("What takers bought, the rest of `v` is what they sold; null where `n` is null", BASE),
    "buy_quote_vol": _sum("Price x quantity of what takers bought; null where `n` is null", QUOTE),
}  # fmt: skip

_FOOTPRINT = {
    **_ROW,
    "time": Note("Opening of the second, venue time", "UTC"),
    "open": _price("Price of the first trade (lowest id)"),
    "high": _price("Highest price"),
    "low": _price("Lowest price"),
    "close": _price("Price of the last trade (highest id)"),
    "buy_vol": _sum("What takers bought", BASE),
    "sell_vol": _sum("What takers sold", BASE),
    "buy_quote": _sum("Price x quantity of what takers bought", QUOTE),
    "sell_quote": _sum("Price x quantity of what takers sold", QUOTE),
    "n": Note("The venue's single trades; 0 only in the message that says: row deleted", "trades", _NOT_NEGATIVE),
    "first_id": Note("Lowest aggTrade id of the second; null where a candle supplied it"),
    "last_id": Note("Highest aggTrade id of the second; null where a candle supplied it"),
}

_BEAT = {
    "time": Note("The second that passed without a footprint, venue time", "UTC"),
    "symbol": _ROW["symbol"],
    "close": _price("Price of the last trade known"),
    "live": Note("False when no venue's time moves: we are blind, and the close is old news, not a quiet market"),
}

_METRIC = {
    "time": Note("End of the window: it holds the 15 s of venue time before it, :00, :15, :30 or :45", "UTC"),
    "symbol": _ROW["symbol"],
    "funding": Note(
        "Running funding rate: the venue's forecast for the next settlement, for `funding_interval_h`, not for 8 h;"
        " null where the venue did not answer in this window, and for a pair without a perpetual", "rate per interval",
    ),
    "open_interest": Note(
        "Open positions of the pair's perpetual in coins, whatever its contract holds; null where the venue did not"
        " answer in this window or its turn was not now", BASE, _NOT_NEGATIVE,
    ),
    "cvd_delta": Note(
        "What takers bought less what they sold in the window; 0 in a quiet market; null until the window is proven to"
        " be covered by one venue", BASE,
    ),
    "funding_interval_h": Note("Hours between settlements; null where not known", "h", {"minimum": 1}),
    "funding_source": Note("`binance`, or `okx` while Binance did not answer; null with `funding`"),
    "oi_source": Note("`binance`; null with `open_interest`"),
    "cvd_source": Note("Whose trades: `binance`, or `okx` in minutes that only OKX told; null with `cvd_delta`"),
    "funding_time": Note("The venue's time of the rate, at most 30 s before `time`; null with `funding`", "UTC"),
    "oi_time": Note("The venue's time of the open interest, at most 30 s before `time`; null with it", "UTC"),
    "rev": _ROW["rev"],
    "updated_at": _ROW["updated_at"],
}  # fmt: skip

_COIN = {
    "symbol": Note("Base asset, e.g. `SOL`", "", {"minLength": 1}),
    "status": Note(
        "ACTIVE, ACTIVE_OVERRIDE and PROBATION are followed by the ingestors, EXCLUDED is not", "",
        {"enum": ["ACTIVE", "ACTIVE_OVERRIDE", "PROBATION", "EXCLUDED"]},
    ),
    "cluster": Note("Liquidity cluster H, M or L; null while unknown"),
    "health": Note("Data health; null while unknown", "0 to 100", {"minimum": 0, "maximum": 100}),
    "pair": Note("The pair that is streamed, e.g. `SOLUSDT`; null when the primary venue has none"),
    "reason": Note("Why the status is what it is, for a person"),
    "age_days": Note("Days since the first candle", "days"),
    "vol_24h": Note("Volume of the last 24 hours", "USD"),
    "spread_pct": Note("Median spread of the last 24 hours; where nobody sampled, that of the run's moment", "percent"),
    "okx_inst_id": Note("The fallback venue's name of the pair, e.g. `SOL-USDT`"),
    "tick_size": Note("Smallest step of a price", PRICE),
    "perp": Note("Its perpetual at the futures venue; null when it has none"),
    "listed_on": Note("Day of the first candle, asked for once"),
    "probation_since": Note("When the grace began; null when it is not on probation", "UTC"),
    "excluded_since": Note("When it was excluded; null when it is not", "UTC"),
    "good_nights": Note("Nights in a row with a good score, of an EXCLUDED one", "nights"),
    "absent_nights": Note("Nights in a row on which the venue did not list it", "nights"),
    "judged_on": Note("Night of the last run that judged it, by its pull time: a second run of a night counts none"),
    "away_since": Note("Vendors that did not answer in the last run, each with the first night of it in a row"),
    "updated_at": _ROW["updated_at"],
}  # fmt: skip

_SIGNAL = {
    "signalId": Note("Hash of influencer, market, source event and action: the same however often it is sent"),
    "influencerId": Note("The account's internal id, not its address", "", {"minLength": 1}),
    "exchange": Note("Always `hyperliquid`", "", {"enum": ["hyperliquid"]}),
    "market": Note("A perp is `ETH-PERP` or `xyz:CL-PERP`; a token as the venue writes it: `PURR/USDC`, `@107`, `#20`"),
    "action": Note("OPEN from flat, INCREASE, DECREASE, CLOSE to flat, FLIP through zero to the other side"),
    "side": Note("Where the position stands after the event; FLAT exactly after CLOSE"),
    "size": Note("What is held after the event, without a sign", BASE, _NOT_NEGATIVE),
    "deltaSize": Note("Signed change from the position before: a buy is positive; in a FLIP it spans both sides", BASE),
    "price": _price("Price of this execution, not an average"),
    "timestamp": Note("When the venue executed it", "UTC"),
    "sourceEventId": Note("The fill: `time:coin:tid`, with `x` and a hash for a fill to which the venue gave no tid"),
    "metadata": Note(
        "`coin` (the venue's name), `tid`, `hash`, `oid`, `dir` (the venue's label), `closedPnl`, `leverage` and "
        "`marginMode` as last known or null, `liquidation` (an object only where this very account was liquidated, "
        "else null), `source` (`live`, or `repair` where the stream did not bring it), `lateBy_ms` (only with "
        "`repair`: from the execution to its arrival here), `stale` (true, only on signals older than the limit)"
    ),
    "created_at": Note("When it was stored, by the database's clock", "UTC"),
}  # fmt: skip

_MACRO = {
    "as_of": Note("By known column: the vendor's own time, the start of the day for a daily value", "UTC, RFC 3339"),
    "source": Note("By known column: who said it, with `:how` behind it where the value is derived"),
    "rev": _ROW["rev"],
    "updated_at": _ROW["updated_at"],
}
_FLOW = "net onto exchanges in one whole UTC day, the one that `as_of` begins; positive is inflow; null while unknown"

_MACRO_SLOT = {
    **_MACRO,
    "time": Note("Opening of the quarter of an hour in which this was known", "UTC"),
    "btc_ex_netflow": Note(f"BTC {_FLOW}", "BTC"),
    "btc_ex_reserve_pct": Note("Share of all BTC that exchanges hold; null while unknown", "percent"),
    "eth_ex_netflow": Note(f"ETH {_FLOW}", "ETH"),
    "eth_gas_price": Note("Price of gas at which a transaction goes through soon; null while unknown", "gwei"),
    "sol_ex_netflow": Note(f"SOL {_FLOW}", "SOL"),
    "stbl_cex_netflow": Note(f"USDT and USDC together {_FLOW}", "USD"),
}

_MACRO_DAY = {
    **_MACRO,
    "day": Note("The UTC day that the values are about", "date"),
    "mvrv": Note("Bitcoin's market to realized value; null while unknown", "ratio"),
    "asopr_7d": Note("Mean of the adjusted SOPR of this day and the six before it; null if one is unknown", "ratio"),
    "nupl": Note("Net unrealized profit and loss, 1 - 1 / MVRV where `source` says so; null while unknown", "ratio"),
}

CONTRACTS: tuple[Contract, ...] = (
    Contract(
        "price_updates.{symbol}.1m", BarMessage, "Bar", "One minute of one symbol, and every revision of it",
        _BAR, "price_updates.<SYM>.1m@<time>#<rev>", "ohlcv_ingestor", "raw_bars", headers=("symbol_status",),
    ),
    Contract(
        "price_updates.{symbol}.1s", FootprintMessage, "Footprint",
        "One second of one symbol that had a trade, and every revision of it; n = 0 says that the row was deleted",
        _FOOTPRINT, "price_updates.<SYM>.1s@<time>#<rev>", "ohlcv_ingestor", "footprint_1s", headers=("symbol_status",),
    ),
    Contract(
        "price_updates.{symbol}.beat", BeatMessage, "Beat",
        "A second without a footprint passed: keeps downstream clocks moving. Transient, never stored, never replayed",
        _BEAT, "price_updates.<SYM>.beat@<time>", "ohlcv_ingestor", persistent=False,
    ),
    Contract(
        "metric_updates.{symbol}.15s", MetricMessage, "Metrics",
        "Funding, open interest and signed volume of 15 seconds of one symbol, and every revision of them",
        _METRIC, "metric_updates.<SYM>.15s@<time>#<rev>", "metric_ingestor", "metric_15s", headers=("symbol_status",),
    ),
    Contract(
        "symbol_events.updated", SymbolEvent, "Symbol event",
        "A row of the registry changed: read it again, the table decides",
        _COIN, "symbol_events.updated:<SYMBOL>@<run time>", "registry", "coin_registry",
        columns={"cluster": "liquidity_cluster", "health": "data_health"},
    ),
    Contract(
        "influencer_signals.{influencer}.{market}", SignalMessage, "Signal",
        "A watched account's position changed by one fill. Sent at least once, never changed: keep one per `signalId`",
        _SIGNAL, "<signalId>", "influencer_ingestor", "influencer_signals",
        columns={
            "signalId": "signal_id", "influencerId": "influencer_id", "deltaSize": "delta_size", "timestamp": "time",
            "sourceEventId": "source_event_id",
        },
        headers=("correlation_id", "traceparent"),
    ),
    Contract(
        "onchain.macro.15m", MacroSlotMessage, "Macro snapshot",
        "What was known of the chains in a quarter of an hour, and every revision of it",
        _MACRO_SLOT, "onchain.macro.15m@<time>#<rev>", "macro_ingestor", "macro_onchain_15m",
    ),
    Contract(
        "onchain.macro.1d", MacroDayMessage, "Macro day", "Bitcoin's regime on one day, and every revision of it",
        _MACRO_DAY, "onchain.macro.1d@<day>#<rev>", "macro_ingestor", "macro_btc_daily",
    ),
)  # fmt: skip
"""Every message on the bus, one entry each."""

TABLES: dict[str, dict[str, Note]] = {
    "coin_registry_history": {
        "run_at": Note("When the run began; its events carry it in their `message_id`", "UTC"),
        "symbol": _COIN["symbol"],
        "status": _COIN["status"],
        "data_health": _COIN["health"],
        "liquidity_cluster": _COIN["cluster"],
        "reason": _COIN["reason"],
        "breakdown": Note("All facts, every component of the score with its inputs, gates and notes"),
    },
    "book_samples": {
        "time": Note("When it was asked for, by our clock", "UTC"),
        "symbol": _ROW["symbol"],
        "bid": _price("Best bid"),
        "ask": _price("Best ask"),
        "spread_pct": Note("(ask - bid) / middle", "percent", _NOT_NEGATIVE),
    },
    "funding_settled": {
        "time": Note("When it was paid: the venue's time, to the second", "UTC"),
        "symbol": _ROW["symbol"],
        "rate": Note("The rate that was paid, for one interval of the contract", "rate per interval"),
        "regular": Note("False for a payment beside the schedule"),
        "source": Note("`binance`"),
        "updated_at": _ROW["updated_at"],
    },
    "metric_cvd_day": {
        "time": Note("End of the window", "UTC"),
        "symbol": _ROW["symbol"],
        "day": Note("UTC day of the window; one that ends at midnight belongs to the day before"),
        "cvd_delta": Note("As in `metric_15s`", BASE),
        "cvd": Note("Sum of `cvd_delta` since the day's beginning, over the windows that have one", BASE),
        "unknown": Note("Windows of the day so far without a value or a row: the sum lacks them", "windows"),
    },
    "footprint_deleted": {
        "symbol": _ROW["symbol"],
        "time": Note("The second that has no row any more", "UTC"),
        "rev": Note("The revision of the message that said so"),
    },
    "feed_gaps": {
        "service": Note(
            "Who follows the feed: `ohlcv`, or `influencer`, whose ids are times in milliseconds; `verify` where"
            " `verify live --repair` wrote a span anew, its id is when"
        ),
        "venue": Note("Whose ids these are"),
        "symbol": Note("Trading pair, e.g. `SOLUSDT`; of `influencer` the account and the market: `0x..:ETH-PERP`"),
        "from_id": Note("First missing aggTrade id; never changes"),
        "to_id": Note("Last missing id; null while the next trade is unknown"),
        "from_time": Note("Time of the trade, or of the proven silence, before the hole", "UTC"),
        "to_time": Note("Time of the trade after the hole; null while unknown", "UTC"),
        "missing": Note("The ids not restored yet, as ranges"),
        "status": Note("`open`, `repaired`, `source_missing` or `not_subscribed`, see below"),
        "reason": Note("How it came about, for a person"),
        "tries": Note("Answers of the venue that did not fill it"),
        "restored_n": Note("The venue's single trades put back so far", "trades"),
        "opened_at": Note("When the row was first written, by the database's clock", "UTC"),
        "updated_at": _ROW["updated_at"],
    },
    "ingest_cursors": {
        "service": Note("Who follows the feed: `ohlcv` or `influencer`"),
        "venue": Note("Whose feed it is"),
        "symbol": Note("Trading pair, e.g. `SOLUSDT`; of `influencer` the account"),
        "last_id": Note("Highest aggTrade id that no unclosed second can still hold; of `influencer` the time in ms"),
        "event_time": Note("End of the last second closed and stored; all before it is in the tables", "UTC"),
    },
    "macro_readings": {
        "column_name": Note("What it is a value of; `asopr` is that of one day"),
        "provider": Note("Who told it"),
        "as_of": Note("The vendor's own time", "UTC"),
        "value": Note("As told, or derived as `source` says, in the column's unit"),
        "source": Note("The provider, with `:how` behind it where the value is derived"),
        "rev": Note("1 for the first value, + 1 whenever the vendor revised it"),
        "updated_at": _ROW["updated_at"],
    },
    "macro_asks": {
        "provider": Note("Who was asked"),
        "column_name": Note("For what"),
        "asked_at": Note("When the last call for it was begun", "UTC"),
        "outcome": Note("`answered`, `failing` (its circuit says when to ask again) or `refused` (again after 6 h)"),
        "error": Note("What went wrong, for a person"),
    },
    "macro_circuits": {
        "provider": Note("Who is left alone"),
        "failures": Note("Failures in a row"),
        "open_until": Note("No call before", "UTC"),
        "error": Note("The last failure, for a person"),
    },
    "macro_quota": {
        "provider": Note("Who was called"),
        "hour": Note("Start of the hour in which the calls were begun", "UTC"),
        "calls": Note("How many, written before each of them; hours older than any quota are deleted"),
    },
    "influencers": {
        "address": Note("The account at Hyperliquid, in lower case: the master or sub-account, not its agent"),
        "influencer_id": Note("Our name of it: the `influencerId` of its signals; belongs to one account"),
        "label": Note("For people"),
        "priority": Note("Larger is more important: heard before others, polled more often, shed last"),
        "markets": Note("Only these give signals; null for all. Raw events are stored of all"),
        "backoff_first_s": Note("First wait before connecting again; null for the setting", "seconds"),
        "backoff_max_s": Note("Longest wait before connecting again; null for the setting", "seconds"),
        "enabled": Note("False: not watched"),
        "added_at": Note("Where its signals begin: now when it is added or enabled again", "UTC"),
        "updated_at": _ROW["updated_at"],
    },
    "influencer_positions": {
        "address": Note("The account"),
        "coin": Note("The venue's name"),
        "size": Note("Held after the newest stored fill, or as the venue stated it; negative is short", BASE),
        "time": Note("Of that fill, or of the statement", "UTC"),
        "event_id": Note("The fill; empty for a statement"),
        "leverage": Note("As last stated; null while unknown"),
        "margin_mode": Note("`cross` or `isolated`, as last stated; null while unknown"),
        "updated_at": _ROW["updated_at"],
    },
    "influencer_raw_events": {
        "time": Note("The venue's time of the event", "UTC"),
        "influencer_address": Note("The account"),
        "event_type": Note("`FILL`, `ORDER_UPDATE`, `POSITION_SNAPSHOT` (asked for) or `POSITION_UPDATE` (pushed)"),
        "id": Note("Of a fill its `sourceEventId`; of an order time, oid and status; of positions dex and time"),
        "market": Note("As in signals; null where the event is of no single market"),
        "raw_payload": Note("The venue's own JSON, byte for byte"),
        "source": Note("`live`: streamed; `repair`: a snapshot, or asked for"),
        "listener": Note("0 or 1: who brought it first; null for the info endpoint"),
        "received_at": Note("When it reached us, by our clock", "UTC"),
        "ingested_at": Note("When it was stored, by the database's clock", "UTC"),
    },
    "bus_outbox": {
        "owner": Note("The instance whose messages these are, e.g. `ohlcv/0/1`"),
        "lane": Note("0 live, 1 repair: live goes first"),
        "id": Note("Order of commit within owner and lane"),
        "created_at": Note("When the rows were committed: the messages' `timestamp`", "UTC"),
        "keys": Note("Routing keys; the four arrays run in parallel, one element per message"),
        "ids": Note("Message ids"),
        "headers": Note("Application headers as JSON text, empty for none"),
        "payloads": Note("Bodies, as they are sent"),
    },
}  # fmt: skip
"""Tables that no message announces."""


def column_notes() -> dict[str, dict[str, Note]]:
    """Every documented table with the notes of its columns."""
    announced = {
        contract.table: {contract.columns.get(name, name): note for name, note in contract.notes.items()}
        for contract in CONTRACTS
        if contract.table
    }
    return {**announced, **TABLES}
