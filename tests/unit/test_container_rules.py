"""A worker's container: its memory, its stop, and the rules of its checks."""

from __future__ import annotations

import signal
import subprocess
import sys
from email.utils import formatdate
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverless.container import checks, draining, memory, starting
from serverless.container.checks import Check
from serverless.container.errors import EX_CONFIG, EX_TEMPFAIL, CheckError
from tasks.topology import TOPOLOGY
from tests.conftest import ROOT
from tests.waiting import wait_for

# Memory --------------------------------------------------------------------------------------------------------------


@given(st.integers(256 << 20, 64 << 30), st.integers(1, 64))
def test_children_that_are_kept_fit_their_container_together(limit, concurrency):
    try:
        kib = memory.child_limit_kib(limit, concurrency)
    except memory.MemoryLimitError as error:
        assert limit < memory.RESERVED_BYTES + concurrency * memory.LEAST_SHARE_BYTES
        assert f"concurrency={concurrency} needs" in str(error)
        return
    assert memory.RESERVED_BYTES + concurrency * (kib << 10) <= limit
    assert kib >= memory.LEAST_SHARE_BYTES * 0.8 / 1024


def test_every_pool_of_the_topology_has_memory_for_its_children():
    for pool in TOPOLOGY.pools.values():
        assert memory.child_limit_kib(pool.memory_mib << 20, pool.concurrency) > 250_000


def test_a_container_that_is_too_small_is_refused_with_what_to_change():
    with pytest.raises(
        memory.MemoryLimitError, match=r"concurrency=4 needs 1024 MiB, and the container has 512\. Raise"
    ):
        memory.child_limit_kib(512 << 20, 4)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("memory.max", "1073741824\n", 1 << 30),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "536870912\n", 512 << 20),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
        ("memory.high", "1\n", None),
    ],
)
def test_the_containers_memory_is_read_from_either_version_of_cgroups(tmp_path, name, text, found):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert memory.limit_bytes(tmp_path) == found


# A stop --------------------------------------------------------------------------------------------------------------


@given(st.floats(0.1, 600.0))
def test_a_stop_is_cut_off_before_it_is_killed_and_not_before_half_of_its_time(timeout):
    after = draining.cut_after_seconds(timeout)
    assert timeout / 2 <= after < timeout


def test_on_fargate_what_runs_has_a_hundred_seconds():
    assert draining.cut_after_seconds(draining.LONGEST_STOP_SECONDS) == 100


WATCHED = """
import os, signal, threading, time
from celery import signals
from serverless.container.draining import Drain

cuts = []
signal.signal(signal.SIGQUIT, lambda *_: cuts.append(time.monotonic()))
Drain(stop_timeout_seconds=1.0).watch()
for _ in range(3):
    signals.worker_ready.send(sender=None)
threads = [each for each in threading.enumerate() if each.name == "drain"]
for sig in ("SIGINT", "SIGTERM", "SIGTERM"):
    told_at = time.monotonic()
    signals.worker_shutting_down.send(sender=None, sig=sig, how="Warm", exitcode=0)
threads[0].join(60)
time.sleep(0)
print(len(threads), len(cuts), cuts[0] - told_at >= 0.4)
"""


def test_a_worker_that_connects_anew_has_one_end_and_is_cut_off_once():
    """A second cold stop would be a hard one, which hands nothing back."""
    done = subprocess.run([sys.executable, "-c", WATCHED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1 1 True"


# The gate ------------------------------------------------------------------------------------------------------------


def test_the_gate_is_shut_before_the_worker_starts():
    """Later would be too late: its first poll may come before its first question."""
    code = (
        "from serverless.broker import gate\n"
        "from serverless.entrypoints import worker\n"
        "assert not gate.is_closed()\n"
        "worker._keep_protected('http://127.0.0.1:9', 900.0)\n"
        "print(gate.is_closed(), gate.load().held, gate.load().polls)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0", "0"]


# Checks --------------------------------------------------------------------------------------------------------------


def test_a_clock_within_a_minute_of_awss_is_right():
    assert checks.check_clock(formatdate(1_000_000_030, usegmt=True), 1_000_000_000.0) == "clock -30.5 s"
    assert checks.check_clock(None, 0.0) == checks.check_clock("yesterday", 0.0) == "AWS said no time"


@pytest.mark.parametrize("skew", [-3600, -62, 62, 3600])
def test_a_clock_that_is_further_off_is_told_with_its_remedy(skew):
    with pytest.raises(
        CheckError, match=rf"clock: it is [+-]{abs(skew)} s off AWS's, and 60 s is the most\. Delays"
    ) as told:
        checks.check_clock(formatdate(1_000_000_000, usegmt=True), 1_000_000_000.5 + skew)
    assert told.value.status == EX_TEMPFAIL


def test_settings_that_cannot_work_are_named(settings):
    settings.BROKER_URL = "sqs://"
    settings.QUEUE_URL_PREFIX = "cloudqueue-"
    with pytest.raises(
        CheckError, match='QUEUE_URL_PREFIX="cloudqueue-" is not the beginning of a queue\'s URL'
    ) as told:
        checks.check_settings()
    assert told.value.status == EX_CONFIG
    settings.QUEUE_URL_PREFIX = "https://sqs.us-east-1.amazonaws.com/1/x-"
    settings.RUN_KEYS = ["short"]
    with pytest.raises(CheckError, match="RUN_KEYS holds what is no key") as told:
        checks.check_settings()
    assert "short" not in str(told.value)


def test_a_liveness_file_that_cannot_be_written_is_named(settings, tmp_path):
    settings.LIVENESS_FILE = str(tmp_path / "none" / "alive")
    with pytest.raises(
        CheckError, match=r'LIVENESS_FILE="\S+alive" cannot be written \(No such file or directory\)\. Name'
    ):
        checks.check_liveness_file()
    settings.LIVENESS_FILE = str(tmp_path / "alive")
    assert checks.check_liveness_file() == str(tmp_path / "alive")
    assert list(tmp_path.iterdir()) == []


class Failing:
    """A check that fails so many times."""

    def __init__(self, times: int, *, passing: bool) -> None:
        self.left = times
        self.passing = passing
        self.runs = 0

    def __call__(self) -> str:
        self.runs += 1
        if self.left:
            self.left -= 1
            raise CheckError("door", "it is shut", "Open it.", passing=self.passing)
        return "open"


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(starting, "_FIRST_PAUSE_SECONDS", 0.001)


def test_what_comes_right_by_itself_is_waited_for(no_pauses):
    door = Failing(3, passing=True)
    assert starting.run_checks([Check("door", door)], patience_seconds=60) == 0
    assert door.runs == 4


def test_what_does_not_come_right_in_time_has_an_exit_code_of_its_own(no_pauses):
    later = Failing(0, passing=True)
    assert starting.run_checks([Check("door", Failing(99, passing=True)), Check("later", later)], 0.0) == EX_TEMPFAIL
    assert later.runs == 0


def test_what_must_be_corrected_is_not_waited_for(no_pauses):
    door = Failing(1, passing=False)
    assert starting.run_checks([Check("door", door)], patience_seconds=60) == EX_CONFIG
    assert door.runs == 1


@given(st.integers(1, 10_000))
def test_pauses_between_looks_grow_and_stay_below_a_quarter_of_a_minute(tries):
    assert 0.5 <= starting._pause_seconds(tries) <= 15.0


IN_OWN_PROCESS = """
import sys, time
from serverless.container import starting
try:
    sys.exit(starting.in_own_process(lambda: {work}, longest_seconds={longest}, liveness_file=sys.argv[1]))
except starting.Stopped:
    sys.exit(40)
"""


def start_own_process(work: str, file: Path, longest: float = 60) -> subprocess.Popen[bytes]:
    code = IN_OWN_PROCESS.format(work=work, longest=longest)
    return subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=ROOT)


@pytest.mark.parametrize(("work", "code"), [("0", 0), ("75", 75), ("1 / 0", 70), ("__import__('os').abort()", 134)])
def test_the_checks_process_ends_with_what_it_found(tmp_path, work, code):
    assert start_own_process(work, tmp_path / "alive").wait(60) == code


def test_checks_that_do_not_come_back_are_given_up(tmp_path):
    assert start_own_process("time.sleep(600) or 0", tmp_path / "alive", longest=0.5).wait(60) == EX_TEMPFAIL


def test_a_start_that_waits_is_healthy_and_ends_at_once_when_it_is_told_to(tmp_path):
    process = start_own_process("time.sleep(600) or 0", tmp_path / "alive")
    wait_for((tmp_path / "alive").exists, "the sign of life")
    health = [sys.executable, "-m", "serverless.entrypoints.worker_health", str(tmp_path / "alive")]
    assert subprocess.run(health, cwd=ROOT, check=False).returncode == 0
    (child,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 40
    assert not child.is_running()
