"""The life of a process: settings, logs, signals, tasks, readiness, metrics and an orderly stop.

A service's `__main__` wires and returns:

    async def main(service: Service[MySettings]) -> None:
        store = Store(...)
        service.on_stop("store", store.close)
        service.spawn("writer", writer.run())
        service.health.add_probe("feed", lambda: check_age("feed", feed.data_age_s(), 5.0))

    sys.exit(run("ohlcv", MySettings, main))

What `main` started is stopped in reverse order, tasks and on_stop functions alike: what was built on something
else goes before it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

import msgspec
import uvloop

from common.errors import ConfigError, Superseded
from common.health import Health, Phase
from common.logs import configure_logging
from common.metrics import new_registry, watch_health
from common.notify import Notifier, read_notifier
from common.settings import ServiceSettings, describe_settings, load_settings, secret_values
from common.signals import Deadline, catch_stop_signals
from common.status_http import StatusServer

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_DIED = 1
EXIT_CONFIG = 2
EXIT_SUPERSEDED = 3
EXIT_CUT = 4
"""The stop was not orderly: its deadline passed, or a second signal came."""

STEP_RESERVE_S = 0.5
"""What each step still waiting in the stop keeps of the time left, all together at most half of it."""
CANCEL_TIMEOUT_S = 0.5
DEADLINE_SHARE = 0.95
"""The orderly stop plans with a little less than STOP_TIMEOUT_S, so that the loop can still close."""
HEALTH_EVERY_S = 1.0

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


class _Step(msgspec.Struct, frozen=True):
    """One thing to undo at stop: a running task, or a function to call."""

    name: str
    undo: Callable[[], Coroutine[Any, Any, None]]


class Service(Generic[SettingsT]):
    """One running service: what `main` gets to wire itself into the process."""

    def __init__(self, name: str, settings: SettingsT, notifier: Notifier | None = None) -> None:
        self.name = name
        self.settings = settings
        self.registry = new_registry()
        self.health = Health(name)
        self.stopping = asyncio.Event()
        self.exit_code = EXIT_OK
        self._notifier = notifier or Notifier()
        self._steps: list[_Step] = []
        self._http = StatusServer(self.health, self.registry)
        self._http_started = False
        self.deadline = Deadline(settings.stop_timeout_s, EXIT_CUT)
        watch_health(self.registry, self.health)

    @property
    def owner(self) -> str:
        """The name of this instance among all: "<service>/<index>/<count>"."""
        return f"{self.name}/{self.settings.shard}"

    def spawn(self, name: str, coro: Coroutine[Any, Any, None], *, wait_at_stop: bool = False) -> asyncio.Task[None]:
        """Run a coroutine for the life of the process: if it ends before the stop, the process ends non-zero.

        At stop it is cancelled when its turn comes; with `wait_at_stop` it watches `stopping`, is waited for, and
        cancelled only when its time is over.
        """
        task = asyncio.create_task(coro, name=name)
        task.add_done_callback(self._judge_end)

        async def undo() -> None:
            if not wait_at_stop:
                task.cancel()
            try:
                await asyncio.wait({task})
            finally:
                task.cancel()

        self._steps.append(_Step(name, undo))
        return task

    def on_stop(self, name: str, coro_fn: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Call and await `coro_fn()` at stop, after everything that was added later has stopped.

        One that overruns its time is cancelled and logged, and the process ends non-zero; so it does when one raises.
        """
        self._steps.append(_Step(name, coro_fn))

    def ready(self, status: str = "serving") -> None:
        """Say that first data was seen: `/readyz` answers 200 from now on; systemd heard of it when all was wired."""
        self._enter(Phase.SERVING, status)

    def stand_by(self, status: str = "stand-by: another instance holds the lock") -> None:
        """Say that this instance waits to take over: healthy, not ready, known to systemd as started."""
        self._enter(Phase.STANDBY, status)

    def resume(self, status: str = "starting") -> None:
        """Say that the wait is over and the work begins: from now on all probes count again."""
        self._enter(Phase.STARTING, status)

    def stop(self, reason: str) -> None:
        """Begin the orderly stop; the first call counts."""
        if self.stopping.is_set():
            return
        self.deadline.arm()
        log.info("stopping", extra={"reason": reason, "stop_timeout_s": self.settings.stop_timeout_s})
        self.health.phase = Phase.STOPPING
        self.stopping.set()
        self._notifier.tell_stopping(f"stopping: {reason}")

    def fail(self, name: str, error: BaseException) -> None:
        """Log what died and begin the stop; the first failure decides the exit code."""
        code = _exit_code(error)
        self.exit_code = self.exit_code or code
        if code == EXIT_DIED:
            log.critical("task died", extra={"task": name}, exc_info=error)
        else:  # said in a sentence, no traceback needed
            log.error("task ended the service", extra={"task": name, "reason": str(error), "exit_code": code})
        self.stop(f"{name} failed")

    async def serve_http(self) -> int:
        """Answer `/healthz`, `/readyz` and `/metrics`; `run` does it before `main`. Answers the port."""
        if not self._http_started:
            self._http_started = True
            self.on_stop("http", self._http.stop)
            await self._http.start(self.settings.http_host, self.settings.http_port, self.settings.http_port_file)
            log.info("http listening", extra={"host": self.settings.http_host, "port": self._http.port})
        return self._http.port

    async def live(self, main: Callable[[Service[SettingsT]], Awaitable[None]]) -> None:
        """From the first task to the last: wire, wait for the stop, undo in reverse order."""
        wiring = asyncio.create_task(self._wire(main), name="main")
        wiring.add_done_callback(self._judge_wiring)
        await self.stopping.wait()

        async def undo_wiring() -> None:
            wiring.cancel()
            await asyncio.wait({wiring})

        self._steps.append(_Step("main", undo_wiring))
        await self._unwind()
        log.info("stopped", extra={"exit_code": self.exit_code})

    async def _wire(self, main: Callable[[Service[SettingsT]], Awaitable[None]]) -> None:
        if self._notifier.watchdog_every_s is not None:
            self.spawn("watchdog", self._feed_watchdog(self._notifier.watchdog_every_s))
        await self.serve_http()
        self.spawn("health", self._log_health())
        await main(self)
        if not self.stopping.is_set():
            # Wired, not `ready()`: a start that waits for first data must not be ended while a venue is away.
            self._notifier.tell_ready()

    async def _unwind(self) -> None:
        while self._steps:
            step = self._steps.pop()
            left_s = self.deadline.left_s() - self.settings.stop_timeout_s * (1 - DEADLINE_SHARE)
            await self._undo(step, _share_s(left_s, len(self._steps)))

    async def _undo(self, step: _Step, allowed_s: float) -> None:
        self.deadline.step = step.name
        begun = time.monotonic()
        task = asyncio.create_task(step.undo(), name=f"stop {step.name}")
        done, _ = await asyncio.wait({task}, timeout=allowed_s)
        if not done:
            log.error("stop step overran", extra={"step": step.name, "allowed_s": round(allowed_s, 3)})
            self.exit_code = self.exit_code or EXIT_CUT
            task.cancel()
            # Not awaited to the end: it may refuse to go.
            await asyncio.wait({task}, timeout=min(CANCEL_TIMEOUT_S, max(self.deadline.left_s() / 4, 0.0)))
        elif not task.cancelled() and (error := task.exception()) is not None:
            log.error("stop step failed", extra={"step": step.name}, exc_info=error)
            self.exit_code = self.exit_code or EXIT_DIED
        log.debug("stop step done", extra={"step": step.name, "took_s": round(time.monotonic() - begun, 3)})

    def _judge_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(task.get_name(), error)
        elif not self.stopping.is_set():
            how = "was cancelled" if task.cancelled() else "returned"
            self.fail(task.get_name(), RuntimeError(f"task {task.get_name()} {how} before the stop"))

    def _judge_wiring(self, task: asyncio.Task[None]) -> None:
        # Unlike a spawned task it may return: then everything is wired.
        if task.cancelled():
            if not self.stopping.is_set():
                self.fail("main", RuntimeError("main was cancelled before the stop"))
        elif (error := task.exception()) is not None:
            self.fail("main", error)

    def _enter(self, phase: Phase, status: str) -> None:
        if self.stopping.is_set():
            return
        if self.health.phase is not phase:
            log.info("phase changed", extra={"phase": phase, "was": self.health.phase, "status": status})
        self.health.phase = phase
        if phase is Phase.STARTING:
            self._notifier.tell_status(status)
        else:
            self._notifier.tell_ready(status)

    async def _feed_watchdog(self, every_s: float) -> None:
        # From the event loop, so that a blocked loop is what systemd notices; health is no reason to be restarted.
        while True:
            self._notifier.tell_alive()
            await asyncio.sleep(every_s)

    async def _log_health(self) -> None:
        known: dict[str, bool] = {}
        while True:
            for check in self.health.report().checks:
                if known.get(check.name, True) != check.healthy:
                    level = logging.INFO if check.healthy else logging.WARNING
                    event = "check recovered" if check.healthy else "check failed"
                    extra = {"check": check.name, "age_s": check.age_s, "max_age_s": check.max_age_s}
                    log.log(level, event, extra={**extra, "detail": check.detail})
                known[check.name] = check.healthy
            await asyncio.sleep(HEALTH_EVERY_S)


def _share_s(left_s: float, waiting: int) -> float:
    """How long one stop step may take, so that a stuck one leaves time to the steps behind it."""
    left_s = max(left_s, 0.0)
    return left_s - min(left_s / 2, STEP_RESERVE_S * waiting)


def _exit_code(error: BaseException) -> int:
    causes = list(_leaves(error))
    for kind, code in ((Superseded, EXIT_SUPERSEDED), (ConfigError, EXIT_CONFIG)):
        if any(isinstance(cause, kind) for cause in causes):
            return code
    return EXIT_DIED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            yield from _leaves(part)  # pyright: ignore[reportUnknownArgumentType]
    else:
        yield error


def run(name: str, settings_cls: type[SettingsT], main: Callable[[Service[SettingsT]], Awaitable[None]]) -> int:
    """Live as service `name` until SIGTERM, SIGINT, `stop()` or a failure; answers the exit code.

    0 after an asked-for stop, 1 when a task died, 2 for wrong settings, 3 when superseded. A stop that passes its
    deadline, or a second signal, ends the process at once with 4. Call it from the main thread.
    """
    try:
        settings = load_settings(settings_cls)
    except ConfigError as error:
        configure_logging(name)
        for line in str(error).splitlines():
            log.error(line)
        return EXIT_CONFIG
    configure_logging(name, settings.log_level, secret_values(settings))
    log.info("starting", extra={"settings": describe_settings(settings)})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        service = runner.run(_live(name, settings, main))
        runner.close()  # still under the deadline: a thread or task that refuses to end must not hold us
    service.deadline.disarm()
    return service.exit_code


async def _live(
    name: str, settings: SettingsT, main: Callable[[Service[SettingsT]], Awaitable[None]]
) -> Service[SettingsT]:
    service = Service(name, settings, read_notifier())
    with catch_stop_signals(service.stop, service.deadline):
        await service.live(main)
    return service
