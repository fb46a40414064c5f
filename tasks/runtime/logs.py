"""Structured logs of tasks: one line an outcome, with the ids that lead back to the request that caused it.

What a line of a task's own code carries: request_id, task_id (the run), root_id (its workflow), parent_task_id, tenant
and requested_by. The request's id travels in the messages' headers, from the request through every task that follows.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import structlog
from celery import bootsteps, signals, states
from django.dispatch import receiver
from django_structlog import signals as request_signals
from django_structlog.celery import signals as task_signals

from tasks.runtime import verdicts

log = structlog.get_logger(__name__)

#: The header in which django-structlog hands its context on.
_CONTEXT = "__django_structlog__"
#: The header that says when a message was enqueued: seconds since the epoch.
ENQUEUED_AT = "enqueued_at"
#: What each task has from its own message, and what is nobody's business further on.
_NOT_HANDED_ON = frozenset({"root_id", "tenant", "requested_by", "ip"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=@/+-]{0,127}")
_LONGEST_ERROR = 500
#: Of what is handed on, since a message may come from anywhere: names that a line has for itself, and bounds.
_LINES_OWN = frozenset({"event", "level", "logger", "timestamp", "exception", "exc_info", "stack_info", "_record"})
_MOST_HANDED_ON = 20
_LONGEST_HANDED_ON = 255

_LEVELS = {
    "succeeded": "info",
    "replaced": "info",
    "ignored": "info",
    "retried": "warning",
    "returned": "warning",
    "revoked": "warning",
    "expired": "warning",
    "failed": "error",
    "dead": "error",
    "lost": "error",
}


class Ended(NamedTuple):
    """One execution that is over, or a run that ended without one. attempt: 0 where none had begun.

    wait_seconds: from when it was enqueued, or might have begun, to its start; None where that cannot be said.
    seconds: that it ran; None where it did not.
    """

    task: str
    queue: str
    task_id: str
    outcome: str
    attempt: int = 0
    receives: int = 0
    wait_seconds: float | None = None
    seconds: float | None = None
    error: str = ""


# From a request to a message, and on to the next ---------------------------------------------------------------------


@receiver(request_signals.bind_extra_request_metadata)
def _take_request_id(request: Any = None, **_: Any) -> None:
    """Keep the id that whoever asks has given the request, if it is one: it goes into logs and messages."""
    given = request.headers.get("X-Request-ID", "")
    if _REQUEST_ID.fullmatch(given):
        structlog.contextvars.bind_contextvars(request_id=given)


@receiver(task_signals.modify_context_before_task_publish)
def _hand_on(context: dict[str, Any] | None = None, **_: Any) -> None:
    for key in _NOT_HANDED_ON & set(context or {}):
        del context[key]  # type: ignore[union-attr]


@signals.before_task_publish.connect
def _note_time(headers: dict[str, Any] | None = None, **_: Any) -> None:
    if headers is not None:
        headers[ENQUEUED_AT] = round(time.time(), 3)


def context_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """What every line about a message carries. request: its headers."""
    handed = request.get(_CONTEXT)
    told: dict[str, Any] = {}
    for key, value in list(handed.items())[:_MOST_HANDED_ON] if isinstance(handed, dict) else ():
        if str(key) not in _LINES_OWN and isinstance(value, str | int | float | None):
            told[str(key)] = value[:_LONGEST_HANDED_ON] if isinstance(value, str) else value
    told["task_id"] = request.get("id")
    told["root_id"] = request.get("root_id") or request.get("id")
    told |= {key: request[key] for key in ("tenant", "requested_by") if request.get(key)}
    return told


# Outcomes ------------------------------------------------------------------------------------------------------------


class WorkerLogStep(bootsteps.Step):
    """Has a worker log the outcome of every execution."""

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        # Signals hold their receivers weakly.
        self.outcomes = Outcomes()
        self.outcomes.connect()
        logging.getLogger("celery.app.trace").addFilter(_is_no_outcome)


def _is_no_outcome(record: logging.LogRecord) -> bool:
    """Celery's own lines on outcomes say what ours say."""
    data = getattr(record, "data", None)
    return not (isinstance(data, dict) and "description" in data)


class Outcomes:
    """Listens to what Celery says of its tasks, in the process that runs them and in the one that receives messages."""

    def __init__(self) -> None:
        #: Requests that the main process has received, for what it alone sees of them.
        self._received: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def connect(self) -> None:
        signals.task_received.connect(self.on_received)
        signals.task_prerun.connect(self.on_begin)
        signals.task_success.connect(self.on_success)
        signals.task_failure.connect(self.on_failure)
        signals.task_retry.connect(self.on_retry)
        signals.task_postrun.connect(self.on_end)
        signals.task_revoked.connect(self.on_revoked)
        signals.task_unknown.connect(self.on_unknown)
        signals.task_rejected.connect(self.on_rejected)

    def on_received(self, request: Any = None, **_: Any) -> None:
        self._received[request.id] = request

    def on_begin(self, task_id: str = "", task: Any = None, **_: Any) -> None:
        task.request._began = (time.time(), time.monotonic())
        if task.request.is_eager:
            return  # a part of the execution that called it
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**context_of(task.request.__dict__ | {"id": task_id}))

    def on_success(self, sender: Any = None, **_: Any) -> None:
        attempt = _attempt_of(sender.request)
        # By retry(throw=False) it has sent itself again.
        is_sent_again = attempt is not None and attempt.again is not None
        _tell_executed(sender, "retried" if is_sent_again else "succeeded")

    def on_failure(
        self, sender: Any = None, task_id: str = "", exception: Any = None, einfo: Any = None, **_: Any
    ) -> None:
        outcome = "dead" if isinstance(exception, verdicts.DeadLetter) else "failed"
        trace = getattr(einfo, "traceback", None) or ""
        expected = isinstance(exception, getattr(sender, "throws", ()) or ())
        if sender.request.id == task_id:
            _tell_executed(sender, outcome, exception, "" if expected else trace)
        else:
            # The main process: its child was killed, or nothing ran.
            self._tell_received(sender, task_id, outcome, exception)

    def on_retry(self, sender: Any = None, reason: Any = None, **_: Any) -> None:
        _tell_executed(sender, "retried", getattr(reason, "exc", None) or reason)

    def on_end(self, task: Any = None, retval: Any = None, state: str | None = None, **_: Any) -> None:
        """Tell of executions that end without another signal, and leave their context."""
        if state == states.IGNORED:
            attempt = _attempt_of(task.request)
            is_replaced = attempt is not None and (attempt.is_replaced or attempt.again is not None)
            _tell_executed(task, "replaced" if is_replaced else "ignored")
        elif state == states.REJECTED and getattr(retval, "requeue", False):
            # If it does not go back, the main process says what becomes of it.
            _tell_executed(task, "returned", retval)
        if not task.request.is_eager:
            structlog.contextvars.clear_contextvars()

    def on_revoked(self, sender: Any = None, request: Any = None, expired: Any = None, **_: Any) -> None:
        outcome = "expired" if expired else "revoked"
        received = self._received.get(request.id)
        seconds = _seconds_since(received.time_start) if received is not None else None
        _tell(_described(sender, request.__dict__, outcome, seconds), context_of(request.__dict__))

    def on_unknown(self, name: str = "", id: str = "", **_: Any) -> None:
        log.error("task_not_found", task=name, task_id=id)

    def on_rejected(self, message: Any = None, exc: Any = None, **_: Any) -> None:
        log.error("task_rejected", task_id=message.properties.get("correlation_id"), error=str(exc or ""))

    def _tell_received(self, task: Any, task_id: str, outcome: str, error: Any) -> None:
        received = self._received.get(task_id)
        request = received._request_dict if received is not None else {"id": task_id}
        seconds = _seconds_since(received.time_start) if received is not None else None
        _tell(_described(task, request, outcome, seconds, error), context_of(request))


def lost(request: Any, why: str) -> None:
    """Tell of an execution whose process died. request: Celery's, in the main process."""
    told = _described(request.task, request._request_dict, "lost", _seconds_since(request.time_start))
    _tell(told._replace(error=why[:_LONGEST_ERROR]), context_of(request._request_dict))


def _tell_executed(task: Any, outcome: str, error: Any = None, trace: str = "") -> None:
    """Tell of the execution that is under way in this thread, at its end."""
    request = task.request
    wall, began = getattr(request, "_began", (time.time(), time.monotonic()))
    told = _described(task, request.__dict__, outcome, time.monotonic() - began, error)
    attempt = _attempt_of(request)
    sent = (request.retries or 0) + (getattr(request, "replaced_task_nesting", 0) or 0)
    number = attempt.claim.number if attempt is not None else sent + 1
    # What is begun again waits for other reasons than that workers are busy.
    wait = wait_seconds(request.__dict__, wall) if number == sent + 1 else None
    # The context is bound already.
    _tell(told._replace(attempt=number, wait_seconds=wait), {}, trace, is_counted=not request.is_eager)


def _attempt_of(request: Any) -> Any:
    """The attempt of this very execution; None for one that is not recorded, or was applied within another."""
    from tasks.runtime import attempts

    attempt = attempts.current.get()
    return attempt if attempt is not None and attempt.run_id == request.id else None


def _described(task: Any, request: Mapping[str, Any], outcome: str, seconds: float | None, error: Any = None) -> Ended:
    delivery = request.get("delivery_info") or {}
    return Ended(
        task=task.name,
        queue=delivery.get("routing_key") or "",
        task_id=request.get("id") or "",
        outcome=outcome,
        receives=_receives(delivery),
        seconds=seconds,
        error=_error_text(error),
    )


def _error_text(error: Any) -> str:
    if error is None:
        return ""
    return f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]


def _receives(delivery: Mapping[str, Any]) -> int:
    try:
        return int(delivery["sqs_message"]["Attributes"]["ApproximateReceiveCount"])
    except (KeyError, TypeError, ValueError):
        return 1


def _seconds_since(start: float | None) -> float | None:
    return max(0.0, time.time() - start) if start else None


def wait_seconds(request: Mapping[str, Any], started: float) -> float | None:
    """From the later of when it was enqueued and its eta until it started."""
    enqueued = request.get(ENQUEUED_AT)
    if not isinstance(enqueued, int | float):
        return None
    try:
        eta = datetime.fromisoformat(request["eta"]).timestamp() if request.get("eta") else 0.0
    except (TypeError, ValueError):
        eta = 0.0
    return max(0.0, started - max(float(enqueued), eta))


def _tell(ended: Ended, context: Mapping[str, Any], trace: str = "", *, is_counted: bool = True) -> None:
    fields: dict[str, Any] = {**context, "task_id": ended.task_id, "task": ended.task, "queue": ended.queue}
    fields |= {"outcome": ended.outcome, "attempt": ended.attempt, "receives": ended.receives}
    for name, seconds in (("wait_ms", ended.wait_seconds), ("duration_ms", ended.seconds)):
        if seconds is not None:
            fields[name] = round(seconds * 1000)
    if ended.error:
        fields["error"] = ended.error
    if trace:
        from tasks.runtime import attempts

        fields["exception"] = attempts.shortened(trace)
    getattr(log, _LEVELS[ended.outcome])(f"task_{ended.outcome}", **fields)
    if is_counted:
        from tasks.runtime import metrics

        metrics.tell(ended)
