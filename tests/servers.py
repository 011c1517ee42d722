"""Servers for one test run: started at first use, shared by all workers, gone when the run is over."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote, urlsplit
from uuid import uuid4

import asyncpg
import yaml

from common.errors import TradingBusError
from ops.access_broker import create_user, grant, vhost_of
from ops.access_database import create_login
from ops.access_rules import address_for, service_rights
from ops.cache import hold_lock, make_folder
from ops.guard import start_guard, stop_all
from ops.rabbitmq_probe import call_management
from ops.server_process import ServerProcess
from ops.server_state import REPOSITORY, find_instances, lock_of, write_state
from ops.servers_private import PrivateServers
from ops.services import Servers, choose_kind, open_private, read_given, start_servers

RUN_VARIABLE = "TRADING_BUS_TEST_RUN"
"""Pid of the process that leads the run; its workers inherit it."""
DATABASE_TIMEOUT_S = 30
SERVICE = "test_service"
"""Login of the processes under test: a writer of the database, a service of the broker. The harness is the admin."""

_service_addresses: dict[str, str] = {}
"""By the admin's address: what a process under test is given in its place."""
_made_on: set[str] = set()
"""Servers on which this worker has made SERVICE."""


def lead_run() -> None:
    """Make this process the leader of a run; called once, before any worker starts."""
    os.environ[RUN_VARIABLE] = str(os.getpid())
    end_run()  # of an older process with our number


def end_run() -> None:
    """Stop everything the run started; called once by the leader."""
    run = _run_folder()
    if not run.exists():
        return
    guard = run / "guard.json"
    if guard.exists():
        ServerProcess(**json.loads(guard.read_text())).kill()
    stop_all(run)


def share_servers() -> Servers:
    """The run's servers, started by whichever worker asks first; its failure is every worker's failure."""
    given = read_given(os.environ)
    if given:
        return given
    run = open_run()
    kept = run / "servers.json"
    with hold_lock(lock_of(run)):
        if not kept.exists():
            kept.write_text(json.dumps(_start(run / "shared")))
    answer = json.loads(kept.read_text())
    if "error" in answer:
        raise TradingBusError(answer["error"])
    return Servers(**answer)


def _start(folder: Path) -> dict[str, str | None]:
    try:
        starter = _start_containers if choose_kind() == "docker" else _start_private
        return asdict(starter(folder))
    except TradingBusError as error:
        return {"error": str(error)}


def _start_private(folder: Path) -> Servers:
    return start_servers(folder, say=print, durable=False)


def _start_containers(folder: Path) -> Servers:
    """TimescaleDB and RabbitMQ in containers of the images that compose.yaml names.

    The run's leader removes them by name: testcontainers' own reaper would do so when the worker that started them
    ends, while others still use them.
    """
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    testcontainers_config.ryuk_disabled = True
    images = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]
    names = [f"trading-bus-{folder.parent.name}-{name}" for name in ("timescaledb", "rabbitmq")]
    password = secrets.token_hex(16)
    write_state(make_folder(folder), {"kind": "docker", "containers": names})
    database = (
        PostgresContainer(images["timescaledb"]["image"], username="postgres", password=password, driver=None)
        .with_name(names[0])
        .with_command("postgres -c fsync=off -c full_page_writes=off -c jit=off -c max_connections=200")
    )
    broker = (
        DockerContainer(images["rabbitmq"]["image"])
        .with_name(names[1])
        .with_envs(RABBITMQ_DEFAULT_USER="trading_bus", RABBITMQ_DEFAULT_PASS=password)
        .with_exposed_ports(5672, 15672)
        .waiting_for(LogMessageWaitStrategy("Server startup complete"))
    )
    for container in (database, broker):
        container.ports = dict.fromkeys(container.ports, ("127.0.0.1",))
        container.start()
    host = broker.get_container_host_ip()
    servers = Servers(
        f"postgresql://postgres:{password}@{host}:{database.get_exposed_port(5432)}/test",
        f"amqp://trading_bus:{password}@{host}:{broker.get_exposed_port(5672)}/",
        f"http://trading_bus:{password}@{host}:{broker.get_exposed_port(15672)}",
        "docker",
    )
    for container in (database, broker):
        container.get_docker_client().client.close()
    return servers


@contextmanager
def own_private_servers(durable: bool = True) -> Iterator[PrivateServers]:
    """A private instance of one's own, to be killed and frozen at will; stopped and removed at the end."""
    servers = open_private(open_run() / f"own-{uuid4().hex[:8]}", say=print, durable=durable)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop(remove=True)


@asynccontextmanager
async def fresh_database(server_dsn: str, migrated: bool = True) -> AsyncIterator[str]:
    """A new database on a server, with the schema unless `migrated` is false; dropped at the end."""
    name = f"test_{uuid4().hex[:16]}"
    await _execute(server_dsn, f"CREATE DATABASE {name}")
    try:
        dsn = urlsplit(server_dsn)._replace(path=f"/{name}").geturl()
        if migrated:
            from migrations.runner import migrate

            await migrate(dsn)
            _service_addresses[dsn] = await _make_login(server_dsn, dsn)
        else:
            await _execute(dsn, "CREATE EXTENSION IF NOT EXISTS timescaledb")
        yield dsn
    finally:
        _service_addresses.pop(dsn, None)
        await _execute(server_dsn, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def fresh_vhost(rmq_url: str, management_url: str) -> Iterator[str]:
    """A new vhost on a broker, with all rights for the login of `rmq_url`; deleted at the end."""
    name = f"test_{uuid4().hex[:16]}"
    broker = urlsplit(rmq_url)
    url = broker._replace(path=f"/{name}").geturl()
    call_management(management_url, "PUT", f"vhosts/{name}", {})
    try:
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        call_management(management_url, "PUT", f"permissions/{name}/{quote(broker.username or 'guest')}", rights)
        _service_addresses[url] = _make_user(management_url, url)
        yield url
    finally:
        _service_addresses.pop(url, None)
        call_management(management_url, "DELETE", f"vhosts/{name}")


def service_address(admin: str) -> str:
    """What a process under test is given: a login with a service's rights, the admin's own on a vhost not ours."""
    return _service_addresses.get(admin, admin)


async def _make_login(server_dsn: str, dsn: str) -> str:
    password = _password_for(server_dsn)
    if server_dsn not in _made_on:
        # Roles belong to the cluster: all workers make the same one, whoever comes first.
        await create_login(dsn, SERVICE, "writer", password)
        _made_on.add(server_dsn)
    return address_for(dsn, SERVICE, password)


def _make_user(management_url: str, url: str) -> str:
    password = _password_for(management_url)
    if management_url not in _made_on:
        create_user(management_url, vhost_of(url), SERVICE, service_rights(), password)
        _made_on.add(management_url)
    else:
        grant(management_url, vhost_of(url), SERVICE, service_rights())
    return address_for(url, SERVICE, password)


def _password_for(server: str) -> str:
    """The same for every worker of a server, and known only to who knows the admin's."""
    return hashlib.sha256(f"{SERVICE} {server}".encode()).hexdigest()[:32]


async def _execute(dsn: str, statement: str) -> None:
    con = await asyncpg.connect(dsn, timeout=DATABASE_TIMEOUT_S, command_timeout=DATABASE_TIMEOUT_S)
    try:
        await con.execute(statement)
    finally:
        await con.close(timeout=DATABASE_TIMEOUT_S)


def open_run() -> Path:
    """Folder of this run, guarded: what lies in it is stopped even when the leader is killed."""
    run = _run_folder()
    with hold_lock(lock_of(run)):
        if not (run / "guard.json").exists():
            _sweep(run)
            guard = start_guard(int(os.environ[RUN_VARIABLE]), make_folder(run))
            (run / "guard.json").write_text(json.dumps({"pid": guard.pid, "began": guard.began}))
    return run


def _run_folder() -> Path:
    return find_instances() / f"test-{os.environ[RUN_VARIABLE]}"


def _sweep(own: Path) -> None:
    """Remove what runs left behind whose leader and guard both died."""
    for run in own.parent.glob("test-*/"):
        if run != own and not Path(f"/proc/{run.name.removeprefix('test-')}").exists():
            stop_all(run)
