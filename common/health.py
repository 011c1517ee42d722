"""Whether a service is healthy and ready, decided from the age of its data, never from "connected"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

from common.redact import redact_text


class Phase(StrEnum):
    """Where a process stands in its life."""

    STARTING = "starting"
    STANDBY = "standby"
    SERVING = "serving"
    STOPPING = "stopping"


class Check(msgspec.Struct, frozen=True):
    """One answer about one thing that can go wrong; ages in seconds of our monotonic clock, None = no data yet."""

    name: str
    healthy: bool
    detail: dict[str, object] = {}
    age_s: float | None = None
    max_age_s: float | None = None


class Report(msgspec.Struct, frozen=True):
    """All answers at one moment; the body of `/healthz` and `/readyz`."""

    service: str
    phase: Phase
    healthy: bool
    ready: bool
    checks: tuple[Check, ...]


Probe = Callable[[], Check | Sequence[Check]]
"""Looks at ages and depths in memory and answers at once: no I/O, no waiting."""


def check_age(name: str, age_s: float | None, max_age_s: float, **detail: object) -> Check:
    """Judge data by its age: healthy while data was seen and is not older than `max_age_s`."""
    return Check(name, age_s is not None and age_s <= max_age_s, dict(detail), age_s, max_age_s)


class Health:
    """The probes of one service and the phase it is in.

    A service without probes is not healthy: nobody looked. On stand-by only the probes added with
    `on_standby=True` count, because there is no subscription whose data could have an age.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self.phase = Phase.STARTING
        self._probes: dict[str, tuple[Probe, bool]] = {}

    def add_probe(self, name: str, probe: Probe, *, on_standby: bool = False) -> None:
        """Ask `probe` at every report; raises ValueError when the name is taken."""
        if name in self._probes:
            raise ValueError(f"a probe named {name!r} exists")
        self._probes[name] = (probe, on_standby)

    def report(self) -> Report:
        """Ask every probe now; one that fails counts as an unhealthy check."""
        standby = self.phase is Phase.STANDBY
        asked = [(name, probe) for name, (probe, on_standby) in self._probes.items() if on_standby or not standby]
        checks = tuple(check for name, probe in asked for check in _ask(name, probe))
        healthy = all(check.healthy for check in checks) and (standby or bool(checks))
        return Report(self.service, self.phase, healthy, self.phase is Phase.SERVING, checks)


def _ask(name: str, probe: Probe) -> Sequence[Check]:
    try:
        answer = probe()
    except Exception as error:  # noqa: BLE001 - a probe that fails is itself the answer
        return (Check(name, False, {"error": redact_text(f"{type(error).__name__}: {error}")}),)
    return (answer,) if isinstance(answer, Check) else answer
