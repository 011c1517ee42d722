"""The servers that every other test stands on, and the ways to break them."""

import asyncio
import os
import signal
import subprocess
import sys
from ipaddress import ip_address

import aio_pika
import asyncpg
import psutil
import pytest

from ops.private_tree import find_missing_tools, locate_tree
from ops.rabbitmq_probe import answers_management, call_management, opens_amqp
from ops.server_process import PORT_FIRST, PORT_LAST, wait_until
from ops.server_state import REPOSITORY, find_instances
from ops.servers_private import PrivateServers
from tests.servers import RUN_VARIABLE

NEEDS_PRIVATE = pytest.mark.skipif(bool(find_missing_tools()), reason=f"private servers need {find_missing_tools()}")


async def ask(dsn: str, query: str) -> object:
    con = await asyncpg.connect(dsn, timeout=10, command_timeout=10)
    try:
        return await con.fetchval(query)
    finally:
        await con.close(timeout=10)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


async def test_database_is_fresh_and_migrated(ts_dsn: str) -> None:
    assert await ask(ts_dsn, "SELECT count(*) FROM timescaledb_information.hypertables") > 0
    assert await ask(ts_dsn, "SELECT count(*) FROM raw_bars") == 0


async def test_empty_database_has_only_the_extension(empty_dsn: str) -> None:
    assert await ask(empty_dsn, "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == 1
    assert await ask(empty_dsn, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


async def test_vhost_is_fresh(rmq_url: str, management_url: str) -> None:
    connection = await aio_pika.connect(rmq_url, timeout=10)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("probe", auto_delete=True)
        await channel.default_exchange.publish(aio_pika.Message(b"1"), "probe")
        assert (await queue.get(timeout=5)).body == b"1"
        vhost = rmq_url.rpartition("/")[2]
        names = [it["name"] for it in call_management(management_url, "GET", f"queues/{vhost}")]
        assert names == ["probe"]


async def test_killed_postgres_keeps_what_was_committed(own_servers: PrivateServers) -> None:
    dsn = own_servers.ts_dsn
    await ask(dsn, "CREATE TABLE kept (n int)")
    await ask(dsn, "INSERT INTO kept VALUES (7)")
    open_connection = await asyncpg.connect(dsn, timeout=10)
    await asyncio.to_thread(own_servers.kill_postgres)
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
        await open_connection.fetchval("SELECT 1", timeout=5)
    open_connection.terminate()
    with pytest.raises(OSError):
        await ask(dsn, "SELECT 1")
    await asyncio.to_thread(own_servers.restart_postgres)
    assert await ask(dsn, "SELECT n FROM kept") == 7


async def test_frozen_postgres_is_silent_until_thawed(own_servers: PrivateServers) -> None:
    con = await asyncpg.connect(own_servers.ts_dsn, timeout=10)
    await asyncio.to_thread(own_servers.freeze_postgres)
    answer = asyncio.create_task(con.fetchval("SELECT 1"))
    done, _ = await asyncio.wait([answer], timeout=0.5)
    await asyncio.to_thread(own_servers.thaw_postgres)
    assert not done
    assert await asyncio.wait_for(answer, 10) == 1
    await con.close(timeout=10)


async def test_killed_rabbitmq_keeps_confirmed_messages(own_servers: PrivateServers) -> None:
    connection = await aio_pika.connect(own_servers.rmq_url, timeout=10)
    channel = await connection.channel()
    await channel.declare_queue("kept", durable=True)
    message = aio_pika.Message(b"7", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await channel.default_exchange.publish(message, "kept", timeout=10)
    await asyncio.to_thread(own_servers.kill_rabbitmq)
    assert not opens_amqp(port_of(own_servers.rmq_url))
    await connection.close()
    await asyncio.to_thread(own_servers.restart_rabbitmq)
    async with await aio_pika.connect(own_servers.rmq_url, timeout=10) as again:
        channel = await again.channel()
        queue = await channel.declare_queue("kept", durable=True)
        assert (await queue.get(timeout=10)).body == b"7"


async def test_frozen_rabbitmq_is_silent_until_thawed(own_servers: PrivateServers) -> None:
    port = port_of(own_servers.rmq_url)
    await asyncio.to_thread(own_servers.freeze_rabbitmq)
    frozen = await asyncio.to_thread(opens_amqp, port)
    await asyncio.to_thread(own_servers.thaw_rabbitmq)
    assert not frozen
    assert await asyncio.to_thread(opens_amqp, port)


def test_start_changes_nothing_that_runs(own_servers: PrivateServers) -> None:
    pids, dsn, url = own_servers.pids, own_servers.ts_dsn, own_servers.rmq_url
    own_servers.start()
    assert (own_servers.pids, own_servers.ts_dsn, own_servers.rmq_url) == (pids, dsn, url)


def test_everything_listens_on_loopback_below_the_outgoing_ports(own_servers: PrivateServers) -> None:
    family = [psutil.Process(pid) for pid in own_servers.pids.values()]
    listening = [c.laddr for process in family for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert all(ip_address(address.ip.removeprefix("::ffff:")).is_loopback for address in listening)
    assert all(PORT_FIRST <= address.port < PORT_LAST for address in listening)
    assert len({address.port for address in listening}) == 6


def test_a_second_object_finds_and_stops_the_same_servers(own_servers: PrivateServers) -> None:
    other = PrivateServers(locate_tree(), own_servers.state, print)
    assert other.pids == own_servers.pids
    other.stop()
    assert own_servers.pids == {}
    own_servers.start()
    assert answers_management(own_servers.management_url)


RUN_THAT_DIES = """
import os, signal
from tests.servers import lead_run, share_servers
lead_run()
share_servers()
print("run", os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def processes_in(folder: str) -> list[str]:
    """Command lines of processes that work in or are told about a folder of this name."""
    found = []
    for process in psutil.process_iter(["pid", "cwd", "cmdline"]):
        words = [process.info["cwd"] or "", *(process.info["cmdline"] or [])]
        if any(f"/{folder}/" in f"{word}/" for word in words):
            found.append(" ".join(words))
    return found


@NEEDS_PRIVATE
def test_servers_of_a_killed_run_are_stopped() -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("TS_DSN", "RMQ_URL", RUN_VARIABLE)}
    done = subprocess.run(
        [sys.executable, "-c", RUN_THAT_DIES],
        env=env | {"TRADING_BUS_SERVERS": "private"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = f"test-{done.stdout.split()[-1]}"
    assert wait_until(lambda: not processes_in(folder), 30), processes_in(folder)
    assert wait_until(lambda: not (find_instances() / folder).exists(), 10)
