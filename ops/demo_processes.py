"""The processes of a demo: the loopback venue, the ingestor, and a consumer of what it publishes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec

from common.errors import TryLater
from common.health import Report
from ohlcv_ingestor.settings import OhlcvSettings
from ops.server_process import ServerProcess, start_process, wait_ready
from ops.server_state import REPOSITORY
from ops.services import Servers

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
"""More than the ingestor gives itself for an orderly stop."""
CALL_TIMEOUT_S = 20.0
POLL_S = 0.05
LOG_LINES = 12
FEATURE_ENGINE = REPOSITORY / "examples/feature_engine.py"
FEATURES_FILE = "features.json"

_SETTINGS = frozenset(name.upper() for name in OhlcvSettings.model_fields) | {"CREDENTIALS_DIRECTORY"}
HISTORY_MINUTES = 180
TRADES_PER_S = 20.0
HISTORY_TRADES_PER_S = 3.0


class Child(msgspec.Struct, frozen=True):
    """One started process; `port` is where it answers HTTP, `log` what it wrote."""

    name: str
    port: int
    process: ServerProcess
    log: Path

    def has_ended(self) -> bool:
        """Tell whether it is gone."""
        return not self.process.is_alive()

    def last_words(self) -> str:
        """The end of its log, with the log's path above it."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join((f"{self.name}, end of {self.log}:", *(f"  {line}" for line in lines or ["(empty)"])))

    async def stop(self) -> int | None:
        """Ask it to end, kill it when it does not; answers its exit code, None where it is not known."""
        await asyncio.to_thread(self.process.stop, signal.SIGTERM, STOP_TIMEOUT_S)
        return None if self.process.child is None else self.process.child.poll()


async def start_venue(folder: Path, symbols: Sequence[str], start_ms: int) -> Child:
    """Start the sandbox with both venues at this venue time; every last symbol is a quiet one.

    Raises TryLater when it does not come.
    """
    ready = folder / "venue.json"
    flags = {
        "--ready-file": ready,
        "--symbols": ",".join(symbols),
        "--quiet-every": len(symbols),
        "--rate": TRADES_PER_S,
        "--history-rate": HISTORY_TRADES_PER_S,
        "--rank-power": 0.7,
        "--history": HISTORY_MINUTES,
        "--start": start_ms,
    }
    words = [str(word) for pair in flags.items() for word in pair]
    return await _start(
        "venue", ["sandbox", "--okx", "--hyperliquid", "--hyperliquid-accounts", "0", *words], folder, ready, {}
    )


async def start_ingestor(folder: Path, env: Mapping[str, str], clean: bool) -> Child:
    """Start the OHLCV ingestor with these settings; `clean` leaves all others at their defaults.

    Raises TryLater when it does not come.
    """
    port_file = folder / "ingestor.port"
    settings = {**env, "HTTP_PORT_FILE": str(port_file)}
    return await _start("ingestor", ["ohlcv_ingestor"], folder, port_file, settings, drop=_SETTINGS if clean else ())


async def start_child(
    name: str, package: str, folder: Path, env: Mapping[str, str], drop: Collection[str] = ()
) -> Child:
    """Start a service with these settings, without those of the environment in `drop`; raises TryLater."""
    port_file = folder / f"{package}.port"
    return await _start(name, [package], folder, port_file, {**env, "HTTP_PORT_FILE": str(port_file)}, drop=drop)


async def start_feature_engine(folder: Path, servers: Servers) -> Child:
    """Start the worked consumer, which has loaded the tables and follows when this returns; `port` is 0.

    It writes what it knows to FEATURES_FILE when it is stopped. Raises TryLater when it does not come.
    """
    log = folder / "features.log"
    env = {"TS_DSN": servers.ts_dsn, "RMQ_URL": servers.rmq_url, "FEATURES_FILE": str(folder / FEATURES_FILE)}
    process = start_process([sys.executable, FEATURE_ENGINE], {**os.environ, **env}, log, None)
    try:
        await asyncio.to_thread(
            wait_ready, process, "feature engine", log, lambda: "loaded" in log.read_text(), START_TIMEOUT_S
        )
    except BaseException:
        await asyncio.to_thread(process.kill)
        raise
    return Child("feature engine", 0, process, log)


async def _start(
    name: str, words: list[str], folder: Path, ready: Path, env: Mapping[str, str], drop: Collection[str] = ()
) -> Child:
    log = folder / f"{name}.log"
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    whole_env = {key: value for key, value in os.environ.items() if key.upper() not in drop}
    whole_env |= {"PYTHONPATH": path, **env}
    process = start_process([sys.executable, "-m", *words], whole_env, log, None)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while (port := _read_port(ready)) is None:
                if not process.is_alive():
                    raise TryLater(f"the {name} ended at once; {_last_line(log)}")
                await asyncio.sleep(POLL_S)
    except BaseException as error:
        await asyncio.to_thread(process.kill)
        if isinstance(error, TimeoutError):
            raise TryLater(f"the {name} does not come up; {_last_line(log)}") from error
        raise
    return Child(name, port, process, log)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"last words in {log}: {lines[-1] if lines else 'none'}"


def _read_port(ready: Path) -> int | None:
    """What a child wrote once it listens: a number, or an object with a `port`; None while there is nothing."""
    try:
        told: Any = json.loads(ready.read_text())
    except FileNotFoundError:
        return None
    return told if isinstance(told, int) else int(told["port"])


class Http:
    """Calls of loopback children, past any proxy that the environment names."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=CALL_TIMEOUT_S, trust_env=False)

    async def get(self, child: Child, path: str, **params: str | int) -> Any:
        """JSON of a GET; raises TryLater when the child does not answer or refuses."""
        return (await self._call("GET", child, path, params=params)).json()

    async def post(self, child: Child, path: str, body: Mapping[str, object]) -> None:
        """POST some JSON; raises TryLater like `get`."""
        await self._call("POST", child, path, json=body)

    async def ask_health(self, child: Child) -> Report | None:
        """What a service says of itself, None when nobody answers."""
        try:
            answer = await self._client.get(f"http://127.0.0.1:{child.port}/healthz")
            return msgspec.json.decode(answer.content, type=Report)
        except (httpx.HTTPError, msgspec.DecodeError):
            return None

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def _call(self, method: str, child: Child, path: str, **given: Any) -> httpx.Response:
        try:
            answer = await self._client.request(method, f"http://127.0.0.1:{child.port}{path}", **given)
            return answer.raise_for_status()
        except httpx.HTTPError as error:
            raise TryLater(f"the {child.name} does not answer {path}: {type(error).__name__}: {error}") from error
