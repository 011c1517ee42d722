"""Coin Metrics community: all columns in one call, keyless, daily, one to two days late and revised.

https://docs.coinmetrics.io/api/v4: values are text, `time` is the start of the day, 10 requests per 6 s. Licence
CC BY-NC 4.0: not for commercial use.
"""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

from common.contracts import format_time
from macro_ingestor.answers import (
    add_exact,
    as_row,
    as_rows,
    divide,
    has_words,
    judge_error,
    multiply_exact,
    read_decimal,
    read_json,
    read_time,
    write_decimal,
)
from macro_ingestor.chains import offer_day
from macro_ingestor.daily import NUPL_HOW, derive_nupl
from macro_ingestor.providers.shape import Client, Provider
from macro_ingestor.readings import DAY_S, Reading

NAME = "coinmetrics"
PAGES_MAX = 5
NO_WORDS = ("forbidden", "unauthorized", "credentials", "parameter", "not_found", "not_supported")
"""In the type of an error."""
NEEDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "btc_ex_netflow": ("btc", ("FlowInExNtv", "FlowOutExNtv")),
    "eth_ex_netflow": ("eth", ("FlowInExNtv", "FlowOutExNtv")),
    "btc_ex_reserve_pct": ("btc", ("SplyExNtv", "SplyCur")),
    "mvrv": ("btc", ("CapMVRVCur",)),
    "nupl": ("btc", ("CapMVRVCur",)),
}
"""Column -> asset and metrics that it is made of. SOL has no flows here."""


async def fetch(client: Client, columns: Collection[str], since: int) -> list[Reading]:
    """One call, more only where the answer has several pages."""
    params = [
        ("assets", ",".join(sorted({NEEDS[column][0] for column in columns}))),
        ("metrics", ",".join(sorted({metric for column in columns for metric in NEEDS[column][1]}))),
        ("frequency", "1d"), ("start_time", format_time(since)[:10]), ("page_size", "1000"),
    ]  # fmt: skip
    readings: list[Reading] = []
    token: str | None = None
    for _ in range(PAGES_MAX):
        more = [("next_page_token", token)] if token else []
        found, token = parse_page(await client.get("/timeseries/asset-metrics", [*params, *more]), columns)
        readings += found
        if token is None:
            break
    return readings


def parse_page(body: bytes, columns: Collection[str]) -> tuple[list[Reading], str | None]:
    """Readings of a page, and the token of the next one.

    Raises TryLater or Refused for an error in the body, BadInput for what is no answer.
    """
    page = as_row(read_json(body), "coinmetrics' answer")
    if "error" in page:
        error = as_row(page["error"], "coinmetrics' error")
        text = f"coinmetrics: {error.get('type')}: {error.get('message')}"
        raise judge_error(text, has_words(str(error.get("type")), NO_WORDS))
    readings: list[Reading] = []
    for row in as_rows(page.get("data"), "coinmetrics' data"):
        time = read_time(row.get("time"), "time")
        for column in columns:
            asset, metrics = NEEDS[column]
            values = [read_decimal(row.get(metric), metric) for metric in metrics]
            known = [value for value in values if value is not None]
            if row.get("asset") == asset and len(known) == len(metrics):
                readings += _derive(column, known, time)
    token = page.get("next_page_token")
    return readings, token if isinstance(token, str) and token else None


def _derive(column: str, values: list[Decimal], time: int) -> list[Reading]:
    if column == "mvrv":
        return [Reading(column, write_decimal(values[0]), time, NAME)]
    if column == "nupl":
        nupl = derive_nupl(values[0])
        return [] if nupl is None else [Reading(column, write_decimal(nupl), time, f"{NAME}:{NUPL_HOW}")]
    first, second = values
    if column == "btc_ex_reserve_pct":
        if second <= 0:
            return []
        return [Reading(column, write_decimal(divide(multiply_exact(first, 100), second)), time, NAME)]
    return [Reading(column, write_decimal(add_exact((first, second.copy_negate()))), time, NAME)]


PROVIDER = Provider(
    NAME, fetch, "https://community-api.coinmetrics.io/v4", together=True,
    offers=tuple(offer_day(c, lag_s=6 * 3600, recheck_s=3 * 3600, max_age_s=5 * DAY_S) for c in NEEDS),
    licence="community data is CC BY-NC 4.0: not for commercial use without a licence of its own",
)  # fmt: skip
