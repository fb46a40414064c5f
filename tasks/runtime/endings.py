"""Recording how an attempt ends: one transaction with all that follows from it, tried until the database has it."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from django.db import InterfaceError, InternalError, OperationalError, connection, transaction
from kombu.utils.json import dumps

from django_app.ledger import outcomes, parking, services
from django_app.ledger.models import Run
from django_app.ledger.outcomes import Ended
from django_app.ledger.states import Outcome, Report
from serverless import aws
from tasks.runtime import attempts, recording
from tasks.runtime.attempts import Current

log = structlog.get_logger(__name__)
T = TypeVar("T")

#: What the database raises while it is away, or busy; an InternalError where a failover has made it read-only.
AWAY = (OperationalError, InterfaceError, InternalError)
_LONGEST_PAUSE_SECONDS = 5.0


class _EndedBeforeError(Exception):
    """Somebody else has ended the run."""


def persistently(work: Callable[[], T]) -> T:
    """Do it; again and again while the database, or AWS, is away. Within a transaction of the caller's, once."""
    tries = 0
    while True:
        try:
            return work()
        except SoftTimeLimitExceeded:
            if connection.in_atomic_block:
                raise
            # The task's own work is over; what is left must be recorded.
        except (*AWAY, *aws.ERRORS) as error:
            if connection.in_atomic_block or (isinstance(error, aws.ERRORS) and not aws.is_passing(error)):
                raise
            tries += 1
            log.warning("outcome_not_recorded_yet", error=str(error), tries=tries)
            if isinstance(error, AWAY):
                connection.close()
            with contextlib.suppress(SoftTimeLimitExceeded):
                time.sleep(random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE_SECONDS, 0.05 * 2 ** min(tries, 10)))


def transact(attempt: Current | None, work: Callable[[], Any]) -> None:
    """Do it in one transaction, which ends the attempt if there is one; in the one that is open, if there is one."""
    if connection.in_atomic_block and (attempt is None or attempt.is_ending):
        work()
        return

    def once() -> None:
        with transaction.atomic(), recording.gathering():
            work()

    if attempt is None:
        persistently(once)
        return
    attempt.is_ending = True
    try:
        persistently(once)
    finally:
        attempt.is_ending = False
    attempt.is_over = True


def end(
    run_id: str,
    report: Report,
    ended: Ended,
    follow: Callable[[], None] | None,
    *,
    attempt: Current | None,
    request: Any,
    unknown: Run | None = None,
) -> None:
    """End a run with all that follows; nothing of it where it has ended before.

    follow: called within the transaction; None: nothing follows.
    unknown: how to record a run that was never enqueued; None: do not.
    """
    succeeds = report is Report.SUCCEEDED
    enqueued_before = list(request.children) if request is not None else []

    def told() -> Ended:
        log_tail = attempt.log_tail if attempt else ""
        return replace(ended, claim=attempt.claim if attempt else None, log_tail=log_tail, children=_children(request))

    def work() -> None:
        if succeeds and attempt is not None:
            # Without those of a try that the database has taken back.
            request._children = list(enqueued_before)
            for send in attempt.successors:
                send()
        released = outcomes.finish(run_id, report, told())
        if released is None and (unknown is None or not outcomes.record_ended(unknown, report, told())):
            raise _EndedBeforeError
        if follow is not None:
            follow()
        recording.publish_after_commit(released or [])

    if attempt is not None and follow is None and _is_alone(attempt):
        claim = attempt.claim
        if persistently(lambda: outcomes.finish_at_once(claim, report, told())):
            attempt.is_over = True
            return
    try:
        transact(attempt, work)
    except _EndedBeforeError:
        if attempt is not None:
            attempt.is_over = True
        log.info("outcome_too_late", task_id=run_id, outcome=report)


def _is_alone(attempt: Current) -> bool:
    """Whether nothing but the attempt's own record belongs to its end."""
    return not attempt.successors and not connection.in_atomic_block and outcomes.is_one_statement(attempt.claim)


def _children(request: Any) -> str:
    children = request.children if request is not None else None
    return dumps([child.as_tuple() for child in children]) if children else ""


def release(attempt: Current, again: Run, ended: Ended) -> None:
    """The attempt has sent its run again: it is published anew."""

    def work() -> None:
        released = outcomes.release(attempt.claim, ended, services.sealed([again])[0])
        if released is not None:
            recording.publish_after_commit([released])
            _free_slot(attempt)

    transact(attempt, work)


def _free_slot(attempt: Current) -> None:
    """Let another run of its limit key begin, since this one is at work no longer."""
    if attempt.claim.limit_key:
        recording.publish_after_commit(parking.release(attempt.claim.limit_key))


def set_aside(attempt: Current) -> None:
    """Another signature goes on under the run's id, in the messages that the attempt has kept."""

    def work() -> None:
        ended = Ended(Outcome.REPLACED, claim=attempt.claim, log_tail=attempt.log_tail)
        if outcomes.set_aside(attempt.claim, ended):
            for call in attempt.aside_calls:
                call()
            for run in attempt.aside:
                recording.record(run)
            _free_slot(attempt)

    transact(attempt, work)


def hand_back(attempt: Current) -> None:
    """The attempt gives its message back."""
    ended = Ended(Outcome.HANDED_BACK, claim=attempt.claim, log_tail=attempt.log_tail)

    def work() -> None:
        if outcomes.hand_back(attempt.claim, ended):
            _free_slot(attempt)

    transact(attempt, work)


def failed(outcome: Outcome, error: BaseException, traceback: Any, result: str) -> Ended:
    """How an attempt ended that failed."""
    return Ended(
        outcome,
        error=attempts.describe(error),
        traceback=attempts.shortened(attempts.storable(traceback)),
        result=result,
    )
