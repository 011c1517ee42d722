"""`trading-bus tail`: what passes on the bus, or what its log holds, one message a line."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import click
import msgspec
from aio_pika.abc import AbstractChannel, AbstractQueue

from common.amqp import named_failures
from common.backoff import full_jitter
from common.consuming import BusLimits, BusMessage, Consumer, close_bus, connect_bus
from common.errors import ConfigError, TryLater
from common.topology import EXCHANGE, QUEUE_LOG
from ops.services import find_servers
from ops.tail_lines import (
    Offset,
    format_json,
    format_line,
    is_before,
    offset_of,
    read_offset,
    read_pattern,
    topic_matches,
)

NAME = "trading-bus/tail"
QUEUE_MESSAGES_MAX = 10_000
"""What waits for a slow terminal; beyond it the oldest is dropped, and the broker keeps nothing more for us."""
LOOK_EVERY_S = 3600.0
REWIND = dt.timedelta(minutes=1)
GIVEN_MAX = 10_000
"""Messages remembered, so that those read once more after a loss are not given again."""

# What these tell is told by the error that we raise; without a handler Python would print it a second time.
for _name in ("aio_pika", "aiormq"):
    logging.getLogger(_name).addHandler(logging.NullHandler())

_EPILOG = """\b
Examples:
  trading-bus tail 'price_updates.SOLUSDT.#'
  trading-bus tail 'price_updates.*.1m' --json --count 10
  trading-bus tail '#' --from first --idle 2
  trading-bus tail 'symbol_events.#' --from 2026-01-31T12:00:00Z"""

Take = Callable[[BusMessage], bool]
"""What is done with a message; True when it was the last one wanted."""


class Watch(msgspec.Struct, frozen=True):
    """What to listen to: keys that match `pattern`, live, or from `start` in the log; `idle_s` of nothing end it."""

    url: str
    pattern: str
    start: Offset | None = None
    idle_s: float | None = None
    limits: BusLimits = BusLimits()


@click.command(epilog=_EPILOG)
@click.argument("pattern")
@click.option("--json", "as_json", is_flag=True, help="JSON lines: time, offset, key, message_id, headers, body.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many messages.")
@click.option("--for", "for_s", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds.")
@click.option("--idle", "idle_s", type=click.FloatRange(min=0, min_open=True), help="End when none came for so long.")
@click.option("--from", "start", help="Read the log from here: first, last, an offset, or a time (ISO 8601).")
@click.option(
    "--rmq-url", envvar="RMQ_URL", show_envvar=True, help="Broker; the one of `services up` if none is given."
)
def tail(
    pattern: str,
    as_json: bool,
    count: int | None,
    for_s: float | None,
    idle_s: float | None,
    start: str | None,
    rmq_url: str | None,
) -> None:
    """Print messages whose routing key matches PATTERN (topic words; * is one word, # any number), as they come.

    One line each: when it was published, key, body. Listens through a queue of its own that nobody else notices: it
    holds 10,000 messages, drops the oldest when we are slower than the bus, and is gone when we are. With --from it
    reads the log (trading.bus.log, which holds no beats) and then follows it. After a loss of the connection it joins
    again and says so on stderr; what the bus carried meanwhile is seen only with --from. Ends with Ctrl-C.
    """
    watch = Watch(find_broker(rmq_url), read_pattern(pattern), None if start is None else read_offset(start), idle_s)
    show, seen = (format_json if as_json else format_line), 0

    def take(message: BusMessage) -> bool:
        nonlocal seen
        seen += 1
        click.echo(show(message))
        return seen == count

    asyncio.run(run_until_stopped(follow(watch, take, _tell), for_s))


def find_broker(given: str | None) -> str:
    """Answer the broker's address that was given, or that of `services up`; raises ConfigError."""
    if given:
        return given
    servers = find_servers()
    if servers is None:
        raise ConfigError("no broker: give --rmq-url or RMQ_URL, or run `trading-bus services up`")
    return servers.rmq_url


async def run_until_stopped(work: Coroutine[Any, Any, None], for_s: float | None) -> None:
    """Do `work` until it is done, SIGINT or SIGTERM asks for the end, or the time is up; raises what it raises."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, timeout=for_s, return_when=asyncio.FIRST_COMPLETED)
    for task in (working, stopping):
        task.cancel()
    await asyncio.wait({working, stopping})
    if not working.cancelled():
        working.result()


async def follow(watch: Watch, take: Take, tell: Callable[[str], None]) -> None:
    """Give `take` every message until it says that it has enough; joins again for ever once it has joined.

    Raises TryLater when the first try fails. Live, what was published during a loss is not seen. The log goes on by
    time, a little before the last message seen, without what was given already: a broker that was killed may have lost
    the end of its log, and gives those numbers to other messages.
    """
    at, joined, attempt, rng = watch.start, False, 0, random.Random()
    given: dict[str, dt.datetime | None] = {}
    known: frozenset[str] = frozenset()
    while True:
        try:
            async with aclosing(_messages(watch, at)) as messages:
                async for message in messages:
                    if message is None:
                        if joined:
                            tell("joined again" + ("; what came meanwhile was not seen" if at is None else ""))
                        joined, attempt = True, 0
                        continue
                    if at is not None:
                        if message.message_id in known:
                            continue
                        _remember(given, message)
                    if topic_matches(watch.pattern, message.key) and take(message):
                        return
                return
        except TryLater as error:
            if not joined:
                raise
            newest = max((time for time in given.values() if time is not None), default=None)
            if at is not None and newest is not None:
                at, known = newest - REWIND, frozenset(given)
            limits = watch.limits
            wait_s = full_jitter(attempt, limits.retry_first_s, limits.retry_max_s, rng)
            attempt += 1
            tell(f"lost: {error}; joining again in {wait_s:.1f} s")
            await asyncio.sleep(max(wait_s, error.wait_s or 0.0))


def _remember(given: dict[str, dt.datetime | None], message: BusMessage) -> None:
    """Keep the newest ids; those of other messages than ours have one as well."""
    given[message.message_id] = message.published
    if len(given) > GIVEN_MAX:
        del given[next(iter(given))]


async def _messages(watch: Watch, at: Offset | None) -> AsyncGenerator[BusMessage | None]:
    """None once we have joined, then messages from there on; ends after `idle_s` without one. Raises TryLater."""
    limits = watch.limits
    connection = await connect_bus(watch.url, NAME, limits)
    try:
        with named_failures():
            async with asyncio.timeout(limits.call_timeout_s):
                channel = connection.channel(publisher_confirms=False)
                await channel.initialize()
                await channel.set_qos(prefetch_count=limits.prefetch)
                if at is None:
                    queue = await _own_queue(channel, watch.pattern)
                else:
                    queue = await channel.get_queue(QUEUE_LOG, ensure=False)
        consumer = Consumer(channel, limits)
        await consumer.start(queue, at)
        yield None
        while True:
            message = await consumer.next(watch.idle_s or LOOK_EVERY_S)
            if message is not None and not (at is not None and _is_early(message, at)):
                yield message
            elif message is None and watch.idle_s is not None:
                return
    finally:
        await close_bus(connection, limits)


async def _own_queue(channel: AbstractChannel, pattern: str) -> AbstractQueue:
    queue = await channel.declare_queue(
        exclusive=True, auto_delete=True, arguments={"x-max-length": QUEUE_MESSAGES_MAX, "x-overflow": "drop-head"}
    )
    await queue.bind(EXCHANGE, pattern)
    return queue


def _is_early(message: BusMessage, at: Offset) -> bool:
    # After a restart of the broker a stream may begin before the offset asked for.
    offset = offset_of(message)
    return is_before(message, at) or (isinstance(at, int) and offset is not None and offset < at)


def _tell(line: str) -> None:
    click.echo(f"trading-bus tail: {line}", err=True)
