"""PostgreSQL 17, TimescaleDB and RabbitMQ out of Debian's packages, unpacked in a folder of our own.

Nothing is installed on the host and no root is needed: apt resolves with private state, dpkg-deb unpacks, and every
executable is pointed at the tree's own loader and libraries, so the host's libraries do not matter.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from common.errors import ConfigError, TradingBusError, TryLater
from ops.cache import Say, find_cache, hold_lock, make_folder

SUITE = "trixie"
RECIPE = f"{SUITE}-1"
"""Part of the tree's path: raise it when the recipe changes, and old trees are left alone."""
WANTED = ("postgresql-17-timescaledb", "rabbitmq-server", "patchelf")
APT_TIMEOUT_S = 900
STEP_TIMEOUT_S = 120
UNPACK_JOBS = 4
MIRROR_VARIABLE = "TRADING_BUS_DEBIAN_MIRROR"

# Packages that only the servers' maintainer scripts or unused tools need; without them the tree is a third smaller.
SKIPPED = re.compile(
    r"^(python3|libpython3|perl|libperl|lib(json|io-pty|ipc-run|text-)|libllvm|libz3-|locales|libc-l10n|libc-bin|libdb5"
    r"|libgdbm|dpkg|tar$|passwd|adduser|base-passwd|procps|libproc2|ucf|openssl$|debconf|libdebconf|sysvinit|init-system"
    r"|libsqlite3|postgresql-common|postgresql-client-common|ssl-cert|sensible|login|libsemanage|libsepol|libpam-mod"
    r"|media-types|netbase|readline-common|libpam-runtime|socat|libwrap|libaudit-common|libsasl2-modules|libffi|libexpat"
    r"|libacl|libattr|libbz2|gcc-1|libncursesw|tzdata)"
)
# Debian architecture -> library folder, loader. Only amd64 was ever run.
ARCHITECTURES = {
    "amd64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "arm64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
}
KEYRINGS = ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp")
NEEDED_TOOLS = ("apt-get", "dpkg", "dpkg-deb")

_APT_CONF = """\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State "{a}/state"; Dir::State::lists "{a}/state/lists"; Dir::State::status "{a}/status"; Dir::Cache "{a}/cache";
Dir::Etc::SourceList "{a}/sources.list"; Dir::Etc::SourceParts "{a}/parts";
Dir::Etc::Preferences "/dev/null"; Dir::Etc::PreferencesParts "{a}/parts";
APT::Architecture "{arch}"; APT::Architectures {{ "{arch}"; }};
APT::Install-Recommends "false"; APT::Default-Release "";
Acquire::Languages "none"; Acquire::Retries "3"; APT::Sandbox::User ""; APT::Update::Error-Mode "any";
Debug::NoLocking "1";
"""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Tree:
    """Where the unpacked programs are; `root` is baked into the executables, so it never moves."""

    root: Path
    library: Path
    loader: Path

    @property
    def postgres_bin(self) -> Path:
        """Folder of initdb, postgres and pg_isready."""
        return self.root / "usr/lib/postgresql/17/bin"

    @property
    def postgres_lib(self) -> Path:
        """Folder of the server modules, TimescaleDB among them."""
        return self.root / "usr/lib/postgresql/17/lib"

    @property
    def erlang(self) -> Path:
        """Erlang's root folder."""
        return self.root / "usr/lib/erlang"

    @property
    def epmd(self) -> Path:
        """Erlang's port mapper."""
        return _only(self.erlang.glob("erts-*/bin/epmd"), "epmd")

    @property
    def rabbitmq_server(self) -> Path:
        """The script that becomes the broker's VM."""
        pattern = "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"
        return _only(self.root.glob(pattern), "rabbitmq-server")


def find_missing_tools() -> list[str]:
    """What this host lacks for a private tree; empty when it can have one."""
    missing = [tool for tool in NEEDED_TOOLS if shutil.which(tool) is None]
    if sys.platform != "linux":
        missing.append("Linux")
    if find_keyring() is None:
        missing.append("debian-archive-keyring")
    return missing


def find_keyring() -> Path | None:
    """Debian's archive keys, under the name this release gives them."""
    folder = Path("/usr/share/keyrings")
    return next((folder / name for name in KEYRINGS if (folder / name).exists()), None)


def provision_tree(say: Say) -> Tree:
    """Return the private tree, made first if it is not there (80 MB fetched, some 10 s, 180 MB on disk).

    ConfigError when this host can not have one, TryLater when the mirror does not answer.
    """
    arch = _find_architecture()
    folder, tree = _find_folder(), locate_tree()
    if (folder / "ok").exists():
        return tree
    with hold_lock(make_folder(folder.parent) / f"{folder.name}.lock"):
        if not (folder / "ok").exists():
            if folder.exists():
                shutil.rmtree(folder)
            _build(make_folder(folder), tree, arch, say)
    return tree


def locate_tree() -> Tree:
    """Say where the private tree is, or would be."""
    triplet, loader = ARCHITECTURES[_find_architecture()]
    root = _find_folder() / "tree"
    library = root / "usr/lib" / triplet
    return Tree(root, library, library / loader)


def _find_folder() -> Path:
    return find_cache() / f"tree-{RECIPE}"


def _find_architecture() -> str:
    arch = _run(["dpkg", "--print-architecture"]).strip()
    if arch not in ARCHITECTURES:
        raise ConfigError(f"no private servers for architecture {arch}; give TS_DSN and RMQ_URL, or start Docker")
    return arch


def _build(folder: Path, tree: Tree, arch: str, say: Say) -> None:
    apt = _write_apt(folder / "apt", arch)
    say("servers: reading the package index")
    _run([*apt, "-qq", "update"], timeout_s=APT_TIMEOUT_S)
    plan = _run([*apt, "-qq", "install", "--print-uris", "--no-install-recommends", *WANTED], timeout_s=STEP_TIMEOUT_S)
    packages = choose_packages(plan)
    archives = make_folder(folder / "archives")
    say(f"servers: fetching {len(packages)} packages")
    _run([*apt, "-qq", "download", *packages], cwd=archives, timeout_s=APT_TIMEOUT_S)
    debs = sorted(archives.glob("*.deb"))
    say(f"servers: unpacking {len(debs)} packages")
    make_folder(tree.root)
    versions = _in_parallel(lambda deb: _unpack(deb, tree.root), debs)
    (folder / "versions.txt").write_text("".join(versions))
    for waste in (tree.root / "usr/share/doc", tree.postgres_lib / "bitcode", archives, folder / "apt"):
        shutil.rmtree(waste, ignore_errors=True)
    say("servers: pointing the programs at their own libraries")
    _relink(tree)
    _check(tree)
    (folder / "ok").touch()


def choose_packages(print_uris: str) -> list[str]:
    """Names out of `apt-get install --print-uris`, without what the servers do not need."""
    columns = [line.split() for line in print_uris.splitlines()]
    names = {words[1].split("_")[0] for words in columns if len(words) >= 4 and words[0].startswith("'")}
    return sorted(name for name in names if not SKIPPED.match(name))


def find_mirror(targets: str) -> str | None:
    """First Debian archive among the host's `apt-get indextargets`, one address a line."""
    return next((line for line in targets.split() if line.endswith(("/debian", "/debian/"))), None)


def _write_apt(folder: Path, arch: str) -> list[str]:
    """Private apt state; returns the command, whose settings are read after the host's, so a proxy there holds."""
    mirror = os.environ.get(MIRROR_VARIABLE) or find_mirror(
        _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages"])
    )
    if mirror is None:
        raise ConfigError(
            f"apt knows no Debian archive here; name one in {MIRROR_VARIABLE}, or give TS_DSN and RMQ_URL"
        )
    for name in ("parts", "state/lists/partial", "cache/archives/partial"):
        make_folder(folder / name)
    (folder / "sources.list").write_text(f"deb [signed-by={find_keyring()}] {mirror} {SUITE} main\n")
    (folder / "status").touch()
    (folder / "apt.conf").write_text(_APT_CONF.format(a=folder, arch=arch))
    return ["apt-get", "-c", str(folder / "apt.conf")]


def _unpack(deb: Path, root: Path) -> str:
    _run(["dpkg-deb", "-x", str(deb), str(root)])
    return _run(["dpkg-deb", "-W", str(deb)])


def _relink(tree: Tree) -> None:
    loaded = [str(tree.loader), "--library-path", str(tree.library)]
    point = ["--set-interpreter", str(tree.loader), "--force-rpath", "--set-rpath", str(tree.library)]
    patch = [*loaded, str(tree.root / "usr/bin/patchelf")]

    def point_at_tree(program: Path) -> None:
        if _interpreter(patch, program):
            _run([*patch, *point, str(program)])

    programs = [
        file for folder in (tree.postgres_bin, tree.erlang) for file in _elf_files(folder) if os.access(file, os.X_OK)
    ]
    _in_parallel(point_at_tree, programs)
    for script in _files(tree.erlang):
        content = script.read_bytes()
        if content[:4] != b"\x7fELF" and b"ROOTDIR=/usr/lib/erlang" in content:
            script.write_bytes(content.replace(b"=/usr/lib/erlang", f"={tree.erlang}".encode()))


def _interpreter(patch: Sequence[str], program: Path) -> bool:
    """Tell whether an ELF file is a program: a shared library has no interpreter to replace."""
    asked = subprocess.run(
        [*patch, "--print-interpreter", str(program)], capture_output=True, timeout=STEP_TIMEOUT_S, check=False
    )
    return asked.returncode == 0


def _check(tree: Tree) -> None:
    """Raise unless every program and module finds all its libraries inside the tree."""
    modules = [file for file in _elf_files(tree.postgres_lib) if file.name != "llvmjit.so"]
    erlang = [file for file in _elf_files(tree.erlang) if file.suffix == ".so" or file.name == "beam.smp"]

    def find_strays(file: Path) -> list[str]:
        listed = _run([str(tree.loader), "--library-path", str(tree.library), "--list", str(file)])
        return [f"{file.name}: {line}" for line in find_foreign(listed, tree.root)]

    strays = [
        line
        for lines in _in_parallel(find_strays, [tree.postgres_bin / "postgres", *modules, *erlang])
        for line in lines
    ]
    if strays:
        raise TradingBusError(f"the private servers would load libraries from elsewhere: {strays[0]}")


def find_foreign(listed: str, root: Path) -> list[str]:
    """Lines of a loader's `--list` that resolve outside the tree or not at all."""
    lines = [line.strip() for line in listed.splitlines()]
    return [line for line in lines if "not found" in line or ("=> /" in line and f"=> {root}/" not in line)]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())


def _elf_files(folder: Path) -> list[Path]:
    return [path for path in _files(folder) if _starts_with(path, b"\x7fELF")]


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _in_parallel(work: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    with ThreadPoolExecutor(UNPACK_JOBS) as pool:
        return list(pool.map(work, items))


def _only(found: Iterable[Path], name: str) -> Path:
    path = next(iter(sorted(found)), None)
    if path is None:
        raise ConfigError(f"{name} is missing in the private tree; remove {find_cache()} and try again")
    return path


def _run(command: list[str], cwd: Path | None = None, timeout_s: float = STEP_TIMEOUT_S) -> str:
    """Run one step to its end and return what it printed; TryLater with its last words when it fails."""
    env = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise TryLater(f"{command[0]} did not finish within {timeout_s:.0f} s") from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        reason = next((line for line in words if line.startswith("E:")), words[-1])
        raise TryLater(f"{' '.join(command[:1] + command[-1:])} failed ({done.returncode}): {reason}")
    return done.stdout
