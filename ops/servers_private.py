"""PostgreSQL with TimescaleDB and RabbitMQ as plain processes from the private tree, one instance per state folder."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError, TradingBusError, TryLater
from ops.private_tree import Say, Tree, make_folder
from ops.rabbitmq_probe import answers_management, opens_amqp
from ops.server_process import (
    ServerProcess,
    change_user,
    is_free,
    pick_ports,
    start_process,
    wait_ready,
    wait_until,
)

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
INITDB_TIMEOUT_S = 60
STATE_FILE = "state.json"
PORT_NAMES = ("postgres", "amqp", "management", "prometheus", "distribution", "epmd")

_POSTGRES_CONF = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_preload_libraries = 'timescaledb'
timescaledb.telemetry_level = off
jit = off
timezone = 'GMT'
log_timezone = 'GMT'
shared_buffers = '256MB'
max_wal_size = '2GB'
max_worker_processes = 16
max_connections = 200
"""
_UNSAFE_FLAGS = ("-c", "fsync=off", "-c", "full_page_writes=off")
_RABBITMQ_CONF = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = {prometheus}
distribution.listener.interface = 127.0.0.1
distribution.listener.port_range.min = {distribution}
distribution.listener.port_range.max = {distribution}
disk_free_limit.absolute = 200MB
log.console = true
log.file = false
"""


@dataclass(frozen=True)
class Plan:
    """What an instance keeps between starts; `durable` false trades PostgreSQL's crash safety for speed."""

    password: str
    durable: bool
    ports: Mapping[str, int]


class PrivateServers:
    """One PostgreSQL and one RabbitMQ of their own, started, frozen, killed and restarted at will.

    Every method blocks until its effect is there: call it through `asyncio.to_thread` where a loop must go on. Ports,
    password and data survive restarts; a second object on the same state folder takes over the running processes.
    """

    def __init__(self, tree: Tree, state: Path, say: Say, durable: bool = True) -> None:
        self.state = state.resolve()
        self._tree = tree
        self._say = say
        self._processes: dict[str, ServerProcess] = {}
        # postgres refuses to run as root, and initdb wants a user with a name
        self._user = "nobody" if os.geteuid() == 0 else None
        self._plan = self._load() or Plan(secrets.token_hex(16), durable, {})

    @property
    def ts_dsn(self) -> str:
        """Address of the maintenance database, as its superuser."""
        return f"postgresql://postgres:{self._plan.password}@127.0.0.1:{self._plan.ports['postgres']}/postgres"

    @property
    def rmq_url(self) -> str:
        """Address of the default vhost."""
        return f"amqp://guest:guest@127.0.0.1:{self._plan.ports['amqp']}/"

    @property
    def management_url(self) -> str:
        """Address of RabbitMQ's management API, login included."""
        return f"http://guest:guest@127.0.0.1:{self._plan.ports['management']}"

    @property
    def pids(self) -> dict[str, int]:
        """Pids of the running servers by name: postgres, epmd, rabbitmq."""
        return {name: process.pid for name, process in self._processes.items() if process.is_alive()}

    def is_running(self) -> bool:
        """Tell whether all three processes are alive; not whether they answer."""
        return len(self.pids) == 3

    def start(self) -> None:
        """Start what does not run and wait until both servers answer; TryLater when one does not come up."""
        self._prepare()
        if not self._is_up("postgres"):
            self._say("servers: starting PostgreSQL")
            self.restart_postgres()
        if not self._is_up("rabbitmq"):
            self._say("servers: starting RabbitMQ")
            self.restart_rabbitmq()

    def stop(self, remove: bool = False) -> None:
        """Stop all servers, the port mapper last; with `remove` their data goes too."""
        self._stop("postgres", signal.SIGINT)
        self._stop("rabbitmq", signal.SIGTERM)
        self._stop("epmd", signal.SIGTERM)
        if remove:
            shutil.rmtree(self.state, ignore_errors=True)

    def kill_postgres(self) -> None:
        """End PostgreSQL and its backends with SIGKILL."""
        self._processes["postgres"].kill()

    def kill_rabbitmq(self) -> None:
        """End the RabbitMQ node with SIGKILL; a quorum queue younger than 3 s may be lost for good."""
        self._processes["rabbitmq"].kill()

    def freeze_rabbitmq(self) -> None:
        """Stop the node's clock: connections stay open and nothing answers."""
        self._processes["rabbitmq"].signal(signal.SIGSTOP)

    def thaw_rabbitmq(self) -> None:
        """Let a frozen node go on."""
        self._processes["rabbitmq"].signal(signal.SIGCONT)

    def restart_postgres(self) -> None:
        """Start PostgreSQL again on its port and data, stopped first if it runs."""
        self._stop("postgres", signal.SIGINT)

        def start_once() -> bool:
            try:
                self._start_postgres()
            except TryLater as error:
                self._say(f"servers: {error}; trying again")
                return False
            return True

        # After a kill, the old pid file or shared memory blocks the start until the last backend has ended.
        if not wait_until(start_once, START_TIMEOUT_S, poll_s=0.2):
            raise TryLater(f"PostgreSQL does not start; see {self.state / 'log/postgres.log'}")

    def restart_rabbitmq(self) -> None:
        """Start RabbitMQ again on its ports and data, stopped first if it runs."""
        self._stop("rabbitmq", signal.SIGTERM)
        if not self._is_up("epmd"):
            self._start("epmd", [self._tree.epmd, "-port", str(self._plan.ports["epmd"]), "-address", "127.0.0.1"], {})
        self._start("rabbitmq", [self._tree.rabbitmq_server], self._rabbitmq_env())
        ports, process = self._plan.ports, self._processes["rabbitmq"]
        wait_ready(
            process,
            "RabbitMQ",
            self.state / "log/rabbitmq.log",
            lambda: opens_amqp(ports["amqp"]) and answers_management(self.management_url),
            START_TIMEOUT_S,
        )

    def _prepare(self) -> None:
        make_folder(self.state)
        if self._user:
            _require_readable(self.state)
            _require_readable(self._tree.root)
        for name in ("log", "run", "mq", "mq/conf.d"):
            self._own(make_folder(self.state / name))
        if not self.pids:
            self._choose_ports()
        self._write_rabbitmq()
        if not (self.state / "pg/PG_VERSION").exists():
            self._say("servers: creating the database cluster")
            self._init_postgres()

    def _choose_ports(self) -> None:
        """Keep the ports of the last start where they are still free."""
        kept = {name: port for name, port in self._plan.ports.items() if is_free(port)}
        wanted = [name for name in PORT_NAMES if name not in kept]
        fresh = dict(zip(wanted, pick_ports(len(wanted), list(kept.values())), strict=True))
        self._plan = Plan(self._plan.password, self._plan.durable, kept | fresh)
        self._save()

    def _init_postgres(self) -> None:
        folder = self.state / "pg"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        self._own(folder)
        word = self.state / "run/password"
        word.touch(mode=0o600)
        word.write_text(self._plan.password)
        self._own(word)
        command = [self._tree.postgres_bin / "initdb", "-D", folder, "-U", "postgres", f"--pwfile={word}"]
        flags = ["-A", "scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        try:
            done = subprocess.run(
                [str(part) for part in [*command, *flags, "--locale=C", "--no-sync"]],
                env=_plain_env(),
                cwd=self.state / "run",
                capture_output=True,
                text=True,
                timeout=INITDB_TIMEOUT_S,
                check=False,
                **change_user(self._user),
            )
        finally:
            word.unlink()
        if done.returncode:
            raise TradingBusError(f"initdb failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        with (folder / "postgresql.conf").open("a") as conf:
            conf.write(_POSTGRES_CONF)

    def _write_rabbitmq(self) -> None:
        folder = self.state / "mq"
        (folder / "rabbitmq.conf").write_text(_RABBITMQ_CONF.format(**self._plan.ports))
        (folder / "enabled_plugins").write_text("[rabbitmq_management,rabbitmq_prometheus].\n")
        (folder / "rabbitmq-env.conf").touch()
        for name in ("rabbitmq.conf", "enabled_plugins", "rabbitmq-env.conf"):
            self._own(folder / name)

    def _start_postgres(self) -> None:
        port = str(self._plan.ports["postgres"])
        flags = () if self._plan.durable else _UNSAFE_FLAGS
        command = [self._tree.postgres_bin / "postgres", "-D", self.state / "pg", "-p", port, *flags]
        self._start("postgres", command, {})
        asked = [str(self._tree.postgres_bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port, "-t", "3"]

        def is_ready() -> bool:
            return subprocess.run(asked, env=_plain_env(), timeout=10, check=False).returncode == 0

        log = self.state / "log/postgres.log"
        wait_ready(self._processes["postgres"], "PostgreSQL", log, is_ready, START_TIMEOUT_S)

    def _rabbitmq_env(self) -> dict[str, str]:
        folder, log, ports = self.state / "mq", str(self.state / "log"), self._plan.ports
        return {
            "HOME": str(folder),
            "PATH": f"{self._tree.erlang}/bin:{_plain_env()['PATH']}",
            "LC_ALL": "C.UTF-8",
            "ERL_ROOTDIR": str(self._tree.erlang),
            "ERL_EPMD_PORT": str(ports["epmd"]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP": f"{log}/erl_crash.dump",
            "RABBITMQ_NODENAME": "trading-bus@localhost",
            "RABBITMQ_DIST_PORT": str(ports["distribution"]),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": log,
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "gen"),
            "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
            # makes the start script become the VM instead of its parent: one process, one pid
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _start(self, name: str, command: list[Path | str], env: Mapping[str, str]) -> None:
        log = self.state / f"log/{name}.log"
        self._processes[name] = start_process(command, _plain_env() | env, log, self._user)
        self._save()

    def _stop(self, name: str, number: signal.Signals) -> None:
        process = self._processes.get(name)
        if process and process.is_alive():
            process.stop(number, STOP_TIMEOUT_S)

    def _is_up(self, name: str) -> bool:
        process = self._processes.get(name)
        return process is not None and process.is_alive()

    def _own(self, path: Path) -> None:
        if self._user:
            shutil.chown(path, self._user, "nogroup")

    def _load(self) -> Plan | None:
        kept = read_state(self.state)
        if kept is None or kept.get("kind") != "private":
            return None
        self._processes = {name: ServerProcess(pid, began) for name, (pid, began) in kept["processes"].items()}
        return Plan(kept["password"], kept["durable"], kept["ports"])

    def _save(self) -> None:
        processes = {name: [process.pid, process.began] for name, process in self._processes.items()}
        plan = self._plan
        write_state(
            self.state,
            {
                "kind": "private",
                "password": plan.password,
                "durable": plan.durable,
                "ports": dict(plan.ports),
                "processes": processes,
            },
        )


def read_state(folder: Path) -> dict[str, Any] | None:
    """What an instance wrote about itself; None when there is none."""
    file = folder / STATE_FILE
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace an instance's note about itself at once; it holds a password, so only its owner may read it."""
    fresh = folder / f"{STATE_FILE}.new"
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(state, indent=1))
    fresh.replace(folder / STATE_FILE)


def _plain_env() -> dict[str, str]:
    """The servers see nothing of the caller's environment but where programs are."""
    return {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C"}


def _require_readable(folder: Path) -> None:
    """ConfigError unless `nobody`, as which root's servers run, may pass through every folder of the path."""
    for part in [folder, *folder.parents]:
        if not part.stat().st_mode & stat.S_IXOTH:
            raise ConfigError(f"the servers run as nobody and cannot pass {part}; name another state folder")
