"""Etherscan V2 gas oracle: gwei as decimal text. It names a block but no time, so the time is ours.

https://docs.etherscan.io: errors come with HTTP 200, `status` "0" and a text in `result`.
"""

from __future__ import annotations

from collections.abc import Collection

from common.errors import BadInput, TryLater
from macro_ingestor.answers import as_row, has_words, judge_error, read_decimal, read_json, write_decimal
from macro_ingestor.chains import offer_gas
from macro_ingestor.providers.shape import Client, Provider
from macro_ingestor.quota import Quota
from macro_ingestor.readings import DAY_S, Reading

NAME = "etherscan"
RATE_WAIT_S = 5.0
BUSY_WORDS = ("rate limit", "try again later")
"""Before the others: too many calls with a wrong key are told as such."""
NO_WORDS = (
    "api key", "deprecated", "chainid", "missing or invalid", "not supported", "upgrade", "pro endpoint", "suspended",
)  # fmt: skip
"""Of the key, the address and the plan; a bare "Error!" or a timeout of a query passes by itself."""


async def fetch(client: Client, columns: Collection[str], since: int) -> list[Reading]:
    """One call."""
    words = [("chainid", "1"), ("module", "gastracker"), ("action", "gasoracle"), ("apikey", client.key)]
    return [parse_oracle(await client.get("/v2/api", words), client.now_s())]


def parse_oracle(body: bytes, now_s: int) -> Reading:
    """What a transaction pays to go through soon (`ProposeGasPrice`); raises TryLater, Refused, BadInput."""
    answer = as_row(read_json(body), "etherscan's answer")
    result = answer.get("result")
    if answer.get("status") != "1":
        text = f"etherscan: {answer.get('message')}: {str(result)[:160]}"
        if has_words(text, BUSY_WORDS):
            raise TryLater(text, RATE_WAIT_S)
        raise judge_error(text, has_words(text, NO_WORDS))
    price = read_decimal(as_row(result, "etherscan's result").get("ProposeGasPrice"), "ProposeGasPrice")
    if price is None or price < 0:
        raise BadInput(f"etherscan: no price in {str(result)[:160]}")
    return Reading("eth_gas_price", write_decimal(price), now_s, NAME)


PROVIDER = Provider(
    NAME, fetch, "https://api.etherscan.io", key_setting="ETHERSCAN_API_KEY", quotas=(Quota(DAY_S, 100_000),),
    key_offers=(offer_gas(),),
)  # fmt: skip
