"""How runs end, or go on: one transaction each, in which everything that follows from it is recorded as well.

Whoever ends a run first has ended it. What a later report would change, it does not change, and nothing follows twice.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from django_app.ledger import parking, watching
from django_app.ledger.claiming import Decision, Verdict
from django_app.ledger.claims import Claim
from django_app.ledger.models import Attempt, Run, UniqueRun
from django_app.ledger.schedules import admission
from django_app.ledger.services import REPLACED, claimed_until
from django_app.ledger.statements import NOW, Statement
from django_app.ledger.states import FINAL, Outcome, Report, State, sources, target

_LONGEST_ERROR = 500
_LONGEST_TRACEBACK = 20_000


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    claim: the attempt's; None where the run ends without one.
    result, children: encoded; "" where none is kept.
    """

    outcome: Outcome
    claim: Claim | None = None
    error: str = ""
    traceback: str = ""
    log_tail: str = ""
    result: str = ""
    children: str = ""
    celery_state: str = ""


#: What an attempt is recorded with, in the order of _attempt_values.
_ATTEMPT = (
    *("run_id", "number", "holder", "worker", "receives", "started_at", "ended_at"),
    *("outcome", "error", "traceback", "log_tail"),
)
_CLOSE = Statement(
    f"INSERT INTO ledger_attempt ({', '.join(_ATTEMPT)}) VALUES ({', '.join(['%s'] * len(_ATTEMPT))})"  # noqa: S608 - all of it ours
)
#: What a run ends with, in the order of _end_values.
_END = ("state", "finished_at", "result", "children", "celery_state", "error", "fingerprint")
_END_HELD = f"""
    UPDATE ledger_run SET {", ".join(f"{name} = %s" for name in _END)},
        lease_until = NULL, holder = '', parked_for = '', {watching.FURTHER}
    WHERE id = %s AND holder = %s AND state IN ({", ".join(f"'{each}'" for each in sorted(State) if each not in FINAL)})
    RETURNING id, state, {watching.WATCHERS}
"""  # noqa: S608 - as above
_END_RUN = Statement(_END_HELD, **NOW)
#: Both in one, which only Postgres can.
_END_BOTH = Statement(
    f"""
    WITH ended AS ({_END_HELD}), closed AS (
        INSERT INTO ledger_attempt ({", ".join(_ATTEMPT)}) SELECT id{", %s" * (len(_ATTEMPT) - 1)} FROM ended
    )
    SELECT * FROM ended
    """,  # noqa: S608 - as above
    **NOW,
)


def is_one_statement(claim: Claim) -> bool:
    """Whether the end of such a run, if nothing follows from it, needs no transaction."""
    return connection.vendor == "postgresql" and not (claim.limit_key or claim.unique_key or claim.schedule)


def finish_at_once(claim: Claim, report: Report, ended: Ended) -> bool:
    """End a run that `is_one_statement`. False, and nothing changed, where another holds it: then call `finish`."""
    return _end_held(claim.run_id, report, claim, ended, timezone.now())


def finish(run_id: str, report: Report, ended: Ended) -> list[Run] | None:
    """End a run; the runs that its end released. None, and nothing changed, where it has ended already or is unknown.

    Call it in a transaction, and record what follows from it in the same.
    """
    now = timezone.now()
    claim = ended.claim
    if claim is not None and _end_held(run_id, report, claim, ended, now):
        return _make_room(run_id, claim, now)
    open_runs = Run.objects.filter(pk=run_id, state__in=sources(report))
    row = open_runs.select_for_update().values("holder", "worker", "attempts", "receives", "started_at").first()
    if row is None:
        return None
    fields = dict(zip(_END, _end_values(report, ended, now), strict=True))
    watching.update(open_runs, **fields, lease_until=None, holder="", parked_for="")
    if claim is not None:
        # It was taken over, and ends the run all the same.
        _close_attempt_anew(claim, ended, now)
    if row["holder"]:
        displaced = Claim(
            Decision(Verdict.RUN),
            run_id=run_id,
            number=row["attempts"],
            holder=row["holder"],
            worker=row["worker"],
            receives=row["receives"],
            started_at=row["started_at"],
        )
        by = f"attempt {claim.number}" if claim is not None else "another"
        _close_attempt(displaced, Ended(Outcome.LOST, error=f"the run was ended by {by}: {report}"), now)
    return _make_room(run_id, claim, now)


def _end_held(run_id: str, report: Report, claim: Claim, ended: Ended, now: datetime.datetime) -> bool:
    """End a run that the claim still holds, and its attempt."""
    ending = [*_end_values(report, ended, now), run_id, claim.holder]
    if connection.vendor == "postgresql":
        changed = _END_BOTH.rows([*ending, *_attempt_values(claim, ended, now)[1:]])
    elif changed := _END_RUN.rows(ending):
        _close_attempt(claim, ended, now)
    watching.tell_of(changed)
    return bool(changed)


def _end_values(report: Report, ended: Ended, now: datetime.datetime) -> list[Any]:
    kind = fingerprint(ended.error, ended.traceback) if ended.error else ""
    error = ended.error[:_LONGEST_ERROR]
    return [target(report), now, ended.result, ended.children, ended.celery_state, error, kind]


def record_ended(run: Run, report: Report, ended: Ended) -> bool:
    """Record a run that ends without having been enqueued; False where it is known already."""
    now = timezone.now()
    run.state = target(report)
    run.created_at = run.publish_claimed_until = run.finished_at = now
    run.result, run.children, run.celery_state = ended.result, ended.children, ended.celery_state
    run.error = ended.error[:_LONGEST_ERROR]
    run.fingerprint = fingerprint(ended.error, ended.traceback) if ended.error else ""
    try:
        with transaction.atomic():
            run.save(force_insert=True)
    except IntegrityError:
        return False
    return True


def _make_room(run_id: str, claim: Claim | None, now: datetime.datetime) -> list[Run]:
    if claim is not None:
        limit_key, unique_key, schedule = claim.limit_key, claim.unique_key, claim.schedule
    else:
        keys = Run.objects.filter(pk=run_id).values_list("limit_key", "unique_key", "schedule")
        limit_key, unique_key, schedule = keys.get()
    if unique_key:
        UniqueRun.objects.filter(Q(until=None) | Q(until__lte=now), key=unique_key, run_id=run_id).delete()
    released = parking.release(limit_key) if limit_key else []
    return [*released, *admission.after_end(schedule, now)] if schedule else released


def release(claim: Claim, ended: Ended, again: Run) -> Run | None:
    """An attempt has sent its run again: the run, to be published anew. None where another has taken it over.

    again: the run as the new message has it.
    """
    now = timezone.now()
    again.publish_claimed_until = claimed_until(again, now)
    moved = watching.update(
        _of_or_given_up(claim),
        state=target(Report.RELEASED),
        message=again.message,
        task=again.task,
        queue=again.queue,
        arguments=again.arguments,
        priority=again.priority,
        retries=again.retries,
        replacements=again.replacements,
        not_before=again.not_before,
        expires_at=again.expires_at,
        **_limit_of(claim, again),
        publish_claimed_until=again.publish_claimed_until,
        lease_until=None,
        holder="",
        result=ended.result,
        celery_state=ended.celery_state,
        error=ended.error[:_LONGEST_ERROR],
    )
    if not moved:
        return None
    _close_attempt_anew(claim, ended, now)
    again.state = target(Report.RELEASED)
    return again


def _limit_of(claim: Claim, again: Run) -> dict[str, Any]:
    """A retry keeps its limit, whatever key it was enqueued with; another task has its own."""
    if again.limit_key.partition(" ")[0] == claim.limit_key.partition(" ")[0]:
        return {}
    return {"limit_key": again.limit_key, "limit_at_once": again.limit_at_once}


def set_aside(claim: Claim, ended: Ended) -> bool:
    """Another signature goes on under the run's id: it waits for that one to be sent."""
    its = _of_or_given_up(claim)
    moved = watching.update(its, state=target(Report.PARKED), parked_for=REPLACED, lease_until=None, holder="")
    if moved:
        _close_attempt_anew(claim, ended, timezone.now())
    return bool(moved)


def hand_back(claim: Claim, ended: Ended) -> bool:
    """An attempt gives its message back to SQS."""
    moved = watching.update(_of(claim), state=target(Report.HANDED_BACK), lease_until=None, holder="")
    if moved:
        _close_attempt(claim, ended, timezone.now())
    return bool(moved)


def _of(claim: Claim) -> QuerySet[Run]:
    return Run.objects.filter(pk=claim.run_id, state=State.RUNNING, holder=claim.holder)


def _of_or_given_up(claim: Claim) -> QuerySet[Run]:
    """As above; and where it was given up for lost and no other has taken the run: what it sends is all there is."""
    is_given_up = Q(state=State.LOST, attempts=claim.number)
    return Run.objects.filter(Q(state=State.RUNNING, holder=claim.holder) | is_given_up, pk=claim.run_id)


def _close_attempt_anew(claim: Claim, ended: Ended, now: datetime.datetime) -> None:
    """Of an attempt that may have been told as lost."""
    Attempt.objects.filter(run_id=claim.run_id, number=claim.number).delete()
    _close_attempt(claim, ended, now)


def _close_attempt(claim: Claim, ended: Ended, now: datetime.datetime) -> None:
    _CLOSE.count(_attempt_values(claim, ended, now))


def _attempt_values(claim: Claim, ended: Ended, now: datetime.datetime) -> list[Any]:
    return [
        *(claim.run_id, claim.number, claim.holder, claim.worker, claim.receives, claim.started_at, now),
        *(ended.outcome, ended.error[:_LONGEST_ERROR], ended.traceback[-_LONGEST_TRACEBACK:], ended.log_tail),
    ]


def set_state(run_id: str, state: str, result: str) -> bool:
    """What a task says of itself by update_state(); too late for a run that has ended."""
    return bool(Run.objects.filter(pk=run_id).exclude(state__in=FINAL).update(celery_state=state, result=result))


_FRAME = re.compile(r'File "([^"]+)", line \d+, in (\S+)')


def fingerprint(error: str, traceback: str) -> str:
    """16 hexadecimal digits: the same for the same kind of error from the same place.

    Made of the error's class and the functions that it passed through; line numbers and messages shift, and count not.
    """
    frames: Sequence[tuple[str, str]] = _FRAME.findall(traceback)
    places = [f"{'/'.join(path.rsplit('/', 2)[-2:])}:{function}" for path, function in frames]
    kind = error.partition(":")[0].strip()
    return hashlib.sha256("\n".join([kind, *places]).encode()).hexdigest()[:16]
