"""Revoking and retrying runs."""

from __future__ import annotations

from typing import Any

from celery import current_app

from django_app.console import audit, queries, shown
from django_app.console.errors import RefusalError
from django_app.console.filters import Cursor
from django_app.console.services.acting import Actor, Done, locked_run
from django_app.ledger import requester
from django_app.ledger.models import Revocation, Run
from django_app.ledger.states import FINAL, State
from tasks.runtime import retrying

#: Runs that one "retry all" retries.
MOST_AT_ONCE = 100
#: Runs of one fingerprint that it looks through for those that have not been retried.
_MOST_LOOKED_AT = 5000


def revoke(actor: Actor, run_id: str, *, terminate: bool = False, seen: str = "") -> Done:
    """End a run that has not begun; have one at work not begun again or, with terminate, ended.

    seen: the state that the run was in when it was looked at; "": whichever it is in now.
    """
    run = locked_run(actor.access, run_id)
    if run.state in FINAL:
        raise RefusalError("run", run_id, _how_it_ended(run), "Nothing is left to revoke.")
    if seen and seen != run.state:
        raise RefusalError(
            "run", run_id, f"it was {seen} when you looked, and is {run.state} by now", "Look at it again, then decide."
        )
    if run.state == State.RUNNING:
        _refuse_twice(run, terminate=terminate)
    with requester.asking(actor.name, requester.current().tenant):
        current_app.control.revoke(run_id, terminate=terminate)
    run.refresh_from_db(fields=["state"])
    if run.state == State.REVOKED:
        message = "The run is revoked."
    elif terminate:
        message = "Its worker is told to end it; its state says when that is done."
    else:
        message = "It is at work and goes on to its end; it will not be begun again."
    return Done(message, {"terminate": terminate}, {"state": run.state}, run_id)


def _how_it_ended(run: Run) -> str:
    if run.state == State.REVOKED:
        entry = audit.last("revoke", f"run {run.pk}")
        return (
            f"it was already revoked{audit.told(entry)}"
            if entry is not None
            else f"it was already revoked ({run.error})"
        )
    at = f" at {run.finished_at:%Y-%m-%d %H:%M:%S} UTC" if run.finished_at is not None else ""
    return f"it has ended already: {run.state}{at}"


def _refuse_twice(run: Run, *, terminate: bool) -> None:
    """Raise RefusalError where somebody has asked for the same during this attempt."""
    entry = audit.last("revoke", f"run {run.pk}", since=run.started_at)
    if terminate:
        if entry is not None and entry.detail.get("terminate"):
            raise RefusalError(
                "run",
                run.pk,
                f"its worker was already told to end it{audit.told(entry)}",
                "Wait a moment, then look again.",
            )
        return
    revocation = Revocation.objects.filter(header="", value=run.pk).first()
    if revocation is not None:
        who = f" by {revocation.by}" if revocation.by else ""
        raise RefusalError(
            "run",
            run.pk,
            f"it was already revoked{who} at {revocation.created_at:%Y-%m-%d %H:%M:%S} UTC, and is still at work",
            "Wait for its end, or terminate it.",
        )


def retry(actor: Actor, run_id: str, args: Any = None, kwargs: Any = None) -> Done:
    """Run it once more, see tasks.runtime.retrying. args, kwargs: None: as they were."""
    run = locked_run(actor.access, run_id)
    is_edited = args is not None or kwargs is not None
    try:
        again = retrying.retry(run, actor.name, args, kwargs)
    except retrying.RetryError as error:
        raise refusal(error) from error
    detail: dict[str, Any] = {"as": again.pk, "edited": is_edited}
    if is_edited:
        detail["arguments"] = shown.parsed_arguments(again)
    return Done("It runs again, as this new run.", detail, {"run": again.pk}, again.pk)


def refusal(error: retrying.RetryError) -> RefusalError:
    status = 400 if isinstance(error, retrying.ArgumentsError) else 409
    return RefusalError("run", error.run_id, error.rule, error.remedy, status)


def retry_failures(actor: Actor, fingerprint: str) -> Done:
    """Run once more what failed with this fingerprint and was not retried yet: the newest MOST_AT_ONCE of them.

    All in one transaction, which is the caller's: whoever does the same meanwhile is told that all were retried.
    """
    chosen, retried_before, is_last = _not_retried(actor, fingerprint)
    retried: dict[str, str] = {}
    refused: dict[str, str] = {}
    # In one order, so that two of these never wait for each other.
    for run_id in sorted(chosen):
        try:
            retried[run_id] = retrying.retry(Run(pk=run_id), actor.name).pk
        except retrying.AlreadyRetriedError:
            retried_before += 1
        except retrying.RetryError as error:
            refused[run_id] = str(error)
    if not retried and not refused:
        entry = audit.last("retry-failures", f"failures {fingerprint}")
        rule = f"all {retried_before} were already retried{audit.told(entry)}" if retried_before else "no run has it"
        raise RefusalError("fingerprint", fingerprint, rule, "Look at the list again.")
    message = f"{len(retried)} runs run again."
    if refused:
        message += f" {len(refused)} cannot: {next(iter(refused.values()))}"
    if not is_last:
        message += " There are more: retry the group again."
    return Done(
        message,
        {"retried": retried, "refused": refused, "retried_before": retried_before},
        {"retried": retried, "refused": refused, "is_last": is_last},
    )


def _not_retried(actor: Actor, fingerprint: str) -> tuple[list[str], int, bool]:
    """(ids, how many were passed over because they were retried, whether there are no others)."""
    found: list[str] = []
    passed, looked_at = 0, 0
    after: Cursor | None = None
    while looked_at < _MOST_LOOKED_AT:
        ids, after = queries.failed_ids(actor.access, fingerprint, after, MOST_AT_ONCE * 5)
        looked_at += MOST_AT_ONCE * 5
        retry_ids = {retrying.retry_id(run_id): run_id for run_id in ids}
        retried = {retry_ids[pk] for pk in Run.objects.filter(pk__in=list(retry_ids)).values_list("pk", flat=True)}
        passed += len(retried)
        found += [run_id for run_id in ids if run_id not in retried]
        if len(found) > MOST_AT_ONCE or after is None:
            break
    return found[:MOST_AT_ONCE], passed, len(found) <= MOST_AT_ONCE and after is None
