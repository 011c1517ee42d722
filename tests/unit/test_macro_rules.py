"""What stands, who is asked, what a quota leaves, when a circuit opens, what rows are made of."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from common.clock import Clock
from common.contracts import MacroDayRow, MacroSlotRow, macro_day_message, macro_slot_message
from common.errors import ConfigError
from macro_ingestor.chains import build_chains, offer_day, offer_gas, order_sources, read_chains
from macro_ingestor.circuit import HINT_MAX_S, MAX_S, Circuit
from macro_ingestor.configured import configure
from macro_ingestor.daily import build_day, derive_nupl, mean_asopr
from macro_ingestor.desk import Desk, Known
from macro_ingestor.quota import HOUR_S, Quota, calls_left, hour_of
from macro_ingestor.readings import COLUMNS, DAY_S, Reading
from macro_ingestor.registrations import ALIASES, PROVIDERS
from macro_ingestor.schedule import plan_triggers
from macro_ingestor.settings import DEFAULT_SOURCES, MacroSettings
from macro_ingestor.slots import build_slot, slot_of
from macro_ingestor.standing import Ask, Outcome, Standing, next_to_ask, overdue_s, pick_reading
from tests.message_check import find_fault

T0 = 1_790_553_600  # a midnight
GAS, DAILY = offer_gas(), offer_day("mvrv", lag_s=3600, recheck_s=7200, max_age_s=4 * DAY_S)


def settings(**changes: object) -> MacroSettings:
    servers = {"ts_dsn": SecretStr("postgresql://u:p@h/x"), "rmq_url": SecretStr("amqp://u:p@h/")}
    return MacroSettings(**{**servers, **changes})


def one(name: str, age_s: int | None, ask: Ask | None = None, blocked: bool = False) -> Standing:
    reading = None if age_s is None else Reading("mvrv", "1.5", T0 - age_s, name)
    return Standing(name, DAILY, reading, ask, blocked)


def asked(ago_s: int, outcome: Outcome = Outcome.ANSWERED) -> Ask:
    return Ask(T0 - ago_s, outcome)


FRESH, LATE, OLD = 2 * DAY_S, 2 * DAY_S + 3600, 4 * DAY_S + 1
FAILING, REFUSED = Outcome.FAILING, Outcome.REFUSED


@pytest.mark.parametrize(
    ("chain", "next_", "picked"),
    [
        ([one("a", None), one("b", None)], "a", None),
        ([one("a", FRESH), one("b", None)], None, "a"),  # not due: nobody is asked
        ([one("a", LATE, asked(9000)), one("b", None)], "a", "a"),  # due
        ([one("a", LATE, asked(60)), one("b", FRESH)], None, "a"),  # late, and told so a minute ago
        ([one("a", LATE, asked(60, FAILING)), one("b", None)], "a", "a"),  # its circuit lets a try through
        ([one("a", LATE, asked(60, FAILING), True), one("b", None)], "b", "a"),
        ([one("a", LATE, asked(60, REFUSED)), one("b", FRESH, asked(60))], None, "b"),  # the newer value
        ([one("a", LATE, asked(60, FAILING), True), one("b", LATE + 5, asked(60))], None, "a"),  # not older
        ([one("a", OLD, asked(60)), one("b", LATE, asked(60))], None, "b"),  # too old counts for nothing
        ([one("a", OLD, asked(60, FAILING), True), one("b", OLD, asked(60))], None, None),
        ([one("a", LATE, asked(9000), True), one("b", None, asked(60))], None, "a"),  # quota spent, nobody else knows
        ([one("a", None, asked(60)), one("b", FRESH)], None, "b"),  # answered, and had nothing at all
        ([], None, None),
    ],
)
def test_who_is_asked_and_whose_value_counts(chain: list[Standing], next_: str | None, picked: str | None) -> None:
    assert next_to_ask(chain, (), T0) == next_
    found = pick_reading(chain, T0)
    assert (found and found.source) == picked


def test_a_provider_asked_in_this_pass_is_not_asked_again() -> None:
    chain = [one("a", LATE, asked(0, FAILING)), one("b", None)]
    assert next_to_ask(chain, {"a"}, T0) == "b"
    assert next_to_ask(chain, {"a", "b"}, T0) is None
    assert next_to_ask([one("a", LATE, asked(0)), one("b", None)], {"a"}, T0) is None


def test_overdue_counts_from_when_the_next_value_was_due() -> None:
    chain = [one("a", LATE + 100, asked(60))]
    assert overdue_s(chain, pick_reading(chain, T0), T0) == 100
    assert overdue_s([one("a", FRESH)], pick_reading([one("a", FRESH)], T0), T0) == 0
    assert overdue_s([], None, T0) == overdue_s([one("a", None)], None, T0) == 0
    # Too old to count, it is overdue all the same: by the one that told last.
    chain = [one("a", OLD + DAY_S, asked(60)), one("b", OLD + 100, asked(60)), one("c", None)]
    assert pick_reading(chain, T0) is None and overdue_s(chain, None, T0) == OLD + 100 - LATE


def test_a_circuit_doubles_and_obeys_hints() -> None:
    circuit, pauses = Circuit(), list[int]()
    for _ in range(12):
        circuit = circuit.fail(T0, None, "x")
        pauses.append(circuit.open_until - T0)
    assert pauses[:4] == [60, 120, 240, 480] and pauses[-1] == MAX_S
    assert circuit.is_on_trial() and circuit.is_open(T0) and not circuit.is_open(T0 + MAX_S)
    assert circuit.succeed() == Circuit()
    assert circuit.fail(T0, 0.0, "x").open_until == T0 + 1
    for hint_s in (0.1, 1.0, 2.5, 900.0):  # not a moment early, though a failure at :59.95 is one of :59
        pause_s = circuit.fail(T0, hint_s, "x").open_until - (T0 + 0.95)
        assert hint_s <= pause_s < hint_s + 2
    assert circuit.fail(T0, 1e9, "x").open_until == T0 + HINT_MAX_S


def test_what_was_written_while_our_clock_was_ahead_blocks_nobody() -> None:
    circuit = Circuit().fail(T0 + 30 * DAY_S, None, "x")
    assert not circuit.is_open(T0) and not circuit.is_failing(T0)
    assert circuit.is_open(T0 + 30 * DAY_S) and circuit.is_failing(T0 + 30 * DAY_S)
    longest = Circuit().fail(T0, 1e9, "x")
    assert longest.is_open(T0) and longest.is_open(T0 + HINT_MAX_S - 1) and not longest.is_open(T0 + HINT_MAX_S)
    assert longest.is_open(T0 - 5)  # a pass goes by its beginning, and what failed in it by its end
    quotas, ahead = [Quota(DAY_S, 15)], hour_of(T0 + 30 * DAY_S)
    assert [calls_left(quotas, {ahead: 15}, T0 + days * DAY_S) for days in (0, 29)] == [15, 15]
    assert calls_left(quotas, {hour_of(T0) + HOUR_S: 15}, T0) == 0  # another process' clock may be ahead a little


@given(
    steps=st.lists(st.integers(0, 3 * HOUR_S), max_size=120),
    quotas=st.lists(st.builds(Quota, st.sampled_from((HOUR_S, DAY_S)), st.integers(1, 15)), min_size=1, max_size=2),
)
def test_no_window_of_any_beginning_holds_more_than_a_quota(steps: list[int], quotas: list[Quota]) -> None:
    now_s, calls, made = T0, dict[int, int](), list[int]()
    for step in steps:
        now_s += step
        if calls_left(quotas, calls, now_s) != 0:
            calls[hour_of(now_s)] = calls.get(hour_of(now_s), 0) + 1
            made.append(now_s)
    for quota in quotas:
        for begin in made:
            assert sum(begin <= at < begin + quota.window_s for at in made) <= quota.calls_max


def test_what_waits_long_enough_may_call_again() -> None:
    assert calls_left([Quota(HOUR_S, 2)], {hour_of(T0): 2}, T0) == 0
    assert calls_left([Quota(HOUR_S, 2)], {hour_of(T0): 2}, T0 + 2 * HOUR_S) == 2
    assert calls_left([Quota(DAY_S, 9), Quota(HOUR_S, 2)], {hour_of(T0): 1}, T0) == 1
    assert calls_left([], {}, T0) is None


def test_chains_by_default_are_those_of_the_documents() -> None:
    keys = dict.fromkeys(("glassnode_api_key", "etherscan_api_key", "dune_api_key", "goldrush_api_key"), SecretStr("k"))
    on = settings(
        **keys, eth_rpc_url=SecretStr("http://n"), dune_queries="stbl_cex_netflow=1,eth_ex_netflow=2,sol_ex_netflow=3"
    )
    chains = configure(on).chains
    assert chains["eth_gas_price"] == ("etherscan", "jsonrpc", "goldrush")
    assert chains["btc_ex_netflow"] == ("glassnode", "coinmetrics")
    assert chains["stbl_cex_netflow"] == chains["sol_ex_netflow"] == ("glassnode", "dune")
    assert chains["eth_ex_netflow"] == ("glassnode", "coinmetrics", "dune")
    assert chains["mvrv"] == chains["nupl"] == ("glassnode", "coinmetrics", "bgeometrics")
    assert chains["asopr"] == ("glassnode", "bgeometrics")
    assert set(chains) == set(COLUMNS)


def test_without_keys_the_free_ones_are_left() -> None:
    cast = configure(settings())
    assert list(cast.on) == ["coinmetrics", "bgeometrics"]
    assert {one.name for one in cast.off} == set(PROVIDERS) - set(cast.on)
    assert all("is not set" in one.reason for one in cast.off)
    assert cast.chains["eth_gas_price"] == () and cast.chains["sol_ex_netflow"] == ()
    token = configure(settings(bgeometrics_token=SecretStr("t")))
    assert token.chains["btc_ex_netflow"] == ("coinmetrics", "bgeometrics")
    assert token.offers()["mvrv", "bgeometrics"].lag_s < DAY_S < cast.offers()["mvrv", "bgeometrics"].lag_s


def test_sources_and_chains_as_they_are_given(tmp_path: Path) -> None:
    assert {"covalent", "bitquery"} < set(DEFAULT_SOURCES)
    assert settings(onchain_sources="covalent,bitquery").onchain_sources == ("goldrush", "bitquery")
    assert order_sources(["Covalent", "goldrush"], PROVIDERS, ALIASES) == ("goldrush",)
    assert read_chains("eth_gas_price=jsonrpc>covalent; mvrv=", PROVIDERS, ALIASES) == {
        "eth_gas_price": ("jsonrpc", "goldrush"), "mvrv": (),
    }  # fmt: skip
    given_ = build_chains({"a": ["mvrv"], "b": ["mvrv"]}, ("a", "b"), {"mvrv": ("b", "off", "a")})
    assert given_["mvrv"] == ("b", "a")
    for changes in (
        {"onchain_sources": "coinmetrix"}, {"onchain_chains": "mvrv:coinmetrics"}, {"onchain_chains": "nope=jsonrpc"},
        {"onchain_chains": "mvrv=nobody"}, {"dune_queries": "mvrv=1"}, {"dune_queries": "eth_ex_netflow=x"},
        {"daily_at": "24:00"},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            settings(**changes)
    for changes in (
        {"coinmetrics_url": "ftp://x"}, {"bitquery_token": SecretStr("t"), "bitquery_addresses": tmp_path / "none"},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            configure(settings(**changes))


def days_of(values: dict[int, str], source: str = "bgeometrics") -> dict[int, Reading]:
    return {T0 + n * DAY_S: Reading("asopr", value, T0 + n * DAY_S, source) for n, value in values.items()}


def test_seven_days_or_nothing() -> None:
    week = days_of({n: f"1.0{n}" for n in range(7)})
    mean = mean_asopr(week, T0 + 6 * DAY_S)
    assert mean == Reading("asopr_7d", "1.03", T0 + 6 * DAY_S, "bgeometrics")
    assert mean_asopr(week, T0 + 7 * DAY_S) is None
    assert mean_asopr({t: r for t, r in week.items() if t != T0 + 3 * DAY_S}, T0 + 6 * DAY_S) is None
    third = mean_asopr(days_of(dict.fromkeys(range(6), "1") | {6: "2"}), T0 + 6 * DAY_S)
    assert third is not None and third.value == "1.1428571429"


def test_a_mean_is_never_spliced_from_two_providers() -> None:
    history = {
        ("asopr", "glassnode"): days_of(dict.fromkeys(range(6), "1"), "glassnode"),
        ("asopr", "bgeometrics"): days_of({6: "1"}),
        ("nupl", "coinmetrics"): {T0 + 6 * DAY_S: Reading("nupl", "0.4", T0 + 6 * DAY_S, "coinmetrics:1-1/mvrv")},
    }
    chains = {"asopr": ("glassnode", "bgeometrics"), "nupl": ("glassnode", "coinmetrics"), "mvrv": ()}
    row = build_day(T0 + 6 * DAY_S, history, chains)
    assert row is not None and row.values == {"nupl": "0.4"} and row.source == {"nupl": "coinmetrics:1-1/mvrv"}
    assert build_day(T0 + 7 * DAY_S, history, chains) is None


def test_nupl_is_derived_by_its_definition() -> None:
    assert derive_nupl(Decimal("2")) == Decimal("0.5")
    assert derive_nupl(Decimal("0.5")) == Decimal("-1")
    assert derive_nupl(Decimal(0)) is None


def test_a_slot_without_anything_known_has_no_row() -> None:
    gas = Reading("eth_gas_price", "0.4", T0 - 12, "etherscan")
    assert slot_of(T0 + 899) == T0 and slot_of(T0 + 900) == T0 + 900
    assert build_slot(T0, {"eth_gas_price": None}) is None
    row = build_slot(T0, {"eth_gas_price": gas, "btc_ex_netflow": None})
    assert row == MacroSlotRow(
        T0, {"eth_gas_price": "0.4"}, {"eth_gas_price": "2026-09-27T23:59:48Z"}, {"eth_gas_price": "etherscan"}
    )


def test_messages_are_what_the_documents_promise() -> None:
    slot = MacroSlotRow(
        T0, {"eth_gas_price": "0.433"}, {"eth_gas_price": "2026-09-28T00:00:03Z"}, {"eth_gas_price": "e"}
    )
    day = MacroDayRow(T0, {"mvrv": "-0.5"}, {"mvrv": "2026-09-28T00:00:00Z"}, {"mvrv": "glassnode"})
    for message in (macro_slot_message(slot, 1), macro_day_message(day, 2)):
        assert find_fault(message.key, message.body) is None, message.body
    assert macro_slot_message(slot, 1).message_id == "onchain.macro.15m@2026-09-28T00:00:00Z#1"
    assert macro_day_message(day, 2).message_id == "onchain.macro.1d@2026-09-28#2"


def test_what_is_told_of_the_future_or_not_asked_for_is_left_out() -> None:
    desk = Desk({"mvrv": ("a",)}, {("mvrv", "a"): DAILY, ("eth_gas_price", "a"): GAS}, Known())
    told = [
        Reading("mvrv", "1", T0 - DAY_S, "a"), Reading("mvrv", "2", T0, "a"), Reading("nupl", "3", T0 - DAY_S, "a"),
        Reading("eth_gas_price", "4", T0, "a"), Reading("mvrv", "5", T0 - DAY_S, "b"),
    ]  # fmt: skip
    desk.take(told, ["mvrv"], T0 + DAY_S - 1)
    assert list(desk.changes.readings) == [("mvrv", "a", T0 - DAY_S)] and desk.provisional_total == 1
    desk.take(told, ["mvrv", "eth_gas_price"], T0 - 61)
    assert ("eth_gas_price", "a", T0) not in desk.changes.readings


def test_the_schedule_is_four_times_an_hour_and_once_a_day() -> None:
    at = dt.datetime(2026, 9, 28, 10, 1, tzinfo=dt.UTC)
    triggers = plan_triggers("00:20", Clock())
    found: list[str] = []
    for _ in range(5):
        at = triggers["quarter"].get_next_fire_time(None, at + dt.timedelta(seconds=1))
        found.append(f"{at:%H:%M:%S}")
    assert found == ["10:15:00", "10:30:00", "10:45:00", "11:00:00", "11:15:00"]
    assert triggers["day"].get_next_fire_time(None, at) == dt.datetime(2026, 9, 29, 0, 20, tzinfo=dt.UTC)


@pytest.mark.parametrize("offset_s", [0.0, -5.0, 5.0, -0.0004, 3605.5, -3605.5])
def test_the_schedule_is_by_our_clock_as_the_slots_are(offset_s: float) -> None:
    """Or a machine whose clock is ahead would write every row under the quarter before."""
    clock, fire = Clock(offset_s=offset_s), dt.datetime(2026, 9, 28, 10, 7, tzinfo=dt.UTC)
    triggers, fired = plan_triggers("00:20", clock), None
    for _ in range(8):
        fired = fire = triggers["quarter"].get_next_fire_time(fired, fire + dt.timedelta(seconds=1))
        ours_ms = round(fire.timestamp() * 1000) + clock.offset_ms
        assert slot_of(ours_ms // 1000) * 1000 == ours_ms
    ours = triggers["day"].get_next_fire_time(None, fire) + dt.timedelta(milliseconds=clock.offset_ms)
    assert (ours.hour, ours.minute, ours.second) == (0, 20, 0)
