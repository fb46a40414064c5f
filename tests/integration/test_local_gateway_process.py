"""The local gateway as a process: it starts, stops and is killed, and a thousand sockets are little to it."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError

from tests.conftest import ROOT
from tests.local_gateway import PATIENCE_SECONDS, Client, connections_api
from tests.waiting import wait_for

HANDLER = "tests.local_gateway:keeping"


class Process:
    """A gateway, and what its function was told."""

    def __init__(self, kept: Path, port: int = 0, **environment: str) -> None:
        self._kept = kept
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serverless.local.gateway", "--port", str(port), "--handler", HANDLER],
            cwd=ROOT,
            env={**os.environ, "KEPT_EVENTS": str(kept), **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready ws://127.0.0.1:"), line
        self.url = line.split()[1].replace("ws:", "http:")
        self.port = int(self.url.split(":")[2].split("/")[0])

    def events(self, route: str) -> list[dict[str, Any]]:
        """The requestContext of each."""
        lines = self._kept.read_text().splitlines() if self._kept.exists() else []
        contexts = [json.loads(line)["requestContext"] for line in lines]
        return [context for context in contexts if context["routeKey"] == route]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    with ExitStack() as stack:

        def make(**options: Any) -> Process:
            made = Process(tmp_path / "events", **options)
            stack.callback(made.close)
            return made

        yield make


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_it_says_goodbye_when_it_is_stopped(start, number):
    gateway = start()
    clients = [Client(gateway.port) for _ in range(3)]
    gateway.process.send_signal(number)
    assert [client.end() for client in clients] == [(1001, "Going away")] * 3
    assert gateway.process.wait(PATIENCE_SECONDS) == 0
    told = gateway.events("$disconnect")
    assert {context["connectionId"] for context in told} == {
        context["connectionId"] for context in gateway.events("$connect")
    }
    assert {(context["disconnectStatusCode"], context["disconnectReason"]) for context in told} == {
        (1001, "Going away")
    }
    with pytest.raises(ConnectionRefusedError):
        Client(gateway.port)


def test_it_stops_however_many_signals_it_gets(start):
    """A killed supervisor's end is told to its children once for each of its threads, in one moment."""
    gateway = start()
    with Client(gateway.port) as client:
        for _ in range(300):
            if gateway.process.poll() is None:
                gateway.process.send_signal(signal.SIGTERM)
        assert client.end()[0] == 1001
        assert gateway.process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.parametrize("route", ["$connect", "$disconnect"])
def test_it_stops_although_its_function_hangs(start, route):
    gateway = start(HANGS_AT=route)
    with Client(gateway.port, is_waiting=route == "$disconnect"):
        wait_for(lambda: gateway.events("$connect"), "the client")
        gateway.process.terminate()
        assert gateway.process.wait(PATIENCE_SECONDS) == 0


def test_after_a_crash_another_takes_its_port_and_knows_none_of_its_sockets(start):
    killed = start()
    with Client(killed.port) as before:
        known = killed.events("$connect")[0]["connectionId"]
        killed.process.kill()
        assert before.end()[0] == 1006
        killed.process.wait()
        # The other side of this socket still holds the port, as closed sockets do for a minute.
        started = start(port=killed.port)
        assert started.port == killed.port
        with pytest.raises(ClientError, match="GoneException"):
            connections_api(started.url).post_to_connection(ConnectionId=known, Data=b"x")
        with Client(started.port) as after:
            assert after.status == 101
            connections_api(started.url).post_to_connection(
                ConnectionId=started.events("$connect")[-1]["connectionId"], Data=b"back again"
            )
            assert after.receive() == "back again"


def test_it_needs_a_port_of_its_own():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = run("--port", str(port), "--handler", HANDLER)
    assert done.returncode == 1
    assert f"port {port} cannot be listened on" in done.stderr
    assert "Give a free one as --port." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--idle-seconds", "0"], '"0" is no number of seconds above 0. Write one, such as 600.'),
        (["--age-seconds", "never"], '"never" is no number of seconds above 0'),
        (["--age-seconds", "inf"], '"inf" is no number of seconds above 0'),
        (["--stage", "a/b"], '"a/b" is no name of a stage'),
        (["--stage", ""], '"" is no name of a stage'),
        (["--handler", "os.getcwd"], '--handler "os.getcwd" names no function'),
        (["--handler", "os:nothing"], '--handler "os:nothing": module os has no function nothing'),
        (["--handler", "no_such_module:handler"], "No module named 'no_such_module'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_told(arguments, said):
    done = run(*arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serverless.local.gateway", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False, env=dict(os.environ)
    )


@pytest.mark.slow
def test_a_thousand_idle_sockets_cost_little_and_each_is_reached(start):
    count = 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2 * count), hard), hard))
    gateway = start()
    process = psutil.Process(gateway.process.pid)
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(Client(gateway.port))
        memory, files = process.memory_info().rss, process.num_fds()
        clients = [stack.enter_context(Client(gateway.port)) for _ in range(count)]
        assert {client.status for client in clients} == {101}
        assert process.num_fds() - files == count
        per_socket = (process.memory_info().rss - memory) / count
        assert per_socket < 32 << 10, per_socket
        # A share of one core, while nobody does anything. It looks at nothing by the clock.
        before = process.num_ctx_switches().voluntary
        assert process.cpu_percent(interval=3) < 2
        assert process.num_ctx_switches().voluntary - before < 30
        api = connections_api(gateway.url)
        ids = [context["connectionId"] for context in gateway.events("$connect")][-count:]
        for number in range(0, count, 50):
            api.post_to_connection(ConnectionId=ids[number], Data=str(number).encode())
            assert clients[number].receive() == str(number)
        gateway.process.terminate()
        assert {client.end()[0] for client in clients} == {1001}
        assert gateway.process.wait(PATIENCE_SECONDS) == 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
