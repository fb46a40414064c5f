"""The ledger's part of the minute's housekeeping. Safe to repeat and to run twice at once; each round is bounded."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.db.models import Q
from django.utils.module_loading import import_string

from django_app.ledger import (
    claims,
    figures,
    fleet,
    metrics,
    parking,
    retention,
    samples,
    services,
    uniqueness,
    watching,
)
from django_app.ledger.metrics import Metric
from django_app.ledger.models import QueueSample, Run
from django_app.ledger.samples import Stats
from django_app.ledger.schedules import admission, due
from django_app.ledger.states import State
from tasks.topology import LONGEST_RETENTION_DAYS, TOPOLOGY

log = structlog.get_logger(__name__)

#: What one round does at most, of each kind.
_MOST_PUBLISHED = 5000
_MOST_FORGOTTEN = 5000
_MOST_LOST = 500
_MOST_RELEASED = 500
_MOST_ORPHANS = 200
_MOST_SCHEDULES = 2000
_AT_ONCE = 500
#: SQS deletes a message some time after its retention is over.
_ORPHAN_MARGIN = datetime.timedelta(hours=1)
_AWAY = (OperationalError, InterfaceError)


@dataclass
class Done:
    """What one round did. steps_skipped: for want of time; the next round begins with the same first ones."""

    runs_published: int = 0
    runs_released: int = 0
    attempts_lost: int = 0
    workers_lost: int = 0
    runs_orphaned: int = 0
    due_times_caught_up: int = 0
    due_times_skipped: int = 0
    schedules_synchronised: int = 0
    runs_forgotten: int = 0
    others_forgotten: int = 0
    steps_failed: int = 0
    steps_skipped: int = 0


@dataclass
class _Round:
    """One round under way. ends_at: a time.monotonic()."""

    now: datetime.datetime
    ends_at: float
    done: Done = field(default_factory=Done)

    def is_over(self) -> bool:
        return time.monotonic() >= self.ends_at

    def seconds_left(self) -> float:
        return max(0.0, self.ends_at - time.monotonic())


def run(now: datetime.datetime, budget_seconds: float | None = None) -> Done:
    """One round. budget_seconds: no step begins after that; default: settings.HOUSEKEEPING_SECONDS.

    A step that fails is logged and stops no other. Raises what the database raises if two on end fail by its absence.
    """
    budget = settings.HOUSEKEEPING_SECONDS if budget_seconds is None else budget_seconds
    began = time.monotonic()
    this = _Round(now, began + budget)
    is_away = False
    for step in _STEPS:
        if this.is_over():
            this.done.steps_skipped += 1
            continue
        try:
            step(this)
        except Exception as error:
            was_away, is_away = is_away, isinstance(error, _AWAY)
            if was_away and is_away:
                raise
            this.done.steps_failed += 1
            log.exception("housekeeping_step_failed", step=step.__name__.strip("_"))
            connection.close_if_unusable_or_obsolete()
        else:
            is_away = False
    _tell(this, time.monotonic() - began)
    return this.done


def _publisher() -> Callable[[Sequence[Run]], int]:
    publish: Callable[[Sequence[Run]], int] = import_string(settings.RUN_PUBLISHER)
    return publish


def _publish(this: _Round) -> None:
    """Publish what is pending and due, and was left behind."""
    publish = _publisher()
    while this.done.runs_published < _MOST_PUBLISHED and not this.is_over():
        claimed = services.claim_unpublished(this.now, _AT_ONCE)
        published = publish(claimed) if claimed else 0
        this.done.runs_published += published
        # What SQS did not take stays claimed for a minute: the next round tries again.
        if len(claimed) < _AT_ONCE or not published:
            break


def _lose_overdue(this: _Round) -> None:
    """Mark attempts and workers as lost whose lease is over.

    Not right after an outage of the database, or of the housekeeping: workers renew their leases first.
    """
    if not samples.were_taken_before(this.now):
        return
    this.done.attempts_lost = len(claims.lose_overdue(_MOST_LOST, TOPOLOGY.lease_seconds))
    this.done.workers_lost = len(fleet.lose_overdue(_MOST_LOST))


def _release_waiting(this: _Round) -> None:
    """Publish what waited and need not wait any longer."""
    released = [*parking.release_due(_MOST_RELEASED), *admission.release_left_behind(_MOST_RELEASED)]
    this.done.runs_released = len(released)
    if released:
        _publisher()(released)


def _account_for_due_times(this: _Round) -> None:
    """See to it that each due time of each schedule has a run."""
    for name in due.unaccounted(this.now, _MOST_SCHEDULES):
        if this.is_over():
            return
        accounted = due.account(name, this.now)
        this.done.due_times_caught_up += accounted.caught_up
        this.done.due_times_skipped += accounted.skipped


def _synchronise_schedules(this: _Round) -> None:
    """Tell EventBridge what it does not know yet."""
    repair: Callable[[datetime.datetime, float], int] = import_string(settings.SCHEDULE_REPAIRER)
    this.done.schedules_synchronised = repair(this.now, this.seconds_left())


def _tell_watchers(this: _Round) -> None:
    """Tell whoever watches the console of what others owed them."""
    watching.tell_what_is_owed()


def _sample(this: _Round) -> None:
    """Note what the queues hold."""
    if samples.is_taken(this.now):
        return
    rows = samples.sample(this.now, _ask())
    for row in rows:
        _tell_queue(this.now, row)


def _ask() -> Mapping[str, Stats]:
    try:
        stats: Callable[[], Mapping[str, Stats]] = import_string(settings.QUEUE_STATS)
        return stats()
    except Exception:
        # The ledger's half of a sample is true all the same.
        log.exception("queues_not_asked")
        return {queue: Stats() for queue in TOPOLOGY.queues}


def _end_orphans(this: _Round) -> None:
    """End runs whose messages SQS no longer has."""
    end: Callable[[Run, str], None] = import_string(settings.RUN_ENDER)
    for run in _orphans(this.now):
        if this.is_over():
            return
        try:
            end(run, _why_orphaned(run))
        except _AWAY:
            raise
        except Exception:
            log.exception("orphan_not_ended", task=run.task, task_id=run.pk)
        else:
            this.done.runs_orphaned += 1


def _orphans(now: datetime.datetime) -> Iterable[Run]:
    """Runs that nobody has begun, or that were lost, and that were published longer ago than SQS keeps a message."""
    kept = {queue.name: queue.retention_days for queue in TOPOLOGY.queues.values()}
    expired = ~Q(queue__in=kept) & Q(published_at__lt=now - _kept_for(LONGEST_RETENTION_DAYS))
    for queue, days in kept.items():
        expired |= Q(queue=queue, published_at__lt=now - _kept_for(days))
    first = now - _kept_for(min(kept.values()))
    # A run that waits for a rate waits in SQS; all others that wait have no message.
    in_sqs = {State.QUEUED: Q(), State.LOST: Q(), State.WAITING: Q(parked_for=parking.RATE)}
    for state, condition in in_sqs.items():
        old = Run.objects.filter(expired, condition, state=state, created_at__lt=first)
        yield from old.order_by("created_at")[:_MOST_ORPHANS]


def _kept_for(days: int) -> datetime.timedelta:
    return datetime.timedelta(days=days) + _ORPHAN_MARGIN


def _why_orphaned(run: Run) -> str:
    queue = TOPOLOGY.queues.get(run.queue)
    days = queue.retention_days if queue is not None else LONGEST_RETENTION_DAYS
    return (
        f'nobody took its message from queue "{run.queue}" in the {days} days that SQS keeps it. '
        "See to it that a worker consumes the queue, then run it again."
    )


def _forget_runs(this: _Round) -> None:
    before = this.now - datetime.timedelta(days=settings.RUN_RETENTION_DAYS)
    this.done.runs_forgotten = _in_batches(this, partial(services.forget, before))


def _forget_others(this: _Round) -> None:
    before = this.now - datetime.timedelta(days=settings.RUN_RETENTION_DAYS)
    for forget in (
        partial(samples.forget, before),
        partial(retention.forget_marks, before),
        partial(retention.forget_chords, before),
        partial(retention.forget_groups, before),
        partial(uniqueness.forget, before),
        partial(fleet.forget, before),
        partial(fleet.forget_commands, this.now),
    ):
        this.done.others_forgotten += _in_batches(this, forget)


def _in_batches(this: _Round, forget: Callable[[int], int]) -> int:
    """Call it until nothing is left, or the round has done enough. forget: how many at most -> how many."""
    forgotten = 0
    while forgotten < _MOST_FORGOTTEN and not this.is_over():
        batch = forget(_AT_ONCE)
        forgotten += batch
        if batch < _AT_ONCE:
            break
    return forgotten


_STEPS = (
    _publish,
    _lose_overdue,
    _release_waiting,
    _sample,
    _account_for_due_times,
    _synchronise_schedules,
    _end_orphans,
    _tell_watchers,
    _forget_others,
    _forget_runs,
)


# Metrics -------------------------------------------------------------------------------------------------------------


def _tell_queue(now: datetime.datetime, row: QueueSample) -> None:
    counted = {"Backlog": row.depth, "InFlight": row.in_flight, "Delayed": row.delayed, "DeadLetters": row.dead}
    told = [Metric(name, count) for name, count in counted.items() if count is not None]
    if row.oldest_age_seconds is not None:
        told.append(Metric("OldestAge", row.oldest_age_seconds, "Seconds"))
    if told:
        metrics.emit(_milliseconds(now), {"Queue": row.queue}, told)


def _tell(this: _Round, seconds: float) -> None:
    if not metrics.is_on():
        return
    told = [
        Metric("HousekeepingRounds", 1),
        Metric("HousekeepingTime", seconds, "Seconds"),
        Metric("HousekeepingFailures", this.done.steps_failed),
        Metric("PublishLag", figures.publish_lag_seconds(this.now), "Seconds"),
        Metric("AttemptsLost", this.done.attempts_lost),
        Metric("RunsOrphaned", this.done.runs_orphaned),
    ]
    metrics.emit(_milliseconds(this.now), {}, told)


def _milliseconds(now: datetime.datetime) -> int:
    return int(now.timestamp() * 1000)
