"""Commands that the documents tell a reader to type: found, told apart, ready to be run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ops.server_state import REPOSITORY

SHELLS = ("sh", "console")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE)
_REASON = re.compile(r"^(?:# )?norun: (.{10,})$", re.MULTILINE)


@dataclass(frozen=True)
class Fence:
    """One block of commands; `reason` says why a block marked `norun` is not run."""

    where: str
    commands: tuple[str, ...]
    norun: bool
    reason: str | None


def documents() -> list[Path]:
    """What is read by people: README, CONTRIBUTING and docs."""
    names = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")]
    return [path for path in [*names, *sorted((REPOSITORY / "docs").glob("*.md"))] if path.exists()]


def read_fences(path: Path) -> Iterator[Fence]:
    """The shell blocks of a document."""
    text = path.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        words = match["info"].split()
        if not words or words[0] not in SHELLS:
            continue
        body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        _, *rest = words
        found = _REASON.search(" ".join(rest)) or _REASON.search(body)
        line = text.count("\n", 0, match.start()) + 1
        where = f"{path.relative_to(REPOSITORY)}:{line}"
        commands = tuple(_commands(body, console=words[0] == "console"))
        yield Fence(where, commands, any(word.startswith("norun") for word in rest), found[1] if found else None)


def all_fences() -> list[Fence]:
    """The shell blocks of all documents, in order."""
    return [fence for path in documents() for fence in read_fences(path)]


def _commands(body: str, *, console: bool) -> Iterator[str]:
    """Lines to type, continued ones joined; in a console block those behind a `$`."""
    for line in body.replace("\\\n", " ").splitlines():
        if console and not line.startswith("$ "):
            continue
        line = line.removeprefix("$ ").strip()
        if line and not line.startswith("#"):
            yield line


def words_of(command: str) -> list[str]:
    """A command's words, without variables and a bound of time in front, comments, pipes and redirections."""
    words = shlex.split(command, comments=True)
    for end in ("|", ">", "<", "&&", "||", ";"):
        words = words[: words.index(end)] if end in words else words
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if words[:1] == ["timeout"]:
        length = next(n for n, word in enumerate(words) if re.fullmatch(r"[\d.]+[smh]?", word))
        words = words[length + 1 :]
    return words
