"""Bitquery V2: flows that we count ourselves, over the exchange addresses in BITQUERY_ADDRESSES.

https://docs.bitquery.io: GraphQL; errors come with HTTP 200 and `errors`. Only what leaves or enters the listed
addresses counts, transfers between them do not; the value is as good as the list.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import cast

from common.contracts import format_time
from macro_ingestor.answers import (
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

NAME = "bitquery"
LISTS = {"eth_ex_netflow": "eth", "stbl_cex_netflow": "eth", "sol_ex_netflow": "sol"}
"""Column -> which address list it needs."""
NO_WORDS = (
    "cannot query field", "unknown argument", "unknown type", "unknown field", "expected type", "syntax error",
    "parse error", "validation_failed", "parse_failed", "unauthorized", "unauthenticated", "forbidden",
    "access denied", "invalid token", "token expired", "token is expired", "billing period",
)  # fmt: skip
"""Of the schema, the token and the plan; a database behind it that is full or slow says many other things."""

_USDT = "0xdac17f958d2ee523a2206206994597c13d831ec7"
_USDC = "0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"
_EVM = """query ($list: [String!], $from: DateTime) { EVM(network: eth, dataset: combined) {
 inflow: Transfers(where: {Block: {Time: {since: $from}}, Transfer: {%(what)s, Receiver: {in: $list}, Sender: {notIn: $list}}}) { Block { Date } sum(of: %(sum)s) }
 outflow: Transfers(where: {Block: {Time: {since: $from}}, Transfer: {%(what)s, Sender: {in: $list}, Receiver: {notIn: $list}}}) { Block { Date } sum(of: %(sum)s) }
} }"""  # noqa: E501
_SOLANA = """query ($list: [String!], $from: DateTime) { Solana(dataset: combined) {
 inflow: Transfers(where: {Block: {Time: {since: $from}}, Transfer: {Currency: {Native: true}, Receiver: {Address: {in: $list}}, Sender: {Address: {notIn: $list}}}}) { Block { Date } sum(of: Transfer_Amount) }
 outflow: Transfers(where: {Block: {Time: {since: $from}}, Transfer: {Currency: {Native: true}, Sender: {Address: {in: $list}}, Receiver: {Address: {notIn: $list}}}}) { Block { Date } sum(of: Transfer_Amount) }
} }"""  # noqa: E501
QUERIES = {
    "eth_ex_netflow": _EVM % {"what": "Currency: {Native: true}", "sum": "Transfer_Amount"},
    "stbl_cex_netflow": _EVM
    % {"what": f'Currency: {{SmartContract: {{in: ["{_USDT}", "{_USDC}"]}}}}', "sum": "Transfer_AmountInUSD"},
    "sol_ex_netflow": _SOLANA,
}


async def fetch(client: Client, columns: Collection[str], since: int) -> list[Reading]:
    """One call for each column."""
    lists = cast("Mapping[str, Sequence[str]]", client.options["addresses"])
    headers = {"Authorization": f"Bearer {client.key}"}
    readings: list[Reading] = []
    for column in columns:
        # Whole days only: the first one would be cut.
        start = since - since % DAY_S + DAY_S
        variables = {"list": list(lists[LISTS[column]]), "from": format_time(start)}
        body = await client.post("", {"query": QUERIES[column], "variables": variables}, headers)
        readings += parse_flows(body, column)
    return readings


def parse_flows(body: bytes, column: str) -> list[Reading]:
    """In less out by day; a day without one of the two had none. Raises TryLater, Refused, BadInput."""
    answer = as_row(read_json(body), "bitquery's answer")
    if answer.get("errors"):
        said = str(answer["errors"])
        raise judge_error(f"bitquery: {said[:200]}", has_words(said, NO_WORDS))
    chain = as_row(as_row(answer.get("data"), "bitquery's data").get(_chain_of(column)), "bitquery's chain")
    days: dict[int, Decimal] = {}
    for name in ("inflow", "outflow"):
        for row in as_rows(chain.get(name), f"bitquery's {name}"):
            day = read_time(as_row(row.get("Block"), "Block").get("Date"), "Date")
            flow = read_decimal(row.get("sum"), "sum") or Decimal(0)
            days[day] = add_exact((days.get(day, Decimal(0)), flow if name == "inflow" else flow.copy_negate()))
    return [Reading(column, write_decimal(value), day, NAME) for day, value in sorted(days.items())]


def _chain_of(column: str) -> str:
    return "Solana" if LISTS[column] == "sol" else "EVM"


PROVIDER = Provider(
    NAME, fetch, "https://streaming.bitquery.io/graphql", key_setting="BITQUERY_TOKEN",
    key_offers=tuple(offer_day(c, lag_s=3600, recheck_s=6 * 3600, max_age_s=4 * DAY_S) for c in LISTS),
    licence="flows are counted over your own address lists, not over the vendor's",
)  # fmt: skip
