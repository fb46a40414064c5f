"""What the console reads. Every query looks at a bounded number of rows by way of an index, however many there are.

A condition that has an index leads to its rows newest first. Two conditions have no index together: the runs that one
of them leads to are looked through for the other, and if few fit, that could be all of the table. So a list looks at
the newest WINDOW of them, shows what fits, and says up to when it has looked; from there the next page goes on.

A count that reaches its bound means "so many or more".
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from django.core.cache import cache
from django.db.models import Count, Min, Q, QuerySet

from django_app.console.access import Access, visible_runs
from django_app.console.filters import Cursor, Filters
from django_app.console.models import ApiToken, AuditEntry
from django_app.ledger.models import Attempt, Pause, QueueSample, Run, Worker
from django_app.ledger.states import FINAL, State

#: Rows of a page.
PAGE = 50
MOST_A_PAGE = 200
#: Runs that one page looks through; fewer where their arguments are searched.
WINDOW, SEARCH_WINDOW = 5000, 500
MOST_COUNTED = 1000
#: Fields with an index of their own, each with the time that it goes by.
_INDEXED = {
    "state": "created_at",
    "task": "created_at",
    "queue": "created_at",
    "schedule": "created_at",
    "tenant": "created_at",
    "fingerprint": "created_at",
    "requested_by": "created_at",
    "worker": "started_at",
}
_BADLY = (State.FAILED, State.DEAD)
#: How far back failures are looked for, if nothing is said.
FAILURES_AGE = "24h"
#: Failures of one state that are sorted by fingerprint; runs of one tenant or person among which they are looked for.
MOST_FAILURES, FAILURES_WINDOW = 2000, 4000
_MOST_RELATED = 100
_MOST_ATTEMPTS = 50
_MOST_WORKERS = 500
_MOST_QUEUE_PAUSES = 200
#: What a list shows of a run; messages, arguments and results are long.
LISTED = (
    "id",
    "task",
    "queue",
    "state",
    "parked_for",
    "priority",
    "worker",
    "tenant",
    "requested_by",
    "retry_of",
    "attempts",
    "created_at",
    "not_before",
    "started_at",
    "finished_at",
    "error",
    "fingerprint",
    "progress_done",
    "progress_total",
    "celery_state",
)


# Runs ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """Part of a list. after: where the next part begins; None: this was the last.

    looked_back_to: set where there may be more than what is shown, and nothing was found in what is older than that.
    """

    runs: list[Run]
    after: Cursor | None = None
    looked_back_to: datetime.datetime | None = None


def find_runs(access: Access, filters: Filters, after: Cursor | None = None, most: int = PAGE) -> Page:
    """The runs that a person may see and asks for, newest first: by creation; those of a worker, by their start."""
    scope = access.scope
    if scope is None:
        return Page([])
    # Both hold: whoever sees one tenant only, and asks for another one, gets what is of both, which is nothing.
    if any(filters.equal.get(name, value) != value for name, value in scope.items()):
        return Page([])
    conditions = {**scope, **filters.equal}
    time = _INDEXED["worker"] if "worker" in conditions else "created_at"
    runs = _behind(Run.objects.filter(**conditions), time, after)
    if filters.since is not None:
        # What was created since then was not begun before; said once more for the index that goes by that.
        runs = runs.filter(created_at__gte=filters.since).filter(**{f"{time}__gte": filters.since})
    window: datetime.datetime | None = None
    if len(conditions) > 1 or filters.q:
        size = SEARCH_WINDOW if filters.q else WINDOW
        window = _window(conditions, time, after, filters.since, size)
        if window is not None:
            runs = runs.filter(**{f"{time}__gte": window})
    if filters.q:
        runs = runs.filter(arguments__icontains=filters.q)
    found = list(runs.only(*LISTED).order_by(f"-{time}", "id")[: most + 1])
    if len(found) > most:
        last = found[most - 1]
        return Page(found[:most], Cursor(getattr(last, time), last.pk))
    if window is not None:
        return Page(found, Cursor(window), window)
    return Page(found)


def _behind(runs: QuerySet[Run], time: str, after: Cursor | None) -> QuerySet[Run]:
    if time == "started_at":
        runs = runs.filter(started_at__isnull=False)
    if after is None:
        return runs
    if not after.id:
        return runs.filter(**{f"{time}__lt": after.at})
    return runs.filter(Q(**{f"{time}__lt": after.at}) | Q(id__gt=after.id), **{f"{time}__lte": after.at})


def _window(
    conditions: Mapping[str, str],
    time: str,
    after: Cursor | None,
    since: datetime.datetime | None,
    size: int,
) -> datetime.datetime | None:
    """The time back to which a page looks; None where that is as far as the list goes.

    Of the conditions, the one whose newest `size` runs reach back furthest is the best: it leads past fewest others.
    """
    names = [name for name in conditions if _INDEXED[name] == time] or [""]
    furthest: datetime.datetime | None = None
    for name in names:
        runs = Run.objects.filter(**{name: conditions[name]} if name else {})
        if after is not None:
            runs = runs.filter(**{f"{time}__lte" if after.id else f"{time}__lt": after.at})
        if since is not None:
            runs = runs.filter(**{f"{time}__gte": since})
        if time == "started_at":
            runs = runs.filter(started_at__isnull=False)
        # The slice is a subquery, of which the index alone is read.
        found = runs.order_by(f"-{time}").values(time)[:size].aggregate(first=Min(time), count=Count(time))
        if found["count"] < size:
            return None
        furthest = found["first"] if furthest is None else min(furthest, found["first"])
    return furthest


def count_states(access: Access) -> dict[str, int]:
    """How many runs stand in each state that calls for a look, each up to MOST_COUNTED.

    Of one tenant's, or one person's, they are counted among the newest so many.
    """
    scope = access.scope
    if scope is None:
        return {}
    wanted = [state for state in State if state not in FINAL] + list(_BADLY)
    if scope:
        newest = Run.objects.filter(**scope).order_by("-created_at").values_list("state", flat=True)[:MOST_COUNTED]
        counts = Counter(newest)
        return {state: counts[state] for state in wanted}
    return {
        # The order is that of the index, so that no database reads the table instead.
        state: Run.objects.filter(state=state).order_by("-created_at").values("created_at")[:MOST_COUNTED].count()
        for state in wanted
    }


@dataclass(frozen=True)
class Related:
    """Other runs of a run's workflow; of a large one, any part.

    same_root, same_group: with the run itself. more: there are others of the root.
    """

    parent: Run | None = None
    original: Run | None = None
    retry: Run | None = None
    same_root: list[Run] = field(default_factory=list)
    same_group: list[Run] = field(default_factory=list)
    more: bool = False


def related(access: Access, run: Run, retry_id: str) -> Related:
    """Of what the person may see. retry_id: that the run's retry has, if there is one."""
    ids = [each for each in (run.parent_id, run.retry_of, retry_id) if each]
    by_id = {each.pk: each for each in visible_runs(access).filter(pk__in=ids).only(*LISTED)}
    same_root = _of_one(access, "root_id", run.root_id)
    same_group = _of_one(access, "group_id", run.group_id)
    return Related(
        parent=by_id.get(run.parent_id),
        original=by_id.get(run.retry_of),
        retry=by_id.get(retry_id),
        same_root=same_root[:_MOST_RELATED],
        same_group=same_group[:_MOST_RELATED],
        more=len(same_root) > _MOST_RELATED,
    )


def _of_one(access: Access, name: str, value: str) -> list[Run]:
    scope = access.scope
    if not value or scope is None:
        return []
    # As a range, and in the order of the index: for one value that is common, a database would rather read the table
    # until it has seen enough.
    runs = Run.objects.filter(**{f"{name}__gte": value, f"{name}__lte": value}).only(*LISTED).order_by(name)
    seen = [each for each in runs[: _MOST_RELATED + 1] if _is_in(scope, each)]
    return sorted(seen, key=lambda each: (each.created_at, each.pk))


def _is_in(scope: Mapping[str, str], run: Run) -> bool:
    return all(getattr(run, name) == value for name, value in scope.items())


def attempts(run: Run) -> list[Attempt]:
    """The newest that have ended, newest first."""
    return list(Attempt.objects.filter(run_id=run.pk).order_by("-number")[:_MOST_ATTEMPTS])


# Failures ------------------------------------------------------------------------------------------------------------


@dataclass
class Failure:
    """Runs that failed in the same way at the same place. error: of the newest."""

    fingerprint: str
    task: str
    runs: int
    first_at: datetime.datetime
    last_at: datetime.datetime
    newest_id: str
    error: str = ""


@dataclass(frozen=True)
class Failures:
    """most_looked_at: set where not all failures of the time were looked at."""

    groups: list[Failure]
    most_looked_at: int | None = None


def failures(access: Access, since: datetime.datetime, most: int = 100) -> Failures:
    """What failed and was created since then, by fingerprint, the commonest first."""
    scope = access.scope
    if scope is None:
        return Failures([])
    looked: list[QuerySet[Run]]
    if scope:
        looked = [Run.objects.filter(created_at__gte=since, **scope).order_by("-created_at")]
        size = FAILURES_WINDOW
    else:
        looked = [Run.objects.filter(state=state, created_at__gte=since).order_by("-created_at") for state in _BADLY]
        size = MOST_FAILURES
    groups: dict[str, Failure] = {}
    is_cut = False
    for runs in looked:
        rows = list(runs.values_list("id", "state", "fingerprint", "task", "created_at")[:size])
        is_cut = is_cut or len(rows) == size
        for run_id, state, fingerprint, task, at in rows:
            if state in _BADLY:
                _add(groups, run_id, fingerprint, task, at)
    chosen = sorted(groups.values(), key=lambda each: (-each.runs, each.fingerprint))[:most]
    errors = dict(Run.objects.filter(pk__in=[each.newest_id for each in chosen]).values_list("pk", "error"))
    for each in chosen:
        each.error = errors.get(each.newest_id, "")
    return Failures(chosen, size if is_cut else None)


def _add(groups: dict[str, Failure], run_id: str, fingerprint: str, task: str, at: datetime.datetime) -> None:
    group = groups.get(fingerprint)
    if group is None:
        groups[fingerprint] = Failure(fingerprint, task, 1, at, at, run_id)
        return
    group.runs += 1
    group.first_at = min(group.first_at, at)
    if at > group.last_at:
        group.last_at, group.newest_id = at, run_id


def failed_ids(access: Access, fingerprint: str, after: Cursor | None, most: int) -> tuple[list[str], Cursor | None]:
    """Of the next `most` runs with a fingerprint, newest first, those that failed and may be seen; where to go on."""
    scope = access.scope
    if scope is None:
        return [], None
    runs = _behind(Run.objects.filter(fingerprint=fingerprint), "created_at", after)
    rows = list(runs.only("id", "state", "created_at", "tenant", "requested_by").order_by("-created_at", "id")[:most])
    ids = [run.pk for run in rows if run.state in _BADLY and _is_in(scope, run)]
    return ids, Cursor(rows[-1].created_at, rows[-1].pk) if len(rows) == most else None


# Queues and workers --------------------------------------------------------------------------------------------------

#: The curve of an hour has so many points, each of so long.
POINTS, POINT_MINUTES = 30, 2
_POINT = datetime.timedelta(minutes=POINT_MINUTES)
#: Runs that are looked at of each; of a busier time its beginning says how many there were.
_SAMPLED = 100
_SAMPLE_LASTS = datetime.timedelta(minutes=10)


def latest_samples(now: datetime.datetime) -> dict[str, QueueSample]:
    """The newest of each queue; none that is older than ten minutes, for that says nothing about now."""
    samples = QueueSample.objects.filter(at__gte=now - _SAMPLE_LASTS).order_by("at")
    return {sample.queue: sample for sample in samples[:10_000]}


def throughput(now: datetime.datetime) -> dict[str, list[float]]:
    """Runs that ended, a minute, over the last hour, oldest first, by queue.

    One number for each two minutes that are over; where more than a hundred ended in them, about.
    """
    last = now.replace(minute=now.minute - now.minute % POINT_MINUTES, second=0, microsecond=0) - _POINT
    times = [last - age * _POINT for age in range(POINTS - 1, -1, -1)]
    keys = {time: f"console:throughput:{time.isoformat()}" for time in times}
    known = cache.get_many(list(keys.values()))
    found: dict[str, list[float]] = {}
    for place, time in enumerate(times):
        rates = known.get(keys[time])
        if rates is None:
            rates = _rates(time)
            # What is committed late is still to come for a while.
            if time < last:
                cache.set(keys[time], rates, timeout=7200)
        for queue, rate in rates.items():
            found.setdefault(queue, [0.0] * POINTS)[place] = rate
    return found


def _rates(begin: datetime.datetime) -> dict[str, float]:
    ended = Run.objects.filter(state__in=sorted(FINAL), finished_at__gte=begin, finished_at__lt=begin + _POINT)
    # No worker ever had those.
    ended = ended.exclude(state=State.SKIPPED)
    rows = list(ended.order_by("finished_at").values_list("queue", "finished_at")[:_SAMPLED])
    minutes = float(POINT_MINUTES)
    last_at = rows[-1][1] if len(rows) == _SAMPLED else None
    if last_at is not None:
        minutes = max((last_at - begin).total_seconds() / 60, 0.001)
    return {queue: count / minutes for queue, count in Counter(queue for queue, _ in rows).items()}


def pauses() -> list[Pause]:
    return list(Pause.objects.order_by("key")[:_MOST_QUEUE_PAUSES])


def workers() -> list[Worker]:
    """Those that were seen last, first."""
    return list(Worker.objects.order_by("-seen_at")[:_MOST_WORKERS])


# Audit and tokens ----------------------------------------------------------------------------------------------------


def audit_entries(equal: Mapping[str, str], before: int | None = None, most: int = PAGE) -> list[AuditEntry]:
    """Newest first. equal: actor, action or target. before: entries with a lower number only."""
    entries = AuditEntry.objects.filter(**equal)
    if before is not None:
        entries = entries.filter(id__lt=before)
    return list(entries.order_by("-id")[:most])


def tokens(owner_id: int) -> Sequence[ApiToken]:
    return list(ApiToken.objects.filter(owner_id=owner_id).order_by("-id")[:100])
