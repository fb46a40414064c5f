"""Subject "workers": pools with work and nobody at it, workers that were lost, and those of another release."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterator

from django.db.models import Q

from django_app.doctor.findings import Finding, error, warning
from django_app.doctor.subjects import Examination, names, span, stack
from django_app.ledger import figures
from django_app.ledger.fleet import DRAINING, LOST, RUNNING
from django_app.ledger.models import Worker
from tasks.topology import TOPOLOGY, Topology

#: Until a container of a pool that had none has started, and taken its first message.
_STARTS_WITHIN = datetime.timedelta(minutes=3)
_LOST_SINCE = datetime.timedelta(hours=1)
_MOST_ROWS = 500


def examine(this: Examination, topology: Topology = TOPOLOGY) -> Iterator[Finding]:
    """D130, D131, D132."""
    alive = Q(state__in=(RUNNING, DRAINING), lease_until__gte=this.now)
    at_work = list(Worker.objects.filter(alive).order_by("name")[:_MOST_ROWS])
    this.tell(f"{len(at_work)} at work")
    yield from _idle_pools(this, topology, {worker.pool for worker in at_work if worker.state == RUNNING})
    yield from _lost(this)
    yield from _other_releases([worker for worker in at_work if worker.state == RUNNING])


def _idle_pools(this: Examination, topology: Topology, manned: set[str]) -> Iterator[Finding]:
    ages = figures.oldest_ages(topology.queues, this.now)
    for pool in topology.pools.values():
        waits = {queue.name: ages[queue.name] for queue in topology.queues_of_pool(pool.name)}
        longest = max(waits, key=lambda name: waits[name])
        # A worker that was started by hand may consume any queue, and belongs to no pool.
        if waits[longest] <= _STARTS_WITHIN.total_seconds() or manned & {pool.name, ""}:
            continue
        yield error(
            "D130",
            f'pool "{pool.name}"',
            f'no worker, and queue "{longest}" has work since {span(waits[longest])}',
            f"work wakes a pool within {span(_STARTS_WITHIN.total_seconds())}",
            f"python manage.py housekeeping; then the events of the service: aws ecs describe-services "
            f"--cluster {stack()} --services {pool.name} (on a laptop: make up)",
        )


def _lost(this: Examination) -> Iterator[Finding]:
    over = Q(state=LOST) | Q(state__in=(RUNNING, DRAINING), lease_until__lt=this.now)
    lost = Worker.objects.filter(over, seen_at__gt=this.now - _LOST_SINCE).order_by("name")
    found = list(lost.values_list("name", "pool")[:_MOST_ROWS])
    if found:
        yield warning(
            "D131",
            f"workers {names(name for name, _ in found)}",
            f"{len(found)} not heard of again within the last hour",
            "a worker that ends says so; one that is killed, or out of memory, cannot",
            f"aws logs tail /{stack()}/workers/{found[0][1] or 'POOL'} --since 1h (on a laptop: what make up prints)",
        )


def _other_releases(at_work: list[Worker]) -> Iterator[Finding]:
    """By the youngest worker's release: the web side's is named after its package, and so is another."""
    youngest = max(at_work, key=lambda worker: worker.started_at, default=None)
    wanted = youngest.release if youngest else ""
    others: dict[str, list[str]] = defaultdict(list)
    for worker in at_work:
        if wanted and worker.release != wanted:
            others[worker.release or "none"].append(worker.name)
    for release, found in sorted(others.items()):
        yield warning(
            "D132",
            f"workers {names(found)}",
            f'release "{release}"',
            f'release "{wanted}", as the youngest worker has; a deploy replaces workers as their work is done',
            "wait for the deploy to end; if there is none: make deploy",
        )
