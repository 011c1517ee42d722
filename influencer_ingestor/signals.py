"""From a fill to the signal people trade on. Pure: the same fill gives the same `signalId` whenever it is told.

A signal depends on its fill alone, so neither the order of arrival nor a gap before it can change it; only
`metadata.source`, `lateBy_ms` and `stale` tell how this copy came about.
"""

from __future__ import annotations

import json
from enum import StrEnum
from hashlib import blake2b

import msgspec

from common.contracts import SignalRow
from common.numbers import format_scaled
from influencer_ingestor.events import EXCHANGE, SCALE, Account, Arrived, Fill, Liquidation, Source
from influencer_ingestor.positions import Action, derive_change, is_signalled, market_of, own_liquidation

SIGNAL_MAX_AGE_S = 60
"""Default of `signal_max_age_s`: what reaches us later than this after its execution is marked stale."""


class Margin(msgspec.Struct, frozen=True):
    """How an account holds a coin, as last stated by the venue; None while unknown."""

    leverage: int | None = None
    mode: str | None = None


class Silence(StrEnum):
    """Why a fill gives no signal; it is stored raw all the same."""

    BEFORE_START = "before_start"
    """Executed before the account was added."""
    NOT_WATCHED = "not_watched"
    """A market that the account's configuration leaves out."""
    NO_CHANGE = "no_change"
    """A size of 0."""
    DUST = "dust"
    """The venue swept an amount that nobody can trade."""
    LONG_KNOWN = "long_known"
    """Far behind the cursor: stored and signalled long ago, and perhaps dropped since; not even stored again."""


def make_signal(
    arrived: Arrived, account: Account, margin: Margin | None = None, max_age_s: int = SIGNAL_MAX_AGE_S
) -> SignalRow | Silence:
    """Judge one fill of one account: its signal, or why there is none.

    `max_age_s` seconds after its execution an arriving fill's signal carries `stale`.
    """
    fill = arrived.fill
    change = derive_change(fill)
    if change is None:
        return Silence.NO_CHANGE
    if fill.time_ms < account.added_ms:
        return Silence.BEFORE_START
    if not is_signalled(fill):
        return Silence.DUST
    market = market_of(fill.coin)
    if account.markets is not None and market not in account.markets:
        return Silence.NOT_WATCHED
    return SignalRow(
        signal_id=signal_id(account.influencer_id, market, fill.event_id, change.action),
        influencer_id=account.influencer_id,
        exchange=EXCHANGE,
        market=market,
        action=change.action.value,
        side=change.side.value,
        size=format_scaled(abs(change.after), SCALE),
        delta_size=format_scaled(change.delta, SCALE),
        price=format_scaled(fill.px, SCALE),
        time_ms=fill.time_ms,
        source_event_id=fill.event_id,
        metadata=_metadata(arrived, margin or Margin(), max_age_s),
    )


def signal_id(influencer_id: str, market: str, source_event_id: str, action: Action) -> str:
    """Name a signal: 32 hexadecimal digits of blake2b over the four parts, written as a JSON array."""
    parts = json.dumps([influencer_id, market, source_event_id, action.value], separators=(",", ":"))
    return blake2b(parts.encode(), digest_size=16).hexdigest()


def _metadata(arrived: Arrived, margin: Margin, max_age_s: int) -> str:
    """The JSON object: numbers digit by digit, in one order of keys."""
    fill = arrived.fill
    late_ms = max(0, arrived.received_ms - fill.time_ms)
    text = (
        f'{{"coin":{json.dumps(fill.coin)},"tid":{json.dumps(fill.tid)},"hash":{json.dumps(fill.hash)},'
        f'"oid":{fill.oid},"dir":{json.dumps(fill.dir)},"closedPnl":{format_scaled(fill.closed_pnl, SCALE)},'
        f'"leverage":{json.dumps(margin.leverage)},"marginMode":{json.dumps(margin.mode)},'
        f'"liquidation":{_liquidation(fill, own_liquidation(fill))},"source":"{arrived.source.value}"'
    )
    if arrived.source is Source.REPAIR:
        text += f',"lateBy_ms":{late_ms}'
    if late_ms > max_age_s * 1000:
        text += ',"stale":true'
    return text + "}"


def _liquidation(fill: Fill, own: Liquidation | None) -> str:
    if own is None:
        return "null"
    mark_px = format_scaled(own.mark_px, SCALE)
    return f'{{"liquidatedUser":"{fill.user}","markPx":{mark_px},"method":{json.dumps(own.method)}}}'
