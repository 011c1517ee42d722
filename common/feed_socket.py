"""One connection to a venue, from the attempt to open it until it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial

from websockets.exceptions import ConnectionClosed

from common.errors import BadInput, Reconnect
from common.feed_events import BadFrame, Event, Lost, Opened, Subscribed, Unsubscribed
from common.feed_inbox import Slot
from common.feed_wire import Wire, describe_close, open_wire
from common.patience import Patience
from common.subscriptions import Subscriptions
from common.venues.market import Ack, Cadence, Closing, Message, Rejected, Several, Trade

log = logging.getLogger(__name__)

_TICK_MAX_S = 0.25
_TICKS_PER_STALE = 10


class Connection:
    """A socket with its reader and its caretaker; `run` it once, as a task.

    `retire` is done when the connection should be replaced while it still works, `settled` when it has delivered
    everything wanted for `overlap_s`. `trusted` says whether it earned a fresh retry counter: data came with its
    time, and the venue did not refuse what we asked for.
    """

    def __init__(self, number: int, slot: Slot) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.retire: asyncio.Future[None] = loop.create_future()
        self.settled: asyncio.Future[None] = loop.create_future()
        self.opened = False
        self.was_open = False
        self.wait_s: float | None = None
        self._url, self._limits, self._clock = slot.url, slot.limits, slot.clock
        self._inbox, self._counts, self._market = slot.inbox, slot.counts, slot.market
        market = slot.market
        self._parse, self._arrivals, self._events_max = market.parse, slot.inbox.arrivals, slot.inbox.events_max
        self.subscriptions = Subscriptions(
            market.cadence_stream, market.frame_names_max, market.control_per_s, market.control_per_hour
        )
        self._fields = {"venue": market.source, "feed": slot.name, "conn": number}
        self._stop: asyncio.Future[None] = loop.create_future()
        self._broken: asyncio.Future[None] = loop.create_future()
        self._behind = asyncio.Event()
        self._nudge = asyncio.Event()
        self._data_frames = self._cadence_frames = self._other_frames = 0
        self._refused = False
        self._held = False
        self._kept_alive_s = slot.clock.monotonic_s()
        self._ready_at_s: float | None = None

    @property
    def trusted(self) -> bool:
        """Did this connection tell its time without being refused?"""
        return self._cadence_frames > 0 and not self._refused

    @property
    def frames(self) -> int:
        """Frames received."""
        return self._data_frames + self._other_frames

    def want(self, streams: frozenset[str]) -> None:
        """Replace the set of streams this connection should carry."""
        self.subscriptions.want(streams)
        self._nudge.set()

    def stop(self) -> None:
        """Say goodbye to the venue and end; `run` returns soon after."""
        _finish(self._stop)

    async def run(self) -> None:
        """Open, deliver events until the connection is gone, then put Lost; anything but loss is raised."""
        opening = asyncio.ensure_future(open_wire(self._url, self._limits, self._clock))
        try:
            await asyncio.wait({opening, self._stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not opening.done():
                opening.cancel()
                await asyncio.wait({opening})
        if opening.cancelled():
            return
        try:
            socket = opening.result()
        except Reconnect as error:
            self.wait_s = error.wait_s
            log.warning("connection not opened", extra={**self._fields, "reason": str(error)})
            return
        await self._serve(socket)

    async def _serve(self, socket: Wire) -> None:
        self.opened = self.was_open = True
        self._put(Opened())
        log.info("connection opened", extra=self._fields)
        works = (self._read(socket), self._yield_to_consumer(socket), self._tend(socket))
        tasks: set[asyncio.Future[None]] = {self._broken, *(asyncio.create_task(work) for work in works)}
        lost = Lost("broken off", planned=False)
        try:
            done, _ = await asyncio.wait({*tasks, self._stop}, return_when=asyncio.FIRST_COMPLETED)
            ended = tasks & done
            if ended:
                lost = Lost(_reason_of(ended), planned=False)
            else:
                await self._part(socket, tasks)
                lost = Lost("closed by us", planned=True)
        finally:
            socket.transport.abort()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.opened = False
            self._counts.frames += self.frames
            self._put(lost)
            level = logging.INFO if lost.planned else logging.WARNING
            log.log(level, "connection lost", extra={**self._fields, "reason": lost.reason, "planned": lost.planned})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(socket.wait_closed(), self._limits.close_timeout_s)

    async def _part(self, socket: Wire, tasks: set[asyncio.Future[None]]) -> None:
        """Close with a handshake; the reader meanwhile delivers what was still on its way."""
        await socket.close()
        await asyncio.wait(tasks, timeout=self._limits.close_timeout_s, return_when=asyncio.FIRST_COMPLETED)

    def _put(self, event: Event) -> None:
        self._inbox.put((self.number, event))

    async def _read(self, socket: Wire) -> None:
        """Have every message delivered until the connection is lost."""
        socket.listen(partial(self._receive, socket), self._limits.rest_s)
        try:
            await socket.recv(False)
        except ConnectionClosed as error:
            raise Reconnect(describe_close(error)) from error

    def _receive(self, socket: Wire, raw: bytes) -> None:
        """Take one message. Runs once per frame inside the loop's read callback: what it needs is at hand."""
        arrivals = self._arrivals
        try:
            message = self._parse(raw)
            if type(message) is Trade:
                self._data_frames += 1
                if not arrivals:
                    self._begin_batch()
                arrivals.append((self.number, message))
            else:
                self._steer(message)
        except BadInput as error:
            self._report(raw, error)
        except Exception as error:  # noqa: BLE001 - for `_serve` to raise: the loop would only log it
            if not self._broken.done():
                self._broken.set_exception(error)
        if len(arrivals) >= self._events_max and not self._held:
            self._held = True
            socket.hold()
            self._behind.set()

    def _begin_batch(self) -> None:
        # The clock is read once for a batch, not for every trade in it.
        self._counts.data_at_s = self._clock.monotonic_s()
        self._inbox.wake()

    def _report(self, raw: bytes, error: BadInput) -> None:
        self._other_frames += 1
        self._counts.bad += 1
        self._put(BadFrame(raw[: self._limits.bad_frame_bytes_kept], str(error)))

    async def _yield_to_consumer(self, socket: Wire) -> None:
        """Read on when the consumer has taken what was there; meanwhile the venue's TCP window fills."""
        while True:
            await self._behind.wait()
            await self._inbox.room()
            self._behind.clear()
            self._held = False
            socket.release()

    def _steer(self, message: Message) -> None:
        """Act on what concerns the connection itself."""
        match message:
            case Cadence():
                self._note_data()
                self._cadence_frames += 1
                self._put(message)
                if self._ready_at_s is None and self.subscriptions.settled:
                    self._ready_at_s = self._counts.data_at_s
                return
            case Several(trades=trades):
                self._note_data()
                for trade in trades:
                    self._put(trade)
                return
            case Ack(id=id_, stream=stream):
                self._book(id_, stream)
            case Rejected():
                self._accept_refusal(message)
            case Closing():
                log.info("venue announced its shutdown", extra=self._fields)
                _finish(self.retire)
            case _:
                pass
        self._other_frames += 1

    def _note_data(self) -> None:
        self._data_frames += 1
        self._counts.data_at_s = self._clock.monotonic_s()

    def _book(self, id_: int, stream: str | None) -> None:
        control = self.subscriptions.acked(id_, stream)
        if control is not None:
            streams = frozenset(control.streams)
            self._put(Subscribed(streams) if control.subscribe else Unsubscribed(streams))
            self._nudge.set()

    def _accept_refusal(self, message: Rejected) -> None:
        """Go on without a stream the venue does not have; anything else it refuses ends the connection."""
        stream = message.stream
        if stream is None or stream == self._market.cadence_stream or not self.subscriptions.refused(stream):
            self._refused = True
            raise Reconnect(f"the venue refused a subscription: {message.reason}")
        log.warning("stream refused", extra={**self._fields, "stream": stream, "reason": message.reason})
        self._nudge.set()

    async def _tend(self, socket: Wire) -> None:
        """Send control frames at the venue's pace, and judge the connection several times a second."""
        limits, opened_s = self._limits, self._clock.monotonic_s()
        tick_s = min(_TICK_MAX_S, limits.stale_after_s / _TICKS_PER_STALE)
        patience = Patience(limits.stale_after_s, limits.ack_timeout_s, 2 * tick_s, opened_s)
        while True:
            now_s = self._clock.monotonic_s()
            unanswered = self.subscriptions.unanswered
            patience.look(now_s, self._data_frames, self._cadence_frames, unanswered, self._held)
            if patience.stale:
                raise Reconnect(f"no data for {limits.stale_after_s} s")
            if patience.untimed:
                raise Reconnect(f"no cadence frame for {limits.stale_after_s} s")
            if patience.ignored:
                self._refused = True
                raise Reconnect(f"a subscription was not answered for {limits.ack_timeout_s} s")
            self._announce(now_s, opened_s)
            await self._keep_alive(socket, now_s)
            await self._reconcile(socket, now_s)
            wait_s = self.subscriptions.wait_s(now_s)
            await self._nudged(tick_s if wait_s is None else min(wait_s, tick_s))

    def _announce(self, now_s: float, opened_s: float) -> None:
        if now_s - opened_s >= self._limits.rotate_after_s:
            _finish(self.retire)
        if self._ready_at_s is not None and now_s - self._ready_at_s >= self._limits.overlap_s:
            _finish(self.settled)

    async def _keep_alive(self, socket: Wire, now_s: float) -> None:
        if self._market.keepalive_text and now_s - self._kept_alive_s >= self._limits.keepalive_every_s:
            self._kept_alive_s = now_s
            self.subscriptions.note_sent(now_s)
            await self._send(socket, self._market.keepalive_text)

    async def _reconcile(self, socket: Wire, now_s: float) -> None:
        control = self.subscriptions.next_frame(now_s)
        if control is not None:
            build = self._market.subscribe_frame if control.subscribe else self._market.unsubscribe_frame
            await self._send(socket, build(list(control.streams), control.id))

    async def _send(self, socket: Wire, text: str) -> None:
        try:
            async with asyncio.timeout(self._limits.send_timeout_s):
                await socket.send(text)
        except ConnectionClosed as error:
            raise Reconnect(describe_close(error)) from error
        except TimeoutError as error:
            raise Reconnect(f"a frame was not taken for {self._limits.send_timeout_s} s") from error

    async def _nudged(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._nudge.wait()
        except TimeoutError:
            return
        self._nudge.clear()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _reason_of(done: set[asyncio.Future[None]]) -> str:
    """Why the reader or the caretaker gave up; what is not a loss of the connection is raised."""
    reasons: list[str] = []
    for task in done:
        try:
            task.result()
        except Reconnect as error:
            reasons.append(str(error))
    return "; ".join(reasons)
