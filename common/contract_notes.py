"""What every field of every message and column means: the one source of the JSON Schemas and of docs/SEMANTICS.md.

A new message is a `Contract` in `CONTRACTS`, a new table an entry in `TABLES`; its fields are named here, once. Pure.
"""

from __future__ import annotations

import msgspec

from common.contracts import BarMessage, BeatMessage, FootprintMessage, SignalMessage, SymbolEvent
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
    "vol_24h": Note("Volume of the last 24 hours", QUOTE),
    "spread_pct": Note("Median spread of the last 24 hours", "percent"),
    "okx_inst_id": Note("The fallback venue's name of the pair, e.g. `SOL-USDT`"),
    "tick_size": Note("Smallest step of a price", PRICE),
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
}  # fmt: skip

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
        "symbol_events.updated", SymbolEvent, "Symbol event",
        "A row of the registry changed: read it again, the table decides",
        _COIN, "symbol_events.updated:<SYMBOL>@<run time>", "registry", "coin_registry",
        columns={"cluster": "liquidity_cluster", "health": "data_health"},
    ),
    Contract(
        "influencer_signals.{influencer}.{market}", SignalMessage, "Signal",
        "A watched account's position changed by one fill. Sent at least once, never changed: keep one per `signalId`",
        _SIGNAL, "<signalId>", "influencer_ingestor",
    ),
)  # fmt: skip
"""Every message on the bus, one entry each."""

TABLES: dict[str, dict[str, Note]] = {
    "feed_gaps": {
        "service": Note("Who follows the feed: `ohlcv`"),
        "venue": Note("Whose ids these are"),
        "symbol": _ROW["symbol"],
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
        "service": Note("Who follows the feed: `ohlcv`"),
        "venue": Note("Whose feed it is"),
        "symbol": _ROW["symbol"],
        "last_id": Note("Highest aggTrade id that no unclosed second can still hold"),
        "event_time": Note("End of the last second closed and stored; all before it is in the tables", "UTC"),
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
