"""A schedule's run, when its message has come: its rules are asked once, under the schedule's lock.

Call `admit` in the transaction that then claims the run: whoever comes at the same moment sees it begun.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from django_app.ledger import parking, services, watching
from django_app.ledger.models import Run, Schedule
from django_app.ledger.schedules import ids
from django_app.ledger.schedules.rules import Facts, Ruling, rule
from django_app.ledger.states import FINAL, Report, State, target

_SECOND = datetime.timedelta(seconds=1)


@dataclass(frozen=True)
class Admission:
    """A ruling, and why. to_end: ids of runs that are to be ended for it."""

    ruling: Ruling
    reason: str = ""
    to_end: Sequence[str] = ()


BEGIN = Admission(Ruling.BEGIN)


def locked(name: str) -> Schedule | None:
    """The schedule, which nobody else changes until the transaction ends; None where it is no more."""
    return Schedule.objects.select_for_update().filter(name=name).first()


def admit(name: str, run_id: str, now: datetime.datetime, describe: Callable[[], Run]) -> Admission:
    """Rule on a schedule's run, and record the ruling. BEGIN says that its claim decides.

    describe: makes the row of a run that comes from EventBridge and has none.
    """
    kind = ids.kind_of(run_id, name)
    if kind is None:
        return BEGIN
    schedule = locked(name)
    run = Run.objects.filter(pk=run_id).defer("message").first()
    if run is None:
        run = describe()
        if schedule is not None:
            run.expires_at = schedule.expires_at(run.scheduled_for)
        services.record_arrived(run)
    if run.state in FINAL or run.state == State.WAITING or run.attempts:
        return BEGIN
    facts = _facts(schedule, run, kind)
    ruling, reason = rule(facts)
    if ruling is Ruling.BEGIN:
        Run.objects.filter(pk=run_id, admitted_at=None).update(admitted_at=now)
        return BEGIN
    this = Run.objects.filter(pk=run_id)
    if ruling is Ruling.SKIP:
        skip(this, reason, now)
        return Admission(ruling, reason)
    to_end: list[str] = []
    if ruling is Ruling.REPLACE:
        skip(_waiting(name), "a newer run takes its place", now)
        to_end = list(_open(name).exclude(pk=run_id).values_list("pk", flat=True))
    admitted_at = run.admitted_at or now
    watching.update(
        this, state=target(Report.PARKED), parked_for=parking.OVERLAP, error=reason, admitted_at=admitted_at
    )
    return Admission(ruling, reason, to_end)


def skip(runs: QuerySet[Run], reason: str, now: datetime.datetime) -> int:
    """Record that these do not run, and why; those that have begun stay as they are."""
    unbegun = runs.filter(state__in=(State.PENDING, State.QUEUED, State.WAITING))
    return watching.update(
        unbegun, state=target(Report.SKIPPED), parked_for="", error=reason, finished_at=now, admitted_at=now
    )


def _facts(schedule: Schedule | None, run: Run, kind: ids.Kind) -> Facts:
    if schedule is None:
        return Facts(exists=False, kind=kind)
    due = run.scheduled_for
    return Facts(
        exists=True,
        kind=kind,
        scheduled_for=due,
        is_due_time=due is None or next(schedule.when.times(due - _SECOND, due), None) == due,
        changed_at=schedule.changed_at,
        arrived_at=run.created_at,
        was_admitted=run.admitted_at is not None,
        ends_at=schedule.ends_at,
        paused_by=schedule.paused_by if schedule.is_paused else None,
        pause_reason=schedule.pause_reason,
        overlap=schedule.overlap,
        catch_up=datetime.timedelta(seconds=schedule.catch_up_seconds),
        jitter=datetime.timedelta(minutes=schedule.jitter_minutes),
        open_runs=_open(schedule.name).exclude(pk=run.pk).count(),
        waiting_runs=_waiting(schedule.name).exclude(pk=run.pk).count(),
    )


def _of(name: str) -> QuerySet[Run]:
    return _runs(name).exclude(state__in=FINAL)


def _runs(name: str) -> QuerySet[Run]:
    # The index is of runs that have a schedule; SQLite has to be told that this is one.
    return Run.objects.filter(schedule=name).exclude(schedule="")


def _open(name: str) -> QuerySet[Run]:
    """Those that have begun, or may begin, and have not ended."""
    return _of(name).exclude(admitted_at=None).exclude(state=State.WAITING, parked_for=parking.OVERLAP)


def _waiting(name: str) -> QuerySet[Run]:
    return _runs(name).filter(state=State.WAITING, parked_for=parking.OVERLAP)


# When a run has ended ------------------------------------------------------------------------------------------------


def after_end(name: str, now: datetime.datetime) -> list[Run]:
    """A run of the schedule has ended: what waited for that, to be published; and enough failures pause the schedule.

    Call it in the transaction that ends the run.
    """
    schedule = locked(name)
    if schedule is not None:
        _pause_if_failing(schedule, now)
    return _release(name)


def _release(name: str) -> list[Run]:
    return [] if _open(name).exists() else parking.release_one(_waiting(name))


def release_left_behind(most: int) -> list[Run]:
    """What waits for runs that ended without releasing it: the minute's sweep."""
    names = Run.objects.filter(state=State.WAITING, parked_for=parking.OVERLAP).order_by("schedule")
    released: list[Run] = []
    for name in list(names.values_list("schedule", flat=True).distinct()[:most]):
        with transaction.atomic():
            locked(name)
            released += _release(name)
    return released


def _pause_if_failing(schedule: Schedule, now: datetime.datetime) -> None:
    most = schedule.pause_after_failures
    if most is None or schedule.is_paused:
        return
    since: dict[str, Any] = {"created_at__gte": schedule.resumed_at} if schedule.resumed_at is not None else {}
    ended = (State.SUCCEEDED, State.FAILED, State.DEAD)
    last = _runs(schedule.name).filter(state__in=ended, **since).order_by("-created_at")
    states = list(last.values_list("state", "error")[:most])
    if len(states) < most or any(state == State.SUCCEEDED for state, _ in states):
        return
    runs = f"{most} runs in a row" if most > 1 else "a run"
    reason = f"{runs} failed, the last with {states[0][1]}"
    # Workers may not speak to EventBridge: until the housekeeping has, what it sends is skipped.
    put_on_hold(schedule, "", reason, now)


def put_on_hold(schedule: Schedule, by: str, reason: str, now: datetime.datetime) -> None:
    """Record a pause. Not by save(), which would refuse to pause what has become faulty meanwhile."""
    changes = {"paused_at": now, "paused_by": by, "pause_reason": reason[:500], "changed_at": now, "synced_at": None}
    Schedule.objects.filter(pk=schedule.pk).update(**changes)
