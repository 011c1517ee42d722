"""A whole sandbox: one or two venues, each with market, streams, REST and judge, on one loopback port."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from sandbox.clock import VenueClock
from sandbox.coingecko import CoinGecko
from sandbox.config import Config
from sandbox.faults import Args, Stage, apply_fault
from sandbox.futures_rest import Futures
from sandbox.hub import Hub
from sandbox.hyperliquid import INFO_PATH, WS_PATH, Hyperliquid
from sandbox.listing import Listing
from sandbox.listing_faults import Editor
from sandbox.listing_oracle import ListingOracle
from sandbox.macro_rest import MacroRest
from sandbox.macro_world import MacroWorld
from sandbox.market import Market, open_market
from sandbox.okx import open_okx_market
from sandbox.okx_hub import OkxHub
from sandbox.okx_rest import OkxDoor, OkxRest
from sandbox.oracle import Oracle, fault_route
from sandbox.perps import Perps
from sandbox.pump import Pump
from sandbox.recount import Recount
from sandbox.rest import Rest
from sandbox.rest_door import RestDoor
from sandbox.streams import Streams, tend_for_ever
from sandbox.troubles import Troubles
from sandbox.weights import Budget

NO_WEIGHT_LIMIT = 1 << 60
"""OKX and CoinGecko count calls instead."""


def read_script(path: Path) -> list[dict[str, Any]]:
    """A fault script, by time. Raises ValueError when an entry has no `at_s`."""
    faults: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    if any("at_s" not in fault for fault in faults):
        raise ValueError(f"{path.name}: every fault needs at_s")
    return sorted(faults, key=lambda fault: fault["at_s"])


class Sandbox:
    """`async with Sandbox(Config(...)) as venue:` - then `venue.port`, `venue.ws_url`, `venue.rest_url`.

    `stage` and `oracle` are Binance's; with `Config.okx` there are `stages["okx"]`, `okx_oracle` and `okx_ws_url` too.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._script = read_script(config.script) if config.script else []
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        config = self._config
        self.stages: dict[str, Stage] = {}
        self.door = RestDoor(self.stages, config.rest_latency_ms)
        app = web.Application(middlewares=[self.door.middleware()])
        work = self._open_binance(app)
        self._open_futures(app)
        self._open_coingecko(app)
        if config.okx:
            work += self._open_okx(app)
        self.hyperliquid = Hyperliquid(config.hyperliquid, config.seed) if config.hyperliquid else None
        if self.hyperliquid is not None:
            app.add_routes(self.hyperliquid.routes())
            work.append(self.hyperliquid.run())
        # On our own time: what these vendors publish goes by the day.
        self.macro = MacroRest(MacroWorld(config.seed, time.time))
        app.add_routes(self.macro.routes())
        app.add_routes([fault_route(self.stages, self._edit)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, config.host, config.port, backlog=512).start()
        self.port = int(self._runner.addresses[0][1])
        for job in (*work, self._play_script()):
            self._spawn(job)
        return self

    def _open_binance(self, app: web.Application) -> list[Coroutine[None, None, None]]:
        config = self._config
        market, troubles = open_market(config), Troubles()
        hub = Hub(config, market.clock, troubles, market.symbols)
        self.listing = Listing(config.seed, market, config.listing, config.epoch_ms)
        budget = Budget(config.weight_limit, config.ban_after, config.ban_s)
        recount, pump = Recount(market), Pump(config, market, hub, troubles)
        self.stage = Stage(market, hub, troubles, budget)
        self.stages["binance"] = self.stage
        self.oracle = Oracle(self.stage, recount, pump)
        app.add_routes(Streams(config, hub, troubles).routes())
        rest = Rest(market, recount, budget, troubles, self.listing)
        self._pairs = rest.pairs
        app.add_routes(rest.routes())
        self.perps = {
            venue: Perps(f"{config.seed}|{venue}", self.listing, plain=venue == "okx") for venue in ("futures", "okx")
        }
        app.add_routes(ListingOracle(market, self.listing, self._pairs, self.perps, self.door).routes())
        self._editor = Editor(self.listing, self.perps["futures"], market.clock)
        app.add_routes(self.oracle.routes())
        return [pump.run(), tend_for_ever(hub)]

    def _open_side(self, venue: str, budget: Budget) -> Stage:
        """A vendor without streams: its REST has troubles, a budget and a wrong clock of its own."""
        spot, troubles = self.stage.market, Troubles()
        market = Market(spot.source, VenueClock(spot.clock.start_ms, spot.clock.speed, follow=spot.clock))
        hub = Hub(self._config, market.clock, troubles, ())
        self.stages[venue] = Stage(market, hub, troubles, budget)
        return self.stages[venue]

    def _open_futures(self, app: web.Application) -> None:
        config = self._config
        stage = self._open_side("futures", Budget(config.futures_weight_limit, config.ban_after, config.ban_s))
        futures = Futures(stage.market.clock, self.listing, self.perps["futures"], stage.budget, stage.troubles)
        app.add_routes(futures.routes())

    def _open_coingecko(self, app: web.Application) -> None:
        stage = self._open_side("coingecko", Budget(NO_WEIGHT_LIMIT, self._config.ban_after, 0.0))
        clock = stage.market.clock
        coins = CoinGecko(self._config, clock, self.listing, self._pairs, stage.budget, stage.troubles)
        app.add_routes(coins.routes())

    def _open_okx(self, app: web.Application) -> list[Coroutine[None, None, None]]:
        config = self._config
        market, troubles = open_okx_market(config, self.stage.market), Troubles()
        hub = OkxHub(config, market, troubles)
        recount, pump = Recount(market), Pump(config, market, hub, troubles)
        stage = self.stages["okx"] = Stage(market, hub, troubles, Budget(NO_WEIGHT_LIMIT, config.ban_after, 0.0))
        self.okx_oracle = Oracle(stage, recount, pump, "/_oracle/okx")
        app.add_routes(OkxDoor(config, hub, stage).routes())
        app.add_routes(OkxRest(config, stage, recount, self.listing, self.perps["okx"]).routes())
        app.add_routes(self.okx_oracle.routes())
        return [pump.run(), tend_for_ever(hub)]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stage in self.stages.values():
            stage.hub.cut_all("stopped")
        if self.hyperliquid is not None:
            self.hyperliquid.close()
        await self._runner.cleanup()

    @property
    def ws_url(self) -> str:
        """The combined stream endpoint."""
        return f"ws://{self._config.host}:{self.port}/stream"

    @property
    def okx_ws_url(self) -> str:
        """OKX's public endpoint."""
        return f"ws://{self._config.host}:{self.port}/ws/v5/public"

    @property
    def rest_url(self) -> str:
        """Where `/api/v3` hangs, and OKX's `/api/v5`."""
        return f"http://{self._config.host}:{self.port}"

    @property
    def hyperliquid_ws_url(self) -> str:
        """Hyperliquid's socket."""
        return f"ws://{self._config.host}:{self.port}{WS_PATH}"

    @property
    def hyperliquid_info_url(self) -> str:
        """Hyperliquid's info endpoint."""
        return f"http://{self._config.host}:{self.port}{INFO_PATH}"

    def fault(self, kind: str, **args: object) -> None:
        """Make a fault happen now."""
        apply_fault(self.stages, {"kind": kind, **args}, self._edit)

    def _edit(self, kind: str, args: Args) -> bool:
        if args.get("venue") == "hyperliquid" and self.hyperliquid is not None:
            self.hyperliquid.faults.apply(kind, args)
            return True
        if kind == "rest_latency":
            self.door.latency_ms = int(args["by_ms"])
            return True
        if kind == "macro":
            self.macro.world.disturb(args)
            return True
        return self._editor.edit(kind, args)

    async def wait_failed(self) -> None:
        """Return never, or raise what stopped one of the sandbox's own tasks."""
        done, _ = await asyncio.wait(self._tasks[:-1], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _play_script(self) -> None:
        began = time.monotonic()
        for fault in self._script:
            await asyncio.sleep(max(0.0, float(fault["at_s"]) - (time.monotonic() - began)))
            apply_fault(self.stages, fault, self._edit)
