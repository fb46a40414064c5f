"""What the console reads of schedules: bounded, as its other queries are.

A list goes by name. With a condition, or for somebody who does not see all, a page looks through LOOKED_THROUGH of
them, shows what fits, and goes on from there.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from django.db.models import OuterRef, Q, QuerySet, Subquery

from django_app.console.access import Access, visible_runs
from django_app.console.errors import InvalidError
from django_app.console.filters import nearest
from django_app.console.queries import LISTED, PAGE
from django_app.ledger.models import Run, Schedule
from django_app.ledger.models.schedules import LONGEST_NAME
from django_app.ledger.schedules import ids
from serverless.scheduler.errors import ScheduleError
from serverless.scheduler.words import words

#: Schedules that one page looks through.
LOOKED_THROUGH = 10_000
#: Due times that are shown, runs of the sparkline, runs of the table.
NEXT, LINE, TABLE = 5, 50, 20
_LONGEST_SEARCH = 100
PARAMETERS = ("state", "q")


class Standing(StrEnum):
    """How a schedule is, in a word."""

    ON = "on"
    PAUSED = "paused"
    ENDED = "ended"
    UNSYNCED = "unsynced"  # EventBridge does not have it as it stands here


@dataclass(frozen=True)
class Asked:
    """What a list of schedules shows. q: stands in the name or the task."""

    state: Standing | None = None
    q: str = ""
    after: str = ""


def read(parameters: Mapping[str, str]) -> Asked:
    """From a query string. Raises InvalidError."""
    state, q, after = (parameters.get(name, "").strip() for name in ("state", "q", "cursor"))
    if state and state not in list(Standing):
        raise InvalidError("state", state, "no schedule has such a state", nearest(state, list(Standing)))
    for name, text, longest in (("q", q, _LONGEST_SEARCH), ("cursor", after, LONGEST_NAME)):
        if len(text) > longest:
            raise InvalidError(
                name, text[:40], f"it has {len(text)} characters, and {longest} are allowed", "Shorten it."
            )
        if "\x00" in text:
            raise InvalidError(name, text.replace("\x00", "\\0"), "it holds a NUL character", "Leave that out.")
    return Asked(Standing(state) if state else None, q, after)


@dataclass(frozen=True)
class Row:
    """A schedule with what a list says of it. words: its timing; "" where it cannot be read. last: its newest run."""

    schedule: Schedule
    words: str
    next_due: datetime.datetime | None
    last: Run | None

    @property
    def is_ended(self) -> bool:
        return not self.schedule.is_paused and self.next_due is None


@dataclass(frozen=True)
class Page:
    """after: the name behind which the next page begins; "": this was the last. is_cut: not all were looked through."""

    rows: list[Row]
    after: str = ""
    is_cut: bool = False


def find(access: Access, asked: Asked, now: datetime.datetime, most: int = PAGE) -> Page:
    """The schedules that a person may see and asks for, by name."""
    scope = access.scope
    if scope is None:
        return Page([])
    schedules = Schedule.objects.filter(name__gt=asked.after).order_by("name")
    bound: str | None = None
    if scope or asked.state is not None or asked.q:
        bound = schedules.values_list("name", flat=True)[LOOKED_THROUGH - 1 : LOOKED_THROUGH].first()
        if bound is not None:
            schedules = schedules.filter(name__lte=bound)
    schedules = in_state(schedules.filter(**scope), asked.state, now)
    if asked.q:
        schedules = schedules.filter(Q(name__icontains=asked.q) | Q(task__icontains=asked.q))
    found = list(schedules[: most + 1])
    more = len(found) > most
    rows = _rows(access, found[:most], now)
    if more:
        return Page(rows, rows[-1].schedule.name)
    return Page(rows, bound or "", is_cut=bound is not None)


def in_state(schedules: QuerySet[Schedule], state: Standing | None, now: datetime.datetime) -> QuerySet[Schedule]:
    """Those that stand so; None: all."""
    over = Q(ends_at__lte=now)
    match state:
        case Standing.ON:
            return schedules.filter(~over | Q(ends_at=None), paused_at=None)
        case Standing.PAUSED:
            return schedules.filter(paused_at__isnull=False)
        case Standing.ENDED:
            return schedules.filter(over, paused_at=None)
        case Standing.UNSYNCED:
            return schedules.filter(synced_at=None)
        case None:
            return schedules


def row_of(access: Access, schedule: Schedule, now: datetime.datetime) -> Row:
    return _rows(access, [schedule], now)[0]


def _rows(access: Access, found: list[Schedule], now: datetime.datetime) -> list[Row]:
    newest = _runs_of(OuterRef("name")).values("pk")[:1]
    names = [schedule.name for schedule in found]
    last = dict(Schedule.objects.filter(name__in=names).values_list("name", Subquery(newest)))
    # The newest is looked at, and shown to those who may see it: older ones are not looked for in its place.
    wanted = [run_id for run_id in last.values() if run_id]
    seen = {run.pk: run for run in visible_runs(access).filter(pk__in=wanted).only(*LISTED)}
    return [
        Row(
            schedule,
            in_words(schedule),
            next(iter(next_due(schedule, now, 1)), None),
            seen.get(last.get(schedule.name) or ""),
        )
        for schedule in found
    ]


def _runs_of(name: str | OuterRef) -> QuerySet[Run]:
    """Newest first."""
    # The index leaves out runs of no schedule: without being told, a database does not see that it serves here.
    return Run.objects.filter(schedule=name).exclude(schedule="").order_by("-created_at")


def in_words(schedule: Schedule) -> str:
    """Its timing; as it is written where this machine cannot read it."""
    try:
        return words(schedule.when)
    except ScheduleError:
        return schedule.timing


def next_due(schedule: Schedule, now: datetime.datetime, count: int = NEXT) -> list[datetime.datetime]:
    try:
        return schedule.next_due(now, count)
    except ScheduleError:
        return []


# One schedule --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """One of a schedule's runs. kind: "due", "now" or "backfill"; "retry" for one that is linked to it only."""

    run: Run
    kind: str
    seconds: float | None

    @property
    def began_late(self) -> float | None:
        """Seconds from its due time to its beginning."""
        if self.run.scheduled_for is None or self.run.started_at is None or self.kind != ids.Kind.DUE:
            return None
        return max(0.0, (self.run.started_at - self.run.scheduled_for).total_seconds())


@dataclass(frozen=True)
class History:
    """runs: the newest LINE, newest first. counts: by state."""

    runs: list[Ran] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(each.run.state for each in self.runs))


def history(access: Access, schedule: Schedule) -> History:
    """What became of its runs, those that the person may see among the newest."""
    scope = access.scope
    if scope is None:
        return History()
    fields = (*LISTED, "schedule", "scheduled_for", "admitted_at")
    newest = _runs_of(schedule.name).only(*fields)[:LINE]
    seen = [run for run in newest if all(getattr(run, name) == value for name, value in scope.items())]
    return History([Ran(run, ids.kind_of(run.pk, schedule.name) or "retry", _seconds(run)) for run in seen])


def _seconds(run: Run) -> float | None:
    if run.started_at is None or run.finished_at is None:
        return None
    return max(0.0, (run.finished_at - run.started_at).total_seconds())
