"""What the broker changes in the Celery worker that it runs in, so that no message is begun, or dropped, unnoticed.

These are the parts that an upgrade of Celery may break: each is listed in seams.py.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from concurrent.futures import CancelledError
from typing import Any

from serverless.broker import worker
from serverless.broker.errors import SHAPE_ERRORS

log = logging.getLogger("serverless.broker")

#: Timers fire by another clock, and so a little early or late.
_TIMER_TOLERANCE_SECONDS = 0.05


def watch() -> None:
    """Guard the worker that starts in this process, if one does. Safe to repeat; call it after worker.watch."""
    if "celery" not in sys.modules:
        return
    from celery import signals

    signals.worker_init.connect(_on_init, dispatch_uid="serverless.broker.guards")
    signals.worker_ready.connect(_on_ready, dispatch_uid="serverless.broker.guards")


def _on_init(sender: Any = None, **_: Any) -> None:
    _guard_the_pool(sender)
    _learn_of_soft_stops(sender)


def _on_ready(sender: Any = None, **_: Any) -> None:
    if worker.is_of("thread"):
        _watch_the_threads(worker.pool())
    if worker.is_of("thread") or worker.is_of("solo"):
        # A cold stop cancels what runs. These pools cannot, and raise so inside the signal's handler: in solo that is
        # inside the task, which would fail of it and be acknowledged. What runs is finished instead.
        sender.cancel_active_requests = lambda: None


def _learn_of_soft_stops(controller: Any) -> None:
    """A soft shutdown sleeps in the signal's handler, and says that it shuts down only afterwards."""
    wait = controller.wait_for_soft_shutdown

    def noted() -> None:
        worker.note_stop()
        wait()

    controller.wait_for_soft_shutdown = noted


def _may_begin(request: Any) -> bool:
    """Whether the pool may have it: not if the worker stops, the message was given back, or its lease is over."""
    delivery = getattr(request.message, "delivery", None)
    if delivery is None:  # of another transport
        return True
    if not delivery.begin():
        return False
    if worker.stopping():
        delivery.begun = False
        return False
    return True


def _let_go(request: Any) -> None:
    """Celery must not run it: forget the request, and what may be left of the message here."""
    from celery.worker.state import task_ready

    task_ready(request)
    request.message.receiving_channel.consuming.given_up(request.message.delivery_tag)


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

    owed, is_busy = 0, False

    def free_the_slot() -> None:
        """One at a time: a slot goes to a waiting task at once, which may be another that gives it back."""
        nonlocal owed, is_busy
        if not getattr(controller.pool, "uses_semaphore", False):
            return
        owed += 1
        if is_busy:
            return
        is_busy = True
        try:
            while owed:
                owed -= 1
                controller._quick_release()
        finally:
            is_busy = False

    def guarded(request: Any) -> None:
        seconds = _seconds_too_early(request)
        if seconds > 0:
            free_the_slot()
            task_ready(request)
            request.message.receiving_channel.consuming.returned(request.message.delivery_tag, math.ceil(seconds))
            return
        if not worker.is_of("thread") and not _may_begin(request):
            if not worker.stopping():
                free_the_slot()
                _let_go(request)
            return
        try:
            process(request)
        except Exception as error:
            channel = getattr(request.message, "receiving_channel", None)
            if channel is None:  # of another transport
                raise
            log.exception("task %s cannot be given to the pool", request.id)
            free_the_slot()
            task_ready(request)
            if isinstance(error, SHAPE_ERRORS):
                reason = f"it cannot be given to the pool: {type(error).__name__}: {error}"
                channel.refuse(request.message.delivery_tag, reason)
            else:
                channel.basic_reject(request.message.delivery_tag, requeue=True)

    controller._process_task = guarded


def _watch_the_threads(pool: Any) -> None:
    """Note when a thread begins a task: Celery gives all that it holds to the pool at once.

    The pool drops what a task's tracer raises, also the exit of a task: pass it to Celery, as prefork does.
    """
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
                if not worker.stopping():
                    _let_go(request)
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
