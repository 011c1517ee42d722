"""Fixtures on real servers. What each test gets is its own: a database, a vhost."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from ops.private_tree import find_missing_tools
from ops.server_state import REPOSITORY
from ops.servers_private import PrivateServers
from ops.services import Servers, read_given
from tests.servers import end_run, fresh_database, fresh_vhost, lead_run, own_private_servers, share_servers

# The same examples in every run, so that a red run is red for everybody; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("steady", derandomize=True, database=None)
settings.register_profile("explore")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

DATA_VARIABLE = "TRADING_BUS_SHARED_DATA"
NO_MANAGEMENT = "RMQ_URL is given without MANAGEMENT_URL: tests share its vhost"


def pytest_configure(config: pytest.Config) -> None:
    """Lead the run, unless this is one of its workers."""
    if not hasattr(config, "workerinput"):
        lead_run()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the run's servers."""
    if not hasattr(config, "workerinput"):
        end_run()


def pytest_report_header() -> str | None:
    """Say so when tests run on servers that somebody else runs."""
    given = read_given(os.environ)
    if given is None:
        return None
    return "servers: given" + ("" if given.management_url else f"; {NO_MANAGEMENT}")


@pytest.fixture(scope="session")
def servers() -> Servers:
    """Servers shared by all workers of the run."""
    return share_servers()


@pytest.fixture
async def ts_dsn(servers: Servers) -> AsyncIterator[str]:
    """A fresh database with all migrations applied."""
    async with fresh_database(servers.ts_dsn) as dsn:
        yield dsn


@pytest.fixture
async def empty_dsn(servers: Servers) -> AsyncIterator[str]:
    """A fresh database with the timescaledb extension and nothing else."""
    async with fresh_database(servers.ts_dsn, migrated=False) as dsn:
        yield dsn


@pytest.fixture
def rmq_url(servers: Servers) -> Iterator[str]:
    """A fresh vhost; the given one where no management API can create it."""
    if servers.management_url is None:
        yield servers.rmq_url
        return
    with fresh_vhost(servers.rmq_url, servers.management_url) as url:
        yield url


@pytest.fixture
def management_url(servers: Servers) -> str:
    """RabbitMQ's management API, login included."""
    if servers.management_url is None:
        pytest.skip(NO_MANAGEMENT)
    return servers.management_url


@pytest.fixture(scope="module")
def own_servers() -> Iterator[PrivateServers]:
    """Crash-safe private servers for one module, to be killed and frozen; a test leaves them running."""
    missing = find_missing_tools()
    if missing:
        pytest.skip(f"killing servers needs private ones, and those need {', '.join(missing)}")
    with own_private_servers() as own:
        yield own


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Captured vendor data, which lies outside the repository."""
    folder = Path(os.environ.get(DATA_VARIABLE) or REPOSITORY.parent / "shared/data")
    if not folder.is_dir():
        pytest.skip(f"no captured vendor data at {folder}; {DATA_VARIABLE} names another place")
    return folder
