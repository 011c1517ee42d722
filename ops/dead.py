"""`trading-bus dead`: letters that nobody could read or deliver: look, send again, throw away."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence, Set
from typing import Any, TypeVar, cast

import click

from common.amqp import login_of
from common.errors import Refused
from ops.dead_letters import choose_letters, distrust, format_letter
from ops.dead_queue import Held, Sender, drop_letter, hold_letters
from ops.status_services import SERVICE_LOGINS
from ops.tail import find_broker
from ops.tail_lines import printable

LETTERS_MAX = 1_000

_Command = TypeVar("_Command", bound=Callable[..., None])


def _with_common(command: _Command) -> _Command:
    """The options of every subcommand."""
    bound = click.option(
        "--max", "letters_max", type=click.IntRange(1, 100_000), default=LETTERS_MAX, show_default=True,
        help="Look at the oldest so many.",
    )  # fmt: skip
    broker = click.option(
        "--rmq-url", envvar="RMQ_URL", show_envvar=True, help="Broker; the one of `services up` if none is given."
    )
    return broker(bound(command))


@click.group(
    epilog="\b\nExamples:\n  trading-bus dead list\n  trading-bus dead show 3f2a91bc04\n"
    "  trading-bus dead replay 3f2a 77c0\n  trading-bus dead drop --all"
)
def dead() -> None:
    """Look at dead letters (queue trading.bus.dead), send them again, or throw them away.

    A letter is named by its id or the beginning of it. Looking holds letters for a moment and gives them back in their
    order; two people looking at once do not see each other's.
    """


@dead.command("list", epilog="\b\nExample:\n  trading-bus dead list --max 20")
@_with_common
def list_(letters_max: int, rmq_url: str | None) -> None:
    """List the oldest letters: id, time, size, sender, routing key, reason; `show` tells why it says [no replay]."""
    url = find_broker(rmq_url)

    async def run() -> None:
        async with hold_letters(url, letters_max) as held:
            lines = [format_letter(one.letter) for one in held]
        for line in lines:
            click.echo(line)
        if not lines:
            click.echo("no dead letters", err=True)
        elif len(lines) == letters_max:
            click.echo(f"the oldest {letters_max}; there may be more (--max)", err=True)

    asyncio.run(run())


@dead.command(
    epilog="\b\nExamples:\n  trading-bus dead show 3f2a91bc04\n  trading-bus dead show 3f2a --raw > frame.bin"
)
@click.argument("name", metavar="ID")
@click.option("--raw", is_flag=True, help="Nothing but the body, byte for byte.")
@_with_common
def show(name: str, raw: bool, letters_max: int, rmq_url: str | None) -> None:
    """Show one letter whole: where it was going, why it died, properties, headers, body."""
    url = find_broker(rmq_url)

    async def run() -> Held:
        async with hold_letters(url, letters_max) as held:
            return held[choose_letters([one.letter for one in held], [name])[0]]

    one = asyncio.run(run())
    if raw:
        click.echo(one.message.body, nl=False)
        return
    for line in describe_letter(one):
        click.echo(line)


@dead.command(epilog="\b\nExamples:\n  trading-bus dead replay 3f2a91bc04\n  trading-bus dead replay --all")
@click.argument("names", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every letter of a service looked at that can be sent again.")
@click.option(
    "--sender", "senders", multiple=True,
    help="With --all: letters of this login too; may be repeated. Logins called like a service, and yours, always are.",
)  # fmt: skip
@_with_common
def replay(names: Sequence[str], every: bool, senders: Sequence[str], letters_max: int, rmq_url: str | None) -> None:
    """Publish letters again where they were going, and remove each one once the broker has confirmed it.

    The message goes to the exchange and routing key it had in the beginning, so every queue bound to them gets it, not
    only the one it died in; a crash between confirm and removal leaves it in both places. Consumers go by message_id
    and rev. A letter that can not be sent again stays; exit code 1 if one that was named stays. With --all those stay
    too whose sender, the login that the broker checked, is no service: a consumer that may write dead letters could
    have made them.
    """
    _require_choice(names, every)
    url = find_broker(rmq_url)
    trusted = {login_of(url), *SERVICE_LOGINS, *senders}
    done, kept = asyncio.run(_replay(url, names, letters_max, trusted))
    click.echo(f"{done} sent again, {kept} kept", err=True)
    sys.exit(1 if kept and names else 0)


@dead.command(epilog="\b\nExamples:\n  trading-bus dead drop 3f2a91bc04\n  trading-bus dead drop --all --max 100")
@click.argument("names", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every letter looked at (see --max).")
@_with_common
def drop(names: Sequence[str], every: bool, letters_max: int, rmq_url: str | None) -> None:
    """Throw letters away for good."""
    _require_choice(names, every)
    url = find_broker(rmq_url)

    async def run() -> int:
        async with hold_letters(url, letters_max) as held:
            chosen = _choose(held, names)
            for one in chosen:
                await drop_letter(one)
        return len(chosen)

    click.echo(f"{asyncio.run(run())} thrown away", err=True)


def _require_choice(names: Sequence[str], every: bool) -> None:
    if bool(names) == every:
        raise click.UsageError("name letters by their ids, or give --all")


def _choose(held: Sequence[Held], names: Sequence[str]) -> list[Held]:
    if not names:
        return list(held)
    return [held[place] for place in choose_letters([one.letter for one in held], names)]


async def _replay(url: str, names: Sequence[str], letters_max: int, trusted: Set[str]) -> tuple[int, int]:
    done, kept, sender = 0, 0, Sender(url)
    try:
        async with hold_letters(url, letters_max) as held:
            for one in _choose(held, names):
                try:
                    if not names and (doubt := distrust(one.letter, trusted)) is not None:
                        raise Refused(doubt)
                    await sender.send(one)
                except Refused as error:
                    kept += 1
                    click.echo(f"{one.letter.id} kept: {error}", err=True)
                    continue
                # Only now: what was confirmed twice is found by its message_id, what was never confirmed by nobody.
                await drop_letter(one)
                done += 1
                click.echo(f"{one.letter.id} sent to {printable(one.letter.key)}")
    finally:
        await sender.close()
    return done, kept


def describe_letter(held: Held) -> list[str]:
    """Everything about a letter, one thing a line; the body last, its line ends kept."""
    letter, message = held
    facts: list[tuple[str, Any]] = [
        ("id", letter.id),
        ("sender", letter.sender or "not told to the broker"),
        ("reason", letter.reason),
        ("was going to", f"{letter.key} (exchange {letter.exchange or 'default'})"),
        ("time", letter.time),
        ("size", f"{letter.size} bytes"),
        ("replay", letter.obstacle or "can be sent again"),
        ("message_id", message.message_id),
        ("type", message.type),
        ("app_id", message.app_id),
        ("content_type", message.content_type),
    ]
    lines = [f"{name:14}{printable(str(value))}" for name, value in facts if value is not None]
    for name, value in cast("dict[str, object]", dict(message.headers)).items():
        lines.append(f"header        {printable(name)}: {printable(str(value))}")
    body = message.body.decode(errors="backslashreplace")
    return [*lines, "", *(printable(line) for line in body.splitlines())]
