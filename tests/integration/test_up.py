"""`make up` as a person uses it: one command, one Ctrl-C, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serverless.local.stack import free_port
from serverless.local.visitor import Visitor
from tests.conftest import ROOT
from tests.waiting import wait_for


class Up:
    """A running `make up`'s program, and what it printed."""

    def __init__(self, folder: Path, port: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serverless.local.up", "--folder", str(folder), "--port", str(port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self.seen: set[psutil.Process] = set()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def said(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, self.text)

    def await_ready(self) -> str:
        """Wait until it says where to click; returns the site's address."""
        wait_for(lambda: self.said(r"Ctrl-C stops everything") or self.process.poll() is not None, "being up", 60)
        assert self.process.poll() is None, self.text
        self.seen |= set(psutil.Process(self.process.pid).children(recursive=True))
        return self.said(r"site\s+(http://\S+)")[1]

    def children(self, *words: str) -> list[psutil.Process]:
        """Processes of the stack whose command line has all these words."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        self.seen |= set(found)
        return [child for child in found if all(word in " ".join(child.cmdline()) for word in words)]

    def end(self, number: int = signal.SIGINT) -> int:
        self.seen |= set(psutil.Process(self.process.pid).children(recursive=True))
        self.process.send_signal(number)
        return self.process.wait(60)

    def left_behind(self) -> list[psutil.Process]:
        return [child for child in self.seen if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def up(tmp_path) -> Iterator[Up]:
    made = Up(tmp_path, free_port())
    try:
        made.await_ready()
        yield made
    finally:
        if made.process.poll() is None:
            made.end()
        for child in made.left_behind():
            child.kill()


def test_it_says_where_to_click_and_the_login_works(up):
    login = up.said(r"sign in\s+(\S+) / (\S+)")
    with Visitor(up.await_ready()) as visitor:
        visitor.sign_in(login[1], login[2])
        assert visitor.client.get("/datasets/").status_code == 200
    assert httpx.get(up.said(r"sent mail\s+(\S+)")[1]).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_stopping_it_leaves_no_process_behind(up, number):
    assert len(up.children()) >= 8
    assert up.end(number) == 0
    assert "stopped" in up.lines[-1] or "Warm shutdown" in up.text
    assert up.left_behind() == []


def test_killing_it_leaves_no_process_behind_either(up):
    """On Linux the kernel tells the children; elsewhere a killed supervisor cannot."""
    up.end(signal.SIGKILL)
    wait_for(lambda: up.left_behind() == [], "the end of all children")


def test_the_cloud_stops_and_saves_however_many_signals_it_gets(tmp_path):
    """A killed supervisor's end is told to its children once for each of its threads, in one moment."""
    command = [sys.executable, "-m", "serverless.local.cloud", "--origin", "http://testserver"]
    command += ["--folder", str(tmp_path / "cloud")]
    for _ in range(3):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready ")
            for _ in range(300):
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert (tmp_path / "cloud" / "index.json").exists()


def test_a_cloud_that_fails_to_start_ends_and_says_why(tmp_path):
    (tmp_path / "cloud").mkdir()
    (tmp_path / "cloud" / "index.json").write_text("{")
    command = [sys.executable, "-m", "serverless.local.cloud", "--origin", "http://testserver"]
    command += ["--folder", str(tmp_path / "cloud")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "JSONDecodeError" in ended.stderr


def test_a_second_one_in_the_same_folder_says_where_the_first_is(up, tmp_path):
    second = subprocess.run(
        [sys.executable, "-m", "serverless.local.up", "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 1
    assert f"already running from this folder: {up.await_ready()}" in second.stderr
    assert up.process.poll() is None


def test_another_port_is_taken_if_the_wanted_one_is_in_use(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        wanted = holder.getsockname()[1]
        up = Up(tmp_path, wanted)
        try:
            address = up.await_ready()
            assert not address.endswith(f":{wanted}")
            assert httpx.get(f"{address}/healthz").status_code == 200
        finally:
            up.end()


@pytest.mark.parametrize("name", ["web", "general", "clock"])
def test_a_crashed_child_is_started_again_and_named(up, name):
    words = {"web": ["uvicorn"], "general": ["entrypoints.worker", "general"], "clock": ["serverless.local.clock"]}[
        name
    ]
    crashed = min(up.children(*words), key=lambda child: child.create_time())
    crashed.kill()
    wait_for(lambda: up.said(rf"{name} was ended by SIGKILL; starting it again in 1 s"), "being named")
    wait_for(lambda: [child for child in up.children(*words) if child.pid != crashed.pid], "a new process")
    if name == "web":
        wait_for(lambda: _answers(up.await_ready()), "the site")


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_datasets_survive_a_restart_and_unfinished_work_goes_on(tmp_path):
    first = Up(tmp_path, free_port())
    address = first.await_ready()
    login = first.said(r"sign in\s+(\S+) / (\S+)")
    with Visitor(address) as visitor:
        visitor.sign_in(login[1], login[2])
        done = visitor.upload("done.csv", b"a,b\n1,2\n")
        assert visitor.await_end(done).state == "ready"
        for worker in first.children("entrypoints.worker"):
            worker.suspend()
        unfinished = visitor.upload("unfinished.csv", b"a,b\n1,2\n")
        assert visitor.look(unfinished).state == "queued"
        for worker in first.children("entrypoints.worker"):
            worker.kill()
    first.end()
    second = Up(tmp_path, free_port())
    try:
        with Visitor(second.await_ready()) as visitor:
            visitor.sign_in(login[1], login[2])
            assert visitor.look(done).state == "ready"
            assert visitor.client.get(f"{done}report.pdf", follow_redirects=True).content.startswith(b"%PDF")
            assert visitor.await_end(unfinished).state == "ready"
    finally:
        second.end()


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_python_without_what_is_needed_is_told_the_remedy(tmp_path, missing):
    (tmp_path / f"{missing}.py").write_text("raise ImportError")
    done = subprocess.run(
        [sys.executable, "requirements/bootstrap.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"lacks the standard module(s) {missing}" in done.stderr
    assert "apt-get install python3" in done.stderr
    assert "Traceback" not in done.stderr
