"""The life of real processes: signals, exit codes, deadlines, HTTP, systemd."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
WAIT_S = 20.0

HEAD = """
import asyncio, sys, threading, time
from common.errors import ConfigError, Superseded
from common.health import Check, check_age
from common.service import run
from common.settings import ServiceSettings

def say(text):
    print(text, flush=True)

async def forever():
    await asyncio.Event().wait()
"""


class Process:
    """A service script in a process of its own; it says "up" on stdout when wired."""

    def __init__(self, tmp_path: Path, body: str, **env: str) -> None:
        self.port_file = tmp_path / "port"
        tail = '\nsys.exit(run("ohlcv", ServiceSettings, main))\n'
        (tmp_path / "script.py").write_text(HEAD + textwrap.dedent(body) + tail)
        clean = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
        given = {
            "TS_DSN": "postgresql://w:s3cr3t-pw@db/bus",
            "RMQ_URL": "amqp://b:hunter22@mq/",
            "HTTP_PORT_FILE": str(self.port_file),
            "PYTHONPATH": str(ROOT),
            "STOP_TIMEOUT_S": "10",
        }
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "error", str(tmp_path / "script.py")],
            env={**clean, **given, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_up(self) -> "Process":
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line == "up\n", (line, self.end())
        return self

    def send(self, number: int = signal.SIGTERM) -> None:
        self.popen.send_signal(number)

    def end(self) -> tuple[int, list[str], list[dict]]:
        """Exit code, further lines on stdout, log lines."""
        out, err = self.popen.communicate(timeout=WAIT_S)
        return self.popen.returncode, out.splitlines(), [json.loads(line) for line in err.splitlines()]

    def get(self, path: str) -> tuple[int, str]:
        until = time.monotonic() + WAIT_S
        while not self.port_file.exists():
            assert time.monotonic() < until and self.popen.poll() is None
            time.sleep(0.01)
        connection = http.client.HTTPConnection("127.0.0.1", int(self.port_file.read_text()), timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


@pytest.fixture
def start(tmp_path):
    started: list[Process] = []

    def start_process(body: str, **env: str) -> Process:
        started.append(Process(tmp_path, body, **env))
        return started[-1]

    yield start_process
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.communicate(timeout=WAIT_S)


def events(log: list[dict]) -> list[str]:
    return [line["event"] for line in log]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_in_reverse_order_and_exits_0(start, number):
    process = start("""
        async def main(service):
            async def step(name):
                say(name)
            async def worker():
                try:
                    await forever()
                finally:
                    say("worker")
            async def drainer():
                await service.stopping.wait()
                await asyncio.sleep(0.05)
                say("drained")
            service.on_stop("store", lambda: step("store"))
            service.spawn("worker", worker())
            service.on_stop("feed", lambda: step("feed"))
            service.spawn("drainer", drainer(), wait_at_stop=True)
            await asyncio.sleep(0)
            say("up")
    """).wait_up()
    begun = time.monotonic()
    process.send(number)
    code, said, log = process.end()
    assert (code, said) == (0, ["drained", "feed", "worker", "store"]), log
    assert time.monotonic() - begun < 6
    assert events(log)[-2:] == ["stopping", "stopped"]
    assert not process.port_file.exists()
    assert all({"time", "level", "logger", "event", "service"} <= set(line) for line in log)


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        ("raise ValueError('boom')", 1, "ValueError: boom"),
        ("return", 1, "task reader returned before the stop"),
        ("asyncio.current_task().cancel(); await asyncio.sleep(0)", 1, "task reader was cancelled before the stop"),
        ("raise Superseded('another one writes')", 3, "another one writes"),
        ("raise ExceptionGroup('g', [Superseded('another one writes')])", 3, "g (1 sub-exception)"),
    ],
)
def test_a_dying_task_ends_the_process(start, ending, code, told):
    process = start(f"""
        async def main(service):
            async def reader():
                {ending}
            async def close():
                say("closed")
            service.on_stop("store", close)
            service.spawn("reader", reader())
            service.spawn("other", forever())
    """)
    got, said, log = process.end()
    assert (got, said) == (code, ["closed"]), log
    (died,) = [line for line in log if line.get("task") == "reader"]
    assert told in died.get("exception", "") + died.get("reason", "")


@pytest.mark.parametrize(("error", "code"), [("ValueError('bad')", 1), ("ConfigError('no table')", 2)])
def test_a_failing_main_stops_what_it_started(start, error, code):
    process = start(f"""
        async def main(service):
            async def close():
                say("closed")
            service.on_stop("store", close)
            raise {error}
    """)
    got, said, _ = process.end()
    assert (got, said) == (code, ["closed"])


def test_a_stop_asked_from_inside_exits_0(start):
    code, _, log = start("""
        async def main(service):
            service.stop("work done")
    """).end()
    assert code == 0 and {"stopping"} <= set(events(log))


def test_a_main_that_still_waits_is_cancelled_first(start):
    process = start("""
        async def main(service):
            async def close():
                say("closed")
            service.on_stop("store", close)
            say("up")
            try:
                await forever()
            finally:
                say("main")
    """).wait_up()
    process.send()
    assert process.end()[:2] == (0, ["main", "closed"])


@pytest.mark.parametrize("refuses", [False, True], ids=["waits", "refuses"])
def test_a_stuck_stop_is_cut_and_the_others_still_run(start, refuses):
    process = start(
        f"""
        async def stuck():
            try:
                await forever()
            finally:
                if {refuses}:
                    await stuck()

        async def main(service):
            async def close():
                say("closed")
            service.on_stop("store", close)
            service.on_stop("feed", stuck)
            say("up")
        """,
        STOP_TIMEOUT_S="3",
    ).wait_up()
    begun = time.monotonic()
    process.send()
    code, said, log = process.end()
    assert (code, said) == (4, ["closed"])
    assert time.monotonic() - begun < 6
    assert [line["step"] for line in log if line["event"] == "stop step overran"] == ["feed"]


@pytest.mark.parametrize(
    "block", ["time.sleep(60)", "await asyncio.to_thread(time.sleep, 60)"], ids=["the loop", "a thread"]
)
def test_the_deadline_holds_when_the_process_is_blocked(start, block):
    process = start(
        f"""
        async def blocked():
            {block}

        async def main(service):
            service.on_stop("feed", blocked)
            say("up")
        """,
        STOP_TIMEOUT_S="1",
    ).wait_up()
    begun = time.monotonic()
    process.send()
    code, _, log = process.end()
    assert code == 4 and 0.9 < time.monotonic() - begun < 6
    assert events(log)[-1] == "stop deadline passed"


def test_the_deadline_counts_from_the_signal_even_in_a_blocked_loop(start):
    process = start(
        """
        async def main(service):
            async def busy():
                say("up")
                while True:
                    pass
            service.spawn("busy", busy())
        """,
        STOP_TIMEOUT_S="0.5",
    ).wait_up()
    process.send()
    code, _, log = process.end()
    assert code == 4 and events(log)[-1] == "stop deadline passed"


@pytest.mark.parametrize("stuck", ["await forever()", "time.sleep(60)"])
def test_a_second_signal_ends_at_once(start, stuck):
    process = start(f"""
        async def stuck():
            say("stuck")
            {stuck}

        async def main(service):
            service.on_stop("feed", stuck)
            say("up")
    """).wait_up()
    process.send()
    assert process.popen.stdout.readline() == "stuck\n"
    begun = time.monotonic()
    process.send(signal.SIGINT)
    code, _, log = process.end()
    assert code == 4 and time.monotonic() - begun < 6
    assert (log[-1]["event"], log[-1]["step"]) == ("second signal SIGINT", "feed")


def test_a_failing_stop_step_is_told_and_not_called_success(start):
    process = start("""
        async def main(service):
            async def flush():
                raise OSError("disk full")
            service.on_stop("flush", flush)
            say("up")
    """).wait_up()
    process.send()
    code, _, log = process.end()
    assert code == 1
    assert "disk full" in next(line["exception"] for line in log if line["event"] == "stop step failed")


def test_bad_settings_print_every_problem_and_no_secret(start):
    env = {"TS_DSN": "mysql://w:s3cr3t-pw@db", "RMQ_URL": "", "SHARD": "3/2", "HTTP_PORT": "-1", "LOG_LEVEL": "loud"}
    process = start("async def main(service): say('up')", **env)
    out, err = process.popen.communicate(timeout=WAIT_S)
    assert (process.popen.returncode, out) == (2, "")
    told = [json.loads(line)["event"] for line in err.splitlines()]
    assert sorted(line.partition(":")[0] for line in told) == sorted(env)
    assert "s3cr3t" not in err and "hunter22" not in err


def test_a_taken_port_is_a_settings_problem(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("async def main(service): say('up')", HTTP_PORT=str(taken.getsockname()[1]))
        code, said, log = process.end()
    assert (code, said) == (2, [])
    assert any("HTTP_PORT" in line.get("reason", "") for line in log)


def test_secrets_stay_out_of_the_log(start):
    process = start("""
        async def main(service):
            raise ValueError("can not log in with s3cr3t-pw")
    """)
    _, err = process.popen.communicate(timeout=WAIT_S)
    assert process.popen.returncode == 1 and "can not log in with ***" in err
    assert "s3cr3t-pw" not in err and "hunter22" not in err and "postgresql://w:***@db/bus" in err


def test_health_readiness_and_metrics(start):
    process = start("""
        async def main(service):
            age = [None]
            service.health.add_probe("feed", lambda: check_age("feed", age[0], 5.0))
            say("up")
            from common.metrics import make_counter
            make_counter(service.registry, "trading_bus_frames_total", "Frames.").inc(3)
            loop = asyncio.get_running_loop()
            import signal
            loop.add_signal_handler(signal.SIGUSR1, lambda: (age.__setitem__(0, 0.5), service.ready(), say("ok")))
            loop.add_signal_handler(signal.SIGUSR2, lambda: (age.__setitem__(0, 7.0), service.stand_by(), say("ok")))
            loop.add_signal_handler(signal.SIGHUP, lambda: (service.resume(), service.ready(), say("ok")))
            say("handlers")
    """).wait_up()
    assert process.popen.stdout.readline() == "handlers\n"

    def step(number: int | None) -> tuple[int, int, dict]:
        if number is not None:
            process.send(number)
            assert process.popen.stdout.readline() == "ok\n"
        (healthz, body), (readyz, _) = process.get("/healthz"), process.get("/readyz")
        return healthz, readyz, json.loads(body)

    assert step(None)[:2] == (503, 503)  # no data yet
    healthz, readyz, body = step(signal.SIGUSR1)
    assert (healthz, readyz, body["phase"]) == (200, 200, "serving")
    assert body["checks"] == [{"name": "feed", "healthy": True, "detail": {}, "age_s": 0.5, "max_age_s": 5.0}]
    assert step(signal.SIGUSR2)[:2] == (200, 503)  # stand-by
    assert step(signal.SIGHUP)[:2] == (503, 200)  # serving with old data
    status, page = process.get("/metrics")
    values = {s.name: s.value for family in text_string_to_metric_families(page) for s in family.samples}
    assert status == 200
    assert values["trading_bus_frames_total"] == 3 and values["trading_bus_check_healthy"] == 0
    assert values["trading_bus_check_age_seconds"] == 7.0 and values["trading_bus_ready"] == 1
    assert values["process_resident_memory_bytes"] > 0 and values["process_open_fds"] > 0
    assert process.get("/")[0] == 404
    process.send()
    assert process.end()[0] == 0


def test_systemd_hears_ready_watchdog_and_stopping(start, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(WAIT_S)
        process = start(
            "async def main(service): say('up')", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000"
        ).wait_up()
        heard: list[str] = []
        while heard.count("WATCHDOG=1") < 4 or "READY=1" not in heard:
            heard.append(manager.recv(1000).decode())
        assert process.get("/readyz")[0] == 503, "wired, which is all that systemd waits for; no data yet"
        process.send()
        while not heard[-1].startswith("STOPPING=1"):
            heard.append(manager.recv(1000).decode())
        assert heard.count("READY=1") == 1 and "SIGTERM" in heard[-1]
        assert process.end()[0] == 0


def test_systemd_is_told_about_stand_by(start, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(WAIT_S)
        process = start(
            """
            async def main(service):
                service.stand_by()
                say("up")
                await forever()
            """,
            NOTIFY_SOCKET=str(tmp_path / "notify"),
        ).wait_up()
        assert manager.recv(1000).decode().startswith("READY=1\nSTATUS=stand-by")
        process.send()
        assert process.end()[0] == 0


def test_health_changes_are_logged_once_each_way(start):
    process = start("""
        async def main(service):
            import common.service
            common.service.HEALTH_EVERY_S = 0.01
            asked = []
            def probe():
                asked.append(1)
                if len(asked) == 30:
                    say("later")
                return Check("feed", len(asked) < 5 or len(asked) > 15)
            service.health.add_probe("feed", probe)
            say("up")
    """).wait_up()
    assert process.popen.stdout.readline() == "later\n"
    process.send()
    log = process.end()[2]
    assert [event for event in events(log) if event.startswith("check ")] == ["check failed", "check recovered"]
