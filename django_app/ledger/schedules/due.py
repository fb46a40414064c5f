"""Accounting for due times: each has a run that says what became of it, whether EventBridge fired or not.

The minute's housekeeping looks at due times that are some minutes past. One without a run was missed: inside the
schedule's catch-up window it is run now, under the id that EventBridge would have given it; else it is recorded as
skipped. So whatever comes after all finds its run there.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import structlog
from django.conf import settings
from django.db import transaction
from django.utils.module_loading import import_string

from django_app.ledger import services
from django_app.ledger.models import Run, Schedule
from django_app.ledger.schedules import ids
from django_app.ledger.schedules.admission import locked
from django_app.ledger.schedules.rules import LATE_AFTER, missed, paused
from serverless.scheduler.errors import ScheduleError

log = structlog.get_logger(__name__)

#: Due times of one schedule that one round looks at: more than a day of minutes.
_MOST_TIMES = 2000
#: Of a pause that ends, see account_for_pause: whoever ends it waits for them.
_MOST_AT_ONCE = 10_000


@dataclass
class Accounted:
    """What one round found: times that were run late, and times that were skipped."""

    caught_up: int = 0
    skipped: int = 0

    def __iadd__(self, other: Accounted) -> Accounted:
        self.caught_up += other.caught_up
        self.skipped += other.skipped
        return self


def unaccounted(now: datetime.datetime, most: int) -> list[str]:
    """Names of schedules that have due times to be looked at, those with the oldest first."""
    waiting = Schedule.objects.filter(next_check_at__lte=now - LATE_AFTER).order_by("next_check_at")
    return list(waiting.values_list("name", flat=True)[:most])


def account(name: str, now: datetime.datetime) -> Accounted:
    """See to a schedule's due times that are past; in one transaction, published after it."""
    with transaction.atomic():
        schedule = locked(name)
        if schedule is None:
            return Accounted()
        return _account(schedule, now, now - LATE_AFTER, _MOST_TIMES)


def account_for_pause(schedule: Schedule, now: datetime.datetime) -> Accounted:
    """The same up to this moment, of a paused schedule that is locked and about to be resumed."""
    return _account(schedule, now, now, _MOST_AT_ONCE)


def _account(schedule: Schedule, now: datetime.datetime, until: datetime.datetime, most: int) -> Accounted:
    window = datetime.timedelta(minutes=schedule.jitter_minutes)
    if not schedule.is_paused:
        # EventBridge may still fire for a time within the window.
        until -= window
    end = until if schedule.ends_at is None else min(until, schedule.ends_at)
    try:
        times = list(islice(schedule.when.times(schedule.checked_until, end), most))
    except ScheduleError as error:
        # A zone that this machine does not know any more, say. It shows on the schedule.
        Schedule.objects.filter(pk=schedule.pk).update(sync_error=str(error)[:500], next_check_at=None)
        log.error("schedule_not_readable", schedule=schedule.name, error=str(error))
        return Accounted()
    done = _make_up(schedule, times, now, window) if times else Accounted()
    checked = times[-1] if len(times) == most else max(until, schedule.checked_until)
    schedule.checked_until = checked
    schedule.next_check_at = schedule.first_check_after(checked)
    Schedule.objects.filter(pk=schedule.pk).update(checked_until=checked, next_check_at=schedule.next_check_at)
    return done


def _make_up(
    schedule: Schedule, times: Sequence[datetime.datetime], now: datetime.datetime, window: datetime.timedelta
) -> Accounted:
    wanted = {ids.due(schedule.name, time): time for time in times}
    there = services.surviving(wanted)
    late: list[Run] = []
    skipped: list[Run] = []
    catch_up = datetime.timedelta(seconds=schedule.catch_up_seconds)
    for run_id, time in wanted.items():
        if run_id in there:
            continue
        if schedule.paused_at is not None:
            reason = paused(schedule.paused_by, schedule.pause_reason)
        elif now - time > catch_up + window:
            reason = missed(catch_up)
        else:
            reason = ""
        run, fault = _describe(schedule, run_id, time)
        if reason or fault:
            run.error = (reason or fault)[:500]
            skipped.append(run)
        else:
            late.append(run)
    services.record_skipped(skipped, now)
    services.record(late)
    if late:
        log.warning("schedule_missed", schedule=schedule.name, runs=len(late), first=late[0].pk)
        transaction.on_commit(lambda: import_string(settings.RUN_PUBLISHER)(late), robust=True)
    return Accounted(len(late), len(skipped))


def _describe(schedule: Schedule, run_id: str, time: datetime.datetime) -> tuple[Run, str]:
    """The run of a due time with its message, and why it cannot be run; "" where it can."""
    try:
        run: Run = import_string(settings.SCHEDULED_RUN)(schedule, run_id, time)
    except Exception as error:  # a task that this release does not know, or does not let be called so
        bare = Run(id=run_id, task=schedule.task, queue="", schedule=schedule.name, scheduled_for=time)
        return bare, f"it cannot be run: {error}"
    return run, ""
