"""One socket to the venue, for some accounts of one listener: kept open, kept subscribed, judged by what it hears."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Callable

import msgspec
from websockets.exceptions import ConnectionClosed

from common.backoff import AttemptBudget, full_jitter
from common.clock import Clock
from common.errors import BadInput, Reconnect
from common.feed_events import FeedLimits
from common.feed_wire import Wire, describe_close, open_wire
from influencer_ingestor.events import PositionSnapshot
from influencer_ingestor.hyperliquid import (
    PING,
    Acked,
    Fills,
    OrderUpdates,
    VenueError,
    parse,
    subscribe_frame,
)
from influencer_ingestor.intake import Intake
from influencer_ingestor.plan import Asking

log = logging.getLogger(__name__)

TICK_S = 0.25
REFUSED_FIRST_S, REFUSED_MAX_S = 1.0, 30.0
"""When to ask again for what the venue refused: sooner at first, because others may just be leaving."""
ORDERS = "orderUpdates"

Feed = tuple[str, str]
"""(type, account)."""


class SocketLimits(msgspec.Struct, frozen=True):
    """Limits of one socket, in real seconds."""

    open_timeout_s: float = 10.0
    close_timeout_s: float = 2.0
    send_timeout_s: float = 5.0
    ack_timeout_s: float = 10.0
    ping_every_s: float = 50.0
    pong_timeout_s: float = 10.0
    retry_first_s: float = 0.25
    retry_max_s: float = 15.0
    frame_bytes_max: int = 16 * 2**20


class Socket:
    """A connection slot; `number` is its place in the plan, `listener` 0 or 1. It connects while it has accounts.

    `connected` is called with an account when its fills are subscribed here (True) or not any more; `refused` with the
    number of users the venue says it tracks, None where it says something else.
    """

    def __init__(
        self, number: int, listener: int, url: str, limits: SocketLimits, clock: Clock, intake: Intake,
        budgets: tuple[AttemptBudget, AttemptBudget],
        connected: Callable[[int, str, bool], None], refused: Callable[[int | None], None],
    ) -> None:  # fmt: skip
        self.number, self.listener = number, listener
        self._url, self._limits, self._clock, self._intake = url, limits, clock, intake
        self._attempts, self._frames_budget = budgets
        self._connected, self._refused = connected, refused
        self._wanted: dict[Feed, None] = {}
        self._backoff = (limits.retry_first_s, limits.retry_max_s)
        self._nudge, self._some = asyncio.Event(), asyncio.Event()
        self._rng = random.Random()
        self._begin()
        self.opened = False
        self.heard_s: float | None = None
        self.opened_total = self.lost_total = self.bad_total = 0
        self.failures = 0
        self.last_reason = ""

    # ---- what it is to carry

    def want(self, feeds: dict[Feed, None], backoff: tuple[float, float]) -> None:
        """Set the feeds to carry, and between what bounds to wait before trying again."""
        if feeds.keys() != self._wanted.keys():
            # Others went: there may be room now.
            self._refused_until.clear()
            self._refusals = 0
        self._wanted, self._backoff = dict(feeds), backoff
        (self._some.set if feeds else self._some.clear)()
        self._nudge.set()

    def drop(self, reason: str) -> bool:
        """Give the connection up and make a new one; False when that is under way."""
        if not self.opened or self._broken.done():
            return False
        self._broken.set_exception(Reconnect(reason))
        return True

    @property
    def users(self) -> set[str]:
        """Accounts that the venue counts here: asked for, subscribed, or on their way out."""
        return {user for _, user in {*self._asked_s, *self._asking.accepted, *self._leaving}}

    def hears(self, user: str) -> bool:
        """Is an account's fills feed acknowledged here?"""
        return self.opened and ("userFills", user) in self._asking.accepted

    @property
    def leaving(self) -> bool:
        """Is the end of a feed not acknowledged yet?"""
        gone = self._asking.accepted - self._wanted.keys()
        return self.opened and bool(self._leaving or gone)

    def would_leave(self, feeds: dict[Feed, None]) -> bool:
        """Would these feeds end one that is acknowledged?"""
        return self.opened and bool(self._asking.accepted - feeds.keys())

    @property
    def wanted(self) -> int:
        """How many feeds it is to carry."""
        return len(self._wanted)

    @property
    def subscribed(self) -> int:
        """How many feeds the venue acknowledged."""
        return len(self._asking.accepted)

    # ---- its life

    async def run(self) -> None:
        """Connect whenever there is something to carry, for ever."""
        while True:
            await self._some.wait()
            await asyncio.sleep(self._attempts.reserve(self._clock.monotonic_s()))
            wait_s = None
            try:
                await self._live_once()
                self.failures = 0
                continue
            except Reconnect as error:
                wait_s = error.wait_s
                self._note_loss(str(error))
            pause_s = full_jitter(self.failures, *self._backoff, self._rng)
            self.failures += 1
            await asyncio.sleep(max(pause_s, wait_s or 0.0))

    async def _live_once(self) -> None:
        """One connection from its opening to its loss; raises Reconnect, or returns when nothing is wanted."""
        limits = self._limits
        feed_limits = FeedLimits(
            open_timeout_s=limits.open_timeout_s, close_timeout_s=limits.close_timeout_s,
            frame_bytes_max=limits.frame_bytes_max,
        )  # fmt: skip
        wire = await open_wire(self._url, feed_limits, self._clock)
        self._begin()
        self.opened, self.heard_s = True, self._clock.monotonic_s()
        self.opened_total += 1
        log.info("connection opened", extra=self._fields())
        tasks = {asyncio.ensure_future(self._read(wire)), asyncio.ensure_future(self._tend(wire)), self._broken}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.opened = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for user in [user for kind, user in self._asking.accepted if kind == "userFills"]:
                self._connected(self.listener, user, False)
            self._begin()
            wire.transport.abort()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wire.wait_closed(), limits.close_timeout_s)

    def _begin(self) -> None:
        self._asking = Asking()
        self._lone: str | None = None
        """Whose orders are heard, as the venue acknowledged it: their frames name nobody."""
        self._asked_s: dict[Feed, float] = {}
        self._leaving: dict[Feed, float] = {}
        self._refused_until: dict[Feed, float] = {}
        self._refusals = 0
        self._ping_s: float | None = None
        self._pinged_s = self._clock.monotonic_s()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _note_loss(self, reason: str) -> None:
        self.lost_total += 1
        self.last_reason = reason
        log.warning("connection lost", extra={**self._fields(), "reason": reason, "failures": self.failures})

    def _fields(self) -> dict[str, object]:
        return {"listener": self.listener, "socket": self.number}

    # ---- reading

    async def _read(self, wire: Wire) -> None:
        wire.listen(self._receive, 0.0)
        try:
            await wire.recv(False)
        except ConnectionClosed as error:
            raise Reconnect(describe_close(error)) from error

    def _receive(self, raw: bytes) -> None:
        """Take one frame, inside the loop's read callback."""
        self.heard_s = self._clock.monotonic_s()
        self._ping_s = None
        try:
            self._take(raw)
        except BadInput as error:
            self.bad_total += 1
            self._intake.bury_frame(raw, str(error), self.listener)
        except Exception as error:  # noqa: BLE001 - for `run` to raise: the loop would only log it
            if not self._broken.done():
                self._broken.set_exception(error)

    def _take(self, raw: bytes) -> None:
        frame = parse(raw, self._lone)
        match frame:
            case Fills():
                self.failures = 0
                self._intake.hear(self.listener, frame)
            case PositionSnapshot():
                self._intake.hear_state(self.listener, frame)
            case OrderUpdates():
                if self._lone is not None:
                    self._intake.hear_orders(self.listener, self._lone, frame)
            case Acked():
                self._book(frame)
            case VenueError():
                self._book_error(frame)
            case _:
                pass

    def _book(self, ack: Acked) -> None:
        if ack.user is None:
            return
        feed = (ack.type, ack.user)
        if not ack.subscribe:
            self._leaving.pop(feed, None)
            self._nudge.set()
        elif self._asking.acked(*feed):
            self._asked_s.pop(feed, None)
            self.failures = 0
            if ack.type == ORDERS:
                self._lone = ack.user
            if ack.type == "userFills":
                self._connected(self.listener, ack.user, True)
        self._judge_refusals(None)

    def _book_error(self, error: VenueError) -> None:
        """Errors name nobody; "Already ..." repeats the subscription that is in force."""
        log.warning("venue's error", extra={**self._fields(), "error": error.text})
        if error.text.startswith("Already "):
            feed = _read_feed(error.text)
            if feed is not None and error.text.startswith("Already subscribed"):
                self._book(Acked(*feed, True))
            elif feed is not None:
                self._book(Acked(*feed, False))
            return
        self._asking.failed()
        self._judge_refusals(error.users_max)

    def _judge_refusals(self, users_max: int | None) -> None:
        if users_max is not None:
            self._told_max = users_max
        refused = self._asking.refused()
        if not refused:
            return
        again_s = self._clock.monotonic_s() + min(REFUSED_MAX_S, REFUSED_FIRST_S * 2**self._refusals)
        self._refusals = min(self._refusals + 1, 10)
        for feed in refused:
            self._refused_until[feed] = again_s
        told, self._told_max = self._told_max, None
        # While they still count as asked: that is what the venue's number is held against.
        self._refused(told)
        for feed in refused:
            self._asked_s.pop(feed, None)

    _told_max: int | None = None

    # ---- speaking

    async def _tend(self, wire: Wire) -> None:
        """Subscribe, ping, and notice what is not answered."""
        while True:
            now_s = self._clock.monotonic_s()
            self._check_answers(now_s)
            if not self._wanted and not self._asking.accepted and not self._asked_s and not self._leaving:
                return
            await self._reconcile(wire)
            if now_s - self._pinged_s >= self._limits.ping_every_s:
                self._pinged_s, self._ping_s = now_s, now_s
                await self._send(wire, PING)
            try:
                async with asyncio.timeout(TICK_S):
                    await self._nudge.wait()
            except TimeoutError:
                continue
            self._nudge.clear()

    def _check_answers(self, now_s: float) -> None:
        limits = self._limits
        if self._ping_s is not None and now_s - self._ping_s > limits.pong_timeout_s:
            raise Reconnect(f"a ping was not answered for {limits.pong_timeout_s:g} s")
        oldest = min((*self._asked_s.values(), *self._leaving.values()), default=now_s)
        if now_s - oldest > limits.ack_timeout_s:
            raise Reconnect(f"a subscription was not answered for {limits.ack_timeout_s:g} s")

    async def _reconcile(self, wire: Wire) -> None:
        for feed in [feed for feed in self._asking.accepted if feed not in self._wanted]:
            self._asking.accepted.discard(feed)
            if feed[0] == "userFills":
                self._connected(self.listener, feed[1], False)
            self._leaving[feed] = self._clock.monotonic_s()
            await self._send(wire, subscribe_frame(*feed, subscribe=False))
        now_s = self._clock.monotonic_s()
        for feed in list(self._wanted):
            known = feed in self._asking.accepted or feed in self._asked_s or feed in self._leaving
            if known or self._refused_until.get(feed, 0.0) > now_s:
                continue
            if feed[0] == ORDERS and any(kind == ORDERS for kind, _ in self._leaving):
                # Until the end of the other's is acknowledged it would not be known whose a frame is.
                continue
            self._asking.ask(*feed)
            self._asked_s[feed] = self._clock.monotonic_s()
            await self._send(wire, subscribe_frame(*feed))

    async def _send(self, wire: Wire, text: str) -> None:
        await asyncio.sleep(self._frames_budget.reserve(self._clock.monotonic_s()))
        try:
            async with asyncio.timeout(self._limits.send_timeout_s):
                await wire.send(text)
        except ConnectionClosed as error:
            raise Reconnect(describe_close(error)) from error
        except TimeoutError as error:
            raise Reconnect(f"a frame was not taken for {self._limits.send_timeout_s:g} s") from error


def _read_feed(text: str) -> Feed | None:
    """The subscription that an "Already ..." error repeats."""
    try:
        told = json.loads(text.partition(": ")[2])
        return str(told["type"]), str(told["user"]).lower()
    except (ValueError, KeyError, TypeError):
        return None
