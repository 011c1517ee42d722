"""`trading-bus outbox`: what waits for the broker, and publishing it when its owner is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import click
from rich.console import Console
from rich.table import Table

from common import statements as sql
from common.bus import Bus
from common.errors import ConfigError, Refused
from common.outbox import Outbox
from common.publisher import AmqpPublisher
from common.store import Store
from ops.services import find_servers

NAME = "ops/outbox"


@click.group(
    epilog="\b\nExamples:\n  trading-bus outbox status\n  trading-bus outbox drain\n"
    "  trading-bus outbox drain --owner ohlcv/2/8"
)
def outbox() -> None:
    """Show and drain messages that wait for the broker."""


@outbox.command(epilog="\b\nExample:\n  trading-bus outbox status --dsn postgresql://user@localhost/trading_bus")
@click.option("--dsn", envvar="TS_DSN", show_envvar=True, help="Database; the one of `services up` if none is given.")
def status(dsn: str | None) -> None:
    """List owners and lanes with what waits, how long, and whether the owner lives."""
    rows = asyncio.run(_read_owners(dsn or _find("ts_dsn", "--dsn or TS_DSN")))
    if not rows:
        click.echo("nothing waits")
        return
    table = Table("owner", "lane", "flushes", "messages", "oldest", "owner is")
    for row in rows:
        lane = "repair" if row["lane"] else "live"
        alive = "alive" if row["alive"] else "dead"
        table.add_row(row["owner"], lane, str(row["flushes"]), str(row["messages"]), f"{row['age_s']:.0f} s", alive)
    Console().print(table)


@outbox.command(epilog="\b\nExample:\n  trading-bus outbox drain --owner ohlcv/2/8")
@click.option("--dsn", envvar="TS_DSN", show_envvar=True, help="Database; the one of `services up` if none is given.")
@click.option(
    "--rmq-url", envvar="RMQ_URL", show_envvar=True, help="Broker; the one of `services up` if none is given."
)
@click.option("--owner", help="Only this owner's messages; every dead owner's if none is given.")
def drain(dsn: str | None, rmq_url: str | None, owner: str | None) -> None:
    """Publish what dead owners left behind; a living owner publishes its own."""
    dsn = dsn or _find("ts_dsn", "--dsn or TS_DSN")
    rmq_url = rmq_url or _find("rmq_url", "--rmq-url or RMQ_URL")
    published = asyncio.run(_drain(dsn, rmq_url, owner))
    for name, count in published.items():
        click.echo(f"{name}: {count} messages published")
    if not published:
        click.echo("nothing to do: no dead owner has messages waiting")


def _find(field: str, how: str) -> str:
    servers = find_servers()
    if servers is None:
        raise ConfigError(f"no server: give {how}, or run `trading-bus services up`")
    return str(getattr(servers, field))


async def _read_owners(dsn: str) -> Sequence[asyncpg.Record]:
    store = Store(dsn, NAME)
    try:
        return await store.query(sql.OWNERS)
    finally:
        await store.close()


async def _drain(dsn: str, rmq_url: str, owner: str | None) -> dict[str, int]:
    store, bus = Store(dsn, NAME), Bus(rmq_url, NAME)
    publisher = AmqpPublisher(rmq_url, NAME, prepare=bus.declare)
    total: dict[str, int] = {}
    try:
        if owner is not None:
            alive = {row["owner"] for row in await store.query(sql.OWNERS) if row["alive"]}
            if owner in alive:
                raise Refused(f"{owner} is alive and publishes its own messages")
        outbox = Outbox(store.query, NAME, publisher)
        while published := await outbox.take_over(owner):
            for name, count in published.items():
                total[name] = total.get(name, 0) + count
        return total
    finally:
        await publisher.close()
        await bus.close()
        await store.close()
