"""Remote control without a broadcast: `celery inspect`, `celery control`, `app.control`, over tables.

Whoever commands writes a row, each worker's steward finds it and passes it to the worker's event loop, where Celery's
own handlers obey; answers come back the same way. What is revoked is also written down at once, by whoever revokes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import structlog
from billiard.common import TERM_SIGNAME
from celery import bootsteps, signals
from celery.app.control import Control as CeleryControl
from celery.concurrency.base import BasePool
from celery.exceptions import WorkerShutdown
from celery.platforms import EX_OK
from celery.platforms import signals as system_signals
from celery.utils.collections import AttributeDict
from celery.utils.functional import maybe_list
from celery.worker import state as worker_state
from celery.worker.consumer.connection import Connection
from celery.worker.control import Panel
from kombu.pidbox import Mailbox as CeleryMailbox
from kombu.utils.json import dumps, loads
from kombu.utils.uuid import uuid

from serverless.broker import RemoteControlError
from serverless.broker import worker as broker_worker
from tasks.runtime import steward
from tasks.topology import TOPOLOGY

log = structlog.get_logger(__name__)
T = TypeVar("T")

#: Their stubs know little of them.
_CeleryMailbox: Any = CeleryMailbox
_CeleryControl: Any = CeleryControl
_state: Any = worker_state

#: How often whoever has asked looks for answers.
_LOOK_SECONDS = 0.04


# Whoever commands ----------------------------------------------------------------------------------------------------


class Mailbox(_CeleryMailbox):  # type: ignore[misc]
    """Commands and answers as rows; the broker is not touched."""

    #: Seconds after which a command is no longer obeyed.
    keep_seconds = 300.0

    def _broadcast(  # noqa: PLR0917 - kombu's own
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        reply: bool = False,
        timeout: float | None = 1,
        limit: int | None = None,
        callback: Callable[[Any], object] | None = None,
        channel: Any = None,
        serializer: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> list[Any] | None:
        if destination is not None and not isinstance(destination, list | tuple):
            raise ValueError(f"destination must be a list/tuple not {type(destination)}")
        if any(each is not None and not isinstance(each, str) for each in (pattern, matcher)):
            raise ValueError(f"pattern and matcher must be strings not {type(pattern)}, {type(matcher)}")
        fleet = _fleet()
        remember(command, arguments or {})
        message: dict[str, Any] = {
            "method": command,
            "arguments": arguments or {},
            "destination": destination,
            "pattern": pattern,
            "matcher": matcher,
        }
        if not reply:
            # In the caller's transaction, if there is one, like all that it enqueues and revokes.
            fleet.send(dumps(message), self.keep_seconds)
            return None
        ticket = uuid()
        message.update(ticket=ticket, reply_to={"exchange": "", "routing_key": ticket})
        with _beside_the_transaction(command) as do:
            do(lambda: fleet.send(dumps(message), self.keep_seconds))
            return self._await_answers(do, ticket, limit or len(destination or ()), timeout, callback)

    def _await_answers(
        self,
        do: Callable[[Callable[[], Any]], Any],
        ticket: str,
        limit: int,
        timeout: float | None,
        callback: Callable[[Any], object] | None,
    ) -> list[Any]:
        """Answers, until there are as many as that, or none has come for so many seconds. limit: 0 for no limit."""
        fleet = _fleet()
        seconds = self.keep_seconds if timeout is None else timeout
        answers: dict[int, Any] = {}
        until = time.monotonic() + seconds
        while True:
            for number, body in do(lambda: fleet.answers(ticket, list(answers))):
                answers[number] = loads(body)
                until = time.monotonic() + seconds
                if callback is not None:
                    callback(answers[number])
            left = until - time.monotonic()
            if left <= 0 or 0 < limit <= len(answers):
                return list(answers.values())
            time.sleep(min(left, _LOOK_SECONDS))

    def _publish_reply(
        self, reply: Any, exchange: str, routing_key: str, ticket: str, channel: Any = None, **options: Any
    ) -> None:
        """Answer, in a worker's event loop."""
        told = steward.current()
        if told is None:
            return
        try:
            body = dumps(reply)
        except (TypeError, ValueError) as error:
            body = dumps({node: {"error": f"the answer cannot be sent: {error}"} for node in reply})
        told.reply(ticket, body)


class Control(_CeleryControl):  # type: ignore[misc]
    """`app.control`, without a broker's connection for what does not need one."""

    Mailbox = Mailbox

    def __init__(self, app: Any = None) -> None:
        super().__init__(app)
        self.mailbox.keep_seconds = float(app.conf.control_queue_ttl or Mailbox.keep_seconds)

    def broadcast(  # noqa: PLR0917 - Celery's own
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float | None = 1.0,
        limit: int | None = None,
        callback: Callable[[Any], object] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra_kwargs: Any,
    ) -> Any:
        only = {"pattern": pattern, "matcher": matcher} if pattern and matcher else {}
        return self.mailbox._broadcast(
            command, {**(arguments or {}), **extra_kwargs}, destination, reply, timeout, limit, callback, **only
        )


def remember(command: str, arguments: dict[str, Any]) -> None:
    """Write down what a command revokes: it holds though no worker hears it, and for those that start later."""
    if command in ("revoke", "terminate"):
        fleet = _fleet()
        from django_app.ledger import requester
        from tasks.runtime import reports

        ids = [fleet.checked(each) for each in maybe_list(arguments.get("task_id")) or ()]
        reports.revoke_runs(ids, by=requester.current().user)
    elif command == "revoke_by_stamped_headers":
        for header, values in _headers(arguments.get("headers") or {}).items():
            _fleet().revoke_stamped(header, maybe_list(values) or ())


def _headers(headers: Any) -> dict[str, Any]:
    """Stamped headers as Celery takes them: a mapping, or from the command line a list of name=value."""
    if isinstance(headers, dict):
        return headers
    found: dict[str, list[str]] = {}
    for each in headers:
        name, _, value = str(each).partition("=")
        found.setdefault(name, []).append(value)
    return found


def _fleet() -> ModuleType:
    # `celery inspect` imports the app and no more: Django may not have been set up.
    from django.apps import apps

    if not apps.ready:
        import django

        django.setup()
    from django_app.ledger import fleet

    return fleet


@contextmanager
def _beside_the_transaction(command: str) -> Iterator[Callable[[Callable[[], T]], T]]:
    """How to speak to the database at once, though a transaction is open: nobody sees what that writes.

    Raises RemoteControlError on SQLite, where that transaction lets nobody else write.
    """
    from django.db import connection, connections

    if not connection.in_atomic_block:
        yield lambda work: work()
        return
    if connection.vendor == "sqlite":
        raise RemoteControlError(
            f'"{command}" waits for an answer inside a transaction, during which SQLite lets no worker write one. '
            "Ask outside of atomic()."
        )
    with ThreadPoolExecutor(1, thread_name_prefix="control") as own:
        try:
            yield lambda work: own.submit(work).result()
        finally:
            own.submit(connections.close_all).result()


# Whoever obeys -------------------------------------------------------------------------------------------------------


def ok(value: str) -> dict[str, str]:
    return {"ok": value}


def nok(value: str) -> dict[str, str]:
    return {"error": value}


#: Of the `time_limit` command, by task: (hard, soft) in seconds.
_time_limits: dict[str, tuple[float | None, float | None]] = {}


def revoke(state: Any, task_id: Any, terminate: bool = False, signal: str | None = None, **_: Any) -> Any:
    """Celery's own, but for the result backend: whoever revoked has written it down, and this process must not."""
    ids = {str(each) for each in maybe_list(task_id) or ()}
    _state.revoked.update(ids)
    if not terminate:
        log.info("tasks_revoked", task_ids=sorted(ids))
        return ok(f"tasks {ids} flagged as revoked")
    number = system_signals.signum(signal or TERM_SIGNAME)
    requests = [request for each in ids if (request := _state.requests.get(each)) is not None]
    if not requests:
        return ok("terminate: tasks unknown")
    refused = _terminate(state, requests, number)
    if refused:
        return nok(refused)
    return ok(f"terminate: {', '.join(request.id for request in requests)}")


def _terminate(state: Any, requests: Sequence[Any], number: int) -> str:
    """End what runs; why not, where the pool cannot. There Celery's own would leave a task that has not begun stuck."""
    if getattr(state.consumer.pool.terminate_job, "__func__", None) is BasePool.terminate_job:
        ids = ", ".join(request.id for request in requests)
        return f"the {_kind(state)} pool cannot end a task that runs: {ids} flagged as revoked, no more"
    for request in requests:
        log.info("task_terminated", task_id=request.id, signal=number)
        request.terminate(state.consumer.pool, signal=number)
    return ""


def _kind(state: Any) -> str:
    return type(state.consumer.pool).__module__.rpartition(".")[2]


def terminate(state: Any, signal: str, task_id: Any, **_: Any) -> Any:
    return revoke(state, task_id, terminate=True, signal=signal)


def revoke_by_stamped_headers(
    state: Any, headers: Any, terminate: bool = False, signal: str | None = None, **_: Any
) -> Any:
    """Celery's own, with values that hold an equals sign, and answers where the pool cannot end a task."""
    named = {header: list(maybe_list(values) or ()) for header, values in _headers(headers).items()}
    for header, values in named.items():
        known = _state.revoked_stamps.get(header) or []
        _state.revoked_stamps[header] = [*known, *(each for each in values if each not in known)]
    if not terminate:
        return ok(f"headers {named} flagged as revoked, but not terminated")
    stamped = [
        request
        for request in tuple(_state.active_requests)
        if any(set(maybe_list(request.stamps.get(header)) or ()) & set(values) for header, values in named.items())
    ]
    if not stamped:
        return ok(f"headers {named} were not terminated")
    refused = _terminate(state, stamped, system_signals.signum(signal or TERM_SIGNAME))
    return nok(refused) if refused else ok(f"headers {named} revoked")


def time_limit(state: Any, task_name: str, hard: float | None = None, soft: float | None = None, **_: Any) -> Any:
    """Celery's own sets what holds for messages that name no limit; ours all name one."""
    if task_name not in state.app.tasks:
        return nok("unknown task")
    if hard is None and soft is None:
        _time_limits.pop(task_name, None)
    else:
        _time_limits[task_name] = (hard, soft)
    log.info("time_limits_set", task=task_name, soft_seconds=soft, hard_seconds=hard)
    return ok("time limits set successfully")


def _limit_time(request: Any = None, **_: Any) -> None:
    """Give a request that has arrived its task's time limits, never more than its queue allows."""
    limits = _time_limits.get(request.task.name)
    if limits is None:
        return
    queue = TOPOLOGY.queues.get(request.delivery_info.get("routing_key") or "")
    most = queue.time_limit_seconds if queue is not None else None
    request.time_limits = [
        min(limit, most) if limit is not None and most is not None else limit
        for limit in (
            asked if asked is not None else own for asked, own in zip(limits, request.time_limits, strict=True)
        )
    ]


def pool_grow(state: Any, n: int = 1, **options: Any) -> Any:
    return _resize(state, "pool_grow", "grow", n, options)


def pool_shrink(state: Any, n: int = 1, **options: Any) -> Any:
    return _resize(state, "pool_shrink", "shrink", n, options)


def _resize(state: Any, command: str, method: str, n: int, options: dict[str, Any]) -> Any:
    if not hasattr(state.consumer.pool, method):
        return nok(f"the {_kind(state)} pool cannot {method} while it runs. Start the worker with another concurrency.")
    return Panel.data[command](state, n=n, **options)


def add_consumer(state: Any, queue: str, **options: Any) -> Any:
    """Celery's own, done at once: what it does later, an unknown queue would end the worker."""
    # Raises UndeclaredQueueError, which is the answer.
    state.consumer.connection.transport.sqs.queue(queue) if _is_sqs(state) else None
    state.consumer.add_task_queue(queue, **options)
    return ok(f"add consumer {queue}")


def cancel_consumer(state: Any, queue: str, **_: Any) -> Any:
    state.consumer.cancel_task_queue(queue)
    return ok(f"no longer consuming from {queue}")


def shutdown(state: Any, msg: str = "Got shutdown from remote", **_: Any) -> None:
    log.warning("shutdown", by="remote control", message=msg)
    # From now on nothing more is received.
    broker_worker.note_stop()
    raise WorkerShutdown(EX_OK)


def _is_sqs(state: Any) -> bool:
    return getattr(state.consumer.connection.transport, "driver_type", "") == "sqs"


OWN_HANDLERS: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        revoke,
        terminate,
        revoke_by_stamped_headers,
        time_limit,
        pool_grow,
        pool_shrink,
        add_consumer,
        cancel_consumer,
        shutdown,
    )
}


class ControlStep(bootsteps.StartStopStep):
    """Has a worker obey. Its steward has loaded what is revoked before the first message could come."""

    requires = (Connection,)

    def include_if(self, parent: Any) -> bool:
        return bool(parent.app.conf.worker_enable_remote_control)

    def start(self, parent: Any) -> None:
        told = steward.current()
        if told is None:
            return
        node = parent.app.control.mailbox.Node(
            parent.hostname,
            handlers={**Panel.data, **OWN_HANDLERS},
            state=AttributeDict(app=parent.app, hostname=parent.hostname, consumer=parent, tset=set),
        )
        signals.task_received.connect(_limit_time, dispatch_uid="tasks.runtime.control")
        told.obey(lambda body: node.handle_message(loads(body)))

    def stop(self, parent: Any) -> None:
        """The next start has the same steward."""

    def terminate(self, parent: Any) -> None:
        """As stop."""
