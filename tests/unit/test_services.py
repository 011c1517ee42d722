"""What the server tools decide, without any server."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.errors import ConfigError, TryLater
from ops import cache, cli, private_tree, server_process, server_state, servers_docker, services
from ops.server_process import ServerProcess, identify, pick_ports, start_process, wait_ready
from ops.services import choose_kind, find_servers, read_given, start_servers, stop_servers

DSN, URL = "postgresql://u:p@127.0.0.1:1/x", "amqp://127.0.0.1:2/"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No servers given, no Docker, no apt, a cache of its own."""
    for name in ("TS_DSN", "RMQ_URL", "MANAGEMENT_URL", services.KIND_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path


def test_given_servers_come_first(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_DSN", DSN)
    monkeypatch.setenv("RMQ_URL", URL)
    found = start_servers(say=pytest.fail)
    assert (found.ts_dsn, found.rmq_url, found.management_url, found.kind) == (DSN, URL, None, "given")
    assert find_servers() == found
    assert not stop_servers()


@pytest.mark.parametrize("env", [{"TS_DSN": DSN}, {"RMQ_URL": URL}, {"TS_DSN": DSN, "RMQ_URL": ""}])
def test_half_an_address_is_an_error(env: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="give both"):
        read_given(env)


def test_nothing_possible_is_one_line_that_names_what_is_missing(bare: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_kind()
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in ("TS_DSN", "Docker", "apt-get", "dpkg-deb"))


def test_a_docker_client_without_an_engine_is_no_docker(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = bare / "docker"
    client.write_text('#!/bin/sh\n[ "$1" = --version ]\n')
    client.chmod(0o755)
    with pytest.raises(ConfigError):
        choose_kind()
    client.write_text("#!/bin/sh\nexit 0\n")
    assert choose_kind() == "docker"


def test_a_pinned_kind_must_exist(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(services.KIND_VARIABLE, "podman")
    with pytest.raises(ConfigError, match="docker, private"):
        choose_kind()


def test_addresses_in_the_shell_that_are_our_own_are_not_given(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cache.make_folder(server_state.find_own_state())
    server_state.write_state(folder, {"kind": "private", "password": "p", "ports": {"postgres": 1}})
    monkeypatch.setenv("TS_DSN", DSN)
    monkeypatch.setenv("RMQ_URL", URL)
    with pytest.raises(ConfigError, match="private servers need"):
        start_servers()
    monkeypatch.setenv("TS_DSN", "postgresql://u:q@127.0.0.1:1/x")
    assert start_servers().kind == "given"


def test_a_failed_first_start_in_docker_binds_nothing(bare: Path) -> None:
    client = bare / "docker"
    client.write_text(
        '#!/bin/sh\ncase "$*" in info|"compose version") exit 0;; *) echo "no such image" >&2; exit 1;; esac\n'
    )
    client.chmod(0o755)
    with pytest.raises(TryLater, match="no such image"):
        start_servers(say=lambda _: None)
    client.unlink()
    with pytest.raises(ConfigError, match="no servers"):
        start_servers()


def test_compose_gets_the_ports_and_the_password(bare: Path) -> None:
    client, seen = bare / "docker", bare / "seen"
    client.write_text(
        f'#!/bin/sh\n[ "$1" = compose ] || exit 0\necho "$@" >>{seen}\n'
        f'echo "$TRADING_BUS_POSTGRES_PORT $TRADING_BUS_SECRETS" >>{seen}\necho timescaledb; echo rabbitmq\n'
    )
    client.chmod(0o755)
    state = bare / "state/one"
    note = servers_docker.plan_project(state)
    server_state.write_state(cache.make_folder(state), note)
    found = find_servers(state)
    assert found is not None
    assert found.kind == "docker"
    assert found.ts_dsn == f"postgresql://postgres:{note['password']}@127.0.0.1:{note['ports']['postgres']}/trading_bus"
    assert f"{note['ports']['postgres']} {note['secrets']}\n" in seen.read_text()
    assert note["password"] not in seen.read_text()
    assert stop_servers(state, remove=True)
    assert "down --volumes" in seen.read_text()
    assert not state.exists()


def test_packages_of_the_plan() -> None:
    plan = (
        "'http://m/p/postgresql-17_17.1_amd64.deb' postgresql-17_17.1_amd64.deb 100 SHA256:ab\n"
        "'http://m/p/perl_5_amd64.deb' perl_5_amd64.deb 100 SHA256:ab\n"
        "'http://m/p/openssl_3_amd64.deb' openssl_3_amd64.deb 100 SHA256:ab\n"
        "'http://m/p/libssl3t64_3_amd64.deb' libssl3t64_3_amd64.deb 100 SHA256:ab\n"
        "'http://m/p/erlang-base_1%3a27_amd64.deb' erlang-base_1%3a27_amd64.deb 100 SHA256:ab\n"
        "Reading package lists...\n"
    )
    assert private_tree.choose_packages(plan) == ["erlang-base", "libssl3t64", "postgresql-17"]


@pytest.mark.parametrize(
    ("targets", "mirror"),
    [
        ("http://a/debian-security/\nhttp://b/debian/\nhttp://c/debian", "http://b/debian/"),
        ("http://b/debian\n", "http://b/debian"),
        ("http://a/ubuntu/\n", None),
        ("", None),
    ],
)
def test_mirror_is_the_first_debian_archive(targets: str, mirror: str | None) -> None:
    assert private_tree.find_mirror(targets) == mirror


def test_a_library_from_the_host_is_seen() -> None:
    listed = (
        "\tlinux-vdso.so.1 (0x1)\n"
        "\tlibssl.so.3 => /t/usr/lib/libssl.so.3 (0x1)\n"
        "\tlibz.so.1 => /usr/lib/libz.so.1 (0x1)\n"
        "\tlibq.so => not found\n"
    )
    assert [line.split()[0] for line in private_tree.find_foreign(listed, Path("/t"))] == ["libz.so.1", "libq.so"]


def test_cache_of_an_ordinary_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cache.CACHE_VARIABLE, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.find_cache() == tmp_path / "trading-bus"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somebody")
    assert cache.find_cache() == Path("/somebody/.cache/trading-bus")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert cache.find_cache() == Path("/var/cache/trading-bus")


def test_folders_are_readable_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = cache.make_folder(tmp_path / "a/b")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)] == [0o755, 0o755]


def test_a_folder_that_nobody_can_pass_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match="cannot pass"):
        server_state.require_passable(cache.make_folder(tmp_path / "state"))


def test_state_is_for_its_owner_only(tmp_path: Path) -> None:
    assert server_state.read_state(tmp_path) is None
    server_state.write_state(tmp_path, {"password": "x"})
    assert server_state.read_state(tmp_path) == {"password": "x"}
    assert stat.S_IMODE((tmp_path / server_state.STATE_FILE).stat().st_mode) == 0o600
    (tmp_path / server_state.STATE_FILE).write_text("{")
    with pytest.raises(ConfigError, match="cannot read"):
        server_state.read_state(tmp_path)


def test_ports_are_free_and_distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = pick_ports(6)
    assert len(set(ports)) == 6
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        taken.listen()
        assert not server_process.is_free(ports[0])
    monkeypatch.setattr(server_process, "PORT_LAST", server_process.PORT_FIRST + 2_000)
    monkeypatch.setattr(server_process, "is_free", lambda port: port < server_process.PORT_FIRST + 2)
    assert sorted(pick_ports(2)) == [server_process.PORT_FIRST, server_process.PORT_FIRST + 1]
    with pytest.raises(TryLater):
        pick_ports(2, taken=[server_process.PORT_FIRST])


def test_a_pid_that_was_given_away_again_is_not_ours() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        ours = identify(child)
        assert ServerProcess(ours.pid, ours.began).is_alive()
        later = ServerProcess(ours.pid, ours.began + 1)
        assert not later.is_alive()
        later.kill()
        assert child.poll() is None
        ours.freeze()
        ours.stop(signal.SIGTERM, 10)
        assert child.returncode == -signal.SIGTERM


def test_a_server_that_ends_at_once_shows_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    failing = start_process(["/bin/sh", "-c", "echo first; echo 'port taken' >&2; exit 1"], {}, log, None)
    with pytest.raises(TryLater, match=r"broker ended at once.*port taken"):
        wait_ready(failing, "broker", log, lambda: False, 10)


def test_help_of_every_command_shows_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    for words in ([], ["services"], ["services", "up"], ["services", "down"], ["services", "status"], ["migrate"]):
        shown = runner.invoke(cli.cli, [*words, "--help"])
        assert shown.exit_code == 0, shown.output
        assert "Example:" in shown.output


def test_help_imports_no_command() -> None:
    code = "import sys, ops.cli; ops.cli.cli(['--help'], standalone_mode=False); print('asyncpg' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip().endswith("False")
    assert "services" in done.stdout


def test_an_expected_error_is_one_line(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trading-bus", "services", "up"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("trading-bus: no servers: ")
    assert shown.err.count("\n") == 1
