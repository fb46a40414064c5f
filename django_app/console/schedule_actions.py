"""What people can do with schedules: part of the table of actions."""

from __future__ import annotations

from typing import Any

from django_app.console.doing import Action, Field
from django_app.console.roles import Role
from django_app.console.services import schedule_runs, schedules
from django_app.console.services.acting import Actor, Done
from django_app.console.services.schedule_finding import target
from django_app.ledger.models import Overlap
from django_app.ledger.models.schedules import LONGEST_NAME
from serverless.scheduler.timing import LONGEST_TEXT
from tasks.runtime.schedules import MOST_TIMES

_SCHEDULE = Field("the schedule's name", required=True, longest=LONGEST_NAME)
_TOKEN = Field("letters and digits; who sends the same one again asks for the same, and not for more", longest=32)
#: What people give of a schedule, beside its name.
DEFINITION: dict[str, Field] = {
    "task": Field("the name of a task of this release"),
    "args": Field("its positional arguments", "list", longest=120_000),
    "kwargs": Field("its keyword arguments", "object", longest=120_000),
    "options": Field("of apply_async: queue, priority, expires and the like", "object", longest=20_000),
    "timing": Field('"0 8 * * mon" as in a crontab, or "every 90 minutes"', longest=LONGEST_TEXT),
    "zone": Field('the time zone of its times, such as "Europe/Berlin"', longest=64),
    "overlap": Field("what becomes of a due run while an earlier one has not ended", choices=tuple(Overlap.values)),
    "catch_up_seconds": Field("a run that comes later than this after its due time is skipped", "number"),
    "jitter_minutes": Field("it begins at some moment within so many minutes after its due time", "number"),
    "ends_at": Field(f'its last moment, ISO 8601, in its zone if none is named; "{schedules.NEVER}"', longest=40),
    "pause_after_failures": Field("so many failures in a row pause it; 0: none do", "number"),
}
_REQUIRED = {
    name: Field(DEFINITION[name].about, required=True, longest=DEFINITION[name].longest) for name in ("task", "timing")
}
_RANGE = "ISO 8601, in the schedule's zone if none is named"


def _change(actor: Actor, values: dict[str, Any]) -> Done:
    given = {name: value for name, value in values.items() if name in DEFINITION}
    return schedules.change(actor, values["schedule"], given, values.get("seen", ""))


def _target(values: dict[str, Any]) -> str:
    return target(values["schedule"])


SCHEDULE_ACTIONS: tuple[Action, ...] = (
    Action(
        "create-schedule",
        "Have a task run at certain times. It belongs to whoever makes it.",
        Role.OPERATOR,
        {"name": Field("part of its runs' ids", required=True, longest=LONGEST_NAME), **DEFINITION, **_REQUIRED},
        schedules.create,
        lambda values: target(values["name"]),
        # A task may reach any tenant's data, so those who work for one tenant make no schedules.
        of="installation",
    ),
    Action(
        "change-schedule",
        "Change a schedule of people; what is left out stays as it is.",
        Role.OPERATOR,
        {
            "schedule": _SCHEDULE,
            **DEFINITION,
            "seen": Field("the version that was looked at; if it is another by now, nothing is done", longest=16),
        },
        _change,
        _target,
        of="schedule",
    ),
    Action(
        "delete-schedule",
        "Delete a schedule of people. Its runs stay.",
        Role.OPERATOR,
        {"schedule": _SCHEDULE},
        lambda actor, values: schedules.delete(actor, values["schedule"]),
        _target,
        of="schedule",
    ),
    Action(
        "pause-schedule",
        "Let a schedule be due no more. What is at work goes on; what would have been due is recorded as skipped.",
        Role.OPERATOR,
        {"schedule": _SCHEDULE, "reason": Field("why, for others to read", longest=500)},
        lambda actor, values: schedule_runs.pause(actor, values["schedule"], values.get("reason", "")),
        _target,
        of="schedule",
    ),
    Action(
        "resume-schedule",
        "End a schedule's pause. What was due meanwhile is not made up for: backfill does that.",
        Role.OPERATOR,
        {
            "schedule": _SCHEDULE,
            "seen": Field("when the pause that was seen began; if it is another by now, nothing is done", longest=40),
        },
        lambda actor, values: schedule_runs.resume(actor, values["schedule"], values.get("seen", "")),
        _target,
        of="schedule",
    ),
    Action(
        "run-schedule",
        "Run a schedule's task once, now, whatever its timing or a pause says.",
        Role.OPERATOR,
        {"schedule": _SCHEDULE, "token": _TOKEN},
        lambda actor, values: schedule_runs.run(actor, values["schedule"], values.get("token", "")),
        _target,
        of="schedule",
    ),
    Action(
        "backfill-schedule",
        f"Run it for each due time of a past range, both ends included, {MOST_TIMES} at most.",
        Role.OPERATOR,
        {
            "schedule": _SCHEDULE,
            "since": Field(_RANGE, required=True, longest=40),
            "until": Field(_RANGE, required=True, longest=40),
            "token": _TOKEN,
        },
        lambda actor, values: schedule_runs.backfill(
            actor, values["schedule"], values["since"], values["until"], values.get("token", "")
        ),
        _target,
        of="schedule",
    ),
    Action(
        "sync-schedule",
        "Tell EventBridge once more how a schedule stands.",
        Role.OPERATOR,
        {"schedule": _SCHEDULE},
        lambda actor, values: schedule_runs.sync(actor, values["schedule"]),
        _target,
        of="schedule",
        is_atomic=False,
    ),
)
