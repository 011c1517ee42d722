"""The sandbox's Hyperliquid: accounts that trade, sockets and the info endpoint, under `/hyperliquid` of the port.

    WS   /hyperliquid/ws            userFills, userEvents, orderUpdates, clearinghouseState, ping
    POST /hyperliquid/info          userFills, userFillsByTime, clearinghouseState, meta, userRole, ...
    GET  /_oracle/hyperliquid/accounts                 every account, its positions and how many fills it has
    GET  /_oracle/hyperliquid/fills?user=&from_seq=    all fills ever made in their order, with the position around each
    GET  /_oracle/hyperliquid/status                   sockets, use of the limits per client address, what was asked
    POST /_play [step, ...]                            accounts trade (see HyperliquidMarket.plan); answers the fills

Limits count per address of the client. Its time is the wall clock, plus the skew that a fault sets.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any, cast

from aiohttp import WSMsgType, web

from sandbox.hyperliquid_config import HyperliquidConfig
from sandbox.hyperliquid_faults import HyperliquidFaults
from sandbox.hyperliquid_frames import GREETING
from sandbox.hyperliquid_hub import HyperliquidHub
from sandbox.hyperliquid_info import HyperliquidInfo
from sandbox.hyperliquid_ledger import number_text
from sandbox.hyperliquid_line import Line
from sandbox.hyperliquid_market import HyperliquidMarket, Made
from sandbox.hyperliquid_play import SeededPlay, make_address
from sandbox.hyperliquid_rules import Rules
from sandbox.hyperliquid_tape import TapePlay, read_tape

WS_PATH, INFO_PATH = "/hyperliquid/ws", "/hyperliquid/info"
TICK_S = 0.004
FRAME_BYTES_MAX = 1 << 16
_log = logging.getLogger(__name__)


class Hyperliquid:
    """The venue; `routes` for the application, `run` beside it."""

    def __init__(self, config: HyperliquidConfig, seed: int) -> None:
        now_ms = _wall_ms()
        epoch_ms = now_ms - config.history_s * 1000 if config.epoch_ms is None else config.epoch_ms
        users = [make_address(seed, "account", i) for i in range(config.accounts)]
        seeded = SeededPlay(str(seed), users, config.rate, epoch_ms, config.transfer_every)
        recorded = [one for path in config.tapes for one in read_tape(path)]
        tape = TapePlay(recorded, config.tape_speed, now_ms + int(config.lead_s * 1000)) if recorded else None
        self.market = HyperliquidMarket(str(seed), users, seeded, tape)
        self.market.advance(now_ms)
        self.rules = Rules()
        self.hub = HyperliquidHub(config, self.market, self.rules, self._told_ms)
        self.info = HyperliquidInfo(str(seed), self.market, self.hub, self.rules, _wall_ms)
        self.faults = HyperliquidFaults(self.market, self.hub, self.info, self.rules, self.play)

    @property
    def accounts(self) -> list[str]:
        """The addresses of all accounts known so far."""
        return list(self.market.accounts)

    def routes(self) -> list[web.RouteDef]:
        """All endpoints."""
        return [
            web.get(WS_PATH, self._serve_socket),
            web.post(INFO_PATH, self.info.serve),
            web.get("/_oracle/hyperliquid/accounts", self._tell_accounts),
            web.get("/_oracle/hyperliquid/fills", self._tell_fills),
            web.get("/_oracle/hyperliquid/status", self._tell_status),
            web.post("/_play", self._serve_play),
        ]

    async def run(self) -> None:
        """Trade and push for ever."""
        while True:
            self._advance(_wall_ms())
            self.hub.tend(time.monotonic())
            await asyncio.sleep(TICK_S)

    def close(self) -> None:
        """Cut all sockets."""
        for line in list(self.hub.lines.values()):
            line.abort()

    def play(self, steps: list[dict[str, Any]]) -> list[Made]:
        """Take a script's steps, carry out those that are due now, and answer their fills. Raises ValueError."""
        now_ms = _wall_ms()
        self._advance(now_ms)
        self.market.plan(steps, now_ms)
        return self._advance(now_ms)

    def _advance(self, now_ms: int) -> list[Made]:
        made = self.market.advance(now_ms)
        if made:
            self.hub.publish(made)
        return made

    def _told_ms(self) -> int:
        return _wall_ms() + self.market.skew_ms

    # Sockets

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        status = self.rules.refuses()
        if status is not None:
            return web.Response(status=status)
        remote = request.remote or ""
        allowance = self.hub.allowances[remote]
        why = allowance.connect(self.hub.config)
        if why is not None:
            return web.Response(status=429, text=f"Too many {why}")
        socket = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=FRAME_BYTES_MAX)
        line: Line | None = None
        try:
            await socket.prepare(request)
            if request.transport is not None:
                line = Line(request.transport, self.hub.next_serial(), remote, allowance)
                self.hub.add(line)
                line.send(GREETING)
                await self._listen(socket, line)
        finally:
            if line is None:
                allowance.disconnect()
            else:
                self.hub.remove(line)
        return socket

    async def _listen(self, socket: web.WebSocketResponse, line: Line) -> None:
        async for message in socket:
            if line.closed:
                return
            if message.type is WSMsgType.TEXT:
                if not line.allowance.hear(self.hub.config):
                    self.hub.cut["too many messages"] += 1
                    line.close(1008, "Too many messages")
                    return
                self.hub.obey(line, str(message.data))
            elif message.type is WSMsgType.PING:
                line.pong(bytes(message.data))

    # The judge

    async def _tell_accounts(self, request: web.Request) -> web.Response:
        rows: list[dict[str, object]] = []
        for user, account in self.market.accounts.items():
            held = {coin: number_text(p.size) for coin, p in account.positions.items() if p.size}
            rows.append({"user": user, "fills": len(self.market.fills(user)), "positions": held})
        return web.json_response(rows)

    async def _tell_fills(self, request: web.Request) -> web.Response:
        try:
            first = int(request.query.get("from_seq", "0"))
        except ValueError:
            raise web.HTTPBadRequest(text="from_seq must be a whole number") from None
        user = request.query.get("user")
        made = self.market.made if user is None else self.market.fills(user.lower())
        return web.json_response([one.as_json() for one in made if one.seq >= first])

    async def _tell_status(self, request: web.Request) -> web.Response:
        return web.json_response(self.status())

    def status(self) -> dict[str, object]:
        """Sockets by age, use of the limits by client address, faults done."""
        now = time.monotonic()
        hub = self.hub
        return {
            "now_ms": self._told_ms(),
            "fills": len(self.market.made),
            "next_ms": self.market.next_ms(),
            "connections": [line.as_json(now) for line in hub.open_lines()],
            "connections_cut": dict(hub.cut),
            "clients": {remote: allowance.as_json() for remote, allowance in hub.allowances.items()},
            "asked": [
                {"type": kind, "status": status, "count": count}
                for (kind, status), count in sorted(self.info.asked.items())
            ],
            "faults_done": dict(self.rules.done),
        }

    async def _serve_play(self, request: web.Request) -> web.Response:
        try:
            steps = json.loads(await request.text())
            if not isinstance(steps, list):
                raise ValueError("a list of steps")
            made = self.play(cast("list[dict[str, Any]]", steps))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return web.json_response([one.as_json() for one in made])


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
