"""The registry in a demo: one nightly run against the loopback vendors decides what the ingestor follows."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import TryLater
from ops.demo_processes import Child, Http
from ops.demo_watch import LOG_BYTES_MAX
from ops.server_process import start_process, wait_until
from ops.server_state import REPOSITORY
from ops.services import Servers
from registry.settings import RegistrySettings

VOLUME_USD = 50_000_000
"""A day of the demo's market is three hours long: too little for the volume floor."""
TIMEOUT_S = 30.0
_SETTINGS = frozenset(name.upper() for name in RegistrySettings.model_fields) | {"CREDENTIALS_DIRECTORY"}
_VENDORS = ("BINANCE_REST_URL", "BINANCE_FUTURES_REST_URL", "OKX_REST_URL", "COINGECKO_URL")


async def run_registry(
    http: Http, venue: Child, servers: Servers, folder: Path, pairs: Sequence[str], clock_offset_s: float
) -> str:
    """Make one run as a timer would; answers what it says in a line. Raises TryLater when it fails."""
    for pair in pairs:
        await http.post(venue, "/_fault", {"kind": "list", "symbol": pair, "volume": str(VOLUME_USD)})
    log = folder / "registry.log"
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    env = {name: value for name, value in os.environ.items() if name.upper() not in _SETTINGS}
    env |= dict.fromkeys(_VENDORS, f"http://127.0.0.1:{venue.port}")
    env |= {"TS_DSN": servers.ts_dsn, "RMQ_URL": servers.rmq_url, "BUS_LOG_MAX_BYTES": str(LOG_BYTES_MAX)}
    # The demo's venue may live some seconds in the past.
    env |= {"CLOCK_OFFSET_S": f"{clock_offset_s:.3f}", "PYTHONPATH": path}
    process = start_process([sys.executable, "-m", "registry", "run"], env, log, None)
    child = Child("registry", 0, process, log)
    try:
        if not await asyncio.to_thread(wait_until, child.has_ended, TIMEOUT_S):
            raise TryLater(f"the registry did not end\n{child.last_words()}")
    finally:
        code = await child.stop()
    if code:
        raise TryLater(f"the registry failed\n{child.last_words()}")
    return next((line for line in log.read_text().splitlines() if "symbols judged" in line), "no word of the registry")
