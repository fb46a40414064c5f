"""When a schedule is due, as Celery's users write it: a crontab, or an interval.

`parse` reads text, `of` reads what stands in CELERY_BEAT_SCHEDULE. Either gives a Timing: its due times, and the pieces
that make it at EventBridge. docs/schedules.md says what differs from beat.
"""

from __future__ import annotations

import re
from datetime import timedelta

from serverless.scheduler import crontabs, intervals, zones
from serverless.scheduler.crontab_fields import FIELDS
from serverless.scheduler.errors import TimingError
from serverless.scheduler.pieces import Piece, Timing

__all__ = ["LONGEST_TEXT", "Piece", "Timing", "TimingError", "of", "parse"]

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
#: Characters; the longest that `of` gives fits.
LONGEST_TEXT = 600


def parse(text: str, zone: str = "UTC") -> Timing:
    """Read "0 8 * * mon" (minute, hour, day of month, month, day of week) or "every 90 minutes". Raises TimingError.

    The names and numbers are Celery's: Sunday is 0, and both day fields must agree where both are given.
    """
    key = zones.find(zone, TimingError).key
    if len(text) > LONGEST_TEXT:
        raise TimingError(
            f"a timing of {len(text)} characters exceeds {LONGEST_TEXT}. Use ranges and steps: */5, 8-17."
        )
    words = text.lower().split()
    if words[:1] != ["every"]:
        return crontabs.read(text, key)
    found = re.fullmatch(r"every (?:([0-9]{1,12}) )?(second|minute|hour|day|week)s?", " ".join(words))
    if not found:
        raise TimingError(
            f'"{text}" is no interval. Write "every", a whole number and minutes, hours or days, such as '
            '"every 90 minutes".'
        )
    return intervals.every(int(found[1] or 1) * _SECONDS[found[2]], key, f'"{text}"')


def of(schedule: object, zone: str) -> Timing:
    """What an entry of CELERY_BEAT_SCHEDULE means by its `schedule`. Raises TimingError.

    schedule: a crontab, a celery.schedules.schedule, a timedelta or a number of seconds. zone: of a crontab.
    """
    key = zones.find(zone, TimingError).key
    if isinstance(schedule, timedelta):
        return intervals.every(schedule.total_seconds(), key, f"timedelta of {schedule}")
    if isinstance(schedule, int | float) and not isinstance(schedule, bool):
        return intervals.every(schedule, key, f"{schedule} seconds")
    # Celery takes 90 ms to import, which a Lambda that only reads texts need not spend.
    from celery import schedules

    if type(schedule) is schedules.crontab:
        _refuse_own_clock(schedule)
        fields = (
            each.spelled(getattr(schedule, f"_orig_{each.keyword}"), getattr(schedule, each.keyword)) for each in FIELDS
        )
        return crontabs.read(" ".join(fields), key)
    if type(schedule) is schedules.schedule:
        _refuse_own_clock(schedule)
        return of(getattr(schedule, "run_every", None), key)
    if isinstance(schedule, schedules.solar):
        raise TimingError(
            f"{schedule!r}: EventBridge knows no sun. The nearest is a crontab at a fixed time, or one a month "
            'such as "30 5 * 6 *".'
        )
    raise TimingError(
        f"{type(schedule).__module__}.{type(schedule).__qualname__}: only crontab, schedule, timedelta and a number of "
        "seconds can be translated, for a class of another's may mean anything. Express it by one of them."
    )


def _refuse_own_clock(schedule: object) -> None:
    if getattr(schedule, "nowfun", None) is not None:
        raise TimingError(
            f"{schedule!r} has a nowfun, but EventBridge goes by its own clock. Leave it out, and give "
            "the schedule a time zone."
        )
