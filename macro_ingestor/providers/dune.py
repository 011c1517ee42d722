"""Dune: the last results of saved queries, which run on Dune by their own schedule; nothing is executed from here.

https://docs.dune.com/api-reference: DUNE_QUERIES names a query for each column; its rows are one UTC day each, `ts` and
`value`, or `ts`, `token_symbol` and `netflow_usd` for stablecoins. docs/MACRO.md has the SQL.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import cast

from common.errors import Refused, TryLater
from macro_ingestor.answers import (
    Row,
    add_exact,
    as_row,
    as_rows,
    has_words,
    judge_error,
    read_decimal,
    read_json,
    read_time,
    write_decimal,
)
from macro_ingestor.chains import offer_day
from macro_ingestor.providers.shape import Client, Provider
from macro_ingestor.readings import DAY_S, Reading

NAME = "dune"
COLUMNS = ("btc_ex_netflow", "eth_ex_netflow", "sol_ex_netflow", "stbl_cex_netflow")
TOKENS = frozenset(("USDT", "USDC"))
RUNNING = ("QUERY_STATE_PENDING", "QUERY_STATE_EXECUTING")
ROWS_MAX = 1000
COMPLETED = "QUERY_STATE_COMPLETED"
NO_WORDS = ("api key", "not found", "private", "credit", "your plan", "permission")


async def fetch(client: Client, columns: Collection[str], since: int) -> list[Reading]:
    """One call for each column."""
    queries = cast("Mapping[str, int]", client.options["queries"])
    readings: list[Reading] = []
    for column in columns:
        body = await client.get(
            f"/query/{queries[column]}/results", [("limit", str(ROWS_MAX))], {"X-Dune-API-Key": client.key}
        )
        readings += [reading for reading in parse_results(body, column) if reading.as_of >= since]
    return readings


def parse_results(body: bytes, column: str) -> list[Reading]:
    """Readings of whole days; a day that had not ended when the query ran is left out.

    Raises TryLater while a first run is under way, Refused for a failed one, an error, or rows that are not one a day,
    BadInput for no answer.
    """
    answer = as_row(read_json(body), "dune's answer")
    state = answer.get("state")
    if state in RUNNING:
        raise TryLater(f"dune: {state}")
    if answer.get("error") is not None or state != COMPLETED:
        said = str(answer.get("error"))
        # A query that failed tells the same until its next run.
        raise judge_error(f"dune: {state}: {said[:160]}", state is not None or has_words(said, NO_WORDS))
    ran_s = read_time(answer.get("execution_ended_at"), "execution_ended_at")
    rows = as_rows(as_row(answer.get("result"), "dune's result").get("rows"), "dune's rows")
    if answer.get("next_uri"):
        raise Refused(f"dune: more rows than {ROWS_MAX}, so the newest may be missing: let the query select fewer days")
    days = _sum_tokens(rows) if rows and "token_symbol" in rows[0] else _read_values(rows)
    return [
        Reading(column, write_decimal(value), day, NAME) for day, value in sorted(days.items()) if day + DAY_S <= ran_s
    ]


def _read_values(rows: Collection[Row]) -> dict[int, Decimal]:
    found = [(_read_day(row), read_decimal(row.get("value"), "value")) for row in rows]
    _check_once([day for day, _ in found])
    return {day: value for day, value in found if value is not None}


def _sum_tokens(rows: Collection[Row]) -> dict[int, Decimal]:
    """Days on which both tokens have a flow: half a sum would be another metric."""
    days: dict[int, dict[str, Decimal]] = {}
    _check_once([(_read_day(row), str(row.get("token_symbol"))) for row in rows])
    for row in rows:
        value = read_decimal(row.get("netflow_usd"), "netflow_usd")
        if value is not None:
            days.setdefault(_read_day(row), {})[str(row.get("token_symbol"))] = value
    return {day: add_exact(flows[t] for t in TOKENS) for day, flows in days.items() if flows.keys() >= TOKENS}


def _read_day(row: Row) -> int:
    """A query by the hour would pass its midnight hours off as days."""
    day = read_time(row.get("ts"), "ts")
    if day % DAY_S:
        raise Refused(f"dune: {str(row.get('ts'))[:40]} is not the start of a UTC day")
    return day


def _check_once(keys: Sequence[object]) -> None:
    """Two rows of one day are parts of it (a chain, an exchange), and neither is the day's flow."""
    if len(set(keys)) < len(keys):
        raise Refused("dune: several rows of one day: let the query add them up")


PROVIDER = Provider(
    NAME, fetch, "https://api.dune.com/api/v1", key_setting="DUNE_API_KEY",
    key_offers=tuple(offer_day(c, lag_s=3600, recheck_s=3 * 3600, max_age_s=4 * DAY_S) for c in COLUMNS),
    licence="each read costs credits of your plan",
)  # fmt: skip
