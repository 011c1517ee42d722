"""Who else plays in a demo: the services beside the ingestor and a consumer, started, left to play, and judged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

from common.postgres import Connection
from ops.demo_features import Comparison, compare_known, read_known
from ops.demo_influencer import judge_influencer, start_influencer, trade
from ops.demo_macro import judge_macro, start_macro
from ops.demo_metric import judge_metric, start_metric
from ops.demo_processes import FEATURE_ENGINE, FEATURES_FILE, Child, Http, start_feature_engine
from ops.services import Servers


class Judged(Protocol):
    """What a judge found."""

    faults: list[str]

    def line(self) -> str:
        """For the summary."""
        ...


class Cast:
    """All of them on one loopback venue; what is started is stopped by `stack`."""

    def __init__(self, http: Http, servers: Servers, folder: Path, venue: Child, stack: AsyncExitStack) -> None:
        self._http, self._servers, self._folder, self._venue, self._stack = http, servers, folder, venue, stack
        self._engine: Child | None = None
        self._macro: Child | None = None
        self._metric: Child | None = None
        self._influencer: Child | None = None
        self._trading: asyncio.Task[None] | None = None

    async def start_consumer(self) -> None:
        """Start the worked consumer, before there is anything to hear; installed without the clone there is none."""
        if FEATURE_ENGINE.is_file():
            self._engine = self._keep(await start_feature_engine(self._folder, self._servers))

    async def start_services(self, con: Connection) -> None:
        """Start every service at the same time; raises TryLater when one does not come."""
        await asyncio.gather(self._start_metric(), self._start_macro(), self._start_influencer(con))

    def rest(self) -> None:
        """The scripted accounts trade no more."""
        if self._trading is not None:
            self._trading.cancel()

    async def judge(self, con: Connection, symbols: Sequence[str], start_s: int) -> list[Judged]:
        """End each and hold what it stored against what the venue told; the consumer has heard what we have heard."""
        http, venue, found = self._http, self._venue, list[Judged]()
        if self._engine is not None:
            found.append(await self._judge_features(con, self._engine, symbols))
        if self._metric is not None:
            found.append(await judge_metric(con, http, venue, self._metric, symbols, start_s))
        if self._macro is not None:
            found.append(await judge_macro(con, http, venue, self._macro))
        if self._influencer is not None:
            found.append(await judge_influencer(con, http, venue, self._influencer))
        return found

    def _keep(self, child: Child) -> Child:
        self._stack.push_async_callback(child.stop)
        return child

    async def _start_metric(self) -> None:
        self._metric = self._keep(await start_metric(self._folder, self._servers, self._venue))

    async def _start_macro(self) -> None:
        self._macro = self._keep(await start_macro(self._folder, self._servers, self._venue))

    async def _start_influencer(self, con: Connection) -> None:
        self._influencer = self._keep(await start_influencer(self._folder, self._servers, self._venue, con))
        self._trading = asyncio.create_task(trade(self._http, self._venue))
        self._stack.callback(self._trading.cancel)

    async def _judge_features(self, con: Connection, engine: Child, symbols: Sequence[str]) -> Comparison:
        if await engine.stop() != 0:
            return Comparison(faults=["the feature engine did not end in order"])
        known = read_known(await asyncio.to_thread((self._folder / FEATURES_FILE).read_bytes))
        return await compare_known(con, symbols, known)
