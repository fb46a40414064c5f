"""What queues held, minute by minute: for the console's curves, for alarms, and to know that rounds were made."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from django_app.ledger import figures
from django_app.ledger.models import QueueSample

_MINUTE = datetime.timedelta(minutes=1)


@dataclass(frozen=True)
class Stats:
    """Messages of one queue, as SQS counts them; None where it did not say. dead: in its dead-letter queue."""

    depth: int | None = None
    in_flight: int | None = None
    delayed: int | None = None
    dead: int | None = None


def minute_of(now: datetime.datetime) -> datetime.datetime:
    return now.replace(second=0, microsecond=0)


def is_taken(now: datetime.datetime) -> bool:
    """Whether this minute has its samples."""
    return QueueSample.objects.filter(at=minute_of(now)).exists()


def sample(now: datetime.datetime, stats: Mapping[str, Stats]) -> list[QueueSample]:
    """Write one row for each queue for this minute. Two rounds in one minute write one.

    stats: by queue name. How long the oldest run waits is the ledger's own knowledge.
    """
    ages = figures.oldest_ages(stats, now)
    rows = [
        QueueSample(
            queue=queue,
            at=minute_of(now),
            depth=told.depth,
            in_flight=told.in_flight,
            delayed=told.delayed,
            dead=told.dead,
            oldest_age_seconds=ages[queue],
        )
        for queue, told in stats.items()
    ]
    QueueSample.objects.bulk_create(rows, ignore_conflicts=True)
    return rows


def were_taken_before(now: datetime.datetime) -> bool:
    """Whether rounds were made in two of the three minutes before this one: the database has been there for a while.

    A sample is proof, since it is written to the same database.
    """
    minute = minute_of(now)
    before = QueueSample.objects.filter(at__lt=minute, at__gte=minute - 3 * _MINUTE)
    return before.values("at").distinct().count() >= 2


def forget(before: datetime.datetime, most: int) -> int:
    """Delete samples from before a time, at most so many; how many."""
    ids = list(QueueSample.objects.filter(at__lt=before).order_by("at").values_list("pk", flat=True)[:most])
    return QueueSample.objects.filter(pk__in=ids).delete()[0] if ids else 0
