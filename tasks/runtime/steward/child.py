"""The steward's process as the worker's thread has it: pipes that never block, and a bell to be woken by."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
from typing import IO

from tasks.runtime.steward.protocol import Lines

_AT_ONCE = 1 << 16


class Bell:
    """Wakes the thread from any other, and from signal handlers."""

    def __init__(self) -> None:
        self.heard, self._rung = socket.socketpair()
        for end in (self.heard, self._rung):
            end.setblocking(False)

    def ring(self) -> None:
        # It may be full of rings already, or closed.
        with contextlib.suppress(OSError):
            self._rung.send(b"\0")

    def hush(self) -> None:
        with contextlib.suppress(OSError):
            self.heard.recv(4096)

    def close(self) -> None:
        self.heard.close()
        self._rung.close()


class Child:
    """One steward's process, from its start to its end."""

    def __init__(self, bell: Bell) -> None:
        command = [sys.executable, "-m", "tasks.runtime.steward", "--parent", str(os.getpid())]
        # It finds the same modules, however the worker was told where they are.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment
        )
        self._bell = bell
        self._into, self._out_of = (pipe.fileno() for pipe in self._pipes())
        for pipe in (self._into, self._out_of):
            os.set_blocking(pipe, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(bell.heard, selectors.EVENT_READ)
        self._selector.register(self._out_of, selectors.EVENT_READ)
        self._buffer = bytearray()
        self._is_writing = False
        self._lines = Lines()

    def _pipes(self) -> list[IO[bytes]]:
        return [pipe for pipe in (self._process.stdin, self._process.stdout) if pipe is not None]

    @property
    def has_taken_all(self) -> bool:
        """Whether all that was written is in the pipe."""
        return not self._buffer

    @property
    def status(self) -> int | None:
        """Its exit status; None while it lives."""
        return self._process.poll()

    def write(self, lines: bytes) -> None:
        self._buffer += lines

    def exchange(self, seconds: float) -> list[bytes]:
        """Wait for something to read, a ring, or so long; the lines that it has said. EOFError when it has ended."""
        if bool(self._buffer) != self._is_writing:
            self._is_writing = not self._is_writing
            if self._is_writing:
                self._selector.register(self._into, selectors.EVENT_WRITE)
            else:
                self._selector.unregister(self._into)
        said: list[bytes] = []
        for key, _ in self._selector.select(max(0.0, seconds)):
            if key.fd == self._into:
                try:
                    del self._buffer[: os.write(self._into, self._buffer[:_AT_ONCE])]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise EOFError from None
            elif key.fd == self._out_of:
                read = os.read(self._out_of, _AT_ONCE)
                if not read:
                    raise EOFError
                said += self._lines.take(read)
            else:
                self._bell.hush()
        return said

    def ended_well(self) -> bool:
        """After EOFError: whether it ended as it should."""
        try:
            return self._process.wait(5) == 0
        except subprocess.TimeoutExpired:
            return False

    def end(self) -> None:
        self._selector.close()
        self.close_pipes()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def close_pipes(self) -> None:
        """Also in a forked child: a pipe that it kept open would outlive the worker, and the steward not notice."""
        for pipe in self._pipes():
            with contextlib.suppress(OSError):
                pipe.close()
