"""A stop that is over before ECS kills: what does not fit is cut off, and its message shows again at once.

SIGTERM makes Celery stop warmly: it receives nothing more, gives back what it has not begun, and finishes what runs,
however long that takes. ECS waits for the container's stop timeout and kills then: what still runs would be hidden for
a lease. So a while before that the stop becomes a cold one.

A Spot warning is a SIGTERM two minutes ahead of the end: the same, with Fargate's longest stop timeout.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import structlog

log = structlog.get_logger(__name__)

#: Fargate's longest, in seconds; also how long ahead it warns where it takes Spot capacity back.
LONGEST_STOP_SECONDS = 120
#: For a cold stop: the pool ends, outcomes are recorded, SQS is told, the steward says goodbye.
_MARGIN_SECONDS = 20.0
_LOOK_SECONDS = 0.25


def cut_after_seconds(stop_timeout_seconds: float) -> float:
    """How long after SIGTERM what runs may go on. At least half of the stop timeout."""
    return max(stop_timeout_seconds / 2, stop_timeout_seconds - _MARGIN_SECONDS)


class Drain:
    """Watches this worker's stop. stop_timeout_seconds: of the container.

    A stop by remote control or by Ctrl-C has no such limit.
    """

    def __init__(self, stop_timeout_seconds: float) -> None:
        self._seconds = cut_after_seconds(stop_timeout_seconds)
        self._told_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)

    def watch(self) -> None:
        """From now on. In the worker's main process, before it starts."""
        from celery import signals

        signals.worker_shutting_down.connect(self._note, weak=False, dispatch_uid="serverless.container.draining")
        signals.worker_ready.connect(self._start, weak=False, dispatch_uid="serverless.container.draining")

    def _note(self, sig: str = "", **_: Any) -> None:
        # In a signal's handler, which may have interrupted whoever holds any lock. A second SIGTERM changes nothing.
        if sig == "SIGTERM" and self._told_at is None:
            self._told_at = time.monotonic()

    def _start(self, **_: Any) -> None:
        # Not before the pool has forked; and once, though Celery says it again with each connection.
        if not self._thread.is_alive():
            self._thread.start()

    def _run(self) -> None:
        while self._told_at is None or time.monotonic() - self._told_at < self._seconds:
            time.sleep(_LOOK_SECONDS)
        log.warning("drain_cuts_off", after_seconds=self._seconds, worker_pid=os.getpid())
        os.kill(os.getpid(), signal.SIGQUIT)
