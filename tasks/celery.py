"""The Celery app: `celery -A tasks worker`, `from tasks.celery import app`.

Settings come from Django and the topology. Every module of this package, and every installed app's tasks.py, is
registered: a new file is found without being listed anywhere.
"""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_app.settings")

from celery import Celery
from celery.signals import setup_logging
from django.conf import settings
from kombu import Queue as KombuQueue

import tasks
from serverless import aws
from serverless.broker import BatchPublishing
from tasks.runtime.control import ControlStep
from tasks.runtime.logs import WorkerLogStep
from tasks.runtime.requests import RequestStep, UnknownTaskStep
from tasks.runtime.steward.bootstep import StewardStep
from tasks.runtime.tracing import ClaimStep
from tasks.topology import TOPOLOGY

#: Which task goes to which queue; the first pattern that fits counts, all others go to the default queue.
TASK_ROUTES = [
    ("tasks.datasets.delete_objects", {"queue": "low"}),
    ("tasks.datasets.*", {"queue": "datasets"}),
]

_NOT_TASKS = {"celery", "topology", "runtime"}


def task_modules() -> list[str]:
    """This package's modules that hold tasks."""
    return [f"tasks.{module.name}" for module in pkgutil.iter_modules(tasks.__path__) if module.name not in _NOT_TASKS]


def broker_transport_options() -> dict[str, Any]:
    """Queues are named in advance, so that no List, Create or GetQueueAttributes permission is needed."""
    return {
        "region": aws.region(),
        "predefined_queues": {
            queue.name: {
                "url": f"{settings.QUEUE_URL_PREFIX}{queue.name}",
                "prefetch": queue.prefetch,
                "level": TOPOLOGY.level(queue),
                "dead_letter_url": f"{settings.QUEUE_URL_PREFIX}{queue.dead_letter_name}",
                "max_receives": TOPOLOGY.max_receives,
                "retention_days": queue.retention_days,
            }
            for queue in TOPOLOGY.queues.values()
        },
        "wait_time_seconds": settings.QUEUE_WAIT_SECONDS,
        "lease_seconds": TOPOLOGY.lease_seconds,
        "lease_hook": "tasks.runtime.steward:renew",
        "dead_letter_hook": "tasks.runtime.requests:tell_dead",
        "claim_check": {"bucket": settings.FILES_BUCKET},
        "liveness_file": settings.LIVENESS_FILE or None,
    }


class App(BatchPublishing, Celery):
    """Celery, with `group` and `bulk` recording in one insert and sending ten messages to a request."""

    @contextmanager
    def batching_producer(self, acquired: AbstractContextManager[Any]) -> Iterator[Any]:
        # tasks.runtime.recording needs Django's models, which are not there yet when this module is imported.
        from tasks.runtime import recording

        with recording.gathering(), super().batching_producer(acquired) as producer:
            yield producer

    def send_task(self, name: str, *args: Any, **options: Any) -> Any:
        """Celery's own, with unique_key and unique_for, see tasks.runtime.unique."""
        key, seconds = options.pop("unique_key", None), options.pop("unique_for", None)
        if key is None and seconds is None:
            return super().send_task(name, *args, **options)
        from tasks.runtime import unique

        unique.check(name, key, seconds, options)

        def deliver(task_id: str, full_key: str) -> Any:
            return super(App, self).send_task(name, *args, **options, task_id=task_id, unique_key=full_key)

        return unique.send(self, name, key, seconds, options.pop("task_id", None), deliver)


app = App(
    "cloudqueue",
    amqp="tasks.runtime.routing:AMQP",
    task_cls="tasks.runtime.task:RunTask",
    control="tasks.runtime.control:Control",
    set_as_current=False,
)
app.conf.update(
    broker_url=settings.BROKER_URL,
    broker_connection_retry_on_startup=True,
    result_backend=settings.RESULT_BACKEND,
    # JSON only: a message can never run code when it is read.
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    task_queues=[KombuQueue(name, routing_key=name) for name in TOPOLOGY.queues],
    task_routes=(TASK_ROUTES,),
    task_default_queue=TOPOLOGY.default_queue,
    task_default_exchange="",
    task_create_missing_queues=False,
    # A message is acknowledged when its work is done, so a dead worker's work is done by another.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_send_sent_event=False,
    worker_send_task_events=False,
    # By way of the database, see tasks.runtime.control: SQS has no broadcast.
    worker_enable_remote_control=True,
    # Else Celery closes the database connection before and after each task; tasks.runtime.tracing sees to old ones.
    CELERY_DB_REUSE_MAX=1_000_000,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    timezone=settings.CELERY_TIMEZONE,
    beat_schedule=settings.CELERY_BEAT_SCHEDULE,
    imports=task_modules(),
)
if settings.BROKER_URL.startswith("sqs:"):
    app.conf.update(
        broker_transport="serverless.broker:Transport",
        broker_transport_options=broker_transport_options(),
        # Slots are child processes; how many messages each holds stands in the topology, by queue.
        worker_prefetch_multiplier=1,
    )
app.autodiscover_tasks()
app.steps["worker"].update((WorkerLogStep, RequestStep, StewardStep))
app.steps["consumer"].update((ClaimStep, ControlStep, UnknownTaskStep))


@setup_logging.connect
def _keep_djangos_logging(**_: Any) -> None:
    """Celery would replace the handlers that settings.py sets up; connecting here is how it is told not to."""
