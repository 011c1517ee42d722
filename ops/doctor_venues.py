"""Ask the venues what `doctor` judges: do they answer, does data come, what time is it there, what is left to spend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from common.errors import BadInput, ConfigError, Refused, TryLater
from common.rest import USED_WEIGHT_HEADER
from common.venues import binance_spot, okx_spot
from common.venues.market import Cadence, Market, Rejected, Request, Several, Trade
from ohlcv_ingestor.settings import OhlcvSettings
from ops import doctor_findings as judge
from ops.doctor_findings import Finding, ok

FRAME_BYTES_MAX = 2**20
CLOSE_TIMEOUT_S = 0.5


class VenueProbe(msgspec.Struct, frozen=True):
    """One venue: where it answers, and how it tells its time. `weight_limit` is None where it does not count."""

    name: str
    ws_url: str
    rest_url: str
    market: Market
    time_request: Request
    parse_time: Callable[[bytes], int]
    weight_limit: int | None = None
    clock_offset_s: float = 0.0


def probes_of(settings: OhlcvSettings) -> list[VenueProbe]:
    """The venues that these settings talk to."""
    binance = VenueProbe(
        "binance", settings.agg_ws_url, settings.binance_rest_url, binance_spot.MARKET, binance_spot.time_request(),
        binance_spot.parse_time, settings.rest_weight_per_min, settings.clock_offset_s,
    )  # fmt: skip
    okx = VenueProbe(
        "okx", settings.okx_ws_url, settings.okx_rest_url, okx_spot.MARKET, okx_spot.time_request(),
        okx_spot.parse_time, None, settings.clock_offset_s,
    )  # fmt: skip
    return [binance] if settings.fallback == "none" else [binance, okx]


async def check_rest(probe: VenueProbe, timeout_s: float) -> list[Finding]:
    """One call for the venue's time: it answers, our clocks agree, and the weight that it counts for us."""
    _require(probe.rest_url, "_REST_URL")
    async with httpx.AsyncClient(base_url=probe.rest_url, timeout=timeout_s) as http:
        began_s, before_s = time.time(), time.monotonic()
        answer = await http.get(probe.time_request.path, params=list(probe.time_request.params))
        took_s = time.monotonic() - before_s
    if answer.status_code != 200:
        raise Refused(f"answers {answer.status_code} {answer.text[:120]}".rstrip())
    theirs_s = probe.parse_time(answer.content) / 1000
    ours_s = began_s + took_s / 2 + probe.clock_offset_s
    findings = [
        ok(f"{probe.name} REST", f"{probe.rest_url}, {1000 * took_s:.0f} ms"),
        judge.judge_skew(f"clock {probe.name}", ours_s, theirs_s, took_s),
    ]
    if probe.weight_limit is not None:
        used = answer.headers.get(USED_WEIGHT_HEADER, "")
        count = int(used) if used.isascii() and used.isdecimal() else None
        findings.append(judge.judge_weight(f"{probe.name} budget", count, probe.weight_limit))
    return findings


async def check_stream(probe: VenueProbe, timeout_s: float) -> list[Finding]:
    """Subscribe to the venue's steady stream and wait for data: a connection alone proves nothing. Raises TryLater."""
    _require(probe.ws_url, "_WS_URL")
    began_s = time.monotonic()
    try:
        async with connect(
            probe.ws_url, compression=None, open_timeout=timeout_s, close_timeout=CLOSE_TIMEOUT_S, ping_interval=None,
            max_size=FRAME_BYTES_MAX,
        ) as socket:  # fmt: skip
            opened_s = time.monotonic() - began_s
            await socket.send(probe.market.subscribe_frame([probe.market.cadence_stream], 1))
            try:
                async with asyncio.timeout(max(0.1, timeout_s - opened_s)):
                    while not _is_data(probe.market.parse(await socket.recv())):
                        pass
            except TimeoutError as error:
                raise TryLater(f"opens after {1000 * opened_s:.0f} ms, and no data comes") from error
    except WebSocketException as error:
        raise TryLater(f"{type(error).__name__}: {error}") from error
    return [ok(f"{probe.name} stream", f"{probe.ws_url}, data after {1000 * (time.monotonic() - began_s):.0f} ms")]


def _require(url: str, kind: str) -> None:
    if not judge.is_address(url, kind):
        raise ConfigError(f"{url!r} is no address")


def _is_data(message: object) -> bool:
    if isinstance(message, Rejected):
        raise BadInput(f"the venue refuses the subscription: {message.reason}")
    return isinstance(message, (Cadence, Trade, Several))
