"""Publishing with confirms, on a connection that does nothing else.

The broker blocks a connection that publishes while its alarms ring, and even a declare hangs on it: so topology and
consumers live elsewhere (`common.bus`). Below is aiormq, the protocol layer of aio-pika: publishing through it without
a drain per message costs 60 % of what aio-pika's own publish does.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Protocol, cast

import msgspec
from aiormq import spec
from aiormq.channel import Channel
from pamqp.common import FieldValue

from common.amqp import FAILURES, Link, login_of, named_failures, open_link, try_later
from common.backoff import full_jitter
from common.clock import Clock
from common.contracts import OutgoingMessage
from common.errors import Refused, TryLater
from common.topology import EXCHANGE, EXCHANGE_DEAD

log = logging.getLogger(__name__)

_SHORT_STRING_MAX = 255
_PERSISTENT = 2
_TRANSIENT = 1


class PublisherLimits(msgspec.Struct, frozen=True):
    """Bounds of one publisher."""

    connect_timeout_s: float = 10.0
    confirm_timeout_s: float = 10.0
    close_timeout_s: float = 2.0
    heartbeat_s: int = 10
    gather_max: int = 256
    """Messages in flight at once: smaller costs time, larger gains nothing."""
    body_bytes_max: int = 131_064
    """One body frame; a message the broker refuses closes the channel and would come back for ever."""
    dead_bytes_max: int = 65_536
    transient_messages_max: int = 10_000
    dead_messages_max: int = 1_000
    retry_first_s: float = 0.25
    retry_max_s: float = 5.0


class Publisher(Protocol):
    """What the outbox and the services need from a publisher."""

    async def publish(self, messages: Sequence[OutgoingMessage], *, exchange: str = EXCHANGE) -> None:
        """Return once the broker confirmed every message; raises TryLater when any is in doubt."""
        ...

    def publish_transient(self, message: OutgoingMessage, *, exchange: str = EXCHANGE) -> None:
        """Send when possible, without waiting; when too many wait, the oldest is dropped and counted."""
        ...

    def refusal(self, message: OutgoingMessage) -> str | None:
        """Why the broker would never take this message; None when it would."""
        ...


def dead_letter(
    raw: bytes, reason: str, source: str, bytes_max: int = PublisherLimits().dead_bytes_max
) -> OutgoingMessage:
    """What nobody could read or send, with the reason in a header, cut to a size the broker takes."""
    headers = {"reason": reason[:1000], "source": source, "bytes": len(raw)}
    return OutgoingMessage(source[:_SHORT_STRING_MAX], "", raw[:bytes_max], headers=json.dumps(headers))


def publish_dead(publisher: Publisher, raw: bytes, reason: str, source: str) -> None:
    """Keep what can not be read as a dead letter, without waiting; `source` says where it came from ("ohlcv.feed")."""
    publisher.publish_transient(dead_letter(raw, reason, source), exchange=EXCHANGE_DEAD)


def message_type(key: str) -> str:
    """A routing key without the words that name a symbol, account or market."""
    words = key.split(".")
    if words[0] in ("price_updates", "metric_updates"):
        return f"{words[0]}.{words[-1]}"
    return words[0] if words[0] == "influencer_signals" else key


@lru_cache(maxsize=4096)
def _headers(text: str) -> dict[str, FieldValue]:
    value: object = json.loads(text) if text else {}
    if not isinstance(value, dict):
        raise ValueError("headers are not a JSON object")
    return cast(dict[str, FieldValue], value)


class _Parcel(msgspec.Struct, frozen=True):
    exchange: str
    message: OutgoingMessage
    persistent: bool


class AmqpPublisher:
    """The publisher of one process. `prepare` declares the topology and runs before every connect."""

    def __init__(
        self,
        url: str,
        app_id: str,
        *,
        prepare: Callable[[], Awaitable[None]] | None = None,
        limits: PublisherLimits | None = None,
        wall_ms: Callable[[], int] | None = None,
    ) -> None:
        self._url = url
        self._app_id = app_id
        self._prepare = prepare
        self._limits = limits or PublisherLimits()
        self._wall_ms = wall_ms or Clock().wall_ms
        self._login: str | None = None
        self._link: Link | None = None
        self._connecting = asyncio.Lock()
        self._beats: deque[_Parcel] = deque(maxlen=self._limits.transient_messages_max)
        self._dead: deque[_Parcel] = deque(maxlen=self._limits.dead_messages_max)
        self._waiting = asyncio.Event()
        self.confirmed_total = 0
        self.transient_dropped_total = 0
        self.dead_total = 0
        self.connects_total = 0

    def refusal(self, message: OutgoingMessage) -> str | None:
        """Why the broker would never take this message; None when it would."""
        if len(message.body) > self._limits.body_bytes_max:
            return f"body of {len(message.body)} bytes is larger than {self._limits.body_bytes_max}"
        if not 0 < len(message.key.encode()) <= _SHORT_STRING_MAX:
            return "routing key is empty or longer than 255 bytes"
        if len(message.message_id.encode()) > _SHORT_STRING_MAX:
            return "message id is longer than 255 bytes"
        try:
            _headers(message.headers)
        except ValueError as error:
            return f"headers: {error}"
        return None

    async def publish(self, messages: Sequence[OutgoingMessage], *, exchange: str = EXCHANGE) -> None:
        """Send all messages in order and wait for the confirms.

        Raises TryLater when any of them is in doubt (all may be sent again then), Refused for one that never passes.
        """
        for message in messages:
            if (reason := self.refusal(message)) is not None:
                raise Refused(f"message {message.message_id}: {reason}")
        most = self._limits.gather_max
        for start in range(0, len(messages), most):
            await self._confirm([_Parcel(exchange, m, True) for m in messages[start : start + most]])

    def publish_transient(self, message: OutgoingMessage, *, exchange: str = EXCHANGE) -> None:
        """Send soon, if at all: beats are not stored by the broker, dead letters are. Needs `run`."""
        dead = exchange == EXCHANGE_DEAD
        queue = self._dead if dead else self._beats
        self.dead_total += dead
        if self.refusal(message) is not None or len(queue) == queue.maxlen:
            self.transient_dropped_total += 1
            if self.refusal(message) is not None:
                return
        queue.append(_Parcel(exchange, message, persistent=dead))
        self._waiting.set()

    async def run(self) -> None:
        """Send what `publish_transient` took, for ever."""
        attempt, rng = 0, random.Random()
        while True:
            await self._waiting.wait()
            parcels = self._take()
            try:
                await self._confirm(parcels)
                attempt = 0
            except TryLater as error:
                self._put_back(parcels)
                wait_s = full_jitter(attempt, self._limits.retry_first_s, self._limits.retry_max_s, rng)
                attempt += 1
                await asyncio.sleep(max(wait_s, error.wait_s or 0.0))

    async def close(self) -> None:
        """Close the connection; what waits in `publish_transient` is dropped."""
        link, self._link = self._link, None
        if link is not None:
            await link.close(self._limits.close_timeout_s)

    def _take(self) -> list[_Parcel]:
        parcels: list[_Parcel] = []
        for queue in (self._dead, self._beats):
            while queue and len(parcels) < self._limits.gather_max:
                parcels.append(queue.popleft())
        if not self._dead and not self._beats:
            self._waiting.clear()
        return parcels

    def _put_back(self, parcels: list[_Parcel]) -> None:
        for parcel in reversed(parcels):
            queue = self._dead if parcel.exchange == EXCHANGE_DEAD else self._beats
            if len(queue) == queue.maxlen:
                self.transient_dropped_total += 1
            else:
                queue.appendleft(parcel)
        self._waiting.set()

    async def _open(self) -> Link:
        async with self._connecting:
            if self._link is not None and self._link.is_open:
                return self._link
            self._drop()
            if self._prepare is not None:
                await self._prepare()
            limits = self._limits
            name = f"{self._app_id}/publisher"
            self._link = await open_link(
                self._url, name, heartbeat_s=limits.heartbeat_s, timeout_s=limits.connect_timeout_s
            )
            self._login = login_of(self._url)
            self.connects_total += 1
            log.info("publisher connected", extra={"app_id": self._app_id})
            return self._link

    def _drop(self, link: Link | None = None) -> None:
        """Cut the connection off, unless another task has put a newer one in its place."""
        if self._link is not None and link in (None, self._link):
            self._link.abort()
            self._link = None

    async def _confirm(self, parcels: list[_Parcel]) -> None:
        link = await self._open()
        try:
            with named_failures():
                async with asyncio.timeout(self._limits.confirm_timeout_s):
                    sends = (self._send(link.channel, parcel) for parcel in parcels)
                    answers = await asyncio.gather(*sends, return_exceptions=True)
        except BaseException:
            self._drop(link)
            raise
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        self.confirmed_total += len(parcels) - len(failures)
        if not failures:
            return
        # Whatever it was, a new connection begins from a clean channel.
        self._drop(link)
        for failure in failures:
            if not isinstance(failure, (*FAILURES, asyncio.CancelledError)):
                raise failure
        raise try_later(failures[0]) from failures[0]

    async def _send(self, channel: Channel, parcel: _Parcel) -> None:
        message = parcel.message
        dead = parcel.exchange == EXCHANGE_DEAD
        seconds = message.committed_s or self._wall_ms() // 1000
        await channel.basic_publish(
            message.body,
            exchange=parcel.exchange,
            routing_key=message.key,
            properties=spec.Basic.Properties(
                content_type="application/octet-stream" if dead else "application/json",
                headers=_headers(message.headers),
                delivery_mode=_PERSISTENT if parcel.persistent else _TRANSIENT,
                message_id=message.message_id or None,
                timestamp=dt.datetime.fromtimestamp(seconds, dt.UTC),
                message_type="dead_letter" if dead else message_type(message.key),
                # The broker checks it: a letter that dies says by this who made it, whatever its headers say.
                user_id=self._login,
                app_id=self._app_id,
            ),
            wait=False,
        )
