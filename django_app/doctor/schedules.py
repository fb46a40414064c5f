"""Subject "schedules": the table's schedules against what EventBridge has."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

from celery import current_app
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from django_app.doctor.findings import Finding, error, warning
from django_app.doctor.subjects import Examination, names, span
from django_app.ledger.models import Schedule, ScheduleSource
from serverless import aws
from serverless.scheduler.errors import ScheduleError
from tasks.runtime.schedules import declared, syncing

_SYNC = "python manage.py schedules sync"
#: The minute's housekeeping tries again what saving a schedule could not bring to EventBridge.
_GRACE = datetime.timedelta(minutes=3)
#: Rows of which the names are read.
_MOST_ROWS = 200
#: More would not be compared in seconds: a list has a hundred at a time.
_MOST_COMPARED = 2000


def examine(this: Examination) -> Iterator[Finding]:
    """D120 to D124."""
    count = Schedule.objects.order_by()[: _MOST_COMPARED + 1].count()
    this.tell(f"{count} schedules" if count <= _MOST_COMPARED else f"more than {_MOST_COMPARED} schedules")
    yield from _in_code()
    if not syncing.is_on():
        if count:
            yield error(
                "D120",
                "schedules",
                f"SCHEDULE_GROUP is not set, and {count} schedules are in the table",
                "EventBridge is the clock: without a group none of them is ever due",
                f"set SCHEDULE_GROUP: terraform -chdir=infra/terraform output; then {_SYNC}",
            )
        return
    unknown = list(
        Schedule.objects.filter(synced_at=None, changed_at__lt=this.now - _GRACE).order_by("name")[:_MOST_ROWS]
    )
    for schedule in unknown:
        yield error(
            "D121",
            f'schedule "{schedule.name}"',
            f"EventBridge does not know it since {span((this.now - schedule.changed_at).total_seconds())}"
            + (f": {schedule.sync_error}" if schedule.sync_error else ""),
            "it knows a change within minutes",
            _SYNC,
        )
    yield from _late(this)
    if count <= _MOST_COMPARED:
        yield from _compared({schedule.name for schedule in unknown})
    else:
        this.tell("too many to be compared with EventBridge; python manage.py schedules sync --plan does it")


def _in_code() -> Iterator[Finding]:
    """Entries of code that the table has otherwise. What could never run is a system check's to tell."""
    app: Any = current_app
    app.loader.import_default_modules()
    # Which is when the entries of add_periodic_task are there.
    app.finalize()
    entries = {str(name): entry for name, entry in (app.conf.beat_schedule or {}).items()}
    rows = {row.name: row for row in Schedule.objects.filter(source=ScheduleSource.CODE)[:_MOST_COMPARED]}
    lacking = entries.keys() - rows.keys()
    left = rows.keys() - entries.keys()
    others = {name for name in entries.keys() & rows.keys() if _differs(rows[name], name, entries[name])}
    parts = [
        f"{what} {names(which)}"
        for what, which in (("lacks", lacking), ("has otherwise", others), ("has, but code no more,", left))
        if which
    ]
    if parts:
        yield warning(
            "D124",
            "the table of schedules",
            "; ".join(parts),
            "it has the schedules of CELERY_BEAT_SCHEDULE, and each deploy brings them to it",
            f"{_SYNC} --plan; then {_SYNC}",
        )


def _differs(row: Schedule, name: str, entry: object) -> bool:
    try:
        wanted = declared.fields_of(name, entry)
    except (ScheduleError, TypeError, ValueError):
        return False
    return any(getattr(row, key) != value for key, value in wanted.items())


def _late(this: Examination) -> Iterator[Finding]:
    """Due times of which nobody has seen to it that they have a run."""
    late = Schedule.objects.filter(next_check_at__lt=this.now - _GRACE).order_by("next_check_at")
    rows = list(late.values_list("name", "next_check_at")[:_MOST_ROWS])
    if rows and rows[0][1] is not None:
        oldest = span((this.now - rows[0][1]).total_seconds())
        yield warning(
            "D123",
            f"schedules {names(name for name, _ in rows)}",
            f"due times are not accounted for since {oldest}",
            "each due time has a run, or a row that says why not, within minutes",
            "python manage.py housekeeping",
        )


def _compared(told: set[str]) -> Iterator[Finding]:
    """told: schedules that are known not to be in step."""
    try:
        plan = syncing.plan()
    except (ScheduleError, ImproperlyConfigured, *aws.ERRORS) as problem:
        yield error(
            "D122",
            f'schedule group "{settings.SCHEDULE_GROUP}"',
            f"cannot be compared with the table: {problem}",
            "each schedule of the table is in it, as it is, and no other",
            f"python manage.py doctor --only aws; then {_SYNC}",
        )
        return
    create = {wanted.logical for _, wanted in plan.create} - told
    repair = {wanted.logical for _, wanted in plan.repair} - told
    parts = [
        f"{what} {names(which)}"
        for what, which in (("lacks", create), ("was changed by hand in", repair), ("has, of no row,", plan.delete))
        if which
    ]
    # What replaces an old version of a schedule that was told of is no finding of its own.
    if create or repair or (plan.delete and not told):
        yield warning(
            "D122",
            f'schedule group "{settings.SCHEDULE_GROUP}"',
            "; ".join(parts),
            "each schedule of the table is in it, as it is, and no other",
            f"{_SYNC} --plan; then {_SYNC}",
        )
