"""The form of a schedule: what is typed, what is wrong with it beside each field, and what it would mean."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from django_app.console import doing, schedule_queries
from django_app.console.doing import Action, Field
from django_app.console.errors import FieldsError, InvalidError, RefusalError
from django_app.console.schedule_actions import DEFINITION
from django_app.console.services import schedules
from django_app.ledger.models import Schedule

#: What an empty box means, where that is something.
_EMPTY: dict[str, Any] = {"ends_at": schedules.NEVER, "pause_after_failures": 0}
_MINUTES = "%Y-%m-%dT%H:%M"
#: What a new one begins with.
BLANK: dict[str, str] = {
    "name": "",
    "task": "",
    "args": "[]",
    "kwargs": "{}",
    "options": "{}",
    "timing": "",
    "zone": "UTC",
    "overlap": "skip",
    "catch_up_seconds": "3600",
    "jitter_minutes": "0",
    "ends_at": "",
    "pause_after_failures": "",
}


@dataclass(frozen=True)
class Preview:
    """What a schedule would mean. words, times: "" and none where it makes no sense."""

    words: str = ""
    zone: str = "UTC"
    times: list[datetime.datetime] = field(default_factory=list)


@dataclass(frozen=True)
class Form:
    """typed: by field, as it is shown again. faults: by field. values: as JSON has them, without what is at fault."""

    typed: Mapping[str, str]
    values: Mapping[str, Any] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)


def of(schedule: Schedule) -> Form:
    """With what stands there, secrets left out."""
    typed = {name: str(getattr(schedule, name)) for name in DEFINITION}
    typed |= {
        name: json.dumps(value, indent=2, ensure_ascii=False) for name, value in schedules.hidden(schedule).items()
    }
    typed["name"] = schedule.name
    typed["ends_at"] = _local(schedule.ends_at, schedule.zone)
    typed["pause_after_failures"] = str(schedule.pause_after_failures or "")
    return Form(typed)


def _local(time: datetime.datetime | None, zone: str) -> str:
    """As the browser's field for a time takes it."""
    if time is None:
        return ""
    try:
        local = time.astimezone(ZoneInfo(zone))
    except (ValueError, KeyError, OSError):
        return time.isoformat()
    # A field of minutes would cut seconds off whenever the form is sent.
    return (
        local.strftime(_MINUTES)
        if not local.second and not local.microsecond
        else local.replace(tzinfo=None).isoformat()
    )


def read(action: Action, form: Mapping[str, Any]) -> Form:
    """What was typed into a page's form; each field by itself."""
    typed = {name: form.get(name, BLANK[name]) for name in BLANK}
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for name, each in action.fields.items():
        if name not in BLANK:
            continue
        try:
            values[name] = _value(name, each, typed)
        except InvalidError as error:
            faults[name] = str(error)
    return Form(typed, values, faults)


def _value(name: str, each: Field, typed: Mapping[str, str]) -> Any:
    if not typed[name].strip():
        if name not in _EMPTY:
            raise InvalidError(name, "", f"it is needed: {each.about}", "Fill it in.")
        return _EMPTY[name]
    return doing.value_of(name, each, doing.read_field(name, each, typed))


def with_faults(form: Form, error: RefusalError) -> Form:
    """The same with what was found wrong with it; errors that are of no field stay for the page's head."""
    found = error.faults if isinstance(error, FieldsError) else {error.thing: str(error)}
    return Form(form.typed, form.values, {**form.faults, **found})


def checked(form: Form, schedule: Schedule) -> tuple[Form, Preview]:
    """The form with all that is wrong with the schedule that it makes, and what that would mean. Nothing is saved."""
    try:
        schedules.check(schedule)
    except InvalidError as error:
        # What was not taken over is told already.
        form = Form(form.typed, form.values, {**with_faults(form, error).faults, **form.faults})
    if {"timing", "zone", "ends_at"} & set(form.faults):
        return form, Preview()
    return form, preview(schedule)


def preview(schedule: Schedule, now: datetime.datetime | None = None) -> Preview:
    now = now or datetime.datetime.now(datetime.UTC)
    times = schedule_queries.next_due(schedule, now)
    return Preview(schedule_queries.in_words(schedule), schedule.zone, times)
