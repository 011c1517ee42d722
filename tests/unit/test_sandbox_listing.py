"""The sandbox's listing: what is made up, what scripts change, perpetuals as functions of time, rules for endpoints."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from sandbox.clock import VenueClock
from sandbox.coingecko import choose, rank_coins
from sandbox.config import Config
from sandbox.facts import DAY_MS, change_facts, new_facts
from sandbox.futures_rest import CallPool
from sandbox.listing import Listing
from sandbox.listing_faults import Editor
from sandbox.made_up import Coin, describe_odd, describe_rank, tick_for
from sandbox.market import open_market
from sandbox.perps import HOUR_MS, Perps
from sandbox.rest_rules import RestRules, Rule, rewrite

START_MS = 1_790_000_040_000


class Now:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def listing(seed: int = 7, extra: int = 60) -> Listing:
    config = Config(seed=seed, symbols=("BTCUSDT", "ZEDUSDT"), start=START_MS, history_minutes=3, hold=True)
    return Listing(seed, open_market(config), extra)


def test_the_same_seed_lists_the_same():
    assert list(listing().all()) == list(listing().all())
    assert [facts.volume for facts in listing(8).all()] != [facts.volume for facts in listing().all()]
    longer = {facts.symbol: facts for facts in listing(extra=80).all()}
    assert all(longer[facts.symbol] == facts for facts in listing().all())


def test_a_listing_has_every_oddity():
    found = [describe_rank(1, rank, START_MS) for rank in range(300)] + describe_odd(1, START_MS)
    symbols = [facts.symbol for facts in found]
    assert len(set(symbols)) == len(symbols) > 320
    assert {facts.status for facts in found} >= {"TRADING", "HALT", "BREAK", "CANCEL_ONLY"}
    assert any(not symbol.isascii() for symbol in symbols) and "1INCHUSDT" in symbols
    assert {facts.quote for facts in found} >= {"USDT", "USDC", "BTC", "ETH", "EUR", "TRY", "FDUSD"}
    assert any(facts.perp == f"1000{facts.symbol}" and facts.multiplier == 1000 for facts in found)
    assert {facts.funding_hours for facts in found} == {1, 4, 8}
    volumes = sorted((facts.volume or Decimal(0) for facts in found[:300]), reverse=True)
    assert sum(volumes[:30]) > 3 * sum(volumes[30:])
    assert {tick_for(Decimal(text)) for text in ("64000", "3.2", "0.00001")} == {
        *(Decimal("0.01"), Decimal("0.0001"), Decimal("1E-8"))
    }


def test_scripted_facts_are_exact():
    pairs = listing()
    pairs.change("XRPUSDT", {"spread_pct": 0.5, "volume": "12345678.5", "move_pct": -20, "age_days": 12}, START_MS)
    facts = pairs.get("XRPUSDT")
    assert facts is not None and facts.listed_ms == (START_MS // DAY_MS - 12) * DAY_MS
    for hour in range(30):
        quote, day = (ask(facts, START_MS + hour * HOUR_MS) for ask in (pairs.quote, pairs.day))
        spread = (quote.ask - quote.bid) / ((quote.ask + quote.bid) / 2) * 100
        assert abs(spread - Decimal("0.5")) < Decimal("0.02")
        assert day.quote_volume == Decimal("12345678.5")
        assert abs(day.last / day.open - Decimal("0.8")) < Decimal("0.001") and day.low < day.last < day.high
    pairs.change("XRPUSDT", {"status": "BREAK"}, START_MS)
    broken = pairs.get("XRPUSDT")
    assert broken is not None and pairs.quote(broken, START_MS) == (0, 0) and pairs.day(broken, START_MS).trades == 0
    pairs.restore(None)
    assert pairs.get("XRPUSDT") == listing().get("XRPUSDT") != broken


def test_a_new_pair_and_wrong_facts():
    facts = change_facts(new_facts("NEWUSDT", START_MS), {"perp": True, "mcap": None, "coin": False}, START_MS)
    assert (facts.base, facts.quote, facts.perp, facts.coin, facts.mcap) == ("NEW", "USDT", "NEWUSDT", None, None)
    for wrong in ({"colour": 1}, {"volume": "much"}, {"listed": "perhaps"}, {"age_days": "x"}):
        with pytest.raises(ValueError):
            change_facts(facts, wrong, START_MS)
    traded = listing().get("BTCUSDT")
    assert traded is not None
    with pytest.raises(ValueError):
        change_facts(traded, {"price": 1}, START_MS)


def test_perpetuals_are_functions_of_time():
    pairs = listing()
    ours, again, others = Perps("a", pairs), Perps("a", listing()), Perps("b", pairs)
    facts = pairs.get("BTCUSDT")
    assert facts is not None
    seconds = range(START_MS // 1000 - 900, START_MS // 1000)
    for ask in ("rate", "open_interest"):
        told = [getattr(ours, ask)(facts, s) for s in seconds]
        assert (
            told
            == [getattr(again, ask)(facts, s) for s in seconds]
            != [getattr(others, ask)(facts, s) for s in seconds]
        )
        assert len(set(told)) > 100  # an old answer can be told from a new one


def test_settlements():
    pairs = listing()
    perps, plain = Perps("a", pairs), Perps("a", pairs, plain=True)
    editor = Editor(pairs, perps, VenueClock(START_MS, 1.0, held=True))
    editor.edit("list", {"symbol": "BTCUSDT", "funding_hours": 4})
    editor.edit("lose_funding", {"symbol": "BTCUSDT", "last": 2})
    facts = pairs.get("BTCUSDT")
    assert facts is not None
    paid = perps.settlements(facts, START_MS - 2 * DAY_MS, START_MS)
    hours = [one.time_ms // HOUR_MS for one in paid]
    whole = [one.time_ms // HOUR_MS for one in plain.settlements(facts, START_MS - 2 * DAY_MS, START_MS)]
    assert len(whole) == 12 and hours == whole[:-2] and all(hour % 4 == 0 for hour in whole)
    late = {one.time_ms % HOUR_MS for one in paid}
    assert late <= set(range(10)) and len(late) > 2
    assert paid[-1].rate == perps.rate(facts, paid[-1].time_ms // HOUR_MS * 3600 - 1)
    editor.edit("list", {"symbol": "BTCUSDT", "special_funding": True})
    special = pairs.get("BTCUSDT")
    assert special is not None
    kinds = [one.rate_type for one in perps.settlements(special, START_MS - 14 * DAY_MS, START_MS)]
    assert kinds.count("Special") == 2


def test_rules_hit_what_they_name():
    now = Now()
    rules = RestRules(now)
    rules.add({"path": "openInterest", "symbol": "BTCUSDT", "answer": "status", "next": 2})
    path = "/fapi/v1/openInterest"
    assert [len(rules.take(path, "BTCUSDT")) for _ in range(3)] == [1, 1, 0]
    rules.add({"path": "openInterest", "answer": "slow", "by_s": 1, "for_s": 5})
    assert not rules.take("/futures/data/openInterestHist", None) and not rules.take("/fapi/v1/time", None)
    assert rules.take(path, "ETHUSDT")
    now.s = 5.0
    assert not rules.take(path, "ETHUSDT")
    rules.add({"answer": "old", "by_ms": 1000, "every": 3})
    assert [len(rules.take("/any", None)) for _ in range(6)] == [0, 0, 1, 0, 0, 1]
    for wrong in ({"answer": "funny"}, {}, {"answer": "slow", "by": 1}, {"answer": "old", "every": 0}):
        with pytest.raises(ValueError):
            rules.add(dict[str, Any](wrong))


A, B = {"symbol": "A", "oi": "1", "time": 5}, {"symbol": "B", "oi": "2", "time": 5}


@pytest.mark.parametrize(
    ("rule", "after"),
    [
        (Rule(answer="set", symbol="B", fields={"oi": None}), [A, B | {"oi": None}]),
        (Rule(answer="shift", by_ms=-7, symbol="A"), [A | {"time": -2}, B]),
        (Rule(answer="without", symbol="A"), [B]),
        (Rule(answer="empty"), []),
    ],
)
def test_rewritten_rows(rule: Rule, after: object):
    assert json.loads(rewrite(rule, json.dumps([A, B]))) == after
    wrapped = json.loads(rewrite(rule, json.dumps({"code": "0", "data": [A, B]})))
    assert wrapped == {"code": "0", "data": after}


def test_garbage_is_no_json():
    with pytest.raises(ValueError):
        json.loads(rewrite(Rule(answer="garbage"), '[{"a":1}]'))


def test_a_pool_of_calls():
    now = Now()
    pool = CallPool(2, 300.0, now)
    assert [pool.take() for _ in range(2)] == [0.0, 0.0]
    now.s = 100.0
    assert pool.take() == 200.0
    now.s = 300.0
    assert pool.take() == 0.0


def test_coins_are_ranked_and_chosen():
    coins = [
        Coin("old-sol", "sol", "x", None, 1, None),
        Coin("solana", "sol", "Solana", 900, 5, Decimal(1)),
        Coin("peg-sol", "sol", "Peg", 50, 9, Decimal(1), ("wrapped-tokens",)),
        Coin("dead", "dead", "Dead", 0, 0, Decimal(0)),
    ]
    rows = rank_coins([(coin, Decimal(0)) for coin in coins])
    assert [(row.coin.id, row.rank) for row in rows] == [
        *(("solana", 1), ("peg-sol", 2), ("dead", None), ("old-sol", None))
    ]
    assert [row.coin.id for row in choose(rows, {"symbols": "SOL"})] == ["solana"]
    assert len(choose(rows, {"symbols": "sol", "include_tokens": "all"})) == 3
    assert [row.coin.id for row in choose(rows, {"category": "wrapped-tokens"})] == ["peg-sol"]
    assert [row.coin.id for row in choose(rows, {"ids": "dead,nobody"})] == ["dead"]
    assert choose(rows, {"order": "volume_desc"})[0].coin.id == "peg-sol"
