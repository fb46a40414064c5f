"""What can be done with runs. Tasks, views and commands change runs through these functions only."""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterable, Sequence

from django.db.models import Q
from django.utils import timezone

from django_app.ledger.models import Run
from django_app.ledger.states import Report, State, sources, target

#: Whoever records a run publishes it after the commit; nobody else tries for so long.
PUBLISH_CLAIM = datetime.timedelta(seconds=60)
#: SQS delays by 15 minutes at most: a run is published in its last 14, so that one late round changes nothing.
PUBLISH_AHEAD = datetime.timedelta(minutes=14)
#: Rows in one statement.
_AT_ONCE = 500


def record(runs: Sequence[Run]) -> None:
    """Insert runs, in the caller's transaction if there is one.

    An id that is there already keeps its row: a task that is sent again under its own id is the same run.
    """
    now = timezone.now()
    for run in runs:
        run.state = State.PENDING
        run.created_at = now
        run.publish_claimed_until = now + PUBLISH_CLAIM
    Run.objects.bulk_create(runs, batch_size=_AT_ONCE, ignore_conflicts=True)


def is_due(run: Run, now: datetime.datetime) -> bool:
    """Whether it may be published now, which SQS can keep for the rest of its delay."""
    return run.not_before is None or run.not_before <= now + PUBLISH_AHEAD


def surviving(ids: Iterable[str]) -> set[str]:
    """Those that are recorded: what a savepoint took back is not."""
    listed = list(ids)
    found: set[str] = set()
    for start in range(0, len(listed), _AT_ONCE):
        found.update(Run.objects.filter(pk__in=listed[start : start + _AT_ONCE]).values_list("pk", flat=True))
    return found


def mark_published(ids: Sequence[str]) -> int:
    """SQS has their messages; how many had not been marked before. Safe to repeat and to come late."""
    marked = 0
    for start in range(0, len(ids), _AT_ONCE):
        marked += Run.objects.filter(pk__in=ids[start : start + _AT_ONCE], state__in=sources(Report.PUBLISHED)).update(
            state=target(Report.PUBLISHED), published_at=timezone.now(), message=""
        )
    return marked


def claim_unpublished(now: datetime.datetime, most: int) -> list[Run]:
    """Runs that were recorded and that nobody has published: the process died, or SQS refused, or their time has come.

    They are claimed for a minute, without holding a lock meanwhile. Two callers at once get different runs.
    """
    due = Q(not_before=None) | Q(not_before__lte=now + PUBLISH_AHEAD)
    waiting = Run.objects.filter(due, state=State.PENDING, publish_claimed_until__lte=now)
    ids = list(waiting.order_by("publish_claimed_until").values_list("pk", flat=True)[:most])
    # The time of the claim tells it from others.
    until = now + PUBLISH_CLAIM + datetime.timedelta(microseconds=random.randrange(1_000_000))
    waiting.filter(pk__in=ids).update(publish_claimed_until=until)
    return list(Run.objects.filter(pk__in=ids, state=State.PENDING, publish_claimed_until=until))


def forget_published(before: datetime.datetime, most: int) -> int:
    """Delete runs that were published before a time, at most so many; how many."""
    ids = list(Run.objects.filter(published_at__lt=before).order_by("published_at").values_list("pk", flat=True)[:most])
    return Run.objects.filter(pk__in=ids).delete()[0]
