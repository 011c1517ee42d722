"""Calls of `common.rest` by aiohttp: a tenth of the processor time of httpx, for many small answers."""

from __future__ import annotations

import aiohttp
import httpx
from yarl import URL

from common.errors import BadInput
from common.rest import JSON_HEADERS, Answer, RestLimits
from common.venues.market import Request

CHUNK_BYTES = 2**16


class LeanHttp:
    """One host's connections, to be made where the loop runs; it follows no redirect."""

    def __init__(self, base_url: str, limits: RestLimits) -> None:
        self._base_url = base_url.rstrip("/")
        self._limits = limits
        timeout = aiohttp.ClientTimeout(
            total=limits.call_timeout_s, sock_connect=limits.connect_timeout_s, sock_read=limits.read_timeout_s
        )
        connector = aiohttp.TCPConnector(limit=limits.connections_max)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=True)
        # By itself it makes a call again when a connection breaks: one that no budget has seen.
        self._session._retry_connection = False  # pyright: ignore[reportPrivateUsage]

    async def call(self, request: Request) -> Answer:
        """Make one call; errors as `common.rest.Caller` says."""
        url = URL(self._base_url + request.path)
        try:
            method, headers = ("GET", None) if request.json_body is None else ("POST", JSON_HEADERS)
            async with self._session.request(
                method, url, params=list(request.params), data=request.json_body, headers=headers, allow_redirects=False
            ) as response:
                body = bytearray()
                async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                    body += chunk
                    if len(body) > self._limits.body_bytes_max:
                        raise BadInput(f"{request.path}: more than {self._limits.body_bytes_max} bytes")
                return Answer(response.status, response.headers, bytes(body))
        except aiohttp.ClientError as error:
            raise httpx.TransportError(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
