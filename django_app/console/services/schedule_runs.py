"""Pausing and running schedules, and bringing them to EventBridge."""

from __future__ import annotations

import datetime
import uuid

from django_app.console import audit
from django_app.console.access import visible_schedules
from django_app.console.errors import InvalidError, RefusalError
from django_app.console.models import AuditEntry
from django_app.console.services.acting import Actor, Done
from django_app.console.services.schedule_finding import gone, locked, moment, target, time_of
from django_app.ledger.models import Run, Schedule
from django_app.ledger.schedules import ids
from django_app.ledger.schedules import services as scheduling
from serverless.scheduler.errors import ScheduleError
from tasks.runtime import schedules as runtime

# Pausing -------------------------------------------------------------------------------------------------------------


def pause(actor: Actor, name: str, reason: str) -> Done:
    """Nothing is due any more. What is at work goes on."""
    schedule = locked(actor.access, name)
    if not scheduling.pause(schedule, actor.name, reason):
        schedule.refresh_from_db()
        raise RefusalError(
            "schedule", name, f"it is already paused{_paused(schedule)}", "Resume it first to pause it anew."
        )
    return Done(f"Schedule {name} is not due any more until it is resumed.", {"reason": reason})


def resume(actor: Actor, name: str, seen: str = "") -> Done:
    """End a pause. seen: when the pause that was looked at began, as ISO 8601; "": whichever there is."""
    schedule = locked(actor.access, name)
    if schedule.paused_at is not None and seen and moment("seen", seen) != schedule.paused_at:
        raise RefusalError(
            "schedule",
            name,
            f"the pause that you looked at is over, and it is paused anew{_paused(schedule)}",
            "Look again, then decide.",
        )
    detail = {"paused_by": schedule.paused_by, "reason": schedule.pause_reason}
    if not scheduling.resume(schedule, actor.name):
        entry = audit.last("resume-schedule", target(name))
        rule = f"it was already resumed{audit.told(entry)}" if entry is not None else "it is not paused"
        raise RefusalError("schedule", name, rule, "Look at it again.")
    return Done(f"Schedule {name} is due again. What was due meanwhile can be backfilled.", detail)


def _paused(schedule: Schedule) -> str:
    if schedule.paused_at is None:
        return ""
    whom = f" by {schedule.paused_by}" if schedule.paused_by else ""
    why = f" ({schedule.pause_reason})" if schedule.pause_reason else ""
    return f"{whom} since {schedule.paused_at:%Y-%m-%d %H:%M:%S} UTC{why}"


# Running -------------------------------------------------------------------------------------------------------------


def run(actor: Actor, name: str, token: str = "") -> Done:
    """Run it once, whatever the clock says. token: letters and digits; the same one asks for the same run."""
    schedule = locked(actor.access, name)
    token = token or uuid.uuid4().hex
    entry = _asked_before("run-schedule", name, token)
    run_id = ids.now(name, token)
    if entry is not None and Run.objects.filter(pk=run_id).exists():
        raise RefusalError("schedule", name, f"this was already asked for{audit.told(entry)}: run {run_id}", _SEEN)
    try:
        run_id = runtime.run_now(schedule, actor.name, token)
    except ScheduleError as error:
        raise InvalidError("schedule", name, str(error).rstrip("."), "Correct that.") from error
    return Done("It runs now, as this run.", {"run": run_id, "asked": token}, {"run": run_id}, run_id)


_SEEN = "Look at its history."


def backfill(actor: Actor, name: str, since: str, until: str, token: str = "") -> Done:
    """Run it for each due time of a past range. since, until: in its zone where they name none; both included."""
    schedule = locked(actor.access, name)
    token = token or uuid.uuid4().hex
    entry = _asked_before("backfill-schedule", name, token)
    if entry is not None:
        raise RefusalError("schedule", name, f"this backfill was already begun{audit.told(entry)}", _SEEN)
    first, last = (time_of(field, text, schedule.zone) for field, text in (("since", since), ("until", until)))
    try:
        made = runtime.backfill(schedule, first, last, actor.name, token)
    except ScheduleError as error:
        raise _no_backfill(error) from error
    told = "1 due time is" if len(made) == 1 else f"{len(made)} due times are"
    detail = {"since": first.isoformat(), "until": last.isoformat(), "runs": len(made), "asked": token}
    return Done(f"{told} made up for.", detail, {"runs": made})


def due_times(schedule: Schedule, since: str, until: str) -> list[datetime.datetime]:
    """What a backfill would make up for. Raises InvalidError."""
    first, last = (time_of(field, text, schedule.zone) for field, text in (("since", since), ("until", until)))
    try:
        return runtime.due_times(schedule, first, last)
    except ScheduleError as error:
        raise _no_backfill(error) from error


def _no_backfill(error: ScheduleError) -> InvalidError:
    rule, _, remedy = str(error).partition(". ")
    thing, _, rest = rule.partition(": ")
    return InvalidError("backfill", thing, rest or rule, remedy or "Take another range.")


def _asked_before(action: str, name: str, token: str) -> AuditEntry | None:
    entry = audit.last(action, target(name))
    return entry if entry is not None and entry.detail.get("asked") == token else None


def sync(actor: Actor, name: str) -> Done:
    """Tell EventBridge once more. It takes part in no transaction."""
    if not visible_schedules(actor.access).filter(name=name).exists():
        raise gone(actor.access, name)
    runtime.synchronise(name)
    schedule = Schedule.objects.filter(name=name).first()
    if schedule is None:
        raise gone(actor.access, name)
    if schedule.synced_at is None:
        rule = f"EventBridge does not have it: {schedule.sync_error.rstrip('. ')}"
        raise RefusalError("schedule", name, rule, "Correct that, and try again; housekeeping does so as well.", 502)
    return Done(f"EventBridge has schedule {name} as it stands here.")
