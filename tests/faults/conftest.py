"""Worlds for tests: one lives through all scenarios of a module, and is replaced when a scenario broke it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from ops.private_tree import find_missing_tools
from ops.servers_private import PrivateServers
from ops.services import Servers
from tests.faults.runner import Outcome, run_scenario, table_of
from tests.faults.scenarios import Scenario
from tests.faults.world import Setup, World, open_world
from tests.servers import own_private_servers, share_servers

PATIENCE = 3.0
"""Tests share their machine with others: limits of time are three times what the long run allows."""


class Keeper:
    """Plays scenarios on a living world, and opens another when one was broken."""

    def __init__(self, folder: Path, servers: Servers | None, own: PrivateServers | None) -> None:
        self._folder, self._servers, self._own = folder, servers, own
        self._world: World | None = None
        self._stack = AsyncExitStack()
        self._opened = 0

    async def world(self) -> World:
        """The living world."""
        if self._world is None:
            self._opened += 1
            folder = self._folder / f"world-{self._opened}"
            folder.mkdir()
            self._world = await self._stack.enter_async_context(open_world(folder, Setup(), self._servers, self._own))
        return self._world

    async def play(self, scenario: Scenario) -> None:
        """Play one scenario; AssertionError says what was wrong."""
        outcome: Outcome = await run_scenario(await self.world(), scenario, PATIENCE)
        print(table_of([outcome]))
        if outcome.fault is not None:
            await self.close()
            raise AssertionError(table_of([outcome]))

    async def close(self) -> None:
        self._world = None
        await self._stack.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keeper(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Keeper]:
    """On the run's shared servers, which nobody may kill."""
    servers = share_servers()
    if servers.management_url is None:
        pytest.skip("RMQ_URL is given without MANAGEMENT_URL: a world needs a vhost of its own")
    kept = Keeper(tmp_path_factory.mktemp("world"), servers, None)
    yield kept
    await kept.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def own_keeper(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Keeper]:
    """On servers of the module's own, to be killed."""
    missing = find_missing_tools()
    if missing:
        pytest.skip(f"killing servers needs private ones, and those need {', '.join(missing)}")
    with own_private_servers() as own:
        kept = Keeper(tmp_path_factory.mktemp("world"), None, own)
        yield kept
        await kept.close()
