"""Child processes of the laptop's stack: started in groups of their own, watched, restarted, and never left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent.parent

_COLOURS = (36, 32, 35, 33, 34, 31)
_PAUSES_SECONDS = (1, 2, 4, 8, 15, 30)
#: A child that lived this long starts its pauses anew.
_STABLE_SECONDS = 60
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def log_line(source: str, text: str, colour: int = 90) -> None:
    """One prefixed line of the stack's log; coloured on a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write(f"\x1b[{colour}m{source:>9} │\x1b[0m {text}\n")
    else:
        sys.stdout.write(f"{source:>9} | {text}\n")
    sys.stdout.flush()


@dataclass
class Child:
    """One process of the stack.

    stop_seconds: how long it may take to stop by itself before it is killed.
    on_line: called with each line that it prints.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_seconds: float = 10
    on_line: Callable[[str], None] | None = None
    colour: int = 90
    process: subprocess.Popen[str] | None = None
    crashes: int = 0
    started_at: float = 0
    restart_at: float | None = None
    stopping: bool = field(default=False)

    def start(self) -> None:
        self.started_at = time.monotonic()
        self.restart_at = None
        self.process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A group of its own: Ctrl-C reaches the supervisor alone, which stops the children in order.
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, no lock, no allocation
        )
        threading.Thread(target=self._pump, args=(self.process,), daemon=True).start()

    def _pump(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 - Popen was asked for a pipe
        for line in process.stdout:
            text = line.rstrip("\n")
            log_line(self.name, text, self.colour)
            if self.on_line:
                self.on_line(text)

    def watch(self) -> None:
        """Restart a child that ended by itself, each time after a longer pause. Call it often."""
        if self.stopping or self.process is None:
            return
        if self.restart_at is not None:
            if time.monotonic() >= self.restart_at:
                self.start()
            return
        status = self.process.poll()
        if status is None:
            return
        # Its own children (a worker's pool) must not outlive it.
        self.signal_group(signal.SIGKILL)
        if time.monotonic() - self.started_at > _STABLE_SECONDS:
            self.crashes = 0
        pause = _PAUSES_SECONDS[min(self.crashes, len(_PAUSES_SECONDS) - 1)]
        self.crashes += 1
        self.restart_at = time.monotonic() + pause
        log_line("up", f"{self.name} {ending(status)}; starting it again in {pause} s", 31)

    def signal_group(self, number: int) -> None:
        if self.process is not None:
            try:
                os.killpg(self.process.pid, number)
            except (ProcessLookupError, PermissionError):
                pass

    def ask_to_stop(self) -> None:
        self.stopping = True
        if self.process is not None and self.process.poll() is None:
            # Its leader alone: a worker's pool children are stopped by the worker.
            os.kill(self.process.pid, signal.SIGTERM)

    def wait_stopped(self) -> None:
        """Wait until it has stopped, kill it if that takes too long, and leave nothing of its group."""
        if self.process is None:
            return
        try:
            self.process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            log_line("up", f"{self.name} did not stop within {self.stop_seconds:g} s and is killed", 33)
        self.signal_group(signal.SIGKILL)
        self.process.wait()


def colours(children: Sequence[Child]) -> None:
    """Give each child a colour of its own."""
    for number, child in enumerate(children):
        child.colour = _COLOURS[number % len(_COLOURS)]


def stop_all(children: Sequence[Child]) -> None:
    """Stop all of them side by side."""
    for child in children:
        child.ask_to_stop()
    for child in children:
        child.wait_stopped()


def stop_signal() -> Callable[[], None]:
    """Take SIGTERM and SIGINT from now on; the function returned waits for the first.

    By a pipe, since a handler that takes a lock stands still when a second signal comes while it holds it. And one
    does: a supervisor that is killed is told of to its children once for each of its threads.
    """
    reader, writer = os.pipe()

    def stop(number: int, frame: FrameType | None) -> None:
        os.write(writer, b"\0")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)

    def wait() -> None:
        os.read(reader, 1)

    return wait


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"exited with status {status}"


def _die_with_parent() -> None:
    """On Linux, end the child if the supervisor is killed without a chance to stop it."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
