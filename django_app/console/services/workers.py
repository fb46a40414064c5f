"""Stopping workers."""

from __future__ import annotations

from celery import current_app
from django.utils import timezone

from django_app.console import audit
from django_app.console.errors import NotVisibleError, RefusalError
from django_app.console.services.acting import Actor, Done
from django_app.ledger import fleet
from django_app.ledger.models import Worker


def stop(actor: Actor, name: str) -> Done:
    """Have a worker take nothing more, finish what it is at, hand the rest back and end. Where it is one of a service
    of containers, another one takes its place.
    """
    worker = Worker.objects.select_for_update().filter(pk=name).first()
    if worker is None:
        raise NotVisibleError
    if worker.state in (fleet.STOPPED, fleet.LOST):
        raise RefusalError("worker", name, f"it is {worker.state}", "There is nothing to stop.")
    if worker.state == fleet.RUNNING and worker.lease_until < timezone.now():
        raise RefusalError(
            "worker",
            name,
            f"nothing was heard of it since {worker.seen_at:%Y-%m-%d %H:%M:%S} UTC",
            "It is likely gone, and its runs are taken over.",
        )
    entry = audit.last("stop-worker", f"worker {name}", since=worker.started_at)
    if entry is not None or worker.state == fleet.DRAINING:
        raise RefusalError(
            "worker", name, f"it was already told to stop{audit.told(entry)}", "Wait until it has finished its work."
        )
    current_app.control.shutdown(destination=[name])
    return Done(f"Worker {name} is told to finish its work and to end.", {"busy": worker.busy})
