"""Settings of the sandbox's Hyperliquid, and the flags of `python -m sandbox` that set them."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click

PREFIX = "hyperliquid_"


def _say(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class HyperliquidConfig:
    """What the accounts do and how strict the venue is; times are real (a wall clock, never faster).

    Limits count per address of the client, as the venue's do per IP: 127.0.0.2 has a budget of its own.
    """

    accounts: int = _say(3, "made-up accounts that trade by themselves; 0: only what scripts play")
    rate: float = _say(5.0, "fills per second, all made-up accounts together")
    history_s: int = _say(600, "seconds for which they have traded before the start")
    epoch_ms: int | None = _say(None, "time of their first fill: pin it, and a restarted sandbox agrees with itself")
    transfer_every: int = _say(0, "each so many-th step moves a position without a fill; 0: never")
    tapes: tuple[Path, ...] = _say((), "recorded fills, JSON of the info endpoint; all tapes share one clock")
    tape_speed: float = _say(1.0, "recorded seconds per second")
    lead_s: float = _say(1.0, "seconds from the start to a tape's first fill")
    users_max: int = _say(10, "unique users in subscriptions")
    connections_max: int = _say(10, "open sockets")
    connects_per_min: int = _say(30, "new sockets a minute")
    subscriptions_max: int = _say(1000, "subscriptions of all sockets")
    messages_per_min: int = _say(2000, "frames from the client a minute, all sockets")
    weight_per_min: int = _say(1200, "REST weight a minute, surcharges included")
    idle_s: float = _say(60.0, "a socket to which nothing was sent for so long is closed")
    snapshot_fills: int = _say(100, "fills in the first userFills frame")
    fills_per_frame: int = _say(0, "a block's fills are split into frames of so many; 0: one frame")
    state_every_s: float = _say(5.0, "how often clearinghouseState comes when nothing changes")


def hyperliquid_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--hyperliquid` and a flag for each setting."""
    for item in reversed(fields(HyperliquidConfig)):
        kind: dict[str, Any] = {"type": int} if item.default is None else {"default": item.default}
        if item.name == "tapes":
            kind = {"type": click.Path(path_type=Path, exists=True, dir_okay=False), "multiple": True}
        flag = "--" + (PREFIX + item.name.removesuffix("s") if item.name == "tapes" else PREFIX + item.name)
        name = PREFIX + item.name
        command = click.option(flag.replace("_", "-"), name, help=item.metadata["help"], **kind)(command)
    return click.option("--hyperliquid", is_flag=True, help="a third venue, Hyperliquid, with accounts that trade")(
        command
    )


def take_hyperliquid(settings: dict[str, Any]) -> HyperliquidConfig | None:
    """The Hyperliquid settings, taken out of all settings; None when it is not wanted."""
    wanted = settings.pop("hyperliquid")
    values = {item.name: settings.pop(PREFIX + item.name) for item in fields(HyperliquidConfig)}
    return HyperliquidConfig(**values) if wanted else None


def read_limits(config: HyperliquidConfig, changes: dict[str, Any]) -> dict[str, Any]:
    """Changes that a fault makes to settings, as values of the right kind. Raises ValueError."""
    kinds: dict[str, type] = {item.name: type(getattr(config, item.name)) for item in fields(config)}
    for name in changes:
        if name not in kinds or kinds[name] in (types.NoneType, tuple):
            raise ValueError(f"unknown limit {name!r}")
    return {name: kinds[name](value) for name, value in changes.items()}
