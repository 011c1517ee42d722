"""The door to one provider: quota first, then the call; what passes by itself is tried again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping

import httpx
import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from common.backoff import full_jitter, parse_retry_after
from common.clock import Clock
from common.errors import BadInput, Refused, TryLater
from macro_ingestor.configured import Configured
from macro_ingestor.providers.shape import Params

log = logging.getLogger(__name__)

RESET_HEADER = "x-rate-limit-reset"
"""Glassnode's: seconds until calls are allowed again."""
SAID_MAX = 200


class DoorLimits(msgspec.Struct, frozen=True):
    """Limits of calls, in real seconds."""

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 20.0
    call_timeout_s: float = 30.0
    attempts_max: int = 3
    retry_first_s: float = 0.5
    retry_max_s: float = 5.0
    answer_bytes_max: int = 8 * 2**20
    connections_max: int = 4


class QuotaSpent(TryLater):
    """No call is left: nothing was sent, and the vendor is not to blame."""


class _Passing(TryLater):
    """A failure that may pass by itself within seconds: worth a second try here."""


class Door:
    """What `fetch` of a provider calls through (`providers.shape.Client`).

    `take_call` books a call before it is made and answers whether it may be. `is_on_trial` makes calls single tries.
    """

    def __init__(
        self,
        configured: Configured,
        take_call: Callable[[Configured], Awaitable[bool]],
        clock: Clock,
        limits: DoorLimits,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.configured = configured
        self.is_on_trial = False
        self.last_body = b""
        self.calls_total = 0
        self._take_call, self._clock, self._limits = take_call, clock, limits
        self._rng = random.Random()
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(limits.read_timeout_s, connect=limits.connect_timeout_s),
            limits=httpx.Limits(max_connections=limits.connections_max),
            transport=transport,
        )

    @property
    def key(self) -> str:
        """The provider's key."""
        return self.configured.key

    @property
    def options(self) -> Mapping[str, object]:
        """What else the settings say of the provider."""
        return self.configured.options

    def now_s(self) -> int:
        """Our time."""
        return self._clock.wall_ms() // 1000

    async def get(self, path: str, params: Params = (), headers: Mapping[str, str] | None = None) -> bytes:
        """GET; see `Client`."""
        request = self._http.build_request("GET", self._address(path), params=list(params) or None, headers=headers)
        return await self._call(request)

    async def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> bytes:
        """POST; see `Client`."""
        return await self._call(self._http.build_request("POST", self._address(path), json=body, headers=headers))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _address(self, path: str) -> str:
        # Not httpx' base_url, which ends every address with a slash: a node's whole address may end with its key.
        url = self.configured.url
        return url.rstrip("/") + path if path else url

    async def _call(self, request: httpx.Request) -> bytes:
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, _Passing)),
            stop=stop_after_attempt(1 if self.is_on_trial else self._limits.attempts_max),
            wait=self._pause_s,
            reraise=True,
        )
        return await retrying(self._try_once, request)

    def _pause_s(self, state: RetryCallState) -> float:
        return full_jitter(state.attempt_number - 1, self._limits.retry_first_s, self._limits.retry_max_s, self._rng)

    async def _try_once(self, request: httpx.Request) -> bytes:
        name = self.configured.provider.name
        if not await self._take_call(self.configured):
            raise QuotaSpent(f"{name}: its quota is spent")
        self.calls_total += 1
        self.last_body = b""
        try:
            async with asyncio.timeout(self._limits.call_timeout_s):
                return await self._send(name, request)
        except (httpx.TransportError, TimeoutError) as error:
            raise _Passing(f"{name}: {type(error).__name__} {error}".rstrip()) from error
        except httpx.HTTPError as error:
            raise BadInput(f"{name}: {type(error).__name__} {error}") from error

    async def _send(self, name: str, request: httpx.Request) -> bytes:
        response = await self._http.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > self._limits.answer_bytes_max:
                    raise BadInput(f"{name}: an answer of more than {self._limits.answer_bytes_max} bytes")
        finally:
            await response.aclose()
        self.last_body = bytes(body)
        if response.status_code != 200:
            raise self._judge(name, response, self.last_body)
        return self.last_body

    def _judge(self, name: str, response: httpx.Response, body: bytes) -> Exception:
        """The error that says what to do. The path is not told: it may hold a key."""
        status = response.status_code
        said = f"{name}: {status} {body[:SAID_MAX].decode(errors='replace')}".rstrip()
        hint_s = parse_retry_after(response.headers.get("Retry-After"), self._clock.wall_ms())
        if status == 429:
            return TryLater(said, hint_s or parse_retry_after(response.headers.get(RESET_HEADER), 0))
        if status >= 500 or status == 408:
            return _Passing(said) if hint_s is None else TryLater(said, hint_s)
        return Refused(said)
