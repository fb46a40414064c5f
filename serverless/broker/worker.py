"""What the broker reads of the Celery worker that it runs in: its pool, its requests, whether it stops.

Nothing here is needed where there is no Celery worker: then there is one slot a message and no stop but close().
Each private seam that is read is listed in seams.py.
"""

from __future__ import annotations

import logging
import math
import sys
import time
import weakref
from typing import Any

from serverless.broker.errors import SHAPE_ERRORS

log = logging.getLogger("serverless.broker")

#: Timers fire by another clock, and so a little early or late.
_TIMER_TOLERANCE_SECONDS = 0.05

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
    signals.worker_ready.connect(_on_ready, dispatch_uid="serverless.broker")
    signals.worker_shutting_down.connect(_on_shutting_down, dispatch_uid="serverless.broker")
    signals.task_received.connect(_on_received, dispatch_uid="serverless.broker")


def _on_init(sender: Any = None, **_: Any) -> None:
    global _controller, _stopping, _stop_signals, _hurried
    _controller, _stopping, _stop_signals, _hurried = weakref.ref(sender), False, 0, False
    _guard_the_pool(sender)
    _learn_of_soft_stops(sender)


def _learn_of_soft_stops(controller: Any) -> None:
    """A soft shutdown sleeps in the signal's handler, and says that it shuts down only afterwards."""
    wait = controller.wait_for_soft_shutdown

    def noted() -> None:
        global _stopping  # noqa: PLW0603
        _stopping = True
        wait()

    controller.wait_for_soft_shutdown = noted


def _may_begin(request: Any) -> bool:
    """Note that the pool has the request; False if the worker stops: then it must not begin.

    Noted first and asked second, while who gives back what has not begun does so only once the worker stops: so each
    request is either begun or given back, whatever comes between.
    """
    delivery = getattr(request.message, "delivery", None)
    if delivery is None:  # of another transport
        return True
    delivery.begun = True
    if _stopping:
        delivery.begun = False
    return bool(delivery.begun)


def _seconds_too_early(request: Any) -> float:
    """How long before its eta Celery's timer fired: it does not notice that the clock was set back meanwhile."""
    delivery = getattr(request.message, "delivery", None)
    if delivery is None or delivery.eta is None:
        return 0.0
    early: float = delivery.eta - time.time()
    return early if early > _TIMER_TOLERANCE_SECONDS else 0.0


def _guard_the_pool(controller: Any) -> None:
    """A task that the pool cannot take must not keep its slot; nor its message, for then nobody would settle it."""
    from celery.worker.state import task_ready

    process = controller._process_task

    def forget(request: Any) -> None:
        if getattr(controller.pool, "uses_semaphore", False):
            controller._quick_release()
        task_ready(request)

    def guarded(request: Any) -> None:
        seconds = _seconds_too_early(request)
        if seconds > 0:
            forget(request)
            request.message.receiving_channel.consuming.hand_back(request.message.delivery, math.ceil(seconds))
            return
        if not _is_of("thread") and not _may_begin(request):
            return
        try:
            process(request)
        except Exception as error:
            channel = getattr(request.message, "receiving_channel", None)
            if channel is None:  # of another transport
                raise
            log.exception("task %s cannot be given to the pool", request.id)
            forget(request)
            if isinstance(error, SHAPE_ERRORS):
                reason = f"it cannot be given to the pool: {type(error).__name__}: {error}"
                channel.refuse(request.message.delivery_tag, reason)
            else:
                channel.basic_reject(request.message.delivery_tag, requeue=True)

    controller._process_task = guarded


def _on_ready(sender: Any = None, **_: Any) -> None:
    if _is_of("thread"):
        _watch_the_threads(_pool())
    if _is_of("thread") or _is_of("solo"):
        # A cold stop cancels what runs. These pools cannot, and raise so inside the signal's handler: in solo that is
        # inside the task, which would fail of it and be acknowledged. What runs is finished instead.
        sender.cancel_active_requests = lambda: None


def _watch_the_threads(pool: Any) -> None:
    """Note when a thread begins a task: Celery gives all that it holds to the pool at once.

    The pool drops what a task's tracer raises, also the exit of a task: pass it to Celery, as prefork does.
    """
    from concurrent.futures import CancelledError

    from billiard.einfo import ExceptionInfo

    apply = pool.on_apply

    def telling(
        target: Any,
        args: Any = (),
        kwargs: Any = None,
        error_callback: Any = None,
        accept_callback: Any = None,
        **more: Any,
    ) -> Any:
        request = getattr(accept_callback, "__self__", None)

        def accepted(*args: Any) -> None:
            if request is not None and not _may_begin(request):
                raise CancelledError
            if accept_callback is not None:
                accept_callback(*args)

        def told(*args: Any, **kwargs: Any) -> Any:
            try:
                return target(*args, **kwargs)
            except BaseException:  # a task may exit, which counts as the loss of its process
                error_callback(ExceptionInfo())
                raise

        return apply(told, args, kwargs, accept_callback=accepted, **more)

    pool.on_apply = telling


def _on_received(request: Any = None, **_: Any) -> None:
    if delivering is not None:
        delivering.request = weakref.ref(request)


def _on_shutting_down(how: str = "", **_: Any) -> None:
    # Runs inside a signal handler, which may have interrupted a thread that holds any lock: set flags, nothing else.
    global _stopping, _stop_signals, _hurried  # noqa: PLW0603
    _stopping = True
    _stop_signals += 1
    _hurried = _hurried or (_stop_signals > 1 and how == "Cold")


def stopping() -> bool:
    """Whether the worker was told to stop: nothing more is received."""
    return _stopping


def hurried() -> bool:
    """Whether it was told a second time, and not by a mere repetition of a warm stop: it must not wait for polls."""
    return _hurried


def _pool() -> Any:
    controller = _controller() if _controller is not None else None
    return getattr(controller, "pool", None)


def slots() -> int | None:
    """How many tasks run at once; None outside a worker."""
    count = getattr(_pool(), "num_processes", None)
    return count if isinstance(count, int) and count > 0 else None


def pool_blocks_the_loop() -> bool:
    """Whether tasks run in the event loop's own thread (solo), so that a loop that stands still says nothing."""
    return _is_of("solo")


def _is_of(kind: str) -> bool:
    return type(_pool()).__module__ == f"celery.concurrency.{kind}"


def is_over_its_limit(request: Any, margin_seconds: float) -> bool:
    """Whether Celery has begun the request so long ago that its hard time limit is over, with a margin.

    request: a weak reference to it, or None. Prefork kills a task at its limit; threads and solo cannot.
    """
    found = request() if request is not None else None
    if found is None or found.time_start is None:
        return False
    limit = found.time_limits[0] or found.task.time_limit or getattr(_pool(), "options", {}).get("timeout")
    return limit is not None and bool(time.time() - found.time_start > limit + margin_seconds)
