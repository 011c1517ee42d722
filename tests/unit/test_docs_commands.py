"""Commands in the documents, before any of them is run: they exist, and what is not run says why."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from ops.cli import cli
from ops.server_state import REPOSITORY
from tests.fences import Fence, all_fences, documents, read_fences, words_of

FENCES = all_fences()
TARGETS = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


def test_there_are_commands_to_check() -> None:
    assert {path.name for path in documents()} >= {"README.md", "CONSUMING.md", "RUNBOOK.md", "ACCESS.md"}
    assert sum(len(fence.commands) for fence in FENCES if not fence.norun) >= 20


@pytest.mark.parametrize("fence", [fence for fence in FENCES if fence.norun], ids=lambda fence: fence.where)
def test_what_is_not_run_says_why(fence: Fence) -> None:
    assert fence.reason, f"{fence.where}: the first line of a norun block is `# norun: <reason>`"


@pytest.mark.parametrize("fence", FENCES, ids=lambda fence: fence.where)
def test_every_command_exists(fence: Fence) -> None:
    for command in fence.commands:
        words = words_of(command)
        program = Path(words[0]).name if words else ""
        if program == "trading-bus":
            assert find_unknown(words[1:]) is None, f"{fence.where}: {command}"
        if program == "make":
            targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            assert set(targets) <= set(TARGETS), f"{fence.where}: {command}"


def find_unknown(words: list[str]) -> str | None:
    """The first word that is no command, or the first option that its command does not have."""
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            break
        found = command.get_command(context, words[0])
        if found is None:
            return words[0]
        command, context, words = found, click.Context(found, parent=context), words[1:]
    known = {name for option in command.get_params(context) for name in [*option.opts, *option.secondary_opts]}
    return next((w for w in words if w.startswith("-") and w.partition("=")[0] not in known and w != "--"), None)


def test_an_unknown_command_is_found() -> None:
    assert find_unknown(["outbox", "status"]) is None and find_unknown(["verify", "--help"]) is None
    assert find_unknown(["outbox", "statu"]) == "statu"
    assert find_unknown(["nothing"]) == "nothing"
    assert find_unknown(["tail", "#", "--fast"]) == "--fast"


def test_blocks_are_read_as_they_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fences.REPOSITORY", tmp_path)
    (tmp_path / "a.md").write_text(
        "```sh\n# a comment\nA=1 make x  # more\nb \\\n  c\n```\n```python\nno\n```\n```console\n$ d\nits output\n```\n"
        "1. x\n   ```sh norun\n   # norun: needs the moon\n   e\n   ```\n"
        "```sh norun: needs the sun\nf\n```\n```sh norun\ng\n```\n"
    )
    fences = list(read_fences(tmp_path / "a.md"))
    assert [fence.commands for fence in fences] == [("A=1 make x  # more", "b    c"), ("d",), ("e",), ("f",), ("g",)]
    assert [fence.norun for fence in fences] == [False, False, True, True, True]
    assert [fence.reason for fence in fences] == [None, None, "needs the moon", "needs the sun", None]
    assert fences[2].where == "a.md:15"
    assert words_of("A=1 timeout -s INT 5 python x.py --y | head > z") == ["python", "x.py", "--y"]
