"""Process 1 of a container: signals reach the command, orphans leave no zombies, and it ends as the command ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import ROOT
from tests.waiting import wait_for


def start_init(*command: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, sys.executable, "-m", "serverless.container.init", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ((sys.executable, "-c", "raise SystemExit(3)"), 3, ""),
        ((sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), 137, ""),
        (("no-such-command",), 127, "no-such-command: No such file or directory"),
        (("/",), 126, "Permission denied"),
        ((), 2, "name a command"),
    ],
)
def test_process_1_ends_as_its_command_ends(command, code, said):
    process = start_init(*command)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert said in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1])
def test_process_1_passes_signals_on_and_waits_for_what_becomes_of_them(number):
    code = (
        "import signal, sys\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(40))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()"
    )
    process = start_init(sys.executable, "-c", code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.wait(60) == 40


ORPHAN = """
import os, subprocess, sys, time
subprocess.run([sys.executable, "-c", "import os, time\\nif os.fork(): os._exit(0)\\ntime.sleep(0.2)"])
print("orphaned", flush=True)
sys.stdin.read()
"""


def assert_orphans_are_reaped(process: subprocess.Popen[str], init: psutil.Process) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "orphaned\n"
    wait_for(lambda: len(init.children()) == 1, "the orphan's end, without a zombie")


def test_orphans_leave_no_zombies():
    process = subprocess.Popen(
        [sys.executable, "-m", "serverless.container.init", sys.executable, "-c", ORPHAN],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert_orphans_are_reaped(process, psutil.Process(process.pid))
    finally:
        process.communicate(timeout=60)


def namespaces() -> tuple[str, ...]:
    """What makes a command process 1 here, as in a container; () where the kernel does not let us."""
    for rights in ((), ("--user", "--map-root-user")):
        command = ("unshare", *rights, "--pid", "--fork", "--mount-proc", "--kill-child")
        try:
            if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
                return command
        except FileNotFoundError:
            return ()
    return ()


def test_as_the_real_process_1_it_hears_sigterm_and_reaps():
    before = namespaces()
    if not before:
        pytest.skip("this machine lets nobody make a pid namespace: process 1 is tested as a subreaper only")
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "serverless.container.init", sys.executable, "-c", ORPHAN],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    (init,) = awaited_children(process.pid)
    assert_orphans_are_reaped(process, init)
    init.send_signal(signal.SIGTERM)
    # Its child has no handler: it is ended by the signal, which process 1 itself would never have noticed.
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


def awaited_children(pid: int) -> list[psutil.Process]:
    wait_for(lambda: psutil.Process(pid).children(), "its child")
    return psutil.Process(pid).children()


def test_process_1_loads_next_to_nothing():
    code = (
        "import sys; from serverless.container import init; "
        "print(*sorted({'asyncio', 'boto3', 'celery', 'ctypes', 'django', 'json', 'socket', 'structlog'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
