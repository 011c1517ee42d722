"""The nouns of the nightly registry run: what is known of a symbol, what it scores, and the row that is written. Pure.

A `None` is always "not known", never zero: what is not known is left out of every judgement. Whether it is not known
because a vendor did not answer tonight stands in `Facts.away`; only then may it be known again tomorrow, and until then
what the answer could have changed stays as it was: for some nights, after which the vendor counts as gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

import msgspec

GOOD_SCORE = 70
"""From this score a symbol is good: ACTIVE, or a good night of an EXCLUDED one (seed 004, section 1)."""

TRADING = "TRADING"
"""The only venue status that means live; the venue's list of them grows."""


class Status(StrEnum):
    """What the registry says of a symbol; all but EXCLUDED are ingested."""

    ACTIVE = "ACTIVE"
    PROBATION = "PROBATION"
    EXCLUDED = "EXCLUDED"
    ACTIVE_OVERRIDE = "ACTIVE_OVERRIDE"


class Kind(StrEnum):
    """What sort of asset a symbol is; only plain ones belong into the universe. Fiat money counts as stable."""

    PLAIN = "plain"
    STABLE = "stable"
    WRAPPED = "wrapped"
    LEVERAGED = "leveraged"


class Vendor(StrEnum):
    """Who tells a fact and may be away for a night; not Binance's exchangeInfo: without it there is no run."""

    TICKERS = "binance ticker/24hr"
    BOOK = "binance bookTicker"
    KLINES = "binance klines"
    FUTURES = "binance futures exchangeInfo"
    OPEN_INTEREST = "binance futures openInterest"
    FUNDING = "binance futures fundingRate"
    OKX = "okx instruments"
    CAPS = "coingecko markets"


class Offer(msgspec.Struct, frozen=True):
    """One spot pair as the venue lists it tonight; `status` is the venue's own word, an open set.

    `leveraged` is whether the venue itself marks it as a leveraged token (its permissions).
    """

    pair: str
    base: str
    quote: str
    status: str
    tick_size: Decimal | None = None
    leveraged: bool = False


class Facts(msgspec.Struct, frozen=True):
    """What is known tonight of one base asset.

    venue_status    the venue's word for `pair`, None when no configured pair of it is listed tonight (absent)
    listed_on       day of its first daily candle, cached for good in the row; age_days counts from it
    vol_24h         spot volume of `pair` in 24 h, USD;  vol_mean_30d  mean of the 30 days before, USD a day
    spread_pct      (ask - bid) / mid in percent, median of `spread_samples` in 24 h; 0 = tonight's snapshot alone
    move_24h_pct    change of price in 24 h, percent, signed
    perp            symbol of its perpetual at the futures venue; None = it has none, unless FUTURES is away
    okx_swap        OKX's perpetual of it, only shown
    open_interest_usd  of that perpetual;  funding_gaps  settlements missing in 30 days by its own interval
    depth_l10_usd   median depth of ten levels from an archive, USD
    bar_coverage    share 0..1 of the minutes we have complete, of those since we follow it, 24 h at most
    metric_null_share, metric_outlier_share  shares 0..1 of our metric rows of the last 24 h; of outliers only those
                    count that have what might be one
    market_cap      USD
    kinds_told      whether CoinGecko told all its categories tonight: what sort an asset is hangs on every one of them
    away            vendors that did not answer for this symbol tonight, sorted
    gone            those of them that have not answered for so many nights that they are waited for no longer
    """

    symbol: str
    pair: str | None = None
    quote: str | None = None
    venue_status: str | None = None
    okx_inst_id: str | None = None
    tick_size: Decimal | None = None
    listed_on: date | None = None
    age_days: int | None = None
    vol_24h: Decimal | None = None
    spread_pct: Decimal | None = None
    spread_samples: int = 0
    move_24h_pct: Decimal | None = None
    vol_mean_30d: Decimal | None = None
    perp: str | None = None
    okx_swap: str | None = None
    open_interest_usd: Decimal | None = None
    funding_gaps: int | None = None
    depth_l10_usd: Decimal | None = None
    bar_coverage: Decimal | None = None
    metric_null_share: Decimal | None = None
    metric_outlier_share: Decimal | None = None
    market_cap: Decimal | None = None
    kind: Kind = Kind.PLAIN
    kinds_told: bool = False
    away: tuple[Vendor, ...] = ()
    gone: tuple[Vendor, ...] = ()

    @property
    def awaited(self) -> tuple[Vendor, ...]:
        """Vendors that did not answer tonight, and may tomorrow."""
        return tuple(vendor for vendor in self.away if vendor not in self.gone)

    @property
    def perp_known(self) -> bool:
        """Is it known whether there is a perpetual? Not of an absent asset, unless one was named."""
        return self.perp is not None or (self.venue_status is not None and Vendor.FUTURES not in self.away)


class Input(msgspec.Struct, frozen=True):
    """One fact inside a component: how it is shown, and what it is worth.

    `part` is 0..1, None when not known or only shown; `share` is its weight inside the component, 0 = only shown;
    `away` says that a vendor would have told it, had it answered, and is still waited for.
    """

    name: str
    shown: str
    part: Decimal | None = None
    share: int = 0
    away: bool = False


class Component(msgspec.Struct, frozen=True):
    """One part of the score: `value` 0..1, None when nothing of it is known; `weight` in points of 100."""

    name: str
    weight: int
    value: Decimal | None
    inputs: tuple[Input, ...] = ()


class Score(msgspec.Struct, frozen=True):
    """A symbol's score of tonight.

    total           0..100 after the gates, None when no component is known
    raw             the same before the gates
    lowest, highest what the total could be at worst and at best, had the vendors that are waited for answered; equal
                    to `total` when none is
    gates           reasons that cap the total below GOOD_SCORE, the most telling first
    """

    total: int | None
    raw: int | None
    lowest: int | None
    highest: int | None
    components: tuple[Component, ...]
    gates: tuple[str, ...] = ()

    @property
    def doubtful(self) -> bool:
        """Is a vendor waited for that tells something the score is made of?"""
        return any(i.away for c in self.components for i in c.inputs)


class RegistryRow(msgspec.Struct, frozen=True):
    """One row of `coin_registry`, column by column (`updated_at` aside, which the store sets when a row changes).

    Read before a run it is what was decided last; returned by the run it is what to write. Columns that the first
    migration does not have: perp text, listed_on date, probation_since timestamptz, excluded_since timestamptz,
    good_nights int, absent_nights int, judged_on date (the night of the last run that judged it, dated by its pull
    time; a second run of a night counts none), away_since jsonb
    (vendors that did not answer in that run, each with the first night of it in a row).
    """

    symbol: str
    status: Status
    data_health: int | None = None
    liquidity_cluster: str | None = None
    age_days: int | None = None
    vol_24h: Decimal | None = None
    spread_pct: Decimal | None = None
    pair: str | None = None
    okx_inst_id: str | None = None
    tick_size: Decimal | None = None
    reason: str | None = None
    perp: str | None = None
    listed_on: date | None = None
    probation_since: datetime | None = None
    excluded_since: datetime | None = None
    good_nights: int = 0
    absent_nights: int = 0
    judged_on: date | None = None
    away_since: Mapping[Vendor, date] = {}


class Decision(msgspec.Struct, frozen=True):
    """What the status rules say: status, its reason in words, and the counters that they keep."""

    status: Status
    reason: str
    probation_since: datetime | None = None
    excluded_since: datetime | None = None
    good_nights: int = 0
    absent_nights: int = 0
    held: bool = False


class Placement(msgspec.Struct, frozen=True):
    """Liquidity cluster H, M or L (None: nothing known to place it by), and a note on what was missing."""

    cluster: str | None
    note: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """All that a run found of one symbol: the row to write and why; as JSON it is the breakdown kept in the history.

    `was` is the status before, None for a newcomer; `changed` are the columns an event tells of (empty: no event).
    """

    row: RegistryRow
    facts: Facts
    score: Score
    notes: tuple[str, ...] = ()
    was: Status | None = None
    changed: tuple[str, ...] = ()


class Night(msgspec.Struct, frozen=True):
    """A whole run, decided: verdicts sorted by symbol, rows that only lose their count of good nights, and warnings.

    `judged_existing` counts the rows that were there before and were judged, `status_changes` those of them whose
    status changed; `stop` is why the run must not be written without `--force` ("" = it may).
    """

    run_at: datetime
    verdicts: tuple[Verdict, ...]
    idle: tuple[RegistryRow, ...] = ()
    warnings: tuple[str, ...] = ()
    judged_existing: int = 0
    status_changes: int = 0
    stop: str = ""


class PastVerdict(msgspec.Struct, frozen=True):
    """One line of a symbol's history."""

    run_at: datetime
    status: str
    data_health: int | None
    liquidity_cluster: str | None
    reason: str | None
