"""REST calls to a venue: spend weight first, retry what passes by itself, say what else to do by the error raised."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Protocol, Self

import httpx
import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from common.backoff import full_jitter, parse_retry_after
from common.clock import Clock
from common.errors import BadInput, ConfigError, Refused, TryLater
from common.venues.market import Request
from common.weights import WeightBudget

__all__ = ["Priority", "RestClient", "RestLimits", "WeightBudget"]

log = logging.getLogger(__name__)

Priority = Literal["live", "background"]

USED_WEIGHT_HEADER = "X-MBX-USED-WEIGHT-1M"
JSON_HEADERS = {"Content-Type": "application/json"}


class RestLimits(msgspec.Struct, frozen=True):
    """Every limit of REST calls, in real seconds: CLOCK_RATE never touches the network.

    `no_hint_pause_s` is how long a 429, 418 or 403 stops all calls when the venue does not say: its window is a
    minute. A 403 is the venue's firewall and concerns the address, not the call.
    """

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 10.0
    call_timeout_s: float = 20.0
    attempts_max: int = 3
    retry_first_s: float = 0.5
    retry_max_s: float = 5.0
    retry_pauses_s: tuple[float, ...] = ()
    """Given, these pauses (each a quarter more or less by chance) decide how often and when a call is tried again."""
    budget_wait_max_s: float = 60.0
    no_hint_pause_s: float = 60.0
    connections_max: int = 8
    body_bytes_max: int = 32 * 2**20


class _Passing(TryLater):
    """A failure that may pass by itself within seconds: worth a second try here."""


class Answer(msgspec.Struct, frozen=True):
    """What a host answered; names of headers in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Caller(Protocol):
    """How a call is made: raises httpx.TransportError or TimeoutError, BadInput for a body that is too long."""

    async def call(self, request: Request) -> Answer:
        """Make one call."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class _VenueError(msgspec.Struct, frozen=True):
    """{"code":-1121,"msg":"Invalid symbol."}."""

    code: int
    msg: str


class RestClient:
    """Calls to one host; all clients of a host in a process share one `budget`, and with it the circuit.

    `headers` go with every call of httpx, which makes them; a `caller` makes them instead (`common.lean_http`: for
    many small ones). Raises ConfigError when `base_url` can never work.
    """

    def __init__(
        self,
        base_url: str,
        budget: WeightBudget,
        limits: RestLimits,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        headers: Mapping[str, str] | None = None,
        caller: Caller | None = None,
    ) -> None:
        address = _address_of(base_url)
        self._budget, self._limits = budget, limits
        self._clock = clock or Clock()
        self._rng = rng or random.Random()
        self._caller = caller or _Httpx(address, limits, headers)

    @property
    def budget(self) -> WeightBudget:
        """For metrics: used, limit, open_until_s."""
        return self._budget

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._caller.close()

    async def fetch(self, request: Request, priority: Priority = "live") -> bytes:
        """Make one call and return the body of its 200 answer, of at most `body_bytes_max`.

        Raises TryLater (with `wait_s` where it is known) when the host is away, failing or asks for patience, or when
        the budget has no room within `budget_wait_max_s`; Refused with the venue's code and text for any other 4xx;
        BadInput when the answer is too long.
        """
        pauses = self._limits.retry_pauses_s
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, _Passing)),
            stop=stop_after_attempt(len(pauses) + 1 if pauses else self._limits.attempts_max),
            wait=self._pause_s,
            reraise=True,
        )
        return await retrying(self._try_once, request, priority)

    def _pause_s(self, state: RetryCallState) -> float:
        if pauses := self._limits.retry_pauses_s:
            # Asked after the last try too.
            return pauses[min(state.attempt_number, len(pauses)) - 1] * self._rng.uniform(0.75, 1.25)
        return full_jitter(state.attempt_number - 1, self._limits.retry_first_s, self._limits.retry_max_s, self._rng)

    async def _try_once(self, request: Request, priority: Priority) -> bytes:
        await self._spend(request, priority)
        try:
            async with asyncio.timeout(self._limits.call_timeout_s):
                answer = await self._caller.call(request)
        except (httpx.TransportError, TimeoutError) as error:
            raise _Passing(f"{request.path}: {type(error).__name__} {error}".rstrip()) from error
        except httpx.HTTPError as error:
            raise BadInput(f"{request.path}: {type(error).__name__} {error}") from error
        return self._judge(request, answer)

    async def _spend(self, request: Request, priority: Priority) -> None:
        """Wait for room in the budget, then book the weight; no other task can come in between."""
        deadline_s = self._clock.monotonic_s() + self._limits.budget_wait_max_s
        while True:
            now_s = self._clock.monotonic_s()
            blocked_s = self._budget.blocked_s(now_s)
            if blocked_s > 0:
                raise TryLater(f"{request.path}: the venue asked for a pause", max(1.0, blocked_s))
            wait_s = self._budget.wait_s(request.weight, now_s, background=priority == "background")
            if wait_s <= 0:
                return self._budget.spend(request.weight, now_s)
            if now_s + wait_s > deadline_s:
                raise TryLater(f"{request.path}: no room in the budget", max(1.0, wait_s))
            await asyncio.sleep(wait_s)

    def _judge(self, request: Request, answer: Answer) -> bytes:
        """Turn an answer into its body or the error that says what to do; keeps the budget's books."""
        now_s = self._clock.monotonic_s()
        used: str = answer.headers.get(USED_WEIGHT_HEADER, "")
        if used.isascii() and used.isdecimal():
            self._budget.observe(int(used[:9]), now_s)
        if answer.status == 200:
            return answer.body
        what = f"{request.path}: {answer.status} {_venue_text(answer.body)}".rstrip()
        hint_s = parse_retry_after(answer.headers.get("Retry-After"), self._clock.wall_ms())
        if answer.status in (403, 418, 429):
            pause_s = hint_s or self._limits.no_hint_pause_s
            self._budget.open_circuit(now_s + pause_s)
            log.warning("circuit opened", extra={"path": request.path, "status": answer.status, "pause_s": pause_s})
            raise TryLater(what, pause_s)
        if answer.status >= 500 or answer.status == 408:
            raise (_Passing(what) if hint_s is None else TryLater(what, hint_s))
        raise Refused(what)


class _Httpx:
    """Calls by httpx."""

    def __init__(self, address: httpx.URL, limits: RestLimits, headers: Mapping[str, str] | None) -> None:
        self._limits = limits
        self._http = httpx.AsyncClient(
            base_url=address,
            headers=headers,
            timeout=httpx.Timeout(limits.read_timeout_s, connect=limits.connect_timeout_s),
            limits=httpx.Limits(
                max_connections=limits.connections_max, max_keepalive_connections=limits.connections_max
            ),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, request: Request) -> Answer:
        method, headers = ("GET", None) if request.json_body is None else ("POST", JSON_HEADERS)
        async with self._http.stream(
            method, request.path, params=list(request.params), content=request.json_body, headers=headers
        ) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > self._limits.body_bytes_max:
                    raise BadInput(f"{request.path}: more than {self._limits.body_bytes_max} bytes")
            return Answer(response.status_code, response.headers, bytes(body))


def _address_of(base_url: str) -> httpx.URL:
    try:
        address = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{base_url!r} is not an address: {error}") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigError(f"{base_url!r} is not an http:// or https:// address")
    return address


def _venue_text(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=_VenueError)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return body[:200].decode(errors="replace")
    return f"code {error.code}: {error.msg}"
