"""The schedules that stand in code: CELERY_BEAT_SCHEDULE and `add_periodic_task`, with SCHEDULE_RULES beside them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery import current_app
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction

from django_app.ledger.models import Schedule, ScheduleSource
from serverless.scheduler import timing
from serverless.scheduler.errors import ScheduleError
from tasks.runtime.schedules.hints import nearest
from tasks.runtime.schedules.messages import as_json

_ENTRY = frozenset({"task", "schedule", "args", "kwargs", "options", "relative"})
#: A rule, and the model's field.
_RULES = {
    "timezone": "zone",
    "overlap": "overlap",
    "catch_up_seconds": "catch_up_seconds",
    "jitter_minutes": "jitter_minutes",
    "ends_at": "ends_at",
    "pause_after_failures": "pause_after_failures",
}


class DeclaredError(ScheduleError):
    """Schedules in code that cannot be had. faults: by name."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        self.faults = dict(faults)
        told = "\n".join(f"  {fault}" for fault in faults.values())
        super().__init__(f"{len(faults)} schedules in CELERY_BEAT_SCHEDULE cannot be had; nothing was changed:\n{told}")


@dataclass
class Loaded:
    """What was done to the table, by name."""

    created: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    unchanged: int = 0


class _UndoneError(Exception):
    """Nothing was to be done, only told."""


def load(*, is_rehearsal: bool = False) -> Loaded:
    """Bring the table's code-owned rows to what stands in code, all of them or none. Raises DeclaredError.

    A pause stays as it is: people pause, code does not. is_rehearsal: only tell what would be done.
    """
    try:
        with transaction.atomic():
            loaded = _load()
            if is_rehearsal:
                raise _UndoneError
    except _UndoneError:
        pass
    return loaded


def _load() -> Loaded:
    loaded, faults = Loaded(), {}
    rows = {row.name: row for row in Schedule.objects.select_for_update().filter(source=ScheduleSource.CODE)}
    app: Any = current_app
    app.loader.import_default_modules()
    # Which is when the entries of add_periodic_task are there.
    app.finalize()
    entries = dict(app.conf.beat_schedule or {})
    for name in settings.SCHEDULE_RULES:
        if name not in entries:
            hint = nearest(name, entries, "Add the entry, or leave the rules out.")
            faults[name] = f'SCHEDULE_RULES: "{name}" is no entry of CELERY_BEAT_SCHEDULE. {hint}'
    for name, entry in entries.items():
        try:
            wanted = fields_of(str(name), entry)
            row = rows.pop(str(name), None)
            if row is None:
                Schedule(name=str(name), source=ScheduleSource.CODE, **wanted).save()
                loaded.created.append(str(name))
            elif any(getattr(row, key) != value for key, value in wanted.items()):
                for key, value in wanted.items():
                    setattr(row, key, value)
                row.save()
                loaded.changed.append(str(name))
            else:
                loaded.unchanged += 1
        except ValidationError as error:
            faults[str(name)] = f'schedule "{name}": {"; ".join(error.messages)}'
        except (ScheduleError, TypeError, KeyError, ValueError) as error:
            faults[str(name)] = f'schedule "{name}": {error}'
    if faults:
        raise DeclaredError(faults)
    for name, row in rows.items():
        row.delete()
        loaded.deleted.append(name)
    return loaded


def fields_of(name: str, entry: Any) -> dict[str, Any]:
    """The model's fields of one entry. Raises ScheduleError."""
    if not isinstance(entry, Mapping):
        raise ScheduleError(f"{entry!r} is no entry. Write a dict with task and schedule.")
    _know(entry, _ENTRY, "an entry")
    for key in ("task", "schedule"):
        if entry.get(key) is None:
            raise ScheduleError(f'it has no "{key}". Every entry needs one.')
    rules = settings.SCHEDULE_RULES.get(name, {})
    _know(rules, frozenset(_RULES), "its rules")
    when = timing.of(entry["schedule"], rules.get("timezone") or str(current_app.conf.timezone or "UTC"))
    ends_at = rules.get("ends_at")
    if ends_at is not None and (not isinstance(ends_at, datetime.datetime) or ends_at.tzinfo is None):
        raise ScheduleError(f"ends_at={ends_at!r} is no datetime with a time zone. Give one.")
    blank = Schedule()
    defaults = {name: getattr(blank, name) for name in _RULES.values() if name != "zone"}
    given = {_RULES[key]: value for key, value in rules.items() if key != "timezone"}
    options = dict(entry.get("options") or {})
    return {
        "task": str(entry["task"]),
        "args": as_json(list(entry.get("args") or ())),
        "kwargs": as_json(dict(entry.get("kwargs") or {})),
        "options": as_json(options),
        "timing": when.text,
        "zone": when.zone,
        **defaults,
        **given,
    }


def _know(given: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise ScheduleError(f'"{key}" is no key of {where}. {nearest(key, known)}')
