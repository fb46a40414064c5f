"""How things stand, in figures: what a scrape and the minute's samples tell. Reads only.

Every query here looks at a bounded number of rows by way of an index, however many runs there are: a count that
reaches MOST_COUNTED means "so many or more".
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.db.models import Count, F, Min, Q, Sum

from django_app.ledger.models import QueueSample, Run, Worker
from django_app.ledger.services import PUBLISH_AHEAD, PUBLISH_CLAIM
from django_app.ledger.states import FINAL, State

MOST_COUNTED = 10_000
#: Failures that are sorted by their fingerprints.
_MOST_FAILURES = 1000
#: Runs among which the one that waits longest to be published is looked for.
_MOST_DUE = 2000
#: A sample that is older says nothing about now.
_SAMPLE_LASTS = datetime.timedelta(minutes=10)
#: A lost worker is told of for so long.
_LOST_LASTS = datetime.timedelta(hours=1)
_LONGEST_KIND = 80

OPEN = tuple(state for state in State if state not in FINAL)


@dataclass(frozen=True)
class Failures:
    """Runs that failed for the same reason. kind: the error's class; its message is not told, it may hold anything."""

    fingerprint: str
    task: str
    kind: str
    runs: int


@dataclass(frozen=True)
class Workers:
    """Workers of one pool in one state, with their slots."""

    pool: str
    state: str
    count: int
    slots: int
    busy: int


def open_runs() -> dict[State, int]:
    """How many runs stand in each state that is not final; each up to MOST_COUNTED."""
    return {
        # The order is that of the index, so that a database that thinks the state common does not read the table.
        state: Run.objects.filter(state=state).order_by("-created_at")[:MOST_COUNTED].count()
        for state in OPEN
    }


def finished(queues: Sequence[str], since: datetime.datetime) -> dict[tuple[str, State], int]:
    """How many runs ended since then, by queue and state; of the newest MOST_COUNTED."""
    ended = Run.objects.filter(state__in=sorted(FINAL), finished_at__gt=since).order_by("-finished_at")[:MOST_COUNTED]
    cells = {f"of_{number}_{state}": (queue, state) for number, queue in enumerate(queues) for state in sorted(FINAL)}
    counts = ended.aggregate(
        **{name: Count("pk", filter=Q(queue=queue, state=state)) for name, (queue, state) in cells.items()}
    )
    return {cells[name]: count for name, count in counts.items()}


def publish_lag_seconds(now: datetime.datetime) -> float:
    """How long the oldest run that is due waits to be published; 0 where none does.

    It is looked for among the _MOST_DUE whose turn to be published comes first: of runs that are due later there may be
    millions.
    """
    # Whoever publishes a run claims it for so long, and a little more.
    turn = now + 2 * PUBLISH_CLAIM
    pending = Run.objects.filter(state=State.PENDING, publish_claimed_until__lte=turn)
    at_once = Q(not_before=None) | Q(not_before__lte=F("created_at") + PUBLISH_AHEAD)
    found = pending.order_by("publish_claimed_until")[:_MOST_DUE].aggregate(
        soon=Min("created_at", filter=at_once),
        later=Min("not_before", filter=~at_once),
    )
    due = [found["soon"]] if found["soon"] else []
    if found["later"]:
        due.append(found["later"] - PUBLISH_AHEAD)
    return max(0.0, (now - min(due)).total_seconds()) if due else 0.0


def oldest_ages(queues: Iterable[str], now: datetime.datetime) -> dict[str, float]:
    """Seconds that the oldest published run waits which nobody has begun, by queue; 0 where none waits.

    It is looked for among the MOST_COUNTED oldest of all queues, then among the newest of its queue: what hides between
    them is told younger than it is.
    """
    oldest: dict[str, float] = {}
    head = Run.objects.filter(state=State.QUEUED).order_by("created_at")
    rows = list(head.values_list("queue", "published_at", "not_before")[:MOST_COUNTED])
    _note_oldest(oldest, rows, now)
    for queue in queues:
        if queue in oldest:
            continue
        if len(rows) < MOST_COUNTED:
            oldest[queue] = 0.0
            continue
        newest = Run.objects.filter(queue=queue).order_by("-created_at")[:MOST_COUNTED]
        waits = newest.aggregate(
            published=Min("published_at", filter=Q(state=State.QUEUED, not_before=None)),
            delayed=Min("not_before", filter=Q(state=State.QUEUED, not_before__lte=now)),
        )
        times = [time for time in waits.values() if time is not None]
        oldest[queue] = max(0.0, (now - min(times)).total_seconds()) if times else 0.0
    return oldest


def _note_oldest(
    oldest: dict[str, float],
    rows: Iterable[tuple[str, datetime.datetime | None, datetime.datetime | None]],
    now: datetime.datetime,
) -> None:
    for queue, published_at, not_before in rows:
        # One whose time has not come waits for nobody: its age is below zero.
        since = max(filter(None, (published_at, not_before)), default=now)
        oldest[queue] = max(oldest.get(queue, 0.0), (now - since).total_seconds())


def failures(since: datetime.datetime, most: int) -> list[Failures]:
    """The commonest reasons why runs created since then failed, of the newest thousand in each state."""
    counts: Counter[tuple[str, str]] = Counter()
    kinds: dict[tuple[str, str], str] = {}
    for state in (State.FAILED, State.DEAD):
        newest = Run.objects.filter(state=state, created_at__gt=since).order_by("-created_at")
        for fingerprint, task, error in newest.values_list("fingerprint", "task", "error")[:_MOST_FAILURES]:
            counts[fingerprint, task] += 1
            kinds.setdefault((fingerprint, task), error.partition(":")[0].strip()[:_LONGEST_KIND])
    return [
        Failures(fingerprint, task, kinds[fingerprint, task], runs)
        for (fingerprint, task), runs in counts.most_common(most)
    ]


def workers(now: datetime.datetime) -> list[Workers]:
    """Workers by pool and state; those whose lease is over count as lost, for an hour."""
    groups: dict[tuple[str, str], list[int]] = {}
    is_alive = Q(state__in=("running", "draining"), lease_until__gte=now)
    is_lost = Q(state="lost") | Q(state__in=("running", "draining"), lease_until__lt=now)
    for condition, is_known in ((is_alive, True), (is_lost & Q(seen_at__gt=now - _LOST_LASTS), False)):
        rows = Worker.objects.filter(condition).values_list("pool", "state").annotate(Count("pk"), *_SLOTS).order_by()
        for pool, state, count, slots, busy in rows:
            group = groups.setdefault((pool, state if is_known else "lost"), [0, 0, 0])
            for place, number in enumerate((count, slots, busy) if is_known else (count, 0, 0)):
                group[place] += number
    return [Workers(pool, state, *numbers) for (pool, state), numbers in sorted(groups.items())]


_SLOTS = (Sum("concurrency"), Sum("busy"))


def newest_samples(now: datetime.datetime) -> dict[str, QueueSample]:
    """The newest sample of each queue that is fresh enough to tell of now."""
    found: dict[str, QueueSample] = {}
    for sample in QueueSample.objects.filter(at__gt=now - _SAMPLE_LASTS).order_by("at"):
        found[sample.queue] = sample
    return found
