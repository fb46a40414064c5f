"""Making, changing and deleting schedules."""

from __future__ import annotations

import copy
import datetime
import hashlib
import json
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from django_app.console import audit
from django_app.console.errors import FieldsError, RefusalError
from django_app.console.services.acting import Actor, Done
from django_app.console.services.schedule_finding import locked, target, time_of
from django_app.ledger.models import Schedule, ScheduleSource
from serverless.scheduler.errors import ScheduleError
from tasks.runtime import recording, retrying

#: What stands for no end.
NEVER = "never"
#: What people give, and what a look at a schedule is compared by.
EDITABLE = (
    *("task", "args", "kwargs", "options", "timing", "zone"),
    *("overlap", "catch_up_seconds", "jitter_minutes", "ends_at", "pause_after_failures"),
)
#: Of those, what may hold what people must not see.
WITH_SECRETS = ("args", "kwargs", "options")
#: What saving sets.
_KEPT_BY_US = ("created_at", "changed_at", "checked_until")


def told_of_deletion(schedule: Schedule) -> dict[str, str]:
    """What the audit log keeps of a schedule that is deleted."""
    names = ("task", "timing", "zone", "requested_by", "tenant")
    return {name: getattr(schedule, name) for name in names}


def version(schedule: Schedule) -> str:
    """The same as long as nobody has changed what people give."""
    told = {name: getattr(schedule, name) for name in EDITABLE if name != "ends_at"}
    ends_at = schedule.ends_at.astimezone(datetime.UTC).isoformat() if schedule.ends_at is not None else NEVER
    return hashlib.sha256(json.dumps([told, ends_at], sort_keys=True).encode()).hexdigest()[:16]


def hidden(schedule: Schedule) -> dict[str, Any]:
    """args, kwargs and options whole, with "[redacted]" in place of what people must not see."""
    args, kwargs, options = (getattr(schedule, name) for name in WITH_SECRETS)
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not isinstance(options, dict):
        # Made by other code than ours, which may skip the checks.
        return {"args": [], "kwargs": {}, "options": {}}
    positional, named = retrying.hide_secrets(args, kwargs, recording.parameters_of(schedule.task))
    return {"args": positional, "kwargs": named, "options": retrying.hide_secrets((), options, ())[1]}


# Making and changing -------------------------------------------------------------------------------------------------


def made_of(values: dict[str, Any], owner: str, tenant: str | None) -> Schedule:
    """A schedule as it would be, not yet saved or checked. Raises InvalidError."""
    schedule = Schedule(requested_by=owner, tenant=tenant or "", source=ScheduleSource.PEOPLE)
    schedule.name = values.get("name", "").strip()
    _take(schedule, values)
    return schedule


def create(actor: Actor, values: dict[str, Any]) -> Done:
    """Make a schedule that belongs to whoever makes it. Raises FieldsError, RefusalError."""
    schedule = made_of(values, actor.name, actor.access.tenant)
    if Schedule.objects.filter(name=schedule.name).exists():
        raise _taken(schedule.name)
    _save(schedule)
    return Done(f"Schedule {schedule.name} is made.", {"version": version(schedule)}, {"schedule": schedule.name})


def change(actor: Actor, name: str, values: dict[str, Any], seen: str = "") -> Done:
    """Make it what is said; what is not named stays. seen: the version that was looked at; "": whichever there is."""
    schedule = locked(actor.access, name)
    _refuse_code_owned(schedule)
    before = version(schedule)
    if seen and seen != before:
        raise RefusalError(
            "schedule",
            name,
            f"it was changed{audit.told(audit.last('change-schedule', target(name)))} after you looked at it",
            "Look at it again, then decide.",
        )
    changed = changed_by(schedule, values)
    if actor.access.tenant is not None and schedule.task != changed.task:
        raise RefusalError(
            "task",
            changed.task,
            "whoever works for one tenant may not choose the task, which could reach another one's data",
            "Ask an operator of the installation.",
            403,
        )
    if before == version(changed):
        return Done("Nothing is changed: it stands as you want it.", {}, {"schedule": name})
    _save(changed)
    detail = {"version": version(changed), "changed": sorted(values)}
    return Done(f"Schedule {name} is changed.", detail, {"schedule": name})


def changed_by(schedule: Schedule, values: dict[str, Any]) -> Schedule:
    """The schedule with what is said, where "[redacted]" keeps what stood there; not saved. Raises InvalidError."""
    changed = Schedule.objects.get(pk=schedule.pk)
    merged = dict(values)
    if any(name in values for name in WITH_SECRETS):
        merged |= with_secrets(schedule, values)
    _take(changed, merged)
    return changed


def timed(values: dict[str, Any]) -> Schedule:
    """A schedule of which no more is known than its times. Raises InvalidError where they are none."""
    schedule = Schedule(timing=values.get("timing", ""), zone=values.get("zone", "UTC"))
    try:
        _take(schedule, {"ends_at": values.get("ends_at", NEVER)})
        schedule.when  # noqa: B018 - reading it is the check
    except ScheduleError as error:
        raise FieldsError("timing", schedule.timing, {"timing": str(error)}) from error
    return schedule


def _take(schedule: Schedule, values: dict[str, Any]) -> None:
    for name in EDITABLE:
        if name in values and name not in ("ends_at", "pause_after_failures"):
            setattr(schedule, name, values[name])
    if "pause_after_failures" in values:
        schedule.pause_after_failures = values["pause_after_failures"] or None
    if "ends_at" in values:
        text = values["ends_at"]
        schedule.ends_at = None if text == NEVER else time_of("ends_at", text, schedule.zone)


def with_secrets(schedule: Schedule, values: dict[str, Any]) -> dict[str, Any]:
    """What was typed, with the old values where "[redacted]" stands. Raises FieldsError."""
    shown = hidden(schedule)
    typed = {name: values.get(name, shown[name]) for name in WITH_SECRETS}
    names = recording.parameters_of(schedule.task)
    try:
        args, kwargs = retrying.keep_secrets(
            "", names, (schedule.args, schedule.kwargs), (typed["args"], typed["kwargs"])
        )
        _, options = retrying.keep_secrets("", (), ([], schedule.options), ([], typed["options"]))
    except retrying.ArgumentsError as error:
        place = error.rule.partition(":")[0]
        field = "args" if place.startswith("args[") else "kwargs"
        raise FieldsError("schedule", schedule.name, {field: f"{error.rule}. {error.remedy}"}) from error
    return {"args": args, "kwargs": kwargs, "options": options}


def check(schedule: Schedule) -> None:
    """Raises FieldsError for what could never run, without its secrets; but not for a name that is taken."""
    shown = copy.copy(schedule)
    # What is said of arguments quotes them, and is written down.
    for name, value in hidden(schedule).items():
        setattr(shown, name, value)
    try:
        shown.full_clean(exclude=_KEPT_BY_US, validate_unique=False)
    except ValidationError as error:
        raise _told(schedule, error) from error


def _save(schedule: Schedule) -> None:
    check(schedule)
    try:
        with transaction.atomic():
            schedule.save()
    except (ValidationError, IntegrityError) as error:
        if schedule._state.adding and Schedule.objects.filter(name=schedule.name).exists():
            # Somebody else's came between the look and the write.
            raise _taken(schedule.name) from error
        if isinstance(error, ValidationError):
            raise _told(schedule, error) from error
        raise


def _told(schedule: Schedule, error: ValidationError) -> FieldsError:
    faults = {name: " ".join(texts) for name, texts in error.message_dict.items()}
    return FieldsError("schedule", schedule.name, faults)


def _taken(name: str) -> RefusalError:
    told = audit.told(audit.last("create-schedule", target(name)))
    return RefusalError(
        "name", name, f"a schedule of that name is there already{f', made{told}' if told else ''}", _OTHER
    )


_OTHER = "Choose another, or change that one."


def delete(actor: Actor, name: str) -> Done:
    """It is due no more, and EventBridge forgets it. Its runs stay."""
    schedule = locked(actor.access, name)
    _refuse_code_owned(schedule)
    detail = told_of_deletion(schedule)
    schedule.delete()
    return Done(f"Schedule {name} is deleted. Its past runs stay.", detail)


def _refuse_code_owned(schedule: Schedule) -> None:
    if schedule.source == ScheduleSource.CODE:
        raise RefusalError(
            "schedule",
            schedule.name,
            "it stands in CELERY_BEAT_SCHEDULE, and the next deploy would bring it back",
            "Change it there and deploy; here it can be paused, run and backfilled.",
        )
