"""Runs that wait: for a pause to end, for a slot of a shared limit, for a period of a shared rate, for the end of an
earlier run of their schedule.

For a pause or a slot the message is acknowledged and the row keeps it, so that no worker is busy with handing it back.
It is published again by whoever makes room: the run that ends, or the minute's housekeeping. How long a rate makes a
run wait is known, so there SQS keeps the message, hidden.
"""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass

from django.db import connection, transaction
from django.db.models import F, Max, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from django_app.ledger import watching
from django_app.ledger.models import Attempt, Pause, Run
from django_app.ledger.services import PUBLISH_CLAIM
from django_app.ledger.states import Report, State, target

PAUSED, LIMIT, RATE, OVERLAP = "paused", "limit", "rate", "overlap"


@dataclass(frozen=True)
class Limit:
    """What runs of one key share. at_once: None, no limit. begun: so many in period_seconds; None, any number."""

    at_once: int | None = None
    begun: int | None = None
    period_seconds: float = 1.0


def wait_for(key: str, limit: Limit, run_id: str, now: datetime.datetime) -> tuple[str, float]:
    """Why this run may not begin now, and for how many seconds that will last; ("", 0) if it may.

    Call it in the transaction that claims: it locks the key.
    """
    _lock(key)
    others = Run.objects.filter(limit_key=key).exclude(pk=run_id)
    if limit.at_once is not None:
        running = others.filter(state=State.RUNNING, lease_until__gt=now).count()
        if running >= limit.at_once:
            return LIMIT, 0.0
    if limit.begun is not None:
        since = now - datetime.timedelta(seconds=limit.period_seconds)
        recent = _begun(key, since, limit.begun)
        if len(recent) >= limit.begun:
            ahead = others.filter(state=State.WAITING, parked_for=RATE).count()
            first = (recent[-1] - since).total_seconds()
            return RATE, first + limit.period_seconds * (ahead // limit.begun)
    return "", 0.0


def _begun(key: str, since: datetime.datetime, most: int) -> list[datetime.datetime]:
    """When the newest attempts of a limit key began, newest first. A run that is tried again begins more than once."""
    last = Run.objects.filter(limit_key=key, started_at__gt=since)
    # Of a run's attempts the last began last, so few runs are asked for their attempts.
    again = {"run__attempts__gt": 1, "run__started_at__gt": since}
    earlier = Attempt.objects.filter(run__limit_key=key, **again, number__lt=F("run__attempts"), started_at__gt=since)
    times = [
        time
        for begun in (last, earlier)
        for time in begun.order_by("-started_at").values_list("started_at", flat=True)[:most]
        if time is not None
    ]
    return sorted(times, reverse=True)[:most]


def _lock(key: str) -> None:
    """Keep others from deciding about the same key until this transaction ends. SQLite's writers queue anyway."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 42))", [f"limit:{key}"])


def release(key: str, most: int = 1) -> list[Run]:
    """The longest waiting runs of a limit key, made ready to be published: a slot has become free."""
    waiting = Run.objects.filter(limit_key=key, state=State.WAITING, parked_for=LIMIT)
    with transaction.atomic():
        # One that has found no slot and is just being parked must not be missed.
        _lock(key)
        return _release(waiting.order_by("created_at"), most)


def release_one(waiting: QuerySet[Run]) -> list[Run]:
    """The one of them that has waited longest, made ready to be published."""
    # Those of a backfill were recorded in the same moment.
    return _release(waiting.order_by("created_at", "scheduled_for", "id"), 1)


def release_due(most: int) -> list[Run]:
    """Runs that need not wait any longer and that nobody has released: the minute's sweep."""
    paused = set(Pause.objects.values_list("key", flat=True))
    queues = [key.removeprefix("queue:") for key in paused if key.startswith("queue:")]
    tasks = [key.removeprefix("task:") for key in paused if key.startswith("task:")]
    resumed = Run.objects.filter(state=State.WAITING, parked_for=PAUSED).exclude(queue__in=queues)
    released = _release(resumed.exclude(task__in=tasks).order_by("created_at"), most)
    held_back = Run.objects.filter(state=State.WAITING, parked_for=LIMIT)
    keys = (
        held_back.exclude(queue__in=queues)
        .exclude(task__in=tasks)
        .values("limit_key")
        .annotate(at_once=Max("limit_at_once"))
    )
    for row in list(keys[:most]):
        # Those that have been released and not begun yet count as well.
        under_way = Run.objects.filter(
            Q(state=State.PENDING) | Q(state=State.QUEUED) | Q(state=State.RUNNING, lease_until__gt=Now()),
            limit_key=row["limit_key"],
        ).count()
        room = (row["at_once"] or 1) - under_way
        if room > 0:
            released += release(row["limit_key"], room)
    return released


@transaction.atomic
def _release(waiting: QuerySet[Run], most: int) -> list[Run]:
    # Not those that another changes at this moment: it may be releasing them, and there is room for others.
    ids = list(waiting.select_for_update(skip_locked=True).values_list("pk", flat=True)[:most])
    if not ids:
        return []
    now = timezone.now()
    # The claim's time tells these from those that another releases at the same moment.
    until = now + PUBLISH_CLAIM + datetime.timedelta(microseconds=random.randrange(1_000_000))
    parked = Run.objects.filter(pk__in=ids, state=State.WAITING)
    watching.update(parked, state=target(Report.RELEASED), parked_for="", publish_claimed_until=until)
    return list(Run.objects.filter(pk__in=ids, state=State.PENDING, publish_claimed_until=until).order_by("created_at"))


def pause(key: str, by: str, reason: str = "") -> bool:
    """Begin nothing of "queue:<name>" or "task:<name>" any more; False where it is paused already."""
    _, made = Pause.objects.get_or_create(key=key, defaults={"by": by, "reason": reason, "created_at": timezone.now()})
    return made


def resume(key: str) -> bool:
    """End a pause; False where there was none. What waits is released by the next sweep, see release_due."""
    return bool(Pause.objects.filter(key=key).delete()[0])
