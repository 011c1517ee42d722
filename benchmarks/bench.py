"""What every question needs: children that end with it, CPU time of a process, and answers as lines of one table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

SECONDS = float(os.environ.get("BENCH_SECONDS") or 20)
"""How long one paced measurement lasts; everything else follows from it."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Answer:
    """One line of the table. `held` is None where the figure is only to be looked at."""

    question: str
    figure: str
    target: str = ""
    held: bool | None = None


def show(answers: Iterable[Answer]) -> int:
    """Print the table; returns the exit code, 1 when something that gates did not hold."""
    table = Table(title=f"benchmarks, {SECONDS:g} s a measurement, {os.cpu_count()} cores, shared")
    for name in ("question", "figure", "target", "holds"):
        table.add_column(name)
    failed = 0
    for answer in answers:
        failed += answer.held is False
        holds = "" if answer.held is None else ("yes" if answer.held else "NO")
        table.add_row(answer.question, answer.figure, answer.target, holds)
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    return 1 if failed else 0


def symbol_names(count: int) -> tuple[str, ...]:
    """Pairs by activity, the liveliest first."""
    return ("BTCUSDT", *(f"B{i:03d}USDT" for i in range(1, count)))


def middle(figures: Iterable[float]) -> float:
    """The median."""
    return float(median(figures))


def share_at(figures: list[float], share: float) -> float:
    """The figure below which this share of all lies."""
    return sorted(figures)[min(len(figures) - 1, int(share * len(figures)))]


@dataclass(frozen=True)
class Reading:
    """What a process had used at a moment: CPU seconds, wall seconds, resident megabytes."""

    cpu_s: float
    wall_s: float
    rss_mb: float


def read_usage(pid: int) -> Reading:
    """User and system time of a process with its threads, to the nanosecond where the kernel tells."""
    process = psutil.Process(pid)
    cpu_s, told = 0.0, False
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            cpu_s += int(task.read_text().split()[0]) / 1e9
            told = True
    if not told:
        times = process.cpu_times()
        cpu_s = times.user + times.system
    return Reading(cpu_s, time.monotonic(), process.memory_info().rss / 2**20)


class Child:
    """A process of ours with its log in a file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name, self.process, self.log = name, process, log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def stop(self) -> int:
        """Ask it to end, kill it when it does not; answers its exit code."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                self.process.kill()
        return await self.process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


class Stage:
    """A folder for one question, and the children started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: list[Child] = []

    async def start(self, name: str, words: Iterable[object], env: Mapping[str, object] | None = None) -> Child:
        """Start `python -m <words>` with its log in the folder."""
        log = self.folder / f"{name}.log"
        whole = {**os.environ, **{key: str(value) for key, value in (env or {}).items()}}
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *map(str, words), env=whole, stdout=out, stderr=out, stdin=None
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    async def told(self, child: Child, path: Path) -> Any:
        """JSON that a child writes into a file once it is ready."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while (told := _read_json(path)) is None:
            if child.process.returncode is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{child.name} did not come up:\n{child.last_words()}")
            await asyncio.sleep(0.02)
        return told

    async def end(self) -> None:
        """Stop what was started, the last first."""
        for child in reversed(self._children):
            await child.stop()


@asynccontextmanager
async def open_stage() -> AsyncGenerator[Stage]:
    """A stage whose children and folder are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="trading-bus-bench-") as folder:
        stage = Stage(Path(folder))
        try:
            yield stage
        finally:
            await stage.end()
