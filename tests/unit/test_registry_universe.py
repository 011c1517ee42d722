"""Which assets a run looks at, by which pair, and what sort each is."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from registry.facts import Kind, Offer, RegistryRow, Status
from registry.universe import Seat, choose_universe, kind_of, split_bases
from tests.unit.registry_nights import RULES, dec

LIMITS = replace(RULES.thresholds.universe, top=2, quotes=("USDT", "USDC"))
BASES = {"BTC", "ETH", "JUP", "SYRUP", "BTCUP", "ETHBEAR", "BULL", "BEAR", "USDC", "WBTC", "SOL"}


def offer(base: str, quote: str = "USDT", status: str = "TRADING") -> Offer:
    return Offer(base + quote, base, quote, status, dec("0.01"))


def choose(
    *offers: Offer, volumes: dict[str, float] | None = None, rows: tuple[RegistryRow, ...] = (),
    whitelist: tuple[str, ...] = (), kinds: dict[str, Kind] | None = None, admits: bool = True,
) -> dict[str, Seat]:  # fmt: skip
    usd: dict[str, Decimal] = {pair: dec(v) for pair, v in (volumes or {}).items()}
    seats = choose_universe(offers, usd, kinds or {}, {r.symbol: r for r in rows}, whitelist, LIMITS, admits)
    assert [s.symbol for s in seats] == sorted(s.symbol for s in seats)
    return {seat.symbol: seat for seat in seats}


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("BTC", Kind.PLAIN), ("JUP", Kind.PLAIN), ("SYRUP", Kind.PLAIN), ("BULL", Kind.PLAIN), ("BEAR", Kind.PLAIN),
        ("BTCUP", Kind.LEVERAGED), ("ETHBEAR", Kind.LEVERAGED), ("USDC", Kind.STABLE), ("EUR", Kind.STABLE),
        ("WBTC", Kind.WRAPPED), ("NEWUSD", Kind.STABLE), ("WNEW", Kind.WRAPPED),
    ],
)  # fmt: skip
def test_kind(base: str, kind: Kind) -> None:
    assert kind_of(base, False, BASES, LIMITS, {"NEWUSD"}, {"WNEW"}) is kind
    assert kind_of(base, True, BASES, LIMITS) is Kind.LEVERAGED


def test_top_by_volume_of_plain_trading_assets_with_a_configured_quote() -> None:
    found = choose(
        offer("AAA"), offer("BBB"), offer("CCC"), offer("HALTED", status="BREAK"), offer("STABLE"),
        offer("EUROS", "EUR"), offer("SILENT"),
        volumes={"AAAUSDT": 5, "BBBUSDT": 9, "CCCUSDT": 7, "HALTEDUSDT": 99, "STABLEUSDT": 99, "EUROSEUR": 99},
        kinds={"STABLE": Kind.STABLE},
    )  # fmt: skip
    assert {s: seat.why for s, seat in found.items()} == dict.fromkeys(("BBB", "CCC"), "among the top 2 by volume")


def test_rows_and_the_whitelist_come_beside_the_top() -> None:
    rows = (
        RegistryRow("GONE", Status.ACTIVE, pair="GONEUSDT"), RegistryRow("OLD", Status.EXCLUDED),
        RegistryRow("BACK", Status.EXCLUDED), RegistryRow("STABLE", Status.PROBATION),
    )  # fmt: skip
    found = choose(
        offer("BACK"), offer("BBB"), offer("OLD"), offer("STABLE"), offer("YOUNG"),
        volumes={"BACKUSDT": 9, "BBBUSDT": 8, "OLDUSDT": 1}, rows=rows, whitelist=("YOUNG", "TYPO"),
        kinds={"STABLE": Kind.STABLE},
    )  # fmt: skip
    assert list(found) == ["BACK", "BBB", "GONE", "STABLE", "YOUNG"]
    assert found["GONE"].offer is None and found["YOUNG"].why == "whitelisted"


def test_no_volumes_bring_nobody_new() -> None:
    rows = (RegistryRow("AAA", Status.ACTIVE, pair="AAAUSDT"),)
    assert list(choose(offer("AAA"), offer("BBB"), rows=rows)) == ["AAA"]


def test_a_night_on_which_kinds_are_in_doubt_brings_nobody_new() -> None:
    rows = (RegistryRow("OUT", Status.EXCLUDED), RegistryRow("IN", Status.ACTIVE))
    volumes = {"OUTUSDT": 9.0, "NEWUSDT": 8.0, "WANTEDUSDT": 1.0}
    offers = (offer("OUT"), offer("NEW"), offer("WANTED"))
    assert list(choose(*offers, volumes=volumes, rows=rows, whitelist=("WANTED",), admits=False)) == [
        "IN", "OUT", "WANTED",
    ]  # fmt: skip


def test_who_is_on_the_way_back_keeps_the_seat_when_only_the_volume_is_not_told() -> None:
    rows = (RegistryRow("BACK", Status.EXCLUDED, good_nights=2), RegistryRow("OUT", Status.EXCLUDED))
    assert list(choose(offer("BACK"), offer("OUT"), rows=rows)) == ["BACK"]
    # Told, and no longer among the biggest: its row of good nights is broken.
    told: dict[str, float] = {"BACKUSDT": 1, "AAAUSDT": 9, "BBBUSDT": 8}
    assert list(choose(offer("BACK"), offer("AAA"), offer("BBB"), volumes=told, rows=rows)) == ["AAA", "BBB"]
    assert list(choose(rows=rows)) == []  # delisted


def test_assets_with_other_quotes_alone_are_told_apart() -> None:
    offers = (offer("AAA", "BTC"), offer("BBB"), offer("BBB", "BTC"), offer("CCC", "USDC"))
    assert split_bases(offers, LIMITS.quotes) == ({"BBB", "CCC"}, {"AAA"})


def test_pair_is_the_first_quote_that_trades() -> None:
    volumes = {"AAAUSDC": 1.0, "AAAUSDT": 1.0}

    def pair(*offers: Offer, row: str | None = None) -> str | None:
        rows = (RegistryRow("AAA", Status.ACTIVE, pair=row),) if row else ()
        seat = choose(*offers, volumes=volumes, rows=rows)["AAA"]
        return seat.offer and seat.offer.pair

    usdt, usdc = offer("AAA"), offer("AAA", "USDC")
    halted = replace(usdt, status="HALT")
    assert pair(usdc, usdt) == "AAAUSDT"
    assert pair(usdc, halted) == "AAAUSDC"
    assert pair(usdc, halted, row="AAAUSDT") == "AAAUSDT"  # a halt shows as a halt
    assert pair(usdc, usdt, row="AAAUSDC") == "AAAUSDT"
    assert pair(usdc, row="AAAUSDT") == "AAAUSDC"
    assert pair(offer("AAA", "BTC"), row="AAAUSDT") is None
