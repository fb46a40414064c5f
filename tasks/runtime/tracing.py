"""Between the worker and a task's code: the claim before it, what is left to record after it.

Celery keeps a function for each task that runs it and sees to its result, `task.__trace__`. Ours goes around that one,
so that a message that must not run fires no signal and touches no hook of the task.
"""

from __future__ import annotations

import logging
import random
import time
import uuid as uuids
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog
from celery import bootsteps, signals, states
from celery.app.task import Context
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Reject
from celery.worker.consumer.tasks import Tasks
from django.conf import settings

from tasks.runtime import verdicts
from tasks.topology import TOPOLOGY

if TYPE_CHECKING:
    from django_app.ledger.claims import Claim, Claimant

log = structlog.get_logger(__name__)

#: A message is handed back for a little longer than the claim it waits for.
_AFTER_LEASE_SECONDS = 1.0
_DATABASE_AWAY_SECONDS = (5.0, 15.0)
#: A worker keeps its database connection between tasks for so long.
_CONNECTION_SECONDS = 600

Tracer = Callable[..., Any]


class ClaimStep(bootsteps.StartStopStep):
    """Puts the claim around every task of a worker whose pool has no processes of its own."""

    requires = (Tasks,)

    def start(self, consumer: Any) -> None:
        # A process of prefork's equips itself when it starts.
        if "prefork" not in type(consumer.pool).__module__:
            equip(consumer.app)

    def stop(self, consumer: Any) -> None:
        """Nothing to end."""


@signals.worker_process_init.connect
def _equip_process(**_: Any) -> None:
    from celery import current_app

    equip(current_app._get_current_object())  # type: ignore[attr-defined]


def equip(app: Any) -> None:
    """Put the claim around every task of this process."""
    from django.db import connections

    for database in connections.all():
        # Two connections a task would cost more than most tasks do. A broken one is noticed at the claim.
        database.settings_dict["CONN_MAX_AGE"] = _CONNECTION_SECONDS
        database.settings_dict["CONN_HEALTH_CHECKS"] = False
    root = logging.getLogger()
    if not any(isinstance(handler, _LogTail) for handler in root.handlers):
        root.addHandler(_LogTail())
    for task in app.tasks.values():
        if task.__trace__ is not None and not isinstance(task.__trace__, Claiming):
            task.__trace__ = Claiming(app, task, task.__trace__)
            task.on_replace = replacing(task.on_replace)


def replacing(on_replace: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A task's on_replace, with what it enqueues kept for the attempt's end: its Ignore rolls transactions back."""

    def replace(signature: Any) -> Any:
        from tasks.runtime import attempts

        attempt = attempts.current.get()
        if attempt is None:
            return on_replace(signature)
        attempt.is_replacing = True
        try:
            return on_replace(signature)
        finally:
            attempt.is_replacing = False
            attempt.is_replaced = True

    return replace


class _LogTail(logging.Handler):
    """Keeps the last lines that were logged while an attempt was at work, for its record."""

    def emit(self, record: logging.LogRecord) -> None:
        from tasks.runtime import attempts

        attempt = attempts.current.get()
        if attempt is None:
            return
        try:
            message = record.msg if isinstance(record.msg, dict) else {"event": record.getMessage()}
            fields = " ".join(f"{key}={value}" for key, value in message.items() if key not in _HIDDEN_FIELDS)
            line = f"{record.levelname} {record.name}: {message.get('event', '')} {fields}"
            attempt.log.append(attempts.storable(line.rstrip())[:500])
        except Exception:  # a log line must never fail a task
            self.handleError(record)


_HIDDEN_FIELDS = frozenset({"event", "level", "logger", "timestamp", "request_id", "task_id", "parent_task_id"})


class Claiming:
    """One task's tracer with the claim around it."""

    def __init__(self, app: Any, task: Any, tracer: Tracer) -> None:
        self._app = app
        self._task = task
        self._trace = tracer

    def __call__(self, uuid: str, args: Any, kwargs: Any, request: dict[str, Any] | None = None) -> Any:
        request = request or {}
        if not _is_claimed(self._task, request):
            return self._trace(uuid, args, kwargs, request)
        from django_app.ledger import requester

        with requester.asking(request.get("requested_by") or "", request.get("tenant") or ""):
            try:
                claim = self._claim(uuid, args, kwargs, request)
            except (verdicts.HandBack, verdicts.DeadLetter) as verdict:
                return _told(verdict)
            if claim is None:
                return _DONE
            return self._run(claim, uuid, args, kwargs, request)

    def _claim(self, uuid: str, args: Any, kwargs: Any, request: dict[str, Any]) -> Claim | None:
        """The claim with which to run; None where the message is to be acknowledged. Raises HandBack."""
        from django.db import Error, connection, connections

        for each in connections.all(initialized_only=True):
            if not each.in_atomic_block:  # of a test
                # It may be old, or broken by the task before.
                each.close_if_unusable_or_obsolete()
        tries = 0
        while True:
            try:
                return self._decide(uuid, args, kwargs, request)
            except Error as error:
                if connection.in_atomic_block:  # of a test
                    raise
                # The connection may be an old one that was cut while nothing was asked of it.
                connection.close()
                tries += 1
                if tries == 1:
                    continue
                log.error("run_not_claimed", task=self._task.name, task_id=uuid, error=str(error))
                pause = random.uniform(*_DATABASE_AWAY_SECONDS)
                if self._task.acks_late:
                    raise verdicts.HandBack("the database is away", pause) from error
                # Its message is acknowledged already, so there is nothing to hand back.
                time.sleep(pause)

    def _decide(self, uuid: str, args: Any, kwargs: Any, request: dict[str, Any]) -> Claim | None:
        from django_app.ledger import claims
        from django_app.ledger.claiming import Verdict
        from tasks.runtime import limits

        claimant = claims.Claimant(
            holder=request.get("holder") or uuids.uuid4().hex,
            worker=request.get("hostname") or "",
            lease_seconds=TOPOLOGY.lease_seconds,
            receives=_receives(request),
            retries=request.get("retries") or 0,
            replacements=request.get("replaced_task_nesting") or 0,
            stamps=_stamps(request),
            limit=limits.of(self._task),
        )
        if request.get("schedule"):
            admitted = self._claim_scheduled(uuid, args, kwargs, request, claimant)
            if admitted is None:
                return None
            claim = admitted
        else:
            try:
                claim = claims.claim(uuid, claimant)
            except claims.RunMissingError:
                self._record_arrived(uuid, args, kwargs, request)
                claim = claims.claim(uuid, claimant)
        decision = claim.decision
        if decision.verdict is Verdict.RUN:
            return claim
        log.info(
            "run_not_begun",
            task=self._task.name,
            task_id=uuid,
            verdict=decision.verdict,
            reason=decision.reason,
            receives=claimant.receives,
        )
        match decision.verdict:
            case Verdict.HELD:
                raise verdicts.HandBack(decision.reason, decision.seconds + _AFTER_LEASE_SECONDS)
            case Verdict.REVOKED | Verdict.EXPIRED:
                self._end_unrun(uuid, args, kwargs, request, decision.verdict)
            case Verdict.DEAD_BEFORE:
                raise verdicts.DeadLetter(decision.reason)
            case Verdict.DEAD:
                self._dead_letter(uuid, args, kwargs, request, decision.reason)
        return None

    def _claim_scheduled(
        self, uuid: str, args: Any, kwargs: Any, request: dict[str, Any], claimant: Claimant
    ) -> Claim | None:
        """The claim of a schedule's run; None where the schedule's rules do not let it begin."""
        from django.db import transaction
        from django.utils import timezone

        from django_app.ledger import claims
        from django_app.ledger.schedules import admission
        from tasks.runtime import arrivals

        with transaction.atomic():
            admitted = admission.admit(
                request["schedule"],
                uuid,
                timezone.now(),
                lambda: arrivals.describe(self._task, uuid, args, kwargs, request),
            )
            if admitted is admission.BEGIN:
                try:
                    return claims.claim(uuid, claimant)
                except claims.RunMissingError:
                    self._record_arrived(uuid, args, kwargs, request)
                    return claims.claim(uuid, claimant)
        log.info(
            "schedule_ruled",
            task=self._task.name,
            task_id=uuid,
            schedule=request["schedule"],
            ruling=admitted.ruling,
            reason=admitted.reason,
        )
        if admitted.to_end:
            self._app.control.revoke(list(admitted.to_end), terminate=True)
        return None

    def _record_arrived(self, uuid: str, args: Any, kwargs: Any, request: dict[str, Any]) -> None:
        """Record a run whose message did not come through the outbox."""
        from django_app.ledger import services
        from tasks.runtime import arrivals

        services.record_arrived(arrivals.describe(self._task, uuid, args, kwargs, request))

    def _end_unrun(self, uuid: str, args: Any, kwargs: Any, request: dict[str, Any], verdict: Any) -> None:
        from django_app.ledger.claiming import Verdict
        from django_app.ledger.states import Report

        expired = verdict is Verdict.EXPIRED
        context = Context(request, args=args, kwargs=kwargs, called_directly=False)
        self._task.backend.mark_as_revoked(
            uuid,
            "expired" if expired else "revoked",
            request=context,
            report=Report.EXPIRED if expired else Report.REVOKED,
        )
        signals.task_revoked.send(sender=self._task, request=context, terminated=False, signum=None, expired=expired)

    def _dead_letter(self, uuid: str, args: Any, kwargs: Any, request: dict[str, Any], reason: str) -> None:
        from billiard.exceptions import WorkerLostError

        from django_app.ledger.states import Report

        context = Context(request, args=args, kwargs=kwargs, called_directly=False)
        self._task.backend.mark_as_failure(uuid, WorkerLostError(reason), request=context, report=Report.DEAD)
        raise verdicts.DeadLetter(reason)

    def _run(self, claim: Claim, uuid: str, args: Any, kwargs: Any, request: dict[str, Any]) -> Any:
        from tasks.runtime import attempts, progress

        attempt = attempts.Current(claim, self._task)
        token = attempts.current.set(attempt)
        try:
            traced = self._trace(uuid, args, kwargs, request)
            progress.save_kept(attempt)
            if attempt.is_over:
                return traced
            return self._close(attempt, traced, Context(request, args=args, kwargs=kwargs, called_directly=False))
        finally:
            attempts.current.reset(token)

    def _close(self, attempt: Any, traced: Any, context: Context) -> Any:
        """Celery has recorded no outcome: the task replaced itself, or raised Ignore or Reject."""
        from django_app.ledger.states import Report

        info = traced.info
        rejection: Any = info.retval if info is not None and isinstance(info.retval, Reject) else None
        if rejection is not None and not rejection.requeue:
            reason = f"the task rejected it: {rejection.reason or 'no reason given'}"
            self._task.backend.mark_as_failure(attempt.run_id, rejection, request=context, report=Report.DEAD)
            return _told(verdicts.DeadLetter(reason))
        self._task.backend.end_quietly(
            attempt, is_ignored=info is not None and info.state == states.IGNORED, request=context
        )
        return traced


_DONE = trace_ok_t(None, None, 0.0, "not begun")


def _told(verdict: Reject) -> Any:
    """What a tracer returns for a task that raised this."""
    from billiard.einfo import ExceptionInfo

    try:
        raise verdict
    except Reject as raised:
        return trace_ok_t(ExceptionInfo(), TraceInfo(states.REJECTED, raised), 0.0, None)


def _is_claimed(task: Any, request: dict[str, Any]) -> bool:
    """Whether a message belongs to a recorded run."""
    if request.get("recorded") is False or not settings.RECORD_RUNS:
        return False
    if request.get("schedule"):
        # Its rules are kept with its runs.
        return True
    # Neither says so where the message came from a producer without our `app.amqp`, or from EventBridge.
    return bool(getattr(task, "recorded", True)) or bool(request.get("chord"))


def _receives(request: dict[str, Any]) -> int:
    delivery = (request.get("delivery_info") or {}).get("sqs_message") or {}
    try:
        return int(delivery["Attributes"]["ApproximateReceiveCount"])
    except (KeyError, TypeError, ValueError):
        return 1


def _stamps(request: dict[str, Any]) -> dict[str, list[str]]:
    stamps = request.get("stamps") or {}
    found = {}
    for header in request.get("stamped_headers") or ():
        value = stamps.get(header)
        if value is not None:
            found[header] = list(value) if isinstance(value, list | tuple | set) else [value]
    return found
