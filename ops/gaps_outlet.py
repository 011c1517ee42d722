"""How an operator's command writes: an owner of its own in the store, and its messages published while it works."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from common import statements as sql
from common.bus import Bus
from common.errors import Refused
from common.outbox import Outbox
from common.publisher import AmqpPublisher
from common.store import Store
from ops.gaps_ledger import read_statuses
from ops.gaps_venue import Say
from ops.status import quiet_logs

STALLED_MAX_S = 30.0
"""At the end the broker may take this long for one more message; what is left is published by others."""


class Outlet:
    """The store and the outbox of one command."""

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self.store, self.outbox = store, outbox


@asynccontextmanager
async def open_outlet(dsn: str, rmq_url: str, owner: str, epoch: str, say: Say) -> AsyncGenerator[Outlet]:
    """Take the owner's lock and publish what it commits; at the end, wait for the last message and say how many.

    Raises Refused while the same command runs elsewhere.
    """
    statuses: dict[str, str] = {}
    store = Store(dsn, owner, headers_for=lambda symbol: _header(statuses.get(symbol)), epoch=epoch)
    bus = Bus(rmq_url, owner)
    publisher = AmqpPublisher(rmq_url, owner, prepare=bus.declare)
    outbox = Outbox(store.query, owner, publisher)
    publishing: asyncio.Task[None] | None = None
    try:
        if not await store.acquire():
            raise Refused(f"{owner} is at work elsewhere: wait for it")
        statuses.update(await read_statuses(store))
        publishing = asyncio.create_task(outbox.run())
        # Services decide the queues' arguments; that theirs differ from a command's defaults is no news.
        with quiet_logs("common.bus"):
            yield Outlet(store, outbox)
            await _empty(outbox, publishing, store, owner, say)
    finally:
        if publishing is not None:
            publishing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await publishing
        await publisher.close()
        await bus.close()
        await store.close()


async def _empty(outbox: Outbox, publishing: asyncio.Task[None], store: Store, owner: str, say: Say) -> None:
    outbox.wake()
    drained = asyncio.create_task(outbox.drained())
    try:
        while True:
            before = outbox.confirmed_total
            await asyncio.wait({drained, publishing}, timeout=STALLED_MAX_S, return_when=asyncio.FIRST_COMPLETED)
            if drained.done() or publishing.done() or outbox.confirmed_total == before:
                break
    finally:
        drained.cancel()
    waiting = (await store.query(sql.MEASURE_OUTBOX, owner))[0]["messages"]
    say(f"{outbox.confirmed_total - outbox.taken_over_total} messages published")
    if waiting:
        say(f"{waiting} messages wait for the broker: a running service publishes them, or `trading-bus outbox drain`")


def _header(status: str | None) -> str:
    return f'{{"symbol_status":"{status}"}}' if status else ""
