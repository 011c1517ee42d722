"""BGeometrics: one metric a call; free without a key, but the last week and the exchange metrics need a token.

https://bitcoin-data.com: rows are `{"d": "2026-09-20", "unixTs": .., "<metric>": ..}`; free are 10 calls an hour and
15 a day. A reserve share would need a supply that it does not list, so that column is not offered.
"""

from __future__ import annotations

from collections.abc import Collection

from common.contracts import format_time
from common.errors import BadInput
from macro_ingestor.answers import (
    as_row,
    as_rows,
    has_words,
    judge_error,
    read_decimal,
    read_json,
    read_time,
    says_no,
    write_decimal,
)
from macro_ingestor.chains import Offer, offer_day
from macro_ingestor.providers.shape import Client, Provider
from macro_ingestor.quota import HOUR_S, Quota
from macro_ingestor.readings import DAY_S, Reading

NAME = "bgeometrics"
METRICS: dict[str, tuple[str, str]] = {
    "mvrv": ("mvrv", "mvrv"),
    "nupl": ("nupl", "nupl"),
    "asopr": ("asopr", "asopr"),
    "btc_ex_netflow": ("exchange-netflow-btc", "exchangeNetflowBtc"),
}
"""Column -> path and the value's key in a row."""
_TOKEN_ONLY = ("btc_ex_netflow",)
FREE_LAG_S = 7 * DAY_S
"""The last seven days are the subscribers'."""


async def fetch(client: Client, columns: Collection[str], since: int) -> list[Reading]:
    """One call for each column."""
    headers = {"Authorization": f"Bearer {client.key}"} if client.key else {}
    readings: list[Reading] = []
    for column in columns:
        path, _ = METRICS[column]
        params = [("startday", format_time(since)[:10]), ("endday", format_time(client.now_s())[:10]), ("size", "100")]
        readings += parse_rows(await client.get(f"/v1/{path}", params, headers), column)
    return readings


def parse_rows(body: bytes, column: str) -> list[Reading]:
    """Readings of one metric; raises TryLater or Refused for an error in the body, BadInput for what is no answer."""
    answer = read_json(body)
    if isinstance(answer, dict):
        error = as_row(answer, "bgeometrics' answer")  # pyright: ignore[reportUnknownArgumentType]
        text = f"bgeometrics: {error.get('status')}: {error.get('error')} {error.get('message')}"[:200]
        raise judge_error(text, says_no(error.get("status")) and not has_words(text, ("limit",)))
    _, key = METRICS[column]
    readings: list[Reading] = []
    for row in as_rows(answer, "bgeometrics' answer"):
        if key not in row:
            raise BadInput(f"bgeometrics: a row without {key}: {str(row)[:120]}")
        value = read_decimal(row[key], key)
        if value is not None:
            readings.append(Reading(column, write_decimal(value), read_time(row.get("d"), "d"), NAME))
    return readings


def _offer(column: str, lag_s: int) -> Offer:
    return offer_day(column, lag_s=lag_s, recheck_s=12 * HOUR_S, max_age_s=lag_s + 4 * DAY_S)


PROVIDER = Provider(
    NAME, fetch, "https://bitcoin-data.com", key_setting="BGEOMETRICS_TOKEN",
    quotas=(Quota(HOUR_S, 10), Quota(DAY_S, 15)),
    offers=tuple(_offer(column, FREE_LAG_S) for column in METRICS if column not in _TOKEN_ONLY),
    key_offers=tuple(_offer(column, DAY_S // 2) for column in METRICS),
    licence="free data is seven days old; the exchange metrics need a token",
)  # fmt: skip
