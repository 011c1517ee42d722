"""`/healthz`, `/readyz` and `/metrics` over HTTP, on loopback unless told otherwise."""

from __future__ import annotations

from pathlib import Path

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from common.errors import ConfigError
from common.health import Health

REQUEST_BYTES_MAX = 4096
SHUTDOWN_TIMEOUT_S = 0.5
KEEPALIVE_TIMEOUT_S = 75.0


class StatusServer:
    """The HTTP server of one service; `port` is the one really taken."""

    def __init__(self, health: Health, registry: CollectorRegistry) -> None:
        self._health = health
        self._registry = registry
        self._runner: web.AppRunner | None = None
        self._port_file: Path | None = None
        self.port = 0

    async def start(self, host: str, port: int, port_file: Path | None = None) -> None:
        """Listen; port 0 takes a free one. `port_file` then holds the number, removed at stop.

        Raises ConfigError when the address or the file can not be had.
        """
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        app.router.add_get("/healthz", self._answer_healthz)
        app.router.add_get("/readyz", self._answer_readyz)
        app.router.add_get("/metrics", self._answer_metrics)
        runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
        )
        await runner.setup()
        self._runner = runner
        try:
            await web.TCPSite(runner, host, port).start()
            self.port = runner.addresses[0][1]
        except OSError as error:
            raise ConfigError(f"HTTP_HOST, HTTP_PORT: can not listen on {host}:{port}: {error.strerror}") from error
        if port_file is not None:
            self._tell_port(port_file)

    async def stop(self) -> None:
        """Close the listener and every connection."""
        if self._port_file is not None:
            self._port_file.unlink(missing_ok=True)
        if self._runner is not None:
            await self._runner.cleanup()

    def _tell_port(self, path: Path) -> None:
        draft = path.with_name(path.name + ".new")
        try:
            draft.write_text(f"{self.port}\n")
            draft.replace(path)  # a reader sees the whole number or no file
        except OSError as error:
            raise ConfigError(f"HTTP_PORT_FILE: can not write {path}: {error.strerror}") from error
        self._port_file = path

    async def _answer_healthz(self, _request: web.Request) -> web.Response:
        report = self._health.report()
        return _answer(report, report.healthy)

    async def _answer_readyz(self, _request: web.Request) -> web.Response:
        report = self._health.report()
        return _answer(report, report.ready)

    async def _answer_metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


def _answer(report: msgspec.Struct, good: bool) -> web.Response:
    body = msgspec.json.encode(report, enc_hook=str)
    headers = {"Cache-Control": "no-store"}
    return web.Response(status=200 if good else 503, body=body, content_type="application/json", headers=headers)
