"""Outcomes that are reported by others than the attempt: a worker's steward, an operator, the housekeeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import current_app
from celery.app.task import Context
from django.db import transaction
from django.utils import timezone
from kombu.utils.json import loads

from django_app.ledger.claiming import Decision, Verdict
from django_app.ledger.claims import Claim
from django_app.ledger.models import Revocation, Run
from django_app.ledger.states import FINAL, Report, State
from tasks.runtime import attempts, publishing
from tasks.runtime.attempts import Current

_AT_ONCE = 500
_ERRORS = {"TimeLimitExceeded": TimeLimitExceeded, "WorkerLostError": WorkerLostError}


def finish_for_main(kind: str, request: dict[str, Any], error: dict[str, Any]) -> None:
    """An outcome that only a worker's main process saw, recorded by its steward. Safe to repeat.

    kind: "failed", "revoked", "expired", or "dead", of whose request only the id is known.
    request: of the message, as Celery's Context has it. error: type, message.
    """
    context = Context(request)
    task_id = str(context.id)
    if kind == "dead":
        run = Run.objects.filter(pk=task_id).exclude(state__in=FINAL).first()
        if run is not None:
            end_unsent(run, Report.DEAD, error["message"])
        return
    holder = request.get("holder") or ""
    if holder and Run.objects.filter(pk=task_id, state=State.RUNNING).exclude(holder=holder).exists():
        return  # another attempt has taken the run over, and speaks for itself
    backend: Any = current_app.backend
    token = attempts.current.set(_claimed_attempt(task_id, request.get("holder") or ""))
    try:
        if kind == "failed":
            failure = _ERRORS.get(error["type"], RuntimeError)(error["message"])
            backend.mark_as_failure(task_id, failure, request=context)
        else:
            report = Report.EXPIRED if kind == "expired" else Report.REVOKED
            backend.mark_as_revoked(task_id, error["message"], request=context, report=report)
    finally:
        attempts.current.reset(token)


def _claimed_attempt(run_id: str, holder: str) -> Current | None:
    """The attempt that has claimed a run and cannot speak for itself any more. holder: its name, if that is known."""
    run = Run.objects.filter(pk=run_id, state=State.RUNNING).first()
    if run is None or (holder and run.holder != holder):
        return None
    claim = Claim(
        Decision(Verdict.RUN),
        run_id=run_id,
        number=run.attempts,
        holder=run.holder,
        worker=run.worker,
        receives=run.receives,
        started_at=run.started_at,
        limit_key=run.limit_key,
        unique_key=run.unique_key,
        schedule=run.schedule,
    )
    return Current(claim, None)


def context_of(run: Run) -> Context:
    """A request as a worker would have made of the run's message: with its chord, chain and errbacks."""
    try:
        body, options = publishing.unpack(run.message)
        args, kwargs, embed = loads(body)
        headers = options["headers"]
    except (ValueError, KeyError, TypeError):
        args, kwargs, embed, headers = (), {}, {}, {}
    facts = {**headers, **(embed or {}), "id": run.pk, "task": run.task, "args": args, "kwargs": kwargs}
    return Context(facts, called_directly=False, delivery_info={"routing_key": run.queue})


def revoke_runs(ids: Sequence[str], by: str = "") -> list[str]:
    """Revoke runs: those that have not begun end at once; of those at work, a worker is told by other means.

    Ids that are unknown here are remembered for when their messages come. Returns the ids that ended.
    """
    from datetime import timedelta

    backend: Any = current_app.backend
    ended = []
    for task_id in ids:
        with transaction.atomic():
            run = Run.objects.select_for_update().filter(pk=task_id).first()
            if run is not None and run.state in FINAL:
                continue
            if run is None or run.state == State.RUNNING:
                now = timezone.now()
                Revocation.objects.get_or_create(
                    header="",
                    value=task_id,
                    defaults={"by": by, "created_at": now, "expires_at": now + timedelta(days=14)},
                )
                continue
            reason = f"revoked by {by}" if by else "revoked"
            backend.mark_as_revoked(task_id, reason, request=context_of(run))
            ended.append(task_id)
    return ended


def end_unsent(run: Run, report: Report, why: str) -> None:
    """End a run whose message is gone: discarded, dead-lettered by SQS, or older than its queue keeps messages."""
    backend: Any = current_app.backend
    if report is Report.REVOKED:
        backend.mark_as_revoked(run.pk, why, request=context_of(run))
    else:
        backend.mark_as_failure(run.pk, WorkerLostError(why), request=context_of(run), report=report)


def revoke_workflow(root_id: str, by: str = "") -> list[str]:
    """Revoke every run of a workflow that has not ended, as revoke_runs does; the ids of those that ended."""
    ended: list[str] = []
    while True:
        # What was revoked may have been about to enqueue more: look again until nothing is left but what is at work.
        waiting = Run.objects.filter(root_id=root_id).exclude(state__in=FINAL).exclude(state=State.RUNNING)
        ids = list(waiting.values_list("pk", flat=True)[:_AT_ONCE])
        if not ids:
            break
        ended += revoke_runs(ids, by)
    at_work = Run.objects.filter(root_id=root_id, state=State.RUNNING).values_list("pk", flat=True)
    return ended + revoke_runs(list(at_work), by)


def end_orphan(run: Run, why: str) -> None:
    """For the housekeeping: see end_unsent."""
    end_unsent(run, Report.DEAD, why)
