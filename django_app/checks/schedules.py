"""Schedules whose runs could never run. What is wrong with one says tasks.runtime.schedules.checking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils import timezone

from django_app.checks.findings import Finding
from django_app.checks.project import Project
from django_app.checks.tables import is_there
from django_app.ledger.models import Schedule, ScheduleSource
from serverless.scheduler.errors import ScheduleError
from tasks.runtime.schedules import declared
from tasks.runtime.schedules.hints import nearest

#: Of people's schedules; each costs a millisecond or so.
_MOST = 2000
#: They are set when it is saved.
_NOT_YET = {"created_at", "changed_at", "checked_until"}


def in_code(project: Project) -> Iterator[Finding]:
    """E016: an entry of CELERY_BEAT_SCHEDULE that `manage.py schedules sync` will refuse."""
    entries = dict(project.app.conf.beat_schedule or {})
    for name in settings.SCHEDULE_RULES:
        if name not in entries:
            hint = nearest(name, entries, "Add the entry, or leave the rules out.")
            yield Finding("E016", "SCHEDULE_RULES", f'"{name}" is no entry of CELERY_BEAT_SCHEDULE.', hint)
    for name, entry in entries.items():
        for text in _faults(str(name), entry):
            yield Finding("E016", "CELERY_BEAT_SCHEDULE", f'schedule "{name}": {text}', "Correct the entry.")


def of_people(project: Project) -> Iterator[Finding]:
    """W017: a schedule of the table whose task this release has not, or cannot call with its arguments."""
    if not is_there(Schedule):
        return
    rows = Schedule.objects.filter(source=ScheduleSource.PEOPLE, paused_at=None).order_by("name")
    now = timezone.now()
    for row in rows[:_MOST]:
        if row.has_ended(now):
            continue
        try:
            row.clean()
        except ValidationError as error:
            yield Finding(
                "W017",
                f'schedule "{row.name}"',
                " ".join(error.messages),
                "Edit it in the console, or pause it there.",
            )


def _faults(name: str, entry: Any) -> list[str]:
    try:
        row = Schedule(name=name, source=ScheduleSource.CODE, **declared.fields_of(name, entry))
        row.clean_fields(exclude=_NOT_YET)
        row.clean()
    except ValidationError as error:
        return list(error.messages)
    except (ScheduleError, TypeError, KeyError, ValueError) as error:
        return [str(error)]
    return []
