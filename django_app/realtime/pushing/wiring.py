"""What is pushed when something has changed, in whichever process that was."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from celery.signals import worker_process_init, worker_process_shutdown
from django.conf import settings
from django.core.signals import request_finished
from django.db import connection, connections

from django_app.datasets.signals import dataset_changed
from django_app.ledger import watching
from django_app.ledger.signals import console_changed, run_changed
from django_app.realtime.pushing.pusher import Pusher

_GATEWAY = "serverless.websockets.layer.GatewayChannelLayer"
#: What is owed is told when the second is over for sure.
_OWED_SECONDS = watching.PULSE_SECONDS + 0.05

pusher = Pusher(connections.close_all)
#: has_asked: whether this thread's request has asked for a push.
_request = threading.local()


def connect() -> None:
    """Listen to what changes, and to when a process or a request ends. Safe to repeat."""
    run_changed.connect(_push_runs)
    dataset_changed.connect(_push_dataset)
    console_changed.connect(_push_console)
    request_finished.connect(_finish_request)
    worker_process_init.connect(_warm_up)
    worker_process_shutdown.connect(_end_process)
    # Before the threads of executors are ended, of which Channels and boto3's callers need some. atexit is too late.
    getattr(threading, "_register_atexit", atexit.register)(_end_process)


def soon(key: Hashable, push: Callable[[], object]) -> None:
    """Call it in the pusher's thread, at once or PUSH_EVERY_SECONDS after the last one of that key.

    Of two that wait with one key the later one is called. What it raises is logged, and it is tried again three times.
    It is never dropped for want of room while there are pushes of progress to drop.
    """
    _soon(key, push)


def _soon(key: Hashable, push: Callable[[], object], **options: Any) -> None:
    _request.has_asked = True
    pusher.soon(key, push, **{"every_seconds": settings.PUSH_EVERY_SECONDS, **options})


def flush(seconds: float) -> bool:
    """Push what waits now, and wait so long at most; whether all is pushed, and the thread's connection closed.

    For processes that end, or are frozen. What the console is owed is left to others.
    """
    return pusher.flush(seconds)


# What is pushed ------------------------------------------------------------------------------------------------------


def _push_runs(run_ids: Sequence[str], **_: Any) -> None:
    if settings.CHANNEL_LAYERS:
        for run_id in run_ids:
            _soon(("run", run_id), partial(_announce, "run_changed", run_id), may_drop=True)


def _push_dataset(dataset_id: UUID, **_: Any) -> None:
    if settings.CHANNEL_LAYERS:
        _soon(("dataset", dataset_id), partial(_announce, "dataset_changed", dataset_id), may_drop=True)


def _push_console(topics: Sequence[str], **_: Any) -> None:
    if settings.CHANNEL_LAYERS:
        pulse = partial(_pulse, topics)
        _soon("console", pulse, every_seconds=watching.PULSE_SECONDS, may_drop=True)


def _pulse(topics: Sequence[str]) -> None:
    sequence, is_later = watching.pulse()
    if sequence is not None:
        _tell_console(topics, sequence)
    if is_later:
        pay = partial(_pay, topics)
        pusher.soon("console's debt", pay, every_seconds=0.0, after_seconds=_OWED_SECONDS, is_patient=True)


def _pay(topics: Sequence[str]) -> None:
    sequence = watching.pay()
    if sequence is not None:
        _tell_console(topics, sequence, is_patient=True)


def _tell_console(topics: Sequence[str], sequence: int, *, is_patient: bool = False) -> None:
    """A push of its own, which is tried again by itself: what was owed is noted as paid already."""
    tell = partial(_announce, "console_changed", topics, sequence)
    pusher.soon("console's message", tell, every_seconds=0.0, is_patient=is_patient)


def _announce(name: str, *arguments: Any) -> None:
    # What has nothing to push does not load it.
    from django_app.realtime import announce

    if settings.CHANNEL_LAYERS["default"]["BACKEND"] == _GATEWAY:
        # Handlers run here, and read what they tell: one connection for all of them, until there is nothing to do.
        connection.ensure_connection()
    getattr(announce, name)(*arguments)


# When -----------------------------------------------------------------------------------------------------------------


def _finish_request(sender: type | None = None, **_: Any) -> None:
    """A function is frozen when it has answered, so what the request has changed is pushed before."""
    if not getattr(_request, "has_asked", False):
        return
    _request.has_asked = False
    from django.core.handlers.asgi import ASGIHandler

    # A server with an event loop goes on, and answers others meanwhile.
    if sender is None or not issubclass(sender, ASGIHandler):
        flush(settings.PUSH_WAIT_SECONDS)


def _end_process(**_: Any) -> None:
    flush(settings.PUSH_WAIT_SECONDS)


def _warm_up(**_: Any) -> None:
    """A worker's process has begun: its first push need not wait for what it takes."""
    if settings.CHANNEL_LAYERS:
        pusher.soon("warm up", _load, every_seconds=0.0, is_patient=True)


def _load() -> None:
    from channels.layers import get_channel_layer

    warm_up = getattr(get_channel_layer(), "warm_up", None)
    if warm_up is not None:
        warm_up()
