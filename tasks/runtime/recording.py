"""Recording what is enqueued: a row in the caller's transaction, a message after its commit.

The seam is `app.amqp.send_task_message`, which `.delay`, `apply_async`, `send_task`, canvas and `shared_task` all pass.
Celery prepares the message and fires its signals as ever; only the producer at the end is ours, and keeps the message
instead of sending it.

- A transaction that rolls back, or a savepoint, takes the row along, and no message leaves.
- After the commit all of the transaction's messages are published together, ten to a request.
- A process that dies in between leaves the row, and the minute's housekeeping publishes it.
- A `group`, a chord's header and a `bulk` block are one insert.
- What a running task sends under its own id (`retry`, `replace`) is sent at once and not recorded: the exception that
  follows would take the row back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

import structlog
from celery import current_task
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils import timezone

from django_app.ledger import services
from django_app.ledger.models import Run
from tasks.runtime import publishing

log = structlog.get_logger(__name__)

#: What SQS itself delays by at most; beyond, a worker that receives the message hides it until its time.
_LONGEST_DELAY_SECONDS = 900

_gathered: ContextVar[list[Run] | None] = ContextVar("gathered", default=None)


class Keeper:
    """Stands in for kombu's producer: keeps the finished message as a run."""

    def __init__(self, producer: Any, task: str) -> None:
        self.connection = producer.connection
        self._producer = producer
        self._task = task

    def publish(self, body: Any, **options: Any) -> None:
        """Record what would have been sent. Raises what serialising it raises."""
        headers = options.get("headers") or {}
        text, content_type, content_encoding = self._producer._prepare(
            body,
            options.pop("serializer", None),
            None,
            None,
            options.pop("compression", None),
            headers,
        )
        # They say how to send it now; when it is sent it is with others.
        for key in ("retry", "retry_policy", "declare", "timeout", "confirm_timeout"):
            options.pop(key, None)
        options |= {"content_type": content_type, "content_encoding": content_encoding}
        eta = headers.get("eta")
        record(
            Run(
                id=headers["id"],
                task=self._task,
                queue=options["routing_key"],
                message=publishing.pack(text, options),
                priority=options.get("priority"),
                not_before=datetime.fromisoformat(eta) if eta else None,
                parent_id=headers.get("parent_id") or "",
                root_id=headers.get("root_id") or "",
                group_id=headers.get("group") or "",
            )
        )


def is_recorded(task: Any, asked: bool | None) -> bool:
    """Whether a call is recorded. asked: `apply_async(recorded=...)`, else the task's own `recorded`, else yes."""
    if not settings.RECORD_RUNS:
        return False
    return bool(getattr(task, "recorded", True) if asked is None else asked)


def is_sent_by_itself(task_id: str) -> bool:
    """Whether the running task sends itself again, under its own id."""
    return bool(current_task) and current_task.request.id == task_id


def keep_long_delay(headers: dict[str, Any], options: dict[str, Any]) -> None:
    """Let SQS delay by what it can; the worker that receives it early hides it until its eta."""
    if headers.get("eta"):
        left = (datetime.fromisoformat(headers["eta"]) - timezone.now()).total_seconds()
        if left > _LONGEST_DELAY_SECONDS:
            options["DelaySeconds"] = _LONGEST_DELAY_SECONDS


def record(run: Run) -> None:
    """Record a run and have it published after the commit, or gather it with others."""
    gathered = _gathered.get()
    if gathered is not None:
        gathered.append(run)
    else:
        _record([run])


@contextmanager
def gathering() -> Iterator[None]:
    """Record all that is enqueued in the block together, when it ends; nothing of it if it raises."""
    if _gathered.get() is not None:
        yield
        return
    runs: list[Run] = []
    token = _gathered.set(runs)
    try:
        yield
    finally:
        _gathered.reset(token)
    if runs:
        _record(runs)


def _record(runs: list[Run]) -> None:
    try:
        services.record(runs)
    except (OperationalError, InterfaceError) as error:
        if connection.in_atomic_block:
            raise
        # No transaction asked for anything, and a workflow's next step must not be lost with the database.
        log.warning("runs_not_recorded", runs=len(runs), error=str(error))
        _publish_unrecorded(runs)
        return
    # Each entry is (savepoints, function, robust).
    outbox = next((entry[1] for entry in reversed(connection.run_on_commit) if isinstance(entry[1], Outbox)), None)
    if outbox is None:
        outbox = Outbox()
    outbox.add(runs, certain=not connection.savepoint_ids)
    transaction.on_commit(outbox)


def _publish_unrecorded(runs: list[Run]) -> None:
    from celery import current_app

    with current_app.producer_or_acquire() as producer:
        for run in runs:
            body, options = publishing.unpack(run.message)
            producer.publish(body, **options)


class Outbox:
    """One transaction's runs, published after its commit. Registered once for each that is added, so that a savepoint
    that rolls back takes only its own registration along; the first that is called publishes all.
    """

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._certain = True

    def add(self, runs: list[Run], *, certain: bool) -> None:
        """certain: no savepoint can take them back."""
        self._runs += runs
        self._certain = self._certain and certain

    def __call__(self) -> None:
        runs, self._runs = self._runs, []
        if not runs:
            return
        try:
            if not self._certain:
                there = services.surviving(run.pk for run in runs)
                runs = [run for run in runs if run.pk in there]
            now = timezone.now()
            due = [run for run in runs if services.is_due(run, now)]
            if due:
                publishing.publish(due)
        except Exception:
            # It is committed: the caller's work is done, and the housekeeping publishes what stayed behind.
            log.exception("runs_not_published", runs=len(runs))
