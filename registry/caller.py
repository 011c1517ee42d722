"""One vendor's REST as a run needs it: patient to a bound, a few calls at once, and silent once the vendor is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from common.errors import BadInput, TryLater
from common.rest import RestClient
from common.venues.market import Request

log = logging.getLogger(__name__)

T = TypeVar("T")

FAILURES_MAX = 5
"""So many calls in a row that failed for the vendor's reasons, and the rest of the run does not ask it again."""
REPEATS_MAX = 2
UNREADABLE_PAUSE_S = 1.0
PAUSE_MARGIN_S = 0.2

Parse = Callable[[bytes], T]


class Caller:
    """Calls of one run to one vendor; `name` is for people."""

    def __init__(self, name: str, client: RestClient, at_once: int, retry_after_max_s: float) -> None:
        self.name = name
        self._client = client
        self._room = asyncio.Semaphore(at_once)
        self._retry_after_max_s = retry_after_max_s
        self._failures = 0

    @property
    def calls(self) -> int:
        """Calls made, every try counted."""
        return self._client.budget.calls_total

    @property
    def weight(self) -> int:
        """Their weight."""
        return self._client.budget.weight_total

    async def ask(self, request: Request, parse: Parse[T]) -> T:
        """Make one call and read its answer; a pause the vendor asks for is kept when it is short enough.

        Raises TryLater when the vendor is away (at once, when it was away for the calls before), BadInput when its
        answer can not be read, Refused when it says no to this call.
        """
        async with self._room:
            if self._failures >= FAILURES_MAX:
                raise TryLater(f"{self.name} did not answer {self._failures} calls in a row")
            try:
                answer = await self._ask_patiently(request, parse)
            except (TryLater, BadInput):
                self._failures += 1
                raise
            self._failures = 0
            return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask_patiently(self, request: Request, parse: Parse[T]) -> T:
        for turn in range(REPEATS_MAX + 1):
            try:
                return parse(await self._client.fetch(request))
            except TryLater as error:
                # Without a hint the client has tried as often as it should.
                pause_s = error.wait_s
                if pause_s is None or pause_s > self._retry_after_max_s or turn == REPEATS_MAX:
                    raise
            except BadInput:
                pause_s = UNREADABLE_PAUSE_S
                if turn == REPEATS_MAX:
                    raise
            await asyncio.sleep(pause_s + PAUSE_MARGIN_S)
        raise AssertionError("unreachable")
