"""Where Celery's event loop leaves word, without ever taking a lock.

The loop runs in the main thread, and so do signal handlers: a soft shutdown sleeps in one, for minutes perhaps. Had it
interrupted the loop while that held a lock, the threads that keep leases would stand still as long.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

log = logging.getLogger("serverless.broker")


class Desk(threading.Thread):
    """Does, in order and in a thread of its own, what it is told."""

    def __init__(self, name: str = "sqs-desk") -> None:
        super().__init__(name=name, daemon=True)
        self._told: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False
        self._open = True
        # Not a pipe: what comes after the end must not be written to a descriptor that is somebody else's by then.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)

    def tell(self, what: Callable[..., object], *arguments: Any) -> None:
        """Have something done soon. Takes no lock, so a signal handler may interrupt it anywhere and sleep."""
        self._told.append((what, arguments))
        if not self._woken:
            self._woken = True
            # The buffer is full of wake-ups, or the end has come.
            with contextlib.suppress(OSError):
                self._writer.send(b"\0")

    def run(self) -> None:
        while self._open:
            self._reader.recv(4096)
            # In this order: what is told between the two is done below all the same.
            self._woken = False
            while self._told:
                what, arguments = self._told.popleft()
                try:
                    what(*arguments)
                except Exception:
                    log.exception("%s failed", getattr(what, "__name__", what))
        self._writer.close()
        self._reader.close()

    def finish(self, seconds: float) -> bool:
        """Wait until all that was told so far is done; whether it is."""
        done = threading.Event()
        self.tell(done.set)
        return done.wait(seconds)

    def close(self) -> None:
        self._open = False
        self.tell(lambda: None)
