"""What the broker reads of the Celery worker that it runs in: its pool, its requests, whether it stops.

Nothing here is needed where there is no Celery worker: then there is one slot a message and no stop but close().
Each private seam that is read is listed in seams.py.
"""

from __future__ import annotations

import sys
import time
import weakref
from typing import Any

_controller: weakref.ref[Any] | None = None
_stopping = False
_stop_signals = 0
_hurried = False
#: What is being handed to Celery right now, so that the request that it makes of it can be noted there.
delivering: Any = None


def watch() -> None:
    """Learn of the worker that starts in this process. Called when the transport is loaded, before it starts."""
    if "celery" not in sys.modules:
        return
    from celery import signals

    signals.worker_init.connect(_on_init, dispatch_uid="serverless.broker")
    signals.worker_shutting_down.connect(_on_shutting_down, dispatch_uid="serverless.broker")
    signals.task_received.connect(_on_received, dispatch_uid="serverless.broker")


def _on_init(sender: Any = None, **_: Any) -> None:
    global _controller, _stopping, _stop_signals, _hurried
    _controller, _stopping, _stop_signals, _hurried = weakref.ref(sender), False, 0, False


def _on_received(request: Any = None, **_: Any) -> None:
    if delivering is not None:
        delivering.request = weakref.ref(request)


def _on_shutting_down(how: str = "", **_: Any) -> None:
    # Runs inside a signal handler, which may have interrupted a thread that holds any lock: set flags, nothing else.
    global _stopping, _stop_signals, _hurried  # noqa: PLW0603
    _stopping = True
    _stop_signals += 1
    _hurried = _hurried or (_stop_signals > 1 and how == "Cold")


def note_stop() -> None:
    """The worker stops, though it has not said so yet."""
    global _stopping  # noqa: PLW0603
    _stopping = True


def stopping() -> bool:
    """Whether the worker was told to stop: nothing more is received."""
    return _stopping


def hurried() -> bool:
    """Whether it was told a second time, and not by a mere repetition of a warm stop: it must not wait for polls."""
    return _hurried


def pool() -> Any:
    """The worker's pool, or None."""
    controller = _controller() if _controller is not None else None
    return getattr(controller, "pool", None)


def slots() -> int | None:
    """How many tasks run at once; None outside a worker."""
    count = getattr(pool(), "num_processes", None)
    return count if isinstance(count, int) and count > 0 else None


def pool_blocks_the_loop() -> bool:
    """Whether tasks run in the event loop's own thread (solo), so that a loop that stands still says nothing."""
    return is_of("solo")


def is_of(kind: str) -> bool:
    """Whether the worker's pool is Celery's own of that module: prefork, thread or solo."""
    return type(pool()).__module__ == f"celery.concurrency.{kind}"


def is_over_its_limit(request: Any, margin_seconds: float) -> bool:
    """Whether Celery has begun the request so long ago that its hard time limit is over, with a margin.

    request: a weak reference to it, or None. Prefork kills a task at its limit; threads and solo cannot.
    """
    found = request() if request is not None else None
    if found is None or found.time_start is None:
        return False
    limit = found.time_limits[0] or found.task.time_limit or getattr(pool(), "options", {}).get("timeout")
    return limit is not None and bool(time.time() - found.time_start > limit + margin_seconds)


def knows(request: Any) -> bool:
    """Whether Celery still has the request, running or waiting for the pool. request: a weak reference to it."""
    from celery.worker import state

    found = request()
    return found is not None and (found in state.active_requests or found in state.reserved_requests)
