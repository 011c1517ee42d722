"""Hold what a demo stored against the venue's own recount."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import asyncpg
import msgspec

from common.contracts import GapStatus, format_time, price_key
from common.numbers import trim_decimal
from common.postgres import Connection, named_errors
from ops.compare import Difference, Fields, compare_tables, list_lines
from ops.demo_picture import PRIMARY, Picture

BAR_FIELDS = ("o", "h", "l", "c", "v", "n", "quote_vol", "buy_vol", "buy_quote_vol")
SECOND_FIELDS = (
    "open", "high", "low", "close", "buy_vol", "sell_vol", "buy_quote", "sell_quote", "n", "first_id", "last_id"
)  # fmt: skip
_WHOLE_NUMBERS = frozenset(("n", "first_id", "last_id"))


class Stored(msgspec.Struct, frozen=True):
    """What is stored of one symbol: columns and (rev, complete) by time, and the cursor."""

    bars: dict[int, Fields]
    seconds: dict[int, Fields]
    bar_marks: dict[int, tuple[int, bool]]
    second_marks: dict[int, tuple[int, bool]]
    id_spans: list[tuple[int, int]]
    """First and last id of each second that has them."""
    cursor_s: int
    cursor_id: int


class Recounted(msgspec.Struct, frozen=True):
    """What the venue says of one symbol: rows by time, and the id ranges it streamed."""

    bars: dict[int, Fields]
    seconds: dict[int, Fields]
    streamed: list[tuple[int, int]]


class Verdict(msgspec.Struct):
    """Sums over all symbols."""

    streamed: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    backfilled: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    seconds: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    """Each pair: equal, all."""
    trades_sent: int = 0
    trades_stored: int = 0
    trades_pending: int = 0
    rows: int = 0
    unannounced: int = 0
    fallback_bars: int = 0
    fallback_seconds: int = 0
    """Rows of another venue than the primary that still stand."""
    differences: list[Difference] = msgspec.field(default_factory=lambda: list[Difference]())

    def add(self, symbol: str, ours: Stored, theirs: Recounted, start_s: int, may_lack: bool) -> None:
        """Judge one symbol; minutes that ended before `start_s` were backfilled.

        With `may_lack` rows need not be complete, because a gap in the ledger was not repaired.
        """
        equal, differences = compare_tables(symbol, ours.bars, theirs.bars)
        wrong = {it.time for it in differences}
        for minute in ours.bars.keys() | theirs.bars.keys():
            pair = self.backfilled if minute + 60 <= start_s else self.streamed
            pair[0] += minute not in wrong
            pair[1] += 1
        assert equal == len((ours.bars.keys() | theirs.bars.keys()) - wrong)
        equal, more = compare_tables(symbol, ours.seconds, _without_lost_ids(ours.seconds, theirs.seconds))
        self.seconds[0] += equal
        self.seconds[1] += len(ours.seconds.keys() | theirs.seconds.keys())
        self.differences += differences + more
        if not may_lack:
            for marks in (ours.bar_marks, ours.second_marks):
                lacking = (time for time, (_, complete) in sorted(marks.items()) if not complete)
                self.differences += [Difference(symbol, time, "complete", "false", "true") for time in lacking]
        self._add_trades(ours, theirs)

    def count_unannounced(self, symbol: str, ours: Stored, heard: set[str]) -> None:
        """Count rows whose message with their rev was never heard."""
        for kind, marks in (("1m", ours.bar_marks), ("1s", ours.second_marks)):
            key = price_key(symbol, kind)
            self.rows += len(marks)
            self.unannounced += sum(f"{key}@{format_time(time)}#{rev}" not in heard for time, (rev, _) in marks.items())

    def _add_trades(self, ours: Stored, theirs: Recounted) -> None:
        for first, last in theirs.streamed:
            self.trades_sent += last - first + 1
            self.trades_pending += max(0, last - max(first, ours.cursor_id + 1) + 1)
            closed = min(last, ours.cursor_id)
            self.trades_stored += sum(max(0, min(closed, b) - max(first, a) + 1) for a, b in ours.id_spans)

    @property
    def trades_lost(self) -> int:
        """Streamed trades that are neither stored nor pending."""
        return self.trades_sent - self.trades_stored - self.trades_pending


def _without_lost_ids(ours: Mapping[int, Fields], theirs: Mapping[int, Fields]) -> dict[int, Fields]:
    """A second settled by a candle has no ids, so there are none to compare."""
    settled = {time for time, row in ours.items() if row["first_id"] is None}
    return {
        time: {k: v for k, v in row.items() if not (time in settled and k.endswith("_id"))}
        for time, row in theirs.items()
    }


async def read_stored(con: Connection, symbol: str) -> Stored:
    """Everything stored of a symbol up to its cursor; raises TryLater."""
    with named_errors():
        cursor = await con.fetchrow(
            "SELECT last_id, extract(epoch FROM event_time)::bigint AS s FROM ingest_cursors WHERE symbol = $1", symbol
        )
        bars = await con.fetch(_select("raw_bars", BAR_FIELDS), symbol)
        seconds = await con.fetch(_select("footprint_1s", SECOND_FIELDS), symbol)
    return Stored(
        _columns(bars, BAR_FIELDS),
        _columns(seconds, SECOND_FIELDS),
        _marks(bars),
        _marks(seconds),
        [(record["first_id"], record["last_id"]) for record in seconds if record["first_id"] is not None],
        cursor["s"] if cursor else 0,
        cursor["last_id"] if cursor else 0,
    )


async def count_fallback_rows(con: Connection) -> tuple[int, int]:
    """Bars and seconds that are not the primary's; raises TryLater."""
    with named_errors():
        bars = await con.fetchval("SELECT count(*) FROM raw_bars WHERE source <> $1", PRIMARY)
        seconds = await con.fetchval("SELECT count(*) FROM footprint_1s WHERE source <> $1", PRIMARY)
    return bars, seconds


async def ask_venue(
    ask: Callable[..., Any], symbol: str, ours: Stored, start_s: int, backfill_minutes: int, streamed: Sequence[Any]
) -> Recounted:
    """The recount of everything that ought to be stored: the backfill, and all closed since.

    `ask` takes a path and query parameters. Raises TryLater.
    """
    minute_s = start_s - start_s % 60
    from_s = min([minute_s - 60 * (backfill_minutes - 1), *ours.bars])
    to_s = max(ours.cursor_s, from_s)
    bars = await ask("/_oracle/bars", symbol=symbol, from_s=from_s, to_s=to_s - to_s % 60)
    seconds = await ask("/_oracle/footprints", symbol=symbol, from_s=min([minute_s, *ours.seconds]), to_s=to_s)
    return Recounted(
        {row["time"]: {name: row[name] for name in BAR_FIELDS} for row in bars},
        {row["time"]: {name: row[name] for name in SECOND_FIELDS} for row in seconds},
        [(first, last) for first, last in streamed],
    )


def summarize(picture: Picture, verdict: Verdict | None) -> list[str]:
    """Lines of the summary."""
    gaps = f"opened {picture.count_gaps()}, repaired {picture.count_gaps(GapStatus.REPAIRED)}"
    rest = picture.count_gaps(GapStatus.SOURCE_MISSING), picture.count_gaps(GapStatus.OPEN)
    gaps += "".join(f", {n} {what}" for n, what in zip(rest, ("given up", "still open"), strict=True) if n)
    kinds = ", ".join(f"{kind} {picture.kinds[kind]:,}" for kind in ("1m", "1s", "beat"))
    repeated = f"; {picture.repeated} repeated" if picture.tells_repeats else ""
    revised = sum(symbol.revised for symbol in picture.symbols.values())
    messages = f"{kinds}; bars revised {revised}{repeated}"
    failover = f"{picture.failovers} seen, {len(picture.fallback_bars)} bars told by the fallback"
    if verdict is None:
        return [f"gaps      {gaps}", f"messages  {messages}", f"failover  {failover}"]
    failover += f", {verdict.fallback_bars} bars and {verdict.fallback_seconds} seconds of it remain"
    accounted = verdict.trades_stored + verdict.trades_pending
    if verdict.rows:
        messages += f"; {verdict.rows - verdict.unannounced:,} of {verdict.rows:,} stored rows announced"
    (s, s_all), (b, b_all) = verdict.streamed, verdict.backfilled
    parts = f"{s_all} streamed, {b_all} backfilled"
    if s + b < s_all + b_all:
        parts = f"{s} of {s_all} streamed, {b} of {b_all} backfilled"
    return [
        f"trades    {verdict.trades_sent:,} sent by the venue, {accounted:,} accounted for "
        f"({verdict.trades_stored:,} stored, {verdict.trades_pending:,} in seconds still open)",
        f"gaps      {gaps}",
        f"messages  {messages}",
        f"failover  {failover}",
        f"seconds   {verdict.seconds[0]:,} of {verdict.seconds[1]:,} closed seconds equal the venue's",
        f"bars      {s + b:,} of {s_all + b_all:,} closed bars equal the venue's ({parts})",
    ]


def name_faults(picture: Picture, verdict: Verdict) -> Iterable[str]:
    """What keeps the demo from exit code 0, one line each."""
    yield from list_lines(verdict.differences)
    if verdict.trades_lost:
        yield f"{verdict.trades_lost} streamed trades are in no stored second"
    if verdict.unannounced:
        yield f"{verdict.unannounced} stored rows were never announced on the bus"
    if remaining := verdict.fallback_bars + verdict.fallback_seconds:
        yield f"{remaining} rows of the fallback venue were never replaced"
    if picture.unreadable:
        yield f"{picture.unreadable} messages could not be read"
    if not verdict.backfilled[1]:
        yield "nothing was stored at all"


def _select(table: str, fields: Sequence[str]) -> str:
    columns = ", ".join(name if name in _WHOLE_NUMBERS else f"{name}::text" for name in fields)
    return f"SELECT extract(epoch FROM time)::bigint AS time, {columns}, rev, complete FROM {table} WHERE symbol = $1"


def _columns(records: Iterable[asyncpg.Record], fields: Sequence[str]) -> dict[int, Fields]:
    return {
        record["time"]: {name: record[name] if name in _WHOLE_NUMBERS else _trimmed(record[name]) for name in fields}
        for record in records
    }


def _trimmed(number: str | None) -> str:
    # A fallback's candle that is still there tells no volume of takers: it differs, and is named so.
    return "null" if number is None else trim_decimal(number)


def _marks(records: Iterable[asyncpg.Record]) -> dict[int, tuple[int, bool]]:
    return {record["time"]: (record["rev"], record["complete"]) for record in records}
