"""What a vendor told, and the columns it is told for. Pure."""

from __future__ import annotations

import msgspec

SLOT_S = 900
DAY_S = 86_400

SLOT_COLUMNS = (
    "btc_ex_netflow", "btc_ex_reserve_pct", "eth_ex_netflow", "eth_gas_price", "sol_ex_netflow", "stbl_cex_netflow",
)  # fmt: skip
"""Columns of `macro_onchain_15m`. Flows are those of one UTC day, net onto exchanges: positive is inflow."""
DAY_COLUMNS = ("mvrv", "asopr", "nupl")
"""What `macro_btc_daily` is made of; `asopr` is the value of one day, the table has the mean of seven."""
COLUMNS = (*SLOT_COLUMNS, *DAY_COLUMNS)


class Reading(msgspec.Struct, frozen=True):
    """One value of one column at the vendor's own time.

    `value` is canonical decimal text, `as_of` epoch seconds: the start of the day that a daily value is about, or the
    moment of a momentary one. `source` is the provider's name, with `:how` behind it where we derived the value.
    """

    column: str
    value: str
    as_of: int
    source: str


def provider_of(source: str) -> str:
    """The provider in a source."""
    return source.partition(":")[0]
