"""GoldRush (Covalent): gas only, in wei, under its own time. It sells no exchange flows.

https://goldrush.dev/docs: an envelope with `error` true and `error_code`, which may come with HTTP 200.
"""

from __future__ import annotations

from collections.abc import Collection

from common.errors import BadInput
from macro_ingestor.answers import (
    as_row,
    as_rows,
    judge_error,
    read_decimal,
    read_json,
    read_time,
    says_no,
    wei_to_gwei,
    write_decimal,
)
from macro_ingestor.chains import offer_gas
from macro_ingestor.providers.shape import Client, Provider
from macro_ingestor.readings import Reading

NAME = "goldrush"


async def fetch(client: Client, columns: Collection[str], since: int) -> list[Reading]:
    """One call."""
    path = "/v1/eth-mainnet/event/erc20/gas_prices/"
    return [parse_prices(await client.get(path, (), {"Authorization": f"Bearer {client.key}"}))]


def parse_prices(body: bytes) -> Reading:
    """The price of the last minute, the first of its items; raises TryLater, Refused, BadInput."""
    answer = as_row(read_json(body), "goldrush's answer")
    if answer.get("error"):
        text = f"goldrush: {answer.get('error_code')}: {str(answer.get('error_message'))[:160]}"
        raise judge_error(text, says_no(answer.get("error_code")))
    data = as_row(answer.get("data"), "goldrush's data")
    items = as_rows(data.get("items"), "goldrush's items")
    wei = read_decimal(items[0].get("gas_price"), "gas_price") if items else None
    if wei is None or wei < 0:
        raise BadInput(f"goldrush: no price in {str(data)[:160]}")
    return Reading(
        "eth_gas_price", write_decimal(wei_to_gwei(wei)), read_time(data.get("updated_at"), "updated_at"), NAME
    )


PROVIDER = Provider(
    NAME, fetch, "https://api.covalenthq.com", key_setting="GOLDRUSH_API_KEY", key_offers=(offer_gas(),)
)
