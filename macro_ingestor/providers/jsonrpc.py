"""Any Ethereum node: `eth_feeHistory`, and the time of the newest block in it, so that a stuck node is noticed.

https://ethereum.github.io/execution-apis: quantities are hexadecimal wei; errors come with HTTP 200 and `error`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from decimal import Decimal
from statistics import median
from typing import cast

from common.errors import BadInput, TryLater
from macro_ingestor.answers import (
    Row,
    add_exact,
    as_row,
    has_words,
    judge_error,
    read_json,
    wei_to_gwei,
    write_decimal,
)
from macro_ingestor.chains import offer_gas
from macro_ingestor.providers.shape import Client, Provider
from macro_ingestor.readings import Reading

NAME = "jsonrpc"
BLOCKS = 5
NO_CODES = (-32600, -32601, -32602)
"""No request, method or parameters that it takes; hosts tell trouble of their own and limits by any other code."""


async def fetch(client: Client, columns: Collection[str], since: int) -> list[Reading]:
    """Two calls."""
    history = parse_result(await client.post("", _call("eth_feeHistory", [hex(BLOCKS), "latest", [50]])))
    newest, price = read_price(history)
    block = parse_result(await client.post("", _call("eth_getBlockByNumber", [hex(newest), False])))
    return [Reading("eth_gas_price", write_decimal(price), _whole(block.get("timestamp"), "timestamp"), NAME)]


def parse_result(body: bytes) -> Row:
    """The result of a call; raises TryLater, Refused, BadInput."""
    answer = as_row(read_json(body), "the node's answer")
    if answer.get("error") is not None:
        error = as_row(answer["error"], "the node's error")
        text = f"jsonrpc: {error.get('code')}: {str(error.get('message'))[:160]}"
        raise judge_error(text, error.get("code") in NO_CODES and not has_words(text, ("limit",)))
    if answer.get("result") is None:
        raise TryLater("jsonrpc: the node does not know yet")
    return as_row(answer["result"], "the node's result")


def read_price(history: Row) -> tuple[int, Decimal]:
    """Number of the newest block, and gwei: the next block's base fee and the median tip of the last ones."""
    fees = [_whole(fee, "baseFeePerGas") for fee in _list(history, "baseFeePerGas")]
    if len(fees) < 2:
        raise BadInput("jsonrpc: baseFeePerGas names no next block")
    # An empty block pays no tip, which says nothing about what one costs.
    paid = zip(_list(history, "reward"), _list(history, "gasUsedRatio"), strict=False)
    tips = [
        Decimal(_whole(cast("Sequence[object]", tip)[0], "reward"))
        for tip, used in paid
        if isinstance(tip, list) and tip and used
    ]
    wei = add_exact((Decimal(fees[-1]), median(tips) if tips else Decimal(0)))
    return _whole(history.get("oldestBlock"), "oldestBlock") + len(fees) - 2, wei_to_gwei(wei)


def _call(method: str, params: list[object]) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def _list(row: Row, name: str) -> Sequence[object]:
    value = row.get(name)
    if not isinstance(value, list):
        raise BadInput(f"jsonrpc: {name} is not a list")
    return cast("list[object]", value)


def _whole(value: object, what: str) -> int:
    try:
        if isinstance(value, str) and value.startswith("0x") and len(value) < 40:
            return int(value, 16)
    except ValueError:
        pass
    raise BadInput(f"jsonrpc: {what} is no quantity: {str(value)[:80]}")


PROVIDER = Provider(NAME, fetch, "", key_setting="ETH_RPC_URL", key_offers=(offer_gas(),))
