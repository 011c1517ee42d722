"""Closing a connection to a broker that is frozen."""

from __future__ import annotations

import asyncio

import pytest

from common.consuming import BusLimits, close_bus


class Frozen:
    """What the library does when a peer has been silent for too long: it cancels whoever waits, unasked."""

    async def close(self) -> None:
        raise asyncio.CancelledError


class Silent:
    """A peer that never answers."""

    async def close(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("peer", [Frozen(), Silent(), None])
async def test_closing_never_ends_the_task_that_closes(peer: Frozen | Silent | None) -> None:
    await close_bus(peer, BusLimits(close_timeout_s=0.05))


async def test_a_task_that_is_cancelled_while_it_closes_ends() -> None:
    task = asyncio.create_task(close_bus(Silent(), BusLimits(close_timeout_s=5)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
