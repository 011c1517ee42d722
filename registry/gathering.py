"""From vendors and tables to facts: who is looked at tonight, what is asked about each, and what came back."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence

from common.errors import Refused
from common.listings import WANTED_STATUSES
from common.outbox import Query
from common.venues.binance_futures import DEFAULT_FUNDING_HOURS, Contract
from registry.facts import Facts, Kind, Offer, RegistryRow
from registry.gathered import (
    Close,
    Own,
    Told,
    choose_perps,
    judge_kinds,
    list_offers,
    make_facts,
    recall_kinds,
    value_volumes,
)
from registry.night import Rules
from registry.sources import Ask, Sources
from registry.tables import kinds_told, read_kinds, read_own
from registry.universe import Seat, choose_universe

log = logging.getLogger(__name__)

CLOCK_OFF_MAX_S = 60.0
"""Days of probation and ages are counted by this machine's clock: further from the venue's it is worth a warning."""
CLOCK_WRONG_S = 3600.0
"""With such a clock a week of probation would be over at once, for everybody."""

Rows = Mapping[str, RegistryRow]


async def gather_facts(
    sources: Sources, query: Query, rows: Rows, rules: Rules, now: dt.datetime
) -> tuple[list[Facts], list[Offer]]:
    """Facts of every seat of tonight's universe, and all that the venue offers.

    Raises TryLater, Refused or BadInput when exchangeInfo can not be had, Refused when our clock is wrong.
    """
    limits = rules.thresholds.universe
    told = await sources.pull_all()
    _check_clock(told, now)
    offers = list_offers(told.listing.pairs)
    kinds = judge_kinds(offers, told.caps, limits)
    volumes = value_volumes(told.listing.pairs, told.tickers or {}, limits)
    admits = True
    if told.caps is None or not told.caps.kinds_whole:
        before, admits = await _recall(query, now)
        kinds = recall_kinds(kinds, before)
    seats = choose_universe(offers, volumes, kinds, rows, rules.lists.whitelisted, limits, admits=admits)
    perps = choose_perps(told.contracts or (), limits.quotes)
    close = await sources.pull_each(list_asks(seats, rows, perps, told), int(now.timestamp() * 1000))
    pairs = {seat.symbol: pair_of(seat, rows.get(seat.symbol)) for seat in seats}
    followed = {row.pair: row.perp is not None for row in rows.values() if row.pair and row.status in WANTED_STATUSES}
    own = await read_own(query, {pair for pair in pairs.values() if pair}, followed, now)
    facts = [
        make_facts(
            seat, told, perps.get(seat.symbol), close.get(seat.symbol, Close()), own.get(pairs[seat.symbol], Own()),
            rows.get(seat.symbol), kinds.get(seat.symbol, Kind.PLAIN), limits, now,
        )
        for seat in seats
    ]  # fmt: skip
    return facts, offers


async def _recall(query: Query, now: dt.datetime) -> tuple[dict[str, Kind], bool]:
    """Kinds of the symbols judged before, and whether newcomers may come in: not while the categories only pause.

    Where one of them is never told, it is no reason to wait: the lists of the thresholds, and the categories that are
    told, are all there is.
    """
    return await read_kinds(query), not await kinds_told(query, now)


def list_asks(seats: Sequence[Seat], rows: Rows, perps: Mapping[str, Contract], told: Told) -> list[Ask]:
    """What to ask symbol by symbol: nothing of one that is absent tonight, the listing day only until it is known."""
    hours = told.funding_hours or {}
    asks: list[Ask] = []
    for seat in seats:
        if seat.offer is None:
            continue
        row, perp = rows.get(seat.symbol), perps.get(seat.symbol)
        every_h = hours.get(perp.symbol, DEFAULT_FUNDING_HOURS) if perp else DEFAULT_FUNDING_HOURS
        asks.append(Ask(seat.symbol, seat.offer.pair, row is None or row.listed_on is None, perp, every_h))
    return asks


def pair_of(seat: Seat, row: RegistryRow | None) -> str:
    """The pair a seat is judged by; "" for one that never had any."""
    if seat.offer is not None:
        return seat.offer.pair
    return (row.pair if row else None) or ""


def _check_clock(told: Told, now: dt.datetime) -> None:
    off_s = told.listing.server_ms / 1000 - now.timestamp()
    if abs(off_s) > CLOCK_WRONG_S:
        hours = f"{abs(off_s) / 3600:.1f} hours {'behind' if off_s > 0 else 'ahead of'}"
        raise Refused(f"this machine's clock is {hours} the venue's: nothing is judged; set it right (NTP)")
    if abs(off_s) > CLOCK_OFF_MAX_S:
        log.warning("clock differs from the venue's", extra={"venue_ahead_s": round(off_s)})
