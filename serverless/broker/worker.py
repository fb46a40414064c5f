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
    global _controller, _stopping
    _controller, _stopping = weakref.ref(sender), False


def _on_received(request: Any = None, **_: Any) -> None:
    if delivering is not None:
        delivering.request = weakref.ref(request)


def _on_shutting_down(**_: Any) -> None:
    # Runs inside a signal handler, which may have interrupted a thread that holds any lock: set a flag, nothing else.
    global _stopping  # noqa: PLW0603
    _stopping = True


def stopping() -> bool:
    """Whether the worker was told to stop: nothing more is received."""
    return _stopping


def _pool() -> Any:
    controller = _controller() if _controller is not None else None
    return getattr(controller, "pool", None)


def slots() -> int | None:
    """How many tasks run at once; None outside a worker."""
    count = getattr(_pool(), "num_processes", None)
    return count if isinstance(count, int) and count > 0 else None


def pool_blocks_the_loop() -> bool:
    """Whether tasks run in the event loop's own thread (solo), so that a loop that stands still says nothing."""
    pool = _pool()
    return pool is not None and type(pool).__module__ == "celery.concurrency.solo"


def is_over_its_limit(request: Any, margin_seconds: float) -> bool:
    """Whether Celery has begun the request so long ago that its hard time limit is over, with a margin.

    request: a weak reference to it, or None. Prefork kills a task at its limit; threads and solo cannot.
    """
    found = request() if request is not None else None
    if found is None or found.time_start is None:
        return False
    limit = found.time_limits[0] or found.task.time_limit or getattr(_pool(), "options", {}).get("timeout")
    return limit is not None and bool(time.time() - found.time_start > limit + margin_seconds)


def was_never_started(request: Any) -> bool:
    """Whether Celery, being stopped, will never run it: it was not given to the pool.

    request: a weak reference; None where none was seen, which says nothing.
    """
    if request is None:
        return False
    found = request()
    return found is None or (found.time_start is None and found._apply_result is None)
