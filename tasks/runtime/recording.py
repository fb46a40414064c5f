"""Recording what is enqueued: a row in the caller's transaction, a message after its commit.

The seam is `app.amqp.send_task_message`, which `.delay`, `apply_async`, `send_task`, canvas and `shared_task` all pass.
Celery prepares the message and fires its signals as ever; only the producer at the end is ours, and keeps the message
instead of sending it.

- A transaction that rolls back, or a savepoint, takes the row along, and no message leaves.
- After the commit all of the transaction's messages are published together, ten to a request.
- A process that dies in between leaves the row, and the minute's housekeeping publishes it.
- A `group`, a chord's header and a `bulk` block are one insert.
- What a running task sends under its own id (`retry`, `replace`) is kept until its attempt ends: the exception that
  follows would take the row back.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any

import structlog
from celery import current_app, current_task
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, InterfaceError, OperationalError, connection, connections, transaction
from django.utils import timezone

from django_app.ledger import redaction, requester, services
from django_app.ledger.models import Run
from tasks.runtime import attempts, limits, publishing

log = structlog.get_logger(__name__)

#: What SQS itself delays by at most; beyond, a worker that receives the message hides it until its time.
_LONGEST_DELAY_SECONDS = 900

_gathered: ContextVar[list[Run] | None] = ContextVar("gathered", default=None)
_watched: ContextVar[list[Run] | None] = ContextVar("watched", default=None)


class OtherTransactionError(RuntimeError):
    """A run is enqueued in a transaction of another database than the one that records it.

    task: its name. database: the alias in DATABASES.
    """

    def __init__(self, task: str, database: str) -> None:
        super().__init__(
            f'task {task} is enqueued in a transaction of the database "{database}", and runs are recorded in '
            f'"{DEFAULT_DB_ALIAS}": it would leave at once, and a rollback would not take it back. Enqueue it in '
            f'transaction.on_commit(..., using="{database}"), or open a transaction of "{DEFAULT_DB_ALIAS}" as well, '
            "with which it then leaves, or let recorded=False send it at once and without a record."
        )
        self.task = task
        self.database = database


class Keeper:
    """Stands in for kombu's producer: keeps the finished message as a run.

    asked: what `apply_async` was asked for beyond Celery's own options, see `Asked`.
    """

    def __init__(self, producer: Any, task: str, asked: dict[str, Any]) -> None:
        self.connection = producer.connection
        self._producer = producer
        self._task = task
        self._asked = asked

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
        run = describe_run(self._task, headers, body, options["routing_key"], self._asked)
        run.priority = options.get("priority")
        run.message = publishing.pack(text, options)
        keep(run)


def describe_run(name: str, headers: dict[str, Any], body: Any, queue: str, asked: dict[str, Any]) -> Run:
    """A run as its message tells of it, without the message.

    body: (args, kwargs, embed) of Celery's protocol 2.
    """
    args, kwargs, embed = body if isinstance(body, tuple | list) and len(body) == 3 else ((), {}, {})
    task = current_app.tasks.get(name)
    embed = embed or {}
    limit = limits.of(task) if task is not None else None
    return Run(
        id=headers["id"],
        task=name,
        queue=queue,
        arguments=redaction.shown(args or (), kwargs or {}, _parameters(task), settings.REDACTED_ARGUMENTS),
        not_before=_time(headers.get("eta")),
        expires_at=_time(headers.get("expires")),
        retries=headers.get("retries") or 0,
        replacements=headers.get("replaced_task_nesting") or 0,
        parent_id=headers.get("parent_id") or "",
        root_id=headers.get("root_id") or "",
        group_id=headers.get("group") or "",
        is_chord_part=bool(embed.get("chord")),
        schedule=headers.get("schedule") or "",
        scheduled_for=_time(headers.get("scheduled_for")),
        tenant=headers.get("tenant") or "",
        requested_by=headers.get("requested_by") or "",
        stamps=_stamps(headers),
        limit_key=limits.key_of(task, args, kwargs, asked.get("concurrency_key")),
        limit_at_once=limit.at_once if limit is not None else None,
        unique_key=asked.get("unique_key") or "",
    )


def _stamps(headers: dict[str, Any]) -> dict[str, list[str]]:
    """Stamped headers, name to values, as text."""
    stamps = headers.get("stamps") or {}
    found = {}
    for header in headers.get("stamped_headers") or ():
        value = stamps.get(header)
        values = value if isinstance(value, list | tuple | set | frozenset) else [value]
        found[attempts.storable(header)] = [attempts.storable(each) for each in values if each is not None]
    return found


def _time(text: Any) -> datetime | None:
    if not text:
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=timezone.get_current_timezone())


def parameters_of(name: str) -> tuple[str, ...]:
    """Names of a task's positional parameters; none for a task that is unknown here."""
    return _parameters(current_app.tasks.get(name))


@lru_cache(maxsize=1000)
def _parameters(task: Any) -> tuple[str, ...]:
    """Names of a task's positional parameters."""
    if task is None:
        return ()
    try:
        parameters = inspect.signature(task.run).parameters.values()
    except (TypeError, ValueError):
        return ()
    names: list[str] = []
    for parameter in parameters:
        # All that `*tokens` takes goes by its name.
        names += [parameter.name] * (redaction.MOST_ITEMS if parameter.kind is parameter.VAR_POSITIONAL else 1)
    return tuple(names)


def is_recorded(task: Any, asked: bool | None, is_chord_part: bool = False) -> bool:
    """Whether a call is recorded. asked: `apply_async(recorded=...)`, else the task's own `recorded`, else yes.

    A chord's part always is, for a chord counts its parts' rows.
    """
    if not settings.RECORD_RUNS:
        return False
    return is_chord_part or bool(getattr(task, "recorded", True) if asked is None else asked)


def is_sent_by_itself(task_id: str) -> bool:
    """Whether the running task sends itself again, under its own id."""
    return bool(current_task) and current_task.request.id == task_id


def is_claimed(task_id: str) -> bool:
    """Whether the running task was recorded, and so is what it sends under its own id."""
    return attempts.of(task_id) is not None


def keep_long_delay(headers: dict[str, Any], options: dict[str, Any]) -> None:
    """Let SQS delay by what it can; the worker that receives it early hides it until its eta."""
    if headers.get("eta"):
        left = (datetime.fromisoformat(headers["eta"]) - timezone.now()).total_seconds()
        if left > _LONGEST_DELAY_SECONDS:
            options["DelaySeconds"] = _LONGEST_DELAY_SECONDS


def tell_requester(headers: dict[str, Any]) -> None:
    """Write into a message's headers who asks for it."""
    asking = requester.current()
    if asking.user:
        headers["requested_by"] = asking.user
    if asking.tenant:
        headers["tenant"] = asking.tenant


def keep(run: Run) -> None:
    """Record a run, unless it belongs to the end of the attempt that is at work here."""
    attempt = attempts.current.get()
    if attempt is not None and not attempt.is_over:
        if attempt.run_id == run.pk:
            attempt.again = run
            return
        if attempt.is_replacing:
            attempt.aside.append(run)
            return
    record(run)


def record(run: Run) -> None:
    """Record a run and have it published after the commit, or gather it with others. Raises OtherTransactionError."""
    _refuse_another_databases_transaction(run)
    gathered = _gathered.get()
    if gathered is not None:
        gathered.append(run)
    else:
        _record([run])


def _refuse_another_databases_transaction(run: Run) -> None:
    if connection.in_atomic_block:
        return
    for each in connections.all(initialized_only=True):
        if each.in_atomic_block:
            raise OtherTransactionError(run.task, each.alias)


@contextmanager
def at_once() -> Iterator[None]:
    """Record what is enqueued in the block when it is enqueued, whatever is gathered around it."""
    token = _gathered.set(None)
    try:
        yield
    finally:
        _gathered.reset(token)


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
    publish_after_commit(runs)


def publish_after_commit(runs: Sequence[Run]) -> None:
    """Publish runs that are recorded as pending, together with the transaction's others; at once outside of one."""
    if not runs:
        return
    watched = _watched.get()
    if watched is not None:
        watched.extend(runs)
        return
    outbox = _outbox()
    if outbox is None:
        outbox = Outbox()
    outbox.add(list(runs), certain=not connection.savepoint_ids)
    transaction.on_commit(outbox)


@contextmanager
def watching() -> Iterator[list[Run]]:
    """The runs that would be published after a commit, in a list that grows while the block goes on; none is."""
    runs: list[Run] = []
    token = _watched.set(runs)
    try:
        yield runs
    finally:
        _watched.reset(token)


def _outbox() -> Outbox | None:
    # Each entry is (savepoints, function, robust).
    return next((entry[1] for entry in reversed(connection.run_on_commit) if isinstance(entry[1], Outbox)), None)


def is_unsent(task_id: str) -> bool:
    """Whether a run waits for this transaction's commit."""
    outbox = _outbox()
    return outbox is not None and outbox.holds(task_id)


def _publish_unrecorded(runs: list[Run]) -> None:
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

    def holds(self, task_id: str) -> bool:
        return any(run.pk == task_id for run in self._runs)

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
