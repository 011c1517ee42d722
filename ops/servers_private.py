"""PostgreSQL with TimescaleDB and RabbitMQ as plain processes from the private tree, one instance per state folder."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import TradingBusError, TryLater
from ops.cache import Say, make_folder
from ops.private_tree import Tree
from ops.rabbitmq_probe import answers_management, opens_amqp
from ops.server_config import (
    DATABASE,
    PORT_NAMES,
    POSTGRES_CONF,
    UNSAFE_FLAGS,
    plain_env,
    rabbitmq_env,
    rabbitmq_files,
)
from ops.server_process import ServerProcess, is_free, pick_ports, start_process, wait_ready, wait_until
from ops.server_state import read_state, require_passable, write_state

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
COMMAND_TIMEOUT_S = 60
_FIND_DATABASE = f"SELECT FROM pg_database WHERE datname = '{DATABASE}'"
_CREATE_DATABASE = f"SELECT 'CREATE DATABASE {DATABASE}' WHERE NOT EXISTS ({_FIND_DATABASE})\\gexec"


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
        """Address of the instance's database, as superuser; empty but for what was migrated into it."""
        return f"postgresql://postgres:{self._plan.password}@127.0.0.1:{self._plan.ports['postgres']}/{DATABASE}"

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
        # Through the prompt's own conditional, so that it may run at every start.
        self._run_postgres("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", self._maintenance_dsn(), stdin=_CREATE_DATABASE)

    def stop(self, remove: bool = False) -> None:
        """Stop all servers, the port mapper last; with `remove` their data goes too."""
        self._stop("postgres", signal.SIGINT)
        self._stop("rabbitmq", signal.SIGTERM)
        self._stop("epmd", signal.SIGTERM)
        if remove:
            shutil.rmtree(self.state, ignore_errors=True)

    def release(self) -> None:
        """Let the servers outlive this process."""
        for process in self._processes.values():
            process.release()

    def kill_postgres(self) -> None:
        """End PostgreSQL and its backends with SIGKILL."""
        self._processes["postgres"].kill()

    def kill_rabbitmq(self) -> None:
        """End the RabbitMQ node with SIGKILL; a quorum queue younger than 3 s may be lost for good."""
        self._processes["rabbitmq"].kill()

    def freeze_postgres(self) -> None:
        """Stop PostgreSQL and its backends: connections stay open and nothing answers."""
        self._processes["postgres"].freeze()

    def thaw_postgres(self) -> None:
        """Let a frozen PostgreSQL go on."""
        self._processes["postgres"].thaw()

    def freeze_rabbitmq(self) -> None:
        """Stop the RabbitMQ node: connections stay open and nothing answers."""
        self._processes["rabbitmq"].freeze()

    def thaw_rabbitmq(self) -> None:
        """Let a frozen node go on."""
        self._processes["rabbitmq"].thaw()

    def restart_postgres(self) -> None:
        """Start PostgreSQL again on its port and data, stopped first if it runs; returns when it answers."""
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
        """Start RabbitMQ again on its ports and data, stopped first if it runs; returns when it answers."""
        self._stop("rabbitmq", signal.SIGTERM)
        ports, log = self._plan.ports, self.state / "log/rabbitmq.log"
        if not self._is_up("epmd"):
            # A node without a port mapper starts one of its own, which would outlive it.
            self._start("epmd", [self._tree.epmd, "-port", str(ports["epmd"]), "-address", "127.0.0.1"])
        self._start("rabbitmq", [self._tree.rabbitmq_server], rabbitmq_env(self._tree, self.state, ports))

        def is_ready() -> bool:
            return opens_amqp(ports["amqp"]) and answers_management(self.management_url)

        wait_ready(self._processes["rabbitmq"], "RabbitMQ", log, is_ready, START_TIMEOUT_S)

    def _prepare(self) -> None:
        make_folder(self.state)
        if self._user:
            require_passable(self.state)
            require_passable(self._tree.root)
        for name in ("log", "run", "mq", "mq/conf.d"):
            self._give(make_folder(self.state / name))
        if not self.pids:
            self._choose_ports()
        for name, content in rabbitmq_files(self._plan.ports).items():
            (self.state / "mq" / name).write_text(content)
            self._give(self.state / "mq" / name)
        if not (self.state / "pg/ready").exists():
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
        folder, word = self.state / "pg", self.state / "run/password"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        word.touch(mode=0o600)
        word.write_text(self._plan.password)
        self._give(folder)
        self._give(word)
        try:
            self._run_postgres(
                "initdb",
                *("-D", str(folder), "-U", "postgres", f"--pwfile={word}", "-A", "scram-sha-256", "--encoding=UTF8"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-sync"),
            )
        finally:
            word.unlink()
        with (folder / "postgresql.conf").open("a") as conf:
            conf.write(POSTGRES_CONF)
        (folder / "ready").touch()

    def _start_postgres(self) -> None:
        port, log = str(self._plan.ports["postgres"]), self.state / "log/postgres.log"
        flags = () if self._plan.durable else UNSAFE_FLAGS
        self._start(
            "postgres", [self._tree.postgres_bin / "postgres", "-D", str(self.state / "pg"), "-p", port, *flags]
        )
        asked = [str(self._tree.postgres_bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port, "-t", "3"]

        def is_ready() -> bool:
            return subprocess.run(asked, env=plain_env(), timeout=COMMAND_TIMEOUT_S, check=False).returncode == 0

        wait_ready(self._processes["postgres"], "PostgreSQL", log, is_ready, START_TIMEOUT_S)

    def _run_postgres(self, program: str, *words: str, stdin: str = "") -> None:
        """Run one of PostgreSQL's own tools to its end."""
        done = subprocess.run(
            [str(self._tree.postgres_bin / program), *words],
            input=stdin,
            env=plain_env(),
            cwd=self.state / "run",
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            user=self._user,
            group=self._user and "nogroup",
            extra_groups=[] if self._user else None,
        )
        if done.returncode:
            raise TradingBusError(f"{program} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")

    def _maintenance_dsn(self) -> str:
        return self.ts_dsn.rpartition("/")[0] + "/postgres"

    def _start(self, name: str, command: list[Path | str], env: Mapping[str, str] | None = None) -> None:
        log = self.state / f"log/{name}.log"
        self._processes[name] = start_process(command, {**plain_env(), **(env or {})}, log, self._user)
        self._save()

    def _stop(self, name: str, number: signal.Signals) -> None:
        process = self._processes.get(name)
        if process and process.is_alive():
            process.stop(number, STOP_TIMEOUT_S)

    def _is_up(self, name: str) -> bool:
        process = self._processes.get(name)
        return process is not None and process.is_alive()

    def _give(self, path: Path) -> None:
        """Let the user the servers run as own a path."""
        if self._user:
            shutil.chown(path, self._user, "nogroup")

    def _load(self) -> Plan | None:
        kept = read_state(self.state)
        if kept is None or kept.get("kind") != "private":
            return None
        self._processes = {name: ServerProcess(pid, began) for name, (pid, began) in kept["processes"].items()}
        return Plan(kept["password"], kept["durable"], kept["ports"])

    def _save(self) -> None:
        plan, processes = self._plan, {name: [it.pid, it.began] for name, it in self._processes.items()}
        fields = {"password": plan.password, "durable": plan.durable, "ports": dict(plan.ports)}
        write_state(self.state, {"kind": "private", "processes": processes, **fields})
