"""Glassnode: one metric a call, daily points; a paid key (the light API has 50 calls a day, without bulk).

https://docs.glassnode.com/basic-api: `t` is the start of the interval in epoch seconds, the point of the running
interval is provisional.
"""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

from common.errors import BadInput
from macro_ingestor.answers import (
    add_exact,
    as_rows,
    multiply_exact,
    read_decimal,
    read_json,
    read_whole,
    write_decimal,
)
from macro_ingestor.chains import offer_day
from macro_ingestor.providers.shape import Client, Provider
from macro_ingestor.quota import Quota
from macro_ingestor.readings import DAY_S, Reading

NAME = "glassnode"
_NETFLOW = "transactions/transfers_volume_exchanges_net"
METRICS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "btc_ex_netflow": ((_NETFLOW, "BTC", "NATIVE"),),
    "eth_ex_netflow": ((_NETFLOW, "ETH", "NATIVE"),),
    "sol_ex_netflow": ((_NETFLOW, "SOL", "NATIVE"),),
    "stbl_cex_netflow": ((_NETFLOW, "USDT", "USD"), (_NETFLOW, "USDC", "USD")),
    "btc_ex_reserve_pct": (("distribution/balance_exchanges_relative", "BTC", "NATIVE"),),
    "mvrv": (("market/mvrv", "BTC", "NATIVE"),),
    "asopr": (("indicators/sopr_adjusted", "BTC", "NATIVE"),),
    "nupl": (("indicators/net_unrealized_profit_loss", "BTC", "NATIVE"),),
}
"""Column -> path, asset and currency of the metrics whose sum it is."""
TIME_MAX_S = 10**10
"""Milliseconds and worse are above it."""
_FACTOR = {"btc_ex_reserve_pct": 100}
"""A share comes as a fraction."""


async def fetch(client: Client, columns: Collection[str], since: int) -> list[Reading]:
    """Two calls for stablecoins, one for any other column."""
    readings: list[Reading] = []
    for column in columns:
        series: list[dict[int, Decimal]] = []
        for path, asset, currency in METRICS[column]:
            params = [("a", asset), ("i", "24h"), ("c", currency), ("s", str(since)), ("timestamp_format", "unix")]
            body = await client.get(f"/v1/metrics/{path}", params, {"X-Api-Key": client.key})
            series.append(parse_points(body))
        readings += sum_series(column, series)
    return readings


def parse_points(body: bytes) -> dict[int, Decimal]:
    """`[{"t": 1790000000, "v": 1.85}]` by time; a null is no point. Raises BadInput."""
    points: dict[int, Decimal] = {}
    for row in as_rows(read_json(body), "glassnode's answer"):
        if "v" not in row:
            raise BadInput(f"glassnode: a point without v: {str(row)[:120]}")
        value, time = read_decimal(row["v"], "v"), read_whole(row.get("t"), "t")
        if not 0 <= time < TIME_MAX_S:
            raise BadInput(f"glassnode: t is no time in seconds: {time}")
        if value is not None:
            points[time] = value
    return points


def sum_series(column: str, series: list[dict[int, Decimal]]) -> list[Reading]:
    """The metrics of a column added up where all of them have a point: half a sum would be another metric."""
    times = set[int].intersection(*(set(points) for points in series))
    factor = _FACTOR.get(column, 1)
    return [
        Reading(column, write_decimal(multiply_exact(add_exact(points[t] for points in series), factor)), t, NAME)
        for t in sorted(times)
    ]


PROVIDER = Provider(
    NAME, fetch, "https://api.glassnode.com", key_setting="GLASSNODE_API_KEY", quotas=(Quota(DAY_S, 50),),
    key_offers=tuple(offer_day(c, lag_s=3600, recheck_s=6 * 3600, max_age_s=4 * DAY_S) for c in METRICS),
    licence="the API is an add-on of a paid plan",
)  # fmt: skip
