"""Read trading.bus with pika, a synchronous AMQP client: live, or from the past out of the stream queue.

    RMQ_URL=amqp://user:password@host/ python examples/replay_pika.py --from first
    RMQ_URL=amqp://user:password@host/ python examples/replay_pika.py --from 2026-01-31T09:00:00Z --follow
    RMQ_URL=amqp://user:password@host/ python examples/replay_pika.py --live

Prints each message that is news, one JSON line each: of repetitions and older revisions nothing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pika

PREFETCH = 200
QUEUE_MESSAGES_MAX = 100_000
CALL_TIMEOUT_S = 10
HEARTBEAT_S = 10
CLOCKS_APART_S = 5
CONSUMER = os.environ.get("CONSUMER", "replay")
"""Our login's name: a consumer may have queues called consumer.<name> and consumer.<name>.*."""

Message = tuple[str, Mapping[str, Any], dict[str, Any]]
"""Routing key, application headers, body."""


class Newest:
    """The highest `rev` per routing key and time: the one thing every consumer has to remember.

    It grows with every row: who listens for days drops what is older than it needs.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}

    def is_news(self, key: str, body: dict[str, Any]) -> bool:
        """Keep a body if its rev is the highest so far; beats and registry events have none and are always news."""
        row = body.get("signalId") or body.get("time") or body.get("day")
        if row is None or not ("rev" in body or "signalId" in body):
            return True
        known = self.rows.get((key, row))
        if known is not None and body.get("rev", 0) <= known.get("rev", 0):
            return False
        self.rows[key, row] = body
        return True


def connect(url: str) -> pika.BlockingConnection:
    """A connection that notices a dead broker, and does not wait for one for ever."""
    parameters = pika.URLParameters(url)
    parameters.heartbeat = HEARTBEAT_S
    parameters.socket_timeout = parameters.blocked_connection_timeout = CALL_TIMEOUT_S
    return pika.BlockingConnection(parameters)


def replay(url: str, offset: str | int | dt.datetime, idle_s: float | None = None) -> Iterator[Message]:
    """Messages of `trading.bus.log` from an offset on: first, last, next, a number, a time (UTC) or an age ("1h").

    With `idle_s` it ends with the present: when a message is younger than this call by more than clocks may differ, or
    none has come for so long.
    After a lost connection go on from a minute before the last message's `timestamp`: a broker that was killed may have
    lost the end of its log, and gives those numbers to other messages.
    """
    present = time.time()
    connection = connect(url)
    try:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=PREFETCH)  # a stream wants one, and acks
        arguments = {"x-stream-offset": offset}
        for method, properties, body in channel.consume(
            "trading.bus.log", arguments=arguments, inactivity_timeout=idle_s
        ):
            if method is None or properties is None or body is None:
                return
            if idle_s is not None and properties.timestamp > present + CLOCKS_APART_S:
                return
            yield method.routing_key, properties.headers or {}, json.loads(body, parse_float=Decimal)
            channel.basic_ack(method.delivery_tag)
    finally:
        connection.close()


def listen(url: str, pattern: str = "price_updates.#", idle_s: float | None = None) -> Iterator[Message]:
    """Messages as they are published, in a queue of our own: bounded, and gone with the connection."""
    connection = connect(url)
    try:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=PREFETCH)
        queue = f"consumer.{CONSUMER}.{uuid.uuid4().hex[:12]}"
        arguments = {"x-max-length": QUEUE_MESSAGES_MAX, "x-overflow": "drop-head"}
        channel.queue_declare(queue, exclusive=True, arguments=arguments)
        channel.queue_bind(queue, "trading.bus", pattern)
        for method, properties, body in channel.consume(queue, inactivity_timeout=idle_s):
            if method is None or properties is None or body is None:
                return
            yield method.routing_key, properties.headers or {}, json.loads(body, parse_float=Decimal)
            channel.basic_ack(method.delivery_tag)
    finally:
        connection.close()


def read_offset(text: str) -> str | int | dt.datetime:
    """What --from means: a number, a time, or a word that the broker knows."""
    if text.isdecimal():
        return int(text)
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        return text


def main() -> None:
    """Print what is news."""
    parser = argparse.ArgumentParser(description="Read trading.bus, live or from the past.")
    parser.add_argument("--from", dest="offset", default="first", help="first, last, next, a number, a time or 1h")
    parser.add_argument("--follow", action="store_true", help="go on when the end is reached")
    parser.add_argument("--live", action="store_true", help="not the log: what is published from now on, beats too")
    given = parser.parse_args()
    url, newest = os.environ.get("RMQ_URL") or parser.error("RMQ_URL is not set"), Newest()
    idle_s = None if given.follow or given.live else 2.0
    messages = listen(url) if given.live else replay(url, read_offset(given.offset), idle_s)
    try:
        for key, _, body in messages:
            if newest.is_news(key, body):
                print(key, json.dumps(body, default=str), flush=True)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
