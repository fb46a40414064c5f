"""Runs of a schedule that somebody asks for: now, or for due times that are past."""

from __future__ import annotations

import datetime
import re
from itertools import islice

from django.db import transaction
from django.utils import timezone

from django_app.ledger.models import Schedule
from django_app.ledger.schedules import ids
from serverless.scheduler.errors import ScheduleError
from tasks.runtime import recording
from tasks.runtime.schedules.messages import describe

#: Due times that one backfill makes up for.
MOST_TIMES = 500
_TOKEN = re.compile(r"[0-9A-Za-z]{1,32}")


class BackfillError(ScheduleError):
    """A range of due times that cannot be made up for."""


def run_now(schedule: Schedule, by: str, token: str) -> str:
    """Run it once, whatever the clock and a pause say; its overlap rule holds. Returns the run's id.

    token: letters and digits; the same token asks for the same run, such as a form that is sent twice.
    """
    run_id = ids.now(schedule.name, _checked(token))
    recording.record(describe(schedule, run_id, None, by))
    return run_id


def due_times(schedule: Schedule, since: datetime.datetime, until: datetime.datetime) -> list[datetime.datetime]:
    """The due times from since up to until, both aware, that a backfill would make up for. Raises BackfillError."""
    told = f'schedule "{schedule.name}": {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}'
    if since > until:
        raise BackfillError(f"{told} ends before it begins. Give the earlier time first.")
    now = timezone.now()
    if until > now:
        raise BackfillError(
            f"{told} is not over yet. End it before {now:%Y-%m-%d %H:%M} UTC; the clock sees to the rest."
        )
    times = list(islice(schedule.when.times(since - datetime.timedelta(microseconds=1), until), MOST_TIMES + 1))
    if len(times) > MOST_TIMES:
        raise BackfillError(
            f"{told} has more than {MOST_TIMES} due times. Take a shorter range first: up to "
            f"{times[MOST_TIMES - 1]:%Y-%m-%d %H:%M} UTC there are {MOST_TIMES}."
        )
    if not times:
        raise BackfillError(f"{told} has no due time. Look at its next ones to see when it is due.")
    return times


def backfill(schedule: Schedule, since: datetime.datetime, until: datetime.datetime, by: str, token: str) -> list[str]:
    """Run it for each due time of a past range; returns the runs' ids, oldest first. Raises BackfillError.

    Each is run, side by side where its overlap rule is "allow", else one after another. token: as of run_now.
    """
    times = due_times(schedule, since, until)
    token = _checked(token)
    runs = [describe(schedule, ids.backfill(schedule.name, time, token), time, by) for time in times]
    with transaction.atomic(), recording.gathering():
        for run in runs:
            recording.record(run)
    return [run.pk for run in runs]


def _checked(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise ScheduleError(f"token {token!r} must be 1 to 32 letters and digits. Take a random one.")
    return token
