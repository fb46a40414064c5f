"""Schedules at EventBridge Scheduler: what should exist there, and bringing it there."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlsplit

import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Q, QuerySet
from django.utils import timezone

from django_app.ledger import errands
from django_app.ledger.models import Schedule
from serverless import aws
from serverless.scheduler import sync
from serverless.scheduler.errors import ScheduleError
from serverless.scheduler.groups import Group
from serverless.scheduler.sync import Done, Plan
from serverless.scheduler.wanted import Wanted
from tasks.runtime.schedules import messages

log = structlog.get_logger(__name__)

#: EventBridge tries for a day to deliver, and whoever claims the run decides whether it comes too late.
_MAX_AGE_SECONDS = 86_400
_MAX_RETRIES = 185
#: Seconds that saving a schedule may wait for EventBridge; the housekeeping does the rest.
_SAVING_SECONDS = 5.0
_ROWS_AT_ONCE = 500
_MOST_REPAIRED = 200
#: Comparing all, which finds what somebody has changed at AWS by hand, and schedules whose rows are gone.
_WHOLE, _WHOLE_EVERY = "schedules at EventBridge", datetime.timedelta(hours=1)
_QUEUE_URL = re.compile(r"/(\d{12})/(.*)")


def is_on() -> bool:
    """Whether there is an EventBridge to speak to."""
    return bool(settings.SCHEDULE_GROUP)


def queue_arn(queue: str) -> str:
    """A queue's ARN, made of its address. Raises ImproperlyConfigured."""
    url = urlsplit(settings.QUEUE_URL_PREFIX)
    found = _QUEUE_URL.fullmatch(url.path)
    if found is None:
        raise ImproperlyConfigured(
            f'QUEUE_URL_PREFIX="{settings.QUEUE_URL_PREFIX}" holds no account id, without which EventBridge cannot be '
            "told of a queue. Give the beginning of the queues' URLs: https://sqs.REGION.amazonaws.com/ACCOUNT/PREFIX"
        )
    partition = "aws-cn" if (url.hostname or "").endswith(".cn") else "aws"
    return f"arn:{partition}:sqs:{aws.region()}:{found[1]}:{found[2]}{queue}"


def wanted(schedule: Schedule, now: datetime.datetime) -> list[Wanted]:
    """The AWS schedules that a schedule needs; none where it is paused or has ended.

    Raises ScheduleError and TopologyError where it cannot be had any more.
    """
    if schedule.is_paused or schedule.has_ended(now):
        return []
    target = queue_arn(messages.queue_of(schedule))
    text = messages.input_of(schedule)
    return [
        Wanted(
            logical=schedule.name,
            expression=piece.expression,
            zone=piece.zone,
            anchor=piece.anchor,
            target_arn=target,
            input=text,
            role_arn=settings.SCHEDULE_ROLE_ARN,
            dead_letter_arn=settings.SCHEDULE_DEAD_LETTER_ARN,
            window_minutes=schedule.jitter_minutes,
            ends_at=schedule.ends_at,
            max_age_seconds=_MAX_AGE_SECONDS,
            max_retries=_MAX_RETRIES,
            description=f"{schedule.name}: {schedule.task}",
        )
        for piece in schedule.when.pieces(now.date())
    ]


def plan() -> Plan:
    """What synchronise_all would do."""
    faults: dict[str, str] = {}
    return sync.plan(_group(), lambda: _all_wanted(faults), spare=faults)


def synchronise_all(
    *, budget_seconds: float | None = None, on_change: Callable[[str, str], None] | None = None
) -> Done:
    """Bring the whole group to the table, and note on the rows what came of it. Raises what AWS answers."""
    began = timezone.now()
    faults: dict[str, str] = {}
    done = sync.synchronise(
        _group(), lambda: _all_wanted(faults), budget_seconds=budget_seconds, on_change=on_change, spare=faults
    )
    done.failed |= faults
    _note(done, Schedule.objects.filter(changed_at__lte=began), began)
    return done


def synchronise(name: str) -> None:
    """Bring one schedule to what its row says, and note what came of it. Never raises: the housekeeping tries again."""
    began = timezone.now()
    rows = Schedule.objects.filter(name=name)
    if not is_on():
        rows.filter(synced_at=None).update(sync_error="SCHEDULE_GROUP is not set: EventBridge does not know it")
        return
    try:
        schedule = rows.first()
        needed = wanted(schedule, began) if schedule is not None else []
        done = sync.synchronise_one(_group(), name, needed, budget_seconds=_SAVING_SECONDS)
    except (ScheduleError, ValueError, ImproperlyConfigured, *aws.ERRORS) as error:
        log.warning("schedule_not_synchronised", schedule=name, error=str(error))
        rows.filter(changed_at__lte=began).update(synced_at=None, sync_error=str(error)[:500])
        return
    if done.left:
        waited = f"EventBridge did not answer in {_SAVING_SECONDS:g} s; it is tried again each minute"
        rows.filter(changed_at__lte=began).update(synced_at=None, sync_error=waited)
    _note(done, rows.filter(changed_at__lte=began), began)


def repair(now: datetime.datetime, budget_seconds: float) -> int:
    """Try again what EventBridge does not know yet, and compare all each hour; how many it knows more.

    For the minute's housekeeping. Raises what AWS answers to the comparison.
    """
    if not is_on():
        return 0
    began = time.monotonic()
    unknown = Schedule.objects.filter(synced_at=None).order_by("changed_at")
    names = list(unknown.values_list("name", flat=True)[:_MOST_REPAIRED])
    for name in names:
        if time.monotonic() - began > budget_seconds:
            break
        synchronise(name)
    left = budget_seconds - (time.monotonic() - began)
    if left > 0 and errands.take(_WHOLE, now, _WHOLE_EVERY):
        try:
            done = synchronise_all(budget_seconds=left)
        except BaseException:
            errands.give_back(_WHOLE, now)
            raise
        if done.left:
            errands.give_back(_WHOLE, now)
        if done.created or done.deleted or done.repaired or done.failed:
            log.warning("schedules_were_out_of_step", did=str(done))
    return Schedule.objects.filter(name__in=names, synced_at__isnull=False).count()


def go_on_soon() -> None:
    """Have the next round of the housekeeping compare all."""
    now = timezone.now()
    errands.take(_WHOLE, now, _WHOLE_EVERY)
    errands.give_back(_WHOLE, now)


def _group() -> Group:
    return Group(settings.SCHEDULE_GROUP)


def _all_wanted(faults: dict[str, str]) -> Iterator[Wanted]:
    """All AWS schedules that should exist, row by row. faults: grows by what is not to be had, by schedule."""
    now = timezone.now()
    for schedule in _rows():
        try:
            needed = wanted(schedule, now)
        except (ScheduleError, ValueError) as error:
            faults[schedule.name] = str(error)
            continue
        yield from needed


def _rows() -> Iterable[Schedule]:
    """All rows, some at a time, without a cursor that would stay open while AWS is asked."""
    after = ""
    while True:
        some = list(Schedule.objects.filter(name__gt=after).order_by("name")[:_ROWS_AT_ONCE])
        yield from some
        if len(some) < _ROWS_AT_ONCE:
            return
        after = some[-1].name


def _note(done: Done, rows: QuerySet[Schedule], began: datetime.datetime) -> None:
    """rows: those that were looked at as they still are."""
    for name, reason in done.failed.items():
        rows.filter(name=name).update(synced_at=None, sync_error=reason[:500])
    if not done.left:
        in_step = rows.filter(Q(synced_at=None) | ~Q(sync_error="")).exclude(name__in=list(done.failed))
        in_step.update(synced_at=began, sync_error="")
