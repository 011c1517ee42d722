"""The registry's readers and what is made of their answers: CoinGecko, listings, funding, facts, when a run is due."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts import SymbolEvent, symbol_event_message
from common.errors import BadInput
from common.venues import binance_futures, binance_spot_listing
from common.venues.binance_futures import Contract, OpenInterest
from common.venues.binance_spot_listing import BookTop, DayTicker, SpotListing, SpotPair
from common.venues.market import Instrument
from registry.coingecko import Coin, coins_by_symbol, key_headers, markets_request, members, parse_markets
from registry.defaults import load_rules
from registry.facts import Kind, Offer, RegistryRow, Status, Vendor
from registry.funding import HOUR_MS, count_funding_gaps
from registry.gathered import (
    NOT_SPOT,
    Caps,
    Close,
    Own,
    Told,
    choose_perps,
    judge_kinds,
    list_offers,
    make_facts,
    multiple_of,
    recall_kinds,
    spread_of,
    usd_of,
    value_volumes,
)
from registry.samples import choose_samples
from registry.schedule import is_due, last_pull
from registry.settings import read_pull_time
from registry.universe import Seat

NOW = dt.datetime(2026, 9, 21, 2, 0, tzinfo=dt.UTC)
LIMITS = load_rules().thresholds.universe


# ---- CoinGecko


def test_a_page_of_coins_keeps_every_digit() -> None:
    raw = b"""[{"id":"bitcoin","symbol":"btc","market_cap":1815000000000},
      {"id":"tiny","symbol":"tny","market_cap":1.25E+3,"extra":{}},
      {"id":"dead","symbol":"dead","market_cap":0},{"id":"new","symbol":"new","market_cap":null}]"""
    assert parse_markets(raw) == [
        Coin("bitcoin", "BTC", Decimal(1815000000000)), Coin("tiny", "TNY", Decimal("1250")),
        Coin("dead", "DEAD", None), Coin("new", "NEW", None),
    ]  # fmt: skip


@pytest.mark.parametrize("raw", [b"", b"{}", b"<html>", b'{"status":{"error_code":429}}', b'[{"id":1}]', b"\xff"])
def test_what_is_no_page_is_bad_input(raw: bytes) -> None:
    with pytest.raises(BadInput):
        parse_markets(raw)


def test_a_ticker_stands_for_its_biggest_coin_and_a_wrapped_namesake_changes_nothing() -> None:
    sol, peg = Coin("solana", "SOL", Decimal(9)), Coin("binance-peg-sol", "SOL", Decimal(3))
    wbtc, none = Coin("wrapped-bitcoin", "WBTC", Decimal(5)), Coin("solana-inu", "SOL", None)
    for order in ([sol, peg, none, wbtc], [wbtc, none, peg, sol]):
        found = coins_by_symbol(order)
        assert found == {"SOL": sol, "WBTC": wbtc}
        assert members(found, {"binance-peg-sol", "wrapped-bitcoin"}) == {"WBTC"}


def test_the_key_goes_into_the_header_of_its_plan() -> None:
    assert key_headers("api.coingecko.com", None) == {}
    assert key_headers("api.coingecko.com", "k") == {"x-cg-demo-api-key": "k"}
    assert key_headers("pro-api.coingecko.com", "k") == {"x-cg-pro-api-key": "k"}
    assert dict(markets_request(2, "stablecoins").params) == {
        "vs_currency": "usd", "category": "stablecoins", "order": "market_cap_desc", "per_page": "250", "page": "2",
    }  # fmt: skip


# ---- listings


def test_a_listing_old_and_new() -> None:
    raw = """{"serverTime":1790000000000,"symbols":[
      {"symbol":"BTCUSDT","status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT","isSpotTradingAllowed":true,
       "filters":[{"filterType":"LOT_SIZE","stepSize":"1"},{"filterType":"PRICE_FILTER","tickSize":"0.01000000"}],
       "permissions":[],"permissionSets":[["SPOT","MARGIN"]]},
      {"symbol":"BTCUPUSDT","status":"TRADING","baseAsset":"BTCUP","quoteAsset":"USDT","isSpotTradingAllowed":false,
       "filters":[],"permissions":["LEVERAGED"]},
      {"symbol":"币安人生USDT","status":"CANCEL_ONLY","baseAsset":"币安人生","quoteAsset":"USDT",
       "filters":[{"filterType":"PRICE_FILTER","tickSize":"0.00000000"}]}]}""".encode()
    found = binance_spot_listing.parse_listing(raw)
    assert found.server_ms == 1790000000000
    assert found.pairs == [
        SpotPair("BTCUSDT", "BTC", "USDT", "TRADING", Decimal("0.01"), True, False),
        SpotPair("BTCUPUSDT", "BTCUP", "USDT", "TRADING", None, False, True),
        SpotPair("币安人生USDT", "币安人生", "USDT", "CANCEL_ONLY", None, True, False),
    ]
    offers = list_offers(found.pairs)
    assert [(o.status, o.leveraged) for o in offers] == [
        ("TRADING", False), (NOT_SPOT, True), ("CANCEL_ONLY", False),
    ]  # fmt: skip


SPOT_READERS = (
    binance_spot_listing.parse_listing, binance_spot_listing.parse_day_tickers, binance_spot_listing.parse_book_tops,
    binance_futures.parse_exchange_info, binance_futures.parse_open_interest, binance_futures.parse_funding_rates,
    binance_futures.parse_funding_hours,
)  # fmt: skip


@pytest.mark.parametrize("read", SPOT_READERS, ids=lambda read: read.__name__)
@given(raw=st.one_of(st.binary(max_size=60), st.sampled_from([b"{}", b"[{}]", b"null", b'{"symbols":[]}', b'{"a":'])))
def test_readers_raise_nothing_but_bad_input(read: Any, raw: bytes) -> None:
    try:
        read(raw)
    except BadInput:
        return
    assert raw.strip().startswith(b"[")  # an empty list of settlements is an answer


def test_numbers_that_are_none_hide_no_other() -> None:
    days = binance_spot_listing.parse_day_tickers(
        b"""[{"symbol":"A","lastPrice":"1.5","priceChangePercent":"-2.5","quoteVolume":"7"},
             {"symbol":"B","lastPrice":"0.0","priceChangePercent":"NaN","quoteVolume":"-1"},{"symbol":"C"}]"""
    )
    assert days["A"] == DayTicker("A", Decimal("1.5"), Decimal("-2.5"), Decimal(7))
    assert days["B"] == DayTicker("B", None, None, None) and days["C"] == DayTicker("C", None, None, None)
    tops = binance_spot_listing.parse_book_tops(b'[{"symbol":"A","bidPrice":"0.00","askPrice":"1"},{"symbol":"B"}]')
    assert tops == {"A": BookTop("A", None, Decimal(1)), "B": BookTop("B", None, None)}


# ---- spreads


def top(bid: str | None, ask: str | None, symbol: str = "SOLUSDT") -> BookTop:
    return BookTop(symbol, bid and Decimal(bid), ask and Decimal(ask))  # type: ignore[arg-type]


def test_a_spread_is_of_the_middle() -> None:
    assert spread_of(top("99.75", "100.25")) == Decimal("0.5")
    assert spread_of(top("1", "1")) == 0
    for unknown in (top(None, "1"), top("1", None), top("2", "1"), None):
        assert spread_of(unknown) is None


def test_samples_are_of_pairs_that_may_be_judged() -> None:
    tops = {t.symbol: t for t in (top("1", "1.01"), top("1", None, "ETHUSDT"), top("1", "2", "ETHBTC"))}
    assert [one.symbol for one in choose_samples(tops, ("USDT", "USDC"))] == ["SOLUSDT"]


# ---- funding


def paid(hours: range | list[int], late_ms: int = 7) -> list[int]:
    return [hour * HOUR_MS + late_ms for hour in hours]


MONTH = 30 * 24


def test_settlements_missing_by_the_symbols_own_interval() -> None:
    for every in (1, 4, 8):
        assert count_funding_gaps(paid(range(0, MONTH, every)), every, 0, (MONTH - 1) * HOUR_MS) == 0
        holes = [h for h in range(0, MONTH, every) if h not in (every * 3, every * 4, every * 11)]
        assert count_funding_gaps(paid(holes), every, 0, (MONTH - 1) * HOUR_MS) == 3
    assert count_funding_gaps([], 8, 1, MONTH * HOUR_MS) == MONTH // 8
    assert count_funding_gaps(paid(range(240, MONTH, 8)), 8, 1, (MONTH - 1) * HOUR_MS) == 29
    assert count_funding_gaps(paid(range(8, 240, 8)), 8, 1, (MONTH - 1) * HOUR_MS) == (MONTH - 240) // 8


def test_a_change_of_the_interval_is_no_gap() -> None:
    was_8 = [*range(0, 400, 8), *range(400, MONTH, 4)]
    assert count_funding_gaps(paid(was_8), 4, 0, (MONTH - 1) * HOUR_MS) == 0
    was_4 = [*range(0, 400, 4), *range(400, MONTH, 8)]
    assert count_funding_gaps(paid(was_4), 8, 0, (MONTH - 1) * HOUR_MS) == 0
    # The venue did not say that it is 4 h now: what it shows says it.
    assert count_funding_gaps(paid(range(0, MONTH, 4)), 8, 0, (MONTH - 1) * HOUR_MS) == 0


@given(st.sets(st.integers(1, MONTH // 8 - 2), max_size=2))
def test_lone_holes_are_counted_wherever_they_are(lost: set[int]) -> None:
    shown = [h for h in range(0, MONTH, 8) if h // 8 not in lost]
    assert count_funding_gaps(paid(shown), 8, 0, (MONTH - 1) * HOUR_MS) == len(lost)


# ---- facts


def contract(symbol: str, base: str, quote: str = "USDT", kind: str = "PERPETUAL", status: str = "TRADING") -> Contract:
    return Contract(symbol, base, quote, kind, status, 0)


def test_the_perpetual_of_an_asset() -> None:
    found = choose_perps(
        [
            contract("SOLUSDC", "SOL", "USDC"), contract("SOLUSDT", "SOL"), contract("1000SHIBUSDT", "1000SHIB"),
            contract("1000PEPEUSDC", "1000PEPE", "USDC"), contract("1MBABYDOGEUSDT", "1MBABYDOGE"),
            contract("1INCHUSDT", "1INCH"), contract("ETHUSDT_261225", "ETH", kind="CURRENT_QUARTER"),
            contract("OLDUSDT", "OLD", status="SETTLING"), contract("1000CATUSDT", "1000CAT"),
            contract("CATUSDT", "CAT"),
            contract("1000XUSDT", "1000X"), contract("BTCUSD", "BTC", "BTC"),
        ],
        ("USDT", "FDUSD", "USDC"),
    )  # fmt: skip
    assert {base: one.symbol for base, one in found.items()} == {
        "SOL": "SOLUSDT", "SHIB": "1000SHIBUSDT", "PEPE": "1000PEPEUSDC", "BABYDOGE": "1MBABYDOGEUSDT",
        "1INCH": "1INCHUSDT", "CAT": "CATUSDT", "X": "1000XUSDT",
        # An asset may have the number in its own name.
        "1000SHIB": "1000SHIBUSDT", "1000PEPE": "1000PEPEUSDC", "1MBABYDOGE": "1MBABYDOGEUSDT",
        "1000CAT": "1000CATUSDT", "1000X": "1000XUSDT",
    }  # fmt: skip
    multiples = {base: multiple_of(found[base], base) for base in ("SOL", "SHIB", "BABYDOGE", "1INCH")}
    assert multiples == {"SOL": 1, "SHIB": 1000, "BABYDOGE": 1_000_000, "1INCH": 1}
    assert {multiple_of(found[base], base) for base in ("1000SHIB", "1MBABYDOGE", "1000CAT")} == {1}


@pytest.mark.parametrize("base", ["1000SATS", "1MBABYDOGE"])
def test_an_asset_with_a_number_in_its_name_has_its_own_perpetual(base: str) -> None:
    perp = contract(f"{base}USDT", base)
    found = choose_perps([perp], LIMITS.quotes)[base]
    ticker = DayTicker(f"{base}USDT", Decimal("0.5"), Decimal(1), Decimal(1_000_000))
    told = Told(SpotListing(0, []), {ticker.symbol: ticker}, contracts=[perp])
    close = Close(open_interest=OpenInterest(perp.symbol, Decimal(200), 0), funding_gaps=0)
    seat = Seat(base, Offer(f"{base}USDT", base, "USDT", "TRADING"), "a row")
    facts = make_facts(seat, told, found, close, Own(), None, Kind.PLAIN, LIMITS, NOW)
    assert (facts.perp, facts.open_interest_usd) == (f"{base}USDT", 100)  # units of it, not thousands


PAIRS = [
    SpotPair("SHIBUSDT", "SHIB", "USDT", "TRADING", Decimal("0.00000001"), True, False),
    SpotPair("BTCUSDT", "BTC", "USDT", "TRADING", Decimal("0.01"), True, False),
    SpotPair("SHIBBTC", "SHIB", "BTC", "TRADING", None, True, False),
    SpotPair("WBTCUSDT", "WBTC", "USDT", "TRADING", None, True, False),
]
TICKERS = {
    "SHIBUSDT": DayTicker("SHIBUSDT", Decimal("0.00001"), Decimal("-3"), Decimal(5_000_000)),
    "BTCUSDT": DayTicker("BTCUSDT", Decimal(60_000), Decimal(1), Decimal(10)),
    "SHIBBTC": DayTicker("SHIBBTC", Decimal("0.0000000002"), Decimal(1), Decimal(2)),
}
PERP = contract("1000SHIBUSDT", "1000SHIB")
TOLD = Told(
    SpotListing(0, PAIRS), TICKERS, {"SHIBUSDT": top("0.00001", "0.0000101")}, [PERP], {},
    [
        Instrument("SHIB-USDT", "SHIB", "USDT", 1, "live", None),
        Instrument("BTC-USDT", "BTC", "USDT", 1, "suspend", None),
    ],
    [Instrument("SHIB-USDT-SWAP", None, None, 1, "live", None)],
    Caps({"SHIB": Coin("shiba-inu", "SHIB", Decimal(7_000_000_000))}),
)  # fmt: skip
CLOSE = Close(
    dt.date(2021, 5, 10), Decimal(6_000_000), OpenInterest("1000SHIBUSDT", Decimal(200), 0), 2, frozenset()
)  # fmt: skip
SEAT = Seat("SHIB", Offer("SHIBUSDT", "SHIB", "USDT", "TRADING", Decimal("0.00000001")), "a row")


def facts_of(told: Told = TOLD, close: Close = CLOSE, own: Own | None = None, row: RegistryRow | None = None) -> Any:
    perp = PERP if told.contracts is not None else None
    return make_facts(SEAT, told, perp, close, own or Own(), row, Kind.PLAIN, LIMITS, NOW)


def test_facts_are_what_was_told() -> None:
    facts = facts_of()
    assert (facts.pair, facts.quote, facts.venue_status) == ("SHIBUSDT", "USDT", "TRADING")
    assert (facts.okx_inst_id, facts.okx_swap, facts.perp) == ("SHIB-USDT", "SHIB-USDT-SWAP", "1000SHIBUSDT")
    assert facts.listed_on == dt.date(2021, 5, 10) and facts.age_days == 1960
    assert (facts.vol_24h, facts.vol_mean_30d, facts.move_24h_pct) == (5_000_000, 6_000_000, -3)
    assert facts.open_interest_usd == Decimal(200) * 1000 * Decimal("0.00001")
    assert (facts.funding_gaps, facts.market_cap, facts.spread_samples) == (2, 7_000_000_000, 0)
    assert round(facts.spread_pct, 4) == Decimal("0.9950") and facts.away == ()
    # A day of samples goes before the moment, and a cached listing day before what is told.
    row = RegistryRow("SHIB", Status.ACTIVE, listed_on=dt.date(2021, 5, 1))
    facts = facts_of(own=Own(Decimal("0.1"), 280, Decimal("0.99")), row=row)
    assert (facts.spread_pct, facts.spread_samples, facts.bar_coverage) == (Decimal("0.1"), 280, Decimal("0.99"))
    assert facts.listed_on == dt.date(2021, 5, 1)


def told_without(**missing: object) -> Told:
    return msgspec.structs.replace(TOLD, **missing)


@pytest.mark.parametrize(
    ("told", "away", "unknown"),
    [
        (told_without(tickers=None), {Vendor.TICKERS}, ("vol_24h", "move_24h_pct")),
        (told_without(tickers={}), {Vendor.TICKERS}, ("vol_24h", "move_24h_pct")),
        (told_without(books=None), {Vendor.BOOK}, ("spread_pct",)),
        (
            told_without(contracts=None), {Vendor.FUTURES, Vendor.OPEN_INTEREST, Vendor.FUNDING},
            ("perp", "open_interest_usd", "funding_gaps"),
        ),
        (told_without(instruments=None), {Vendor.OKX}, ("okx_inst_id",)),
        (told_without(caps=None), {Vendor.CAPS}, ("market_cap",)),
        (told_without(caps=Caps(whole=False)), {Vendor.CAPS}, ("market_cap",)),
        (told_without(caps=Caps()), set(), ("market_cap",)),
    ],
)  # fmt: skip
def test_a_vendor_that_is_away_leaves_unknowns_and_is_named(told: Told, away: set[Vendor], unknown: tuple[str]) -> None:
    facts = facts_of(told)
    assert set(facts.away) == away
    for name in unknown:
        assert getattr(facts, name, None) is None
    if told.books is None:
        assert facts_of(told, own=Own(Decimal("0.2"), 3)).away == ()


def test_an_absent_seat_has_what_we_know_ourselves() -> None:
    row = RegistryRow("SHIB", Status.ACTIVE, pair="SHIBUSDT", listed_on=dt.date(2021, 5, 10))
    seat = Seat("SHIB", None, "a row")
    facts = make_facts(seat, TOLD, PERP, Close(), Own(Decimal("0.1"), 9), row, Kind.PLAIN, LIMITS, NOW)
    assert (facts.pair, facts.venue_status, facts.spread_pct, facts.away) == ("SHIBUSDT", None, Decimal("0.1"), ())


def test_volumes_are_in_dollars() -> None:
    volumes = value_volumes(PAIRS, TICKERS, LIMITS)
    assert volumes == {"SHIBUSDT": 5_000_000, "BTCUSDT": 10, "SHIBBTC": 120_000}
    assert usd_of("XYZ", TICKERS, LIMITS) is None and usd_of("FDUSD", {}, LIMITS) == 1


def test_kinds_by_name_mark_and_category() -> None:
    offers = list_offers([*PAIRS, SpotPair("XUPUSDT", "XUP", "USDT", "TRADING", None, False, True)])
    caps = Caps(stables=frozenset({"NEWUSD"}), wrapped=frozenset({"SHIB"}))
    assert judge_kinds(offers, None, LIMITS) == {
        "SHIB": Kind.PLAIN, "BTC": Kind.PLAIN, "WBTC": Kind.WRAPPED, "XUP": Kind.LEVERAGED,
    }  # fmt: skip
    assert judge_kinds(offers, caps, LIMITS)["SHIB"] is Kind.WRAPPED
    # A pair that is not on the spot market says nothing of the asset.
    beside = SpotPair("BTCXYZ", "BTC", "XYZ", "TRADING", None, False, False)
    assert judge_kinds(list_offers([*PAIRS, beside]), None, LIMITS)["BTC"] is Kind.PLAIN


def test_without_categories_an_asset_is_what_it_was() -> None:
    tonight = {"AAA": Kind.PLAIN, "BBB": Kind.PLAIN, "CCC": Kind.STABLE, "NEW": Kind.PLAIN}
    before = {"AAA": Kind.STABLE, "BBB": Kind.PLAIN, "CCC": Kind.PLAIN, "GONE": Kind.WRAPPED}
    assert recall_kinds(tonight, before) == {
        "AAA": Kind.STABLE, "BBB": Kind.PLAIN, "CCC": Kind.STABLE, "NEW": Kind.PLAIN,
    }  # fmt: skip


# ---- when, and what is said


def test_a_run_is_due_once_a_night_however_long_we_slept() -> None:
    at = read_pull_time("02:00:00Z")
    assert last_pull(NOW, at) == NOW and last_pull(NOW - dt.timedelta(seconds=1), at) == NOW - dt.timedelta(days=1)
    assert is_due(NOW, None, at)
    assert is_due(NOW, NOW - dt.timedelta(seconds=1), at) and not is_due(NOW, NOW, at)
    assert not is_due(NOW + dt.timedelta(hours=23), NOW + dt.timedelta(minutes=3), at)
    assert is_due(NOW + dt.timedelta(days=9, hours=4), NOW, at)


@pytest.mark.parametrize("text", ["", "2:00Z", "02:00:00", "24:00:00Z", "02:60Z", "02:00:00+01:00"])
def test_a_time_of_day_is_utc_or_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="UTC time of day"):
        read_pull_time(text)
    assert read_pull_time("23:59Z") == dt.time(23, 59, tzinfo=dt.UTC)


def test_an_event_is_named_by_its_run() -> None:
    event = SymbolEvent("币安人生", "ACTIVE", "H", 80, "币安人生USDT", None)
    first, second = (symbol_event_message(event, NOW + dt.timedelta(days=n)) for n in (0, 1))
    assert first.key == "symbol_events.updated" and first == symbol_event_message(event, NOW)
    ident = "symbol_events.updated:%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9F@2026-09-21T02:00:00Z"
    assert first.message_id == ident and second.message_id != ident
    assert first.body.decode().startswith('{"symbol":"币安人生","status":"ACTIVE","cluster":"H","health":80,"pair":')
