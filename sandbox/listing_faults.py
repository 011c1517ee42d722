"""What scripts may do to the listing and to single REST endpoints, beside the faults of sandbox/faults.py.

The same call, `POST /_fault {"kind": ...}`, and the same --script. `symbol` is a Binance spot pair, listed or not.

| kind | arguments | what happens |
|---|---|---|
| list | symbol, facts | the pair's facts are now these (exactly: no daily wobble); an unknown pair is listed |
| delist | symbol, where | gone from `where`: binance (default: exchangeInfo, tickers), futures, okx, coingecko, all |
| relist | symbol | the pair as it was made up; without a symbol: all pairs |
| lose_funding | symbol, last or times | Binance does not show the last n settlements, or those of these epoch ms |
| night | days or by_ms | what REST tells as now moves ahead by so much (not streams and trades); to_ms: in all |
| rest_latency | by_ms | every REST answer of every vendor comes so much later |
| rest_answer | venue, path, symbol, answer, ... | single endpoints are ill, see below |

Facts: listed, status, spot (isSpotTradingAllowed), permissions, price, tick, spread_pct, volume (quote coin, 24 h),
move_pct (24 h), age_days or listed by day, perp (true, false or its symbol), perp_status, perp_age_days,
open_interest (units of the contract), funding_hours (8, 4, 1), funding_missing (epoch ms), special_funding, okx,
okx_state, okx_tick, okx_swap, coin (CoinGecko's id, true or false), coin_name, mcap (or null), categories.

rest_answer: `venue` is binance, futures, okx or coingecko; `path` a whole path or its ending ("openInterest"), all when
left out; `symbol` the pair (OKX: instId) of the request; `for_s`, or `next` so many answers, or until clear; `every` n:
each n-th answer only. `answer` is one of

| answer | arguments | what happens |
|---|---|---|
| status | status, retry_after_s | an HTTP status: 429, 418, 403, 5xx |
| error | code, msg | the vendor's error body (OKX: inside HTTP 200) |
| slow | by_s | the answer comes late |
| cut | | the connection is aborted |
| html, garbage, empty | | a page; half a body; a body without rows |
| old | by_ms | the values and times of so long ago: with `every` 2, reordered caches |
| set | fields | rows hold these values instead: {"openInterest": null}, {"lastFundingRate": ""} |
| shift | field, by_ms | a row's time is moved: into the future (> 0) or past |
| without | | the rows of `symbol` are not in the answer |
"""

from __future__ import annotations

from typing import Any

from sandbox.clock import VenueClock
from sandbox.facts import DAY_MS
from sandbox.listing import Listing
from sandbox.perps import Perps

Args = dict[str, Any]
PLACES: dict[str, Args] = {
    "binance": {"listed": False},
    "futures": {"perp": False},
    "okx": {"okx": False, "okx_swap": False},
    "coingecko": {"coin": False},
}
_HEAD = ("kind", "venue", "symbol", "at_s", "where")


class Editor:
    """Carries out what scripts say of the listing; `perps` are Binance's, `clock` is that of its trades."""

    def __init__(self, listing: Listing, perps: Perps, clock: VenueClock) -> None:
        self._listing = listing
        self._perps = perps
        self._clock = clock

    def edit(self, kind: str, args: Args) -> bool:
        """Make one change; False when `kind` is not about the listing. Raises ValueError, KeyError or TypeError."""
        work = {
            "list": self._list, "delist": self._delist, "relist": self._relist, "lose_funding": self._lose_funding,
            "night": self._night,
        }.get(kind)  # fmt: skip
        if work is None:
            return False
        work(args)
        return True

    def _now_ms(self) -> int:
        return self._listing.told_ms(self._clock)

    def _list(self, args: Args) -> None:
        changes = {name: value for name, value in args.items() if name not in _HEAD}
        self._listing.change(str(args["symbol"]), changes, self._now_ms())

    def _delist(self, args: Args) -> None:
        where = str(args.get("where", "binance"))
        if where != "all" and where not in PLACES:
            raise ValueError(f"unknown place {where!r}, known: {', '.join(PLACES)}, all")
        if self._listing.get(str(args["symbol"])) is None:
            raise ValueError(f"unknown symbol {args['symbol']!r}")
        for place, changes in PLACES.items():
            if where in (place, "all"):
                self._listing.change(str(args["symbol"]), changes, self._now_ms())

    def _relist(self, args: Args) -> None:
        self._listing.restore(str(args["symbol"]) if "symbol" in args else None)

    def _lose_funding(self, args: Args) -> None:
        facts = self._listing.get(str(args["symbol"]))
        if facts is None or facts.perp is None:
            raise ValueError(f"{args['symbol']!r} has no perpetual")
        if "times" in args:
            lost = [int(ms) // 60_000 * 60_000 for ms in args["times"]]
        else:
            now_ms, last = self._now_ms(), int(args["last"])
            reach_ms = (last + 1) * facts.funding_hours * 3_600_000
            lost = list(self._perps.settlement_hours(facts, now_ms - reach_ms, now_ms))[-last:] if last else []
        self._listing.change(facts.symbol, {"funding_missing": [*facts.funding_missing, *lost]}, self._now_ms())

    def _night(self, args: Args) -> None:
        if "to_ms" in args:
            self._listing.night_ms = int(args["to_ms"])
        else:
            self._listing.night_ms += int(args["by_ms"]) if "by_ms" in args else int(args.get("days", 1)) * DAY_MS
