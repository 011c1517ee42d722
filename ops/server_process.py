"""A server process that may outlive the one that started it: known by its pid and the moment it began."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import TradingBusError, TryLater

POLL_S = 0.02
KILL_TIMEOUT_S = 10
# Below the range the kernel takes for outgoing connections: a port stays ours to restart on while its server is down.
PORT_FIRST, PORT_LAST = 20_000, 32_000


@dataclass
class ServerProcess:
    """One started program; `began` (clock ticks since boot) tells it from a later process with the same pid."""

    pid: int
    began: int
    child: subprocess.Popen[bytes] | None = field(default=None, repr=False, compare=False)

    def is_alive(self) -> bool:
        """Tell whether it still runs; a finished process that nobody collected counts as dead."""
        if self.child is not None:
            return self.child.poll() is None
        return _read_stat(self.pid) == ("alive", self.began)

    def release(self) -> None:
        """Let it outlive this process on purpose: nobody waits for it, and no warning is due when we end."""
        if self.child is not None:
            self.child.returncode = 0
            self.child = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process is gone."""
        if self.is_alive():
            send_signal(self.pid, number)

    def wait_gone(self, timeout_s: float) -> bool:
        """Wait until it has ended; False when it is still there after the timeout."""
        return wait_until(lambda: not self.is_alive(), timeout_s)

    def stop(self, number: signal.Signals, timeout_s: float) -> None:
        """Wake it if frozen, ask it to end, and after the timeout kill it."""
        self.thaw()
        self.signal(number)
        if not self.wait_gone(timeout_s):
            self.kill()

    def freeze(self) -> None:
        """Stop it and its children where they are; the parent first, so that it starts no more of them."""
        for pid in self._family():
            send_signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it and its children go on."""
        for pid in reversed(self._family()):
            send_signal(pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it and its children at once, as a crash of the machine would."""
        self.freeze()
        family = self._family()
        for pid in family:
            send_signal(pid, signal.SIGKILL)
        if not self.wait_gone(KILL_TIMEOUT_S):
            raise TradingBusError(f"process {self.pid} does not end")
        wait_until(lambda: not any(_read_stat(pid)[0] == "alive" for pid in family[1:]), KILL_TIMEOUT_S)

    def _family(self) -> list[int]:
        return [self.pid, *find_children(self.pid)] if self.is_alive() else []


def start_process(command: Sequence[str | Path], env: Mapping[str, str], log: Path, user: str | None) -> ServerProcess:
    """Start a program in a session of its own, output appended to a log; as `user` when one is given (root only)."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(word) for word in command],
            env=dict(env),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=user and "nogroup",
            extra_groups=None if user is None else [],
        )
    return identify(child)


def identify(child: subprocess.Popen[bytes]) -> ServerProcess:
    """Name a child so that another process can find it again."""
    return ServerProcess(child.pid, _read_stat(child.pid)[1], child)


def wait_until(check: Callable[[], bool], timeout_s: float, poll_s: float = POLL_S) -> bool:
    """Ask again and again until the check holds (True) or the time is up (False)."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True


def wait_ready(server: ServerProcess, name: str, log: Path, check: Callable[[], bool], timeout_s: float) -> None:
    """Wait until a started server answers; TryLater with the end of its log when it ends or stays silent."""
    if wait_until(lambda: check() or not server.is_alive(), timeout_s, poll_s=0.05) and server.is_alive():
        return
    fate = "does not answer" if server.is_alive() else "ended at once"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    raise TryLater(f"{name} {fate}; last words in {log}: {lines[-1] if lines else 'none'}")


def pick_ports(count: int, taken: Sequence[int] = ()) -> list[int]:
    """Free loopback ports, none of them in `taken`; TryLater when the machine has none left."""
    picked: list[int] = []
    for port in random.sample(range(PORT_FIRST, PORT_LAST), 2_000):
        if len(picked) == count:
            return picked
        if port not in taken and is_free(port):
            picked.append(port)
    raise TryLater(f"no {count} free ports between {PORT_FIRST} and {PORT_LAST}")


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            return False
    return True


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def find_children(pid: int) -> list[int]:
    """Pids of the living direct children of a process."""
    children: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        fields = _stat_fields(stat)
        if fields and int(fields[1]) == pid and not _is_finished(fields):
            children.append(int(stat.parent.name))
    return children


def _read_stat(pid: int) -> tuple[str, int]:
    fields = _stat_fields(Path(f"/proc/{pid}/stat"))
    if not fields or _is_finished(fields):
        return "gone", 0
    return "alive", int(fields[19])


def _is_finished(fields: list[str]) -> bool:
    """A zombie whose other threads still run has not let go of its ports yet."""
    return fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1)


def _stat_fields(path: Path) -> list[str]:
    """Fields of a /proc stat file from the state on: the program's name before them may hold anything."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []
