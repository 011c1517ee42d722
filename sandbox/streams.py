"""The WebSocket endpoints `/stream` and `/ws`."""

from __future__ import annotations

import asyncio
import time

from aiohttp import WSMsgType, web

from sandbox import frames
from sandbox.config import Config
from sandbox.sockets import Connection, Sockets
from sandbox.troubles import Troubles


class Streams:
    """Accepts sockets, reads what clients say; all writing is the hub's."""

    def __init__(self, config: Config, hub: Sockets, troubles: Troubles) -> None:
        self._config = config
        self._hub = hub
        self._troubles = troubles

    def routes(self) -> list[web.RouteDef]:
        """The two endpoints."""
        return [web.get("/stream", self.serve), web.get("/ws", self.serve), web.get("/ws/{names:.+}", self.serve)]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One connection's life."""
        if self._troubles.on("refuse"):
            raise web.HTTPServiceUnavailable
        if len(self._hub.connections) >= self._config.connections_max:
            raise web.HTTPTooManyRequests
        combined = request.path == "/stream"
        listed = request.query.get("streams", "") if combined else request.match_info.get("names", "")
        names = [name for name in listed.split("/") if name]
        socket = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=1 << 20)
        await socket.prepare(request)
        transport = request.transport
        if transport is None:
            return socket
        connection = Connection(transport, combined, self._config.incoming_per_s, self._config.connection_life_s)
        if len(set(names)) > self._config.streams_max:
            connection.close(1008, "Too many streams")
            return socket
        self._hub.add(connection, names)
        try:
            await listen(socket, connection, self._hub, self._troubles)
        finally:
            self._hub.remove(connection)
        return socket


async def listen(socket: web.WebSocketResponse, connection: Connection, hub: Sockets, troubles: Troubles) -> None:
    """Hear a client out, until it is gone or talks too fast."""
    async for message in socket:
        if not connection.hear(time.monotonic()):
            hub.refuse_speed(connection)
            return
        if message.type is WSMsgType.TEXT:
            hub.obey(connection, str(message.data))
        elif message.type is WSMsgType.PING:
            connection.out.append(frames.pack(bytes(message.data), frames.PONG))
        elif message.type is WSMsgType.PONG:
            connection.answer_ping(bytes(message.data))
        if not troubles.on("stall"):
            connection.flush()


async def tend_for_ever(hub: Sockets, every_s: float = 0.1) -> None:
    """Keep the connections to their rules."""
    while True:
        hub.tend(time.monotonic())
        await asyncio.sleep(every_s)
