"""What can be done to a world: one table, name to what happens. An action returns when its fault is over."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable

from tests.faults.broker import end_memory_alarm, ring_memory_alarm
from tests.faults.evidence import CALL_TIMEOUT_S
from tests.faults.world import World
from tests.stage import Process, publish_symbol_events

STANDBY_WITHIN_S = 10.0
TAKEOVER_WITHIN_S = 5.0

Action = Callable[..., Awaitable[None]]


# ---- the venue


async def venue(world: World, kind: str, **args: object) -> None:
    """A fault of the sandbox (see sandbox/faults.py), over when its window closes."""
    await world.stage.fault(kind, **args)
    await asyncio.sleep(float(str(args.get("for_s", 0))))


async def mute(world: World, symbol: str, for_s: float, kind: str = "aggTrade") -> None:
    """A stream that was acked and is never pushed; only `clear` brings it back."""
    await world.stage.fault("mute_stream", stream=f"{symbol.lower()}@{kind}")
    await asyncio.sleep(for_s)
    await world.stage.fault("clear")


async def skew(world: World, ms: int, for_s: float) -> None:
    """The venue tells a wrong time. One that was ahead is over when the right time has come as far."""
    await world.stage.fault("skew", ms=ms)
    await asyncio.sleep(for_s)
    await world.stage.fault("skew", ms=0)
    await asyncio.sleep(max(0.0, ms / 1000 / world.setup.speed))


async def rest_behind(world: World, by_ms: int, for_s: float) -> None:
    await world.stage.fault("rest_behind", by_ms=by_ms)
    await asyncio.sleep(for_s)
    await world.stage.fault("rest_behind", by_ms=0)


async def rest_late(world: World, by_s: float, for_s: float) -> None:
    """REST behind the stream by seconds of ours, whatever the venue's speed: retries pass before it has caught up."""
    await rest_behind(world, round(1000 * by_s * world.setup.speed), for_s)


async def lose_at_source(world: World, symbol: str, trades: int) -> None:
    """The venue loses the next trades for good: neither streamed nor in REST."""
    spans = (await world.stage.oracle("status"))["streamed_ids"][symbol]
    first = max(b for _, b in spans) + 20
    world.lost.setdefault(symbol, []).append((first, first + trades - 1))
    await world.stage.fault("source_missing", symbol=symbol, ids=[first, first + trades - 1])
    async with asyncio.timeout(30):
        while max(b for _, b in (await world.stage.oracle("status"))["streamed_ids"][symbol]) < first + trades:
            await asyncio.sleep(0.1)


# ---- the ingestor


async def kill(world: World, down_s: float = 0.0) -> None:
    await world.replace_ingestor(kill=True, down_s=down_s)


async def stop(world: World, down_s: float = 0.0) -> None:
    await world.replace_ingestor(kill=False, down_s=down_s)


async def freeze(world: World, for_s: float) -> None:
    world.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(for_s)
    finally:
        world.signal(signal.SIGCONT)


async def restart_with(world: World, **settings: object) -> None:
    """Other settings until the end of the scenario."""
    await world.replace_ingestor(kill=False, **settings)


async def twice(world: World, for_s: float) -> None:
    """A second ingestor is started by mistake: it stands by, subscribes to nothing, and ends when asked."""
    first = world.living()
    second = await _stand_by(world)
    await asyncio.sleep(for_s)
    assert "connection opened" not in second.log.read_text(), "the second one subscribed"
    assert await second.stop() == 0, second.tail()
    world.ingestor = first


async def take_over(world: World) -> None:
    """The first of two is killed; the second serves within seconds."""
    first = world.living()
    second = await _stand_by(world)
    await first.kill()
    killed = time.monotonic()
    world.ingestor = second
    stored_s = await world.venue_s()

    async def serves() -> bool:
        return (await world.status_of(second, "readyz"))[0] == 200 and await world.stored_to(stored_s)

    await world.reach(serves, 6 * TAKEOVER_WITHIN_S, "the second one serves")
    took_s = time.monotonic() - killed
    assert took_s <= TAKEOVER_WITHIN_S, f"take-over took {took_s:.1f} s"


async def _stand_by(world: World) -> Process:
    second = await world.start_ingestor()

    async def stands_by() -> bool:
        ready, healthy = await world.status_of(second, "readyz"), await world.status_of(second, "healthz")
        return (ready[0], healthy[0]) == (503, 200) and healthy[1]["phase"] == "standby"

    await world.reach(stands_by, STANDBY_WITHIN_S, "the second one stands by")
    return second


async def outage(world: World, minutes: int, kill: bool = True, late_s: float = 0.0, for_s: float = 0.0) -> None:
    """The ingestor is away while the venue goes on for a long time; REST may be late for a while when it is back."""
    ingestor = world.living()
    await (ingestor.kill() if kill else ingestor.stop())
    await world.start_venue(ahead_s=60 * minutes)
    async with asyncio.TaskGroup() as group:
        group.create_task(rest_late(world, late_s, for_s))
        group.create_task(world.start_ingestor())


# ---- the metric ingestor


async def metric_kill(world: World, down_s: float = 0.0) -> None:
    """The metric ingestor is killed, and started again after a while."""
    metric, world.metric = world.metric, None
    if metric is not None:
        await metric.kill()
        await asyncio.sleep(down_s)
        await world.start_metric()


async def metric_freeze(world: World, for_s: float) -> None:
    """The metric ingestor stands still."""
    process = world.metric.process if world.metric else None
    if process is not None:
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(for_s)
        finally:
            process.send_signal(signal.SIGCONT)


# ---- the registry


async def _set_status(world: World, symbol: str, status: str) -> None:
    """Change a registry row and say so on the bus; the follower reads the table again by itself when that is lost."""
    pair = symbol.removesuffix("USDT")
    await world.execute(f"UPDATE coin_registry SET status = '{status}', updated_at = now() WHERE symbol = '{pair}'")
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await publish_symbol_events(world.stage, [symbol])


async def exclude(world: World, symbol: str) -> None:
    world.idle.setdefault(symbol, []).append((await world.venue_s(), None))
    await _set_status(world, symbol, "EXCLUDED")


async def include(world: World, symbol: str) -> None:
    await _set_status(world, symbol, "ACTIVE")
    excluded_s, _ = world.idle[symbol].pop()
    world.idle[symbol].append((excluded_s, await world.venue_s()))


# ---- the servers


async def rabbitmq_down(world: World, for_s: float) -> None:
    assert world.own is not None
    await asyncio.to_thread(world.own.kill_rabbitmq)
    try:
        await asyncio.sleep(for_s)
    finally:
        await asyncio.to_thread(world.own.restart_rabbitmq)


async def postgres_down(world: World, for_s: float) -> None:
    assert world.own is not None
    await asyncio.to_thread(world.own.kill_postgres)
    try:
        await asyncio.sleep(for_s)
    finally:
        await asyncio.to_thread(world.own.restart_postgres)


async def rabbitmq_frozen(world: World, for_s: float) -> None:
    assert world.own is not None
    await asyncio.to_thread(world.own.freeze_rabbitmq)
    try:
        await asyncio.sleep(for_s)
    finally:
        await asyncio.to_thread(world.own.thaw_rabbitmq)


async def postgres_frozen(world: World, for_s: float) -> None:
    assert world.own is not None
    await asyncio.to_thread(world.own.freeze_postgres)
    try:
        await asyncio.sleep(for_s)
    finally:
        await asyncio.to_thread(world.own.thaw_postgres)


async def memory_alarm(world: World, for_s: float) -> None:
    assert world.own is not None
    await asyncio.to_thread(ring_memory_alarm, world.own)
    try:
        await asyncio.sleep(for_s)
    finally:
        await asyncio.to_thread(end_memory_alarm, world.own)


async def postgres_slow(world: World, by_s: float, for_s: float) -> None:
    """Every flush takes that much longer."""
    await world.execute(f"UPDATE fault_switch SET slow_s = {by_s}")
    await asyncio.sleep(for_s)
    await world.execute("UPDATE fault_switch SET slow_s = 0")


async def disk_full(world: World, for_s: float) -> None:
    """Every flush fails with SQLSTATE 53100."""
    await world.execute("UPDATE fault_switch SET full_disk = true")
    await asyncio.sleep(for_s)
    await world.execute("UPDATE fault_switch SET full_disk = false")


ACTIONS: dict[str, Action] = {
    action.__name__: action
    for action in (
        venue, mute, skew, rest_behind, rest_late, lose_at_source, kill, stop, freeze, restart_with, twice, take_over,
        outage, exclude, include, rabbitmq_down, postgres_down, rabbitmq_frozen, postgres_frozen, memory_alarm,
        postgres_slow, disk_full, metric_kill, metric_freeze,
    )
}  # fmt: skip
